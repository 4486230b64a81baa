//! What may be wrong with the framing of a request.

/// What is wrong. Nothing behind it can be understood any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Not a method, a target and HTTP/1.0 or HTTP/1.1, each behind one space.
    RequestLine,
    /// A CR or a LF without the other.
    LineEnding,
    /// A header line that begins with white space.
    Folding,
    /// A name or a value with bytes that it may not have (NUL among them), or a line without a colon.
    Header,
    /// None in HTTP/1.1, more than one, or not a host.
    Host,
    /// Not one number.
    ContentLength,
    /// Not `chunked` and nothing else, or in HTTP/1.0, which has no chunks.
    TransferEncoding,
    /// `Content-Length` beside `Transfer-Encoding`.
    TwoLengths,
    /// A chunk's size or end, or a trailer.
    Chunk,
    /// Too many bytes or too many headers.
    HeadTooLarge,
}

impl Fault {
    /// Its fixed name: a label in the metrics.
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

    /// Whether the request that it is in has begun: its head was in order.
    pub(in crate::server) const fn is_in_body(self) -> bool {
        matches!(self, Self::Chunk)
    }
}
