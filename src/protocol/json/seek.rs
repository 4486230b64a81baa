//! Visits keys and strings at every depth, beside the paths of a scanner.

use std::ops::Range;

use super::JsonErrorKind;

/// Sees the keys and strings of a JSON text at every depth, while a scanner reads the text. The scanner reports each container, and keys
/// and strings on request. `()` requests nothing and costs nothing.
///
/// For a new implementation: keep the memory for each level small and bounded, because nesting is not bounded. The result must
/// not depend on how the input is split: a whole string is reported once, pieces are reported as they arrive.
pub trait KeyVisitor {
    /// Whether the keys of the innermost object are requested.
    fn looks(&self) -> bool;

    /// Whether Tidegate uses keys of the innermost object. A scanner that refuses ambiguous texts then refuses a key that is not
    /// text.
    fn checks_keys(&self) -> bool;

    /// Reports a key of the innermost object, unescaped. Empty if the key is too long for any name, or not text. `at`: the offset of
    /// its quote.
    fn key(&mut self, key: &[u8], at: u64) -> Result<(), JsonErrorKind>;

    /// How to report the string value that comes next. The scanner asks at the start and at the end of the string.
    fn interest(&self) -> StringInterest;

    /// Reports that a value is a number or a boolean.
    fn scalar(&mut self) {}

    /// Whether to report the number that comes next. The scanner asks at the start and at the end of the number.
    fn wants_number(&self) -> bool {
        false
    }

    /// Reports the text of a requested number. `None` if the number is too long for any count.
    fn number(&mut self, _: Option<&str>) {}

    /// Whether the rest of the text is not needed. The scanner asks at the end of a value, if the caller may stop there.
    fn has_enough(&self) -> bool {
        false
    }

    /// Whether a string of interest [`StringInterest::Value`] that begins with these unescaped bytes may be an id. If not,
    /// [`KeyVisitor::value`] must ignore every string with this beginning.
    fn may_begin_value(&self, begin: &[u8]) -> bool;

    /// Reports the end of such a string. `None` if its beginning excludes an id, if it is too long for one, or if it is not text.
    fn value(&mut self, range: Range<u64>, text: Option<&[u8]>) -> Result<(), JsonErrorKind>;

    /// Reports a whole string. `None` if it is too long for an id, or not text.
    fn text(&mut self, range: Range<u64>, text: Option<&str>) -> Result<(), JsonErrorKind>;

    /// Reports the next piece of a string that is reported in pieces, unescaped.
    fn piece(&mut self, piece: &[u8]);

    /// Reports the end of a string that was reported in pieces. Its bytes may be invalid UTF-8. `is_text` is false for every other
    /// fault.
    fn end(&mut self, range: Range<u64>, is_text: bool) -> Result<(), JsonErrorKind>;

    /// Reports the start of a container.
    fn open(&mut self, object: bool, at: u64) -> Result<(), JsonErrorKind>;

    /// Reports that the innermost container ends before `end`.
    fn close(&mut self, end: u64);

    /// Reports a comma of the innermost container.
    fn comma(&mut self, at: u64);

    /// Forgets everything before a new text.
    fn clear(&mut self);
}

/// How a JSON scanner reports a string to its visitor: not at all, as a whole, or in pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StringInterest {
    /// Not at all.
    Nothing,
    /// As a whole, if it may be an id.
    Value,
    /// As a whole, if it is short.
    Text,
    /// Completely, in pieces.
    Pieces,
}

impl KeyVisitor for () {
    fn looks(&self) -> bool {
        false
    }

    fn checks_keys(&self) -> bool {
        false
    }

    fn key(&mut self, _: &[u8], _: u64) -> Result<(), JsonErrorKind> {
        Ok(())
    }

    fn interest(&self) -> StringInterest {
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
