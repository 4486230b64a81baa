//! Metrics of the keys in the store, updated from their status when Prometheus reads them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use prometheus_client::{metrics::gauge::Gauge, registry::Registry};

use crate::concurrent::key_status::StoredKeysStatus;

#[derive(Debug)]
pub(super) struct KeysCollector {
    stored: Gauge,
    revision: Gauge,
    fault: Gauge,
    unread: Gauge,
}

impl KeysCollector {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let gauge = |registry: &mut Registry, name: &str, help: &str| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        Self {
            stored: gauge(registry, "keys_stored", "Client keys in the store"),
            revision: gauge(registry, "keys_revision", "Revision of the keys in the store; grows by every change"),
            fault: gauge(
                registry,
                "keys_fault",
                "1 = the last read of the store failed; the keys read last stay active",
            ),
            unread: gauge(registry, "keys_unread", "1 = the store was never read; unknown keys get 503, not 401"),
        }
    }

    pub(super) fn update(&self, status: &StoredKeysStatus) {
        let number = |number: &AtomicU64| i64::try_from(number.load(Ordering::Relaxed)).unwrap_or(i64::MAX);
        let flag = |flag: &AtomicBool| i64::from(flag.load(Ordering::Relaxed));
        self.stored.set(number(&status.stored));
        self.revision.set(number(&status.revision));
        self.fault.set(flag(&status.fails));
        self.unread.set(flag(&status.unread));
    }
}
