//! Names at every depth: what a scanner tells beside its paths.

use std::ops::Range;

use super::JsonErrorKind;

/// Looks at keys wherever they stand. A scanner tells it of every container, and where it asks for it of keys and strings;
/// `()` asks for nothing and costs nothing.
///
/// Another one: keep what a level costs small and bounded, as nesting is not; never let a result depend on what a split
/// changes (a string that is told whole is told once, pieces are told as they come).
pub trait KeyVisitor {
    /// The keys of the innermost object are of interest.
    fn looks(&self) -> bool;

    /// Keys of the innermost object are acted on: one that is no text is refused where texts are refused that two parsers might read in
    /// two ways.
    fn checks_keys(&self) -> bool;

    /// A key of the innermost object, unescaped; empty where it is too long for any name, or no text.
    fn key(&mut self, key: &[u8]) -> Result<(), JsonErrorKind>;

    /// What is to be told of a string that comes next as a value. Asked at its begin and at its end.
    fn wish(&self) -> StringInterest;

    /// A number or a boolean stands as a value.
    fn scalar(&mut self) {}

    /// Whether a number that comes next as a value is told. Asked at its begin and at its end.
    fn wants_number(&self) -> bool {
        false
    }

    /// Such a number as it is written; `None` where it is too long for any count.
    fn number(&mut self, _: Option<&str>) {}

    /// Whether the rest of the text tells nothing more. Asked where a value ended, of readers that may stop there.
    fn has_enough(&self) -> bool {
        false
    }

    /// Whether a string that was wished for as a [`StringInterest::Value`] and begins with these bytes, unescaped, may be of interest. Where
    /// the answer is no, [`KeyVisitor::value`] must find no interest in any string that begins with them.
    fn may_begin_value(&self, begin: &[u8]) -> bool;

    /// Such a string is over; `None` where it is of no interest by its begin, too long for an id, or no text.
    fn value(&mut self, range: Range<u64>, text: Option<&[u8]>) -> Result<(), JsonErrorKind>;

    /// A string that was wished for is over; `None` where it is too long for an id, or no text.
    fn text(&mut self, range: Range<u64>, text: Option<&str>) -> Result<(), JsonErrorKind>;

    /// The next piece of a string that was wished for in pieces, unescaped.
    fn piece(&mut self, piece: &[u8]);

    /// A string that was told in pieces is over. It may hold bytes that are not UTF-8; what else makes a string no text is told.
    fn end(&mut self, range: Range<u64>, is_text: bool) -> Result<(), JsonErrorKind>;

    /// A container begins.
    fn open(&mut self, object: bool, at: u64) -> Result<(), JsonErrorKind>;

    /// The innermost container ends before `end`.
    fn close(&mut self, end: u64);

    /// A comma of the innermost container.
    fn comma(&mut self, at: u64);

    /// A new text begins.
    fn clear(&mut self);
}

/// What is to be told of a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StringInterest {
    /// Nothing.
    Nothing,
    /// It as a whole, if it may be an id.
    Value,
    /// It as a whole, if it is short.
    Text,
    /// All of it, in pieces.
    Pieces,
}

impl KeyVisitor for () {
    fn looks(&self) -> bool {
        false
    }

    fn checks_keys(&self) -> bool {
        false
    }

    fn key(&mut self, _: &[u8]) -> Result<(), JsonErrorKind> {
        Ok(())
    }

    fn wish(&self) -> StringInterest {
        StringInterest::Nothing
    }

    fn may_begin_value(&self, _: &[u8]) -> bool {
        false
    }

    fn value(&mut self, _: Range<u64>, _: Option<&[u8]>) -> Result<(), JsonErrorKind> {
        Ok(())
    }

    fn text(&mut self, _: Range<u64>, _: Option<&str>) -> Result<(), JsonErrorKind> {
        Ok(())
    }

    fn piece(&mut self, _: &[u8]) {}

    fn end(&mut self, _: Range<u64>, _: bool) -> Result<(), JsonErrorKind> {
        Ok(())
    }

    fn open(&mut self, _: bool, _: u64) -> Result<(), JsonErrorKind> {
        Ok(())
    }

    fn close(&mut self, _: u64) {}

    fn comma(&mut self, _: u64) {}

    fn clear(&mut self) {}
}
