//! Reads one string (or number) of any length into a small buffer. Pieces may cut the string anywhere.

use super::{
    NUMBER_LIMIT, STRING_LIMIT, Value,
    find::{has_control, quote_or_backslash},
};

/// The position in an escape.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Escape {
    #[default]
    None,
    /// After `\`.
    Begun,
    /// After `\u` and some digits: how many, and their value.
    Hex(u8, u16),
}

/// A string that is being read and unescaped.
#[derive(Debug, Default)]
pub(super) struct Text {
    kept: Vec<u8>,
    escape: Escape,
    /// A high surrogate without its low surrogate yet.
    high: Option<u16>,
    /// Whether the string is longer than the limit.
    long: bool,
    /// Whether the string is not text.
    invalid: bool,
    /// Whether the string is checked to its end, even beyond the limit.
    check_all: bool,
}

impl Text {
    pub(super) fn begin(&mut self, check_all: bool) {
        self.kept.clear();
        self.escape = Escape::None;
        self.high = None;
        self.long = false;
        self.invalid = false;
        self.check_all = check_all;
    }

    /// Reads up to and including the closing quote. Returns the number of bytes read, and whether the quote was among them.
    pub(super) fn read(&mut self, bytes: &[u8]) -> (usize, bool) {
        let mut i = 0;
        while let Some(&byte) = bytes.get(i) {
            if self.escape != Escape::None {
                i += usize::from(self.escaped(byte));
                continue;
            }
            let rest = &bytes[i..];
            let run = quote_or_backslash(rest).unwrap_or(rest.len());
            if run > 0 {
                self.raw(&rest[..run]);
                i += run;
                continue;
            }
            i += 1;
            if byte == b'"' {
                self.lone();
                return (i, true);
            }
            self.escape = Escape::Begun;
        }
        (i, false)
    }

    /// Reads up to and including the closing quote, reports the unescaped bytes to `to`, and keeps nothing. Returns the number of
    /// bytes read, and whether the quote was among them. Does not check UTF-8.
    pub(super) fn pass(&mut self, bytes: &[u8], mut to: impl FnMut(&[u8])) -> (usize, bool) {
        let mut i = 0;
        while let Some(&byte) = bytes.get(i) {
            if self.escape != Escape::None {
                i += usize::from(self.escaped(byte));
                if !self.kept.is_empty() {
                    to(&self.kept);
                    self.kept.clear();
                }
                continue;
            }
            let rest = &bytes[i..];
            let run = quote_or_backslash(rest).unwrap_or(rest.len());
            if run > 0 {
                self.lone();
                self.invalid |= has_control(&rest[..run]);
                to(&rest[..run]);
                i += run;
                continue;
            }
            i += 1;
            if byte == b'"' {
                self.lone();
                return (i, true);
            }
            self.escape = Escape::Begun;
        }
        (i, false)
    }

    /// Whether the checked part of the string is text.
    pub(super) fn is_valid(&self) -> bool {
        !self.invalid
    }

    /// The string, if it is within the limit and is text.
    pub(super) fn short(&self) -> Option<&str> {
        if self.invalid || self.long { None } else { std::str::from_utf8(&self.kept).ok() }
    }

    /// The key, if it is within the limit; `Err` if it is not text.
    pub(super) fn key(&self) -> Result<Option<&str>, ()> {
        let text = std::str::from_utf8(&self.kept);
        match (self.invalid, self.long, text) {
            (false, false, Ok(text)) => Ok(Some(text)),
            (false, true, _) if !self.check_all => Ok(None),
            (false, true, Ok(_)) => Ok(None),
            _ => Err(()),
        }
    }

    /// The string as a value.
    pub(super) fn value(&self) -> Value {
        if self.invalid {
            return Value::InvalidString;
        }
        if self.long {
            return Value::LongString;
        }
        std::str::from_utf8(&self.kept).map_or(Value::InvalidString, |text| Value::String(text.into()))
    }

    /// The number as a value.
    pub(super) fn number(&self) -> Value {
        match std::str::from_utf8(&self.kept) {
            Ok(text) if text.len() <= NUMBER_LIMIT && !self.long => Value::Number(text.into()),
            _ => Value::LongNumber,
        }
    }

    /// Keeps bytes up to the limit.
    pub(super) fn append(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.looks() {
            let room = STRING_LIMIT - self.kept.len();
            if room == 0 {
                self.overflow();
                continue;
            }
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.kept.extend_from_slice(now);
            bytes = later;
        }
    }

    /// Whether more bytes may still change the result.
    fn looks(&self) -> bool {
        !self.invalid && (!self.long || self.check_all)
    }

    /// Handles a run without quotes and escapes. A control byte makes the string invalid; beyond the limit it does not matter.
    fn raw(&mut self, mut run: &[u8]) {
        self.lone();
        if !self.check_all {
            // One byte beyond the limit is enough to know that the string is long.
            run = &run[..run.len().min(STRING_LIMIT - self.kept.len() + 1)];
        }
        if self.looks() {
            let checked = if self.check_all { run } else { &run[..run.len().min(STRING_LIMIT - self.kept.len())] };
            self.invalid = has_control(checked);
            self.append(run);
        }
    }

    /// The string is longer than the limit and is not kept. If it is checked to its end, only the bytes of a cut character stay.
    fn overflow(&mut self) {
        self.long = true;
        if self.check_all {
            let whole = match std::str::from_utf8(&self.kept) {
                Ok(text) => text.len(),
                Err(error) if error.error_len().is_none() => error.valid_up_to(),
                Err(_) => {
                    self.invalid = true;
                    return;
                }
            };
            self.kept.drain(..whole);
        }
    }

    /// Handles one byte of an escape. Returns false if the byte does not belong to the escape.
    fn escaped(&mut self, byte: u8) -> bool {
        let (digits, value) = match self.escape {
            Escape::Hex(digits, value) => (digits, value),
            _ => {
                self.escape = if byte == b'u' { Escape::Hex(0, 0) } else { Escape::None };
                match byte {
                    b'u' => {}
                    b'"' | b'\\' | b'/' => self.unescaped(char::from(byte)),
                    b'b' => self.unescaped('\u{8}'),
                    b'f' => self.unescaped('\u{c}'),
                    b'n' => self.unescaped('\n'),
                    b'r' => self.unescaped('\r'),
                    b't' => self.unescaped('\t'),
                    _ => self.fault(),
                }
                return true;
            }
        };
        let Some(digit) = char::from(byte).to_digit(16) else {
            self.escape = Escape::None;
            self.fault();
            return false;
        };
        let value = value << 4 | digit as u16;
        if digits < 3 {
            self.escape = Escape::Hex(digits + 1, value);
        } else {
            self.escape = Escape::None;
            self.unit(value);
        }
        true
    }

    /// Handles one `\uXXXX`.
    fn unit(&mut self, unit: u16) {
        match (self.high.take(), unit) {
            (None, 0xD800..=0xDBFF) => self.high = Some(unit),
            (high, _) => match char::decode_utf16(high.into_iter().chain([unit])).next() {
                Some(Ok(char)) => self.unescaped(char),
                _ => self.fault(),
            },
        }
    }

    fn unescaped(&mut self, char: char) {
        self.lone();
        self.append(char.encode_utf8(&mut [0; 4]).as_bytes());
    }

    /// Marks the string as invalid if a high surrogate has no low surrogate.
    fn lone(&mut self) {
        if self.high.take().is_some() {
            self.fault();
        }
    }

    fn fault(&mut self) {
        if self.looks() {
            self.invalid = true;
        }
    }
}
