//! A table of names: the places in which a name gives a reference, and the meaning of all other names.

use crate::{domain::origin::ReferenceKind, protocol::json::bits};

/// A kind of object, which decides the meaning of the names in it. The number is small enough for sets of bits.
pub(super) type ObjectKind = u8;

/// The object at the top level.
pub(super) const TOP: ObjectKind = 0;

/// Objects of this kind are ignored, with all that is in them.
pub(super) const SKIP: ObjectKind = u8::MAX;

/// The most kinds of objects in one grammar.
const PLACES: usize = 16;

/// The most rules in one grammar: a set of rules has one bit for each.
const MAX_RULES: usize = 64;

/// Names are shorter than this.
const MAX_NAME: usize = 32;

/// The use of the string at a name. In a strict grammar also the use of the strings in an array at that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StringRule {
    /// The id of a stored object.
    Id(ReferenceKind),
    /// `encrypted_content`.
    Encrypted,
    /// `type`: what the object is.
    Type,
    /// `call_id`: the call that the object belongs to.
    Call,
    /// No use: text refers to nothing.
    Text,
    /// A word of the API. It counts only if it is certainly an id.
    Label,
}

/// The meaning of a name in some kinds of objects.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    /// The set of kinds of objects in which the rule applies.
    within: u16,
    pub(super) name: &'static str,
    pub(super) take: Option<StringRule>,
    /// The kind of an object at this name, or of each object in an array at this name. `None`: the kind of other names in that
    /// object.
    into: Option<ObjectKind>,
    /// Tidegate acts on the value. The name may occur only once in its object, and only in its exact letter case.
    acted_on: bool,
    /// The rule applies to the name in any letter case.
    in_any_case: bool,
    /// The bit that marks a value at this name. The user of the grammar chooses the bits.
    pub(super) member: u32,
}

impl Rule {
    const fn new(within: u16, name: &'static str, take: Option<StringRule>, into: Option<ObjectKind>) -> Self {
        Self { within, name, take, into, acted_on: true, in_any_case: false, member: 0 }
    }

    /// A name of a reference.
    pub(super) const fn id(within: u16, name: &'static str, kind: ReferenceKind) -> Self {
        Self::new(within, name, Some(StringRule::Id(kind)), None)
    }

    /// A name of another string.
    pub(super) const fn take(within: u16, name: &'static str, take: StringRule) -> Self {
        Self::new(within, name, Some(take), None)
    }

    /// A name of objects of another kind.
    pub(super) const fn into(within: u16, name: &'static str, into: ObjectKind) -> Self {
        Self::new(within, name, None, Some(into))
    }

    /// A name of a reference, or of an object that contains it.
    pub(super) const fn id_or_into(within: u16, name: &'static str, kind: ReferenceKind, into: ObjectKind) -> Self {
        Self::new(within, name, Some(StringRule::Id(kind)), Some(into))
    }

    /// A name of text, or of objects of another kind.
    pub(super) const fn text_or_into(within: u16, name: &'static str, into: ObjectKind) -> Self {
        Self::new(within, name, Some(StringRule::Text), Some(into))
    }

    /// A name that only has to be unambiguous.
    pub(super) const fn once(within: u16, name: &'static str) -> Self {
        Self::new(within, name, None, None)
    }

    /// A name of text, which refers to nothing. In another letter case its value counts as at any other name.
    pub(super) const fn text(within: u16, name: &'static str) -> Self {
        Self::take(within, name, StringRule::Text).tolerant()
    }

    /// The same rule for a place where the client may choose the names: no spelling of the name is refused.
    pub(super) const fn tolerant(self) -> Self {
        Self { acted_on: false, ..self }
    }

    /// A name of a word of the API, in any letter case.
    pub(super) const fn label(within: u16, name: &'static str) -> Self {
        Self::take(within, name, StringRule::Label).in_any_case()
    }

    /// The same rule for the name in any letter case. No spelling of the name is refused.
    pub(super) const fn in_any_case(self) -> Self {
        Self { acted_on: false, in_any_case: true, ..self }
    }

    /// The same rule, which also marks a value at this name as `member`.
    pub(super) const fn member(self, member: u32) -> Self {
        Self { member, ..self }
    }
}

/// A set of rules, and the kinds of objects where no rule applies.
#[derive(Debug)]
pub(super) struct Grammar {
    pub(super) rules: &'static [Rule],
    /// By kind of object: its rules.
    within: [u64; PLACES],
    /// By length of the name: the rules.
    by_len: [u64; MAX_NAME],
    /// The rules on whose values Tidegate acts.
    acted_on: u64,
    /// By kind of object: the kind of objects at names without a rule.
    elsewhere: [ObjectKind; PLACES],
    /// Whether names that two parsers might read in two ways are refused. A grammar whose values Tidegate acts on is strict; one
    /// that only observes is not.
    pub(super) strict: bool,
}

impl Grammar {
    /// Creates a grammar. Meant for a `static`: rules that do not fit are compile errors there.
    pub(super) const fn new(rules: &'static [Rule], elsewhere: &[ObjectKind], strict: bool) -> Self {
        assert!(rules.len() <= MAX_RULES && elsewhere.len() <= PLACES);
        let mut grammar =
            Self { rules, within: [0; PLACES], by_len: [0; MAX_NAME], acted_on: 0, elsewhere: [SKIP; PLACES], strict };
        let mut place = 0;
        while place < elsewhere.len() {
            grammar.elsewhere[place] = elsewhere[place];
            place += 1;
        }
        let mut i = 0;
        while i < rules.len() {
            let rule = &rules[i];
            assert!(rule.name.is_ascii() && rule.name.len() < MAX_NAME);
            let bit = 1 << i;
            grammar.by_len[rule.name.len()] |= bit;
            if rule.acted_on {
                grammar.acted_on |= bit;
            }
            let mut place = 0;
            while place < PLACES {
                if rule.within & (1 << place) != 0 {
                    grammar.within[place] |= bit;
                }
                place += 1;
            }
            i += 1;
        }
        grammar
    }

    /// Returns the rules of a kind of object whose names have this length.
    #[inline]
    pub(super) fn like(&self, place: ObjectKind, len: usize) -> u64 {
        let within = self.within.get(usize::from(place)).copied().unwrap_or_default();
        within & self.by_len.get(len).copied().unwrap_or_default()
    }

    /// Whether Tidegate acts on any name in this kind of object.
    pub(super) fn acts_on(&self, place: ObjectKind) -> bool {
        self.within.get(usize::from(place)).is_some_and(|within| within & self.acted_on != 0)
    }

    pub(super) fn is_acted_on(&self, rule: usize) -> bool {
        self.acted_on & 1 << rule != 0
    }

    pub(super) fn is_in_any_case(&self, rule: usize) -> bool {
        self.rules[rule].in_any_case
    }

    /// Returns the rule for the same name at places where the client chooses the names.
    pub(super) fn tolerant(&self, rule: usize) -> Option<usize> {
        let name = self.rules[rule].name;
        bits(self.like(self.elsewhere(TOP), name.len())).find(|other| self.rules[*other].name == name)
    }

    /// Returns the kind of objects at names without a rule.
    pub(super) fn elsewhere(&self, place: ObjectKind) -> ObjectKind {
        self.elsewhere.get(usize::from(place)).copied().unwrap_or(SKIP)
    }

    /// Returns the kind of an object at the name of this rule.
    pub(super) fn into(&self, place: ObjectKind, rule: usize) -> ObjectKind {
        self.rules[rule].into.unwrap_or_else(|| self.elsewhere(place))
    }
}

/// Returns the set with this one kind of object.
pub(super) const fn at(place: ObjectKind) -> u16 {
    1 << place
}
