//! Counts the output of a model that passed: an estimate of the tokens of its text, and whether there was other output.

mod run;

use self::run::Run;
use crate::{
    domain::usage::HiddenReasoning,
    protocol::tokens::{self, TextTally},
};

/// The kind of copy of a text. An answer may contain the same text several times, in pieces and as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TextCopyKind {
    /// The pieces of a text.
    Delta,
    /// The whole text of one part, after its pieces.
    Done,
    /// The whole text of one item, after its pieces.
    Item,
    /// The text of the whole output.
    Whole,
}

/// The kind of text. Some providers send the same reasoning under several names.
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

/// The tallies of one copy of the text.
type Copy = [TextTally; VOICES];

fn tokens([output, reasoning @ ..]: &Copy) -> u64 {
    output.tokens() + reasoning.iter().map(|tally| tally.tokens()).max().unwrap_or_default()
}

/// The output of an answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Output {
    /// The text of earlier events.
    passed: [Copy; PARTS],
    /// The pieces of earlier events that are not in `passed` yet, because the next piece may repeat them.
    runs: [Run; VOICES],
    /// The tokens of the largest whole output that one event had.
    whole: u64,
    /// The text of the current event, or of the body.
    event: [Copy; PARTS],
    /// There was output that is not text: an image or audio.
    pub(super) other: bool,
    /// The bytes so far of the current encrypted reasoning.
    sealing: u64,
    /// There was encrypted reasoning, even if it was small.
    is_sealed: bool,
    /// Tokens of encrypted reasoning, by copy: `sealed` of earlier events, `sealed_now` of the current event.
    sealed: [u64; PARTS],
    sealed_now: [u64; PARTS],
    /// The answer has a reasoning item.
    pub(super) thinks: bool,
    /// The reasoning itself is in the answer as text.
    pub(super) is_aloud: bool,
    /// A reasoning item began, and no other item or end followed.
    pub(super) is_thinking: bool,
}

impl Output {
    pub(super) fn add(&mut self, part: TextCopyKind, voice: TextChannel, piece: &[u8]) {
        self.event[part as usize][voice as usize].add(piece);
        if part == TextCopyKind::Delta {
            self.runs[voice as usize].add(piece);
        }
    }

    /// Counts the next piece of encrypted reasoning.
    pub(super) fn seal(&mut self, piece: &[u8]) {
        self.sealing += piece.len() as u64;
        self.is_sealed |= !piece.is_empty();
    }

    /// Ends the current encrypted reasoning.
    pub(super) fn end_seal(&mut self, part: TextCopyKind) {
        self.sealed_now[part as usize] += tokens::of_sealed(std::mem::take(&mut self.sealing));
    }

    /// Ends the current event. `is_text`: its pieces are text. `is_item`: its item is complete.
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

    /// Whether any piece of text came in earlier events.
    pub(super) fn has_pieces(&self) -> bool {
        let [deltas, ..] = &self.passed;
        deltas.iter().any(|tally| !tally.is_empty()) || self.runs.iter().any(|run| !run.is_empty())
    }

    /// Returns an estimate of the tokens of the text. Of several copies the largest counts.
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

    /// Returns the signs of reasoning that is not in the answer as text.
    pub(super) fn hidden(&self) -> HiddenReasoning {
        let sealed = self.sealed.iter().zip(&self.sealed_now).map(|(over, now)| over + now).max();
        HiddenReasoning { thinks: self.thinks && !self.is_aloud, sealed: sealed.filter(|_| self.is_sealed) }
    }
}
