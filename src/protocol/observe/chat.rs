//! Answers of chat completions and their neighbours: chunks without a type, `[DONE]` at the end, other names of counts.

use super::{
    Seen, Terminal,
    memory::Memory,
    read::{code, count, id, name, text, value},
};
use crate::{
    domain::usage::Usage,
    protocol::{
        json::{Paths, Repeats, Scanner, Value},
        references::answer::{Candidates, Learner},
        sse::Part,
    },
};

/// Paths into a chunk and into a whole answer; the constants below are their places.
static CHAT: Paths = Paths::new(&[
    &["usage", "prompt_tokens"],
    &["usage", "prompt_tokens_details", "cached_tokens"],
    &["usage", "completion_tokens"],
    &["usage", "completion_tokens_details", "reasoning_tokens"],
    &["usage", "total_tokens"],
    // Of images and speech.
    &["usage", "input_tokens"],
    &["usage", "input_tokens_details", "cached_tokens"],
    &["usage", "output_tokens"],
    &["usage", "output_tokens_details", "reasoning_tokens"],
    &["id"],
    &["model"],
    &["type"],
    &["error", "code"],
    &["error", "type"],
    &["error"],
    &["code"],
]);
const TOTAL: usize = 4;
/// Each count by both of its names.
const INPUT: [usize; 2] = [0, 5];
const CACHED: [usize; 2] = [1, 6];
const OUTPUT: [usize; 2] = [2, 7];
const REASONING: [usize; 2] = [3, 8];
const ID: usize = 9;
const MODEL: usize = 10;
const TYPE: usize = 11;
const ERROR: usize = 14;
/// In the order in which they are asked.
const CODES: [usize; 3] = [12, 15, 13];

/// The data that ends a stream.
const DONE: &[u8] = b"[DONE]";

fn scanner() -> Scanner<Learner> {
    Scanner::seeking(&CHAT, Repeats::LastWins, Candidates::of_chat()).max_depth(super::MAX_DEPTH)
}

/// The chunk that is coming in.
#[derive(Debug)]
pub(super) struct Chunk {
    scanner: Scanner<Learner>,
    /// How much of [`DONE`] it begins with; `None`: it begins with something else.
    done: Option<usize>,
}

impl Chunk {
    pub(super) fn new() -> Self {
        Self { scanner: scanner(), done: Some(0) }
    }

    pub(super) fn see(&mut self, part: Part<'_>, seen: &mut Seen, memory: &mut Memory) {
        match part {
            Part::Data(data) => {
                self.done = self.done.and_then(|read| {
                    let now = data.len().min(DONE.len() - read);
                    (data[..now] == DONE[read..read + now]).then_some(read + now)
                });
                // A scanner that failed stays so, and says so at the end.
                let _ = self.scanner.feed(data);
            }
            Part::End => {
                if self.done == Some(DONE.len()) {
                    seen.terminal = seen.terminal.or(Some(Terminal::Completed));
                } else if self.scanner.finish().is_ok() {
                    seen.events += 1;
                    see_chunk(&self.scanner, seen);
                    learn(&self.scanner, memory);
                }
                self.done = Some(0);
                self.scanner.reset();
            }
        }
    }
}

fn see_chunk(chunk: &Scanner<Learner>, seen: &mut Seen) {
    if seen.response_id.is_none() {
        seen.response_id = id(chunk, ID);
        seen.model = name(chunk, MODEL);
    }
    // Some send what was used so far with every chunk.
    let usage = usage(chunk);
    if !usage.is_empty() {
        seen.usage = usage;
    }
    let end = match text(chunk, TYPE) {
        // Streams of images and speech have types, and no `[DONE]`.
        Some("image_generation.completed" | "image_edit.completed" | "speech.audio.done") => Some(Terminal::Completed),
        Some("error") => Some(Terminal::Failed),
        _ => failed(chunk),
    };
    seen.terminal = seen.terminal.or(end);
    if seen.terminal == Some(Terminal::Failed) && seen.code.is_none() {
        seen.code = CODES.into_iter().find_map(|path| code(chunk, path));
    }
}

fn failed(json: &Scanner<Learner>) -> Option<Terminal> {
    matches!(value(json, ERROR), Some(Value::Object)).then_some(Terminal::Failed)
}

/// Scans a whole answer.
pub(super) fn body() -> Scanner<Learner> {
    scanner()
}

/// A whole JSON answer. That it is whole is all that there is to say of its end.
pub(super) fn see_body(body: &Scanner<Learner>, seen: &mut Seen) {
    seen.response_id = id(body, ID);
    seen.model = name(body, MODEL);
    seen.terminal = failed(body);
    seen.usage = usage(body);
    if seen.terminal.is_some() {
        seen.code = CODES.into_iter().find_map(|path| code(body, path));
    }
}

/// What a chunk or an answer leaves behind.
pub(super) fn learn(json: &Scanner<Learner>, memory: &mut Memory) {
    let found = &json.sought().collect;
    memory.learn(found.below(&["choices"]), found.dropped());
}

fn usage(json: &Scanner<Learner>) -> Usage {
    // Relays of the new-api family write both names, and 0 under the one that they do not mean.
    let either = |paths: [usize; 2]| paths.into_iter().filter_map(|path| count(json, path)).max();
    Usage {
        input: either(INPUT),
        cached: either(CACHED),
        output: either(OUTPUT),
        reasoning: either(REASONING),
        total: count(json, TOTAL),
        ..Usage::default()
    }
}
