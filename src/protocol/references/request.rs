//! The references that a request makes, with the few fields that are acted on, out of one scan. The module `documented` has the table
//! of their places, and the rules.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    ops::Range,
};

use bytes::Bytes;

use super::{
    collect::{Collect, Hit, Level},
    cuts::CutFinder,
    documented::{ITEM, OUT, grammar},
    finder::Finder,
    grammar::Grammar,
    whole::OpenItem,
};
use crate::{
    domain::{
        endpoint::{AnswerShape, Endpoint, RequestBodyKind},
        origin::{Kind, Reference},
    },
    protocol::{
        body::Edit,
        json::{DuplicatePolicy, FoundValue, JsonError, JsonErrorKind, Paths, Scanner, Value},
    },
};

pub use super::whole::ReferenceUse;

/// Most references of one request that are kept, each as some 56 bytes. A stateless conversation makes up to two an item, and a context
/// of 400,000 tokens holds a few thousand items.
const MOST: usize = 8192;

/// Most references of one request that an upstream looks up, and that Tidegate looks up before: real requests have under 100, and a
/// thousand keep the store busy for milliseconds.
pub const MOST_LOOKED_UP: usize = 1024;

/// The fields at the top that are acted on, by the places that [`ScannedRequest`] has for them. `stream` is a hint: it decides only whether an
/// answer is read on without its client.
static FIELDS: Paths = Paths::new(&[&["model"], &["prompt_cache_key"], &["background"], &["stream"]]).hints_from(3);

/// The same of a chat, which may stream without telling its tokens.
static CHAT_FIELDS: Paths = Paths::new(&[
    &["model"],
    &["prompt_cache_key"],
    &["background"],
    &["stream"],
    &["stream_options"],
    &["stream_options", "include_usage"],
])
.hints_from(3);

/// A request that names no model: nothing else than its references is acted on.
static NO_FIELDS: Paths = Paths::new(&[]);

/// A reference that a request makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestReference {
    /// What it names.
    pub kind: Kind,
    /// Its hash; `None` where it can name nothing that is known: over 256 bytes, or no text.
    pub reference: Option<Reference>,
    /// The field that holds it, to word an error; `None` where the name of the field has no meaning.
    pub name: Option<&'static str>,
    /// Where its string stands in the body, quotes included.
    pub range: Range<u64>,
    /// What an upstream does with it.
    pub uses: ReferenceUse,
}

/// What was read out of a request's body.
#[derive(Debug, Default)]
pub struct ScannedRequest {
    /// `model`
    pub model: Option<FoundValue>,
    /// `prompt_cache_key`
    pub prompt_cache_key: Option<FoundValue>,
    /// `background`
    pub background: Option<FoundValue>,
    /// `stream`; of a chat also `stream_options` and its `include_usage`.
    pub streaming: Streaming,
    /// All references, in the order of the text.
    pub references: Vec<RequestReference>,
    /// The items of `input` that only the account understands which made them, each with one comma.
    bound: Vec<Range<u64>>,
}

/// What a request says of its stream.
#[derive(Debug, Default)]
pub struct Streaming {
    stream: Option<FoundValue>,
    options: Option<FoundValue>,
    include_usage: Option<FoundValue>,
}

impl Streaming {
    /// Whether `stream` is true.
    pub fn is_asked_for(&self) -> bool {
        self.stream.as_ref().is_some_and(|stream| stream.value == Value::Bool(true))
    }

    /// The edit after which the stream tells its tokens; `None` where there is no stream, where it does so already, and where
    /// `stream_options` is nothing that a provider could read. `has_members` = whether the object in this range of the body has any.
    pub fn telling(&self, has_members: impl FnOnce(Range<u64>) -> bool) -> Option<Edit> {
        let stream = self.stream.as_ref().filter(|stream| stream.value == Value::Bool(true))?;
        let edit = |range, with: &'static str| Some(Edit { range, with: Bytes::from_static(with.as_bytes()) });
        let options = self.options.as_ref();
        match (options.map(|options| (&options.value, options.range.clone())), &self.include_usage) {
            (_, Some(found)) if found.value == Value::Bool(true) => None,
            (_, Some(found)) => edit(found.range.clone(), "true"),
            (None, None) => edit(stream.range.end..stream.range.end, ",\"stream_options\":{\"include_usage\":true}"),
            (Some((Value::Null, range)), None) => edit(range, "{\"include_usage\":true}"),
            (Some((Value::Object, range)), None) => {
                let behind_brace = range.start + 1..range.start + 1;
                let with = if has_members(range) { "\"include_usage\":true," } else { "\"include_usage\":true" };
                edit(behind_brace, with)
            }
            (Some(_), None) => None,
        }
    }
}

impl ScannedRequest {
    /// Cuts out every item of `input` that only the account understands which made it: what is encrypted, records of reasoning and of
    /// hosted tools that are nothing but an id, and the outputs of calls among these. Sorted, apart from each other; the rest is valid
    /// JSON. Nothing else that is acted on stands in these ranges, so that they can be sorted in with other edits.
    pub fn without_bound(&self) -> Vec<Edit> {
        self.bound.iter().map(|range| Edit { range: range.clone(), with: Bytes::new() }).collect()
    }

    /// Whether a reference stands in what [`ScannedRequest::without_bound`] cuts out.
    pub fn is_bound(&self, used: &RequestReference) -> bool {
        let after = self.bound.partition_point(|cut| cut.end <= used.range.start);
        self.bound.get(after).is_some_and(|cut| cut.start <= used.range.start)
    }
}

/// Scans a request's body as it comes.
#[derive(Debug)]
pub struct RequestScan {
    scanner: Scanner<Finder<PartialScan>>,
}

impl RequestScan {
    /// A scan of nothing yet. With `opaque`, random texts without a prefix count as ids as well ([`Kind::Opaque`]). This costs time, so
    /// it is on only where an upstream gives such ids.
    pub fn new(endpoint: Endpoint, opaque: bool) -> Self {
        let fields = match endpoint.request_body() {
            RequestBodyKind::Model if endpoint.shape() == AnswerShape::Completion => &CHAT_FIELDS,
            RequestBodyKind::Model => &FIELDS,
            RequestBodyKind::Json | RequestBodyKind::Nothing => &NO_FIELDS,
        };
        let grammar = grammar(endpoint);
        let finder = Finder::new(grammar, opaque, PartialScan::of(grammar));
        Self { scanner: Scanner::seeking(fields, DuplicatePolicy::Refuse, finder) }
    }

    /// Reads the next piece. Once it failed, it gives the same error for ever.
    pub fn feed(&mut self, piece: &[u8]) -> Result<(), JsonError> {
        self.scanner.feed(piece)
    }

    /// Call at the end of the body: it must be whole.
    pub fn finish(mut self) -> Result<ScannedRequest, JsonError> {
        self.scanner.finish()?;
        let [model, prompt_cache_key, background, stream, options, include_usage] =
            [0, 1, 2, 3, 4, 5].map(|field| self.scanner.found(field).cloned());
        let streaming = Streaming { stream, options, include_usage };
        let found = &mut self.scanner.sought_mut().collect;
        if let Some(at) = found.too_many() {
            return Err(JsonError { kind: JsonErrorKind::TooManyReferences, at });
        }
        let (references, bound) = (std::mem::take(&mut found.references), found.cuts.ranges());
        Ok(ScannedRequest { model, prompt_cache_key, background, streaming, references, bound })
    }

    /// Bytes of memory that the references found so far take: up to about 1 MiB.
    pub fn held(&self) -> u64 {
        let found = &self.scanner.sought().collect;
        (found.references.capacity() * size_of::<RequestReference>() + found.cuts.held()) as u64
    }
}

/// What was found so far.
#[derive(Debug)]
struct PartialScan {
    grammar: &'static Grammar,
    references: Vec<RequestReference>,
    cuts: CutFinder,
    /// The item of `input` or `items` that is open; there is none in another one.
    item: Option<OpenItem>,
    /// Where a reference stands that is one too many.
    overflow: Option<u64>,
}

/// Where `input` itself is, and what is an item of it.
const INPUT_DEPTH: usize = 2;

impl PartialScan {
    fn of(grammar: &'static Grammar) -> Self {
        Self { grammar, references: Vec::new(), cuts: CutFinder::default(), item: None, overflow: None }
    }

    /// The item whose own object this is.
    fn item(&mut self, level: Level) -> Option<&mut OpenItem> {
        self.item.as_mut().filter(|item| item.is(level))
    }

    fn member(&self, rule: Option<usize>) -> u32 {
        rule.map_or(0, |rule| self.grammar.rules[rule].member)
    }

    /// Files that are looked up, by their places among the references.
    fn look_up(&mut self, files: &[usize]) {
        for file in files {
            if let Some(used) = self.references.get_mut(*file) {
                used.uses = ReferenceUse::LookedUp;
            }
        }
    }

    /// What is done with the id of an item, by its place among the references. What its value alone says stands behind it.
    fn uses(&mut self, place: usize, uses: ReferenceUse) {
        let at = self.references.get(place).map(|used| used.range.start);
        for (behind, used) in self.references.iter_mut().skip(place).take(2).enumerate() {
            if Some(used.range.start) == at {
                used.uses = if behind == 1 && uses == ReferenceUse::LookedUp { ReferenceUse::Perhaps } else { uses };
            }
        }
    }

    /// Where a reference stands that is looked up and one too many.
    fn too_many(&self) -> Option<u64> {
        let mut looked_up =
            self.references.iter().filter(|used| used.uses == ReferenceUse::LookedUp && used.kind != Kind::Encrypted);
        self.overflow.or_else(|| looked_up.nth(MOST_LOOKED_UP).map(|used| used.range.start))
    }
}

impl Collect for PartialScan {
    fn found(&mut self, hit: Hit) -> Result<(), JsonErrorKind> {
        let Hit { kind, reference, range, rule, is_id: is_like_id, by_value, place, .. } = hit;
        let name = rule.map(|rule| self.grammar.rules[rule].name);
        // Encrypted content is what it is wherever it stands in an item.
        let is_documented = rule.is_some_and(|rule| self.grammar.is_acted_on(rule)) || kind == Kind::Encrypted;
        let is_id = kind == Kind::Item && name == Some("id");
        if let Some(item) = &mut self.item {
            item.is_encrypted |= kind == Kind::Encrypted;
            if is_id {
                item.has_id(self.references.len());
            }
            if place == OUT && name == Some("file_id") {
                item.names_file(self.references.len());
            }
        }
        if self.references.len() >= MOST {
            // Encrypted content only says where a request should go, and the id of an item is judged at its end.
            if kind != Kind::Encrypted && !(is_id && self.item.is_some()) {
                return Err(JsonErrorKind::TooManyReferences);
            }
            return Ok(());
        }
        let uses = match (is_documented, is_like_id) {
            (true, _) => ReferenceUse::LookedUp,
            (false, true) => ReferenceUse::Perhaps,
            (false, false) => ReferenceUse::Hardly,
        };
        self.references.push(RequestReference { kind, reference, name, range: range.clone(), uses });
        // One more than there may be is no harm: what comes next is refused.
        if let Some((kind, reference)) = by_value {
            self.references.push(RequestReference {
                kind,
                reference: Some(reference),
                name,
                range,
                uses: ReferenceUse::Perhaps,
            });
        }
        Ok(())
    }

    fn is_labelled(&mut self, level: Level, name: &str, word: &[u8]) {
        if level.place == OUT
            && name == "type"
            && let Some(item) = &mut self.item
        {
            item.is_part(word);
        }
    }

    fn is_a(&mut self, level: Level, name: &str) {
        if let Some(item) = self.item(level) {
            item.is_a(name);
        }
    }

    fn calls(&mut self, level: Level, id: &str) {
        if let Some(item) = self.item(level) {
            // Compared within one request only: what a client gains by two that are alike is a cut more in its own request.
            let mut hash = DefaultHasher::new();
            id.hash(&mut hash);
            item.call = Some(hash.finish());
        }
    }

    fn open(&mut self, level: Level, rule: Option<usize>, at: u64) {
        let member = self.member(rule);
        match &mut self.item {
            Some(item) => {
                item.opens(level, member);
                if level.place == OUT && !level.is_array {
                    item.opens_part();
                }
            }
            None if level.place == ITEM && !level.is_array => self.item = Some(OpenItem::new(level, at)),
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
        if level.place == OUT && !level.is_array {
            let files = self.item.as_mut().map(OpenItem::closes_part).unwrap_or_default();
            self.look_up(&files);
        }
        if self.item(level).is_none() {
            return;
        }
        let Some(item) = self.item.take() else { return };
        self.look_up(item.files());
        let uses = item.uses();
        match item.id() {
            Some(place) if place < self.references.len() => self.uses(place, uses),
            Some(_) if uses != ReferenceUse::Whole => self.overflow = self.overflow.or(Some(item.at)),
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
