//! Status of the keys in the store.

use std::sync::atomic::{AtomicBool, AtomicU64};

/// Whether the client keys in the store can be read, and how many there are. The reader of the store writes these values; metrics
/// and `/readyz` show them.
#[derive(Debug)]
pub struct StoredKeysStatus {
    /// The keys were never read, so Tidegate cannot tell an unknown key from a key of the store.
    pub unread: AtomicBool,
    /// The last read of the keys failed. The keys that were read last stay active.
    pub fails: AtomicBool,
    /// Revision of the keys: grows by every change.
    pub revision: AtomicU64,
    /// Number of keys in the store.
    pub stored: AtomicU64,
}

impl Default for StoredKeysStatus {
    fn default() -> Self {
        let (fails, revision, stored) = (AtomicBool::default(), AtomicU64::default(), AtomicU64::default());
        Self { unread: AtomicBool::new(true), fails, revision, stored }
    }
}
