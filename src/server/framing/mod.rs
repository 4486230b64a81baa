//! Where each request on a connection begins and ends, checked before hyper sees a byte of it. hyper forgives what
//! others read differently: bare LF, a missing or second Host, a length beside chunks, `gzip, chunked`. Two parsers that
//! disagree about the end of a request are how one is smuggled inside another.
//!
//! Pure: bytes go in, a verdict comes out, and it is the same however the bytes were split. What passes here, hyper
//! takes as it is meant here; a test holds the two against each other.

mod class;
mod fault;
mod head;
#[cfg(test)]
mod tests;

use self::head::{Body, Head};

pub use self::fault::Fault;

/// hyper takes fewer than 16 KiB of extensions in one body. Nobody sends any.
const MAX_EXTENSIONS: usize = 4 * 1024;

/// Sixteen hexadecimal digits fill 64 bits.
const MAX_DIGITS: u8 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
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

/// One connection's requests.
#[derive(Debug)]
pub(super) struct Framing {
    state: State,
    /// Of the request, then of its trailers.
    head: Head,
    /// Of the chunk; what is left of it.
    size: u64,
    digits: u8,
    /// Bytes of extensions in this body.
    extensions: usize,
    heads: usize,
    ends: usize,
    fault: Option<Fault>,
}

impl Framing {
    /// A new connection. A head may have `max_head` bytes.
    pub(super) fn new(max_head: usize) -> Self {
        Self {
            state: State::Head,
            head: Head::new(max_head),
            size: 0,
            digits: 0,
            extensions: 0,
            heads: 0,
            ends: 0,
            fault: None,
        }
    }

    /// Looks at the next bytes. How many of them may be passed on: all, or those before the fault. Of a head with a
    /// fault none.
    pub(super) fn pass(&mut self, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        // Where the head under way began.
        let mut began = 0;
        while self.fault.is_none() && !rest.is_empty() {
            match self.step(rest) {
                Ok(len) => {
                    rest = rest.get(len..).unwrap_or_default();
                    if self.state == State::Head && self.head.is_new() {
                        began = bytes.len() - rest.len();
                    }
                }
                Err(fault) => self.fault = Some(fault),
            }
        }
        match self.fault {
            None => bytes.len(),
            Some(fault) if fault.is_in_body() => bytes.len() - rest.len(),
            Some(_) => began,
        }
    }

    /// Heads that passed, in all.
    pub(super) fn heads(&self) -> usize {
        self.heads
    }

    /// Requests that passed to their last byte, in all.
    pub(super) fn ends(&self) -> usize {
        self.ends
    }

    /// What was found. Nothing passes any more.
    pub(super) fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// Takes as many bytes as belong together; at least one.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        let Some(&byte) = bytes.first() else { return Ok(0) };
        self.state = match self.state {
            State::Head => return self.step_head(bytes),
            State::Trailers => {
                let end = self.head.read(bytes).map_err(|_| Fault::Chunk)?;
                if end.is_some() {
                    self.next();
                }
                return Ok(end.unwrap_or(bytes.len()));
            }
            State::Length(left) => {
                let len = skip(left, bytes);
                match left - len as u64 {
                    0 => self.next(),
                    left => self.state = State::Length(left),
                }
                return Ok(len);
            }
            State::Data => {
                let len = skip(self.size, bytes);
                self.size -= len as u64;
                if self.size == 0 {
                    self.state = State::DataCr;
                }
                return Ok(len);
            }
            State::DataCr => {
                expect(b'\r', byte)?;
                State::DataLf
            }
            State::DataLf => {
                expect(b'\n', byte)?;
                self.digits = 0;
                State::Size
            }
            State::Size => self.read_size(byte)?,
            State::Extension => self.read_extension(byte)?,
            State::SizeLf => {
                expect(b'\n', byte)?;
                if self.size == 0 {
                    self.head.trailers();
                    State::Trailers
                } else {
                    State::Data
                }
            }
        };
        Ok(1)
    }

    fn step_head(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        let Some(end) = self.head.read(bytes)? else { return Ok(bytes.len()) };
        let body = self.head.body()?;
        self.heads += 1;
        match body {
            Body::Length(0) => self.next(),
            Body::Length(length) => self.state = State::Length(length),
            Body::Chunked => {
                self.digits = 0;
                self.extensions = 0;
                self.state = State::Size;
            }
        }
        Ok(end)
    }

    /// A request is over.
    fn next(&mut self) {
        self.ends += 1;
        self.state = State::Head;
        self.head.request();
    }

    fn read_size(&mut self, byte: u8) -> Result<State, Fault> {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            b';' if self.digits > 0 => return Ok(State::Extension),
            b'\r' if self.digits > 0 => return Ok(State::SizeLf),
            _ => return Err(Fault::Chunk),
        };
        if self.digits == MAX_DIGITS {
            return Err(Fault::Chunk);
        }
        let before = if self.digits == 0 { 0 } else { self.size };
        self.size = before << 4 | u64::from(digit);
        self.digits += 1;
        Ok(State::Size)
    }

    fn read_extension(&mut self, byte: u8) -> Result<State, Fault> {
        self.extensions += 1;
        match byte {
            b'\r' => Ok(State::SizeLf),
            _ if class::is_text(byte) && self.extensions <= MAX_EXTENSIONS => Ok(State::Extension),
            _ => Err(Fault::Chunk),
        }
    }
}

fn expect(wanted: u8, byte: u8) -> Result<(), Fault> {
    if byte == wanted { Ok(()) } else { Err(Fault::Chunk) }
}

/// How many of `bytes` are among the next `left`.
fn skip(left: u64, bytes: &[u8]) -> usize {
    usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len())
}
