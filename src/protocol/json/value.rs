//! The results of a scan.

use std::ops::Range;

/// Strings with more bytes than this, unescaped, are not kept. An id or a model name is far shorter.
pub const STRING_LIMIT: usize = 512;

/// Numbers with more bytes than this are not kept. Every `u64` and `f64` that a program writes is shorter.
pub const NUMBER_LIMIT: usize = 64;

/// The value at a path, with its position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundValue {
    /// The byte range of the value in the whole text, including quotes and brackets.
    pub range: Range<u64>,
    /// The value. Long and compound values are only marked as such.
    pub value: Value,
}

/// A value at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// The text of a number.
    Number(Box<str>),
    /// A number longer than [`NUMBER_LIMIT`].
    LongNumber,
    /// A string, unescaped.
    String(Box<str>),
    /// A string longer than [`STRING_LIMIT`]. Not checked beyond the limit.
    LongString,
    /// A string that is not text: a lone surrogate, an unknown escape, a raw control byte, or invalid UTF-8.
    InvalidString,
    /// An object.
    Object,
    /// An array.
    Array,
}
