//! Rare things that a deployment has met. What only they make necessary costs nothing where they never occur.
//!
//! That one was met is remembered like a reference, so that every replica and every later start knows it.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::{
    domain::origin::{Origin, Owner, Reference},
    store::origins::StoredOrigin,
};

/// Something rare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rare {
    /// An upstream gave an id whose text does not tell its kind.
    Opaque,
    /// An account gave the same id to several owners.
    Shared,
}

impl Rare {
    const ALL: [Self; 2] = [Self::Opaque, Self::Shared];

    /// Where it is remembered that it was met. References are hashes: none will ever be this one.
    pub(super) const fn mark(self) -> Reference {
        Reference(match self {
            Self::Opaque => *b"met: opaque ids\0",
            Self::Shared => *b"met: shared ids\0",
        })
    }

    /// It is of no account, and nobody's.
    pub(super) const ORIGIN: Origin = Origin { account: 0, owner: Owner { key: 0, group: 0 } };
}

/// What was met.
#[derive(Debug, Default)]
pub(super) struct Met([AtomicBool; Rare::ALL.len()]);

impl Met {
    /// Whether it was.
    pub(super) fn has(&self, rare: Rare) -> bool {
        self.0[rare as usize].load(Ordering::Relaxed)
    }

    /// It was.
    pub(super) fn note(&self, rare: Rare) {
        // Every worker reads it: it is written to once.
        if !self.has(rare) {
            self.0[rare as usize].store(true, Ordering::Relaxed);
        }
    }

    /// What a store has to be asked for, to learn of what others met.
    pub(super) fn open(&self) -> Vec<Reference> {
        Rare::ALL.into_iter().filter(|rare| !self.has(*rare)).map(Rare::mark).collect()
    }

    /// What the store says of that.
    pub(super) fn hear(&self, asked: &[Reference], found: &[Option<StoredOrigin>]) {
        for (mark, _) in asked.iter().zip(found).filter(|(_, entry)| entry.is_some()) {
            for rare in Rare::ALL.into_iter().filter(|rare| rare.mark() == *mark) {
                self.note(rare);
            }
        }
    }
}
