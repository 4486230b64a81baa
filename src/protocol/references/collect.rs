//! What a text holds, as it is told to whoever collects it.

use std::ops::Range;

use super::grammar::ObjectKind;
use crate::{
    domain::origin::{Kind, Reference},
    protocol::json::JsonErrorKind,
};

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
    /// What its value alone says that it is, where that is something else.
    pub(super) by_value: Option<(Kind, Reference)>,
    /// Where it stands.
    pub(super) place: ObjectKind,
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

/// Takes what a [`Finder`](super::finder::Finder) finds.
pub(in crate::protocol) trait Collect {
    /// A reference.
    fn found(&mut self, hit: Hit) -> Result<(), JsonErrorKind>;

    /// The `type` of the object that is `level`.
    fn is_a(&mut self, level: Level, name: &str);

    /// A word of the API, of the object that is `level`, at this name.
    fn is_labelled(&mut self, _level: Level, _name: &str, _word: &[u8]) {}

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
