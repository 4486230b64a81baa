//! What is read out of an answer that passes: response id, model, how it ended, tokens, and the references that it leaves behind.
//! Only looks: it can neither fail nor delay what it looks at. It holds a few hundred bytes whatever comes, and 16 for each
//! reference.

mod chat;
mod memory;
mod read;
mod responses;

use memory::Memory;

use super::{json::Scanner, references::answer::Learner, sse::Tap};
use crate::domain::usage::Usage;
pub use crate::protocol::references::answer::Learned;

/// An answer nested deeper is not looked at further: real ones have tens of levels, and a level costs a bit.
const MAX_DEPTH: u64 = 64 * 1024;

/// What was seen of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// `response.id`, of the first event that has one.
    pub response_id: Option<Box<str>>,
    /// `response.model` beside it.
    pub model: Option<Box<str>>,
    /// `response.status`, of the last event of its life that has one: a background response is not over with its answer.
    pub status: Option<Status>,
    /// How the response ended. The first terminal event decides.
    pub terminal: Option<Terminal>,
    /// Tokens, of the first terminal event that has any; of a chat's stream, of the last chunk that has any.
    pub usage: Usage,
    /// The error's code, or else its type.
    pub code: Option<Box<str>>,
    /// Events with a JSON object as data.
    pub events: u64,
    /// References that were not learned, as there were more than 4,096.
    pub dropped: u64,
}

/// How far a response is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It waits; only a background response does.
    Queued,
    /// It is being made. As the last word of an answer: in the background.
    InProgress,
    /// It is whole.
    Completed,
    /// It ended with an error.
    Failed,
    /// It ended early, at a limit.
    Incomplete,
    /// It was cancelled.
    Cancelled,
}

/// How a response ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Terminal {
    /// `response.completed`, or `response.done`; of a chat, `[DONE]`.
    Completed,
    /// `response.failed`, or an error in place of it.
    Failed,
    /// `response.incomplete`.
    Incomplete,
}

/// What an endpoint speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Responses and conversations: events with a `type`, objects whose `object` says what they are.
    Responses,
    /// Chat completions and their neighbours (completions, embeddings, images): chunks up to `[DONE]`, other names of counts.
    Chat,
}

/// Looks at one answer.
#[derive(Debug)]
pub struct Observer {
    kind: Kind,
    seen: Seen,
    memory: Memory,
}

#[derive(Debug)]
enum Kind {
    Responses(Box<(Tap, responses::Event)>),
    Chat(Box<(Tap, chat::Chunk)>),
    Json(Dialect, Box<Body>),
    Opaque,
}

#[derive(Debug)]
struct Body {
    scanner: Scanner<Learner>,
    /// It was whole, and what it leaves behind was learned.
    is_learned: bool,
}

impl Observer {
    /// For an event stream.
    pub fn stream(dialect: Dialect) -> Self {
        let tap = Tap::default();
        Self::new(match dialect {
            Dialect::Responses => Kind::Responses(Box::new((tap, responses::Event::new()))),
            Dialect::Chat => Kind::Chat(Box::new((tap, chat::Chunk::new()))),
        })
    }

    /// For one JSON object: a response, another object, or an error.
    pub fn json(dialect: Dialect) -> Self {
        let scanner = match dialect {
            Dialect::Responses => responses::body(),
            Dialect::Chat => chat::body(),
        };
        Self::new(Kind::Json(dialect, Box::new(Body { scanner, is_learned: false })))
    }

    /// For anything else: sees nothing.
    pub fn opaque() -> Self {
        Self::new(Kind::Opaque)
    }

    fn new(kind: Kind) -> Self {
        Self { kind, seen: Seen::default(), memory: Memory::default() }
    }

    /// Whether it sees nothing, whatever comes.
    pub fn is_blind(&self) -> bool {
        matches!(self.kind, Kind::Opaque)
    }

    /// Looks at the next piece. What it completes is learned now: ask [`Observer::take_learned`] before the piece goes on.
    pub fn feed(&mut self, piece: &[u8]) {
        let (seen, memory) = (&mut self.seen, &mut self.memory);
        match &mut self.kind {
            Kind::Responses(stream) => {
                let (tap, event) = &mut **stream;
                tap.feed(piece, |part| event.see(part, seen, memory));
            }
            Kind::Chat(stream) => {
                let (tap, chunk) = &mut **stream;
                tap.feed(piece, |part| chunk.see(part, seen, memory));
            }
            Kind::Json(dialect, body) => {
                // A scanner that failed stays so, and says so at the end.
                let _ = body.scanner.feed(piece);
                if !body.is_learned && body.scanner.is_whole() {
                    body.is_learned = true;
                    match dialect {
                        Dialect::Responses => responses::learn(&body.scanner, memory),
                        Dialect::Chat => chat::learn(&body.scanner, memory),
                    }
                }
            }
            Kind::Opaque => {}
        }
        self.seen.dropped = self.memory.dropped();
    }

    /// Call at the clean end of the answer, once. An event without its blank line is looked at, and learned from, too.
    pub fn finish(&mut self) {
        let (seen, memory) = (&mut self.seen, &mut self.memory);
        match &mut self.kind {
            Kind::Responses(stream) => {
                let (tap, event) = &mut **stream;
                tap.finish(|part| event.see(part, seen, memory));
            }
            Kind::Chat(stream) => {
                let (tap, chunk) = &mut **stream;
                tap.finish(|part| chunk.see(part, seen, memory));
            }
            Kind::Json(dialect, body) => {
                if body.scanner.finish().is_ok() {
                    see_body(*dialect, &body.scanner, seen);
                }
            }
            Kind::Opaque => {}
        }
        self.seen.dropped = self.memory.dropped();
    }

    /// Call in place of [`Observer::finish`] where the rest of a JSON answer is not waited for.
    pub fn cut_short(&mut self) {
        if let Kind::Json(dialect, body) = &mut self.kind
            && body.scanner.feed(&[]).is_ok()
        {
            see_body(*dialect, &body.scanner, &mut self.seen);
        }
    }

    /// What was seen so far.
    pub fn seen(&self) -> &Seen {
        &self.seen
    }

    /// What was learned since it was asked last, each reference once an answer. A client can name none of them before it has
    /// the piece that was fed last. Of an answer that is no success nothing is to be believed.
    pub fn take_learned(&mut self) -> Vec<Learned> {
        self.memory.take()
    }
}

fn see_body(dialect: Dialect, body: &Scanner<Learner>, seen: &mut Seen) {
    match dialect {
        Dialect::Responses => responses::see_body(body, seen),
        Dialect::Chat => chat::see_body(body, seen),
    }
}

#[cfg(test)]
mod tests;
