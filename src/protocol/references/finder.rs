//! Follows a text by a grammar: which object is open, what a name means in it, and which strings are references.

use std::ops::Range;

use super::{
    collect::{Collect, Hit, Level},
    grammar::{Grammar, ObjectKind, SKIP, StringRule, TOP},
    ids::{MAX_ID, kind_of, may_begin_id, trimmed},
    open::{NextValue, OpenContainer},
};
use crate::{
    domain::origin::{Reference, ReferenceHash, ReferenceKind},
    protocol::json::{JsonErrorKind, KeyVisitor, StringInterest, bits, folded},
};

/// The finder follows this many levels, at 16 bytes each. Documented places need fewer than 10. [`Finder`] describes deeper
/// levels.
const MAX_LEVELS: usize = 64;

/// The prefix of OpenAI's own curated skills (`openai-spreadsheets`), which are in every account. Skills that a user made are
/// `skill_…`.
const CURATED_SKILL: &str = "openai-";

/// Finds the references of a grammar in a text.
///
/// A strict grammar looks at every string that is not text. At the names of the grammar the name gives the kind, elsewhere the
/// value does ([`kind_of`]). Names count in the first 64 levels, values also below them.
///
/// A grammar that is not strict only looks at its own names, in 64 levels, without the levels inside of ignored objects.
#[derive(Debug)]
pub(in crate::protocol) struct Finder<C> {
    grammar: &'static Grammar,
    /// Whether random texts without a known prefix count as ids.
    opaque: bool,
    frames: Vec<OpenContainer>,
    /// The number of open levels below the followed ones.
    below: u64,
    /// The number of open levels from the first ignored one on.
    skipped: u64,
    /// After a key: the rule and the kind of its value.
    next: NextValue,
    top_rule: Option<usize>,
    hash: Option<ReferenceHash>,
    /// Receives the references.
    pub(in crate::protocol) collect: C,
}

impl<C: Collect> Finder<C> {
    pub(super) fn new(grammar: &'static Grammar, opaque: bool, collect: C) -> Self {
        Self {
            grammar,
            opaque,
            frames: Vec::new(),
            below: 0,
            skipped: 0,
            next: NextValue::plain(TOP),
            top_rule: None,
            hash: None,
            collect,
        }
    }

    /// Ignores the rest of the text.
    pub(in crate::protocol) fn skip_rest(&mut self) {
        // More levels than any text closes.
        self.skipped = u64::MAX / 2;
    }

    /// Returns the rule and the kind of the next value.
    #[inline]
    fn next(&self) -> NextValue {
        match self.frames.last() {
            Some(frame) if frame.is_array && self.below == 0 => frame.each,
            _ => self.next,
        }
    }

    /// Returns the kind of a value about which nothing is known.
    fn anything(&self) -> NextValue {
        NextValue::plain(self.grammar.elsewhere(TOP))
    }

    #[inline]
    fn taken(&self) -> Option<(usize, StringRule)> {
        // A provider is trusted at its documented names only. In a request, strings in an array at such a name count too.
        let in_array = || self.frames.last().is_some_and(|frame| frame.is_array);
        if self.skipped > 0 || (!self.grammar.strict && in_array()) {
            return None;
        }
        let rule = self.next().rule()?;
        Some((rule, self.grammar.rules[rule].take?))
    }

    /// Notes a string, a number or a boolean at the next value.
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

    /// Returns the rule of a key in this kind of object.
    #[inline]
    fn rule(&self, place: ObjectKind, key: &[u8]) -> Result<Option<usize>, JsonErrorKind> {
        for rule in bits(self.grammar.like(place, key.len())) {
            if self.grammar.rules[rule].name.as_bytes() == key {
                return Ok(Some(rule));
            }
        }
        // Nearly all keys have only the characters that names have.
        if !self.grammar.strict || key.iter().all(|byte| byte.is_ascii_lowercase() || *byte == b'_') {
            return Ok(None);
        }
        let Some(folded) = folded(key) else { return Ok(None) };
        let mut found = None;
        for rule in bits(self.grammar.like(place, folded.len())) {
            let name = self.grammar.rules[rule].name;
            if !name.as_bytes().eq_ignore_ascii_case(&folded) {
                continue;
            }
            if self.grammar.is_acted_on(rule) {
                return Err(JsonErrorKind::LetterCase { name });
            }
            found = found.or(Some(rule).filter(|rule| self.grammar.is_in_any_case(*rule)));
        }
        Ok(found)
    }

    /// Returns the rule of the name `id` in an object at a name that gives an id, where no object is documented.
    fn id_of(&self, frame: &OpenContainer, key: &[u8]) -> Option<usize> {
        let rule = frame.each.rule().filter(|_| self.grammar.strict && key.eq_ignore_ascii_case(b"id"))?;
        let is_id = matches!(self.grammar.rules[rule].take, Some(StringRule::Id(_)));
        is_id.then(|| self.grammar.tolerant(rule)).flatten()
    }

    /// Checks a key without a rule, because the key itself may be an id.
    #[inline]
    fn id_as_key(&mut self, key: &[u8], at: u64) -> Result<(), JsonErrorKind> {
        if !self.grammar.strict {
            return Ok(());
        }
        match kind_of(trimmed(key), self.opaque) {
            Some((kind, true)) => self.by_value(kind, true, trimmed(key), at..at + key.len() as u64 + 2),
            _ => Ok(()),
        }
    }

    /// Handles a key below the followed levels. There only the rules for text and for words of the API count.
    fn key_below(&mut self, key: &[u8], at: u64) -> Result<(), JsonErrorKind> {
        let place = self.grammar.elsewhere(TOP);
        let text = |rule: &usize| matches!(self.grammar.rules[*rule].take, Some(StringRule::Text | StringRule::Label));
        let rule = self.rule(place, key)?.filter(text);
        self.next = rule.map_or(self.anything(), |rule| NextValue { rule: rule as u8, into: place });
        if rule.is_none() { self.id_as_key(key, at) } else { Ok(()) }
    }

    /// Reports a string whose value looks like an id of this kind.
    fn by_value(
        &mut self,
        kind: ReferenceKind,
        is_id: bool,
        text: &[u8],
        range: Range<u64>,
    ) -> Result<(), JsonErrorKind> {
        let reference = Some(Reference::new(kind, text));
        self.found(Hit { kind, reference, rule: None, is_id, by_value: None, place: TOP, top_rule: None, range })
    }

    /// Reports a reference with its place.
    fn found(&mut self, hit: Hit) -> Result<(), JsonErrorKind> {
        // The place of a string in an array is the object that contains the array.
        let place = self.frames.iter().rfind(|frame| !frame.is_array).map_or(TOP, |frame| frame.place);
        self.collect.found(Hit { place, top_rule: self.top_rule, ..hit })
    }

    /// Handles the string at a name that gives the kind of its id.
    fn id(
        &mut self,
        rule: usize,
        kind: ReferenceKind,
        text: Option<&str>,
        range: Range<u64>,
    ) -> Result<(), JsonErrorKind> {
        let text = text.map(|text| trimmed(text.as_bytes()));
        let nobodys = |text: &[u8]| {
            text.is_empty() || (kind == ReferenceKind::Skill && text.starts_with(CURATED_SKILL.as_bytes()))
        };
        if text.is_some_and(nobodys) {
            return Ok(());
        }
        let text = text.filter(|text| text.len() <= MAX_ID);
        let own = text.and_then(|text| kind_of(text, self.opaque)).map(|(own, _)| own).filter(|own| *own != kind);
        // At a name that the client chose, the id's own value is more reliable than the name.
        let is_named = !self.grammar.strict || self.grammar.is_acted_on(rule);
        let (kind, own) = if is_named { (kind, own) } else { (own.unwrap_or(kind), None) };
        let reference = text.map(|text| Reference::new(kind, text));
        let by_value = text.zip(own).map(|(text, own)| (own, Reference::new(own, text)));
        self.found(Hit { kind, reference, rule: Some(rule), is_id: true, by_value, place: TOP, top_rule: None, range })
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
    fn key(&mut self, key: &[u8], at: u64) -> Result<(), JsonErrorKind> {
        if self.below > 0 {
            return self.key_below(key, at);
        }
        let Some(frame @ &OpenContainer { place, seen, .. }) = self.frames.last() else { return Ok(()) };
        let rule = self.rule(place, key)?.or_else(|| self.id_of(frame, key));
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
        if rule.is_none() { self.id_as_key(key, at) } else { Ok(()) }
    }

    #[inline]
    fn interest(&self) -> StringInterest {
        match self.taken() {
            None if self.grammar.strict => StringInterest::Value,
            None => StringInterest::Nothing,
            Some((_, StringRule::Text | StringRule::Label)) => StringInterest::Value,
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
        let taken = self.taken();
        let Some(text) = text.filter(|_| !matches!(taken, Some((_, StringRule::Text)))) else { return Ok(()) };
        let text = trimmed(text);
        if let (Some((rule, StringRule::Label)), Some(level)) = (taken, self.level()) {
            self.collect.is_labelled(level, self.grammar.rules[rule].name, text);
        }
        match kind_of(text, self.opaque) {
            Some((_, false)) if matches!(taken, Some((_, StringRule::Label))) => Ok(()),
            Some((kind, is_id)) => self.by_value(kind, is_id, text, range),
            None => Ok(()),
        }
    }

    fn text(&mut self, range: Range<u64>, text: Option<&str>) -> Result<(), JsonErrorKind> {
        self.holds(text == Some(""));
        match self.taken() {
            Some((rule, StringRule::Id(kind))) => self.id(rule, kind, text, range),
            Some((_, StringRule::Type)) => {
                if let Some(level) = self.level() {
                    self.collect.is_a(level, text.unwrap_or_default());
                }
                match text.and_then(|text| kind_of(trimmed(text.as_bytes()), self.opaque)) {
                    Some((kind, true)) if self.grammar.strict => {
                        self.by_value(kind, true, trimmed(text.unwrap_or_default().as_bytes()), range)
                    }
                    _ => Ok(()),
                }
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
        self.hash.get_or_insert_with(|| ReferenceHash::new(ReferenceKind::Encrypted)).update(piece);
    }

    fn end(&mut self, range: Range<u64>, is_text: bool) -> Result<(), JsonErrorKind> {
        // A string without any piece is empty, or its first byte is no valid text. The latter counts as a reference.
        let hash = self.hash.take();
        match self.taken() {
            Some((rule, StringRule::Encrypted)) if hash.is_some() || !is_text => {
                self.holds(false);
                let reference = hash.filter(|_| is_text).map(ReferenceHash::end);
                let (kind, rule) = (ReferenceKind::Encrypted, Some(rule));
                self.found(Hit {
                    kind,
                    reference,
                    rule,
                    is_id: true,
                    by_value: None,
                    place: TOP,
                    top_rule: None,
                    range,
                })
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
            // In an array nothing is known about the values that follow.
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
