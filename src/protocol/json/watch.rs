//! Matches keys to paths and keeps the values at the paths.

use std::{borrow::Cow, ops::Range};

use super::{FoundValue, JsonErrorKind, Value};

/// The most paths of one set: more than any reader needs, and one machine word of bits.
const MAX_PATHS: usize = 32;

/// The most names of one path: `response.usage.output_tokens_details.reasoning_tokens` has four.
const MAX_SEGMENTS: usize = 4;

/// Names are shorter than this. With letters outside of ASCII a name takes up to three times the bytes, which still fits the
/// kept part of a key.
const MAX_NAME: usize = 32;

/// The set of paths at which a JSON scan keeps values. A path is a list of object keys, from the top level down.
#[derive(Debug)]
pub struct Paths {
    paths: &'static [&'static [&'static str]],
    /// The paths that end at a level, by level.
    ends: [u32; MAX_SEGMENTS],
    /// By level and length: the paths whose name at this level has this length. The length excludes most keys from all paths.
    by_len: [[u32; MAX_NAME]; MAX_SEGMENTS],
    /// The paths to which [`DuplicatePolicy::Refuse`] applies.
    strict: u32,
}

impl Paths {
    /// Makes the set of paths at which a JSON scan keeps values: up to 32 different paths of one to four short ASCII names. Meant for a
    /// `static`: other paths do not compile there.
    pub const fn new(paths: &'static [&'static [&'static str]]) -> Self {
        assert!(paths.len() <= MAX_PATHS);
        let mut ends = [0; MAX_SEGMENTS];
        let mut by_len = [[0; MAX_NAME]; MAX_SEGMENTS];
        let mut i = 0;
        while i < paths.len() {
            let path = paths[i];
            assert!(!path.is_empty() && path.len() <= MAX_SEGMENTS);
            let mut segment = 0;
            while segment < path.len() {
                assert!(path[segment].is_ascii() && path[segment].len() < MAX_NAME);
                by_len[segment][path[segment].len()] |= 1 << i;
                segment += 1;
            }
            ends[path.len() - 1] |= 1 << i;
            i += 1;
        }
        Self { paths, ends, by_len, strict: u32::MAX }
    }

    /// Makes the paths from this index on hints. For a hint, the last of several values counts, and no JSON text is refused because of a
    /// repeated hint.
    pub const fn hints_from(mut self, place: usize) -> Self {
        assert!(place < MAX_PATHS);
        self.strict = (1 << place) - 1;
        self
    }
}

/// What a JSON scan does with keys that two parsers might read differently, for example a repeated key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DuplicatePolicy {
    /// Refuse the text: for fields that Tidegate uses. An object may contain a name of a path once, in its exact letter case (Go
    /// reads names in any letter case). Every other name in that object must be text.
    Refuse,
    /// Take the last value, as most parsers do: for fields that Tidegate only observes. Names match exactly. A value from an
    /// earlier object of the same name stays if a later object has none.
    LastWins,
}

/// The position of the scanner in the paths. Only objects on the way to a path are levels; `level` of them are open.
#[derive(Debug)]
pub(super) struct PathWatch {
    paths: &'static Paths,
    refuse: bool,
    level: usize,
    /// By level: the paths that may match in this object.
    live: [u32; MAX_SEGMENTS],
    /// By level: the paths whose name was seen in this object.
    seen: [u32; MAX_SEGMENTS],
    /// By level: the paths that end at the current value.
    wanted: [u32; MAX_SEGMENTS],
    /// By level: the offset of that value, if it is a container.
    began: [u64; MAX_SEGMENTS],
    /// The paths that continue inside the next value.
    deeper: u32,
    found: Vec<Option<FoundValue>>,
    /// The indices of `found` that are set.
    set: u32,
}

impl PathWatch {
    pub(super) fn new(paths: &'static Paths, repeats: DuplicatePolicy) -> Self {
        Self {
            paths,
            refuse: repeats == DuplicatePolicy::Refuse,
            level: 0,
            live: [0; MAX_SEGMENTS],
            seen: [0; MAX_SEGMENTS],
            wanted: [0; MAX_SEGMENTS],
            began: [0; MAX_SEGMENTS],
            deeper: 0,
            found: vec![None; paths.paths.len()],
            set: 0,
        }
    }

    pub(super) fn clear(&mut self) {
        self.level = 0;
        for path in bits(std::mem::take(&mut self.set)) {
            self.found[path] = None;
        }
    }

    pub(super) fn found(&self, path: usize) -> Option<&FoundValue> {
        self.found.get(path).and_then(Option::as_ref)
    }

    /// The number of open objects on the way to a path.
    pub(super) fn level(&self) -> u64 {
        self.level as u64
    }

    /// Whether keys are checked to their end.
    pub(super) fn checks_keys(&self) -> bool {
        self.refuse
    }

    /// Whether a path ends at the next value.
    pub(super) fn wants_value(&self) -> bool {
        self.wanted[self.level - 1] != 0
    }

    /// The last name of the path that ends at the current value.
    pub(super) fn wanted_name(&self) -> Option<&'static str> {
        let level = self.level.checked_sub(1)?;
        let path = self.paths.paths.get(self.wanted[level].trailing_zeros() as usize)?;
        path.get(level).copied()
    }

    /// Starts the top-level object.
    pub(super) fn begin(&mut self) {
        let all = self.paths.ends.iter().fold(0, |all, ends| all | ends);
        self.enter(all);
    }

    fn enter(&mut self, live: u32) {
        if live != 0 {
            self.live[self.level] = live;
            self.seen[self.level] = 0;
            self.wanted[self.level] = 0;
            self.deeper = 0;
            self.level += 1;
        }
    }

    /// Ends the object of the innermost level.
    pub(super) fn leave(&mut self) {
        self.level -= 1;
    }

    /// Handles a key of the innermost level, unescaped. Empty if the key is too long for any path.
    #[inline]
    pub(super) fn key(&mut self, key: &[u8]) -> Result<(), JsonErrorKind> {
        let level = self.level - 1;
        self.wanted[level] = 0;
        self.deeper = 0;
        let mut matching = 0;
        let live = self.live[level];
        let same_len = self.paths.by_len[level].get(key.len()).copied().unwrap_or_default();
        if live & same_len == 0 && !self.refuse {
            return Ok(());
        }
        for path in bits(live & same_len) {
            let name = self.paths.paths[path][level];
            if name.as_bytes() == key {
                matching |= 1 << path;
            } else if self.refuse && self.is_strict(path) && name.as_bytes().eq_ignore_ascii_case(key) {
                return Err(JsonErrorKind::LetterCase { name });
            }
        }
        if self.refuse && !key.is_ascii() {
            self.no_other_letters(live, key)?;
        }
        let again = matching & self.seen[level] & self.paths.strict;
        if self.refuse && again != 0 {
            return Err(JsonErrorKind::Repeated { name: self.paths.paths[again.trailing_zeros() as usize][level] });
        }
        self.seen[level] |= matching;
        self.wanted[level] = matching & self.paths.ends[level];
        self.deeper = matching & !self.paths.ends[level];
        Ok(())
    }

    fn is_strict(&self, path: usize) -> bool {
        self.paths.strict & (1 << path) != 0
    }

    /// Refuses a key outside of ASCII that a parser which folds letters would read as a name of a path.
    fn no_other_letters(&self, live: u32, key: &[u8]) -> Result<(), JsonErrorKind> {
        let Some(folded) = folded(key) else { return Ok(()) };
        let same_len = self.paths.by_len[self.level - 1].get(folded.len()).copied().unwrap_or_default();
        for path in bits(live & same_len & self.paths.strict) {
            let name = self.paths.paths[path][self.level - 1];
            if name.as_bytes().eq_ignore_ascii_case(&folded) {
                return Err(JsonErrorKind::LetterCase { name });
            }
        }
        Ok(())
    }

    /// Starts a container that is a value of the innermost level.
    pub(super) fn open(&mut self, object: bool, at: u64) {
        self.began[self.level - 1] = at;
        if object {
            self.enter(self.deeper);
        }
    }

    /// Ends a container that is a value of the innermost level.
    pub(super) fn close(&mut self, end: u64, value: Value) {
        self.put(self.began[self.level - 1]..end, value);
    }

    /// Ends a value of the innermost level.
    pub(super) fn put(&mut self, range: Range<u64>, value: Value) {
        let wanted = std::mem::take(&mut self.wanted[self.level - 1]);
        // At most one path: all paths are different.
        if let Some(found) = self.found.get_mut(wanted.trailing_zeros() as usize) {
            *found = Some(FoundValue { range, value });
        }
        self.set |= wanted;
    }
}

/// The indices of the bits that are set.
pub(in crate::protocol) fn bits(set: impl Into<u64>) -> impl Iterator<Item = usize> {
    let mut set = set.into();
    std::iter::from_fn(move || {
        let lowest = (set != 0).then(|| set.trailing_zeros() as usize)?;
        set &= set - 1;
        Some(lowest)
    })
}

/// The key with the two letters outside of ASCII replaced that Go's `encoding/json` folds into ASCII: `ſ` (U+017F) into `s`, the
/// Kelvin sign (U+212A) into `k`. Go compares names in any letter case. `None` for a key with any other letter outside of ASCII:
/// no name here equals such a key.
#[inline]
pub(in crate::protocol) fn folded(key: &[u8]) -> Option<Cow<'_, [u8]>> {
    if key.is_ascii() { Some(Cow::Borrowed(key)) } else { from_unicode(key) }
}

/// The two letters in UTF-8.
const LONG_S: &[u8] = "\u{17F}".as_bytes();
const KELVIN_SIGN: &[u8] = "\u{212A}".as_bytes();

fn from_unicode(key: &[u8]) -> Option<Cow<'static, [u8]>> {
    let mut ascii = Vec::new();
    let mut rest = key;
    while let Some((&byte, more)) = rest.split_first() {
        if byte.is_ascii() {
            ascii.push(byte);
            rest = more;
        } else if let Some(more) = rest.strip_prefix(LONG_S) {
            ascii.push(b's');
            rest = more;
        } else {
            rest = rest.strip_prefix(KELVIN_SIGN)?;
            ascii.push(b'k');
        }
    }
    Some(ascii.into())
}
