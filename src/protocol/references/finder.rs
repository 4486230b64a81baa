//! Follows a text by a grammar: which place is open, what a name means there, which strings are references.

use std::ops::Range;

use super::grammar::{Grammar, Place, SKIP, TOP, Take};
use crate::{
    domain::origin::{Kind, Reference, ReferenceHash},
    protocol::json::{JsonErrorKind, Seek, Wish, bits, same_folded},
};

/// Levels that are followed: 16 bytes each. What is documented needs under 10 of them; schemas and other free-form parts,
/// which may be deep, cost none. See [`Finder`] for what is deeper.
const MAX_LEVELS: usize = 64;

/// Longer ids are none: OpenAI's have under 100 bytes.
pub(super) const MAX_ID: usize = 256;

/// Curated skills of OpenAI itself (`openai-spreadsheets`) are in every account. Those that somebody made are `skill_…`.
const CURATED_SKILL: &str = "openai-";

/// A reference as it was found.
#[derive(Debug)]
pub(in crate::protocol) struct Hit {
    pub(super) kind: Kind,
    /// `None`: it is too long for an id, or no text.
    pub(super) reference: Option<Reference>,
    /// Index of its rule.
    pub(super) rule: usize,
    /// Index of the rule of the name at the top that it is below.
    pub(super) top_rule: Option<usize>,
    /// How many containers are open around it.
    pub(super) depth: usize,
    pub(super) range: Range<u64>,
}

/// A container that is open.
#[derive(Clone, Copy, Debug)]
pub(in crate::protocol) struct Level {
    /// What its names mean; of an array: those of the objects in it.
    pub(super) place: Place,
    pub(super) is_array: bool,
    /// How many are open with it: 1 at the top.
    pub(super) depth: usize,
}

/// Takes what a [`Finder`] finds.
pub(in crate::protocol) trait Collect {
    /// A reference.
    fn found(&mut self, hit: Hit) -> Result<(), JsonErrorKind>;

    /// The `type` of the object that is `level`.
    fn is_a(&mut self, level: Level, name: &str);

    /// What is called for by [`Take::Presence`] is there in the object that is `level`.
    fn has(&mut self, level: Level, what: u16);

    /// A container that is followed begins.
    fn open(&mut self, level: Level, at: u64);

    /// It ends before `end`.
    fn close(&mut self, level: Level, end: u64);

    /// A comma of it.
    fn comma(&mut self, level: Level, at: u64);

    /// A new text begins.
    fn clear(&mut self);
}

/// What holds for the value that comes next.
#[derive(Clone, Copy, Debug)]
struct Next {
    /// Index of the rule of its name; [`Next::NO_RULE`] = none.
    rule: u8,
    /// What it is, if it is an object.
    into: Place,
}

impl Next {
    const NO_RULE: u8 = u8::MAX;

    fn plain(into: Place) -> Self {
        Self { rule: Self::NO_RULE, into }
    }

    fn rule(self) -> Option<usize> {
        (self.rule != Self::NO_RULE).then_some(usize::from(self.rule))
    }
}

/// A container that is open.
#[derive(Clone, Copy, Debug)]
struct Frame {
    place: Place,
    is_array: bool,
    /// Of an array: what holds for each of its values.
    each: Next,
    /// Of an object: the rules whose names were seen in it.
    seen: u64,
}

/// Seeks the references of a grammar.
///
/// Followed are 64 levels, not counting those inside of what is skipped. A strict grammar has no blind spot below: a name that
/// would be looked at there is an error. A grammar that only looks sees nothing below.
#[derive(Debug)]
pub(in crate::protocol) struct Finder<C> {
    grammar: &'static Grammar,
    frames: Vec<Frame>,
    /// Levels that are open below the followed ones.
    below: u64,
    /// Levels that are open from the one on that is skipped.
    skipped: u64,
    /// After a key: what holds for its value.
    next: Next,
    top_rule: Option<usize>,
    hash: Option<ReferenceHash>,
    /// What was found.
    pub(in crate::protocol) collect: C,
}

impl<C: Collect> Finder<C> {
    pub(super) fn new(grammar: &'static Grammar, collect: C) -> Self {
        Self {
            grammar,
            frames: Vec::new(),
            below: 0,
            skipped: 0,
            next: Next::plain(TOP),
            top_rule: None,
            hash: None,
            collect,
        }
    }

    /// What holds for the next value.
    #[inline]
    fn next(&self) -> Next {
        match self.frames.last() {
            Some(frame) if frame.is_array && self.below == 0 => frame.each,
            _ => self.next,
        }
    }

    /// What holds for a value of which nothing is known.
    fn anything(&self) -> Next {
        Next::plain(self.grammar.elsewhere(TOP))
    }

    #[inline]
    fn taken(&self) -> Option<(usize, Take)> {
        // What a request may mean is wider than what a provider is believed.
        let in_array = || self.frames.last().is_some_and(|frame| frame.is_array);
        if self.skipped > 0 || (!self.grammar.strict && in_array()) {
            return None;
        }
        let rule = self.next().rule()?;
        Some((rule, self.grammar.rules[rule].take?))
    }

    fn level(&self) -> Option<Level> {
        let frame = self.frames.last()?;
        Some(Level { place: frame.place, is_array: frame.is_array, depth: self.frames.len() })
    }

    /// The rule of a key among `rules`.
    #[inline]
    fn rule(&self, rules: u64, key: &[u8]) -> Result<Option<usize>, JsonErrorKind> {
        for rule in bits(rules) {
            let name = self.grammar.rules[rule].name;
            if name.as_bytes() == key {
                return Ok(Some(rule));
            }
            let folded =
                || if key.is_ascii() { name.as_bytes().eq_ignore_ascii_case(key) } else { same_folded(name, key) };
            if self.grammar.strict && self.grammar.is_acted_on(rule) && folded() {
                return Err(JsonErrorKind::LetterCase { name });
            }
        }
        Ok(None)
    }

    /// A key below the levels that are followed.
    fn key_below(&mut self, key: &[u8]) -> Result<(), JsonErrorKind> {
        self.next = self.anything();
        match self.rule(self.grammar.like(self.next.into, key), key) {
            Ok(None) => Ok(()),
            Ok(Some(rule)) if !self.grammar.is_acted_on(rule) => {
                self.next = Next::plain(SKIP);
                Ok(())
            }
            _ => Err(JsonErrorKind::TooDeep),
        }
    }

    /// A string or a container begins.
    fn presence(&mut self) {
        if let Some((_, Take::Presence(what))) = self.taken()
            && let Some(level) = self.level()
            && !level.is_array
        {
            self.collect.has(level, what);
        }
    }

    fn hit(
        &mut self,
        rule: usize,
        kind: Kind,
        reference: Option<Reference>,
        range: Range<u64>,
    ) -> Result<(), JsonErrorKind> {
        self.collect.found(Hit { kind, reference, rule, top_rule: self.top_rule, depth: self.frames.len(), range })
    }
}

impl<C: Collect> Seek for Finder<C> {
    #[inline]
    fn looks(&self) -> bool {
        self.skipped == 0
    }

    #[inline]
    fn key(&mut self, key: &[u8]) -> Result<(), JsonErrorKind> {
        if self.below > 0 {
            return self.key_below(key);
        }
        let Some(&Frame { place, seen, .. }) = self.frames.last() else { return Ok(()) };
        let like = self.grammar.like(place, key);
        let rule = if like == 0 { None } else { self.rule(like, key)? };
        self.next = match rule {
            None => Next::plain(self.grammar.elsewhere(place)),
            Some(rule) => Next { rule: rule as u8, into: self.grammar.into(place, rule) },
        };
        if self.frames.len() == 1 {
            self.top_rule = rule;
        }
        if let Some(rule) = rule
            && self.grammar.strict
            && self.grammar.is_acted_on(rule)
        {
            if seen & 1 << rule != 0 {
                return Err(JsonErrorKind::Repeated { name: self.grammar.rules[rule].name });
            }
            if let Some(frame) = self.frames.last_mut() {
                frame.seen |= 1 << rule;
            }
        }
        Ok(())
    }

    #[inline]
    fn wish(&self) -> Wish {
        match self.taken() {
            None => Wish::Nothing,
            Some((_, Take::Presence(_))) => Wish::Begin,
            Some((_, Take::Encrypted)) => Wish::Pieces,
            Some(_) => Wish::Text,
        }
    }

    fn begins(&mut self) {
        self.presence();
    }

    fn text(&mut self, range: Range<u64>, text: Option<&str>) -> Result<(), JsonErrorKind> {
        match self.taken() {
            Some((rule, Take::Id(kind))) => {
                let nobodys = |text: &str| text.is_empty() || (kind == Kind::Skill && text.starts_with(CURATED_SKILL));
                if text.is_some_and(nobodys) {
                    return Ok(());
                }
                let text = text.filter(|text| text.len() <= MAX_ID);
                self.hit(rule, kind, text.map(|text| Reference::new(kind, text.as_bytes())), range)
            }
            Some((_, Take::Type)) => {
                if let Some(level) = self.level() {
                    self.collect.is_a(level, text.unwrap_or_default());
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn piece(&mut self, piece: &[u8]) {
        self.hash.get_or_insert_with(|| ReferenceHash::new(Kind::Encrypted)).update(piece);
    }

    fn end(&mut self, range: Range<u64>, is_text: bool) -> Result<(), JsonErrorKind> {
        // Without a piece it is empty; one that is no text from its first byte on still is something.
        let hash = self.hash.take();
        match self.taken() {
            Some((rule, Take::Encrypted)) if hash.is_some() || !is_text => {
                let reference = hash.filter(|_| is_text).map(ReferenceHash::end);
                self.hit(rule, Kind::Encrypted, reference, range)
            }
            _ => Ok(()),
        }
    }

    fn open(&mut self, object: bool, at: u64) -> Result<(), JsonErrorKind> {
        if self.skipped > 0 {
            self.skipped += 1;
            return Ok(());
        }
        self.presence();
        let each = self.next();
        if each.into == SKIP {
            self.skipped = 1;
            return Ok(());
        }
        if self.frames.len() == MAX_LEVELS {
            if !self.grammar.strict {
                self.skipped = 1;
            } else if each.rule().is_some() {
                return Err(JsonErrorKind::TooDeep);
            } else {
                self.below += 1;
                self.next = self.anything();
            }
            return Ok(());
        }
        self.frames.push(Frame { place: each.into, is_array: !object, each, seen: 0 });
        if let Some(level) = self.level() {
            self.collect.open(level, at);
        }
        Ok(())
    }

    fn close(&mut self, end: u64) {
        if self.skipped > 0 {
            self.skipped -= 1;
        } else if self.below > 0 {
            self.below -= 1;
            // In an array nothing more is known of what follows.
            self.next = self.anything();
        } else if let Some(level) = self.level() {
            self.collect.close(level, end);
            self.frames.pop();
        }
    }

    #[inline]
    fn comma(&mut self, at: u64) {
        if self.skipped == 0
            && self.below == 0
            && let Some(level) = self.level()
        {
            self.collect.comma(level, at);
        }
    }

    fn clear(&mut self) {
        self.frames.clear();
        self.below = 0;
        self.skipped = 0;
        self.next = Next::plain(TOP);
        self.top_rule = None;
        self.hash = None;
        self.collect.clear();
    }
}
