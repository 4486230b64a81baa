//! Small values out of what a scanner found.

use super::{ResponseStatus, look::Look, reading::NAME_LIMIT};
use crate::protocol::json::{FoundValue, Scanner, Value};

/// Error codes over this are not kept, nor are those that are no identifiers: they go to logs.
const CODE_LIMIT: usize = 64;

pub(super) fn value(json: &Scanner<Look>, path: usize) -> Option<&Value> {
    json.found(path).map(|FoundValue { value, .. }| value)
}

pub(super) fn text(json: &Scanner<Look>, path: usize) -> Option<&str> {
    match value(json, path) {
        Some(Value::String(text)) => Some(text),
        _ => None,
    }
}

pub(super) fn name(json: &Scanner<Look>, path: usize) -> Option<Box<str>> {
    text(json, path).filter(|name| !name.is_empty() && name.len() <= NAME_LIMIT).map(Box::from)
}

/// An id is kept where it looks like one: it is written down, logged and compared.
pub(super) fn id(json: &Scanner<Look>, path: usize) -> Option<Box<str>> {
    name(json, path).filter(|id| id.bytes().all(|byte| byte.is_ascii_graphic()))
}

/// Whether an `error` says that something went wrong: an object, or words. Some servers send one with nothing in it.
pub(super) fn is_error(json: &Scanner<Look>, path: usize) -> bool {
    match value(json, path) {
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Object | Value::Array | Value::LongString | Value::InvalidString) => true,
        _ => false,
    }
}

/// `status` of a response.
pub(super) fn status(status: &str) -> Option<ResponseStatus> {
    match status {
        "queued" => Some(ResponseStatus::Queued),
        "in_progress" => Some(ResponseStatus::InProgress),
        "completed" => Some(ResponseStatus::Completed),
        "failed" => Some(ResponseStatus::Failed),
        "incomplete" => Some(ResponseStatus::Incomplete),
        "cancelled" => Some(ResponseStatus::Cancelled),
        _ => None,
    }
}

/// A short identifier; some servers send a whole number.
pub(super) fn code(json: &Scanner<Look>, path: usize) -> Option<Box<str>> {
    let code = match value(json, path)? {
        Value::String(text) => text,
        Value::Number(number) if number.parse::<i64>().is_ok() => number,
        _ => return None,
    };
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    (!code.is_empty() && code.len() <= CODE_LIMIT && code.bytes().all(is_plain)).then(|| code.clone())
}
