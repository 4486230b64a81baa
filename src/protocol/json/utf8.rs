//! Checks that a text is UTF-8, piece by piece.

/// Which bytes of a piece need a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PieceBytes {
    /// Bytes outside of ASCII.
    pub(super) high: bool,
    /// Control bytes, including line breaks and tabs.
    pub(super) control: bool,
}

/// Classifies the bytes in one pass without a branch: a few instructions for 16 bytes. Compact ASCII JSON, which SDKs send, needs
/// no further check.
pub(super) fn classify(piece: &[u8]) -> PieceBytes {
    let (all, least) = piece.iter().fold((0, u8::MAX), |(all, least), byte| (all | byte, least.min(*byte)));
    PieceBytes { high: all >= 0x80, control: least < 0x20 }
}

/// The beginning of a character that the end of a piece has cut.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Utf8 {
    cut: [u8; 3],
    len: usize,
}

/// The position of invalid UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Utf8Error {
    /// Bytes of the piece before the fault.
    pub(super) at: usize,
    /// Bytes of earlier pieces that belong to the fault.
    pub(super) before: u64,
}

impl Utf8 {
    /// Checks the next piece. `high`: whether the piece contains a byte outside of ASCII.
    pub(super) fn check(&mut self, piece: &[u8], high: bool) -> Option<Utf8Error> {
        let begun = self.len;
        let mut rest = piece;
        while self.len > 0 {
            let (&byte, more) = rest.split_first()?;
            let mut character = [0; 4];
            character[..self.len].copy_from_slice(&self.cut[..self.len]);
            character[self.len] = byte;
            match std::str::from_utf8(&character[..=self.len]) {
                Ok(_) => self.len = 0,
                // Incomplete with fewer than four bytes: the character needs one more byte.
                Err(error) if error.error_len().is_none() && self.len < self.cut.len() => {
                    self.cut[self.len] = byte;
                    self.len += 1;
                }
                Err(_) => return Some(Utf8Error { at: 0, before: begun as u64 }),
            }
            rest = more;
        }
        if !high {
            return None;
        }
        let error = simdutf8::compat::from_utf8(rest).err()?;
        let cut = &rest[error.valid_up_to()..];
        if error.error_len().is_some() {
            return Some(Utf8Error { at: piece.len() - cut.len(), before: 0 });
        }
        self.cut[..cut.len()].copy_from_slice(cut);
        self.len = cut.len();
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::Index};

    use super::*;

    /// Where the whole text, cut there, stops being UTF-8.
    fn fault(text: &[u8], cuts: &[usize]) -> Option<usize> {
        let (mut utf8, mut begin) = (Utf8::default(), 0);
        for end in cuts.iter().copied().chain([text.len()]) {
            let piece = &text[begin..end];
            if let Some(fault) = utf8.check(piece, classify(piece).high) {
                return Some(begin + fault.at - fault.before as usize);
            }
            begin = end;
        }
        None
    }

    proptest! {
        #[test]
        fn utf8_checks_agree_with_std_for_any_split(
            parts in vec(prop_oneof!["[a-z中é😀\\n]{0,6}".prop_map(String::into_bytes), vec(any::<u8>(), 0..3)], 0..6),
            cuts in vec(any::<Index>(), 0..12),
        ) {
            let text = parts.concat();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            cuts.sort_unstable();
            let expected = std::str::from_utf8(&text).err().filter(|error| error.error_len().is_some());
            let expected = expected.map(|error| error.valid_up_to());
            prop_assert_eq!(fault(&text, &cuts), expected);
            prop_assert_eq!(fault(&text, &[]), expected);
            let high = text.iter().any(|byte| *byte >= 0x80);
            let control = text.iter().any(|byte| *byte < 0x20);
            prop_assert_eq!(classify(&text), PieceBytes { high, control });
        }
    }
}
