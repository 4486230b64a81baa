//! How the memory of origins stands: written by those who know, read when somebody asks.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What came of a reference that somebody named. The names are fixed: metric label `result`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LookupResult {
    /// It is his, or of his group.
    Own,
    /// It is somebody else's.
    Foreign,
    /// Nobody learned it, or too long ago.
    Unknown,
    /// The store could not be asked.
    CannotTell,
}

impl LookupResult {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Own, Self::Foreign, Self::Unknown, Self::CannotTell];

    /// Its fixed name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Foreign => "foreign",
            Self::Unknown => "unknown",
            Self::CannotTell => "cannot_tell",
        }
    }
}

/// What came of a request that refers to state. The names are fixed: metric label `result`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PlacementResult {
    /// It went to the account that holds the state.
    Pinned,
    /// Nothing that it names is known to be anywhere: it went where it would go without.
    Free,
    /// It names what does not exist for its key.
    Refused,
    /// Whether that exists cannot be known now.
    CannotTell,
    /// It names what is in different accounts.
    Conflict,
    /// The account is not there any more.
    Lost,
    /// The account is left alone now.
    Unavailable,
    /// Another account was asked, without what only the account that holds the state understands. The request may count as pinned
    /// before.
    Stripped,
}

impl PlacementResult {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Pinned,
        Self::Free,
        Self::Refused,
        Self::CannotTell,
        Self::Conflict,
        Self::Lost,
        Self::Unavailable,
        Self::Stripped,
    ];

    /// Its fixed name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pinned => "pinned",
            Self::Free => "free",
            Self::Refused => "refused",
            Self::CannotTell => "cannot_tell",
            Self::Conflict => "conflict",
            Self::Lost => "lost",
            Self::Unavailable => "unavailable",
            Self::Stripped => "stripped",
        }
    }
}

/// All that is known of it.
#[derive(Debug, Default)]
pub struct AffinityStatus {
    /// References in memory.
    pub entries: AtomicU64,
    /// References that were new here.
    pub learned: AtomicU64,
    /// References that were somebody else's already when they were learned: they stay his.
    pub taken: AtomicU64,
    /// References in answers that were not learned, as one answer had too many.
    pub overlooked: AtomicU64,
    /// References that were named, by [`LookupResult::ALL`].
    recalled: [AtomicU64; LookupResult::ALL.len()],
    /// Those of them that the store was asked for, as memory could not tell.
    pub asked: AtomicU64,
    /// References that wait to be written to the store.
    pub waiting: AtomicU64,
    /// References that could not wait to be written, as too many did: they are in memory only until the store is back.
    pub dropped: AtomicU64,
    /// How often something was held back until others could know what it names: in time, and in vain.
    waits: [AtomicU64; 2],
    /// The store cannot be read, or is slow: nobody asks it.
    pub read_fails: AtomicBool,
    /// It cannot be written, or is slow: what is learned waits.
    pub write_fails: AtomicBool,
}

impl AffinityStatus {
    /// Counts references that were named.
    pub fn count(&self, found: LookupResult, references: u64) {
        for (known, count) in LookupResult::ALL.iter().zip(&self.recalled) {
            if *known == found {
                count.fetch_add(references, Ordering::Relaxed);
            }
        }
    }

    /// How many were named, by what came of them.
    pub fn recalled(&self) -> impl Iterator<Item = (LookupResult, u64)> {
        LookupResult::ALL.into_iter().zip(&self.recalled).map(|(found, count)| (found, count.load(Ordering::Relaxed)))
    }

    /// Counts that somebody waited for others to know; whether they did in time.
    pub fn waited(&self, known: bool) {
        self.waits[usize::from(!known)].fetch_add(1, Ordering::Relaxed);
    }

    /// How often somebody waited, by fixed names: metric label `result`.
    pub fn waits(&self) -> [(&'static str, u64); 2] {
        let [known, in_vain] = &self.waits;
        [("known", known), ("in_vain", in_vain)].map(|(name, count)| (name, count.load(Ordering::Relaxed)))
    }

    /// What is wrong, by fixed names.
    pub fn faults(&self) -> [(&'static str, bool); 2] {
        [("read", &self.read_fails), ("write", &self.write_fails)]
            .map(|(name, fault)| (name, fault.load(Ordering::Relaxed)))
    }
}
