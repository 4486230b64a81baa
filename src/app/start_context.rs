//! What a start of the gateway takes from outside, so that tests can replace it.

use super::alerts::AlertTimes;
use crate::{
    domain::{clock::Clock, random::RandomBytes},
    store::journal::Disk,
};

/// What a start of the gateway takes from outside: clock, random bytes, disk and terminal. Tests replace these.
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
    /// How long a condition lasts before an alert is raised.
    pub alert_times: AlertTimes,
}
