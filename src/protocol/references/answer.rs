//! Finds the references in an answer: ids of objects that its provider made, and that a later request may name.
//!
//! Only objects that the provider itself made are learned, each from its documented places. Fields that only echo the request
//! (`previous_response_id`, `tools`, `prompt`, `metadata`, `instructions`, `input`) are not learned. Otherwise a client could own
//! another client's id by having it echoed.
//!
//! | answer | learned |
//! | --- | --- |
//! | events `response.created`, `.queued`, `.in_progress` | `response`, as a response below |
//! | events `response.completed`, `.done`, `.failed`, `.incomplete` | `response`, as a response below |
//! | events `response.output_item.added`, `.done` | `item`, as an item of `output` |
//! | event `response.output_text.annotation.added` | `annotation`, as an annotation |
//! | a response (`object`), unless it is `deleted` | its `id`, the id of its `conversation`; each item of `output` |
//! | a compaction (`response.compaction`) | its `id`; of each item of `output`: `id`, `encrypted_content` |
//! | a conversation (`conversation`) | its `id` |
//! | a list (`list`) | of each object in `data`: `id`, `encrypted_content` |
//! | an item (no `object`, but a `type`) | its `id`, `encrypted_content` |
//! | a chat completion or its chunk | `audio.id` of each of `choices` |
//!
//! Of an item of `output` these are learned: its `id`, its `encrypted_content` and the one in its `content`, `container_id`,
//! `environment.container_id`, and the annotations in its `content`. Of an annotation: `container_id`, and `file_id` only in a
//! `container_file_citation`.
//!
//! Compactions, lists and single items also contain data of a client, so that less of them is trusted. Each id in them is the
//! provider's, or was looked up when a client sent it, or came with a whole item. A provider that keeps ids of the last kind lets
//! a client claim an id that no other client owns, but no other id: a learned id keeps its owner.

use super::{
    collect::{Collect, Hit, Level},
    finder::Finder,
    grammar::{Grammar, ObjectKind, Rule, SKIP, StringRule, TOP, at},
    ids::{MAX_ID, kind_of, trimmed},
};
use crate::{
    domain::origin::{Reference, ReferenceKind},
    protocol::json::JsonErrorKind,
};

/// The most ids of stored objects that Tidegate remembers from one answer. All of them are kept until the answer ends, so that each is
/// reported once.
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

/// Rules below the top level. They are the same in events and in bodies.
macro_rules! below {
    ($($top:expr),* $(,)?) => {
        &[
            $($top,)*
            Rule::id(at(RESPONSE), "id", ReferenceKind::Response),
            Rule::id_or_into(at(RESPONSE), "conversation", ReferenceKind::Conversation, CONVERSATION),
            Rule::id(at(CONVERSATION), "id", ReferenceKind::Conversation),
            Rule::into(at(RESPONSE), "output", ITEM),
            Rule::id(at(ITEM), "id", ReferenceKind::Item),
            Rule::take(at(ITEM) | at(CONTENT), "encrypted_content", StringRule::Encrypted),
            Rule::id(at(ITEM) | at(ENVIRONMENT) | at(ANNOTATION), "container_id", ReferenceKind::Container),
            Rule::into(at(ITEM), "content", CONTENT),
            Rule::into(at(ITEM), "environment", ENVIRONMENT),
            Rule::into(at(CONTENT), "annotations", ANNOTATION),
            Rule::id(at(ANNOTATION), "file_id", ReferenceKind::File),
            Rule::take(at(ANNOTATION), "type", StringRule::Type),
        ]
    };
}

/// The grammar of the data of an event.
static EVENT: Grammar = Grammar::new(
    below![
        Rule::into(at(TOP), "response", RESPONSE),
        Rule::into(at(TOP), "item", ITEM),
        Rule::into(at(TOP), "annotation", ANNOTATION),
    ],
    NOTHING,
    false,
);

/// The grammar of a whole body of any type. Its `object` gives the kind of its own `id`.
static BODY: Grammar = Grammar::new(
    below![
        Rule::id_or_into(at(TOP), "conversation", ReferenceKind::Conversation, CONVERSATION),
        Rule::into(at(TOP), "output", ITEM),
        Rule::into(at(TOP), "data", ITEM),
        Rule::take(at(TOP), "encrypted_content", StringRule::Encrypted),
        Rule::into(at(TOP), "content", CONTENT),
    ],
    NOTHING,
    false,
);

/// The grammar of a chat completion or of one of its chunks.
static CHAT: Grammar = Grammar::new(
    &[
        Rule::into(at(TOP), "choices", CHOICE),
        Rule::into(at(CHOICE), "message", MESSAGE),
        Rule::into(at(CHOICE), "delta", MESSAGE),
        Rule::into(at(MESSAGE), "audio", AUDIO),
        Rule::id(at(AUDIO), "id", ReferenceKind::Item),
    ],
    NOTHING,
    false,
);

/// An id of a stored object (response, item, file) that a provider named in an answer, as a hash. A later request may use the id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AnswerReference {
    /// The kind of the named object.
    pub kind: ReferenceKind,
    /// The hash of the id.
    pub reference: Reference,
    /// The kind and reference that the value itself indicates, if that is another kind. A later request may contain the id at a
    /// place that gives no kind.
    pub by_value: Option<(ReferenceKind, Reference)>,
    /// The answer only contains objects that its provider made, and no data of a client.
    pub is_made: bool,
}

impl AnswerReference {
    /// Creates the reference of an id; `None` if the text cannot be an id.
    pub(in crate::protocol) fn id(kind: ReferenceKind, id: &str) -> Option<Self> {
        let text = trimmed(id.as_bytes());
        let own = kind_of(text, true).map(|(own, _)| own).filter(|own| *own != kind);
        let by_value = own.map(|own| (own, Reference::new(own, text)));
        let fits = !text.is_empty() && text.len() <= MAX_ID;
        fits.then(|| Self { kind, reference: Reference::new(kind, text), by_value, is_made: true })
    }

    /// Sets whether the answer only contains objects that its provider made.
    pub(in crate::protocol) fn made(self, is_made: bool) -> Self {
        Self { is_made, ..self }
    }
}

/// A reference that was found below a top-level name. It is learned only after its text is complete.
#[derive(Clone, Copy, Debug)]
struct AnswerCandidate {
    below: &'static str,
    learned: AnswerReference,
}

/// The references that were found in a text so far.
#[derive(Debug)]
pub(in crate::protocol) struct Candidates {
    grammar: &'static Grammar,
    found: Vec<AnswerCandidate>,
    /// The number of references beyond [`MOST`].
    dropped: u64,
    /// Of the open annotation: how many references were found before it, and whether its file is in a container.
    before: usize,
    is_container_file: bool,
}

/// Finds the references in one text after another.
pub(in crate::protocol) type ReferenceReader = Finder<Candidates>;

impl Candidates {
    /// Creates a finder for the data of events.
    pub(in crate::protocol) fn of_events() -> ReferenceReader {
        Self::of(&EVENT)
    }

    /// Creates a finder for a whole body.
    pub(in crate::protocol) fn of_body() -> ReferenceReader {
        Self::of(&BODY)
    }

    /// Creates a finder for chat completions.
    pub(in crate::protocol) fn of_chat() -> ReferenceReader {
        Self::of(&CHAT)
    }

    fn of(grammar: &'static Grammar) -> ReferenceReader {
        let found = Self { grammar, found: Vec::new(), dropped: 0, before: 0, is_container_file: false };
        Finder::new(grammar, true, found)
    }

    /// Returns the references that were found below these top-level names.
    pub(in crate::protocol) fn below(&self, names: &[&str]) -> impl Iterator<Item = AnswerReference> {
        self.found.iter().filter(move |found| names.contains(&found.below)).map(|found| found.learned)
    }

    /// Returns how many references were not kept.
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
        let learned = AnswerReference { kind: hit.kind, reference, by_value: hit.by_value, is_made: true };
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
                index <= self.before || found.learned.kind != ReferenceKind::File
            });
        }
    }

    fn comma(&mut self, _: Level, _: u64) {}

    fn clear(&mut self) {
        self.found.clear();
        self.dropped = 0;
    }
}
