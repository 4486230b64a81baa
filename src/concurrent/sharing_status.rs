//! Whether limits that replicas share can be counted together now.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Written by the Redis worker, read by every request and by the admin plane.
#[derive(Debug, Default)]
pub struct SharingStatus {
    /// Replicas share limits at all.
    pub shared: AtomicBool,
    /// Requests that were admitted or refused without Redis.
    pub alone: AtomicU64,
    /// Redis is away, slow, takes no writes or was emptied: no request asks it.
    away: AtomicBool,
}

impl SharingStatus {
    /// Whether requests ask Redis.
    pub fn is_well(&self) -> bool {
        !self.away.load(Ordering::Acquire)
    }

    /// From now on no request asks Redis. Whether it was so already.
    pub fn fails(&self) -> bool {
        self.away.swap(true, Ordering::AcqRel)
    }

    /// Requests ask Redis again.
    pub fn is_back(&self) {
        self.away.store(false, Ordering::Release);
    }
}
