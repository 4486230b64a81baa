//! Finds the events of an event stream while the stream passes. Keeps none of its bytes.
//!
//! The framing follows the HTML standard: LF, CR or CRLF, an optional byte-order mark, comments, any number of `data`
//! lines. `event`, `id` and `retry` are ignored, because clients use the `type` in the data.

use memchr::memchr2;

const MARK: &[u8] = b"\xEF\xBB\xBF";
const DATA: &[u8] = b"data:";

/// A part of a server-sent event: a piece of its data, or its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SsePart<'a> {
    /// A piece of the event's data. One `\n` separates two `data` lines.
    Data(&'a [u8]),
    /// The end of the event. Events without data are not reported.
    End,
}

/// The position in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    /// In the byte-order mark, after this many bytes. Only at the start of the stream.
    Mark(usize),
    /// The line consists of this many bytes of `data:` so far.
    Name(usize),
    /// After `data:`. One space may follow that is not part of the data.
    Space,
    /// In the data.
    Data,
    /// In a comment or another field.
    Skip,
}

/// Finds the server-sent events in a stream that arrives in pieces. Keeps no bytes of the stream.
#[derive(Debug)]
pub struct EventFinder {
    line: Line,
    /// The last byte was a CR. A LF that follows belongs to it.
    after_cr: bool,
    /// The event has a `data` line.
    has_data: bool,
}

impl Default for EventFinder {
    fn default() -> Self {
        Self { line: Line::Mark(0), after_cr: false, has_data: false }
    }
}

impl EventFinder {
    /// Reads the next piece of an event stream, and calls `see` for each part of an event in the piece.
    pub fn feed(&mut self, mut piece: &[u8], mut see: impl FnMut(SsePart<'_>)) {
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
                        see(SsePart::End);
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
                        see(SsePart::Data(run));
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

    /// Ends the event stream, at its clean end. An event without its empty line counts, too.
    pub fn finish(&mut self, mut see: impl FnMut(SsePart<'_>)) {
        if std::mem::take(&mut self.has_data) {
            see(SsePart::End);
        }
    }

    fn begin_data(&mut self, see: &mut impl FnMut(SsePart<'_>)) {
        if std::mem::replace(&mut self.has_data, true) {
            see(SsePart::Data(b"\n"));
        }
        self.line = Line::Space;
    }

    fn end_line(&mut self, byte: u8) {
        self.line = Line::Name(0);
        self.after_cr = byte == b'\r';
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::Pin,
        task::{Context, Poll, Waker},
    };

    use bytes::Bytes;
    use http_body::Body;
    use proptest::{collection::vec, prelude::*};
    use sse_stream::{SseBody, SseStream};

    use super::*;
    use crate::protocol::body::SegmentedBody;

    /// The data of each event.
    fn events<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, clean_end: bool) -> Vec<Vec<u8>> {
        let mut tap = EventFinder::default();
        let mut events = vec![Vec::new()];
        let mut see = |part: SsePart<'_>| match part {
            SsePart::Data(data) => events.last_mut().unwrap().extend_from_slice(data),
            SsePart::End => events.push(Vec::new()),
        };
        for piece in pieces {
            tap.feed(piece, &mut see);
        }
        if clean_end {
            tap.finish(&mut see);
        }
        events.pop();
        events
    }

    #[test]
    fn events_are_found_in_every_framing() {
        for (stream, expected) in [
            ("data: a\n\n", vec!["a"]),
            ("data:a\n\ndata:  b \r\rdata: c\r\n\r\n", vec!["a", " b ", "c"]),
            ("\u{feff}data: a\n\n\u{feff}data: b\n\n", vec!["a"]),
            ("\u{feff}\u{feff}data: a\n\n", vec![]),
            ("data: a\ndata\ndata:\ndata: b\n\n", vec!["a\n\n\nb"]),
            ("data\n\n", vec![""]),
            (": data: a\n\nevent: x\n\nid: 1\nretry: 1\n\n\n\n", vec![]),
            (":\ndatax: a\ndat: a\n data: a\nDATA: a\ndata : a\nevent\n\n", vec![]),
            ("event: a\n: c\ndata: b\r\nid: 1\r\n\r\n", vec!["b"]),
            ("data: a\n\n\ndata: b\n\n\n\n", vec!["a", "b"]),
            ("data: a\r\ndata: b\n\rdata: c\n\n", vec!["a\nb", "c"]),
            ("data: a\n\ndata: b", vec!["a", "b"]),
            ("data: a\n\ndata: b\n", vec!["a", "b"]),
            ("", vec![]),
        ] {
            let expected: Vec<_> = expected.into_iter().map(|data| data.as_bytes().to_vec()).collect();
            let stream = stream.as_bytes();
            assert_eq!(events([stream], true), expected, "{}", stream.escape_ascii());
            assert_eq!(events(stream.chunks(1), true), expected, "{}", stream.escape_ascii());
            for cut in 0..stream.len() {
                assert_eq!(events([&stream[..cut], &stream[cut..]], true), expected);
            }
        }
    }

    /// A CR ends the line at once, though a LF may still come: an event is never held back.
    #[test]
    fn an_event_is_complete_with_its_empty_line() {
        assert_eq!(events([&b"data: a\r\n\r"[..]], false).len(), 1);
        assert_eq!(events([&b"data: a\n"[..]], false).len(), 0);
    }

    /// The events of a stream as the crate sse-stream reads them, written in one form.
    fn oracle(pieces: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut stream = SegmentedBody::new();
        stream.push(Bytes::from(pieces.concat()));
        let mut body = SseBody::new(SseStream::new(stream.body()));
        let mut events = Vec::new();
        while let Poll::Ready(Some(frame)) = Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop())) {
            let frame = frame.unwrap().into_data().unwrap();
            let lines: Vec<_> =
                frame.split(|&byte| byte == b'\n').filter_map(|line| line.strip_prefix(b"data: ")).collect();
            if !lines.is_empty() {
                events.push(lines.join(&b"\n"[..]));
            }
        }
        events
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1024, ..ProptestConfig::default() })]

        #[test]
        fn frames_as_sse_stream_does(pieces in vec(vec(prop::sample::select(vec![
            "data:", "data: ", "data", "da", "ta:", " ", ":", "event: x", "id: 1", "x", "é", "\u{feff}",
            "\n", "\r", "\r\n", "\n\n", "\n", "\r\n\r\n", "\ndata: ", "\n\ndata: y",
        ]), 0..12), 0..6)) {
            let pieces: Vec<_> = pieces.iter().map(|tokens| tokens.concat().into_bytes()).collect();
            let ours = events(pieces.iter().map(Vec::as_slice), false);
            prop_assert_eq!(&ours, &events(pieces.concat().chunks(1), false));
            prop_assert_eq!(ours, oracle(&pieces));
        }
    }
}
