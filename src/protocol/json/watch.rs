//! Matches keys to paths and keeps what stands there.

use std::{borrow::Cow, ops::Range};

use super::{FoundValue, JsonErrorKind, Value};

/// More than any reader here needs, and one machine word of bits.
const MAX_PATHS: usize = 32;

/// `response.usage.output_tokens_details.reasoning_tokens` is the longest there is.
const MAX_SEGMENTS: usize = 4;

/// Names are shorter than this. One in other letters may take three bytes for one, and still fits what is kept of a key.
const MAX_NAME: usize = 32;

/// A set of paths: each a list of object keys from the top level down.
#[derive(Debug)]
pub struct Paths {
    paths: &'static [&'static [&'static str]],
    /// The paths that end at a level, by level.
    ends: [u32; MAX_SEGMENTS],
    /// The paths whose name at a level has a length, by level and length: most keys are told from all of them by it.
    by_len: [[u32; MAX_NAME]; MAX_SEGMENTS],
    /// The paths to which [`DuplicatePolicy::Refuse`] applies.
    strict: u32,
}

impl Paths {
    /// Up to 32 paths, no two alike, of one to four short ASCII names. Meant for a `static`: more or longer ones do not compile there.
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

    /// The same; the paths from this place on are hints. Nothing depends on whether another parser reads them alike, so that the last
    /// one counts and none is refused.
    pub const fn hints_from(mut self, place: usize) -> Self {
        assert!(place < MAX_PATHS);
        self.strict = (1 << place) - 1;
        self
    }
}

/// What to do about keys that two parsers might read in two ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DuplicatePolicy {
    /// Refuse the text: for what we act on. A name on a path may stand once in its object, in its own letters only (Go reads
    /// names in any letter case), and every name beside it must be text.
    Refuse,
    /// Take the last, as most parsers do: for what we only look at. Names match exactly. A value that an earlier object of the
    /// same name gave stays where a later one gives none.
    LastWins,
}

/// Where in the paths the scanner is. Only objects on the way to a path count as levels; `level` of them are open.
#[derive(Debug)]
pub(super) struct PathWatch {
    paths: &'static Paths,
    refuse: bool,
    level: usize,
    /// By level: the paths that may match in this object.
    live: [u32; MAX_SEGMENTS],
    /// By level: the paths whose name was seen in this object.
    seen: [u32; MAX_SEGMENTS],
    /// By level: the paths that want the value that is being read.
    wanted: [u32; MAX_SEGMENTS],
    /// By level: where that value began, if it is a container.
    began: [u64; MAX_SEGMENTS],
    /// The paths that go on inside the value that comes next.
    deeper: u32,
    found: Vec<Option<FoundValue>>,
    /// Those of `found` that are set.
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

    /// How many objects on the way to a path are open.
    pub(super) fn level(&self) -> u64 {
        self.level as u64
    }

    /// A key is to be checked to its end.
    pub(super) fn checks_keys(&self) -> bool {
        self.refuse
    }

    /// Some path ends at the value that comes next.
    pub(super) fn wants_value(&self) -> bool {
        self.wanted[self.level - 1] != 0
    }

    /// The last name of the path that ends at the value that is being read.
    pub(super) fn wanted_name(&self) -> Option<&'static str> {
        let level = self.level.checked_sub(1)?;
        let path = self.paths.paths.get(self.wanted[level].trailing_zeros() as usize)?;
        path.get(level).copied()
    }

    /// The top-level object begins.
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

    /// The object of the innermost level ends.
    pub(super) fn leave(&mut self) {
        self.level -= 1;
    }

    /// A key of the innermost level, unescaped; empty where it is too long for any path.
    #[inline]
    pub(super) fn key(&mut self, key: &[u8]) -> Result<(), JsonErrorKind> {
        let level = self.level - 1;
        self.wanted[level] = 0;
        self.deeper = 0;
        let mut matching = 0;
        let live = self.live[level];
        let same_len = self.paths.by_len[level].get(key.len()).copied().unwrap_or_default();
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

    /// A key that is not ASCII is none of the names; nor may it be one to a parser that folds letters.
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

    /// A container begins as a value of the innermost level.
    pub(super) fn open(&mut self, object: bool, at: u64) {
        self.began[self.level - 1] = at;
        if object {
            self.enter(self.deeper);
        }
    }

    /// A container that is a value of the innermost level has ended.
    pub(super) fn close(&mut self, end: u64, value: Value) {
        self.put(self.began[self.level - 1]..end, value);
    }

    /// A value of the innermost level has ended.
    pub(super) fn put(&mut self, range: Range<u64>, value: Value) {
        let wanted = std::mem::take(&mut self.wanted[self.level - 1]);
        // One at most: no two paths are alike.
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

/// A key as Go's `encoding/json` compares it, but for its letter case: that parser takes a field by its name in any letter case, and two
/// letters outside of ASCII fold into it, `ſ` (U+017F) into `s` and the Kelvin sign (U+212A) into `k`. `None` for a key with any other
/// letter outside of ASCII: it is like no name here.
#[inline]
pub(in crate::protocol) fn folded(key: &[u8]) -> Option<Cow<'_, [u8]>> {
    if key.is_ascii() { Some(Cow::Borrowed(key)) } else { from_unicode(key) }
}

/// UTF-8 of the two letters.
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
