//! Rare events of a deployment. Work that only a rare event requires costs nothing before the event.
//!
//! Each event is stored like a reference, so that every replica and every later start knows it.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::{
    domain::origin::{Origin, Owner, Reference},
    store::origins::StoredOrigin,
};

/// An event that most deployments never see, and that makes further lookups of ids necessary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RareEvent {
    /// An upstream gave an id whose text does not reveal its kind.
    Opaque,
    /// An account gave the same id to several owners.
    Shared,
}

impl RareEvent {
    const ALL: [Self; 2] = [Self::Opaque, Self::Shared];

    /// Returns the reference under which the affinity store keeps that a rare event happened. References are hashes, so no real
    /// reference equals this one.
    pub(super) const fn mark(self) -> Reference {
        Reference(match self {
            Self::Opaque => *b"met: opaque ids\0",
            Self::Shared => *b"met: shared ids\0",
        })
    }

    /// The account and the owner of the entry that marks a rare event: no account and no owner.
    pub(super) const ORIGIN: Origin = Origin { account: 0, owner: Owner { key: 0, group: 0 } };
}

/// Which rare events happened so far, such as an id of unknown kind.
#[derive(Debug, Default)]
pub(super) struct RareEvents([AtomicBool; RareEvent::ALL.len()]);

impl RareEvents {
    /// Whether this rare event happened before.
    pub(super) fn has_happened(&self, rare: RareEvent) -> bool {
        self.0[rare as usize].load(Ordering::Relaxed)
    }

    /// Records that a rare event happened.
    pub(super) fn record(&self, rare: RareEvent) {
        // Every worker reads this flag, so it is written only once.
        if !self.has_happened(rare) {
            self.0[rare as usize].store(true, Ordering::Relaxed);
        }
    }

    /// Returns the marks of rare events that did not happen yet, to look for them in the affinity store.
    pub(super) fn unknown_marks(&self) -> Vec<Reference> {
        RareEvent::ALL.into_iter().filter(|rare| !self.has_happened(*rare)).map(RareEvent::mark).collect()
    }

    /// Records the rare events whose marks the affinity store has.
    pub(super) fn record_found(&self, asked: &[Reference], found: &[Option<StoredOrigin>]) {
        for (mark, _) in asked.iter().zip(found).filter(|(_, entry)| entry.is_some()) {
            for rare in RareEvent::ALL.into_iter().filter(|rare| rare.mark() == *mark) {
                self.record(rare);
            }
        }
    }
}
