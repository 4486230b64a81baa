//! What a scan gives.

use std::ops::Range;

/// Strings with more bytes than this, unescaped, are not kept. An id or a model name is far shorter.
pub const STRING_LIMIT: usize = 512;

/// Numbers with more bytes than this are not kept. Every `u64` and `f64` that a program writes is shorter.
pub const NUMBER_LIMIT: usize = 64;

/// What stands at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundValue {
    /// Bytes of the value in the whole text, quotes and brackets included.
    pub range: Range<u64>,
    /// The value, where it is small.
    pub value: Value,
}

/// A value at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number as it is written.
    Number(Box<str>),
    /// A number over [`NUMBER_LIMIT`].
    LongNumber,
    /// A string, unescaped.
    String(Box<str>),
    /// A string over [`STRING_LIMIT`]; not checked past the limit.
    LongString,
    /// A string that is no text: a lone surrogate, an unknown escape, a bare control character, bytes that are not UTF-8.
    InvalidString,
    /// An object.
    Object,
    /// An array.
    Array,
}
