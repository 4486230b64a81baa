//! The response object, in each provider's layout.

use serde_json::{Value, json};

use super::ask::Ask;
use super::content::{self, Item, REASONING_TOKENS};
use super::directive::End;
use super::fault::Fault;
use super::ids::Ids;
use super::json::Json;
use super::personality::{Layout, Personality};

/// invented: what every image costs in input tokens; the original's price of a small one.
const IMAGE_TOKENS: usize = 85;

/// When the response object is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// At the start of a stream: no output, no usage.
    Begun,
    /// At its end, or as the whole answer.
    Ended,
}

/// Everything that is said in answer to one request.
pub(super) struct Answer {
    pub(super) personality: Personality,
    pub(super) ask: Ask,
    pub(super) items: Vec<Item>,
    /// The real name of the model, as the answer says it.
    pub(super) model: String,
    layout: &'static Layout,
    id: String,
    created: u64,
}

impl Answer {
    /// Decides the whole answer.
    pub(super) fn new(personality: Personality, ask: Ask, ids: &mut Ids) -> Result<Self, Fault> {
        let Some(model) = personality.answers_as(&ask.model, ask.stream) else {
            let message = format!("There is no model `{}`.", ask.model);
            return Err(Fault::request(Some("model_not_found"), Some("model"), message));
        };
        if ask.sealed.iter().any(|sealed| !content::is_sealed_by(personality, sealed)) {
            let message = "The encrypted content was not made here.";
            return Err(Fault::request(Some("invalid_encrypted_content"), Some("input"), message));
        }
        let id = ids.next("resp_");
        let items = content::items(personality, &ask, ids);
        let layout = personality.layout(&ask.model);
        Ok(Self { personality, ask, items, model, layout, id, created: ids.created })
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
            "status" => "in_progress".into(),
            "model" => self.model.as_str().into(),
            "output" if ended => Json::Array(self.items.iter().map(|item| self.item(item, Stage::Ended)).collect()),
            "output" => Json::Array(Vec::new()),
            "usage" if ended && !matches!(self.ask.directive.end, End::Failed(_)) => self.usage(),
            "error" => match &self.ask.directive.end {
                End::Failed(code) if ended => json!({"code": code, "message": "Simulated failure."}).into(),
                _ => Json::NULL,
            },
            "incomplete_details" => match &self.ask.directive.end {
                End::Incomplete(reason) if ended => json!({ "reason": reason }).into(),
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
            "conversation" => match self.ask.field("conversation") {
                Some(Value::String(id)) => json!({ "id": id }).into(),
                other => other.cloned().unwrap_or_default().into(),
            },
            "billing" => json!({"payer": "developer"}).into(),
            // What no request can set.
            "usage" | "content_filters" => Json::NULL,
            _ => self.ask.field(key).cloned().unwrap_or_else(|| self.default(key, stage)).into(),
        }
    }

    /// What an echoed field says when the request does not set it.
    fn default(&self, key: &str, stage: Stage) -> Value {
        match key {
            "background" => false.into(),
            "parallel_tool_calls" | "store" => true.into(),
            // The page's plain answer has whole numbers, its stream has `1.0`.
            "temperature" | "top_p" if self.personality == Personality::Acedata && !self.ask.stream => 1.into(),
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
            End::Failed(_) => "failed",
            End::Incomplete(_) => "incomplete",
            _ => "completed",
        }
    }

    /// One item of the output, empty at first or whole at the end.
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
                // In a stream the megabytes stand in one event only.
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
            Item::Message { id, text } => Json::ordered(self.layout.message, |key| match key {
                "id" => id.as_str().into(),
                "type" => "message".into(),
                "status" if ended && matches!(self.ask.directive.end, End::Incomplete(_)) => "incomplete".into(),
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

    /// Four characters are a token, rounded up; see docs/simulator.md.
    fn usage(&self) -> Json {
        let tokens = |characters: usize| characters.div_ceil(4);
        let input = tokens(self.ask.characters) + IMAGE_TOKENS * self.ask.images.len();
        let cached = self.ask.directive.cached.unwrap_or(0).min(input as u64);
        let (mut reasoning, mut characters) = (0, 0);
        for item in &self.items {
            match item {
                Item::Reasoning { .. } => reasoning += REASONING_TOKENS,
                Item::Call { arguments: text, .. } | Item::Message { text, .. } => characters += text.chars().count(),
                Item::Image { .. } => {}
            }
        }
        let output = tokens(characters) + reasoning;
        Json::ordered(self.layout.usage, |key| match key {
            "input_tokens" => input.into(),
            "input_tokens_details" => json!({ "cached_tokens": cached }).into(),
            "output_tokens" => output.into(),
            "output_tokens_details" => json!({ "reasoning_tokens": reasoning }).into(),
            _ => (input + output).into(),
        })
    }
}

/// A part of a reasoning summary.
pub(super) fn summary_part(text: Json) -> Json {
    Json::Object(vec![("type", "summary_text".into()), ("text", text)])
}
