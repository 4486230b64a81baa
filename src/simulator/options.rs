//! Options of the simulator.

use std::time::Duration;

use crate::domain::clock::Clock;
use crate::domain::random::RandomBytes;

/// The options of the provider simulator: the delay of events, the clock, and the random bytes for ids. A request can override the delay.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Pause before each event of a stream but the first.
    pub event_delay: Duration,
    /// For `created_at`.
    pub clock: Clock,
    /// For ids.
    pub random_bytes: RandomBytes,
}

impl Default for Options {
    /// The speed of a fast model: 20 ms for each event looks natural and keeps a demo short.
    fn default() -> Self {
        Self { event_delay: Duration::from_millis(20), clock: Clock::system(), random_bytes: RandomBytes::system() }
    }
}
