//! How the ledger stands.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::UsageState;

/// What came of a call that Tidegate made for a response in the background. The names are fixed: metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PollOutcome {
    /// The response is over.
    Over,
    /// It is being made.
    UnderWay,
    /// The provider does not have it.
    Gone,
    /// No usable answer came.
    Failed,
}

impl PollOutcome {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Over, Self::UnderWay, Self::Gone, Self::Failed];

    /// Its fixed name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Over => "over",
            Self::UnderWay => "under_way",
            Self::Gone => "gone",
            Self::Failed => "failed",
        }
    }
}

/// How the ledger stands: written by those who know, read when somebody asks.
#[derive(Debug, Default)]
pub struct LedgerStatus {
    /// Bytes of the journal.
    pub journal_bytes: AtomicU64,
    /// Requests that are over.
    pub settled: AtomicU64,
    /// Those of them that are in the database.
    pub stored: AtomicU64,
    /// Rows that were written to the database, by [`UsageState::ALL`].
    pub rows: [AtomicU64; UsageState::ALL.len()],
    /// The journal could not be written when it was tried last: requests are refused.
    pub journal_fails: AtomicBool,
    /// It is as large as it may be: requests are refused.
    pub journal_full: AtomicBool,
    /// What was written may not survive a loss of power.
    pub journal_sync_fails: AtomicBool,
    /// The database could not be written when it was tried last: the journal keeps the rows.
    pub database_fails: AtomicBool,
    /// Responses in the background whose rows are pending, as far as this process asks for them.
    pub pending: AtomicU64,
    /// Calls that Tidegate made for them, by [`PollOutcome::ALL`].
    pub polls: [AtomicU64; PollOutcome::ALL.len()],
    /// Thresholds that budgets reached.
    pub budget_warnings: AtomicU64,
    /// How often the ledger connected to its database: another connection may lead to another server.
    pub connections: AtomicU64,
    /// Rows that the database did not take, whatever was left out of them: they lie aside, and somebody has to look.
    pub put_aside: AtomicU64,
}

impl LedgerStatus {
    /// Requests that are over and not in the database yet.
    pub fn waiting(&self) -> u64 {
        self.settled.load(Ordering::Relaxed).saturating_sub(self.stored.load(Ordering::Relaxed))
    }

    /// Counts rows that are in the database now.
    pub fn count(&self, state: UsageState, rows: u64) {
        for (known, count) in UsageState::ALL.iter().zip(&self.rows) {
            if *known == state {
                count.fetch_add(rows, Ordering::Relaxed);
            }
        }
    }

    /// What is wrong, by fixed names.
    pub fn faults(&self) -> impl Iterator<Item = (&'static str, bool)> {
        [
            ("journal", &self.journal_fails),
            ("journal_full", &self.journal_full),
            ("journal_sync", &self.journal_sync_fails),
            ("database", &self.database_fails),
        ]
        .into_iter()
        .map(|(name, fault)| (name, fault.load(Ordering::Relaxed)))
        .chain([("rows", self.put_aside.load(Ordering::Relaxed) > 0)])
    }
}
