//! Finds a credential, and pieces of it, in what an upstream sends, and puts stars in their place: same length, nothing else
//! changes. [`Mask`] knows what to find, [`MaskedBody`] does it in a body that comes in pieces.

mod body;
mod context;

use std::{fmt, ops::Range};

use secrecy::{ExposeSecret, SecretBox};

pub use body::{MaskScope, MaskedBody};

/// The shortest piece of a credential that is masked. Shorter pieces are too few characters to be of use to a thief, and
/// would be found in ordinary text. A credential that is shorter than this is masked as a whole only.
pub const PIECE: usize = 12;

/// A credential that is shorter than this is never masked: such a placeholder (`x`, `no`) would be found in ordinary words.
const SHORTEST: usize = 4;

/// The search compares so many bytes at a time before it looks closer.
const GRAM: usize = 4;

/// A set of [`GRAM`]s, as bits of a hash: 8,192 bits hold the some 60 of a usual credential with less than 1 % false hits.
const WORDS: usize = 128;

const STAR: u8 = b'*';

/// What is looked for: the credential, as it is and as it looks when a URL or a JSON string holds it.
pub struct Mask {
    texts: SecretBox<Vec<Vec<u8>>>,
    grams: Box<[u64; WORDS]>,
    /// Every piece that is masked holds a [`GRAM`] at a multiple of this.
    step: usize,
}

impl fmt::Debug for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mask").finish_non_exhaustive()
    }
}

/// Each secret in the forms in which it may come back.
fn forms(secret: &[u8]) -> Vec<Vec<u8>> {
    let mut forms = vec![secret.to_vec()];
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    if !secret.iter().all(is_plain) {
        for upper in [true, false] {
            let coded = secret.iter().flat_map(|byte| match byte {
                byte if is_plain(byte) => vec![*byte],
                byte if upper => format!("%{byte:02X}").into_bytes(),
                byte => format!("%{byte:02x}").into_bytes(),
            });
            forms.push(coded.collect());
        }
    }
    if secret.contains(&b'/') {
        // PHP writes it so.
        forms
            .push(secret.iter().flat_map(|byte| if *byte == b'/' { vec![b'\\', b'/'] } else { vec![*byte] }).collect());
    }
    forms.dedup();
    forms
}

fn bit(gram: [u8; GRAM]) -> (usize, u64) {
    let hash = u32::from_le_bytes(gram).wrapping_mul(0x9E37_79B1) >> 19;
    (hash as usize / 64, 1 << (hash % 64))
}

/// The shortest part of a text that is masked.
fn least(text: &[u8]) -> usize {
    text.len().min(PIECE)
}

impl Mask {
    /// For these secrets; none where there is nothing to look for. Made once, when the configuration is loaded.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a [u8]>) -> Option<Self> {
        let long_enough = secrets.into_iter().filter(|secret| secret.len() >= SHORTEST);
        let texts: Vec<Vec<u8>> = long_enough.flat_map(forms).collect();
        let step = texts.iter().map(|text| least(text) - GRAM + 1).min()?;
        let mut grams = Box::new([0; WORDS]);
        for gram in texts.iter().flat_map(|text| text.windows(GRAM)).filter_map(|gram| gram.first_chunk()) {
            let (word, bit) = bit(*gram);
            grams[word] |= bit;
        }
        Some(Self { texts: SecretBox::new(Box::new(texts)), grams, step })
    }

    fn texts(&self) -> impl Iterator<Item = &[u8]> {
        self.texts.expose_secret().iter().map(Vec::as_slice)
    }

    /// Calls `found` with every part of `bytes` that is a piece of a credential, as long as it goes. Parts may overlap.
    fn find(&self, bytes: &[u8], mut found: impl FnMut(Range<usize>)) {
        let mut at = 0;
        while let Some(gram) = bytes.get(at..).and_then(|rest| rest.first_chunk::<GRAM>()) {
            let (word, bit) = bit(*gram);
            if self.grams[word] & bit != 0 {
                self.look_closer(bytes, at, *gram, &mut found);
            }
            at += self.step;
        }
    }

    fn look_closer(&self, bytes: &[u8], at: usize, gram: [u8; GRAM], found: &mut impl FnMut(Range<usize>)) {
        let (before, behind) = (&bytes[..at], &bytes[at + GRAM..]);
        for text in self.texts() {
            for (place, _) in text.windows(GRAM).enumerate().filter(|(_, window)| *window == gram) {
                let left = same(before.iter().rev(), text[..place].iter().rev());
                let right = same(behind.iter(), text[place + GRAM..].iter());
                if left + GRAM + right >= least(text) {
                    found(at - left..at + GRAM + right);
                }
            }
        }
    }

    /// How many bytes at the end may be the beginning of a piece that goes on in what comes next.
    fn unfinished(&self, bytes: &[u8]) -> usize {
        let Some((last, before)) = bytes.split_last() else { return 0 };
        let mut longest = 0;
        for text in self.texts() {
            // What ends with the text cannot go on.
            for place in memchr::memchr_iter(*last, &text[..text.len() - 1]) {
                let length = 1 + same(before.iter().rev(), text[..place].iter().rev());
                // Of a short one only the whole counts.
                if text.len() >= PIECE || length == place + 1 {
                    longest = longest.max(length);
                }
            }
        }
        longest
    }

    /// A short text with stars in place of what there was to mask; none where there was nothing.
    pub fn masked(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut masked = None;
        self.find(bytes, |range| masked.get_or_insert_with(|| bytes.to_vec())[range].fill(STAR));
        masked
    }
}

fn same<'a>(one: impl Iterator<Item = &'a u8>, other: impl Iterator<Item = &'a u8>) -> usize {
    one.zip(other).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests;
