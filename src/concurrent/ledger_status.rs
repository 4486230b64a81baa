//! Status of the ledger: counters and faults, which metrics and `/readyz` show.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::domain::ledger::{PollOutcome, UsageState};

/// Counters and faults of the ledger. The ledger's parts write them; metrics and `/readyz` show them.
#[derive(Debug, Default)]
pub struct LedgerStatus {
    /// Size of the journal, in bytes.
    pub journal_bytes: AtomicU64,
    /// Finished requests.
    pub settled: AtomicU64,
    /// Finished requests whose rows are in the database.
    pub stored: AtomicU64,
    /// Rows that were written to the database, in the order of [`UsageState::ALL`].
    pub rows: [AtomicU64; UsageState::ALL.len()],
    /// The last write to the journal failed: Tidegate refuses requests.
    pub journal_fails: AtomicBool,
    /// The journal reached its maximum size: Tidegate refuses requests.
    pub journal_full: AtomicBool,
    /// The last sync of the journal failed: written rows may not survive a loss of power.
    pub journal_sync_fails: AtomicBool,
    /// The last write to the database failed: the journal keeps the rows.
    pub database_fails: AtomicBool,
    /// Pending background responses that this process polls.
    pub pending: AtomicU64,
    /// Polls of background responses, in the order of [`PollOutcome::ALL`].
    pub polls: [AtomicU64; PollOutcome::ALL.len()],
    /// How often a budget reached one of its warning thresholds.
    pub budget_warnings: AtomicU64,
    /// How often the ledger connected to its database. A new connection may lead to another server.
    pub connections: AtomicU64,
    /// Quarantined rows: the database refused them in full and in reduced form. An operator has to inspect them.
    pub quarantined_rows: AtomicU64,
}

impl LedgerStatus {
    /// How many finished requests have a ledger row that is not in the database yet.
    pub fn waiting(&self) -> u64 {
        self.settled.load(Ordering::Relaxed).saturating_sub(self.stored.load(Ordering::Relaxed))
    }

    /// Adds `rows` to the number of ledger rows that were written to the database in the usage state `state`, such as exact or partial.
    pub fn count(&self, state: UsageState, rows: u64) {
        for (known, count) in UsageState::ALL.iter().zip(&self.rows) {
            if *known == state {
                count.fetch_add(rows, Ordering::Relaxed);
            }
        }
    }

    /// The faults that the ledger can have, by their fixed names such as `journal`, each with whether it is present now.
    pub fn faults(&self) -> impl Iterator<Item = (&'static str, bool)> {
        [
            ("journal", &self.journal_fails),
            ("journal_full", &self.journal_full),
            ("journal_sync", &self.journal_sync_fails),
            ("database", &self.database_fails),
        ]
        .into_iter()
        .map(|(name, fault)| (name, fault.load(Ordering::Relaxed)))
        .chain([("rows", self.quarantined_rows.load(Ordering::Relaxed) > 0)])
    }
}
