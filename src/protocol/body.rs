//! The rope: a body as the pieces in which it came. Never joined, cheap to send again, edited by slicing.

use std::{
    convert::Infallible,
    ops::Range,
    pin::Pin,
    task::{Context, Poll},
    vec::IntoIter,
};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};

/// Pieces under this size that follow each other are copied together. A piece costs 32 bytes here and more in the
/// connection's buffer that it keeps alive, so a client that sends chunks of one byte would make us hold 30 times its body;
/// from this size on the cost is under a twentieth.
const SMALL: usize = 1024;

/// Size of the blocks that small pieces are copied to.
const BLOCK: usize = 8 * 1024;

/// A body in pieces.
#[derive(Clone, Debug, Default)]
pub struct Rope {
    pieces: Vec<Bytes>,
    /// The block that small pieces are being copied to; comes after all of `pieces`. Empty unless the sender dribbles.
    tail: BytesMut,
    len: u64,
}

/// One change: `with` takes the place of `range`.
#[derive(Clone, Debug)]
pub struct Edit {
    /// Bytes of the body as it is.
    pub range: Range<u64>,
    /// What comes instead.
    pub with: Bytes,
}

impl Rope {
    /// An empty body.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a piece at the end.
    pub fn push(&mut self, piece: Bytes) {
        self.len += piece.len() as u64;
        let after_small = !self.tail.is_empty() || self.pieces.last().is_some_and(|last| last.len() < SMALL);
        if piece.len() < SMALL && after_small {
            if self.tail.capacity() - self.tail.len() < piece.len() {
                self.seal();
                self.tail = BytesMut::with_capacity(BLOCK);
            }
            self.tail.extend_from_slice(&piece);
        } else if !piece.is_empty() {
            self.seal();
            self.pieces.push(piece);
        }
    }

    /// Makes a piece of what was copied together so far.
    fn seal(&mut self) {
        if !self.tail.is_empty() {
            // What is left of the block serves the next small pieces.
            self.pieces.push(self.tail.split().freeze());
        }
    }

    /// Bytes in all.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// No bytes at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The pieces in order; none is empty.
    pub fn pieces(&self) -> impl Iterator<Item = Bytes> + '_ {
        let tail = (!self.tail.is_empty()).then(|| Bytes::copy_from_slice(&self.tail));
        self.pieces.iter().cloned().chain(tail)
    }

    /// This body with some ranges replaced; the rest is shared, not copied. The edits come sorted and do not overlap. An edit
    /// that breaks this, or reaches past the end, applies to what is left of its range.
    pub fn edited(&self, edits: &[Edit]) -> Self {
        let mut edited = Self::new();
        let mut edits = edits.iter().peekable();
        // Bytes of the body up to here are in `edited` or replaced.
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

    /// Adds a piece at the end as it is: an edit makes at most two small ones.
    fn keep(&mut self, piece: Bytes) {
        self.len += piece.len() as u64;
        if !piece.is_empty() {
            self.pieces.push(piece);
        }
    }

    /// The body to send. May be called again, for another attempt.
    pub fn body(&self) -> RopeBody {
        RopeBody { pieces: self.pieces().collect::<Vec<_>>().into_iter(), left: self.len }
    }
}

/// A [`Rope`] on its way out, a frame a piece.
#[derive(Debug)]
pub struct RopeBody {
    pieces: IntoIter<Bytes>,
    left: u64,
}

impl Body for RopeBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
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

/// `text` as a JSON string, quotes included.
pub fn json_string(text: &str) -> Bytes {
    serde_json::Value::from(text).to_string().into()
}
