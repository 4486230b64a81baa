//! Paged lists.

use std::sync::Arc;

use serde_json::Value;

use super::call::Call;
use super::fault::SimulatedError;
use super::json::Json;
use super::store::id_of;

/// The page that the query asks for: `limit` (20), `order` (newest first), `after` an id.
pub(super) fn page(items: &[Arc<Value>], call: &Call) -> Result<Json, SimulatedError> {
    let bad = |name| {
        SimulatedError::request(Some("invalid_value"), Some(name), format!("`{name}` has no value that it can have."))
    };
    let limit = match call.query("limit") {
        None => 20,
        Some(limit) => limit.parse().ok().filter(|limit| (1..=100).contains(limit)).ok_or_else(|| bad("limit"))?,
    };
    let mut ordered: Vec<&Arc<Value>> = items.iter().collect();
    match call.query("order").as_deref() {
        None | Some("desc") => ordered.reverse(),
        Some("asc") => {}
        Some(_) => return Err(bad("order")),
    }
    let start = match call.query("after") {
        None => 0,
        Some(after) => {
            let at = ordered.iter().position(|item| id_of(item) == Some(&after));
            at.ok_or_else(|| SimulatedError::unknown("Item", &after))? + 1
        }
    };
    let left = ordered.get(start..).unwrap_or_default();
    Ok(whole(left.iter().take(limit).copied(), left.len() > limit))
}

/// A list object with these items.
pub(super) fn whole<'a>(items: impl Iterator<Item = &'a Arc<Value>> + Clone, has_more: bool) -> Json {
    let id = |item: Option<&Arc<Value>>| Json::from(item.and_then(|item| id_of(item)));
    Json::Object(vec![
        ("object", "list".into()),
        ("data", Json::Array(items.clone().map(|item| Json::from((**item).clone())).collect())),
        ("first_id", id(items.clone().next())),
        ("last_id", id(items.last())),
        ("has_more", has_more.into()),
    ])
}
