//! What was learned of one answer, each reference once.

use std::collections::HashSet;

use crate::{
    domain::origin::Reference,
    protocol::references::answer::{AnswerReference, MOST},
};

/// The references of one answer.
#[derive(Debug, Default)]
pub(super) struct AnswerReferences {
    known: HashSet<Reference>,
    fresh: Vec<AnswerReference>,
    dropped: u64,
}

impl AnswerReferences {
    /// Learns these, and that `dropped` more were not kept.
    pub(super) fn learn(&mut self, learned: impl IntoIterator<Item = AnswerReference>, dropped: u64) {
        self.dropped += dropped;
        for learned in learned {
            if self.known.contains(&learned.reference) {
                continue;
            }
            if self.known.len() == MOST {
                self.dropped += 1;
                continue;
            }
            self.known.insert(learned.reference);
            self.fresh.push(learned);
        }
    }

    /// What is new since the last call.
    pub(super) fn take(&mut self) -> Vec<AnswerReference> {
        std::mem::take(&mut self.fresh)
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }
}
