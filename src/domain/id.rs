//! Request ids.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

use super::{
    chance::{Chance, NoChance},
    clock::Clock,
};

/// Our id of one request: a UUID of version 7, so that ids sort by time. Sent as `x-tidegate-request-id`. It names a
/// request and opens nothing, so it need not be hard to guess.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestId(uuid::Uuid);

/// Makes the request ids of one worker. The first id is random, and a counter makes the next ones: random bytes from the
/// system would cost each request a system call.
#[derive(Debug)]
pub struct RequestIds {
    clock: Clock,
    /// Random bytes that tell the ids of this worker from the ids of other workers.
    worker: [u8; 2],
    next: AtomicU64,
}

impl RequestIds {
    /// A source of ids that no other worker makes.
    ///
    /// # Errors
    /// The system has no random bytes. Without them, several workers would make the same ids.
    pub fn new(clock: Clock, chance: Chance) -> Result<Self, NoChance> {
        let first = u64::from_be_bytes(chance.bytes()?);
        Ok(Self { clock, worker: chance.bytes()?, next: AtomicU64::new(first) })
    }

    /// The next id.
    pub fn next(&self) -> RequestId {
        let millis = u64::try_from(self.clock.since_epoch().as_millis()).unwrap_or(u64::MAX);
        let mut rest = [0; 10];
        let (worker, count) = rest.split_at_mut(self.worker.len());
        worker.copy_from_slice(&self.worker);
        count.copy_from_slice(&self.next.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        RequestId(uuid::Builder::from_unix_timestamp_millis(millis, &rest).into_uuid())
    }
}

impl RequestId {
    /// The 16 bytes of the id.
    pub const fn to_bytes(self) -> [u8; 16] {
        *self.0.as_bytes()
    }

    /// The id with these bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(uuid::Uuid::from_bytes(bytes))
    }

    /// When the id was made, in milliseconds since 1970-01-01 UTC. The first 48 bits of the id hold this time.
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

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn ids_have_version_7_and_differ_within_one_millisecond() {
        let clock = Clock::from_fn(|| UNIX_EPOCH + Duration::from_millis(0x0123_4567_89ab));
        let chance = Chance::from_fn(|bytes| {
            bytes.fill(0xff);
            Ok(())
        });
        let ids = RequestIds::new(clock, chance).unwrap();
        let (one, two) = (ids.next(), ids.next());
        assert_eq!((one.millis(), RequestId::from_bytes(one.to_bytes())), (0x0123_4567_89ab, one));
        let (one, two) = (one.to_string(), two.to_string());
        assert_eq!(one, "req_0123456789ab7fffbfffffffffffffff");
        assert_eq!(two, "req_0123456789ab7fff8000000000000000");
    }
}
