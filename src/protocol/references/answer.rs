//! The references that an answer leaves behind: what its provider made, and what a later request may name.
//!
//! Only what a provider itself makes is learned, each from the places where it stands. What an answer merely echoes
//! (`previous_response_id`, `tools`, `prompt`, `metadata`, `instructions`, `input`) is not: whoever had another's id echoed
//! would own it.
//!
//! | answer | learned |
//! | --- | --- |
//! | events `response.created`, `.queued`, `.in_progress`, `.completed`, `.done`, `.failed`, `.incomplete` | of `response` what a response leaves |
//! | events `response.output_item.added`, `.done` | of `item` what an item leaves |
//! | event `response.output_text.annotation.added` | of `annotation` what one leaves |
//! | a response (`object`), not one that was `deleted` | its `id`, that of its `conversation`; what each item of `output` leaves |
//! | a compaction (`response.compaction`) | its `id`; of each item of `output`: `id`, `encrypted_content` |
//! | a conversation (`conversation`) | its `id` |
//! | a list (`list`) | of each in `data`: `id`, `encrypted_content` |
//! | an item (no `object`, but a `type`) | its `id`, `encrypted_content` |
//! | a chat completion or its chunk | `audio.id` of each of `choices` |
//!
//! An item leaves its `id`, its `encrypted_content`, that in its `content`, `container_id`, `environment.container_id`, and what the
//! annotations in its `content` leave; those leave `container_id` and, of a `container_file_citation` only, `file_id`.
//! Compactions, lists and single items also hold what a caller sent, so that less of them is believed: the ids that they
//! give are the provider's, or were looked up when they were sent, or came with an item that was whole. A provider that keeps
//! the last kind lets a caller claim an id that nobody here holds, and no other: what was learned stays whose it is.

use super::{
    finder::{Collect, Finder, Hit, Level, MAX_ID},
    grammar::{Grammar, ObjectKind, Rule, SKIP, StringRule, TOP, at},
};
use crate::{
    domain::origin::{Kind, Reference},
    protocol::json::JsonErrorKind,
};

/// Most references that are learned of one answer: each is held to its end, so that none is told twice.
pub const MOST: usize = 4096;

const RESPONSE: ObjectKind = 1;
const CONVERSATION: ObjectKind = 2;
const ITEM: ObjectKind = 3;
const CONTENT: ObjectKind = 4;
const ENVIRONMENT: ObjectKind = 5;
const ANNOTATION: ObjectKind = 6;
const CHOICE: ObjectKind = 7;
const MESSAGE: ObjectKind = 8;
const AUDIO: ObjectKind = 9;

const NOTHING: &[ObjectKind] = &[SKIP; 10];

/// Rules below the top: the same in events and in bodies.
macro_rules! below {
    ($($top:expr),* $(,)?) => {
        &[
            $($top,)*
            Rule::id(at(RESPONSE), "id", Kind::Response),
            Rule::id_or_into(at(RESPONSE), "conversation", Kind::Conversation, CONVERSATION),
            Rule::id(at(CONVERSATION), "id", Kind::Conversation),
            Rule::into(at(RESPONSE), "output", ITEM),
            Rule::id(at(ITEM), "id", Kind::Item),
            Rule::take(at(ITEM) | at(CONTENT), "encrypted_content", StringRule::Encrypted),
            Rule::id(at(ITEM) | at(ENVIRONMENT) | at(ANNOTATION), "container_id", Kind::Container),
            Rule::into(at(ITEM), "content", CONTENT),
            Rule::into(at(ITEM), "environment", ENVIRONMENT),
            Rule::into(at(CONTENT), "annotations", ANNOTATION),
            Rule::id(at(ANNOTATION), "file_id", Kind::File),
            Rule::take(at(ANNOTATION), "type", StringRule::Type),
        ]
    };
}

/// Of the data of an event.
static EVENT: Grammar = Grammar::new(
    below![
        Rule::into(at(TOP), "response", RESPONSE),
        Rule::into(at(TOP), "item", ITEM),
        Rule::into(at(TOP), "annotation", ANNOTATION),
    ],
    NOTHING,
    false,
);

/// Of a whole body, whatever it is. What its own `id` is, its `object` tells.
static BODY: Grammar = Grammar::new(
    below![
        Rule::id_or_into(at(TOP), "conversation", Kind::Conversation, CONVERSATION),
        Rule::into(at(TOP), "output", ITEM),
        Rule::into(at(TOP), "data", ITEM),
        Rule::take(at(TOP), "encrypted_content", StringRule::Encrypted),
        Rule::into(at(TOP), "content", CONTENT),
    ],
    NOTHING,
    false,
);

/// Of a chat completion or a chunk of one.
static CHAT: Grammar = Grammar::new(
    &[
        Rule::into(at(TOP), "choices", CHOICE),
        Rule::into(at(CHOICE), "message", MESSAGE),
        Rule::into(at(CHOICE), "delta", MESSAGE),
        Rule::into(at(MESSAGE), "audio", AUDIO),
        Rule::id(at(AUDIO), "id", Kind::Item),
    ],
    NOTHING,
    false,
);

/// A reference that an answer left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AnswerReference {
    /// What it names.
    pub kind: Kind,
    /// Its hash.
    pub reference: Reference,
}

impl AnswerReference {
    /// The id of a stored object, if it is one.
    pub(in crate::protocol) fn id(kind: Kind, id: &str) -> Option<Self> {
        let fits = !id.is_empty() && id.len() <= MAX_ID;
        fits.then(|| Self { kind, reference: Reference::new(kind, id.as_bytes()) })
    }
}

/// A reference that was found, below a name at the top. Nothing is learned of it before its text is whole.
#[derive(Clone, Copy, Debug)]
struct AnswerCandidate {
    below: &'static str,
    learned: AnswerReference,
}

/// What was found in a text so far.
#[derive(Debug)]
pub(in crate::protocol) struct Candidates {
    grammar: &'static Grammar,
    found: Vec<AnswerCandidate>,
    /// Those past [`MOST`].
    dropped: u64,
    /// Of the annotation that is open: how many were found before it, and whether the file it names is a container's.
    before: usize,
    is_container_file: bool,
}

/// Seeks the references of one text after another.
pub(in crate::protocol) type Learner = Finder<Candidates>;

impl Candidates {
    /// Of the data of events.
    pub(in crate::protocol) fn of_events() -> Learner {
        Self::of(&EVENT)
    }

    /// Of a body.
    pub(in crate::protocol) fn of_body() -> Learner {
        Self::of(&BODY)
    }

    /// Of chat completions.
    pub(in crate::protocol) fn of_chat() -> Learner {
        Self::of(&CHAT)
    }

    fn of(grammar: &'static Grammar) -> Learner {
        Finder::new(grammar, Self { grammar, found: Vec::new(), dropped: 0, before: 0, is_container_file: false })
    }

    /// What was found below these names at the top.
    pub(in crate::protocol) fn below(&self, names: &[&str]) -> impl Iterator<Item = AnswerReference> {
        self.found.iter().filter(move |found| names.contains(&found.below)).map(|found| found.learned)
    }

    /// How many more there were than are kept.
    pub(in crate::protocol) fn dropped(&self) -> u64 {
        self.dropped
    }
}

impl Collect for Candidates {
    fn found(&mut self, hit: Hit) -> Result<(), JsonErrorKind> {
        let (Some(reference), Some(below)) = (hit.reference, hit.top_rule) else { return Ok(()) };
        if self.found.len() == MOST {
            self.dropped += 1;
            return Ok(());
        }
        let learned = AnswerReference { kind: hit.kind, reference };
        self.found.push(AnswerCandidate { below: self.grammar.rules[below].name, learned });
        Ok(())
    }

    fn is_a(&mut self, level: Level, name: &str) {
        if !level.is_array {
            self.is_container_file = name == "container_file_citation";
        }
    }

    fn open(&mut self, level: Level, _: Option<usize>, _: u64) {
        if level.place == ANNOTATION && !level.is_array {
            self.before = self.found.len();
            self.is_container_file = false;
        }
    }

    fn close(&mut self, level: Level, _: u64) {
        if level.place == ANNOTATION && !level.is_array && !self.is_container_file && self.found.len() > self.before {
            let mut index = 0;
            self.found.retain(|found| {
                index += 1;
                index <= self.before || found.learned.kind != Kind::File
            });
        }
    }

    fn comma(&mut self, _: Level, _: u64) {}

    fn clear(&mut self) {
        self.found.clear();
        self.dropped = 0;
    }
}
