//! The containers of a text that are open, and the value that comes next, as a finder of references sees them.

use super::grammar::ObjectKind;

/// The rule and the kind of the next value.
#[derive(Clone, Copy, Debug)]
pub(super) struct NextValue {
    /// Index of the rule of its name. [`NextValue::NO_RULE`]: no rule.
    pub(super) rule: u8,
    /// The kind of the value, if it is an object.
    pub(super) into: ObjectKind,
}

impl NextValue {
    const NO_RULE: u8 = u8::MAX;

    pub(super) fn plain(into: ObjectKind) -> Self {
        Self { rule: Self::NO_RULE, into }
    }

    pub(super) fn rule(self) -> Option<usize> {
        (self.rule != Self::NO_RULE).then_some(usize::from(self.rule))
    }
}

/// A container that is open.
#[derive(Clone, Copy, Debug)]
pub(super) struct OpenContainer {
    pub(super) place: ObjectKind,
    pub(super) is_array: bool,
    /// Of an array: the rule and the kind of each of its values.
    pub(super) each: NextValue,
    /// Of an object: the rules whose names were seen in it.
    pub(super) seen: u64,
}
