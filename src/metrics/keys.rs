//! How the keys of the store stand: brought up to date when the metrics are read.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use prometheus_client::{metrics::gauge::Gauge, registry::Registry};

use crate::domain::key::StoredKeysStatus;

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
            stored: gauge(registry, "keys_stored", "Client keys of the store"),
            revision: gauge(registry, "keys_revision", "How often keys of the store were changed"),
            fault: gauge(registry, "keys_fault", "1 = the keys of the store cannot be read: those read before count"),
            unread: gauge(registry, "keys_unread", "1 = they were never read: unknown keys get 503 instead of 401"),
        }
    }

    pub(super) fn show(&self, condition: &StoredKeysStatus) {
        let number = |number: &AtomicU64| i64::try_from(number.load(Ordering::Relaxed)).unwrap_or(i64::MAX);
        let flag = |flag: &AtomicBool| i64::from(flag.load(Ordering::Relaxed));
        self.stored.set(number(&condition.stored));
        self.revision.set(number(&condition.revision));
        self.fault.set(flag(&condition.fails));
        self.unread.set(flag(&condition.unread));
    }
}
