//! The interface between the finder of references and its collectors.

use std::ops::Range;

use super::grammar::ObjectKind;
use crate::{
    domain::origin::{Reference, ReferenceKind},
    protocol::json::JsonErrorKind,
};

/// A reference that the finder found.
#[derive(Debug)]
pub(in crate::protocol) struct Hit {
    pub(super) kind: ReferenceKind,
    /// The hash of the id. `None`: the value is too long for an id, or no text.
    pub(super) reference: Option<Reference>,
    /// Index of the rule of its name. `None`: no rule applies, and only the value looks like an id.
    pub(super) rule: Option<usize>,
    /// The value is an id, and not only a word that looks like one.
    pub(super) is_id: bool,
    /// The kind and reference that the value itself indicates, if that is another kind.
    pub(super) by_value: Option<(ReferenceKind, Reference)>,
    /// The kind of the object that contains the reference.
    pub(super) place: ObjectKind,
    /// Index of the rule of the top-level name that contains the reference.
    pub(super) top_rule: Option<usize>,
    pub(super) range: Range<u64>,
}

/// A container that is open.
#[derive(Clone, Copy, Debug)]
pub(in crate::protocol) struct Level {
    /// The kind of the object. Of an array: the kind of the objects in it.
    pub(super) place: ObjectKind,
    pub(super) is_array: bool,
    /// The number of open containers, including this one: 1 at the top level.
    pub(super) depth: usize,
}

/// Receives the references and the structure that a [`Finder`](super::finder::Finder) finds.
pub(in crate::protocol) trait Collect {
    /// Receives a reference.
    fn found(&mut self, hit: Hit) -> Result<(), JsonErrorKind>;

    /// Receives the `type` of the object `level`.
    fn is_a(&mut self, level: Level, name: &str);

    /// Receives a word of the API: the value at this name in the object `level`.
    fn is_labelled(&mut self, _level: Level, _name: &str, _word: &[u8]) {}

    /// Receives the `call_id` of the object `level`.
    fn calls(&mut self, _level: Level, _id: &str) {}

    /// A followed container begins. `rule` is the index of the rule of its name, if there is one.
    fn open(&mut self, level: Level, rule: Option<usize>, at: u64);

    /// A string, a number or a boolean is in `level`. `rule` is the index of the rule of its name, if there is one.
    fn holds(&mut self, _level: Level, _rule: Option<usize>, _is_empty: bool) {}

    /// The container `level` ends before `end`.
    fn close(&mut self, level: Level, end: u64);

    /// A comma of the container `level`.
    fn comma(&mut self, level: Level, at: u64);

    /// A new text begins.
    fn clear(&mut self);
}
