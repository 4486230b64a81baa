//! The Responses API: creates responses and stores them.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::mem;
use std::sync::Arc;

use http::{HeaderValue, Response};
use serde_json::{Value, json};

use super::answer::{self, Answer, Stage};
use super::body::AnswerBody;
use super::call::Call;
use super::content::{Item, REASONING_TOKENS};
use super::fault::SimulatedError;
use super::json::Json;
use super::list;
use super::request::{self, ParsedRequest};
use super::resolve::resolve;
use super::stop::NoAnswer;
use super::store::{Progress, StoredResponse};
use super::stream::Frames;
use super::{head, input, seal};

/// The default number of polls after which a background response is done: the first poll finds it in progress.
const DEFAULT_POLLS: u64 = 2;

/// `POST /responses`
pub(super) async fn create(mut call: Call) -> Result<Response<AnswerBody>, NoAnswer> {
    let mut ask = begin(&call, ParsedRequest::parse(&call.body, call.query("simulate").as_deref())?).await?;
    resolve(&mut ask, &call.account, &call.shared.store())?;
    // An answer is stored for long and does not need these items.
    let (before, own) = (mem::take(&mut ask.memory.items), mem::take(&mut ask.items));
    let answer = Arc::new(Answer::new(call.account.clone(), ask, &mut call.ids)?);
    keep(&mut call, &answer, before, own);
    let model = HeaderValue::from_str(&answer.model);
    let mut response = if answer.ask.stream {
        head::stream(AnswerBody::stream(Frames::new(answer), call.shared.options.event_delay), &call.request_id)
    } else {
        let stage = if answer.ask.background { Stage::Queued } else { Stage::Ended };
        let bytes = answer.response(stage).write(call.account.personality.spaced());
        head::whole(bytes, &answer.ask.directive, &call.request_id)
    };
    // This always succeeds: the model of a request that gets here begins with a known family.
    if let Ok(model) = model {
        response.headers_mut().insert("openai-model", model);
    }
    // Codex identifies itself with this header, and sends the turn state back in later requests of the turn. invented:
    // the format of the state.
    if call.parts.headers.contains_key("x-codex-window-id") {
        let state = seal::seal(&call.account, 0, "turn");
        if let Ok(state) = HeaderValue::from_str(&state) {
            response.headers_mut().insert("x-codex-turn-state", state);
        }
    }
    Ok(response)
}

/// Resolves the request and applies the directives that come before an answer.
pub(super) async fn begin(call: &Call, mut ask: ParsedRequest) -> Result<ParsedRequest, NoAnswer> {
    if let Some(times) = ask.directive.times {
        let mut look = DefaultHasher::new();
        (&call.account, call.parts.uri.path(), &ask.input.text, format!("{:?}", ask.directive)).hash(&mut look);
        if call.shared.store().strike(look.finish()) >= times {
            ask.directive = ask.directive.without_faults();
        }
    }
    call.obey(&ask.directive).await?;
    Ok(ask)
}

/// Stores the whole answer at its first byte: the simulator knows all of it by then.
fn keep(call: &mut Call, answer: &Arc<Answer>, before: Vec<Arc<Value>>, own: Vec<Arc<Value>>) {
    let own: Vec<_> = own.into_iter().map(|item| input::kept(item, &mut call.ids)).collect();
    let output = answer.output();
    let fresh: Vec<_> = own.iter().chain(&output).cloned().collect();
    let mut store = call.shared.store();
    if let Some(conversation) = answer.ask.conversation() {
        store.extend_conversation(&call.account, conversation, &fresh);
    }
    if answer.ask.is_stored() {
        let polls = answer.ask.directive.polls.unwrap_or(DEFAULT_POLLS);
        let progress = if answer.ask.background { Progress::Running(polls) } else { Progress::Done };
        let input = before.into_iter().chain(own).collect();
        let stored = StoredResponse { answer: answer.clone(), input, output, progress };
        store.keep_response(&call.account, &answer.id, stored, &fresh);
    }
}

/// `GET /responses/{id}`, also as a stream that starts after an event number.
pub(super) fn retrieve(call: &Call, id: &str) -> Result<Response<AnswerBody>, NoAnswer> {
    let mut store = call.shared.store();
    let stored = store.response_mut(&call.account, id).ok_or_else(|| SimulatedError::unknown("Response", id))?;
    if call.query("stream").as_deref() != Some("true") {
        let stage = stage(stored.look());
        return Ok(call.json(&stored.answer.response(stage)));
    }
    if !stored.answer.ask.stream || stored.progress == Progress::Cancelled {
        let message = "Only a response that was created with `stream` and was not cancelled can be streamed.";
        return Err(SimulatedError::request(None, Some("stream"), message).into());
    }
    let mut frames = Frames::new(stored.answer.clone());
    if let Some(after) = call.query("starting_after") {
        let bad =
            |_| SimulatedError::request(Some("invalid_type"), Some("starting_after"), "`starting_after` is no number.");
        frames = frames.after(after.parse().map_err(bad)?);
    }
    // The client sees the end in this stream.
    stored.progress = Progress::Done;
    Ok(head::stream(AnswerBody::resumed(frames, call.shared.options.event_delay), &call.request_id))
}

fn stage(progress: Progress) -> Stage {
    match progress {
        Progress::Done => Stage::Ended,
        Progress::Running(_) => Stage::Begun,
        Progress::Cancelled => Stage::Cancelled,
    }
}

/// `DELETE /responses/{id}`
pub(super) fn delete(call: &Call, id: &str) -> Result<Response<AnswerBody>, NoAnswer> {
    let mut store = call.shared.store();
    // The same store holds conversations, which have another call.
    if store.response(&call.account, id).is_none() || !store.delete(&call.account, id) {
        return Err(SimulatedError::unknown("Response", id).into());
    }
    Ok(call.json(&json!({"id": id, "object": "response", "deleted": true}).into()))
}

/// `POST /responses/{id}/cancel`
pub(super) fn cancel(call: &Call, id: &str) -> Result<Response<AnswerBody>, NoAnswer> {
    let mut store = call.shared.store();
    let stored = store.response_mut(&call.account, id).ok_or_else(|| SimulatedError::unknown("Response", id))?;
    if !stored.answer.ask.background {
        return Err(SimulatedError::request(None, None, "Only a response in the background can be cancelled.").into());
    }
    if let Progress::Running(_) = stored.progress {
        stored.progress = Progress::Cancelled;
    }
    Ok(call.json(&stored.answer.response(stage(stored.progress))))
}

/// `GET /responses/{id}/input_items`
pub(super) fn input_items(call: &Call, id: &str) -> Result<Response<AnswerBody>, NoAnswer> {
    let store = call.shared.store();
    let stored = store.response(&call.account, id).ok_or_else(|| SimulatedError::unknown("Response", id))?;
    Ok(call.json(&list::page(&stored.input, call)?))
}

/// `POST /responses/input_tokens`
pub(super) async fn input_tokens(call: Call) -> Result<Response<AnswerBody>, NoAnswer> {
    let mut body = request::object(&call.body)?;
    // In this call the model is optional.
    body.entry("model").or_insert_with(|| "gpt-4o".into());
    let mut ask = begin(&call, ParsedRequest::read(body, call.query("simulate").as_deref())?).await?;
    resolve(&mut ask, &call.account, &call.shared.store())?;
    let tokens = answer::input_tokens(&ask);
    Ok(call.json(&json!({"object": "response.input_tokens", "input_tokens": tokens}).into()))
}

/// `POST /responses/compact`: returns the user's messages and one sealed item for everything else.
pub(super) async fn compact(mut call: Call) -> Result<Response<AnswerBody>, NoAnswer> {
    let mut ask = begin(&call, ParsedRequest::parse(&call.body, call.query("simulate").as_deref())?).await?;
    let personality = call.account.personality;
    if personality.answers_as(&ask.model, false).is_none() {
        return Err(SimulatedError::no_model(&ask.model).into());
    }
    resolve(&mut ask, &call.account, &call.shared.store())?;
    let said = ask.memory.items.iter().chain(&ask.items).filter(|item| is_user(item)).cloned().collect::<Vec<_>>();
    let said = said.into_iter().map(|item| Json::from((*input::kept(item, &mut call.ids)).clone()));
    let mut output: Vec<Json> = said.collect();
    if let Item::Compaction { id, encrypted } = Item::compaction(&call.account, ask.turn(), &mut call.ids) {
        output.push(json!({"id": id, "type": "compaction", "encrypted_content": encrypted}).into());
    }
    let input = answer::input_tokens(&ask);
    let usage = json!({
        "input_tokens": input, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": REASONING_TOKENS,
        "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": input + REASONING_TOKENS,
    });
    let compaction = Json::Object(vec![
        ("id", call.ids.next("resp_").into()),
        ("object", "response.compaction".into()),
        ("created_at", call.ids.created.into()),
        ("output", Json::Array(output)),
        ("usage", usage.into()),
    ]);
    Ok(head::whole(compaction.write(personality.spaced()), &ask.directive, &call.request_id))
}

fn is_user(item: &Value) -> bool {
    item.get("role").is_some_and(|role| role == "user")
}
