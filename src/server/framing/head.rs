//! Parses the head of a request byte by byte, without keeping it. Also parses the trailers after a chunked body, which
//! are header lines too.

use http::Uri;
use memchr::memchr;

use super::{
    class::{HOST, PATH, QUERY, TOKEN, has_class, is_text},
    fault::FramingError,
};

/// hyper accepts this many headers.
const MAX_HEADERS: usize = 100;

/// The most bytes of trailers, which are read and dropped. hyper accepts less than 16 KiB.
const MAX_TRAILERS: usize = 8 * 1024;

const VERSION: &[u8] = b"HTTP/1.";
const CHUNKED: &[u8] = b"chunked";

/// hyper uses the two largest numbers for itself.
const MAX_LENGTH: u64 = u64::MAX - 2;

/// How a request marks the end of its body. No header means a length of 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyFraming {
    Length(u64),
    Chunked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HeadState {
    /// Before the request line. Empty lines are skipped, as RFC 9112 asks.
    Start,
    StartLf,
    Method,
    /// The first byte of the target.
    Target,
    Path,
    Query,
    /// A target that is not a path. Rare; it is collected until it is complete.
    Other,
    Version,
    VersionCr,
    VersionLf,
    /// The first byte of a header line.
    LineStart,
    Name,
    /// White space before a value.
    BeforeValue,
    Value,
    /// White space after a checked value.
    AfterValue,
    ValueLf,
    EndLf,
}

/// A header whose value is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Host,
    Length,
    TransferEncoding,
    Other,
}

impl Field {
    fn of(name: &[u8]) -> Self {
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => Self::Host,
            14 if name.eq_ignore_ascii_case(b"content-length") => Self::Length,
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => Self::TransferEncoding,
            _ => Self::Other,
        }
    }
}

/// The length of the longest checked name: `transfer-encoding`.
const LONGEST_NAME: usize = 17;

#[derive(Debug)]
pub(super) struct Head {
    state: HeadState,
    is_trailers: bool,
    max: usize,
    /// Bytes of the head so far.
    len: usize,
    headers: usize,
    /// Whether the request is HTTP/1.0.
    is_old: bool,
    /// The current header's name, if it arrived in several parts. Bytes beyond the longest checked name are dropped.
    name: [u8; LONGEST_NAME],
    name_len: usize,
    field: Field,
    /// How many bytes of the version or of `chunked` matched so far.
    matched: usize,
    target: Vec<u8>,
    host: bool,
    length: Option<u64>,
    chunked: bool,
}

impl Head {
    pub(super) fn new(max: usize) -> Self {
        Self {
            state: HeadState::Start,
            is_trailers: false,
            max,
            len: 0,
            headers: 0,
            is_old: false,
            name: [0; LONGEST_NAME],
            name_len: 0,
            field: Field::Other,
            matched: 0,
            target: Vec::new(),
            host: false,
            length: None,
            chunked: false,
        }
    }

    /// Prepares for the head of the next request.
    pub(super) fn request(&mut self) {
        self.state = HeadState::Start;
        self.is_trailers = false;
        self.len = 0;
        self.headers = 0;
        self.matched = 0;
        self.host = false;
        self.length = None;
        self.chunked = false;
    }

    /// Prepares for the trailers of this request.
    pub(super) fn trailers(&mut self) {
        self.state = HeadState::LineStart;
        self.is_trailers = true;
        self.len = 0;
        self.headers = 0;
    }

    /// Whether no byte of the head arrived yet.
    pub(super) fn is_new(&self) -> bool {
        self.len == 0
    }

    /// Reads more bytes. Returns the position after the head if the head ends in `bytes`.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<Option<usize>, FramingError> {
        let max = if self.is_trailers { MAX_TRAILERS } else { self.max };
        let room = max - self.len;
        let within = bytes.get(..room).unwrap_or(bytes);
        let mut rest = within;
        while let Some((&byte, after)) = rest.split_first() {
            rest = match self.state {
                HeadState::Path => self.target_run(rest, PATH)?,
                HeadState::Query => self.target_run(rest, QUERY)?,
                HeadState::LineStart => self.line(rest, byte, after)?,
                HeadState::Name => self.name(rest)?,
                HeadState::Value if self.field == Field::Other => self.text(rest)?,
                HeadState::EndLf => {
                    expect_lf(byte)?;
                    self.len += within.len() - after.len();
                    return Ok(Some(within.len() - after.len()));
                }
                _ => {
                    self.byte(byte)?;
                    after
                }
            };
        }
        self.len += within.len();
        if self.len == max { Err(FramingError::HeadTooLarge) } else { Ok(None) }
    }

    /// The framing of the body that the complete head announces.
    pub(super) fn body(&self) -> Result<BodyFraming, FramingError> {
        match (self.chunked, self.length) {
            _ if !self.host && !self.is_old => Err(FramingError::Host),
            (true, Some(_)) => Err(FramingError::TwoLengths),
            (true, None) if self.is_old => Err(FramingError::TransferEncoding),
            (true, None) => Ok(BodyFraming::Chunked),
            (false, length) => Ok(BodyFraming::Length(length.unwrap_or(0))),
        }
    }

    /// Parses one byte in the states that are not read in runs.
    fn byte(&mut self, byte: u8) -> Result<(), FramingError> {
        self.state = match self.state {
            HeadState::Start => match byte {
                b'\r' => HeadState::StartLf,
                _ if has_class(byte, TOKEN) => HeadState::Method,
                _ => return Err(unexpected(byte, FramingError::RequestLine)),
            },
            HeadState::StartLf => {
                expect_lf(byte)?;
                HeadState::Start
            }
            HeadState::Method => match byte {
                b' ' => HeadState::Target,
                _ if has_class(byte, TOKEN) => HeadState::Method,
                _ => return Err(unexpected(byte, FramingError::RequestLine)),
            },
            HeadState::Target if byte == b'/' => HeadState::Path,
            HeadState::Target | HeadState::Other => self.other(byte)?,
            HeadState::Version if self.matched == VERSION.len() => {
                self.is_old = byte == b'0';
                if !matches!(byte, b'0' | b'1') {
                    return Err(unexpected(byte, FramingError::RequestLine));
                }
                HeadState::VersionCr
            }
            HeadState::Version => {
                if VERSION.get(self.matched) != Some(&byte) {
                    return Err(unexpected(byte, FramingError::RequestLine));
                }
                self.matched += 1;
                HeadState::Version
            }
            HeadState::VersionCr if byte == b'\r' => HeadState::VersionLf,
            HeadState::VersionCr => return Err(unexpected(byte, FramingError::RequestLine)),
            HeadState::VersionLf | HeadState::ValueLf => {
                expect_lf(byte)?;
                HeadState::LineStart
            }
            HeadState::BeforeValue if matches!(byte, b' ' | b'\t') => HeadState::BeforeValue,
            HeadState::BeforeValue | HeadState::Value | HeadState::AfterValue => self.value(byte)?,
            // `read` parses these states in runs.
            HeadState::Path | HeadState::Query | HeadState::LineStart | HeadState::Name | HeadState::EndLf => {
                self.state
            }
        };
        Ok(())
    }

    /// Reads a path or a query as far as it goes.
    fn target_run<'a>(&mut self, bytes: &'a [u8], class: u8) -> Result<&'a [u8], FramingError> {
        let len = bytes.iter().position(|byte| !has_class(*byte, class)).unwrap_or(bytes.len());
        let Some((&byte, after)) = bytes.get(len..).and_then(<[u8]>::split_first) else { return Ok(&[]) };
        self.state = match byte {
            b' ' => HeadState::Version,
            b'?' => HeadState::Query,
            _ => return Err(unexpected(byte, FramingError::RequestLine)),
        };
        Ok(after)
    }

    /// Reads a whole URI, an authority or `*`. The parser that hyper uses judges it.
    fn other(&mut self, byte: u8) -> Result<HeadState, FramingError> {
        match byte {
            b' ' => {
                // Taking the target also frees its memory.
                let target = std::mem::take(&mut self.target);
                Uri::try_from(target.as_slice()).map_err(|_| FramingError::RequestLine)?;
                Ok(HeadState::Version)
            }
            b'!'..=b'~' if byte != b'#' => {
                self.target.push(byte);
                Ok(HeadState::Other)
            }
            _ => Err(unexpected(byte, FramingError::RequestLine)),
        }
    }

    /// Reads the first byte of a header line.
    fn line<'a>(&mut self, bytes: &'a [u8], byte: u8, after: &'a [u8]) -> Result<&'a [u8], FramingError> {
        match byte {
            b'\r' => {
                self.state = HeadState::EndLf;
                return Ok(after);
            }
            b' ' | b'\t' => return Err(FramingError::Folding),
            _ if has_class(byte, TOKEN) => {}
            _ => return Err(unexpected(byte, FramingError::Header)),
        }
        self.headers += 1;
        if self.headers > MAX_HEADERS {
            return Err(FramingError::HeadTooLarge);
        }
        self.name_len = 0;
        self.state = HeadState::Name;
        Ok(bytes)
    }

    /// Reads a header's name as far as it goes.
    fn name<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], FramingError> {
        let len = bytes.iter().position(|byte| !has_class(*byte, TOKEN)).unwrap_or(bytes.len());
        let (name, rest) = bytes.split_at(len);
        let Some((&byte, after)) = rest.split_first() else {
            self.keep(name);
            return Ok(&[]);
        };
        if byte != b':' {
            return Err(unexpected(byte, FramingError::Header));
        }
        self.field = if self.name_len == 0 {
            Field::of(name)
        } else {
            self.keep(name);
            self.name.get(..self.name_len).map_or(Field::Other, Field::of)
        };
        self.begin()?;
        self.state = HeadState::BeforeValue;
        Ok(after)
    }

    /// Keeps a part of a name that arrives in several reads.
    fn keep(&mut self, part: &[u8]) {
        for (place, byte) in self.name.iter_mut().skip(self.name_len).zip(part) {
            *place = *byte;
        }
        self.name_len += part.len();
    }

    /// Begins a checked value. A second header of the same name is an error.
    fn begin(&mut self) -> Result<(), FramingError> {
        let is_second = match self.field {
            Field::Other => return Ok(()),
            Field::Host => std::mem::replace(&mut self.host, true),
            Field::Length => self.length.is_some(),
            Field::TransferEncoding => std::mem::replace(&mut self.chunked, true),
        };
        self.matched = 0;
        // In trailers, these headers would describe a body that has already ended.
        if is_second || self.is_trailers { Err(self.fault()) } else { Ok(()) }
    }

    /// The error for an invalid value of the current header.
    fn fault(&self) -> FramingError {
        match self.field {
            Field::Other => FramingError::Header,
            Field::Host => FramingError::Host,
            Field::Length => FramingError::ContentLength,
            Field::TransferEncoding => FramingError::TransferEncoding,
        }
    }

    /// Reads an unchecked value as far as it goes.
    fn text<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], FramingError> {
        let len = memchr(b'\r', bytes).unwrap_or(bytes.len());
        let (text, rest) = bytes.split_at(len);
        // Without a branch in the loop, the compiler checks many bytes at once.
        if !text.iter().fold(true, |has_class, byte| has_class & is_text(*byte)) {
            let first = text.iter().find(|byte| !is_text(**byte));
            return Err(unexpected(first.copied().unwrap_or_default(), FramingError::Header));
        }
        let Some((_, after)) = rest.split_first() else { return Ok(&[]) };
        self.state = HeadState::ValueLf;
        Ok(after)
    }

    /// Parses one byte of a checked value, or after it.
    fn value(&mut self, byte: u8) -> Result<HeadState, FramingError> {
        match (byte, self.field) {
            (b'\r', Field::Length) if self.length.is_none() => Err(FramingError::ContentLength),
            (b'\r', Field::TransferEncoding) if self.matched < CHUNKED.len() => Err(FramingError::TransferEncoding),
            (b'\r', _) => Ok(HeadState::ValueLf),
            (_, Field::Other) if is_text(byte) => Ok(HeadState::Value),
            (b' ' | b'\t', _) => Ok(HeadState::AfterValue),
            _ if self.state == HeadState::AfterValue => Err(unexpected(byte, self.fault())),
            (_, Field::Host) if has_class(byte, HOST) => Ok(HeadState::Value),
            (b'0'..=b'9', Field::Length) => {
                let before = self.length.unwrap_or(0);
                let length = before.checked_mul(10).and_then(|ten| ten.checked_add(u64::from(byte - b'0')));
                self.length = Some(length.filter(|length| *length <= MAX_LENGTH).ok_or(FramingError::ContentLength)?);
                Ok(HeadState::Value)
            }
            (_, Field::TransferEncoding) if CHUNKED.get(self.matched) == Some(&byte.to_ascii_lowercase()) => {
                self.matched += 1;
                Ok(HeadState::Value)
            }
            _ => Err(unexpected(byte, self.fault())),
        }
    }
}

fn expect_lf(byte: u8) -> Result<(), FramingError> {
    if byte == b'\n' { Ok(()) } else { Err(FramingError::LineEnding) }
}

/// The error for a byte that is not allowed at its place.
fn unexpected(byte: u8, fault: FramingError) -> FramingError {
    match byte {
        b'\n' => FramingError::LineEnding,
        0 => FramingError::Header,
        _ => fault,
    }
}
