//! Answers of the Responses API: events, and the objects that its endpoints give.

use super::{
    Seen, Status, Terminal,
    memory::Memory,
    read::{code, count, id, name, text, value},
};
use crate::{
    domain::{origin::Kind, usage::Usage},
    protocol::{
        json::{JsonError, Paths, Repeats, Scanner, Value},
        references::answer::{Candidates, Learned, Learner},
        sse::Part,
    },
};

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
    &["response", "status"],
]);
const TYPE: usize = 5;
const RESPONSE_ID: usize = 6;
const RESPONSE_MODEL: usize = 7;
const EVENT_ERROR: usize = 12;
const RESPONSE_STATUS: usize = 14;
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
    &["object"],
    &["type"],
    &["deleted"],
]);
const ID: usize = 5;
const MODEL: usize = 6;
const STATUS: usize = 7;
const BODY_CODES: [usize; 2] = [8, 9];
const OBJECT: usize = 10;
const ITEM_TYPE: usize = 11;
const DELETED: usize = 12;

/// The event that is coming in.
#[derive(Debug)]
pub(super) struct Event {
    scanner: Scanner<Learner>,
    /// Nothing further in it matters.
    over: bool,
}

impl Event {
    pub(super) fn new() -> Self {
        let scanner = Scanner::seeking(&EVENT, Repeats::LastWins, Candidates::of_events());
        Self { scanner: scanner.max_depth(super::MAX_DEPTH), over: false }
    }

    pub(super) fn see(&mut self, part: Part<'_>, seen: &mut Seen, memory: &mut Memory) {
        match part {
            // Most events are deltas that name their type first: after it, nothing in them is read.
            Part::Data(_) if self.over => {}
            // What is not JSON is no event; `[DONE]` is not.
            Part::Data(data) => self.over = self.read(data, seen).unwrap_or(true),
            Part::End => {
                if !std::mem::take(&mut self.over) && self.scanner.finish().is_ok() {
                    seen.events += 1;
                    see_event(&self.scanner, seen);
                    learn_of_event(&self.scanner, memory);
                }
                self.scanner.reset();
            }
        }
    }

    /// Gives true once the type shows that nothing in the event matters; such an event is counted here.
    fn read(&mut self, mut data: &[u8], seen: &mut Seen) -> Result<bool, JsonError> {
        while !data.is_empty() {
            data = &data[self.scanner.feed_until(data, TYPE)?..];
            if seen.response_id.is_some()
                && text(&self.scanner, TYPE)
                    .is_some_and(|name| learned_below(name).is_none() && terminal(name).is_none())
            {
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

/// The name in an event that holds what its provider made.
fn learned_below(event: &str) -> Option<&'static str> {
    match event {
        "response.created" | "response.queued" | "response.in_progress" => Some("response"),
        "response.output_item.added" | "response.output_item.done" => Some("item"),
        "response.output_text.annotation.added" => Some("annotation"),
        "error" => None,
        _ => terminal(event).map(|_| "response"),
    }
}

/// A whole event.
fn see_event(event: &Scanner<Learner>, seen: &mut Seen) {
    if seen.response_id.is_none() {
        seen.response_id = id(event, RESPONSE_ID);
        if seen.response_id.is_some() {
            seen.model = name(event, RESPONSE_MODEL);
        }
    }
    let kind = text(event, TYPE);
    if kind.and_then(learned_below) == Some("response") {
        seen.status = text(event, RESPONSE_STATUS).and_then(status).or(seen.status);
    }
    let end = match kind {
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

/// A whole event, of which the type may have come last.
fn learn_of_event(event: &Scanner<Learner>, memory: &mut Memory) {
    if let Some(below) = text(event, TYPE).and_then(learned_below) {
        let found = &event.sought().collect;
        memory.learn(found.below(&[below]), found.dropped());
    }
}

/// Scans a whole answer.
pub(super) fn body() -> Scanner<Learner> {
    Scanner::seeking(&BODY, Repeats::LastWins, Candidates::of_body()).max_depth(super::MAX_DEPTH)
}

/// A whole JSON answer.
pub(super) fn see_body(body: &Scanner<Learner>, seen: &mut Seen) {
    seen.response_id = id(body, ID);
    seen.model = name(body, MODEL);
    seen.status = text(body, STATUS).and_then(status);
    seen.terminal = match seen.status {
        Some(Status::Completed) => Some(Terminal::Completed),
        Some(Status::Failed) => Some(Terminal::Failed),
        Some(Status::Incomplete) => Some(Terminal::Incomplete),
        _ => None,
    };
    seen.usage = usage(body);
    seen.code = BODY_CODES.into_iter().find_map(|path| code(body, path));
}

/// What a whole JSON answer leaves behind, by what it says that it is.
pub(super) fn learn(body: &Scanner<Learner>, memory: &mut Memory) {
    let object = match value(body, OBJECT) {
        None if text(body, ITEM_TYPE).is_some() => "item",
        Some(Value::String(object)) => object,
        _ => return,
    };
    let (id, below, all): (_, &[&str], _) = match object {
        // Whoever deletes it names it no more.
        "response" if matches!(value(body, DELETED), Some(Value::Bool(true))) => return,
        "response" => (Some(Kind::Response), &["conversation", "output"], true),
        "response.compaction" => (Some(Kind::Response), &["output"], false),
        "conversation" => (Some(Kind::Conversation), &[], false),
        "list" => (None, &["data"], false),
        "item" => (Some(Kind::Item), &["encrypted_content", "content"], false),
        _ => return,
    };
    let found = &body.sought().collect;
    let id = id.and_then(|kind| Learned::id(kind, text(body, ID)?));
    // What is a caller's own, too, is not believed where it names more than itself.
    let is_own = |learned: &Learned| all || matches!(learned.kind, Kind::Item | Kind::Encrypted);
    memory.learn(id.into_iter().chain(found.below(below).filter(is_own)), found.dropped());
}

fn status(status: &str) -> Option<Status> {
    match status {
        "queued" => Some(Status::Queued),
        "in_progress" => Some(Status::InProgress),
        "completed" => Some(Status::Completed),
        "failed" => Some(Status::Failed),
        "incomplete" => Some(Status::Incomplete),
        "cancelled" => Some(Status::Cancelled),
        _ => None,
    }
}

/// The first five paths.
fn usage(json: &Scanner<Learner>) -> Usage {
    let count = |path| count(json, path);
    Usage {
        input: count(0),
        cached: count(1),
        output: count(2),
        reasoning: count(3),
        total: count(4),
        ..Usage::default()
    }
}
