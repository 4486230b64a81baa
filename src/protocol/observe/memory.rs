//! The references that were learned from one answer, each once.

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
    /// Adds these references. `dropped` is the number of further references that were not kept.
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

    /// Returns the references that are new since the last call.
    pub(super) fn take(&mut self) -> Vec<AnswerReference> {
        std::mem::take(&mut self.fresh)
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }
}
