//! What a gateway takes from the world.

use crate::{
    domain::{clock::Clock, random::RandomBytes},
    store::journal::Disk,
};

/// What a start takes from the world.
#[derive(Clone, Copy, Debug)]
pub struct StartContext {
    /// Wall-clock time.
    pub clock: Clock,
    /// Randomness.
    pub random_bytes: RandomBytes,
    /// The disk of the ledger's journal.
    pub disk: &'static dyn Disk,
    /// Whether a person sees what is printed: only then may a new key be shown.
    pub terminal: bool,
}
