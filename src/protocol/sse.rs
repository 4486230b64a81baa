//! Reads the lines of an event stream that passes. Only looks; keeps nothing of it.
//!
//! The framing is the whole of the HTML standard's: LF, CR or CRLF, a byte-order mark in front, comments, any number of
//! `data` lines. `event`, `id` and `retry` are not looked at, as clients go by the `type` in the data.

use memchr::memchr2;

const MARK: &[u8] = b"\xEF\xBB\xBF";
const DATA: &[u8] = b"data:";

/// What the tap saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// A piece of the event's data. Between two `data` lines stands one `\n`.
    Data(&'a [u8]),
    /// The event is over. Comes only after data.
    End,
}

/// Where in a line we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    /// So many bytes of the mark were seen; only at the very start.
    Mark(usize),
    /// So many bytes of `data:` were seen and nothing else.
    Name(usize),
    /// After `data:`; one space may follow that is not data.
    Space,
    /// In the data.
    Data,
    /// In a comment or another field.
    Skip,
}

/// Finds the events in a stream that is fed piece by piece.
#[derive(Debug)]
pub struct Tap {
    line: Line,
    /// The last byte was a CR: a LF now belongs to it.
    after_cr: bool,
    /// The event has a `data` line.
    has_data: bool,
}

impl Default for Tap {
    fn default() -> Self {
        Self { line: Line::Mark(0), after_cr: false, has_data: false }
    }
}

impl Tap {
    /// Looks at the next piece, and calls `see` for every part of it.
    pub fn feed(&mut self, mut piece: &[u8], mut see: impl FnMut(Part<'_>)) {
        while let Some(&byte) = piece.first() {
            if std::mem::take(&mut self.after_cr) && byte == b'\n' {
                piece = &piece[1..];
                continue;
            }
            match self.line {
                Line::Mark(seen) | Line::Name(seen) if seen == 0 && piece.starts_with(DATA) => {
                    piece = &piece[DATA.len()..];
                    self.begin_data(&mut see);
                }
                Line::Mark(seen) if byte == MARK[seen] => {
                    piece = &piece[1..];
                    self.line = if seen + 1 < MARK.len() { Line::Mark(seen + 1) } else { Line::Name(0) };
                }
                Line::Mark(seen) => self.line = if seen == 0 { Line::Name(0) } else { Line::Skip },
                Line::Name(seen) if matches!(byte, b'\n' | b'\r') => {
                    piece = &piece[1..];
                    if seen == DATA.len() - 1 {
                        // `data` alone is a data line with nothing in it.
                        self.begin_data(&mut see);
                    } else if seen == 0 && std::mem::take(&mut self.has_data) {
                        see(Part::End);
                    }
                    self.end_line(byte);
                }
                Line::Name(seen) if byte == DATA[seen] => {
                    piece = &piece[1..];
                    if seen + 1 < DATA.len() {
                        self.line = Line::Name(seen + 1);
                    } else {
                        self.begin_data(&mut see);
                    }
                }
                Line::Name(_) => self.line = Line::Skip,
                Line::Space => {
                    piece = piece.strip_prefix(b" ").unwrap_or(piece);
                    self.line = Line::Data;
                }
                Line::Data | Line::Skip => {
                    let end = memchr2(b'\n', b'\r', piece);
                    let (run, rest) = piece.split_at(end.unwrap_or(piece.len()));
                    if self.line == Line::Data && !run.is_empty() {
                        see(Part::Data(run));
                    }
                    piece = rest;
                    if let Some((&byte, rest)) = rest.split_first() {
                        piece = rest;
                        self.end_line(byte);
                    }
                }
            }
        }
    }

    /// Call at the clean end of the stream: an event without its blank line is looked at, too.
    pub fn finish(&mut self, mut see: impl FnMut(Part<'_>)) {
        if std::mem::take(&mut self.has_data) {
            see(Part::End);
        }
    }

    fn begin_data(&mut self, see: &mut impl FnMut(Part<'_>)) {
        if std::mem::replace(&mut self.has_data, true) {
            see(Part::Data(b"\n"));
        }
        self.line = Line::Space;
    }

    fn end_line(&mut self, byte: u8) {
        self.line = Line::Name(0);
        self.after_cr = byte == b'\r';
    }
}
