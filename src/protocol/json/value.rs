//! The results of a scan.

use std::ops::Range;

/// The longest string that a JSON scan keeps, in bytes after unescaping. An id or a model name is far shorter.
pub const STRING_LIMIT: usize = 512;

/// The longest number that a JSON scan keeps, in bytes. Every `u64` and `f64` that a program writes is shorter.
pub const NUMBER_LIMIT: usize = 64;

/// A value that a JSON scan found at one of its paths, with the byte range of the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundValue {
    /// The byte range of the value in the whole text, including quotes and brackets.
    pub range: Range<u64>,
    /// The value. Long and compound values are only marked as such.
    pub value: Value,
}

/// The value that a JSON scan found at a path. Of objects, arrays and long strings only the type is kept.
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
