//! Reads one string (or number) into a small buffer, whatever its length and however it is cut.

use super::{NUMBER_LIMIT, STRING_LIMIT, Value, find::quote_or_backslash};

/// Where in an escape we are.
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
    /// A high surrogate that waits for its low one.
    high: Option<u16>,
    /// It is over the limit.
    long: bool,
    /// It is no text.
    invalid: bool,
    /// It is to be checked to its end, even where it is over the limit.
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

    /// Reads up to and with the closing quote; gives how much was read and whether it was closed.
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

    /// Reads up to and with the closing quote, passes on what is read, and keeps nothing; gives how much was read and whether it
    /// was closed. Whether the bytes are UTF-8 is not looked at.
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
                self.invalid |= rest[..run].iter().fold(false, |control, &byte| control | (byte < 0x20));
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

    /// Nothing in it made it no text, as far as was looked.
    pub(super) fn is_valid(&self) -> bool {
        !self.invalid
    }

    /// The string, if it was short enough to be kept and is text.
    pub(super) fn short(&self) -> Option<&str> {
        if self.invalid || self.long { None } else { std::str::from_utf8(&self.kept).ok() }
    }

    /// The key, if it was short enough to be kept; `Err` if it is no text.
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

    /// What comes may still change the result.
    fn looks(&self) -> bool {
        !self.invalid && (!self.long || self.check_all)
    }

    /// A run without quotes and escapes. A control character may not stand bare; past the limit nobody asks.
    fn raw(&mut self, mut run: &[u8]) {
        self.lone();
        if !self.check_all {
            // One byte more than there is room for shows that it is long.
            run = &run[..run.len().min(STRING_LIMIT - self.kept.len() + 1)];
        }
        if self.looks() {
            let checked = if self.check_all { run } else { &run[..run.len().min(STRING_LIMIT - self.kept.len())] };
            // Without an early way out, which would be one byte at a time.
            self.invalid = checked.iter().fold(false, |control, &byte| control | (byte < 0x20));
            self.append(run);
        }
    }

    /// Over the limit: the string is not kept. Where it is checked to its end, only what was cut off inside a character stays.
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

    /// One byte inside an escape; false where it does not belong to it.
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

    /// One `\uXXXX`.
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

    /// A high surrogate without its low one.
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
