//! The response object, in each provider's layout.

use std::sync::Arc;

use serde_json::{Value, json};

use super::account::ProviderAccount;
use super::content::{self, Item, REASONING_TOKENS};
use super::directive::StreamEnd;
use super::fault::SimulatedError;
use super::ids::Ids;
use super::json::Json;
use super::personality::{Layout, Personality};
use super::request::ParsedRequest;

/// invented: the input tokens of every image. The original API takes this many for a small one.
const IMAGE_TOKENS: usize = 85;

/// The moment at which the response object is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// At the start of a stream: no output, no usage.
    Begun,
    /// At the end of a stream, or as a plain answer.
    Ended,
    /// In the background, before the work begins.
    Queued,
    /// In the background, after the client cancelled it.
    Cancelled,
}

/// The complete answer to one request.
pub(super) struct Answer {
    pub(super) account: ProviderAccount,
    pub(super) ask: ParsedRequest,
    pub(super) items: Vec<Item>,
    /// The model's name as the answer shows it.
    pub(super) model: String,
    pub(super) id: String,
    pub(super) created: u64,
    layout: &'static Layout,
}

impl Answer {
    /// Computes the whole answer.
    pub(super) fn new(account: ProviderAccount, ask: ParsedRequest, ids: &mut Ids) -> Result<Self, SimulatedError> {
        let personality = account.personality;
        let Some(model) = personality.answers_as(&ask.model, ask.stream) else {
            return Err(SimulatedError::no_model(&ask.model));
        };
        let id = ids.next("resp_");
        let items = content::items(&account, &ask, ids);
        let layout = personality.layout(&ask.model);
        Ok(Self { account, ask, items, model, id, created: ids.created, layout })
    }

    /// The output items as they are stored.
    pub(super) fn output(&self) -> Vec<Arc<Value>> {
        let items = self.items.iter().map(|item| serde_json::to_value(self.item(item, Stage::Ended)));
        items.flatten().map(Arc::new).collect()
    }

    /// The approximate size in bytes.
    pub(super) fn size(&self) -> usize {
        let echoed: usize = self.ask.body.values().map(|value| value.to_string().len()).sum();
        let said = self.items.iter().map(|item| match item {
            Item::Image { result: text, .. } | Item::Call { arguments: text, .. } | Item::Message { text, .. } => {
                text.len()
            }
            Item::Reasoning { .. } | Item::Compaction { .. } => 0,
        });
        // A response has about a kilobyte besides its variable parts.
        1000 + echoed + said.sum::<usize>()
    }

    /// The response object.
    pub(super) fn response(&self, stage: Stage) -> Json {
        Json::ordered(self.layout.response, |key| self.field(key, stage))
    }

    fn field(&self, key: &str, stage: Stage) -> Json {
        let ended = stage == Stage::Ended;
        match key {
            "id" => self.id.as_str().into(),
            "object" => "response".into(),
            "created_at" if self.layout.float_time =>
            {
                #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are far below 2^52")]
                (self.created as f64).into()
            }
            "created_at" | "created" => self.created.into(),
            "status" if ended => self.ended_as().into(),
            "status" => match stage {
                Stage::Queued => "queued".into(),
                Stage::Cancelled => "cancelled".into(),
                _ => "in_progress".into(),
            },
            "model" => self.model.as_str().into(),
            "output" if ended => Json::Array(self.items.iter().map(|item| self.item(item, Stage::Ended)).collect()),
            "output" => Json::Array(Vec::new()),
            "usage" if ended && !matches!(self.ask.directive.end, StreamEnd::Failed(_)) => self.usage(),
            "error" => match &self.ask.directive.end {
                StreamEnd::Failed(code) if ended => json!({"code": code, "message": "Simulated failure."}).into(),
                _ => Json::NULL,
            },
            "incomplete_details" => match &self.ask.directive.end {
                StreamEnd::Incomplete(reason) if ended => json!({ "reason": reason }).into(),
                _ => Json::NULL,
            },
            "reasoning" => Json::ordered(self.layout.reasoning, |key| {
                let default = if key == "effort" { self.layout.effort.into() } else { Value::Null };
                self.inner("reasoning", key, default)
            }),
            "text" => Json::ordered(self.layout.text, |key| {
                let default = if key == "format" { json!({"type": "text"}) } else { "medium".into() };
                self.inner("text", key, default)
            }),
            "conversation" => self.ask.conversation().map_or(Json::NULL, |id| json!({ "id": id }).into()),
            "billing" => json!({"payer": "developer"}).into(),
            // Fields that no request can set.
            "usage" | "content_filters" => Json::NULL,
            _ => self.ask.field(key).cloned().unwrap_or_else(|| self.default(key, stage)).into(),
        }
    }

    /// The value of an echoed field that the request does not set.
    fn default(&self, key: &str, stage: Stage) -> Value {
        match key {
            "background" => false.into(),
            "parallel_tool_calls" | "store" => true.into(),
            // On the provider's page, the plain answer has whole numbers and the stream has `1.0`.
            "temperature" | "top_p" if self.account.personality == Personality::Acedata && !self.ask.stream => 1.into(),
            "temperature" => 1.0.into(),
            "top_p" => self.layout.top_p.into(),
            "top_logprobs" => 0.into(),
            "tools" => json!([]),
            "metadata" => json!({}),
            "tool_choice" => "auto".into(),
            "truncation" => "disabled".into(),
            "service_tier" if stage == Stage::Begun => "auto".into(),
            "service_tier" => "default".into(),
            _ => Value::Null,
        }
    }

    fn inner(&self, outer: &str, key: &str, default: Value) -> Json {
        let asked = self.ask.field(outer).and_then(|outer| outer.get(key)).filter(|value| !value.is_null());
        asked.cloned().unwrap_or(default).into()
    }

    fn ended_as(&self) -> &'static str {
        match self.ask.directive.end {
            StreamEnd::Failed(_) => "failed",
            StreamEnd::Incomplete(_) => "incomplete",
            _ => "completed",
        }
    }

    /// One output item: empty at the start of its stream, complete at the end.
    pub(super) fn item(&self, item: &Item, stage: Stage) -> Json {
        let ended = stage == Stage::Ended;
        let status = if ended { "completed" } else { "in_progress" };
        match item {
            Item::Reasoning { id, encrypted, summary } => {
                let mut fields = vec![("id", id.as_str().into()), ("type", "reasoning".into())];
                fields.extend(encrypted.as_ref().map(|sealed| ("encrypted_content", sealed.as_str().into())));
                let shown = summary.iter().filter(|_| ended).map(|text| summary_part(Json::Text(text.clone())));
                fields.push(("summary", Json::Array(shown.collect())));
                Json::Object(fields)
            }
            Item::Image { id, result } => Json::Object(vec![
                ("id", id.as_str().into()),
                ("type", "image_generation_call".into()),
                ("status", status.into()),
                // In a stream, the megabytes are in one event only.
                ("result", if ended && !self.ask.stream { Json::Text(result.clone()) } else { Json::NULL }),
            ]),
            Item::Call { id, call_id, name, arguments } => Json::Object(vec![
                ("id", id.as_str().into()),
                ("type", "function_call".into()),
                ("status", status.into()),
                ("arguments", if ended { Json::Text(arguments.clone()) } else { "".into() }),
                ("call_id", call_id.as_str().into()),
                ("name", name.as_str().into()),
            ]),
            Item::Compaction { id, encrypted } => Json::Object(vec![
                ("id", id.as_str().into()),
                ("type", "compaction".into()),
                ("encrypted_content", encrypted.as_str().into()),
            ]),
            Item::Message { id, text } => Json::ordered(self.layout.message, |key| match key {
                "id" => id.as_str().into(),
                "type" => "message".into(),
                "status" if ended && matches!(self.ask.directive.end, StreamEnd::Incomplete(_)) => "incomplete".into(),
                "status" => status.into(),
                "content" if ended => Json::Array(vec![self.part(Json::Text(text.clone()))]),
                "content" => Json::Array(Vec::new()),
                _ => "assistant".into(),
            }),
        }
    }

    /// The content part of a message.
    pub(super) fn part(&self, text: Json) -> Json {
        Json::ordered(self.layout.part, |key| match key {
            "type" => "output_text".into(),
            "text" => text.clone(),
            _ => Json::Array(Vec::new()),
        })
    }

    fn usage(&self) -> Json {
        let Tokens { input, cached, output, reasoning } = self.tokens();
        Json::ordered(self.layout.usage, |key| match key {
            "input_tokens" => input.into(),
            "input_tokens_details" => json!({ "cached_tokens": cached }).into(),
            "output_tokens" => output.into(),
            "output_tokens_details" => json!({ "reasoning_tokens": reasoning }).into(),
            _ => (input + output).into(),
        })
    }

    /// The usage of this answer.
    pub(super) fn tokens(&self) -> Tokens {
        let input = input_tokens(&self.ask);
        let cached = self.ask.directive.cached.unwrap_or(0).min(input as u64);
        let (mut reasoning, mut characters) = (0, 0);
        for item in &self.items {
            match item {
                Item::Reasoning { .. } | Item::Compaction { .. } => reasoning += REASONING_TOKENS,
                Item::Call { arguments: text, .. } | Item::Message { text, .. } => characters += text.chars().count(),
                Item::Image { .. } => {}
            }
        }
        Tokens { input, cached, output: tokens(characters) + reasoning, reasoning }
    }
}

/// The usage of an answer.
pub(super) struct Tokens {
    pub(super) input: usize,
    pub(super) cached: u64,
    pub(super) output: usize,
    pub(super) reasoning: usize,
}

/// The input tokens of a request, including the remembered context.
pub(super) fn input_tokens(ask: &ParsedRequest) -> usize {
    let (input, before) = (&ask.input, &ask.memory.input);
    tokens(input.characters + before.characters) + IMAGE_TOKENS * (input.images.len() + before.images.len())
}

/// Four characters count as one token, rounded up; see docs/simulator.md.
pub(super) fn tokens(characters: usize) -> usize {
    characters.div_ceil(4)
}

/// A part of a reasoning summary.
pub(super) fn summary_part(text: Json) -> Json {
    Json::Object(vec![("type", "summary_text".into()), ("text", text)])
}
