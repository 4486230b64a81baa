//! The head of a request, byte by byte, without keeping any of it; and the trailers behind a chunked body, which are
//! header lines too.

use http::Uri;
use memchr::memchr;

use super::{
    class::{HOST, PATH, QUERY, TOKEN, is, is_text},
    fault::Fault,
};

/// hyper takes so many headers.
const MAX_HEADERS: usize = 100;

/// Trailers are read and dropped. hyper takes less than 16 KiB of them.
const MAX_TRAILERS: usize = 8 * 1024;

const VERSION: &[u8] = b"HTTP/1.";
const CHUNKED: &[u8] = b"chunked";

/// hyper keeps the two largest for itself.
const MAX_LENGTH: u64 = u64::MAX - 2;

/// How a request says where its body ends. None at all is a length of 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    Length(u64),
    Chunked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the request's line. Empty lines are forgiven, as RFC 9112 has it.
    Start,
    StartLf,
    Method,
    /// The first byte of the target.
    Target,
    Path,
    Query,
    /// A target that is not a path: rare, kept until it is whole.
    Other,
    Version,
    VersionCr,
    VersionLf,
    /// The first byte of a header line.
    Line,
    Name,
    /// White space before a value.
    Before,
    Value,
    /// White space behind a value that is looked at.
    Behind,
    ValueLf,
    EndLf,
}

/// A header whose value is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Host,
    Length,
    Coding,
    Other,
}

impl Field {
    fn of(name: &[u8]) -> Self {
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => Self::Host,
            14 if name.eq_ignore_ascii_case(b"content-length") => Self::Length,
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => Self::Coding,
            _ => Self::Other,
        }
    }
}

/// The longest name that is looked at: `transfer-encoding`.
const LONGEST: usize = 17;

#[derive(Debug)]
pub(super) struct Head {
    state: State,
    is_trailers: bool,
    max: usize,
    /// Bytes of it so far.
    len: usize,
    headers: usize,
    /// HTTP/1.0.
    is_old: bool,
    /// The name under way, where it came in parts; what goes beyond is none that is looked at.
    name: [u8; LONGEST],
    named: usize,
    field: Field,
    /// Bytes of the version or of a coding that matched so far.
    matched: usize,
    target: Vec<u8>,
    host: bool,
    length: Option<u64>,
    chunked: bool,
}

impl Head {
    pub(super) fn new(max: usize) -> Self {
        Self {
            state: State::Start,
            is_trailers: false,
            max,
            len: 0,
            headers: 0,
            is_old: false,
            name: [0; LONGEST],
            named: 0,
            field: Field::Other,
            matched: 0,
            target: Vec::new(),
            host: false,
            length: None,
            chunked: false,
        }
    }

    /// The next one is that of a request.
    pub(super) fn request(&mut self) {
        self.state = State::Start;
        self.is_trailers = false;
        self.len = 0;
        self.headers = 0;
        self.matched = 0;
        self.host = false;
        self.length = None;
        self.chunked = false;
    }

    /// The next ones are the trailers of this request.
    pub(super) fn trailers(&mut self) {
        self.state = State::Line;
        self.is_trailers = true;
        self.len = 0;
        self.headers = 0;
    }

    /// Nothing of it came yet.
    pub(super) fn is_new(&self) -> bool {
        self.len == 0
    }

    /// Reads on. Where it ends in `bytes`, if it does.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<Option<usize>, Fault> {
        let max = if self.is_trailers { MAX_TRAILERS } else { self.max };
        let room = max - self.len;
        let within = bytes.get(..room).unwrap_or(bytes);
        let mut rest = within;
        while let Some((&byte, after)) = rest.split_first() {
            rest = match self.state {
                State::Path => self.target_run(rest, PATH)?,
                State::Query => self.target_run(rest, QUERY)?,
                State::Line => self.line(rest, byte, after)?,
                State::Name => self.name(rest)?,
                State::Value if self.field == Field::Other => self.text(rest)?,
                State::EndLf => {
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
        if self.len == max { Err(Fault::HeadTooLarge) } else { Ok(None) }
    }

    /// The body that the head announces, once it is whole.
    pub(super) fn body(&self) -> Result<Body, Fault> {
        match (self.chunked, self.length) {
            _ if !self.host && !self.is_old => Err(Fault::Host),
            (true, Some(_)) => Err(Fault::TwoLengths),
            (true, None) if self.is_old => Err(Fault::TransferEncoding),
            (true, None) => Ok(Body::Chunked),
            (false, length) => Ok(Body::Length(length.unwrap_or(0))),
        }
    }

    /// What comes one byte at a time.
    fn byte(&mut self, byte: u8) -> Result<(), Fault> {
        self.state = match self.state {
            State::Start => match byte {
                b'\r' => State::StartLf,
                _ if is(byte, TOKEN) => State::Method,
                _ => return Err(stray(byte, Fault::RequestLine)),
            },
            State::StartLf => {
                expect_lf(byte)?;
                State::Start
            }
            State::Method => match byte {
                b' ' => State::Target,
                _ if is(byte, TOKEN) => State::Method,
                _ => return Err(stray(byte, Fault::RequestLine)),
            },
            State::Target if byte == b'/' => State::Path,
            State::Target | State::Other => self.other(byte)?,
            State::Version if self.matched == VERSION.len() => {
                self.is_old = byte == b'0';
                if !matches!(byte, b'0' | b'1') {
                    return Err(stray(byte, Fault::RequestLine));
                }
                State::VersionCr
            }
            State::Version => {
                if VERSION.get(self.matched) != Some(&byte) {
                    return Err(stray(byte, Fault::RequestLine));
                }
                self.matched += 1;
                State::Version
            }
            State::VersionCr if byte == b'\r' => State::VersionLf,
            State::VersionCr => return Err(stray(byte, Fault::RequestLine)),
            State::VersionLf | State::ValueLf => {
                expect_lf(byte)?;
                State::Line
            }
            State::Before if matches!(byte, b' ' | b'\t') => State::Before,
            State::Before | State::Value | State::Behind => self.value(byte)?,
            // Read in runs.
            State::Path | State::Query | State::Line | State::Name | State::EndLf => self.state,
        };
        Ok(())
    }

    /// A path or a query, as far as it goes.
    fn target_run<'a>(&mut self, bytes: &'a [u8], class: u8) -> Result<&'a [u8], Fault> {
        let len = bytes.iter().position(|byte| !is(*byte, class)).unwrap_or(bytes.len());
        let Some((&byte, after)) = bytes.get(len..).and_then(<[u8]>::split_first) else { return Ok(&[]) };
        self.state = match byte {
            b' ' => State::Version,
            b'?' => State::Query,
            _ => return Err(stray(byte, Fault::RequestLine)),
        };
        Ok(after)
    }

    /// A whole URI, an authority or `*`: judged by the same parser that hyper asks.
    fn other(&mut self, byte: u8) -> Result<State, Fault> {
        match byte {
            b' ' => {
                // Its memory is not kept either.
                let target = std::mem::take(&mut self.target);
                Uri::try_from(target.as_slice()).map_err(|_| Fault::RequestLine)?;
                Ok(State::Version)
            }
            b'!'..=b'~' if byte != b'#' => {
                self.target.push(byte);
                Ok(State::Other)
            }
            _ => Err(stray(byte, Fault::RequestLine)),
        }
    }

    /// The first byte of a line, which is the first of its name if it has one.
    fn line<'a>(&mut self, bytes: &'a [u8], byte: u8, after: &'a [u8]) -> Result<&'a [u8], Fault> {
        match byte {
            b'\r' => {
                self.state = State::EndLf;
                return Ok(after);
            }
            b' ' | b'\t' => return Err(Fault::Folding),
            _ if is(byte, TOKEN) => {}
            _ => return Err(stray(byte, Fault::Header)),
        }
        self.headers += 1;
        if self.headers > MAX_HEADERS {
            return Err(Fault::HeadTooLarge);
        }
        self.named = 0;
        self.state = State::Name;
        Ok(bytes)
    }

    /// A header's name, as far as it goes.
    fn name<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Fault> {
        let len = bytes.iter().position(|byte| !is(*byte, TOKEN)).unwrap_or(bytes.len());
        let (name, rest) = bytes.split_at(len);
        let Some((&byte, after)) = rest.split_first() else {
            self.keep(name);
            return Ok(&[]);
        };
        if byte != b':' {
            return Err(stray(byte, Fault::Header));
        }
        self.field = if self.named == 0 {
            Field::of(name)
        } else {
            self.keep(name);
            self.name.get(..self.named).map_or(Field::Other, Field::of)
        };
        self.begin()?;
        self.state = State::Before;
        Ok(after)
    }

    /// A part of a name whose other parts come with other bytes.
    fn keep(&mut self, part: &[u8]) {
        for (place, byte) in self.name.iter_mut().skip(self.named).zip(part) {
            *place = *byte;
        }
        self.named += part.len();
    }

    /// A value that is looked at begins: it may not be the second one.
    fn begin(&mut self) -> Result<(), Fault> {
        let is_second = match self.field {
            Field::Other => return Ok(()),
            Field::Host => std::mem::replace(&mut self.host, true),
            Field::Length => self.length.is_some(),
            Field::Coding => std::mem::replace(&mut self.chunked, true),
        };
        self.matched = 0;
        // In trailers they would say something about a body that is over.
        if is_second || self.is_trailers { Err(self.fault()) } else { Ok(()) }
    }

    /// What is wrong where the value of the header under way is.
    fn fault(&self) -> Fault {
        match self.field {
            Field::Other => Fault::Header,
            Field::Host => Fault::Host,
            Field::Length => Fault::ContentLength,
            Field::Coding => Fault::TransferEncoding,
        }
    }

    /// A value that is not looked at, as far as it goes.
    fn text<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Fault> {
        let len = memchr(b'\r', bytes).unwrap_or(bytes.len());
        let (text, rest) = bytes.split_at(len);
        // Without a branch in it, the compiler looks at many bytes at once.
        if !text.iter().fold(true, |is, byte| is & is_text(*byte)) {
            let first = text.iter().find(|byte| !is_text(**byte));
            return Err(stray(first.copied().unwrap_or_default(), Fault::Header));
        }
        let Some((_, after)) = rest.split_first() else { return Ok(&[]) };
        self.state = State::ValueLf;
        Ok(after)
    }

    /// One byte of a value, or behind it.
    fn value(&mut self, byte: u8) -> Result<State, Fault> {
        match (byte, self.field) {
            (b'\r', Field::Length) if self.length.is_none() => Err(Fault::ContentLength),
            (b'\r', Field::Coding) if self.matched < CHUNKED.len() => Err(Fault::TransferEncoding),
            (b'\r', _) => Ok(State::ValueLf),
            (_, Field::Other) if is_text(byte) => Ok(State::Value),
            (b' ' | b'\t', _) => Ok(State::Behind),
            _ if self.state == State::Behind => Err(stray(byte, self.fault())),
            (_, Field::Host) if is(byte, HOST) => Ok(State::Value),
            (b'0'..=b'9', Field::Length) => {
                let before = self.length.unwrap_or(0);
                let length = before.checked_mul(10).and_then(|ten| ten.checked_add(u64::from(byte - b'0')));
                self.length = Some(length.filter(|length| *length <= MAX_LENGTH).ok_or(Fault::ContentLength)?);
                Ok(State::Value)
            }
            (_, Field::Coding) if CHUNKED.get(self.matched) == Some(&byte.to_ascii_lowercase()) => {
                self.matched += 1;
                Ok(State::Value)
            }
            _ => Err(stray(byte, self.fault())),
        }
    }
}

fn expect_lf(byte: u8) -> Result<(), Fault> {
    if byte == b'\n' { Ok(()) } else { Err(Fault::LineEnding) }
}

/// A byte that has no business where it is.
fn stray(byte: u8, fault: Fault) -> Fault {
    match byte {
        b'\n' => Fault::LineEnding,
        0 => Fault::Header,
        _ => fault,
    }
}
