//! What a gateway takes from the world.

use super::alerts::AlertTimes;
use crate::{
    domain::{chance::Chance, clock::Clock},
    store::journal::Disk,
};

/// What a start takes from the world.
#[derive(Clone, Copy, Debug)]
pub struct StartContext {
    /// Wall-clock time.
    pub clock: Clock,
    /// Randomness.
    pub chance: Chance,
    /// The disk of the ledger's journal.
    pub disk: &'static dyn Disk,
    /// Whether a person sees what is printed: only then may a new key be shown.
    pub terminal: bool,
    /// How long a condition lasts before an alert tells of it.
    pub alert_times: AlertTimes,
}
