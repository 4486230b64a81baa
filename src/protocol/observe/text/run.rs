//! Counts pieces of text of which each may repeat all the text before it.
//!
//! Most providers send only new text in each piece. Some send the whole text so far in each piece: then only the last piece
//! counts. A run is a sequence of pieces that each begin with the piece before. A run takes the same memory for any length of
//! text.

use crate::protocol::tokens::TextTally;

/// A run counts as a repetition after this many pieces that extended the piece before.
const GROWTHS: u32 = 2;

/// The shortest repetition, in bytes. A client can make a model write ever longer words, but no token is that long.
const LEAST: u64 = 64;

/// Constants of FNV-1a. The hash of a piece does not depend on how its transfer was cut.
const BASIS: u64 = 0xCBF2_9CE4_8422_2325;
const PRIME: u64 = 0x0100_0000_01B3;

/// The length and hash of a piece.
#[derive(Clone, Copy, Debug)]
struct Sum {
    length: u64,
    hash: u64,
}

impl Default for Sum {
    fn default() -> Self {
        Self { length: 0, hash: BASIS }
    }
}

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        self.hash = bytes.iter().fold(self.hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME));
    }
}

/// The current run.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Run {
    /// The last piece.
    last: Sum,
    /// The text of the last piece.
    last_text: TextTally,
    /// The text of all pieces.
    all: TextTally,
    growths: u32,
    /// The piece that is arriving.
    next: Sum,
    /// Whether the arriving piece begins with the last piece. `None` until the arriving piece is as long.
    begins_alike: Option<bool>,
}

impl Run {
    /// Reads more of the arriving piece.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        let until = self.last.length.saturating_sub(self.next.length);
        let (before, after) = bytes.split_at(bytes.len().min(usize::try_from(until).unwrap_or(usize::MAX)));
        self.next.add(before);
        if self.begins_alike.is_none() && self.next.length == self.last.length {
            self.begins_alike = Some(self.next.hash == self.last.hash);
        }
        self.next.add(after);
    }

    /// Ends the arriving piece, whose text is `text`. A piece that does not `count` is dropped. Returns the text of the run that
    /// this piece ended, if any.
    pub(super) fn end(&mut self, text: TextTally, counts: bool) -> TextTally {
        let (next, begins_alike) = (std::mem::take(&mut self.next), self.begins_alike.take());
        if !counts || next.length == 0 {
            return TextTally::default();
        }
        if self.last.length > 0 && begins_alike == Some(true) {
            self.growths += u32::from(next.length > self.last.length);
            (self.last, self.last_text, self.all) = (next, text, self.all.and(text));
            return TextTally::default();
        }
        let over = self.text();
        *self = Self { last: next, last_text: text, all: text, ..Self::default() };
        over
    }

    /// Whether no piece came.
    pub(super) fn is_empty(&self) -> bool {
        self.last.length == 0
    }

    /// Returns the text of the run, with `next` as the text of the arriving piece so far.
    pub(super) fn with(&self, next: TextTally) -> TextTally {
        match self.repeats() && self.begins_alike != Some(false) {
            true if next.tokens() <= self.last_text.tokens() => self.last_text,
            true => next,
            false => self.text().and(next),
        }
    }

    fn text(&self) -> TextTally {
        if self.repeats() { self.last_text } else { self.all }
    }

    fn repeats(&self) -> bool {
        self.growths >= GROWTHS && self.last.length >= LEAST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "The gateway stands between the programs that people already use and the providers that answer them. \
                        网关位于人们已经使用的程序和回答它们的供应商之间。";

    fn tally(text: &[u8]) -> TextTally {
        let mut tally = TextTally::default();
        tally.add(text);
        tally
    }

    /// Tokens of these pieces, of which each comes in parts of so many bytes.
    fn tokens<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, cut: usize) -> u64 {
        let (mut run, mut over) = (Run::default(), TextTally::default());
        for piece in pieces {
            piece.chunks(cut).for_each(|part| run.add(part));
            over = over.and(run.end(tally(piece), true));
        }
        over.and(run.with(TextTally::default())).tokens()
    }

    #[test]
    fn text_that_each_piece_repeats_counts_once() {
        let text = TEXT.as_bytes();
        let whole = tally(text).tokens();
        let ends = || (1..=text.len()).step_by(7).chain([text.len(), text.len()]);
        for cut in [1, 3, 1000] {
            assert_eq!(tokens(ends().map(|end| &text[..end]), cut), whole, "in parts of {cut}");
        }
        // Then the arguments of a tool, in the same way.
        let arguments = br#"{"command":["bash","-lc","grep -rn main src | head -21 | sort -u"],"timeout_ms":10007}"#;
        let both = ends().map(|end| &text[..end]).chain((1..=arguments.len()).map(|end| &arguments[..end]));
        assert!(tokens(both, 1000).abs_diff(whole + tally(arguments).tokens()) <= 1);
    }

    #[test]
    fn repeated_text_counts_each_time() {
        for (pieces, times) in [
            (&["word "][..], 500),
            (&["1", "10", "100"], 500),
            (&[" a", " aa", " aaa", " aaaa", " aaaaa"], 200),
            (&["The gateway stands between the programs that people already use."], 40),
            (&["", "The gateway"], 40),
        ] {
            let all: Vec<&str> = pieces.iter().copied().cycle().take(pieces.len() * times).collect();
            let (found, expected) =
                (tokens(all.iter().map(|piece| piece.as_bytes()), 4), tally(all.concat().as_bytes()));
            assert!(
                found.abs_diff(expected.tokens()) <= 1 + expected.tokens() / 20,
                "{pieces:?}: {found} {expected:?}"
            );
        }
    }

    #[test]
    fn a_truncated_repetition_counts_once() {
        let text = TEXT.as_bytes();
        let mut run = Run::default();
        for end in [40, 80, 120] {
            run.add(&text[..end]);
            run.end(tally(&text[..end]), true);
        }
        for end in [0, 60, 120, 140] {
            let mut cut = run;
            cut.add(&text[..end]);
            assert_eq!(cut.with(tally(&text[..end])).tokens(), tally(&text[..end.max(120)]).tokens(), "{end}");
        }
    }
}
