//! `POST /chat/completions`: the same answers as the Responses API, in the shapes of Chat Completions.

use std::collections::VecDeque;
use std::sync::Arc;

use http::Response;
use serde_json::{Map, Value, json};

use super::answer::Answer;
use super::body::AnswerBody;
use super::call::Call;
use super::content::Item;
use super::directive::StreamEnd;
use super::fault::SimulatedError;
use super::head;
use super::json::Json;
use super::request::{self, ParsedRequest};
use super::responses::begin;
use super::stop::NoAnswer;
use super::stream::{Frames, Step};

/// Answers a chat completion.
pub(super) async fn create(mut call: Call) -> Result<Response<AnswerBody>, NoAnswer> {
    let body = request::object(&call.body)?;
    let includes_usage = body.get("stream_options").and_then(|options| options.get("include_usage"));
    let includes_usage = includes_usage == Some(&Value::Bool(true));
    let ask = begin(&call, ParsedRequest::read(translate(body)?, call.query("simulate").as_deref())?).await?;
    let answer = Answer::new(call.account.clone(), ask, &mut call.ids);
    // Chat Completions answers 404 where the Responses API answers 400.
    let answer = answer.map_err(|fault| SimulatedError { status: http::StatusCode::NOT_FOUND, ..fault })?;
    if !answer.ask.stream {
        let bytes = completion(&answer).write(call.account.personality.spaced());
        return Ok(head::whole(bytes, &answer.ask.directive, &call.request_id));
    }
    let answer = Arc::new(answer);
    let steps = steps(&answer, includes_usage);
    let body = AnswerBody::stream(Frames::of(answer, steps), call.shared.options.event_delay);
    Ok(head::stream(body, &call.request_id))
}

/// Translates the request into one of the Responses API.
fn translate(mut body: Map<String, Value>) -> Result<Map<String, Value>, SimulatedError> {
    let bad = || SimulatedError::request(Some("invalid_type"), Some("messages"), "`messages` is no array of objects.");
    let Some(Value::Array(messages)) = body.remove("messages") else { return Err(bad()) };
    let mut input = Vec::new();
    for message in messages {
        let Value::Object(message) = message else { return Err(bad()) };
        let content = message.get("content").cloned().unwrap_or_default();
        input.push(match message.get("role").and_then(Value::as_str) {
            Some("tool") => json!({"type": "function_call_output", "output": content}),
            role => json!({"role": role, "content": parts(content)}),
        });
    }
    body.insert("input".into(), input.into());
    let tools = body.get("tools").and_then(Value::as_array).into_iter().flatten();
    let tools: Vec<Value> = tools.map(|tool| lift(tool, "function")).collect();
    body.insert("tools".into(), tools.into());
    if let Some(choice) = body.get("tool_choice").filter(|choice| choice.is_object()) {
        let choice = lift(choice, "function");
        body.insert("tool_choice".into(), choice);
    }
    if let Some(format) = body.remove("response_format") {
        body.insert("text".into(), json!({"format": lift(&format, "json_schema")}));
    }
    Ok(body)
}

/// Chat Completions nests these fields inside `inner`. The Responses API has them beside the type.
fn lift(value: &Value, inner: &str) -> Value {
    let mut flat = value.get(inner).and_then(Value::as_object).cloned().unwrap_or_default();
    flat.insert("type".into(), value.get("type").cloned().unwrap_or_default());
    flat.into()
}

/// In Chat Completions, `image_url` is an object, and the part has another name.
fn parts(content: Value) -> Value {
    let Value::Array(parts) = content else { return content };
    let newer = |part: Value| match part.get("image_url").and_then(|image| image.get("url")) {
        Some(url) => json!({"type": "input_image", "image_url": url}),
        None => part,
    };
    parts.into_iter().map(newer).collect()
}

fn envelope(answer: &Answer, object: &'static str, rest: Vec<(&'static str, Json)>) -> Json {
    let mut fields = vec![
        ("id", answer.id.replacen("resp_", "chatcmpl-", 1).into()),
        ("object", object.into()),
        ("created", answer.created.into()),
        ("model", answer.model.as_str().into()),
    ];
    fields.extend(rest);
    Json::Object(fields)
}

fn completion(answer: &Answer) -> Json {
    let (mut text, mut calls) = (Json::NULL, Vec::new());
    for item in &answer.items {
        match item {
            Item::Message { text: said, .. } => text = Json::Text(said.clone()),
            Item::Call { call_id, name, arguments, .. } => calls.push(json!({
                "id": call_id, "type": "function", "function": {"name": name, "arguments": &**arguments},
            })),
            Item::Reasoning { .. } | Item::Image { .. } | Item::Compaction { .. } => {}
        }
    }
    let mut message = vec![("role", "assistant".into()), ("content", text), ("refusal", Json::NULL)];
    if !calls.is_empty() {
        message.push(("tool_calls", Value::from(calls).into()));
    }
    let choice = vec![
        ("index", 0.into()),
        ("message", Json::Object(message)),
        ("logprobs", Json::NULL),
        ("finish_reason", finish_reason(answer).into()),
    ];
    let choices = Json::Array(vec![Json::Object(choice)]);
    envelope(answer, "chat.completion", vec![("choices", choices), ("usage", usage(answer))])
}

fn finish_reason(answer: &Answer) -> &'static str {
    match answer.ask.directive.end {
        StreamEnd::Incomplete(_) => "length",
        _ if answer.items.iter().any(|item| matches!(item, Item::Call { .. })) => "tool_calls",
        _ => "stop",
    }
}

fn usage(answer: &Answer) -> Json {
    let tokens = answer.tokens();
    json!({
        "prompt_tokens": tokens.input, "completion_tokens": tokens.output,
        "total_tokens": tokens.input + tokens.output,
        "prompt_tokens_details": {"cached_tokens": tokens.cached},
        "completion_tokens_details": {"reasoning_tokens": tokens.reasoning},
    })
    .into()
}

fn chunk(answer: &Answer, delta: Value, finish_reason: Option<&str>) -> Json {
    let choice = json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish_reason});
    envelope(answer, "chat.completion.chunk", vec![("choices", Json::Array(vec![choice.into()]))])
}

/// The chunks of a stream: the role, pieces, the finish reason, the usage if requested, and `[DONE]`.
fn steps(answer: &Arc<Answer>, includes_usage: bool) -> VecDeque<Step> {
    let mut steps = VecDeque::new();
    let mut say = |data| steps.push_back(Step::Chunk(data));
    say(chunk(answer, json!({"role": "assistant", "content": "", "refusal": null}), None));
    let mut index = 0_usize;
    for item in &answer.items {
        match item {
            Item::Message { text, .. } if !text.is_empty() => {
                steps.push_back(Step::Chunks(
                    |answer, piece| chunk(answer, json!({ "content": piece }), None),
                    text.clone(),
                    0,
                ));
            }
            // invented: a function call comes in two chunks, one for its name and one for all its arguments.
            Item::Call { call_id, name, arguments, .. } => {
                let begun = json!({"index": index, "id": call_id, "type": "function",
                    "function": {"name": name, "arguments": ""}});
                let rest = json!({"index": index, "function": {"arguments": &**arguments}});
                for call in [begun, rest] {
                    steps.push_back(Step::Chunk(chunk(answer, json!({ "tool_calls": [call] }), None)));
                }
                index += 1;
            }
            _ => {}
        }
    }
    match &answer.ask.directive.end {
        StreamEnd::NoTerminal => return steps,
        StreamEnd::Failed(code) | StreamEnd::ErrorEvent(code) => {
            let error = json!({"message": "Simulated error.", "type": "server_error", "param": null, "code": code});
            steps.push_back(Step::Chunk(json!({ "error": error }).into()));
        }
        _ => {
            steps.push_back(Step::Chunk(chunk(answer, json!({}), Some(finish_reason(answer)))));
            if includes_usage {
                let fields = vec![("choices", Json::Array(Vec::new())), ("usage", usage(answer))];
                steps.push_back(Step::Chunk(envelope(answer, "chat.completion.chunk", fields)));
            }
        }
    }
    steps.push_back(Step::Done);
    steps
}
