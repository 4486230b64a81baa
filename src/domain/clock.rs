//! Wall-clock time as a parameter. Monotonic time is `tokio::time::Instant`, which tests can pause.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Source of wall-clock time: the system in production, a constant in tests.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    now: fn() -> SystemTime,
}

impl Clock {
    /// The clock of the operating system.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the system's clock")]
    pub const fn system() -> Self {
        Self { now: SystemTime::now }
    }

    /// A clock that calls `now` for the time. Tests use such a clock with a constant time.
    pub const fn from_fn(now: fn() -> SystemTime) -> Self {
        Self { now }
    }

    /// The wall-clock time as the time since 1970-01-01 UTC. Zero where the clock shows an earlier time.
    pub fn since_epoch(self) -> Duration {
        (self.now)().duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}

/// A moment in milliseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnixMillis(pub u64);
