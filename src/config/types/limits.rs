//! What replicas share of limits and budgets.

use std::time::Duration;

use super::redis::RedisSettings;

/// `[limits]`, where there is a Redis.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedLimits {
    /// Where they are counted.
    pub redis: RedisSettings,
    /// How many replicas share them; at least 1.
    pub replicas: u32,
    /// What happens while Redis is away.
    pub fail: WhenRedisIsAway,
    /// A request waits for Redis no longer than this, all its questions together.
    pub patience: Duration,
}

/// While what is left of the limits cannot be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenRedisIsAway {
    /// Each replica allows its part.
    Share,
    /// Keys with limits are refused.
    Closed,
}
