//! Makes request ids.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::domain::{
    clock::Clock,
    id::RequestId,
    random::{NoRandomBytes, RandomBytes},
};

/// Makes the request ids of one worker. The first id is random, and a counter makes the next ones: random bytes from the system
/// would cost each request a system call.
#[derive(Debug)]
pub struct RequestIds {
    clock: Clock,
    /// Random bytes that tell the ids of this worker from the ids of other workers.
    worker: [u8; 2],
    next: AtomicU64,
}

impl RequestIds {
    /// Makes a worker's source of request ids. Other workers make different ids.
    ///
    /// # Errors
    /// The system has no random bytes. Without them, several workers would make the same ids.
    pub fn new(clock: Clock, random_bytes: RandomBytes) -> Result<Self, NoRandomBytes> {
        let first = u64::from_be_bytes(random_bytes.bytes()?);
        Ok(Self { clock, worker: random_bytes.bytes()?, next: AtomicU64::new(first) })
    }

    /// Returns the next request id of this worker. A worker gives each request a different id.
    pub fn next(&self) -> RequestId {
        let millis = u64::try_from(self.clock.since_epoch().as_millis()).unwrap_or(u64::MAX);
        let mut rest = [0; 10];
        let (worker, count) = rest.split_at_mut(self.worker.len());
        worker.copy_from_slice(&self.worker);
        count.copy_from_slice(&self.next.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        RequestId::new(millis, &rest)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn ids_have_version_7_and_differ_within_one_millisecond() {
        let clock = Clock::from_fn(|| UNIX_EPOCH + Duration::from_millis(0x0123_4567_89ab));
        let random_bytes = RandomBytes::from_fn(|bytes| {
            bytes.fill(0xff);
            Ok(())
        });
        let ids = RequestIds::new(clock, random_bytes).unwrap();
        let (one, two) = (ids.next(), ids.next());
        assert_eq!((one.millis(), RequestId::from_bytes(one.to_bytes())), (0x0123_4567_89ab, one));
        let (one, two) = (one.to_string(), two.to_string());
        assert_eq!(one, "req_0123456789ab7fffbfffffffffffffff");
        assert_eq!(two, "req_0123456789ab7fff8000000000000000");
    }
}
