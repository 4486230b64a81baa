//! Decodes the escapes in which a JSON string may contain the characters of a credential, and remembers their positions.

use std::{borrow::Cow, ops::Range};

use memchr::memchr;

/// JSON inside of a JSON string doubles its backslashes. Up to this many backslashes count as one escape.
const BACKSLASHES: usize = 8;

/// A text whose escapes are replaced by their characters.
pub(super) struct Unescaped<'a> {
    pub(super) text: Cow<'a, [u8]>,
    /// For each escape: the position of its character in `text`, and by how many bytes all escapes up to this one are longer than
    /// their characters.
    escapes: Vec<(usize, usize)>,
    /// The number of bytes at the end that may be the beginning of an escape. They are not in `text`.
    pub(super) tail: usize,
}

/// The bytes after a run of backslashes.
enum AfterBackslashes {
    /// An escape: this character, and the number of bytes after the backslashes.
    Character(u8, usize),
    /// No escape that matters here.
    Other,
    /// The bytes end before this is known.
    Unfinished,
}

impl AfterBackslashes {
    fn of(bytes: &[u8]) -> Self {
        match bytes {
            // PHP escapes a slash.
            [b'/', ..] => Self::Character(b'/', 1),
            [b'u', b'0', b'0', high @ b'2'..=b'7', low, ..] if low.is_ascii_hexdigit() => {
                let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
                Self::Character(digit(*high).unwrap_or_default() << 4 | digit(*low).unwrap_or_default(), 5)
            }
            [] | [b'u'] | [b'u', b'0'] | [b'u', b'0', b'0'] | [b'u', b'0', b'0', b'2'..=b'7'] => Self::Unfinished,
            _ => Self::Other,
        }
    }
}

impl<'a> Unescaped<'a> {
    pub(super) fn of(bytes: &'a [u8]) -> Self {
        let (mut text, mut escapes, mut longer, mut tail) = (Vec::new(), Vec::new(), 0, 0);
        // The ends of the bytes that were copied into `text` and that were searched.
        let (mut copied, mut from) = (0, 0);
        while let Some(at) = memchr(b'\\', &bytes[from..]) {
            let run = bytes[from + at..].iter().take_while(|byte| **byte == b'\\').count();
            let end = from + at + run;
            let begin = end - run.min(BACKSLASHES);
            from = end;
            match AfterBackslashes::of(&bytes[end..]) {
                AfterBackslashes::Character(byte, len) => {
                    text.extend_from_slice(&bytes[copied..begin]);
                    longer += end - begin + len - 1;
                    escapes.push((text.len(), longer));
                    text.push(byte);
                    (copied, from) = (end + len, end + len);
                }
                AfterBackslashes::Other => {}
                AfterBackslashes::Unfinished => {
                    tail = bytes.len() - begin;
                    break;
                }
            }
        }
        let rest = &bytes[copied..bytes.len() - tail];
        let text = if escapes.is_empty() {
            Cow::Borrowed(rest)
        } else {
            text.extend_from_slice(rest);
            Cow::Owned(text)
        };
        Self { text, escapes, tail }
    }

    /// Returns the position in the bytes at which a character of `text` begins. For the end of `text`: the end of the last
    /// character.
    fn begin(&self, place: usize) -> usize {
        let before = self.escapes.partition_point(|(escape, _)| *escape < place);
        place + before.checked_sub(1).and_then(|last| self.escapes.get(last)).map_or(0, |(_, longer)| *longer)
    }

    /// Returns the range in the bytes of a part of `text`.
    pub(super) fn range(&self, part: Range<usize>) -> Range<usize> {
        self.begin(part.start)..self.begin(part.end)
    }

    /// Returns the number of bytes that the last `len` characters take, including the tail.
    pub(super) fn last(&self, len: usize) -> usize {
        let all = self.text.len();
        self.begin(all) - self.begin(all - len) + self.tail
    }
}
