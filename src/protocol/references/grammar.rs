//! A table of names: where each means a reference, and where no name means anything.

use crate::domain::origin::Kind;

/// A kind of object: what its names mean. A small number, for sets of them.
pub(super) type Place = u8;

/// The object at the top.
pub(super) const TOP: Place = 0;

/// Not looked at, however deep.
pub(super) const SKIP: Place = u8::MAX;

/// Places in one grammar.
const PLACES: usize = 16;

/// One bit of a set a rule.
const MAX_RULES: usize = 64;

/// Names are shorter than this.
const MAX_NAME: usize = 32;

/// What is taken of the string at a name; where the grammar is strict, also of the strings in an array there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Take {
    /// The id of a stored object.
    Id(Kind),
    /// `encrypted_content`.
    Encrypted,
    /// `type`: what the object is.
    Type,
    /// Only that it is there: a string, an object or an array. The number is the caller's own.
    Presence(u16),
}

/// What a name means in some places.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    /// A set of places.
    within: u16,
    pub(super) name: &'static str,
    pub(super) take: Option<Take>,
    /// What an object at this name is, or each in an array there; `None` where it is as any other in that place.
    into: Option<Place>,
    /// It is acted on: it may stand once in its object, in its own letters only.
    acted_on: bool,
}

impl Rule {
    /// A reference.
    pub(super) const fn id(within: u16, name: &'static str, kind: Kind) -> Self {
        Self { within, name, take: Some(Take::Id(kind)), into: None, acted_on: true }
    }

    /// Another string.
    pub(super) const fn take(within: u16, name: &'static str, take: Take) -> Self {
        Self { within, name, take: Some(take), into: None, acted_on: true }
    }

    /// Objects in which names mean something else.
    pub(super) const fn into(within: u16, name: &'static str, into: Place) -> Self {
        Self { within, name, take: None, into: Some(into), acted_on: true }
    }

    /// A reference, or an object that holds it.
    pub(super) const fn id_or_into(within: u16, name: &'static str, kind: Kind, into: Place) -> Self {
        Self { into: Some(into), ..Self::id(within, name, kind) }
    }

    /// What has to be there, as a string, an object or an array.
    pub(super) const fn presence(within: u16, name: &'static str, what: u16) -> Self {
        Self::take(within, name, Take::Presence(what))
    }

    /// The same, free-form.
    pub(super) const fn free_presence(within: u16, name: &'static str, what: u16) -> Self {
        Self { into: Some(SKIP), ..Self::presence(within, name, what) }
    }

    /// What only has to be unambiguous.
    pub(super) const fn once(within: u16, name: &'static str) -> Self {
        Self { within, name, take: None, into: None, acted_on: true }
    }

    /// Free-form: names in it are the caller's own. In other letters it is looked into.
    pub(super) const fn free(within: u16, name: &'static str) -> Self {
        Self { within, name, take: None, into: Some(SKIP), acted_on: false }
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
    elsewhere: [Place; PLACES],
    /// Names that two parsers might read in two ways are refused: for what is acted on, not for what is only looked at.
    pub(super) strict: bool,
}

impl Grammar {
    /// Meant for a `static`: what does not fit does not compile there.
    pub(super) const fn new(rules: &'static [Rule], elsewhere: &[Place], strict: bool) -> Self {
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

    /// The rules of a place of which a key, unescaped, may be the name: by its length, or where it is not ASCII all that some
    /// parser might find in it.
    #[inline]
    pub(super) fn like(&self, place: Place, key: &[u8]) -> u64 {
        let within = self.within.get(usize::from(place)).copied().unwrap_or_default();
        let same_len = within & self.by_len.get(key.len()).copied().unwrap_or_default();
        if self.strict && !key.is_ascii() { within & self.acted_on } else { same_len }
    }

    pub(super) fn is_acted_on(&self, rule: usize) -> bool {
        self.acted_on & 1 << rule != 0
    }

    /// What an object at a name without a rule is.
    pub(super) fn elsewhere(&self, place: Place) -> Place {
        self.elsewhere.get(usize::from(place)).copied().unwrap_or(SKIP)
    }

    /// What an object at the name of this rule is.
    pub(super) fn into(&self, place: Place, rule: usize) -> Place {
        self.rules[rule].into.unwrap_or_else(|| self.elsewhere(place))
    }
}

/// A set of one place.
pub(super) const fn at(place: Place) -> u16 {
    1 << place
}
