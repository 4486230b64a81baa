//! Finds where each request on a connection begins and ends, before hyper sees a byte of it. hyper accepts input that
//! other parsers read differently: bare LF, a missing or second Host, a length beside chunks, `gzip, chunked`. If two
//! parsers disagree about the end of a request, an attacker can smuggle one request inside another.
//!
//! This module does no I/O: the same bytes give the same verdict, however they are split. hyper interprets every
//! accepted request the same way; a test compares the two.

mod class;
mod fault;
mod head;
#[cfg(test)]
mod tests;

use self::head::{BodyFraming, Head};

pub use self::fault::FramingError;

/// The most bytes of chunk extensions in one body. hyper accepts less than 16 KiB. No known client sends any.
const MAX_EXTENSIONS: usize = 4 * 1024;

/// Sixteen hexadecimal digits fill 64 bits.
const MAX_DIGITS: u8 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FramingState {
    Head,
    Length(u64),
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    Trailers,
}

/// The framing state of one connection.
#[derive(Debug)]
pub(super) struct Framing {
    state: FramingState,
    /// The parser of the request's head, then of its trailers.
    head: Head,
    /// The size of the current chunk, then the part of it that is still to come.
    size: u64,
    digits: u8,
    /// Bytes of chunk extensions in this body.
    extensions: usize,
    heads: usize,
    complete_requests: usize,
    fault: Option<FramingError>,
}

impl Framing {
    /// The state of a new connection. A head may have up to `max_head` bytes.
    pub(super) fn new(max_head: usize) -> Self {
        Self {
            state: FramingState::Head,
            head: Head::new(max_head),
            size: 0,
            digits: 0,
            extensions: 0,
            heads: 0,
            complete_requests: 0,
            fault: None,
        }
    }

    /// Checks the next bytes. Returns how many of them hyper may get: all, or those before the error. Of a head with an
    /// error, hyper gets nothing.
    pub(super) fn pass(&mut self, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        // The start of the current head in `bytes`.
        let mut head_start = 0;
        while self.fault.is_none() && !rest.is_empty() {
            match self.step(rest) {
                Ok(len) => {
                    rest = rest.get(len..).unwrap_or_default();
                    if self.state == FramingState::Head && self.head.is_new() {
                        head_start = bytes.len() - rest.len();
                    }
                }
                Err(fault) => self.fault = Some(fault),
            }
        }
        match self.fault {
            None => bytes.len(),
            Some(fault) if fault.is_in_body() => bytes.len() - rest.len(),
            Some(_) => head_start,
        }
    }

    /// The number of valid heads since the connection began.
    pub(super) fn heads(&self) -> usize {
        self.heads
    }

    /// The number of complete requests since the connection began.
    pub(super) fn complete_requests(&self) -> usize {
        self.complete_requests
    }

    /// The error, after which nothing passes any more.
    pub(super) fn fault(&self) -> Option<FramingError> {
        self.fault
    }

    /// Consumes the bytes of one step: at least one byte.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, FramingError> {
        let Some(&byte) = bytes.first() else { return Ok(0) };
        self.state = match self.state {
            FramingState::Head => return self.step_head(bytes),
            FramingState::Trailers => {
                let end = self.head.read(bytes).map_err(|_| FramingError::Chunk)?;
                if end.is_some() {
                    self.finish_request();
                }
                return Ok(end.unwrap_or(bytes.len()));
            }
            FramingState::Length(left) => {
                let len = count_within(left, bytes);
                match left - len as u64 {
                    0 => self.finish_request(),
                    left => self.state = FramingState::Length(left),
                }
                return Ok(len);
            }
            FramingState::Data => {
                let len = count_within(self.size, bytes);
                self.size -= len as u64;
                if self.size == 0 {
                    self.state = FramingState::DataCr;
                }
                return Ok(len);
            }
            FramingState::DataCr => {
                expect(b'\r', byte)?;
                FramingState::DataLf
            }
            FramingState::DataLf => {
                expect(b'\n', byte)?;
                self.digits = 0;
                FramingState::Size
            }
            FramingState::Size => self.read_size(byte)?,
            FramingState::Extension => self.read_extension(byte)?,
            FramingState::SizeLf => {
                expect(b'\n', byte)?;
                if self.size == 0 {
                    self.head.trailers();
                    FramingState::Trailers
                } else {
                    FramingState::Data
                }
            }
        };
        Ok(1)
    }

    fn step_head(&mut self, bytes: &[u8]) -> Result<usize, FramingError> {
        let Some(end) = self.head.read(bytes)? else { return Ok(bytes.len()) };
        let body = self.head.body()?;
        self.heads += 1;
        match body {
            BodyFraming::Length(0) => self.finish_request(),
            BodyFraming::Length(length) => self.state = FramingState::Length(length),
            BodyFraming::Chunked => {
                self.digits = 0;
                self.extensions = 0;
                self.state = FramingState::Size;
            }
        }
        Ok(end)
    }

    /// A request is complete.
    fn finish_request(&mut self) {
        self.complete_requests += 1;
        self.state = FramingState::Head;
        self.head.request();
    }

    fn read_size(&mut self, byte: u8) -> Result<FramingState, FramingError> {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            b';' if self.digits > 0 => return Ok(FramingState::Extension),
            b'\r' if self.digits > 0 => return Ok(FramingState::SizeLf),
            _ => return Err(FramingError::Chunk),
        };
        if self.digits == MAX_DIGITS {
            return Err(FramingError::Chunk);
        }
        let before = if self.digits == 0 { 0 } else { self.size };
        self.size = before << 4 | u64::from(digit);
        self.digits += 1;
        Ok(FramingState::Size)
    }

    fn read_extension(&mut self, byte: u8) -> Result<FramingState, FramingError> {
        self.extensions += 1;
        match byte {
            b'\r' => Ok(FramingState::SizeLf),
            _ if class::is_text(byte) && self.extensions <= MAX_EXTENSIONS => Ok(FramingState::Extension),
            _ => Err(FramingError::Chunk),
        }
    }
}

fn expect(wanted: u8, byte: u8) -> Result<(), FramingError> {
    if byte == wanted { Ok(()) } else { Err(FramingError::Chunk) }
}

/// How many of `bytes` belong to the next `left` bytes.
fn count_within(left: u64, bytes: &[u8]) -> usize {
    usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len())
}
