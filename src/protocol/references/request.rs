//! The references that a request makes, with the few fields that are acted on, out of one scan.
//!
//! A name counts wherever it stands, as APIs grow and a place that nobody knew would leak one tenant's state to another;
//! what is known to hold a caller's own names is left out, as these would refuse innocent requests. A string counts, and each
//! string in an array: `null`, numbers, objects and empty strings are for the provider to judge.
//!
//! | name | where | kind |
//! | --- | --- | --- |
//! | `previous_response_id` | anywhere (a relay may lay `extra_body` over the request) | response |
//! | `comparison_response_id` | anywhere (`prompt_cache_options`) | response |
//! | `conversation`, its `id` | at the top | conversation |
//! | `id` | of each item of `input` and `items` | item |
//! | `approval_request_id` | anywhere (`mcp_approval_response`, `mcp_call`) | item |
//! | `audio.id` | of each of `messages` (chat) | item |
//! | `encrypted_content` | anywhere (reasoning, compaction, content of agents' messages) | encrypted |
//! | `file_id`, `file_ids` | anywhere (files, images, screenshots, masks, containers, variables of prompts) | file |
//! | `vector_store_ids` | anywhere (tools, also those that an item brings) | vector store |
//! | `container` as a string, `container_id` | anywhere (tools, calls, environments, citations) | container |
//! | `prompt.id` | at the top | prompt |
//! | `skill_id` | anywhere (environments); not `openai-…`, which every account has | skill |
//!
//! Not looked into: `metadata`, `client_metadata`, `parameters`, `schema`, `json_schema`, `input_schema`, `output_schema`,
//! `arguments`, `headers`, `env` and `attributes` wherever they stand, `results` and `error` of an item. No provider looks up
//! what stands there. Names of `prompt.variables` are the caller's own, what they hold is content. In `annotations` only
//! `container_id` counts: a citation says where text came from, its `file_id` (of a file search, say) is not used again.
//!
//! Not references: what is inside of a string (arguments of calls, for one), `call_id`, `caller_id`, names, ids of safety
//! checks, `continuation_id`, which is the caller's own; and what the operator set up in an account: `tunnel_id`,
//! `connector_id`, ids of voices.
//!
//! The `id` of an item of `input` or `items` has to be looked up only where the item is not whole: the module `whole` has the table.
//!
//! What two parsers might read in two ways is refused: a name of the table, or one on the way to it, that stands twice in its
//! object, or in other letters than these, also by escapes; and a key beside it that is no text.

use std::ops::Range;

use bytes::Bytes;

use super::{
    cuts::Cuts,
    finder::{Collect, Finder, Hit, Level},
    grammar::{Grammar, Place, Rule, TOP, Take, at},
    whole::{ACTION, ARGUMENTS, CALLED, CONTENT, Item, OPERATION, OUTPUT, ROLE, TOOL_INPUT},
};
use crate::{
    domain::origin::{Kind, Reference},
    protocol::{
        body::Edit,
        json::{Found, JsonError, JsonErrorKind, Paths, Repeats, Scanner},
    },
};

/// Most references of one request. A stateless conversation makes up to two an item, and a context of 400,000 tokens holds
/// a few thousand items. Each is held as some 56 bytes.
pub const MOST: usize = 8192;

/// An object nobody knows more of.
const ANY: Place = 1;
/// An item of `items`.
const ITEM: Place = 2;
/// An item of `input`, which may be cut out.
const INPUT: Place = 3;
const CONVERSATION: Place = 4;
const PROMPT: Place = 5;
/// Names are the caller's own.
const VARIABLES: Place = 6;
/// One of `messages`.
const MESSAGE: Place = 7;
const AUDIO: Place = 8;
const ANNOTATIONS: Place = 9;

const ITEMS: u16 = at(ITEM) | at(INPUT);

const ANYWHERE: u16 = at(TOP) | at(ANY) | ITEMS | at(CONVERSATION) | at(PROMPT) | at(MESSAGE) | at(AUDIO);

static GRAMMAR: Grammar = Grammar::new(
    &[
        Rule::id(ANYWHERE, "previous_response_id", Kind::Response),
        Rule::id_or_into(at(TOP), "conversation", Kind::Conversation, CONVERSATION),
        Rule::id(at(CONVERSATION), "id", Kind::Conversation),
        Rule::into(at(TOP), "input", INPUT),
        Rule::into(at(TOP), "items", ITEM),
        Rule::id(ITEMS, "id", Kind::Item),
        Rule::take(ITEMS, "type", Take::Type),
        Rule::presence(ITEMS, "role", ROLE),
        Rule::presence(ITEMS, "content", CONTENT),
        Rule::presence(ITEMS, "name", CALLED),
        Rule::free_presence(ITEMS, "arguments", ARGUMENTS),
        Rule::presence(ITEMS, "input", TOOL_INPUT),
        Rule::presence(ITEMS, "output", OUTPUT),
        Rule::presence(ITEMS, "action", ACTION),
        Rule::presence(ITEMS, "operation", OPERATION),
        Rule::into(at(TOP), "prompt", PROMPT),
        Rule::id(at(PROMPT), "id", Kind::Prompt),
        Rule::into(at(PROMPT), "variables", VARIABLES),
        Rule::into(at(TOP), "messages", MESSAGE),
        Rule::into(at(MESSAGE), "audio", AUDIO),
        Rule::id(at(AUDIO), "id", Kind::Item),
        Rule::once(at(TOP), "tools"),
        Rule::id(ANYWHERE, "comparison_response_id", Kind::Response),
        Rule::id(ANYWHERE, "approval_request_id", Kind::Item),
        Rule::take(ANYWHERE, "encrypted_content", Take::Encrypted),
        Rule::id(ANYWHERE, "file_id", Kind::File),
        Rule::id(ANYWHERE, "file_ids", Kind::File),
        Rule::id(ANYWHERE, "vector_store_ids", Kind::VectorStore),
        Rule::id(ANYWHERE, "container", Kind::Container),
        Rule::id(ANYWHERE | at(ANNOTATIONS), "container_id", Kind::Container),
        Rule::id(ANYWHERE, "skill_id", Kind::Skill),
        Rule::into(ANYWHERE, "annotations", ANNOTATIONS),
        Rule::free(ANYWHERE, "metadata"),
        Rule::free(ANYWHERE, "client_metadata"),
        Rule::free(ANYWHERE, "parameters"),
        Rule::free(ANYWHERE, "schema"),
        Rule::free(ANYWHERE, "json_schema"),
        Rule::free(ANYWHERE, "input_schema"),
        Rule::free(ANYWHERE, "output_schema"),
        Rule::free(ANYWHERE & !ITEMS, "arguments"),
        Rule::free(ANYWHERE, "headers"),
        Rule::free(ANYWHERE, "env"),
        Rule::free(ANYWHERE, "attributes"),
        Rule::free(ITEMS, "results"),
        Rule::free(ITEMS, "error"),
    ],
    &[ANY, ANY, ANY, ANY, ANY, ANY, ANY, ANY, ANY, ANNOTATIONS],
    true,
);

/// The fields at the top that are acted on, by the places that [`Request`] has for them.
static FIELDS: Paths = Paths::new(&[&["model"], &["prompt_cache_key"], &["background"]]);

/// A request that names no model: nothing else than what it refers to is acted on.
static NO_FIELDS: Paths = Paths::new(&[]);

/// A reference that a request makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Used {
    /// What it names.
    pub kind: Kind,
    /// Its hash; `None` where it can name nothing that is known: over 256 bytes, or no text.
    pub reference: Option<Reference>,
    /// The field that holds it, for whoever words an error.
    pub name: &'static str,
    /// Where its string stands in the body, quotes included.
    pub range: Range<u64>,
    /// It is the id of an item that is whole: nobody has to look it up.
    pub whole: bool,
}

/// What was read out of a request's body.
#[derive(Debug, Default)]
pub struct Request {
    /// `model`
    pub model: Option<Found>,
    /// `prompt_cache_key`
    pub prompt_cache_key: Option<Found>,
    /// `background`
    pub background: Option<Found>,
    /// All references, in the order of the text.
    pub references: Vec<Used>,
    /// What else than items of `input` that are encrypted reasoning has `encrypted_content`: a compaction, for one. It
    /// stays when [`Request::without_reasoning`] is applied, and only its account can read it.
    pub other_encrypted: bool,
    /// The items of `input` that are encrypted reasoning, each with one comma.
    reasoning: Vec<Range<u64>>,
}

impl Request {
    /// Cuts out every item of `input` that is encrypted reasoning. Sorted, apart from each other; what is left is valid JSON.
    /// Nothing else of what is acted on stands in these ranges, so that they can be sorted in with other edits.
    pub fn without_reasoning(&self) -> Vec<Edit> {
        self.reasoning.iter().map(|range| Edit { range: range.clone(), with: Bytes::new() }).collect()
    }

    /// The references that are left when [`Request::without_reasoning`] was applied.
    pub fn left_without_reasoning(&self) -> impl Iterator<Item = &Used> {
        let mut cuts = self.reasoning.iter().peekable();
        self.references.iter().filter(move |used| {
            while cuts.next_if(|cut| cut.end <= used.range.start).is_some() {}
            cuts.peek().is_none_or(|cut| used.range.start < cut.start)
        })
    }
}

/// Scans a request's body as it comes.
#[derive(Debug)]
pub struct RequestScan {
    scanner: Scanner<Finder<Requested>>,
}

impl Default for RequestScan {
    fn default() -> Self {
        Self::of(&FIELDS)
    }
}

impl RequestScan {
    /// A scan of nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, of a request in which no field says where it goes: only references are found.
    pub fn without_fields() -> Self {
        Self::of(&NO_FIELDS)
    }

    fn of(fields: &'static Paths) -> Self {
        Self { scanner: Scanner::seeking(fields, Repeats::Refuse, Finder::new(&GRAMMAR, Requested::default())) }
    }

    /// Reads the next piece. Once it failed, it gives the same error for ever.
    pub fn feed(&mut self, piece: &[u8]) -> Result<(), JsonError> {
        self.scanner.feed(piece)
    }

    /// Call at the end of the body: it must be whole.
    pub fn finish(mut self) -> Result<Request, JsonError> {
        self.scanner.finish()?;
        let [model, prompt_cache_key, background] = [0, 1, 2].map(|field| self.scanner.found(field).cloned());
        let found = std::mem::take(&mut self.scanner.sought_mut().collect);
        Ok(Request {
            model,
            prompt_cache_key,
            background,
            references: found.references,
            other_encrypted: found.other_encrypted,
            reasoning: found.cuts.ranges().to_vec(),
        })
    }

    /// Bytes of memory that the references found so far take: up to about 1 MiB, for 8,192 of them.
    pub fn held(&self) -> u64 {
        let found = &self.scanner.sought().collect;
        (found.references.capacity() * size_of::<Used>() + size_of_val(found.cuts.ranges())) as u64
    }
}

/// What was found so far.
#[derive(Debug, Default)]
struct Requested {
    references: Vec<Used>,
    other_encrypted: bool,
    cuts: Cuts,
    /// The item of `input` or `items` that is open; there is none in another one.
    item: Option<Item>,
}

/// Where `input` itself is, and what is an item of it.
const INPUT_DEPTH: usize = 2;

fn is_input(level: Level) -> bool {
    level.place == INPUT && level.is_array && level.depth == INPUT_DEPTH
}

/// Whether it is one that can be cut out.
fn is_element(level: Level) -> bool {
    level.place == INPUT && level.depth == INPUT_DEPTH + 1
}

impl Requested {
    /// The item whose own object this is.
    fn item(&mut self, level: Level) -> Option<&mut Item> {
        self.item.as_mut().filter(|item| item.is(level))
    }
}

impl Collect for Requested {
    fn found(&mut self, hit: Hit) -> Result<(), JsonErrorKind> {
        if self.references.len() == MOST {
            return Err(JsonErrorKind::TooManyReferences);
        }
        let Hit { kind, reference, range, rule, depth, .. } = hit;
        let name = GRAMMAR.rules[rule].name;
        match &mut self.item {
            Some(item) if kind == Kind::Encrypted => item.has_encrypted(depth, reference.is_some()),
            Some(item) if name == "id" => item.has_id(self.references.len()),
            None if kind == Kind::Encrypted => self.other_encrypted = true,
            _ => {}
        }
        self.references.push(Used { kind, reference, name, range, whole: false });
        Ok(())
    }

    fn is_a(&mut self, level: Level, name: &str) {
        if let Some(item) = self.item(level) {
            item.is_a(name);
        }
    }

    fn has(&mut self, level: Level, what: u16) {
        if let Some(item) = self.item(level) {
            item.brings(what);
        }
    }

    fn open(&mut self, level: Level, at: u64) {
        if matches!(level.place, ITEM | INPUT) && !level.is_array {
            self.item = Some(Item::new(level, at));
        }
    }

    fn close(&mut self, level: Level, end: u64) {
        if self.item(level).is_none() {
            return;
        }
        let Some(item) = self.item.take() else { return };
        if let Some(used) = item.whole_id().and_then(|place| self.references.get_mut(place)) {
            used.whole = true;
        }
        if item.is_encrypted {
            if item.is_reasoning && is_element(level) {
                self.cuts.cut(item.at..end);
            } else {
                self.other_encrypted = true;
            }
        }
    }

    fn comma(&mut self, level: Level, at: u64) {
        if is_input(level) {
            self.cuts.comma(at);
        }
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}
