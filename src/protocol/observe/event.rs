//! Reads the events of a stream one after another: the events of a response, or the chunks of a chat.

use super::{
    AnswerDialect, Observation, Terminal,
    answer_visitor::AnswerVisitor,
    memory::AnswerReferences,
    read::{code, id, is_error, name, status, text},
    reading::EventKind,
};
use crate::protocol::{
    json::{DuplicatePolicy, JsonError, Paths, Scanner},
    references::answer::Candidates,
    sse::SsePart,
};

/// Paths into the data of an event, for fields that few events have. The constants below are indices into this list.
static EVENT: Paths = Paths::new(&[
    &["response", "id"],
    &["response", "model"],
    &["response", "status"],
    &["response", "error", "code"],
    &["error", "code"],
    &["code"],
    &["response", "error", "type"],
    &["error", "type"],
    &["error"],
]);
const RESPONSE_ID: usize = 0;
const RESPONSE_MODEL: usize = 1;
const RESPONSE_STATUS: usize = 2;
/// In order of preference.
const CODES: std::ops::RangeInclusive<usize> = 3..=7;
const ERROR: usize = 8;

/// The data that ends the stream of a chat.
const DONE: &[u8] = b"[DONE]";

/// The event that is arriving.
#[derive(Debug)]
pub(super) struct Event {
    dialect: AnswerDialect,
    pub(super) scanner: Scanner<AnswerVisitor>,
    /// The rest of the event is ignored.
    over: bool,
    /// How many bytes of [`DONE`] the data begins with. `None`: the data begins with something else.
    done: Option<usize>,
}

impl Event {
    pub(super) fn new(dialect: AnswerDialect) -> Self {
        let visitor = match dialect {
            AnswerDialect::Responses => AnswerVisitor::by_type(Candidates::of_events()),
            AnswerDialect::Chat => AnswerVisitor::new(Candidates::of_chat()),
        };
        let scanner = Scanner::seeking(&EVENT, DuplicatePolicy::LastWins, visitor).max_depth(super::MAX_DEPTH);
        Self { dialect, scanner, over: false, done: Some(0) }
    }

    pub(super) fn see(&mut self, part: SsePart<'_>, seen: &mut Observation, memory: &mut AnswerReferences) {
        match part {
            // Most events are deltas that have their type first. The observer ignores the rest of a delta after its text.
            SsePart::Data(_) if self.over => {}
            // Data that is not JSON is no event.
            SsePart::Data(data) => self.over = self.read(data, seen).unwrap_or(true),
            SsePart::End => {
                if self.done == Some(DONE.len()) && self.dialect == AnswerDialect::Chat {
                    seen.terminal = seen.terminal.or(self.done(seen.events > 0));
                } else if !self.over && self.scanner.finish().is_ok() {
                    seen.events += 1;
                    self.whole(seen, memory);
                }
                (self.over, self.done) = (false, Some(0));
                self.scanner.reset();
            }
        }
    }

    /// Reads the next data of the event. Returns true once the rest of the event can be ignored, and then counts the event.
    fn read(&mut self, data: &[u8], seen: &mut Observation) -> Result<bool, JsonError> {
        self.done = self.done.and_then(|read| {
            let now = data.len().min(DONE.len() - read);
            (data[..now] == DONE[read..read + now]).then_some(read + now)
        });
        if self.done.is_some_and(|read| read > 0) {
            return Ok(false);
        }
        if self.dialect == AnswerDialect::Chat {
            // Chunks have no type, so that each chunk has to be read to its end.
            return self.scanner.feed(data).map(|()| false);
        }
        let enough = self.scanner.feed_until_enough(data)?;
        seen.events += u64::from(enough);
        Ok(enough)
    }

    /// Returns the end that `[DONE]` means for a chat. `None` without any chunk; failed if the chunks contained no part of an
    /// answer.
    fn done(&self, has_chunks: bool) -> Option<Terminal> {
        let reading = &self.scanner.sought().reading;
        let answers = reading.finished.is_some() || reading.has_output() || !reading.usage().is_nothing();
        has_chunks.then_some(if answers { Terminal::Completed } else { Terminal::Failed })
    }

    /// Handles a complete event.
    fn whole(&mut self, seen: &mut Observation, memory: &mut AnswerReferences) {
        match self.dialect {
            AnswerDialect::Responses => self.see_response(seen),
            AnswerDialect::Chat => self.see_chunk(seen),
        }
        if seen.terminal == Some(Terminal::Failed) && seen.code.is_none() {
            seen.code = CODES.into_iter().find_map(|path| code(&self.scanner, path));
        }
        let look = self.scanner.sought_mut();
        if look.reading.is_new() {
            seen.usage = look.reading.usage();
        }
        let found = &look.learner.collect;
        match self.dialect {
            // The type may be the last field of the event, so that the references wait for the end of the event.
            AnswerDialect::Responses => {
                if seen.terminal.is_some() && !seen.usage.is_nothing() {
                    look.reading.close_counts();
                }
                if let Some(below) = look.reading.kind().and_then(EventKind::learned_below) {
                    memory.learn(found.below(&[below]), found.dropped());
                }
            }
            AnswerDialect::Chat => memory.learn(found.below(&["choices"]), found.dropped()),
        }
    }

    fn see_response(&mut self, seen: &mut Observation) {
        if seen.response_id.is_none() {
            seen.response_id = id(&self.scanner, RESPONSE_ID);
            if seen.response_id.is_some() {
                seen.model = name(&self.scanner, RESPONSE_MODEL);
                self.scanner.sought_mut().reading.is_named = true;
            }
        }
        let kind = self.scanner.sought().reading.kind();
        if kind.and_then(EventKind::learned_below) == Some("response") {
            seen.status = text(&self.scanner, RESPONSE_STATUS).and_then(status).or(seen.status);
        }
        let end = match kind {
            Some(kind) => kind.terminal(),
            // Some relays send an error object without a type.
            None => self.failed(),
        };
        // A second terminal event only adds what is missing: `response.failed` follows `error`, and `response.done` follows
        // `response.completed`.
        seen.terminal = seen.terminal.or(end);
    }

    fn see_chunk(&mut self, seen: &mut Observation) {
        let reading = &mut self.scanner.sought_mut().reading;
        if seen.response_id.is_none()
            && let Some((id, model)) = reading.take_names()
        {
            (seen.response_id, seen.model) = (Some(id), model);
        }
        let broken = (reading.finished == Some(false)).then_some(Terminal::Failed);
        let end = match reading.kind() {
            // Streams of images and speech have event types, and no `[DONE]`.
            Some(EventKind::MediaEnd) => Some(Terminal::Completed),
            Some(EventKind::Error) => Some(Terminal::Failed),
            _ => self.failed().or(broken),
        };
        seen.terminal = seen.terminal.or(end);
    }

    fn failed(&self) -> Option<Terminal> {
        is_error(&self.scanner, ERROR).then_some(Terminal::Failed)
    }

    /// Handles the clean end of the transfer. A chat with a `finish_reason` is complete without `[DONE]`, which several providers
    /// leave out.
    pub(super) fn clean_end(&self, seen: &mut Observation) {
        if self.scanner.sought().reading.finished == Some(true) {
            seen.terminal = seen.terminal.or(Some(Terminal::Completed));
        }
    }
}
