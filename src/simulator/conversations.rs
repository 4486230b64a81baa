//! Conversations and their items.

use std::sync::Arc;

use http::Response;
use serde_json::{Map, Value, json};

use super::body::AnswerBody;
use super::call::Call;
use super::fault::SimulatedError;
use super::input::{self, Input};
use super::json::Json;
use super::list;
use super::request;
use super::stop::NoAnswer;
use super::store::{Conversation, id_of};

/// `POST /conversations`
pub(super) fn create(mut call: Call) -> Result<Response<AnswerBody>, NoAnswer> {
    // The body is optional.
    let mut body = if call.body.is_empty() { Map::new() } else { request::object(&call.body)? };
    let items = items(&mut call, &mut body)?;
    let conversation = Conversation { created: call.ids.created, metadata: metadata(&mut body)?, items };
    let id = call.ids.next("conv_");
    let shown = show(&id, &conversation);
    call.shared.store().keep_conversation(&call.account, &id, conversation);
    Ok(call.json(&shown))
}

/// `GET /conversations/{id}`
pub(super) fn retrieve(call: &Call, id: &str) -> Result<Response<AnswerBody>, NoAnswer> {
    with(call, id, |conversation| Ok(show(id, conversation)))
}

/// `POST /conversations/{id}`
pub(super) fn update(call: &Call, id: &str) -> Result<Response<AnswerBody>, NoAnswer> {
    let metadata = metadata(&mut request::object(&call.body)?)?;
    let mut store = call.shared.store();
    let conversation = store.conversation_mut(&call.account, id).ok_or_else(|| unknown(id))?;
    conversation.metadata = metadata;
    Ok(call.json(&show(id, conversation)))
}

/// `DELETE /conversations/{id}`. invented: the conversation's items are deleted, too.
pub(super) fn delete(call: &Call, id: &str) -> Result<Response<AnswerBody>, NoAnswer> {
    let mut store = call.shared.store();
    if store.conversation(&call.account, id).is_none() || !store.delete(&call.account, id) {
        return Err(unknown(id).into());
    }
    Ok(call.json(&json!({"id": id, "object": "conversation.deleted", "deleted": true}).into()))
}

/// `POST /conversations/{id}/items`
pub(super) fn create_items(mut call: Call, id: &str) -> Result<Response<AnswerBody>, NoAnswer> {
    let mut body = request::object(&call.body)?;
    if !body.contains_key("items") {
        let code = Some("missing_required_parameter");
        return Err(SimulatedError::request(code, Some("items"), "There are no `items`.").into());
    }
    let items = items(&mut call, &mut body)?;
    let mut store = call.shared.store();
    store.conversation(&call.account, id).ok_or_else(|| unknown(id))?;
    store.extend_conversation(&call.account, id, &items);
    Ok(call.json(&list::whole(items.iter(), false)))
}

/// `GET /conversations/{id}/items`
pub(super) fn list_items(call: &Call, id: &str) -> Result<Response<AnswerBody>, NoAnswer> {
    with(call, id, |conversation| list::page(&conversation.items, call))
}

/// `GET /conversations/{id}/items/{item}`
pub(super) fn retrieve_item(call: &Call, id: &str, item: &str) -> Result<Response<AnswerBody>, NoAnswer> {
    with(call, id, |conversation| {
        let found = conversation.items.iter().find(|kept| id_of(kept) == Some(item));
        found.map(|kept| Json::from((**kept).clone())).ok_or_else(|| SimulatedError::unknown("Item", item))
    })
}

/// `DELETE /conversations/{id}/items/{item}`
pub(super) fn delete_item(call: &Call, id: &str, item: &str) -> Result<Response<AnswerBody>, NoAnswer> {
    let mut store = call.shared.store();
    store.conversation(&call.account, id).ok_or_else(|| unknown(id))?;
    if !store.delete_item(&call.account, id, item) {
        return Err(SimulatedError::unknown("Item", item).into());
    }
    drop(store);
    retrieve(call, id)
}

fn with(
    call: &Call,
    id: &str,
    show: impl FnOnce(&Conversation) -> Result<Json, SimulatedError>,
) -> Result<Response<AnswerBody>, NoAnswer> {
    let store = call.shared.store();
    let conversation = store.conversation(&call.account, id).ok_or_else(|| unknown(id))?;
    Ok(call.json(&show(conversation)?))
}

fn show(id: &str, conversation: &Conversation) -> Json {
    Json::Object(vec![
        ("id", id.into()),
        ("object", "conversation".into()),
        ("created_at", conversation.created.into()),
        ("metadata", Value::Object(conversation.metadata.clone()).into()),
    ])
}

fn unknown(id: &str) -> SimulatedError {
    SimulatedError::unknown("Conversation", id)
}

/// The items of a body as they are stored. A reference is replaced by the item that it names.
fn items(call: &mut Call, body: &mut Map<String, Value>) -> Result<Vec<Arc<Value>>, SimulatedError> {
    let mut items = input::items(body.remove("items"), "items")?;
    for item in &mut items {
        if let Some(id) = input::reference(item) {
            *item = call.shared.store().item(&call.account, id).ok_or_else(|| SimulatedError::unknown_item(id))?;
        }
    }
    // Items that an answer could not read are refused here already.
    Input::read(&items)?;
    Ok(items.into_iter().map(|item| input::kept(item, &mut call.ids)).collect())
}

fn metadata(body: &mut Map<String, Value>) -> Result<Map<String, Value>, SimulatedError> {
    match body.remove("metadata") {
        None | Some(Value::Null) => Ok(Map::new()),
        Some(Value::Object(metadata)) => Ok(metadata),
        Some(_) => Err(SimulatedError::request(Some("invalid_type"), Some("metadata"), "`metadata` is not an object.")),
    }
}
