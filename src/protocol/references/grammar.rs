//! A table of names: where each means a reference, and where no name means anything.

use crate::domain::origin::Kind;

/// A kind of object: what its names mean. A small number, for sets of them.
pub(super) type ObjectKind = u8;

/// The object at the top.
pub(super) const TOP: ObjectKind = 0;

/// Not looked at, however deep.
pub(super) const SKIP: ObjectKind = u8::MAX;

/// Places in one grammar.
const PLACES: usize = 16;

/// One bit of a set a rule.
const MAX_RULES: usize = 64;

/// Names are shorter than this.
const MAX_NAME: usize = 32;

/// What is taken of the string at a name; where the grammar is strict, also of the strings in an array there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StringRule {
    /// The id of a stored object.
    Id(Kind),
    /// `encrypted_content`.
    Encrypted,
    /// `type`: what the object is.
    Type,
    /// `call_id`: which call the object is about.
    Call,
    /// Nothing: it is text, which refers to nothing.
    Text,
}

/// What a name means in some places.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    /// A set of places.
    within: u16,
    pub(super) name: &'static str,
    pub(super) take: Option<StringRule>,
    /// What an object at this name is, or each in an array there; `None` where it is as any other in that place.
    into: Option<ObjectKind>,
    /// It is acted on: it may stand once in its object, in its own letters only.
    acted_on: bool,
    /// A bit that says that a value stands at this name. The number is the caller's own.
    pub(super) member: u32,
}

impl Rule {
    const fn new(within: u16, name: &'static str, take: Option<StringRule>, into: Option<ObjectKind>) -> Self {
        Self { within, name, take, into, acted_on: true, member: 0 }
    }

    /// A reference.
    pub(super) const fn id(within: u16, name: &'static str, kind: Kind) -> Self {
        Self::new(within, name, Some(StringRule::Id(kind)), None)
    }

    /// Another string.
    pub(super) const fn take(within: u16, name: &'static str, take: StringRule) -> Self {
        Self::new(within, name, Some(take), None)
    }

    /// Objects in which names mean something else.
    pub(super) const fn into(within: u16, name: &'static str, into: ObjectKind) -> Self {
        Self::new(within, name, None, Some(into))
    }

    /// A reference, or an object that holds it.
    pub(super) const fn id_or_into(within: u16, name: &'static str, kind: Kind, into: ObjectKind) -> Self {
        Self::new(within, name, Some(StringRule::Id(kind)), Some(into))
    }

    /// Text, or objects in which names mean something else.
    pub(super) const fn text_or_into(within: u16, name: &'static str, into: ObjectKind) -> Self {
        Self::new(within, name, Some(StringRule::Text), Some(into))
    }

    /// What only has to be unambiguous.
    pub(super) const fn once(within: u16, name: &'static str) -> Self {
        Self::new(within, name, None, None)
    }

    /// Text, which refers to nothing. In other letters, its value is looked at like any other.
    pub(super) const fn text(within: u16, name: &'static str) -> Self {
        Self::take(within, name, StringRule::Text).tolerant()
    }

    /// The same, at a place where names may be the caller's own: nothing is refused for how the name is written.
    pub(super) const fn tolerant(self) -> Self {
        Self { acted_on: false, ..self }
    }

    /// The same, and where a value stands at this name that is told as `member`.
    pub(super) const fn member(self, member: u32) -> Self {
        Self { member, ..self }
    }
}

/// A set of rules, and what is true where none applies.
#[derive(Debug)]
pub(super) struct Grammar {
    pub(super) rules: &'static [Rule],
    /// By place: its rules.
    within: [u64; PLACES],
    /// By length of the name: the rules.
    by_len: [u64; MAX_NAME],
    /// The rules whose names are acted on.
    acted_on: u64,
    /// By place: what objects at other names are.
    elsewhere: [ObjectKind; PLACES],
    /// Names that two parsers might read in two ways are refused: for what is acted on, not for what is only looked at.
    pub(super) strict: bool,
}

impl Grammar {
    /// Meant for a `static`: what does not fit does not compile there.
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

    /// The rules of a place whose names have this length.
    #[inline]
    pub(super) fn like(&self, place: ObjectKind, len: usize) -> u64 {
        let within = self.within.get(usize::from(place)).copied().unwrap_or_default();
        within & self.by_len.get(len).copied().unwrap_or_default()
    }

    /// Whether any name in this place is acted on.
    pub(super) fn acts_on(&self, place: ObjectKind) -> bool {
        self.within.get(usize::from(place)).is_some_and(|within| within & self.acted_on != 0)
    }

    pub(super) fn is_acted_on(&self, rule: usize) -> bool {
        self.acted_on & 1 << rule != 0
    }

    /// What an object at a name without a rule is.
    pub(super) fn elsewhere(&self, place: ObjectKind) -> ObjectKind {
        self.elsewhere.get(usize::from(place)).copied().unwrap_or(SKIP)
    }

    /// What an object at the name of this rule is.
    pub(super) fn into(&self, place: ObjectKind, rule: usize) -> ObjectKind {
        self.rules[rule].into.unwrap_or_else(|| self.elsewhere(place))
    }
}

/// A set of one place.
pub(super) const fn at(place: ObjectKind) -> u16 {
    1 << place
}
