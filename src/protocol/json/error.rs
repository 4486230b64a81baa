//! Errors of a JSON text.

/// Why a JSON text is refused, and at which byte. Contains nothing of the text, so the error may be logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} (at byte {at} of the JSON text)")]
pub struct JsonError {
    /// What is wrong.
    pub kind: JsonErrorKind,
    /// Offset of the byte in the whole text.
    pub at: u64,
}

/// The kind of fault because of which a JSON text is refused. `name` is the documented name of the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonErrorKind {
    /// Nothing, or whitespace only.
    #[error("the JSON text is empty")]
    Empty,
    /// A byte-order mark of UTF-8 or UTF-16.
    #[error("the JSON begins with a byte-order mark, which must be removed, because JSON must be plain UTF-8")]
    ByteOrderMark,
    /// The top level is something else.
    #[error("the JSON must be an object")]
    NotAnObject,
    /// Not JSON.
    #[error("the JSON has a syntax error")]
    Syntax,
    /// The text ended inside the object.
    #[error("the JSON ends before the object is complete")]
    Truncated,
    /// Something other than whitespace after the object.
    #[error("text follows after the end of the JSON object and must be removed")]
    TrailingGarbage,
    /// Nested deeper than the scanner's limit.
    #[error("the JSON has too many levels of nested arrays and objects")]
    TooDeep,
    /// An object has a key twice that Tidegate uses.
    #[error("the JSON contains a field more than once, and each field may be sent once")]
    Repeated {
        /// The key.
        name: &'static str,
    },
    /// A key differs only in letter case from one that Tidegate uses.
    #[error("the JSON contains a field name in the wrong letter case")]
    LetterCase {
        /// The key that it resembles.
        name: &'static str,
    },
    /// More references to stored state than the limit of one request.
    #[error(
        "the request refers to too many stored objects: send fewer ids of responses, items, files and other objects"
    )]
    TooManyReferences,
    /// A byte below 0x20 inside a string.
    #[error("a string in the JSON contains a control character that must be written as an escape, such as \\n")]
    ControlByte {
        /// The path's last name, where the string stands at a path.
        name: Option<&'static str>,
    },
    /// Bytes that are not UTF-8 inside a string.
    #[error("a string in the JSON is not valid UTF-8")]
    InvalidUtf8 {
        /// The path's last name, where the string stands at a path.
        name: Option<&'static str>,
    },
    /// A key in an object whose keys Tidegate uses is not text.
    #[error("a field name in the JSON is not valid text")]
    InvalidKey,
}
