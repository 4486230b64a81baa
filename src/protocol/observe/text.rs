//! How much of a model's own output passed: text by its tokens, and whether there was anything else.

mod run;

use self::run::Run;
use crate::{
    domain::usage::Hidden,
    protocol::tokens::{self, TextTally},
};

/// Which copy of the text: an answer may hold the same text several times, as pieces and as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TextCopyKind {
    /// Pieces that belong together.
    Delta,
    /// A whole part, behind its pieces.
    Done,
    /// A whole item, behind its pieces.
    Item,
    /// The whole output.
    Whole,
}

/// Which text: some providers send the same reasoning under several names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TextChannel {
    Output,
    /// `reasoning_content`
    Reasoning,
    /// `reasoning`
    SameReasoning,
    /// `reasoning_details`
    Details,
}

const PARTS: usize = TextCopyKind::Whole as usize + 1;
const VOICES: usize = TextChannel::Details as usize + 1;

/// One copy of the text.
type Copy = [TextTally; VOICES];

fn tokens([output, reasoning @ ..]: &Copy) -> u64 {
    output.tokens() + reasoning.iter().map(|tally| tally.tokens()).max().unwrap_or_default()
}

/// The output of an answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Output {
    /// Of the events that are over.
    passed: [Copy; PARTS],
    /// The pieces of the events that are over, beside those in `passed`: a piece may repeat the ones before it.
    runs: [Run; VOICES],
    /// The largest whole of one event, in tokens.
    whole: u64,
    /// Of the event, or the body, that is coming in.
    event: [Copy; PARTS],
    /// There was output that is no text: an image, or sound.
    pub(super) other: bool,
    /// Bytes of the encrypted reasoning that is coming in.
    sealing: u64,
    /// Encrypted reasoning passed, however little.
    is_sealed: bool,
    /// Tokens of encrypted reasoning, by copy: of the events that are over, and of the one that is coming in.
    sealed: [u64; PARTS],
    sealed_now: [u64; PARTS],
    /// An item of reasoning was told.
    pub(super) thinks: bool,
    /// The reasoning itself passes as text.
    pub(super) is_aloud: bool,
    /// An item of reasoning began, and nothing else did since.
    pub(super) is_thinking: bool,
}

impl Output {
    pub(super) fn add(&mut self, part: TextCopyKind, voice: TextChannel, piece: &[u8]) {
        self.event[part as usize][voice as usize].add(piece);
        if part == TextCopyKind::Delta {
            self.runs[voice as usize].add(piece);
        }
    }

    /// Encrypted reasoning: the next piece of it.
    pub(super) fn seal(&mut self, piece: &[u8]) {
        self.sealing += piece.len() as u64;
        self.is_sealed |= !piece.is_empty();
    }

    /// The encrypted reasoning is whole.
    pub(super) fn end_seal(&mut self, part: TextCopyKind) {
        self.sealed_now[part as usize] += tokens::of_sealed(std::mem::take(&mut self.sealing));
    }

    /// The event is over. Whether its pieces are text, and whether its item is whole.
    pub(super) fn end_event(&mut self, is_text: bool, is_item: bool) {
        for (part, counts) in
            [(TextCopyKind::Delta, is_text), (TextCopyKind::Done, true), (TextCopyKind::Item, is_item)]
        {
            let (event, sealed) =
                (std::mem::take(&mut self.event[part as usize]), std::mem::take(&mut self.sealed_now[part as usize]));
            if part == TextCopyKind::Delta {
                for ((run, passed), new) in self.runs.iter_mut().zip(&mut self.passed[part as usize]).zip(event) {
                    *passed = passed.and(run.end(new, counts));
                }
            } else if counts {
                for (passed, new) in self.passed[part as usize].iter_mut().zip(event) {
                    *passed = passed.and(new);
                }
            }
            self.sealed[part as usize] += if counts { sealed } else { 0 };
        }
        let whole = std::mem::take(&mut self.event[TextCopyKind::Whole as usize]);
        self.whole = self.whole.max(tokens(&whole));
        let sealed = &mut self.sealed[TextCopyKind::Whole as usize];
        *sealed = (*sealed).max(std::mem::take(&mut self.sealed_now[TextCopyKind::Whole as usize]));
    }

    /// Whether pieces of text passed.
    pub(super) fn has_pieces(&self) -> bool {
        let [deltas, ..] = &self.passed;
        deltas.iter().any(|tally| !tally.is_empty()) || self.runs.iter().any(|run| !run.is_empty())
    }

    /// Tokens of the text, each copy of it counted once.
    pub(super) fn tokens(&self) -> u64 {
        let copies = self.passed.iter().zip(&self.event).enumerate().map(|(part, (passed, event))| {
            let mut all = *passed;
            if part == TextCopyKind::Delta as usize {
                for ((all, run), event) in all.iter_mut().zip(&self.runs).zip(event) {
                    *all = all.and(run.with(*event));
                }
            } else {
                all.iter_mut().zip(event).for_each(|(passed, event)| *passed = passed.and(*event));
            }
            tokens(&all)
        });
        copies.max().unwrap_or_default().max(self.whole)
    }

    /// What it tells of reasoning that does not pass as text.
    pub(super) fn hidden(&self) -> Hidden {
        let sealed = self.sealed.iter().zip(&self.sealed_now).map(|(over, now)| over + now).max();
        Hidden { thinks: self.thinks && !self.is_aloud, sealed: sealed.filter(|_| self.is_sealed) }
    }
}
