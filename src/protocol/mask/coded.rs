//! Searches a body with a content coding. Such a body cannot be masked in place: the gateway sends each piece unchanged or
//! refuses the body.

use bytes::Bytes;

use super::{Mask, MaskScope, MaskedBody};
use crate::protocol::coding::{Coding, ObserverDecoder};

/// The most bytes that wait for the rest of a possible credential. A credential takes far fewer.
const MOST_WAITING: usize = 64 * 1024;

/// A compressed answer on its way to the client. Tidegate searches a decoded copy for its own credential, because a compressed body
/// cannot be masked.
#[derive(Debug)]
pub struct CodedBody {
    aside: ObserverDecoder,
    /// The decoded text.
    text: MaskedBody,
    /// Pieces whose text ends with the possible beginning of a credential.
    waiting: Vec<u8>,
}

/// The error that a compressed answer repeats the gateway's credential, so that the answer must not reach the client.
#[derive(Debug, PartialEq, Eq)]
pub struct CredentialRepeated;

impl CodedBody {
    /// Makes the state for searching one compressed answer of an upstream for the provider's credential. `coding`: the coding that the
    /// headers name. `scope`: the parts of the decoded text that are searched.
    pub fn new(coding: Option<Coding>, scope: MaskScope) -> Self {
        Self { aside: ObserverDecoder::new(coding), text: MaskedBody::new(scope), waiting: Vec::new() }
    }

    /// Returns how many bytes of the compressed answer wait for the next piece, because their text may begin a credential.
    pub fn held(&self) -> usize {
        self.waiting.len()
    }

    /// Searches the next piece of a compressed answer for the gateway's credential. Returns the bytes that can be sent now.
    ///
    /// # Errors
    /// If the text repeats the credential at a place where a plain text would be masked.
    pub fn pass(&mut self, mask: &Mask, piece: Bytes, last: bool) -> Result<Bytes, CredentialRepeated> {
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
            return Err(CredentialRepeated);
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
