//! Reads through the escapes in which a JSON string may write the characters of a credential, and remembers where they stood.

use std::{borrow::Cow, ops::Range};

use memchr::memchr;

/// JSON inside of a JSON string doubles its backslashes: so many are taken for one escape.
const BACKSLASHES: usize = 8;

/// Text, with the characters of escapes in place of them.
pub(super) struct Unescaped<'a> {
    pub(super) text: Cow<'a, [u8]>,
    /// Of each escape, the place of its character in `text`, and how many bytes it and all before it are longer than theirs.
    escapes: Vec<(usize, usize)>,
    /// So many bytes at the end may be the beginning of an escape. They are no part of `text`.
    pub(super) tail: usize,
}

/// What follows on backslashes.
enum Behind {
    /// This character, written in so many bytes.
    Character(u8, usize),
    /// Nothing that matters here.
    Other,
    /// It is not known yet.
    Unfinished,
}

impl Behind {
    fn of(bytes: &[u8]) -> Self {
        match bytes {
            // PHP writes a slash so.
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
        // What was copied into `text`, and what was looked at.
        let (mut copied, mut from) = (0, 0);
        while let Some(at) = memchr(b'\\', &bytes[from..]) {
            let run = bytes[from + at..].iter().take_while(|byte| **byte == b'\\').count();
            let end = from + at + run;
            let begin = end - run.min(BACKSLASHES);
            from = end;
            match Behind::of(&bytes[end..]) {
                Behind::Character(byte, len) => {
                    text.extend_from_slice(&bytes[copied..begin]);
                    longer += end - begin + len - 1;
                    escapes.push((text.len(), longer));
                    text.push(byte);
                    (copied, from) = (end + len, end + len);
                }
                Behind::Other => {}
                Behind::Unfinished => {
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

    /// Where in the bytes a character of `text` begins, or what is behind the last one.
    fn begin(&self, place: usize) -> usize {
        let before = self.escapes.partition_point(|(escape, _)| *escape < place);
        place + before.checked_sub(1).and_then(|last| self.escapes.get(last)).map_or(0, |(_, longer)| *longer)
    }

    /// Where in the bytes a part of `text` stands.
    pub(super) fn range(&self, part: Range<usize>) -> Range<usize> {
        self.begin(part.start)..self.begin(part.end)
    }

    /// In how many bytes the last `len` characters are written, with the tail.
    pub(super) fn last(&self, len: usize) -> usize {
        let all = self.text.len();
        self.begin(all) - self.begin(all - len) + self.tail
    }
}
