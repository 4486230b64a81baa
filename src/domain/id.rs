//! Identifiers.

use std::fmt;

use super::{chance::Chance, clock::Clock};

/// Our id of one request: a UUID of version 7, so that ids sort by time. Sent as `x-tidegate-request-id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestId(uuid::Uuid);

impl RequestId {
    /// Makes one. Without randomness it is the time alone: a request is not refused for that.
    pub fn new(clock: Clock, chance: Chance) -> Self {
        let millis = u64::try_from(clock.since_epoch().as_millis()).unwrap_or(u64::MAX);
        let random = chance.bytes::<10>().unwrap_or_default();
        Self(uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid())
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "req_{}", self.0.simple())
    }
}
