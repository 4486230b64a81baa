//! Settings of the limits and budgets that replicas share.

use std::time::Duration;

use super::redis::RedisSettings;

/// The checked `[limits]` table of the configuration, for replicas that share limits and budgets in a Redis.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedLimits {
    /// The Redis that counts the limits and budgets.
    pub redis: RedisSettings,
    /// How many replicas share the limits; at least 1.
    pub replicas: u32,
    /// What happens while Redis is unavailable.
    pub fail: WhenRedisIsAway,
    /// Longest time that one request waits for Redis, over all its calls.
    pub patience: Duration,
}

/// What happens to requests of keys with limits while Redis is unavailable and the remaining limits are unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenRedisIsAway {
    /// Each replica allows its share.
    Share,
    /// Keys with limits are refused.
    Closed,
}
