//! Request ids.

use std::fmt;

/// Tidegate's id of one request: a UUID of version 7, so that ids sort by time. Sent as `x-tidegate-request-id`. The id gives no
/// access to anything, so it need not be hard to guess.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestId(uuid::Uuid);

impl RequestId {
    /// Makes a request id (UUID version 7) from the time, in milliseconds since 1970-01-01 UTC, and ten random bytes.
    pub fn new(millis: u64, rest: &[u8; 10]) -> Self {
        Self(uuid::Builder::from_unix_timestamp_millis(millis, rest).into_uuid())
    }

    /// The 16 bytes of a request id.
    pub const fn to_bytes(self) -> [u8; 16] {
        *self.0.as_bytes()
    }

    /// The request id with these 16 bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(uuid::Uuid::from_bytes(bytes))
    }

    /// When a request id was made, in milliseconds since 1970-01-01 UTC. The first 48 bits of the id hold this time.
    pub const fn millis(self) -> u64 {
        let [a, b, c, d, e, f, ..] = self.to_bytes();
        u64::from_be_bytes([0, 0, a, b, c, d, e, f])
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "req_{}", self.0.simple())
    }
}
