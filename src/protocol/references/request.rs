//! Finds the references in a request, and the few fields that Tidegate acts on, in one scan. The module `documented` has the
//! table of their places, and the rules.

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
        origin::{Reference, ReferenceKind},
    },
    protocol::{
        body::Edit,
        json::{DuplicatePolicy, FoundValue, JsonError, JsonErrorKind, Paths, Scanner, Value},
    },
};

pub use super::whole::ReferenceUse;

/// The most references of one request that are kept, at about 56 bytes each. A stateless conversation has up to two for each
/// item, and a context of 400,000 tokens contains a few thousand items.
const MOST: usize = 8192;

/// The most ids of stored objects that one request may make an upstream, and first Tidegate, look up. Real requests have fewer than 100,
/// and a thousand keep the store busy for milliseconds.
pub const MOST_LOOKED_UP: usize = 1024;

/// The top-level fields that Tidegate acts on, in the order in which [`RequestScan::finish`] reads them. `stream` is a hint: it
/// only decides whether an answer is drained after its client left.
static FIELDS: Paths = Paths::new(&[&["model"], &["prompt_cache_key"], &["background"], &["stream"]]).hints_from(3);

/// The same fields for a chat, whose stream may not report its usage.
static CHAT_FIELDS: Paths = Paths::new(&[
    &["model"],
    &["prompt_cache_key"],
    &["background"],
    &["stream"],
    &["stream_options"],
    &["stream_options", "include_usage"],
])
.hints_from(3);

/// The fields of a request without a model: Tidegate only acts on its references.
static NO_FIELDS: Paths = Paths::new(&[]);

/// An id of a stored object (response, item, file) in the body of a request: its hash, its place, and how an upstream uses the id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestReference {
    /// The kind of the named object.
    pub kind: ReferenceKind,
    /// The hash of the id. `None` if the id cannot be a known one: it is longer than 256 bytes, or no text.
    pub reference: Option<Reference>,
    /// The field that contains it, for error messages. `None` if the name of the field has no meaning.
    pub name: Option<&'static str>,
    /// The range of its string in the body, including the quotes.
    pub range: Range<u64>,
    /// How an upstream uses the reference.
    pub uses: ReferenceUse,
}

/// What Tidegate reads in the body of a request: the model, a few other fields, and all ids of stored objects.
#[derive(Debug, Default)]
pub struct ScannedRequest {
    /// `model`
    pub model: Option<FoundValue>,
    /// `prompt_cache_key`
    pub prompt_cache_key: Option<FoundValue>,
    /// `background`
    pub background: Option<FoundValue>,
    /// `stream`; for a chat also `stream_options` and its `include_usage`.
    pub streaming: Streaming,
    /// All references, in the order of the text.
    pub references: Vec<RequestReference>,
    /// The items of `input` that only the account which made them can read, each with one comma.
    bound: Vec<Range<u64>>,
}

/// The fields of a request body that say whether the client wants a stream, and whether the stream reports its usage.
#[derive(Debug, Default)]
pub struct Streaming {
    stream: Option<FoundValue>,
    options: Option<FoundValue>,
    include_usage: Option<FoundValue>,
}

impl Streaming {
    /// Whether the request asks for a stream: its field `stream` is true.
    pub fn is_asked_for(&self) -> bool {
        self.stream.as_ref().is_some_and(|stream| stream.value == Value::Bool(true))
    }

    /// Returns the edit of the request body that makes the stream report its usage (`include_usage`). `None` if the request has no
    /// stream, if the stream reports its usage already, or if no provider can read its `stream_options`. `has_members`: whether the
    /// object in this range of the body has any members.
    pub fn edit_to_report_usage(&self, has_members: impl FnOnce(Range<u64>) -> bool) -> Option<Edit> {
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
    /// Returns the edits of the request body that remove every item of `input` that only the account which made the item can read. Such
    /// items are encrypted content, records of reasoning and of hosted tools that only have an id, and the outputs of these calls.
    ///
    /// The edits are sorted and do not overlap, and the rest is valid JSON. Tidegate acts on nothing else in these ranges, so
    /// that the edits can be merged with others.
    pub fn without_bound(&self) -> Vec<Edit> {
        self.bound.iter().map(|range| Edit { range: range.clone(), with: Bytes::new() }).collect()
    }

    /// Whether this id is in an item of the request that [`ScannedRequest::without_bound`] removes.
    pub fn is_bound(&self, used: &RequestReference) -> bool {
        let after = self.bound.partition_point(|cut| cut.end <= used.range.start);
        self.bound.get(after).is_some_and(|cut| cut.start <= used.range.start)
    }
}

/// Scans the body of a request while the body arrives: finds the model, a few other fields, and all ids of stored objects.
#[derive(Debug)]
pub struct RequestScan {
    scanner: Scanner<Finder<PartialScan>>,
}

impl RequestScan {
    /// Starts the scan of a request body for this endpoint. With `opaque`, random texts without a known prefix are ids as well
    /// ([`ReferenceKind::Opaque`]). That costs time, and is needed only if an upstream makes such ids.
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

    /// Scans the next piece of the request body. After an error every call returns the same error.
    pub fn feed(&mut self, piece: &[u8]) -> Result<(), JsonError> {
        self.scanner.feed(piece)
    }

    /// Ends the scan at the end of the request body. Returns the fields and ids that the scan found. Fails if the JSON is not complete.
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

    /// Returns how many bytes of memory the ids that were found in the request so far take: up to about 1 MiB.
    pub fn held(&self) -> u64 {
        let found = &self.scanner.sought().collect;
        (found.references.capacity() * size_of::<RequestReference>() + found.cuts.held()) as u64
    }
}

/// The references and cuts so far.
#[derive(Debug)]
struct PartialScan {
    grammar: &'static Grammar,
    references: Vec<RequestReference>,
    cuts: CutFinder,
    /// The open item of `input` or `items`. Items inside of an item do not count.
    item: Option<OpenItem>,
    /// The offset of the first reference beyond the limit.
    overflow: Option<u64>,
}

/// The depth of the array `input`. Its items are one level deeper.
const INPUT_DEPTH: usize = 2;

impl PartialScan {
    fn of(grammar: &'static Grammar) -> Self {
        Self { grammar, references: Vec::new(), cuts: CutFinder::default(), item: None, overflow: None }
    }

    /// Returns the open item, if `level` is the item's own object.
    fn item(&mut self, level: Level) -> Option<&mut OpenItem> {
        self.item.as_mut().filter(|item| item.is(level))
    }

    fn member(&self, rule: Option<usize>) -> u32 {
        rule.map_or(0, |rule| self.grammar.rules[rule].member)
    }

    /// Marks files as looked up, by their indices among the references.
    fn look_up(&mut self, files: &[usize]) {
        for file in files {
            if let Some(used) = self.references.get_mut(*file) {
                used.uses = ReferenceUse::LookedUp;
            }
        }
    }

    /// Sets the use of the id of an item, by its index among the references. The reference that follows may be the one that the
    /// id's own value indicates.
    fn uses(&mut self, place: usize, uses: ReferenceUse) {
        let at = self.references.get(place).map(|used| used.range.start);
        for (behind, used) in self.references.iter_mut().skip(place).take(2).enumerate() {
            if Some(used.range.start) == at {
                used.uses = if behind == 1 && uses == ReferenceUse::LookedUp { ReferenceUse::Perhaps } else { uses };
            }
        }
    }

    /// Returns the offset of the first reference that is one too many to look up.
    fn too_many(&self) -> Option<u64> {
        let mut looked_up = self
            .references
            .iter()
            .filter(|used| used.uses == ReferenceUse::LookedUp && used.kind != ReferenceKind::Encrypted);
        self.overflow.or_else(|| looked_up.nth(MOST_LOOKED_UP).map(|used| used.range.start))
    }
}

impl Collect for PartialScan {
    fn found(&mut self, hit: Hit) -> Result<(), JsonErrorKind> {
        let Hit { kind, reference, range, rule, is_id: is_like_id, by_value, place, .. } = hit;
        let name = rule.map(|rule| self.grammar.rules[rule].name);
        // Encrypted content counts as documented anywhere in an item.
        let is_documented = rule.is_some_and(|rule| self.grammar.is_acted_on(rule)) || kind == ReferenceKind::Encrypted;
        let is_id = kind == ReferenceKind::Item && name == Some("id");
        if let Some(item) = &mut self.item {
            item.is_encrypted |= kind == ReferenceKind::Encrypted;
            if is_id {
                item.has_id(self.references.len());
            }
            if place == OUT && name == Some("file_id") {
                item.names_file(self.references.len());
            }
        }
        if self.references.len() >= MOST {
            // Encrypted content only decides the account of a request, and the id of an item is judged at the item's end.
            if kind != ReferenceKind::Encrypted && !(is_id && self.item.is_some()) {
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
        // This may be one reference above the limit. The next one is refused.
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
            // The hash is only compared within one request. A client that makes two of them equal only causes another cut in its
            // own request.
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
