//! Reads small values from the paths that a scanner found.

use super::{ResponseStatus, answer_visitor::AnswerVisitor, reading::NAME_LIMIT};
use crate::protocol::json::{FoundValue, Scanner, Value};

/// Longer error codes are not kept, nor are codes that are no identifiers, because codes go to the log.
const CODE_LIMIT: usize = 64;

pub(super) fn value(json: &Scanner<AnswerVisitor>, path: usize) -> Option<&Value> {
    json.found(path).map(|FoundValue { value, .. }| value)
}

pub(super) fn text(json: &Scanner<AnswerVisitor>, path: usize) -> Option<&str> {
    match value(json, path) {
        Some(Value::String(text)) => Some(text),
        _ => None,
    }
}

pub(super) fn name(json: &Scanner<AnswerVisitor>, path: usize) -> Option<Box<str>> {
    text(json, path).filter(|name| !name.is_empty() && name.len() <= NAME_LIMIT).map(Box::from)
}

/// Reads an id. A text that does not look like an id is ignored, because ids are stored, logged and compared.
pub(super) fn id(json: &Scanner<AnswerVisitor>, path: usize) -> Option<Box<str>> {
    name(json, path).filter(|id| id.bytes().all(|byte| byte.is_ascii_graphic()))
}

/// Whether the value of `error` reports an error: an object, or a text. Some servers send an `error` that is empty.
pub(super) fn is_error(json: &Scanner<AnswerVisitor>, path: usize) -> bool {
    match value(json, path) {
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Object | Value::Array | Value::LongString | Value::InvalidString) => true,
        _ => false,
    }
}

/// Reads the `status` of a response.
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

/// Reads an error code: a short identifier, or a whole number, which some servers send.
pub(super) fn code(json: &Scanner<AnswerVisitor>, path: usize) -> Option<Box<str>> {
    let code = match value(json, path)? {
        Value::String(text) => text,
        Value::Number(number) if number.parse::<i64>().is_ok() => number,
        _ => return None,
    };
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    (!code.is_empty() && code.len() <= CODE_LIMIT && code.bytes().all(is_plain)).then(|| code.clone())
}
