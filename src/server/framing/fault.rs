//! Errors in the framing of a request.

/// What is wrong with the HTTP/1.1 framing of a client's request, so that its end is unknown. The bytes after the error cannot be
/// interpreted any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FramingError {
    /// The request line is not a method, a target and HTTP/1.0 or HTTP/1.1, separated by single spaces.
    RequestLine,
    /// A CR or a LF without the other.
    LineEnding,
    /// A header line that begins with white space.
    Folding,
    /// A name or a value with bytes that it may not have (NUL among them), or a line without a colon.
    Header,
    /// No Host header in HTTP/1.1, more than one, or an invalid host.
    Host,
    /// `Content-Length` is not a single number.
    ContentLength,
    /// `Transfer-Encoding` is not exactly `chunked`, or the request is HTTP/1.0, which has no chunks.
    TransferEncoding,
    /// `Content-Length` beside `Transfer-Encoding`.
    TwoLengths,
    /// The size or the end of a chunk, or a trailer, is malformed.
    Chunk,
    /// The head has too many bytes or too many headers.
    HeadTooLarge,
}

impl FramingError {
    /// Returns the fixed name of this framing error of a request, which is a label in the metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RequestLine => "request_line",
            Self::LineEnding => "line_ending",
            Self::Folding => "folding",
            Self::Header => "header",
            Self::Host => "host",
            Self::ContentLength => "content_length",
            Self::TransferEncoding => "transfer_encoding",
            Self::TwoLengths => "two_lengths",
            Self::Chunk => "chunk",
            Self::HeadTooLarge => "head_too_large",
        }
    }

    /// Whether the error is in a body, after a valid head.
    pub(in crate::server) const fn is_in_body(self) -> bool {
        matches!(self, Self::Chunk)
    }
}
