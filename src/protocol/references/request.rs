//! The references that a request makes, with the few fields that are acted on, out of one scan.
//!
//! Two rules. *At its documented place* (the exact path, by endpoint) a name says what its string refers to:
//!
//! | endpoint | path | kind |
//! | --- | --- | --- |
//! | responses | `previous_response_id`, its `id` | response |
//! | | `prompt_cache_options.comparison_response_id` | response |
//! | | `conversation`, its `id` | conversation |
//! | | `prompt.id` | prompt |
//! | | `prompt.variables.*.file_id` | file |
//! | | `input[].id` (see the module `whole`) | item |
//! | | `input[].encrypted_content`, and anywhere in an item | encrypted |
//! | | `input[].content[].file_id`, `input[].output[].file_id`, `input[].output.file_id` | file |
//! | | `tools[].vector_store_ids` | vector store |
//! | | `tools[].container` as a string, `tools[].environment.container_id` | container |
//! | | `tools[].container.file_ids`, `tools[].environment.file_ids`, `tools[].input_image_mask.file_id` | file |
//! | | `skill_id` of `skills` of the last two; not `openai-…`, which every account has | skill |
//! | | the same in `tools[].tools[]` and `input[].tools[]` | |
//! | conversations | `items[]`, as `input[]` above | |
//! | chat | `messages[].audio.id` | item |
//! | | `messages[].content[].file.file_id` | file |
//!
//! *Anywhere else* callers choose names, so that nothing is refused for a name. A string counts by its value, as something that may be
//! looked up ([`Use::Perhaps`]): if it looks like the id of a stored object ([`kind_of`](super::ids::kind_of)), or stands at a name of the
//! table. So `extra_body`, which relays lay over the request, and places that no table knows are covered. Text is left out: strings at
//! `content`, `text`, `arguments`, `output`, `instructions`, and at `input` and `prompt` where these are text. So are `type`, `name`, and
//! `call_id`, which names a call of the same conversation.
//!
//! A string counts, and each string in an array: `null`, numbers and empty strings are for the provider to judge.
//!
//! What two parsers might read in two ways is refused, at its documented place: a name of the table, or one on the way to it, that
//! stands twice in its object, or in other letters than these, also by escapes; and a key beside it that is no text.

use std::ops::Range;

use bytes::Bytes;

use super::{
    cuts::Cuts,
    finder::{Collect, Finder, Hit, Level},
    grammar::{Grammar, Place, Rule, TOP, Take, at},
    whole::{
        ACTION, APPROVAL, ARGUMENTS, CALL, CODE, CONTENT, ENCRYPTED, FOUND, INPUT, Item, LABEL, NAME, OPERATION,
        OUTPUT, RESULT, ROLE, SERVER, STATUS, TOOLS,
    },
};
use crate::{
    domain::{
        chance,
        endpoint::{Carries, Endpoint, Surface},
        origin::{Kind, Reference},
    },
    protocol::{
        body::Edit,
        json::{Found, JsonError, JsonErrorKind, Paths, Repeats, Scanner},
    },
};

pub use super::whole::Use;

/// Most references of one request that are kept, each as some 56 bytes. A stateless conversation makes up to two an item, and a context
/// of 400,000 tokens holds a few thousand items.
const MOST: usize = 8192;

/// Most references of one request that an upstream looks up, and that Tidegate looks up before: real requests have under 100, and a
/// thousand keep the store busy for milliseconds.
pub const MOST_LOOKED_UP: usize = 1024;

/// An object in which no name means anything.
const ANY: Place = 1;
const ITEM: Place = 2;
/// Something in an item.
const INNER: Place = 3;
/// One of the parts of `content` or `output`.
const PART: Place = 4;
const TOOL: Place = 5;
const CONTAINER: Place = 6;
const ENVIRONMENT: Place = 7;
const SKILL: Place = 8;
/// What holds nothing but a `file_id`.
const FILE: Place = 9;
const PREVIOUS: Place = 10;
const CONVERSATION: Place = 11;
const PROMPT: Place = 12;
/// Names are the caller's own.
const VARIABLES: Place = 13;
const CACHE: Place = 14;
/// One of `messages` of a chat.
const MESSAGE: Place = 10;
const AUDIO: Place = 11;
const CHAT_PART: Place = 12;

/// A set of all places.
const EVERYWHERE: u16 = u16::MAX;

/// Rules, and behind them those for places that are not documented: text, and names of references, of which only the values count.
macro_rules! and_elsewhere {
    ($($rule:expr),* $(,)?) => {
        &[
            $($rule,)*
            Rule::id(EVERYWHERE, "previous_response_id", Kind::Response).tolerant(),
            Rule::id(EVERYWHERE, "response_id", Kind::Response).tolerant(),
            Rule::id(EVERYWHERE, "conversation", Kind::Conversation).tolerant(),
            Rule::id(EVERYWHERE, "conversation_id", Kind::Conversation).tolerant(),
            Rule::id(EVERYWHERE, "file_id", Kind::File).tolerant(),
            Rule::id(EVERYWHERE, "file_ids", Kind::File).tolerant(),
            Rule::id(EVERYWHERE, "vector_store_ids", Kind::VectorStore).tolerant(),
            Rule::id(EVERYWHERE, "container", Kind::Container).tolerant(),
            Rule::id(EVERYWHERE, "container_id", Kind::Container).tolerant(),
            Rule::id(EVERYWHERE, "skill_id", Kind::Skill).tolerant(),
            Rule::text(EVERYWHERE, "text"),
            Rule::text(EVERYWHERE, "type"),
            Rule::text(EVERYWHERE, "name"),
            Rule::text(EVERYWHERE, "output"),
            Rule::text(EVERYWHERE, "content"),
            Rule::text(EVERYWHERE, "call_id"),
            Rule::text(EVERYWHERE, "arguments"),
            Rule::text(EVERYWHERE, "instructions"),
        ]
    };
}

/// Rules, and behind them those of items and tools.
macro_rules! and_items {
    ($($rule:expr),* $(,)?) => {
        and_elsewhere![
            $($rule,)*
            Rule::id(at(ITEM), "id", Kind::Item).member(LABEL),
            Rule::take(at(ITEM), "type", Take::Type).member(LABEL),
            Rule::once(at(ITEM), "role").member(ROLE),
            Rule::once(at(ITEM), "status").member(STATUS),
            Rule::text_or_into(at(ITEM), "content", PART).member(CONTENT),
            Rule::text_or_into(at(ITEM), "output", PART).member(OUTPUT),
            Rule::text_or_into(at(ITEM), "arguments", INNER).member(ARGUMENTS),
            Rule::text_or_into(at(ITEM), "input", INNER).member(INPUT),
            Rule::take(at(ITEM), "call_id", Take::Call).member(CALL),
            Rule::into(at(ITEM), "tools", TOOL).member(TOOLS),
            Rule::text_or_into(at(ITEM), "name", INNER).member(NAME),
            Rule::once(at(ITEM), "action").member(ACTION),
            Rule::once(at(ITEM), "actions").member(ACTION),
            Rule::once(at(ITEM), "operation").member(OPERATION),
            Rule::once(at(ITEM), "queries").member(FOUND),
            Rule::once(at(ITEM), "results").member(FOUND),
            Rule::once(at(ITEM), "code").member(CODE),
            Rule::once(at(ITEM), "outputs").member(CODE),
            Rule::once(at(ITEM), "result").member(RESULT),
            Rule::once(at(ITEM), "server_label").member(SERVER),
            Rule::once(at(ITEM), "approval_request_id").member(APPROVAL),
            Rule::take(at(ITEM), "encrypted_content", Take::Encrypted).member(ENCRYPTED),
            Rule::take(at(PART) | at(INNER), "encrypted_content", Take::Encrypted).tolerant(),
            Rule::id(at(PART) | at(FILE), "file_id", Kind::File),
            Rule::id(at(TOOL), "vector_store_ids", Kind::VectorStore),
            Rule::id_or_into(at(TOOL), "container", Kind::Container, CONTAINER),
            Rule::into(at(TOOL), "environment", ENVIRONMENT),
            Rule::into(at(TOOL), "input_image_mask", FILE),
            Rule::into(at(TOOL), "tools", TOOL),
            Rule::id(at(CONTAINER) | at(ENVIRONMENT), "file_ids", Kind::File),
            Rule::id(at(ENVIRONMENT), "container_id", Kind::Container),
            Rule::into(at(CONTAINER) | at(ENVIRONMENT), "skills", SKILL),
            Rule::id(at(SKILL), "skill_id", Kind::Skill),
        ]
    };
}

/// By place: what objects at names without a rule are.
const ELSEWHERE: [Place; 15] = [ANY, ANY, INNER, INNER, INNER, ANY, ANY, ANY, ANY, ANY, ANY, ANY, ANY, FILE, ANY];

static RESPONSES: Grammar = Grammar::new(
    and_items![
        Rule::id_or_into(at(TOP), "previous_response_id", Kind::Response, PREVIOUS),
        Rule::id(at(PREVIOUS), "id", Kind::Response),
        Rule::id_or_into(at(TOP), "conversation", Kind::Conversation, CONVERSATION),
        Rule::id(at(CONVERSATION), "id", Kind::Conversation),
        Rule::text_or_into(at(TOP), "input", ITEM),
        Rule::into(at(TOP), "tools", TOOL),
        Rule::text_or_into(at(TOP), "prompt", PROMPT),
        Rule::id(at(PROMPT), "id", Kind::Prompt),
        Rule::into(at(PROMPT), "variables", VARIABLES),
        Rule::into(at(TOP), "prompt_cache_options", CACHE),
        Rule::id(at(CACHE), "comparison_response_id", Kind::Response),
    ],
    &ELSEWHERE,
    true,
);

static CONVERSATIONS: Grammar = Grammar::new(
    and_items![Rule::into(at(TOP), "items", ITEM), Rule::text(at(TOP), "input"), Rule::text(at(TOP), "prompt"),],
    &ELSEWHERE,
    true,
);

static CHAT: Grammar = Grammar::new(
    and_elsewhere![
        Rule::into(at(TOP), "messages", MESSAGE),
        Rule::into(at(MESSAGE), "audio", AUDIO),
        Rule::id(at(AUDIO), "id", Kind::Item),
        Rule::text_or_into(at(MESSAGE), "content", CHAT_PART),
        Rule::into(at(CHAT_PART), "file", FILE),
        Rule::id(at(FILE), "file_id", Kind::File),
        Rule::text(at(TOP), "input"),
        Rule::text(at(TOP), "prompt"),
    ],
    &[ANY; 13],
    true,
);

/// Endpoints that refer to nothing by a documented name.
static OTHERS: Grammar =
    Grammar::new(and_elsewhere![Rule::text(at(TOP), "input"), Rule::text(at(TOP), "prompt")], &[ANY; 2], true);

fn grammar(endpoint: Endpoint) -> &'static Grammar {
    match endpoint.surface() {
        Surface::Responses => &RESPONSES,
        Surface::Conversations => &CONVERSATIONS,
        Surface::Chat => &CHAT,
        Surface::Completions | Surface::Embeddings | Surface::Moderations | Surface::Images | Surface::Audio => &OTHERS,
    }
}

/// The fields at the top that are acted on, by the places that [`Request`] has for them.
static FIELDS: Paths = Paths::new(&[&["model"], &["prompt_cache_key"], &["background"]]);

/// A request that names no model: nothing else than its references is acted on.
static NO_FIELDS: Paths = Paths::new(&[]);

/// A reference that a request makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Used {
    /// What it names.
    pub kind: Kind,
    /// Its hash; `None` where it can name nothing that is known: over 256 bytes, or no text.
    pub reference: Option<Reference>,
    /// The field that holds it, to word an error; `None` where the name of the field has no meaning.
    pub name: Option<&'static str>,
    /// Where its string stands in the body, quotes included.
    pub range: Range<u64>,
    /// What an upstream does with it.
    pub uses: Use,
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
    /// The items of `input` that only the account understands which made them, each with one comma.
    bound: Vec<Range<u64>>,
}

impl Request {
    /// Cuts out every item of `input` that only the account understands which made it: what is encrypted, records of reasoning and of
    /// hosted tools that are nothing but an id, and the outputs of calls among these. Sorted, apart from each other; the rest is valid
    /// JSON. Nothing else that is acted on stands in these ranges, so that they can be sorted in with other edits.
    pub fn without_bound(&self) -> Vec<Edit> {
        self.bound.iter().map(|range| Edit { range: range.clone(), with: Bytes::new() }).collect()
    }

    /// Whether a reference stands in what [`Request::without_bound`] cuts out.
    pub fn is_bound(&self, used: &Used) -> bool {
        let after = self.bound.partition_point(|cut| cut.end <= used.range.start);
        self.bound.get(after).is_some_and(|cut| cut.start <= used.range.start)
    }
}

/// Scans a request's body as it comes.
#[derive(Debug)]
pub struct RequestScan {
    scanner: Scanner<Finder<Requested>>,
}

impl RequestScan {
    /// A scan of nothing yet.
    pub fn new(endpoint: Endpoint) -> Self {
        let fields = if endpoint.carries() == Carries::Model { &FIELDS } else { &NO_FIELDS };
        let grammar = grammar(endpoint);
        Self { scanner: Scanner::seeking(fields, Repeats::Refuse, Finder::new(grammar, Requested::of(grammar))) }
    }

    /// Reads the next piece. Once it failed, it gives the same error for ever.
    pub fn feed(&mut self, piece: &[u8]) -> Result<(), JsonError> {
        self.scanner.feed(piece)
    }

    /// Call at the end of the body: it must be whole.
    pub fn finish(mut self) -> Result<Request, JsonError> {
        self.scanner.finish()?;
        let [model, prompt_cache_key, background] = [0, 1, 2].map(|field| self.scanner.found(field).cloned());
        let found = &mut self.scanner.sought_mut().collect;
        if let Some(at) = found.too_many() {
            return Err(JsonError { kind: JsonErrorKind::TooManyReferences, at });
        }
        let (references, bound) = (std::mem::take(&mut found.references), found.cuts.ranges());
        Ok(Request { model, prompt_cache_key, background, references, bound })
    }

    /// Bytes of memory that the references found so far take: up to about 1 MiB.
    pub fn held(&self) -> u64 {
        let found = &self.scanner.sought().collect;
        (found.references.capacity() * size_of::<Used>() + found.cuts.held()) as u64
    }
}

/// What was found so far.
#[derive(Debug)]
struct Requested {
    grammar: &'static Grammar,
    references: Vec<Used>,
    cuts: Cuts,
    /// The item of `input` or `items` that is open; there is none in another one.
    item: Option<Item>,
    /// Where a reference stands that is one too many.
    overflow: Option<u64>,
}

/// Where `input` itself is, and what is an item of it.
const INPUT_DEPTH: usize = 2;

impl Requested {
    fn of(grammar: &'static Grammar) -> Self {
        Self { grammar, references: Vec::new(), cuts: Cuts::default(), item: None, overflow: None }
    }

    /// The item whose own object this is.
    fn item(&mut self, level: Level) -> Option<&mut Item> {
        self.item.as_mut().filter(|item| item.is(level))
    }

    fn member(&self, rule: Option<usize>) -> u32 {
        rule.map_or(0, |rule| self.grammar.rules[rule].member)
    }

    /// Where a reference stands that is looked up and one too many.
    fn too_many(&self) -> Option<u64> {
        let mut looked_up =
            self.references.iter().filter(|used| used.uses == Use::LookedUp && used.kind != Kind::Encrypted);
        self.overflow.or_else(|| looked_up.nth(MOST_LOOKED_UP).map(|used| used.range.start))
    }
}

impl Collect for Requested {
    fn found(&mut self, hit: Hit) -> Result<(), JsonErrorKind> {
        let Hit { kind, reference, range, rule, is_id: is_like_id, .. } = hit;
        let name = rule.map(|rule| self.grammar.rules[rule].name);
        // Encrypted content is what it is wherever it stands in an item.
        let is_documented = rule.is_some_and(|rule| self.grammar.is_acted_on(rule)) || kind == Kind::Encrypted;
        let is_id = kind == Kind::Item && name == Some("id");
        if let Some(item) = &mut self.item {
            item.is_encrypted |= kind == Kind::Encrypted;
            if is_id {
                item.has_id(self.references.len());
            }
        }
        if self.references.len() == MOST {
            // Encrypted content only says where a request should go, and the id of an item is judged at its end.
            if kind != Kind::Encrypted && !(is_id && self.item.is_some()) {
                return Err(JsonErrorKind::TooManyReferences);
            }
            return Ok(());
        }
        let uses = match (is_documented, is_like_id) {
            (true, _) => Use::LookedUp,
            (false, true) => Use::Perhaps,
            (false, false) => Use::Hardly,
        };
        self.references.push(Used { kind, reference, name, range, uses });
        Ok(())
    }

    fn is_a(&mut self, level: Level, name: &str) {
        if let Some(item) = self.item(level) {
            item.is_a(name);
        }
    }

    fn calls(&mut self, level: Level, id: &str) {
        if let Some(item) = self.item(level) {
            item.call = Some(chance::seed(&[id]));
        }
    }

    fn open(&mut self, level: Level, rule: Option<usize>, at: u64) {
        let member = self.member(rule);
        match &mut self.item {
            Some(item) => item.opens(level, member),
            None if level.place == ITEM && !level.is_array => self.item = Some(Item::new(level, at)),
            None => {}
        }
    }

    #[inline]
    fn holds(&mut self, level: Level, rule: Option<usize>, is_empty: bool) {
        let member = self.member(rule);
        if let Some(item) = &mut self.item {
            item.holds(level, member, is_empty);
        }
    }

    fn close(&mut self, level: Level, end: u64) {
        if self.item(level).is_none() {
            return;
        }
        let Some(item) = self.item.take() else { return };
        let uses = item.uses();
        match item.id() {
            Some(place) if place < self.references.len() => self.references[place].uses = uses,
            Some(_) if uses != Use::Whole => self.overflow = self.overflow.or(Some(item.at)),
            _ => {}
        }
        if level.depth == INPUT_DEPTH + 1 {
            self.cuts.element(item.at..end, item.call, item.is_cuttable());
        }
    }

    fn comma(&mut self, level: Level, at: u64) {
        if level.place == ITEM && level.is_array && level.depth == INPUT_DEPTH {
            self.cuts.comma(at);
        }
    }

    fn clear(&mut self) {
        *self = Self::of(self.grammar);
    }
}
