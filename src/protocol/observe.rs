//! What is read out of an answer that passes: response id, model, how it ended, tokens. Only looks: it can neither fail nor
//! delay what it looks at, and holds a few hundred bytes whatever comes.

use super::{
    json::{Found, JsonError, Paths, Repeats, Scanner, Value},
    sse::{Part, Tap},
};
use crate::domain::usage::{MOST_TOKENS, Usage};

/// An answer nested deeper is not looked at further: real ones have tens of levels, and a level costs a bit.
const MAX_DEPTH: u64 = 64 * 1024;

/// Ids and model names over this are not kept. OpenAI's ids have under 100 bytes.
const NAME_LIMIT: usize = 256;

/// Error codes over this are not kept, nor are those that are no identifiers: they go to logs.
const CODE_LIMIT: usize = 64;

/// What was seen of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// `response.id`, of the first event that has one.
    pub response_id: Option<Box<str>>,
    /// `response.model` beside it.
    pub model: Option<Box<str>>,
    /// How the response ended. The first terminal event decides.
    pub terminal: Option<Terminal>,
    /// Tokens, of the first terminal event that has any.
    pub usage: Usage,
    /// The error's code, or else its type.
    pub code: Option<Box<str>>,
    /// Events with a JSON object as data.
    pub events: u64,
}

/// How a response ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Terminal {
    /// `response.completed`, or `response.done`.
    Completed,
    /// `response.failed`, or an error in place of it.
    Failed,
    /// `response.incomplete`.
    Incomplete,
}

/// Looks at one answer.
#[derive(Debug)]
pub struct Observer {
    kind: Kind,
    seen: Seen,
}

#[derive(Debug)]
enum Kind {
    Stream(Box<(Tap, Event)>),
    Json(Box<Scanner>),
    Opaque,
}

impl Observer {
    /// For an event stream.
    pub fn stream() -> Self {
        Self::new(Kind::Stream(Box::new((Tap::default(), Event::new()))))
    }

    /// For one JSON object: a response or an error.
    pub fn json() -> Self {
        Self::new(Kind::Json(Box::new(Scanner::new(&BODY, Repeats::LastWins).max_depth(MAX_DEPTH))))
    }

    /// For anything else: sees nothing.
    pub fn opaque() -> Self {
        Self::new(Kind::Opaque)
    }

    fn new(kind: Kind) -> Self {
        Self { kind, seen: Seen::default() }
    }

    /// Whether it sees nothing, whatever comes.
    pub fn is_blind(&self) -> bool {
        matches!(self.kind, Kind::Opaque)
    }

    /// Looks at the next piece.
    pub fn feed(&mut self, piece: &[u8]) {
        match &mut self.kind {
            Kind::Stream(stream) => {
                let (tap, event) = &mut **stream;
                tap.feed(piece, |part| event.see(part, &mut self.seen));
            }
            // A scanner that failed stays so, and says so at the end.
            Kind::Json(scanner) => _ = scanner.feed(piece),
            Kind::Opaque => {}
        }
    }

    /// Call at the clean end of the answer, once.
    pub fn finish(&mut self) {
        match &mut self.kind {
            Kind::Stream(stream) => {
                let (tap, event) = &mut **stream;
                tap.finish(|part| event.see(part, &mut self.seen));
            }
            Kind::Json(scanner) => {
                if scanner.finish().is_ok() {
                    see_body(scanner, &mut self.seen);
                }
            }
            Kind::Opaque => {}
        }
    }

    /// Call in place of [`Observer::finish`] where the rest of a JSON answer is not waited for.
    pub fn cut_short(&mut self) {
        if let Kind::Json(scanner) = &mut self.kind
            && scanner.feed(&[]).is_ok()
        {
            see_body(scanner, &mut self.seen);
        }
    }

    /// What was seen so far.
    pub fn seen(&self) -> &Seen {
        &self.seen
    }
}

/// Paths into an event's data; the constants below are their places.
static EVENT: Paths = Paths::new(&[
    &["response", "usage", "input_tokens"],
    &["response", "usage", "input_tokens_details", "cached_tokens"],
    &["response", "usage", "output_tokens"],
    &["response", "usage", "output_tokens_details", "reasoning_tokens"],
    &["response", "usage", "total_tokens"],
    &["type"],
    &["response", "id"],
    &["response", "model"],
    &["response", "error", "code"],
    &["response", "error", "type"],
    &["error", "code"],
    &["error", "type"],
    &["error"],
    &["code"],
]);
const TYPE: usize = 5;
const RESPONSE_ID: usize = 6;
const RESPONSE_MODEL: usize = 7;
const EVENT_ERROR: usize = 12;
/// In the order in which they are asked.
const EVENT_CODES: [usize; 5] = [8, 10, 13, 9, 11];

/// Paths into a JSON answer. Usage stands first in both, so that one function reads it.
static BODY: Paths = Paths::new(&[
    &["usage", "input_tokens"],
    &["usage", "input_tokens_details", "cached_tokens"],
    &["usage", "output_tokens"],
    &["usage", "output_tokens_details", "reasoning_tokens"],
    &["usage", "total_tokens"],
    &["id"],
    &["model"],
    &["status"],
    &["error", "code"],
    &["error", "type"],
]);
const ID: usize = 5;
const MODEL: usize = 6;
const STATUS: usize = 7;
const BODY_CODES: [usize; 2] = [8, 9];

/// The event that is coming in.
#[derive(Debug)]
struct Event {
    scanner: Scanner,
    /// Nothing further in it matters.
    over: bool,
}

impl Event {
    fn new() -> Self {
        Self { scanner: Scanner::new(&EVENT, Repeats::LastWins).max_depth(MAX_DEPTH), over: false }
    }

    fn see(&mut self, part: Part<'_>, seen: &mut Seen) {
        match part {
            // Most events are deltas that name their type first: after it, nothing in them is read.
            Part::Data(_) if self.over => {}
            // What is not JSON is no event; `[DONE]` is not.
            Part::Data(data) => self.over = self.read(data, seen).unwrap_or(true),
            Part::End => {
                if !std::mem::take(&mut self.over) && self.scanner.finish().is_ok() {
                    seen.events += 1;
                    see_event(&self.scanner, seen);
                }
                self.scanner.reset();
            }
        }
    }

    /// Gives true once the type shows that nothing in the event matters; such an event is counted here.
    fn read(&mut self, mut data: &[u8], seen: &mut Seen) -> Result<bool, JsonError> {
        while !data.is_empty() {
            data = &data[self.scanner.feed_until(data, TYPE)?..];
            if seen.response_id.is_some() && text(&self.scanner, TYPE).is_some_and(|name| terminal(name).is_none()) {
                seen.events += 1;
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn terminal(event: &str) -> Option<Terminal> {
    match event {
        "response.completed" | "response.done" => Some(Terminal::Completed),
        "response.failed" | "error" => Some(Terminal::Failed),
        "response.incomplete" => Some(Terminal::Incomplete),
        _ => None,
    }
}

/// A whole event.
fn see_event(event: &Scanner, seen: &mut Seen) {
    if seen.response_id.is_none() {
        seen.response_id = id(event, RESPONSE_ID);
        if seen.response_id.is_some() {
            seen.model = name(event, RESPONSE_MODEL);
        }
    }
    let end = match text(event, TYPE) {
        Some(event) => terminal(event),
        // Some relays send a bare error object.
        None => matches!(value(event, EVENT_ERROR), Some(Value::Object)).then_some(Terminal::Failed),
    };
    if end.is_none() {
        return;
    }
    // A second terminal event adds what is missing: `error` comes before `response.failed`, `response.done` after
    // `response.completed`.
    seen.terminal = seen.terminal.or(end);
    if seen.usage.is_empty() {
        seen.usage = usage(event);
    }
    if seen.terminal == Some(Terminal::Failed) && seen.code.is_none() {
        seen.code = EVENT_CODES.into_iter().find_map(|path| code(event, path));
    }
}

/// A whole JSON answer.
fn see_body(body: &Scanner, seen: &mut Seen) {
    seen.response_id = id(body, ID);
    seen.model = name(body, MODEL);
    seen.terminal = match text(body, STATUS) {
        Some("completed") => Some(Terminal::Completed),
        Some("failed") => Some(Terminal::Failed),
        Some("incomplete") => Some(Terminal::Incomplete),
        _ => None,
    };
    seen.usage = usage(body);
    seen.code = BODY_CODES.into_iter().find_map(|path| code(body, path));
}

fn value(json: &Scanner, path: usize) -> Option<&Value> {
    json.found(path).map(|Found { value, .. }| value)
}

fn text(json: &Scanner, path: usize) -> Option<&str> {
    match value(json, path) {
        Some(Value::String(text)) => Some(text),
        _ => None,
    }
}

fn name(json: &Scanner, path: usize) -> Option<Box<str>> {
    text(json, path).filter(|name| !name.is_empty() && name.len() <= NAME_LIMIT).map(Box::from)
}

/// An id is kept where it looks like one: it is written down, logged and compared.
fn id(json: &Scanner, path: usize) -> Option<Box<str>> {
    name(json, path).filter(|id| id.bytes().all(|byte| byte.is_ascii_graphic()))
}

/// A short identifier; some servers send a whole number.
fn code(json: &Scanner, path: usize) -> Option<Box<str>> {
    let code = match value(json, path)? {
        Value::String(text) => text,
        Value::Number(number) if number.parse::<i64>().is_ok() => number,
        _ => return None,
    };
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    (!code.is_empty() && code.len() <= CODE_LIMIT && code.bytes().all(is_plain)).then(|| code.clone())
}

/// The first five paths. What is not a whole number from 0 on is no count, nor is one that cannot be true: it counts as not
/// told.
fn usage(json: &Scanner) -> Usage {
    let count = |path| match value(json, path) {
        Some(Value::Number(number)) => number.parse().ok().filter(|count| *count <= MOST_TOKENS),
        _ => None,
    };
    Usage { input: count(0), cached: count(1), output: count(2), reasoning: count(3), total: count(4) }
}

#[cfg(test)]
mod tests;
