//! Watches a body in a content coding. Nothing in it can be masked in place: it passes, or it is refused.

use bytes::Bytes;

use super::{Mask, MaskScope, MaskedBody};
use crate::protocol::coding::{Coding, ObserverDecoder};

/// So much may wait for its text to go on: far more than it takes to write a credential in.
const MOST_WAITING: usize = 64 * 1024;

/// A body in a content coding, on its way.
#[derive(Debug)]
pub struct CodedBody {
    aside: ObserverDecoder,
    /// What it becomes.
    text: MaskedBody,
    /// Pieces whose text ends with what may be the beginning of a credential.
    waiting: Vec<u8>,
}

/// The body repeats the credential.
#[derive(Debug, PartialEq, Eq)]
pub struct Repeats;

impl CodedBody {
    /// At its beginning, in the coding that its head names, and of a text that is searched in this scope.
    pub fn new(coding: Option<Coding>, scope: MaskScope) -> Self {
        Self { aside: ObserverDecoder::new(coding), text: MaskedBody::new(scope), waiting: Vec::new() }
    }

    /// How many bytes wait for what comes next.
    pub fn held(&self) -> usize {
        self.waiting.len()
    }

    /// Takes the next piece. Returned is what can go on now.
    ///
    /// # Errors
    /// When the text repeats the credential where that would be masked.
    pub fn pass(&mut self, mask: &Mask, piece: Bytes, last: bool) -> Result<Bytes, Repeats> {
        let mut repeats = false;
        let text = &mut self.text;
        let mut see = |block: &[u8]| repeats |= text.pass(mask, Bytes::copy_from_slice(block), false).1;
        self.aside.feed(&piece, &mut see);
        if last {
            self.aside.finish(&mut see);
            repeats |= text.pass(mask, Bytes::new(), true).1;
        }
        let waits = self.text.held() > 0 && !self.aside.has_failed();
        if repeats || (waits && self.waiting.len() + piece.len() > MOST_WAITING) {
            return Err(Repeats);
        }
        if waits {
            self.waiting.extend_from_slice(&piece);
            return Ok(Bytes::new());
        }
        if self.waiting.is_empty() {
            return Ok(piece);
        }
        let mut whole = std::mem::take(&mut self.waiting);
        whole.extend_from_slice(&piece);
        Ok(whole.into())
    }
}
