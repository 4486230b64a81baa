//! How much of a model's own output passed: text by its tokens, and whether there was anything else.

use crate::protocol::tokens::TextTally;

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
    /// The largest whole of one event, in tokens.
    whole: u64,
    /// Of the event, or the body, that is coming in.
    event: [Copy; PARTS],
    /// There was output that is no text: an image, sound, or content that only its provider reads.
    pub(super) other: bool,
}

impl Output {
    pub(super) fn add(&mut self, part: TextCopyKind, voice: TextChannel, piece: &[u8]) {
        self.event[part as usize][voice as usize].add(piece);
    }

    /// The event is over. Whether its pieces are text, and whether its item is whole.
    pub(super) fn end_event(&mut self, is_text: bool, is_item: bool) {
        for (part, counts) in
            [(TextCopyKind::Delta, is_text), (TextCopyKind::Done, true), (TextCopyKind::Item, is_item)]
        {
            let event = std::mem::take(&mut self.event[part as usize]);
            if counts {
                for (passed, new) in self.passed[part as usize].iter_mut().zip(event) {
                    *passed = passed.and(new);
                }
            }
        }
        let whole = std::mem::take(&mut self.event[TextCopyKind::Whole as usize]);
        self.whole = self.whole.max(tokens(&whole));
    }

    /// Whether pieces of text passed.
    pub(super) fn has_pieces(&self) -> bool {
        self.passed[TextCopyKind::Delta as usize].iter().any(|tally| !tally.is_empty())
    }

    /// Tokens of the text, each copy of it counted once.
    pub(super) fn tokens(&self) -> u64 {
        let copies = self.passed.iter().zip(&self.event).map(|(passed, event)| {
            let mut all = *passed;
            all.iter_mut().zip(event).for_each(|(passed, event)| *passed = passed.and(*event));
            tokens(&all)
        });
        copies.max().unwrap_or_default().max(self.whole)
    }
}
