//! Status of the affinity memory: its counters and faults, which metrics and `/readyz` show.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::domain::affinity::LookupResult;

/// Counters and faults of the affinity memory. The affinity code writes them.
#[derive(Debug, Default)]
pub struct AffinityStatus {
    /// References in memory.
    pub entries: AtomicU64,
    /// References that were new when an answer named them.
    pub learned: AtomicU64,
    /// References in answers that another owner already had: they keep that owner.
    pub foreign: AtomicU64,
    /// References that were not learned, because one answer had too many.
    pub skipped: AtomicU64,
    /// References that requests named, in the order of [`LookupResult::ALL`].
    lookups: [AtomicU64; LookupResult::ALL.len()],
    /// References that were looked up in the store, because memory did not show that they belong to the key.
    pub store_lookups: AtomicU64,
    /// References that wait to be written to the store.
    pub waiting: AtomicU64,
    /// References that are in memory only, because too many waited to be written while the store was away.
    pub dropped: AtomicU64,
    /// How often a part of an answer was held back until other replicas could know its references: until they could, and until
    /// the time was over.
    waits: [AtomicU64; 2],
    /// Reads of the store fail or are slow: requests no longer wait for them.
    pub read_fails: AtomicBool,
    /// Writes to the store fail or are slow: new references wait in memory.
    pub write_fails: AtomicBool,
}

impl AffinityStatus {
    /// Counts references (ids of state in requests) whose lookup had this result.
    pub fn count(&self, result: LookupResult, references: u64) {
        for (known, count) in LookupResult::ALL.iter().zip(&self.lookups) {
            if *known == result {
                count.fetch_add(references, Ordering::Relaxed);
            }
        }
    }

    /// How many references (ids of state) requests named, for each result of the lookup.
    pub fn lookups(&self) -> impl Iterator<Item = (LookupResult, u64)> {
        LookupResult::ALL.into_iter().zip(&self.lookups).map(|(result, count)| (result, count.load(Ordering::Relaxed)))
    }

    /// Counts a part of an answer that waited until other replicas could know its new ids. `known` says whether they could in time.
    pub fn waited(&self, known: bool) {
        self.waits[usize::from(!known)].fetch_add(1, Ordering::Relaxed);
    }

    /// How often parts of answers waited until other replicas could know their new ids, by fixed names: metric label `result`.
    pub fn waits(&self) -> [(&'static str, u64); 2] {
        let [known, timed_out] = &self.waits;
        [("known", known), ("timed_out", timed_out)].map(|(name, count)| (name, count.load(Ordering::Relaxed)))
    }

    /// The faults that the affinity store can have (`read`, `write`), each with whether it is present now.
    pub fn faults(&self) -> [(&'static str, bool); 2] {
        [("read", &self.read_fails), ("write", &self.write_fails)]
            .map(|(name, fault)| (name, fault.load(Ordering::Relaxed)))
    }
}
