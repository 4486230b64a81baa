//! Follows a text by a grammar: which place is open, what a name means there, which strings are references.

use std::ops::Range;

use super::{
    grammar::{Grammar, ObjectKind, SKIP, StringRule, TOP},
    ids::{kind_of, may_begin_id},
};
use crate::{
    domain::origin::{Kind, Reference, ReferenceHash},
    protocol::json::{JsonErrorKind, KeyVisitor, StringInterest, bits, folded},
};

/// Levels that are followed: 16 bytes each. What is documented needs under 10 of them. See [`Finder`] for what is deeper.
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
    /// Index of its rule; `None` where its value alone looks like an id.
    pub(super) rule: Option<usize>,
    /// It is an id rather than a word.
    pub(super) is_id: bool,
    /// Index of the rule of the name at the top that it is below.
    pub(super) top_rule: Option<usize>,
    pub(super) range: Range<u64>,
}

/// A container that is open.
#[derive(Clone, Copy, Debug)]
pub(in crate::protocol) struct Level {
    /// What its names mean; of an array: those of the objects in it.
    pub(super) place: ObjectKind,
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

    /// The `call_id` of the object that is `level`.
    fn calls(&mut self, _level: Level, _id: &str) {}

    /// A container that is followed begins; `rule` is the index of the rule of its name, if it has one.
    fn open(&mut self, level: Level, rule: Option<usize>, at: u64);

    /// A string, a number or a boolean stands in `level`, at the name of the rule `rule`, if it has one.
    fn holds(&mut self, _level: Level, _rule: Option<usize>, _is_empty: bool) {}

    /// It ends before `end`.
    fn close(&mut self, level: Level, end: u64);

    /// A comma of it.
    fn comma(&mut self, level: Level, at: u64);

    /// A new text begins.
    fn clear(&mut self);
}

/// What holds for the value that comes next.
#[derive(Clone, Copy, Debug)]
struct NextValue {
    /// Index of the rule of its name; [`NextValue::NO_RULE`] = none.
    rule: u8,
    /// What it is, if it is an object.
    into: ObjectKind,
}

impl NextValue {
    const NO_RULE: u8 = u8::MAX;

    fn plain(into: ObjectKind) -> Self {
        Self { rule: Self::NO_RULE, into }
    }

    fn rule(self) -> Option<usize> {
        (self.rule != Self::NO_RULE).then_some(usize::from(self.rule))
    }
}

/// A container that is open.
#[derive(Clone, Copy, Debug)]
struct OpenContainer {
    place: ObjectKind,
    is_array: bool,
    /// Of an array: what holds for each of its values.
    each: NextValue,
    /// Of an object: the rules whose names were seen in it.
    seen: u64,
}

/// Seeks the references of a grammar.
///
/// In a strict grammar every string is looked at, wherever it stands, unless it is text: those at the names of the grammar for what the
/// names say, all others for their value ([`kind_of`]). Names count in the first 64 levels, values below them as well. A grammar
/// that is not strict looks at its names only, in 64 levels, not counting those inside of what it skips.
#[derive(Debug)]
pub(in crate::protocol) struct Finder<C> {
    grammar: &'static Grammar,
    frames: Vec<OpenContainer>,
    /// Levels that are open below the followed ones.
    below: u64,
    /// Levels that are open from the one on that is skipped.
    skipped: u64,
    /// After a key: what holds for its value.
    next: NextValue,
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
            next: NextValue::plain(TOP),
            top_rule: None,
            hash: None,
            collect,
        }
    }

    /// What holds for the next value.
    #[inline]
    fn next(&self) -> NextValue {
        match self.frames.last() {
            Some(frame) if frame.is_array && self.below == 0 => frame.each,
            _ => self.next,
        }
    }

    /// What holds for a value of which nothing is known.
    fn anything(&self) -> NextValue {
        NextValue::plain(self.grammar.elsewhere(TOP))
    }

    #[inline]
    fn taken(&self) -> Option<(usize, StringRule)> {
        // What a request may mean is wider than what a provider is believed.
        let in_array = || self.frames.last().is_some_and(|frame| frame.is_array);
        if self.skipped > 0 || (!self.grammar.strict && in_array()) {
            return None;
        }
        let rule = self.next().rule()?;
        Some((rule, self.grammar.rules[rule].take?))
    }

    /// A string, a number or a boolean stands at the next value.
    #[inline]
    fn holds(&mut self, is_empty: bool) {
        let rule = self.next().rule();
        if let Some(level) = self.level() {
            self.collect.holds(level, rule, is_empty);
        }
    }

    fn level(&self) -> Option<Level> {
        let frame = self.frames.last()?;
        Some(Level { place: frame.place, is_array: frame.is_array, depth: self.frames.len() })
    }

    /// The rule of a key in this place.
    #[inline]
    fn rule(&self, place: ObjectKind, key: &[u8]) -> Result<Option<usize>, JsonErrorKind> {
        for rule in bits(self.grammar.like(place, key.len())) {
            if self.grammar.rules[rule].name.as_bytes() == key {
                return Ok(Some(rule));
            }
        }
        if !self.grammar.strict {
            return Ok(None);
        }
        let Some(folded) = folded(key) else { return Ok(None) };
        for rule in bits(self.grammar.like(place, folded.len())) {
            let name = self.grammar.rules[rule].name;
            if self.grammar.is_acted_on(rule) && name.as_bytes().eq_ignore_ascii_case(&folded) {
                return Err(JsonErrorKind::LetterCase { name });
            }
        }
        Ok(None)
    }

    /// A key below the levels that are followed: only whether its value is text counts.
    fn key_below(&mut self, key: &[u8]) -> Result<(), JsonErrorKind> {
        let place = self.grammar.elsewhere(TOP);
        let text = |rule: &usize| matches!(self.grammar.rules[*rule].take, Some(StringRule::Text));
        let rule = self.rule(place, key)?.filter(text);
        self.next = rule.map_or(self.anything(), |rule| NextValue { rule: rule as u8, into: place });
        Ok(())
    }

    fn hit(
        &mut self,
        rule: usize,
        kind: Kind,
        reference: Option<Reference>,
        range: Range<u64>,
    ) -> Result<(), JsonErrorKind> {
        self.collect.found(Hit { kind, reference, rule: Some(rule), is_id: true, top_rule: self.top_rule, range })
    }
}

impl<C: Collect> KeyVisitor for Finder<C> {
    #[inline]
    fn looks(&self) -> bool {
        self.skipped == 0
    }

    fn checks_keys(&self) -> bool {
        self.below == 0 && self.frames.last().is_some_and(|frame| self.grammar.acts_on(frame.place))
    }

    #[inline]
    fn key(&mut self, key: &[u8]) -> Result<(), JsonErrorKind> {
        if self.below > 0 {
            return self.key_below(key);
        }
        let Some(&OpenContainer { place, seen, .. }) = self.frames.last() else { return Ok(()) };
        let rule = self.rule(place, key)?;
        self.next = match rule {
            None => NextValue::plain(self.grammar.elsewhere(place)),
            Some(rule) => NextValue { rule: rule as u8, into: self.grammar.into(place, rule) },
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
    fn wish(&self) -> StringInterest {
        match self.taken() {
            None if self.grammar.strict => StringInterest::Value,
            None => StringInterest::Nothing,
            Some((_, StringRule::Text)) => StringInterest::Value,
            Some((_, StringRule::Encrypted)) => StringInterest::Pieces,
            Some(_) => StringInterest::Text,
        }
    }

    #[inline]
    fn may_begin_value(&self, begin: &[u8]) -> bool {
        !matches!(self.taken(), Some((_, StringRule::Text))) && may_begin_id(begin)
    }

    #[inline]
    fn value(&mut self, range: Range<u64>, text: Option<&[u8]>) -> Result<(), JsonErrorKind> {
        self.holds(text.is_some_and(<[u8]>::is_empty));
        if matches!(self.taken(), Some((_, StringRule::Text))) {
            return Ok(());
        }
        let Some((text, (kind, is_id))) = text.and_then(|text| Some((text, kind_of(text)?))) else { return Ok(()) };
        let reference = Some(Reference::new(kind, text));
        self.collect.found(Hit { kind, reference, rule: None, is_id, top_rule: self.top_rule, range })
    }

    fn text(&mut self, range: Range<u64>, text: Option<&str>) -> Result<(), JsonErrorKind> {
        self.holds(text == Some(""));
        match self.taken() {
            Some((rule, StringRule::Id(kind))) => {
                let nobodys = |text: &str| text.is_empty() || (kind == Kind::Skill && text.starts_with(CURATED_SKILL));
                if text.is_some_and(nobodys) {
                    return Ok(());
                }
                let text = text.filter(|text| text.len() <= MAX_ID);
                // Where callers choose names, the id says more than the name.
                let own = text.filter(|_| !self.grammar.is_acted_on(rule)).and_then(|text| kind_of(text.as_bytes()));
                let kind = own.map_or(kind, |(kind, _)| kind);
                self.hit(rule, kind, text.map(|text| Reference::new(kind, text.as_bytes())), range)
            }
            Some((_, StringRule::Type)) => {
                if let Some(level) = self.level() {
                    self.collect.is_a(level, text.unwrap_or_default());
                }
                Ok(())
            }
            Some((_, StringRule::Call)) => {
                if let (Some(level), Some(id)) = (self.level(), text) {
                    self.collect.calls(level, id);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    #[inline]
    fn scalar(&mut self) {
        if self.skipped == 0 && self.grammar.strict {
            self.holds(false);
        }
    }

    fn piece(&mut self, piece: &[u8]) {
        self.hash.get_or_insert_with(|| ReferenceHash::new(Kind::Encrypted)).update(piece);
    }

    fn end(&mut self, range: Range<u64>, is_text: bool) -> Result<(), JsonErrorKind> {
        // Without a piece it is empty; one that is no text from its first byte on still is something.
        let hash = self.hash.take();
        match self.taken() {
            Some((rule, StringRule::Encrypted)) if hash.is_some() || !is_text => {
                self.holds(false);
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
        let each = self.next();
        if each.into == SKIP {
            self.skipped = 1;
            return Ok(());
        }
        if self.frames.len() == MAX_LEVELS {
            if self.grammar.strict {
                self.below += 1;
                self.next = self.anything();
            } else {
                self.skipped = 1;
            }
            return Ok(());
        }
        self.frames.push(OpenContainer { place: each.into, is_array: !object, each, seen: 0 });
        if let Some(level) = self.level() {
            self.collect.open(level, each.rule(), at);
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
        self.next = NextValue::plain(TOP);
        self.top_rule = None;
        self.hash = None;
        self.collect.clear();
    }
}
