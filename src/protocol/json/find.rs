//! Finds the end of a run in a string, and control bytes.

use memchr::memchr2;

/// The position of the first `"` or `\`. Two words are searched first: most strings end within a few bytes, where a call of
/// memchr costs more than the search.
#[inline]
pub(super) fn quote_or_backslash(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    while at < 16
        && let Some(word) = bytes.get(at..).and_then(<[u8]>::first_chunk)
    {
        let word = u64::from_le_bytes(*word);
        let hits = zero_bytes(word ^ QUOTES) | zero_bytes(word ^ BACKSLASHES);
        if hits != 0 {
            return Some(at + hits.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    memchr2(b'"', b'\\', &bytes[at..]).map(|found| at + found)
}

/// Whether there is a control byte. No early exit: the compiler then checks many bytes at once.
#[inline]
pub(super) fn has_control(bytes: &[u8]) -> bool {
    bytes.iter().fold(false, |control, byte| control | (*byte < 0x20))
}

const LOW: u64 = 0x0101_0101_0101_0101;
const QUOTES: u64 = LOW * b'"' as u64;
const BACKSLASHES: u64 = LOW * b'\\' as u64;

/// The high bit of every byte that is zero, and perhaps of some above the first of them.
fn zero_bytes(word: u64) -> u64 {
    word.wrapping_sub(LOW) & !word & (LOW << 7)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_first_occurrence_anywhere() {
        // Each filler is one that a careless test of whole words would take for a hit above one.
        for filler in [b'a', b'!', b'#', b'[', b']', 0, 0x80, 0xA2, 0xDC, 0xFF] {
            for len in 0..40 {
                let mut bytes = vec![filler; len];
                assert_eq!(quote_or_backslash(&bytes), None);
                for first in (0..len).rev() {
                    bytes[first] = if first % 2 == 0 { b'"' } else { b'\\' };
                    assert_eq!(quote_or_backslash(&bytes), Some(first));
                }
            }
        }
    }
}
