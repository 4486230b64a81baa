//! The outside world that a start depends on.

use super::alerts::AlertTimes;
use crate::{
    domain::{clock::Clock, random::RandomBytes},
    store::journal::Disk,
};

/// The outside world that a start depends on: clock, randomness, disk and terminal. Tests replace these.
#[derive(Clone, Copy, Debug)]
pub struct StartContext {
    /// Wall-clock time.
    pub clock: Clock,
    /// Randomness.
    pub random_bytes: RandomBytes,
    /// The disk of the ledger's journal.
    pub disk: &'static dyn Disk,
    /// Whether standard output is a terminal. A new key is printed only there.
    pub terminal: bool,
    /// How long a condition lasts before an alert tells of it.
    pub alert_times: AlertTimes,
}
