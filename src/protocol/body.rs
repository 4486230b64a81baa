//! A request body as the list of pieces in which it arrived. Large pieces are never joined. Sending the body again is cheap, and
//! an edit only slices pieces.

use std::{
    convert::Infallible,
    ops::Range,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    vec::IntoIter,
};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};

use crate::concurrent::byte_budget::ByteReservation;

/// Consecutive pieces under this size are copied together. Each piece keeps the connection's receive buffer alive, and
/// hyper's buffers have at least 8 KiB. Bodies that arrived in segments of 1,460 bytes took 3.9 times their size in
/// resident memory; copied together they take 1.06 times.
const SMALL: usize = 8 * 1024;

/// The size, in bytes, of the blocks into which small pieces of a request body are copied. At most one block of a body is not full.
pub const BLOCK: usize = 16 * 1024;

/// A request body as the list of pieces in which it arrived. The body can be sent several times, and edited, without copying it.
#[derive(Clone, Debug, Default)]
pub struct SegmentedBody {
    pieces: Vec<Bytes>,
    /// The block that receives small pieces, after all of `pieces`. Empty unless the sender sends small pieces.
    tail: BytesMut,
    len: u64,
    /// The reserved memory of the pieces. Released with the last copy of the body: a copy may still be sent upstream when
    /// the answer arrives.
    hold: Option<Arc<ByteReservation>>,
}

/// One edit of a request body: replaces the bytes in `range` by the bytes `with`.
#[derive(Clone, Debug)]
pub struct Edit {
    /// A range of bytes of the original body.
    pub range: Range<u64>,
    /// The replacement.
    pub with: Bytes,
}

impl SegmentedBody {
    /// Makes an empty request body, to which pieces are added as they arrive.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a piece at the end of the request body. Small pieces are copied together into blocks.
    pub fn push(&mut self, piece: Bytes) {
        self.len += piece.len() as u64;
        let after_small = !self.tail.is_empty() || self.pieces.last().is_some_and(|last| last.len() < SMALL);
        if piece.len() < SMALL && after_small {
            let (fits, rest) = piece.split_at(piece.len().min(self.tail.capacity() - self.tail.len()));
            self.tail.extend_from_slice(fits);
            if !rest.is_empty() {
                self.seal();
                self.tail = BytesMut::with_capacity(BLOCK);
                self.tail.extend_from_slice(rest);
            }
        } else if !piece.is_empty() {
            self.seal();
            self.pieces.push(piece);
        }
    }

    /// Attaches the reservation of memory for this request body. The memory is free again when the last copy of the body is dropped.
    pub fn hold(&mut self, reservation: ByteReservation) {
        self.hold = Some(Arc::new(reservation));
    }

    /// Turns the block of small pieces into a piece.
    fn seal(&mut self) {
        if !self.tail.is_empty() {
            // What is left of the block serves the next small pieces.
            self.pieces.push(self.tail.split().freeze());
        }
    }

    /// Returns the length of the request body in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the request body has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the pieces of the request body in order. No piece is empty.
    pub fn pieces(&self) -> impl Iterator<Item = Bytes> + '_ {
        let tail = (!self.tail.is_empty()).then(|| Bytes::copy_from_slice(&self.tail));
        self.pieces.iter().cloned().chain(tail)
    }

    /// Returns the first byte of the request body, at or after the offset `at`, that is not white space.
    pub fn first_after(&self, at: u64) -> Option<u8> {
        let mut skip = at as usize;
        for piece in self.pieces() {
            let rest = piece.get(skip..).unwrap_or_default();
            skip = skip.saturating_sub(piece.len());
            if let [first, ..] = rest.trim_ascii_start() {
                return Some(*first);
            }
        }
        None
    }

    /// Returns a copy of the request body with some byte ranges replaced. All other bytes are shared, not copied. The edits are sorted
    /// and do not overlap. An edit that breaks this rule, or passes the end, applies to the remaining part of its range.
    pub fn edited(&self, edits: &[Edit]) -> Self {
        let mut edited = Self { hold: self.hold.clone(), ..Self::new() };
        let mut edits = edits.iter().peekable();
        // The bytes before this offset are in `edited` or replaced.
        let mut done = 0;
        let mut start = 0;
        for piece in self.pieces() {
            let end = start + piece.len() as u64;
            let part = |from: u64, to: u64| piece.slice((from - start) as usize..(to - start) as usize);
            // An edit at the very end of a piece belongs to the next one, or to the end of the body.
            while let Some(edit) = edits.next_if(|edit| edit.range.start < end) {
                debug_assert!(
                    edit.range.start >= done && edit.range.start <= edit.range.end && edit.range.end <= self.len
                );
                let from = edit.range.start.max(done);
                if done < from {
                    edited.keep(part(done, from));
                }
                edited.keep(edit.with.clone());
                done = edit.range.end.clamp(from, self.len);
            }
            if done < end {
                edited.keep(part(done, end));
                done = end;
            }
            start = end;
        }
        for edit in edits {
            debug_assert!(edit.range == (self.len..self.len));
            edited.keep(edit.with.clone());
        }
        edited
    }

    /// Adds a piece without copying: an edit makes at most two small pieces.
    fn keep(&mut self, piece: Bytes) {
        self.len += piece.len() as u64;
        if !piece.is_empty() {
            self.pieces.push(piece);
        }
    }

    /// Returns the request body in the form that the HTTP client sends. May be called again, for another attempt.
    pub fn body(&self) -> SegmentedHttpBody {
        let pieces = self.pieces().collect::<Vec<_>>().into_iter();
        SegmentedHttpBody { pieces, left: self.len, taken: None, _hold: self.hold.clone() }
    }
}

/// A [`SegmentedBody`] (a request body in pieces) in the form that the HTTP client sends: one frame for each piece.
#[derive(Debug)]
pub struct SegmentedHttpBody {
    pieces: IntoIter<Bytes>,
    left: u64,
    /// Set when the first piece is taken.
    taken: Option<Arc<AtomicBool>>,
    _hold: Option<Arc<ByteReservation>>,
}

impl SegmentedHttpBody {
    /// Lets this outgoing request body set `taken` when the connection takes its first piece. Until then nothing of the body has been
    /// sent.
    #[must_use]
    pub fn setting_when_taken(self, taken: Arc<AtomicBool>) -> Self {
        Self { taken: Some(taken), ..self }
    }
}

impl Body for SegmentedHttpBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(taken) = self.taken.take() {
            taken.store(true, Ordering::Relaxed);
        }
        let piece = self.pieces.next();
        self.left -= piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// Returns `text` as a JSON string, with quotes and escapes.
pub fn json_string(text: &str) -> Bytes {
    serde_json::Value::from(text).to_string().into()
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::Index};

    use super::*;
    use crate::protocol::json::{DuplicatePolicy, Paths, Scanner};

    fn bytes(rope: &SegmentedBody) -> Vec<u8> {
        rope.pieces().flatten().collect()
    }

    /// What the body sends, its promises checked at every frame.
    fn sent(mut body: SegmentedHttpBody) -> Vec<u8> {
        let mut sent = Vec::new();
        let total = body.size_hint().exact().unwrap();
        loop {
            assert_eq!(body.size_hint().exact(), Some(total - sent.len() as u64));
            let over = body.is_end_stream();
            let Poll::Ready(frame) = Pin::new(&mut body).poll_frame(&mut Context::from_waker(std::task::Waker::noop()))
            else {
                panic!("a rope has nothing to wait for");
            };
            assert_eq!(frame.is_none(), over);
            match frame {
                Some(Ok(frame)) => sent.extend_from_slice(&frame.into_data().unwrap()),
                None => return sent,
            }
        }
    }

    #[test]
    fn single_bytes_are_joined() {
        let mut rope = SegmentedBody::new();
        for i in 0..100_000u32 {
            rope.push(Bytes::copy_from_slice(&[i as u8]));
        }
        assert!(rope.pieces.len() <= 14, "{}", rope.pieces.len());
        assert!(rope.pieces[1..].iter().all(|piece| piece.len() == BLOCK));
        assert!(bytes(&rope).into_iter().eq((0..100_000u32).map(|i| i as u8)));
    }

    #[test]
    fn small_pieces_do_not_keep_their_large_buffers_alive() {
        let mut rope = SegmentedBody::new();
        let buffers: Vec<_> = (0..50).map(|i| Bytes::from(vec![i; 8 * 1024])).collect();
        for buffer in &buffers {
            rope.push(buffer.slice(..1460));
        }
        // The first one may be all there is of a body: it costs no copy.
        assert_eq!(buffers.iter().filter(|buffer| !buffer.is_unique()).count(), 1);
        assert!(bytes(&rope).into_iter().eq((0..50).flat_map(|i| vec![i; 1460])));
    }

    #[test]
    fn memory_is_reserved_until_the_last_copy_is_dropped() {
        let budget = crate::concurrent::byte_budget::ByteBudget::default();
        budget.set_limit(100);
        let mut reservation = budget.share(None).nothing();
        assert!(reservation.set(100));
        let mut rope = rope(["a", "b"]);
        rope.hold(reservation);
        let edited = rope.edited(&[Edit { range: 0..1, with: Bytes::from("c") }]);
        drop(rope);
        let (one, two) = (edited.body(), edited.clone().body());
        drop(edited);
        drop(one);
        assert_eq!(budget.held(), 100);
        drop(two);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn pieces_of_common_size_are_not_copied() {
        let pieces = [Bytes::from("{\"model\":1}"), Bytes::from(vec![b' '; 20_000]), Bytes::from("}")];
        let mut rope = SegmentedBody::new();
        rope.push(Bytes::new());
        for piece in &pieces {
            rope.push(piece.clone());
        }
        assert!(rope.pieces().zip(&pieces).all(|(kept, pushed)| kept.as_ptr() == pushed.as_ptr()));
        assert_eq!(rope.pieces().count(), 3);
        let edited = rope.edited(&[Edit { range: 9..10, with: Bytes::from("2") }]);
        assert_eq!(edited.pieces().nth(3).unwrap().as_ptr(), pieces[1].as_ptr());
        assert!(SegmentedBody::new().is_empty() && SegmentedBody::new().body().is_end_stream() && !rope.is_empty());
    }

    #[test]
    fn json_strings_are_escaped() {
        assert_eq!(json_string("a\"\\\n/é"), &b"\"a\\\"\\\\\\n/\xc3\xa9\""[..]);
    }

    fn pieces() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let piece = prop_oneof![
            4 => vec(any::<u8>(), 0..20),
            1 => (any::<u8>(), 1000..1100usize).prop_map(|(byte, len)| vec![byte; len]),
            1 => (any::<u8>(), 4000..9000usize).prop_map(|(byte, len)| vec![byte; len]),
        ];
        vec(piece, 0..20)
    }

    fn rope(pieces: impl IntoIterator<Item = impl AsRef<[u8]>>) -> SegmentedBody {
        let mut rope = SegmentedBody::new();
        for piece in pieces {
            rope.push(Bytes::copy_from_slice(piece.as_ref()));
        }
        rope
    }

    static MODEL: Paths = Paths::new(&[&["model"]]);

    proptest! {
        #[test]
        fn an_edit_changes_its_range_only(
            pieces in pieces(),
            edits in vec((any::<Index>(), any::<Index>(), vec(any::<u8>(), 0..10)), 0..5),
        ) {
            let whole = pieces.concat();
            let rope = rope(&pieces);
            prop_assert_eq!(&bytes(&rope), &whole);
            prop_assert_eq!(rope.len(), whole.len() as u64);
            let mut places: Vec<_> = edits.iter().flat_map(|(a, b, _)| [a, b]).map(|at| at.index(whole.len() + 1)).collect();
            places.sort_unstable();
            let ranges = places.chunks(2).map(|pair| pair[0]..pair[1]);
            let edits: Vec<_> = ranges.zip(edits).map(|(range, (_, _, with))| (range, with)).collect();
            let mut spliced = whole.clone();
            for (range, with) in edits.iter().rev() {
                spliced.splice(range.clone(), with.iter().copied());
            }
            let edits: Vec<_> = edits
                .into_iter()
                .map(|(range, with)| Edit { range: range.start as u64..range.end as u64, with: with.into() })
                .collect();
            let edited = rope.edited(&edits);
            prop_assert_eq!(edited.len(), spliced.len() as u64);
            prop_assert_eq!(&bytes(&edited), &spliced);
            prop_assert_eq!(sent(edited.clone().body()), spliced);
            // Replayable, and the original is as it was.
            prop_assert_eq!(sent(rope.body()), whole.clone());
            prop_assert_eq!(sent(rope.body()), whole);
        }

        #[test]
        fn replacing_the_model_changes_the_model_only(
            before in "[ \n]{0,3}", input in ".{0,40}", model in ".{0,20}", new in ".{0,20}", nested in ".{0,5}",
            first in any::<bool>(), number in "-?[1-9][0-9]{0,30}\\.[0-9]{1,30}", cuts in vec(any::<Index>(), 0..10),
        ) {
            let json = |text: &str| serde_json::Value::from(text).to_string();
            let model_field = format!("\"mod\\u0065l\" :{before}{}{before}", json(&model));
            let rest = format!(
                "\"input\":[{{\"model\":{}, \"text\":{}}},\"\\\"model\\\":\\\"x\\\"\"],{before}\"n\":{number}",
                json(&nested), json(&input)
            );
            let text = if first { format!("{before}{{{model_field},{rest}}}") } else { format!("{{{rest},{model_field}}}{before}") };
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(text.len() + 1)).chain([0, text.len()]).collect();
            cuts.sort_unstable();

            let mut scanner = Scanner::new(&MODEL, DuplicatePolicy::Refuse);
            let mut body = SegmentedBody::new();
            for pair in cuts.windows(2) {
                let piece = &text.as_bytes()[pair[0]..pair[1]];
                scanner.feed(piece).unwrap();
                body.push(Bytes::copy_from_slice(piece));
            }
            scanner.finish().unwrap();
            let range = scanner.found(0).unwrap().range.clone();
            let edited = sent(body.edited(&[Edit { range: range.clone(), with: json_string(&new) }]).body());

            let mut expected: serde_json::Value = serde_json::from_str(&text).unwrap();
            expected["model"] = new.clone().into();
            prop_assert_eq!(serde_json::from_slice::<serde_json::Value>(&edited).unwrap(), expected);
            let (start, end) = (range.start as usize, range.end as usize);
            prop_assert_eq!(&edited[..start], &text.as_bytes()[..start]);
            prop_assert_eq!(&edited[start + json_string(&new).len()..], &text.as_bytes()[end..]);
        }
    }
}
