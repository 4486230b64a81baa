//! Finds a credential, and pieces of it, in an upstream's answer, and replaces each of their bytes by a star. Nothing else
//! changes, and the length stays the same. [`Mask`] contains the credentials, and [`MaskedBody`] masks a body that arrives in
//! pieces. [`CodedBody`] only searches a body that has a content coding.

mod body;
mod coded;
mod context;
mod escapes;

use std::{fmt, ops::Range};

use secrecy::{ExposeSecret, SecretBox};

use self::escapes::Unescaped;

pub use body::{MaskScope, MaskedBody};
pub use coded::{CodedBody, CredentialRepeated};

/// The shortest piece of a credential that is masked in answers, in bytes. Shorter pieces are of no use to a thief, and would match
/// ordinary text. A credential that is shorter than this is only masked as a whole.
pub const PIECE: usize = 12;

/// A piece that begins in the well-known prefix of a credential must reach this many bytes beyond the prefix. Otherwise a client
/// whose text is repeated in an error could see which guesses become stars, and learn the credential character by character.
const BEYOND: usize = 8;

/// Well-known prefixes of credentials. Shorter prefixes leave enough of a piece unknown.
const KNOWN: [&[u8]; 9] = [
    b"sk-ant-api03-",
    b"sk-ant-admin01-",
    b"sk-ant-oat01-",
    b"sk-proj-",
    b"sk-svcacct-",
    b"sk-admin-",
    b"sk-or-v1-",
    b"sk-lf-",
    b"AIzaSy",
];

/// A credential of this length or more is masked as a whole everywhere, even in output, because no text contains it by chance. A
/// shorter one may be a word.
const LONG: usize = 20;

/// A credential that is shorter than this is never masked. Such a placeholder (`x`, `no`) would match ordinary words.
const SHORTEST: usize = 4;

/// The search compares this many bytes at first, and compares the whole credential only after a match.
const GRAM: usize = 4;

/// The size of a set of [`GRAM`]s, as bits of a hash, in words of 64 bits. A usual credential has about 60 of them: 8,192 bits
/// give less than 1 % false hits.
const WORDS: usize = 128;

const STAR: u8 = b'*';

/// The credentials that are masked in an upstream's answers, prepared for a fast search: as they are, and as a URL contains them. Escapes
/// of JSON are decoded before the search.
pub struct Mask {
    texts: SecretBox<Vec<Vec<u8>>>,
    grams: Box<[u64; WORDS]>,
    /// The distance between searched positions. Every piece to mask contains a [`GRAM`] at a multiple of it.
    step: usize,
}

impl fmt::Debug for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mask").finish_non_exhaustive()
    }
}

/// The longest part of a text that matches a part of a credential.
struct Found {
    at: Range<usize>,
    /// The part is all of a long credential.
    is_whole: bool,
}

/// The number of bytes at the end that may be the beginning of a match, together with the next bytes.
#[derive(Clone, Copy, Default)]
struct Unfinished {
    /// The possible beginning of a piece.
    piece: usize,
    /// The possible beginning of a whole long credential. Never more than `piece`.
    whole: usize,
}

/// Returns a secret in all forms in which an answer may repeat it. Escapes of JSON need no form, because the search decodes them.
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
    forms.dedup();
    forms
}

fn bit(gram: [u8; GRAM]) -> (usize, u64) {
    let hash = u32::from_le_bytes(gram).wrapping_mul(0x9E37_79B1) >> 19;
    (hash as usize / 64, 1 << (hash % 64))
}

/// Returns the length of the well-known prefix of a credential. In a JWT everything but the signature can be guessed.
fn known(text: &[u8]) -> usize {
    if text.starts_with(b"eyJ") {
        return text.iter().rposition(|byte| *byte == b'.').map_or(0, |dot| dot + 1);
    }
    KNOWN.iter().filter(|begin| text.starts_with(begin)).map(|begin| begin.len()).max().unwrap_or_default()
}

/// Returns the length of the shortest part of a credential that is masked.
fn least(text: &[u8]) -> usize {
    text.len().min(PIECE)
}

impl Mask {
    /// Prepares these credentials for masking in answers. `None` if there is nothing to mask. Called once, when the configuration is
    /// loaded.
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

    /// Calls `found` with every part of `bytes` that is a piece of a credential. Parts may overlap.
    fn find(&self, bytes: &Unescaped<'_>, mut found: impl FnMut(Found)) {
        let (text, mut at) = (&*bytes.text, 0);
        let mut part = |part, is_whole| found(Found { at: bytes.range(part), is_whole });
        while let Some(gram) = text.get(at..).and_then(|rest| rest.first_chunk::<GRAM>()) {
            let (word, bit) = bit(*gram);
            if self.grams[word] & bit != 0 {
                self.look_closer(text, at, *gram, &mut part);
            }
            at += self.step;
        }
    }

    fn look_closer(&self, bytes: &[u8], at: usize, gram: [u8; GRAM], found: &mut impl FnMut(Range<usize>, bool)) {
        let (before, behind) = (&bytes[..at], &bytes[at + GRAM..]);
        for text in self.texts() {
            for (place, _) in text.windows(GRAM).enumerate().filter(|(_, window)| *window == gram) {
                let left = same(before.iter().rev(), text[..place].iter().rev());
                let right = same(behind.iter(), text[place + GRAM..].iter());
                let len = left + GRAM + right;
                let beyond = (place + GRAM + right).saturating_sub(known(text));
                if len >= least(text) && (len == text.len() || beyond >= BEYOND) {
                    found(at - left..at + GRAM + right, len == text.len() && len >= LONG);
                }
            }
        }
    }

    /// Returns how many bytes at the end may continue as a match in the next bytes.
    fn unfinished(&self, bytes: &Unescaped<'_>) -> Unfinished {
        let (mut piece, mut whole) = (0, 0);
        if let Some((last, before)) = bytes.text.split_last() {
            for text in self.texts() {
                // A match that ends with the credential cannot continue.
                for place in memchr::memchr_iter(*last, &text[..text.len() - 1]) {
                    let length = 1 + same(before.iter().rev(), text[..place].iter().rev());
                    let begins = length == place + 1;
                    // A short credential only matches as a whole.
                    if text.len() >= PIECE || begins {
                        piece = piece.max(length);
                    }
                    if text.len() >= LONG && begins {
                        whole = whole.max(length);
                    }
                }
            }
        }
        Unfinished { piece: bytes.last(piece), whole: bytes.last(whole) }
    }

    /// Returns a short text of an upstream, such as a header, with credentials replaced by asterisks. `None` if the text contains no
    /// credential.
    pub fn masked(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut masked = None;
        self.find(&Unescaped::of(bytes), |found| masked.get_or_insert_with(|| bytes.to_vec())[found.at].fill(STAR));
        masked
    }
}

fn same<'a>(one: impl Iterator<Item = &'a u8>, other: impl Iterator<Item = &'a u8>) -> usize {
    one.zip(other).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests;
