//! The Responses API: what is made, and what is kept of it.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::mem;
use std::sync::Arc;

use http::{HeaderValue, Response};
use serde_json::{Value, json};

use super::answer::{self, Answer, Stage};
use super::ask::{self, Ask};
use super::body::Body;
use super::call::Call;
use super::content::{Item, REASONING_TOKENS};
use super::fault::Fault;
use super::json::Json;
use super::list;
use super::resolve::resolve;
use super::stop::Stop;
use super::store::{Progress, Stored};
use super::stream::Frames;
use super::{head, input, seal};

/// At which look a response in the background is done, where no directive says: the first finds it under way.
const POLLS: u64 = 2;

/// `POST /responses`
pub(super) async fn create(mut call: Call) -> Result<Response<Body>, Stop> {
    let mut ask = begin(&call, Ask::parse(&call.body, call.query("simulate").as_deref())?).await?;
    resolve(&mut ask, &call.account, &call.shared.store())?;
    // An answer is kept for long, and needs only what these say.
    let (before, own) = (mem::take(&mut ask.memory.items), mem::take(&mut ask.items));
    let answer = Arc::new(Answer::new(call.account.clone(), ask, &mut call.ids)?);
    keep(&mut call, &answer, before, own);
    let model = HeaderValue::from_str(&answer.model);
    let mut response = if answer.ask.stream {
        head::stream(Body::stream(Frames::new(answer), call.shared.options.event_delay), &call.request_id)
    } else {
        let stage = if answer.ask.background { Stage::Queued } else { Stage::Ended };
        let bytes = answer.response(stage).write(call.account.personality.spaced());
        head::whole(bytes, &answer.ask.directive, &call.request_id)
    };
    // Names that are no header value are long gone: the model of a request that gets here begins with a known family.
    if let Ok(model) = model {
        response.headers_mut().insert("openai-model", model);
    }
    // Codex says what it is, and sends this back in the rest of a turn. invented: what it looks like.
    if call.parts.headers.contains_key("x-codex-window-id") {
        let state = seal::seal(&call.account, 0, "turn");
        if let Ok(state) = HeaderValue::from_str(&state) {
            response.headers_mut().insert("x-codex-turn-state", state);
        }
    }
    Ok(response)
}

/// Does what the directives want before there is an answer.
pub(super) async fn begin(call: &Call, mut ask: Ask) -> Result<Ask, Stop> {
    if let Some(times) = ask.directive.times {
        let mut look = DefaultHasher::new();
        (&call.account, call.parts.uri.path(), &ask.input.text, format!("{:?}", ask.directive)).hash(&mut look);
        if call.shared.store().strike(look.finish()) >= times {
            ask.directive = ask.directive.spent();
        }
    }
    call.obey(&ask.directive).await?;
    Ok(ask)
}

/// Keeps an answer whole from its first byte on: the simulator knows it all by then.
fn keep(call: &mut Call, answer: &Arc<Answer>, before: Vec<Arc<Value>>, own: Vec<Arc<Value>>) {
    let own: Vec<_> = own.into_iter().map(|item| input::kept(item, &mut call.ids)).collect();
    let output = answer.output();
    let fresh: Vec<_> = own.iter().chain(&output).cloned().collect();
    let mut store = call.shared.store();
    if let Some(conversation) = answer.ask.conversation() {
        store.extend_conversation(&call.account, conversation, &fresh);
    }
    if answer.ask.is_stored() {
        let polls = answer.ask.directive.polls.unwrap_or(POLLS);
        let progress = if answer.ask.background { Progress::Under(polls) } else { Progress::Done };
        let input = before.into_iter().chain(own).collect();
        let stored = Stored { answer: answer.clone(), input, output, progress };
        store.keep_response(&call.account, &answer.id, stored, &fresh);
    }
}

/// `GET /responses/{id}`, also as a stream from a number on.
pub(super) fn retrieve(call: &Call, id: &str) -> Result<Response<Body>, Stop> {
    let mut store = call.shared.store();
    let stored = store.response_mut(&call.account, id).ok_or_else(|| Fault::unknown("Response", id))?;
    if call.query("stream").as_deref() != Some("true") {
        let stage = stage(stored.look());
        return Ok(call.json(&stored.answer.response(stage)));
    }
    if !stored.answer.ask.stream || stored.progress == Progress::Cancelled {
        let message = "Only a response that was created with `stream` and was not cancelled can be streamed.";
        return Err(Fault::request(None, Some("stream"), message).into());
    }
    let mut frames = Frames::new(stored.answer.clone());
    if let Some(after) = call.query("starting_after") {
        let bad = |_| Fault::request(Some("invalid_type"), Some("starting_after"), "`starting_after` is no number.");
        frames = frames.after(after.parse().map_err(bad)?);
    }
    // Its end can be seen now.
    stored.progress = Progress::Done;
    Ok(head::stream(Body::resumed(frames, call.shared.options.event_delay), &call.request_id))
}

fn stage(progress: Progress) -> Stage {
    match progress {
        Progress::Done => Stage::Ended,
        Progress::Under(_) => Stage::Begun,
        Progress::Cancelled => Stage::Cancelled,
    }
}

/// `DELETE /responses/{id}`
pub(super) fn delete(call: &Call, id: &str) -> Result<Response<Body>, Stop> {
    let mut store = call.shared.store();
    // The same store keeps conversations, which have a call of their own.
    if store.response(&call.account, id).is_none() || !store.delete(&call.account, id) {
        return Err(Fault::unknown("Response", id).into());
    }
    Ok(call.json(&json!({"id": id, "object": "response", "deleted": true}).into()))
}

/// `POST /responses/{id}/cancel`
pub(super) fn cancel(call: &Call, id: &str) -> Result<Response<Body>, Stop> {
    let mut store = call.shared.store();
    let stored = store.response_mut(&call.account, id).ok_or_else(|| Fault::unknown("Response", id))?;
    if !stored.answer.ask.background {
        return Err(Fault::request(None, None, "Only a response in the background can be cancelled.").into());
    }
    if let Progress::Under(_) = stored.progress {
        stored.progress = Progress::Cancelled;
    }
    Ok(call.json(&stored.answer.response(stage(stored.progress))))
}

/// `GET /responses/{id}/input_items`
pub(super) fn input_items(call: &Call, id: &str) -> Result<Response<Body>, Stop> {
    let store = call.shared.store();
    let stored = store.response(&call.account, id).ok_or_else(|| Fault::unknown("Response", id))?;
    Ok(call.json(&list::page(&stored.input, call)?))
}

/// `POST /responses/input_tokens`
pub(super) async fn input_tokens(call: Call) -> Result<Response<Body>, Stop> {
    let mut body = ask::object(&call.body)?;
    // Here a model is optional.
    body.entry("model").or_insert_with(|| "gpt-4o".into());
    let mut ask = begin(&call, Ask::read(body, call.query("simulate").as_deref())?).await?;
    resolve(&mut ask, &call.account, &call.shared.store())?;
    let tokens = answer::input_tokens(&ask);
    Ok(call.json(&json!({"object": "response.input_tokens", "input_tokens": tokens}).into()))
}

/// `POST /responses/compact`: what the user said, and one sealed item for the rest.
pub(super) async fn compact(mut call: Call) -> Result<Response<Body>, Stop> {
    let mut ask = begin(&call, Ask::parse(&call.body, call.query("simulate").as_deref())?).await?;
    let personality = call.account.personality;
    if personality.answers_as(&ask.model, false).is_none() {
        return Err(Fault::no_model(&ask.model).into());
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
