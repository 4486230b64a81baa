//! Whether limits that replicas share can be counted together now.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Whether requests can ask Redis about the limits that replicas share. The Redis worker writes this status; every request and
/// the admin plane read it.
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
    /// Whether requests may ask Redis about shared limits now.
    pub fn is_well(&self) -> bool {
        !self.away.load(Ordering::Acquire)
    }

    /// Records that Redis is unavailable: from now on no request asks it about shared limits. Returns whether that was known before.
    pub fn fails(&self) -> bool {
        self.away.swap(true, Ordering::AcqRel)
    }

    /// Records that Redis works again: requests ask it about shared limits from now on.
    pub fn is_back(&self) {
        self.away.store(false, Ordering::Release);
    }
}
