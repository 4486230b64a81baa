//! An incremental JSON scanner: a fixed set of paths in, their byte ranges and small values out.
//!
//! The scanner is the only reader of JSON on the data path, for requests and answers alike. Structure, literals and numbers
//! must follow RFC 8259 strictly. Strings that no path selects are not unescaped; a scanner that refuses ambiguous texts also
//! checks that they are UTF-8 without control bytes. The scanner joins no pieces and does not recurse. Its memory is bounded for
//! every text. The result does not depend on how the input is split.

mod error;
mod find;
mod nesting;
mod number;
mod seek;
mod strings;
mod text;
mod utf8;
mod value;
mod watch;

#[cfg(test)]
mod tests;

pub use error::{JsonError, JsonErrorKind};
use nesting::Nesting;
use number::Number;
pub use seek::{KeyVisitor, StringInterest};
use text::Text;
use utf8::Utf8;
pub use value::{FoundValue, NUMBER_LIMIT, STRING_LIMIT, Value};
use watch::PathWatch;
pub use watch::{DuplicatePolicy, Paths};
pub(super) use watch::{bits, folded};

/// What the scanner expects next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The top-level object.
    Start,
    /// A key or `}`.
    FirstKey,
    /// A key.
    Key,
    /// `:`
    Colon,
    /// A value or `]`.
    FirstValue,
    /// A value.
    Value,
    /// `,` or the end of the container.
    After,
    /// The rest of a string that is skipped.
    Skip,
    /// The byte after a `\` in such a string.
    SkipEscaped,
    /// The rest of a string that is read.
    Text,
    /// The rest of a string that is reported in pieces.
    Pieces,
    /// The rest of a literal.
    Literal,
    /// The rest of a number.
    Number(Number),
    /// Whitespace.
    End,
}

/// Reads a JSON text that arrives in pieces. Keeps the values at a fixed set of paths. The visitor `S` sees keys and strings at every
/// depth.
#[derive(Debug)]
pub struct Scanner<S = ()> {
    state: State,
    /// Bytes of the text before the current piece.
    base: u64,
    /// Whether the current string is a key.
    is_key: bool,
    /// The offset at which the current key or scalar began.
    token_at: u64,
    /// The remaining bytes of the current literal, and its value.
    literal: (&'static [u8], Value),
    text: Text,
    nesting: Nesting,
    max_depth: u64,
    watch: PathWatch,
    seek: S,
    /// Whether the bytes of all strings are checked. Parsers read invalid strings in different ways, so one could hide something.
    checks_bytes: bool,
    utf8: Utf8,
    /// Whether the current piece contains control bytes, which are allowed only between tokens.
    has_control: bool,
    failed: Option<JsonError>,
}

impl Scanner {
    /// Makes a JSON scanner that keeps the values at these paths. `repeats` says what a repeated key means.
    pub fn new(paths: &'static Paths, repeats: DuplicatePolicy) -> Self {
        Self::seeking(paths, repeats, ())
    }
}

impl<S: KeyVisitor> Scanner<S> {
    /// Makes a JSON scanner that keeps the values at these paths, and shows keys and strings at every depth to the visitor `seek`.
    pub fn seeking(paths: &'static Paths, repeats: DuplicatePolicy, seek: S) -> Self {
        Self {
            state: State::Start,
            base: 0,
            is_key: false,
            token_at: 0,
            literal: (b"", Value::Null),
            text: Text::default(),
            nesting: Nesting::default(),
            max_depth: u64::MAX,
            watch: PathWatch::new(paths, repeats),
            seek,
            checks_bytes: repeats == DuplicatePolicy::Refuse,
            utf8: Utf8::default(),
            has_control: false,
            failed: None,
        }
    }

    /// Makes this JSON scanner refuse a text that is nested deeper than `levels`. Each level costs one bit of memory.
    pub fn max_depth(mut self, levels: u64) -> Self {
        self.max_depth = levels;
        self
    }

    /// Scans the next piece of the JSON text. After an error, every call returns the same error.
    pub fn feed(&mut self, piece: &[u8]) -> Result<(), JsonError> {
        if !self.checks_bytes {
            return self.read(piece, false).map(|_| ());
        }
        let bytes = utf8::classify(piece);
        self.has_control = bytes.control;
        let Some(fault) = self.utf8.check(piece, bytes.high) else { return self.read(piece, false).map(|_| ()) };
        // The bytes before the fault are read first, so that the result does not depend on the split.
        self.read(piece.get(..fault.at).unwrap_or_default(), false)?;
        if fault.before == 0 && !self.in_string() {
            // Between tokens the byte is an error of another kind.
            self.read(piece.get(fault.at..=fault.at).unwrap_or_default(), false)?;
        }
        self.fail(JsonErrorKind::InvalidUtf8 { name: self.read_name() }, self.base - fault.before)
    }

    /// Scans the next piece of the JSON text until the visitor [has enough](KeyVisitor::has_enough) at the end of a value, or to the end
    /// of the piece. Returns whether the scan stopped early. After an early stop, call [`Scanner::reset`] before the next text.
    pub fn feed_until_enough(&mut self, piece: &[u8]) -> Result<bool, JsonError> {
        self.read(piece, true)?;
        Ok(self.seek.has_enough())
    }

    /// Ends the scan at the end of the JSON text. Fails if the text is not complete.
    pub fn finish(&mut self) -> Result<(), JsonError> {
        match (self.failed, self.state) {
            (Some(error), _) => Err(error),
            (None, State::End) => Ok(()),
            (None, State::Start) => self.fail(JsonErrorKind::Empty, self.base),
            (None, _) => self.fail(JsonErrorKind::Truncated, self.base),
        }
    }

    /// Returns the value that the scan found at the path with this index, if the JSON text has one.
    pub fn found(&self, path: usize) -> Option<&FoundValue> {
        self.watch.found(path)
    }

    /// Returns the visitor that sees the keys and strings of this JSON scan.
    pub fn sought(&self) -> &S {
        &self.seek
    }

    /// Returns the visitor that sees the keys and strings of this JSON scan, for changes.
    pub fn sought_mut(&mut self) -> &mut S {
        &mut self.seek
    }

    /// Whether the scanned JSON text is complete, so that only whitespace may follow.
    pub fn is_whole(&self) -> bool {
        self.failed.is_none() && self.state == State::End
    }

    /// Prepares this JSON scanner for a new text, with the same paths and buffers.
    pub fn reset(&mut self) {
        self.state = State::Start;
        self.base = 0;
        self.nesting.clear();
        self.watch.clear();
        self.seek.clear();
        self.utf8 = Utf8::default();
        self.failed = None;
    }

    fn in_string(&self) -> bool {
        matches!(self.state, State::Skip | State::SkipEscaped | State::Text | State::Pieces)
    }

    /// The last name of the path of the current string, if the string is at a path.
    fn read_name(&self) -> Option<&'static str> {
        if self.is_key || !self.watching() { None } else { self.watch.wanted_name() }
    }

    /// Refuses control bytes among these bytes of a string; `at` is the offset of the first.
    #[inline]
    fn no_control(&self, bytes: &[u8], at: u64) -> Result<(), (JsonErrorKind, u64)> {
        if self.has_control
            && let Some(control) = bytes.iter().position(|byte| *byte < 0x20)
        {
            return Err((JsonErrorKind::ControlByte { name: self.read_name() }, at + control as u64));
        }
        Ok(())
    }

    fn fail<T>(&mut self, kind: JsonErrorKind, at: u64) -> Result<T, JsonError> {
        let error = JsonError { kind, at };
        self.failed = Some(error);
        Err(error)
    }

    fn read(&mut self, piece: &[u8], stops: bool) -> Result<usize, JsonError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        match self.run(piece, stops) {
            Ok(read) => {
                self.base += read as u64;
                Ok(read)
            }
            Err((kind, at)) => self.fail(kind, at),
        }
    }

    /// The main loop. Each turn reads one token or one run of a string, not one byte.
    fn run(&mut self, piece: &[u8], stops: bool) -> Result<usize, (JsonErrorKind, u64)> {
        let mut state = self.state;
        let mut i = 0;
        while let Some(&byte) = piece.get(i) {
            if stops && state == State::After && self.seek.has_enough() {
                break;
            }
            let at = self.base + i as u64;
            state = match state {
                State::Skip => {
                    let (next, read) = self.skip(&piece[i..]);
                    self.no_control(&piece[i..i + read], at)?;
                    i += read;
                    next
                }
                State::SkipEscaped => {
                    self.no_control(&[byte], at)?;
                    i += 1;
                    State::Skip
                }
                State::Text => {
                    let (read, closed) = self.text.read(&piece[i..]);
                    self.no_control(&piece[i..i + read], at)?;
                    i += read;
                    if !closed {
                        break;
                    }
                    if self.is_key {
                        self.long_key().map_err(|kind| (kind, self.token_at))?;
                        State::Colon
                    } else {
                        self.string(self.base + i as u64).map_err(|kind| (kind, self.token_at))?;
                        State::After
                    }
                }
                State::Pieces => {
                    let (read, closed) = self.text.pass(&piece[i..], |piece| self.seek.piece(piece));
                    self.no_control(&piece[i..i + read], at)?;
                    i += read;
                    if !closed {
                        break;
                    }
                    self.pieces_end(self.base + i as u64).map_err(|kind| (kind, self.token_at))?;
                    State::After
                }
                State::Literal => {
                    i += 1;
                    self.literal(byte, at)?
                }
                State::Number(number) => {
                    let (number, read) = number.read(&piece[i..]);
                    if self.keeps_value() || self.seek.wants_number() {
                        self.text.append(&piece[i..i + read]);
                    }
                    i += read;
                    let end = self.base + i as u64;
                    if i == piece.len() {
                        State::Number(number)
                    } else if !number.is_whole() {
                        return Err((JsonErrorKind::Syntax, end));
                    } else {
                        self.number(end);
                        State::After
                    }
                }
                _ if matches!(byte, b' ' | b'\n' | b'\r' | b'\t') => {
                    i += 1;
                    state
                }
                State::FirstKey | State::Key if byte == b'"' => {
                    i += 1;
                    let (next, read) = self.begin_key(&piece[i..], at)?;
                    i += read;
                    // Nearly every key and its colon are together in one piece. Python writes a space behind the colon.
                    if next == State::Colon && piece.get(i) == Some(&b':') {
                        i += 1 + usize::from(piece.get(i + 1) == Some(&b' '));
                        State::Value
                    } else {
                        next
                    }
                }
                State::FirstValue | State::Value if byte == b'"' => {
                    i += 1;
                    let (next, read) = self.begin_string(&piece[i..], at)?;
                    i += read;
                    next
                }
                State::FirstValue | State::Value if let Some(len) = self.plain_literal(&piece[i..], byte) => {
                    if byte != b'n' {
                        self.seek.scalar();
                    }
                    i += len;
                    State::After
                }
                _ => {
                    i += 1 + usize::from(byte == b',' && piece.get(i + 1) == Some(&b' '));
                    self.token(state, byte, at)?
                }
            };
        }
        self.state = state;
        Ok(i)
    }

    /// Whether a path may match in the current container.
    fn watching(&self) -> bool {
        self.watch.level() == self.nesting.depth()
    }

    /// Whether a path ends at the current or next value.
    fn keeps_value(&self) -> bool {
        self.watching() && self.watch.wants_value()
    }

    /// The length of a literal that ends in this piece and that no path needs. Nearly every literal is one of these.
    #[inline]
    fn plain_literal(&self, rest: &[u8], byte: u8) -> Option<usize> {
        let literal: &[u8] = match byte {
            b'n' => b"null",
            b't' => b"true",
            b'f' => b"false",
            _ => return None,
        };
        (rest.starts_with(literal) && !self.keeps_value()).then_some(literal.len())
    }

    /// Handles the first byte of any other token. Returns the next state.
    #[inline]
    fn token(&mut self, state: State, byte: u8, at: u64) -> Result<State, (JsonErrorKind, u64)> {
        match (state, byte) {
            (State::Colon, b':') => Ok(State::Value),
            (State::After, b',') => {
                self.seek.comma(at);
                Ok(if self.nesting.in_object() { State::Key } else { State::Value })
            }
            (State::After | State::FirstKey, b'}') if self.nesting.in_object() => Ok(self.close(Value::Object, at)),
            (State::After | State::FirstValue, b']') if !self.nesting.in_object() => Ok(self.close(Value::Array, at)),
            (State::FirstValue | State::Value, _) => self.value(byte, at),
            (State::Start, _) => self.start(byte, at),
            (State::End, _) => Err((JsonErrorKind::TrailingGarbage, at)),
            _ => Err((JsonErrorKind::Syntax, at)),
        }
    }

    /// Handles the first byte of a value that is not a string.
    fn value(&mut self, byte: u8, at: u64) -> Result<State, (JsonErrorKind, u64)> {
        if matches!(byte, b'{' | b'[') {
            return self.open(byte == b'{', at);
        }
        self.token_at = at;
        self.literal = match byte {
            b't' => (b"rue", Value::Bool(true)),
            b'f' => (b"alse", Value::Bool(false)),
            b'n' => (b"ull", Value::Null),
            _ => {
                let number = Number::begin(byte).ok_or((JsonErrorKind::Syntax, at))?;
                if self.keeps_value() || self.seek.wants_number() {
                    self.text.begin(false);
                    self.text.append(&[byte]);
                }
                return Ok(State::Number(number));
            }
        };
        Ok(State::Literal)
    }

    /// Handles the first byte of the text that is not whitespace.
    fn start(&mut self, byte: u8, at: u64) -> Result<State, (JsonErrorKind, u64)> {
        match byte {
            b'{' => {
                self.seek.open(true, at).map_err(|kind| (kind, at))?;
                self.nesting.push(true);
                self.watch.begin();
                Ok(State::FirstKey)
            }
            // The byte-order marks of UTF-8 and UTF-16 (both byte orders).
            0xEF | 0xFE | 0xFF if at == 0 => Err((JsonErrorKind::ByteOrderMark, at)),
            _ => Err((JsonErrorKind::NotAnObject, at)),
        }
    }

    fn open(&mut self, object: bool, at: u64) -> Result<State, (JsonErrorKind, u64)> {
        if self.nesting.depth() >= self.max_depth {
            return Err((JsonErrorKind::TooDeep, at));
        }
        self.seek.open(object, at).map_err(|kind| (kind, at))?;
        if self.watching() {
            self.watch.open(object, at);
        }
        self.nesting.push(object);
        Ok(if object { State::FirstKey } else { State::FirstValue })
    }

    fn close(&mut self, value: Value, at: u64) -> State {
        self.seek.close(at + 1);
        if self.watching() {
            self.watch.leave();
        }
        self.nesting.pop();
        if self.nesting.depth() == 0 {
            return State::End;
        }
        if self.watching() {
            self.watch.close(at + 1, value);
        }
        State::After
    }

    /// Handles the next byte of a literal.
    fn literal(&mut self, byte: u8, at: u64) -> Result<State, (JsonErrorKind, u64)> {
        match self.literal.0.split_first() {
            Some((expected, rest)) if *expected == byte => self.literal.0 = rest,
            _ => return Err((JsonErrorKind::Syntax, at)),
        }
        if !self.literal.0.is_empty() {
            return Ok(State::Literal);
        }
        let value = std::mem::replace(&mut self.literal.1, Value::Null);
        if value != Value::Null {
            self.seek.scalar();
        }
        if self.keeps_value() {
            self.watch.put(self.token_at..at + 1, value);
        }
        Ok(State::After)
    }

    /// Handles the end (before `end`) of a number.
    fn number(&mut self, end: u64) {
        self.seek.scalar();
        if self.seek.wants_number() {
            self.seek.number(self.text.short().filter(|text| text.len() <= NUMBER_LIMIT));
        }
        if self.keeps_value() {
            let value = self.text.number();
            self.watch.put(self.token_at..end, value);
        }
    }
}
