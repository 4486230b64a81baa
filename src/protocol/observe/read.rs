//! Small values out of what a scanner found.

use crate::{
    domain::usage::MOST_TOKENS,
    protocol::{
        json::{Found, Scanner, Value},
        references::answer::Learner,
    },
};

/// Ids and model names over this are not kept. OpenAI's ids have under 100 bytes.
const NAME_LIMIT: usize = 256;

/// Error codes over this are not kept, nor are those that are no identifiers: they go to logs.
const CODE_LIMIT: usize = 64;

pub(super) fn value(json: &Scanner<Learner>, path: usize) -> Option<&Value> {
    json.found(path).map(|Found { value, .. }| value)
}

pub(super) fn text(json: &Scanner<Learner>, path: usize) -> Option<&str> {
    match value(json, path) {
        Some(Value::String(text)) => Some(text),
        _ => None,
    }
}

pub(super) fn name(json: &Scanner<Learner>, path: usize) -> Option<Box<str>> {
    text(json, path).filter(|name| !name.is_empty() && name.len() <= NAME_LIMIT).map(Box::from)
}

/// An id is kept where it looks like one: it is written down, logged and compared.
pub(super) fn id(json: &Scanner<Learner>, path: usize) -> Option<Box<str>> {
    name(json, path).filter(|id| id.bytes().all(|byte| byte.is_ascii_graphic()))
}

/// What is not a whole number from 0 on is no count, nor is one that cannot be true: it counts as not told.
pub(super) fn count(json: &Scanner<Learner>, path: usize) -> Option<u64> {
    match value(json, path) {
        Some(Value::Number(number)) => number.parse().ok().filter(|count| *count <= MOST_TOKENS),
        _ => None,
    }
}

/// A short identifier; some servers send a whole number.
pub(super) fn code(json: &Scanner<Learner>, path: usize) -> Option<Box<str>> {
    let code = match value(json, path)? {
        Value::String(text) => text,
        Value::Number(number) if number.parse::<i64>().is_ok() => number,
        _ => return None,
    };
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    (!code.is_empty() && code.len() <= CODE_LIMIT && code.bytes().all(is_plain)).then(|| code.clone())
}
