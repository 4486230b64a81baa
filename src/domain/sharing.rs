//! Whether limits that replicas share can be counted together now.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How it stands: written by who asks Redis, read by every request and when somebody asks.
#[derive(Debug, Default)]
pub struct Condition {
    /// They are shared at all.
    pub shared: AtomicBool,
    /// Redis is away, slow, or takes nothing: nobody waits for it.
    pub fails: AtomicBool,
    /// Requests that were counted, or refused, without it.
    pub alone: AtomicU64,
}

impl Condition {
    /// Whether Redis is worth asking.
    pub fn is_well(&self) -> bool {
        !self.fails.load(Ordering::Acquire)
    }

    /// From now on nobody waits for it. Whether it was so already.
    pub fn fails(&self) -> bool {
        self.fails.swap(true, Ordering::AcqRel)
    }
}
