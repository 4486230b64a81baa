//! Metrics of the limits that replicas share, updated from their status when Prometheus reads them.

use std::sync::atomic::Ordering;

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

use crate::concurrent::sharing_status::SharingStatus;

#[derive(Debug)]
pub(super) struct RedisCollector {
    shared: Gauge,
    fault: Gauge,
    alone: Counter,
}

impl RedisCollector {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let (shared, fault, alone) = (Gauge::default(), Gauge::default(), Counter::default());
        registry.register("limits_shared", "1 = limits are counted in Redis, for several replicas", shared.clone());
        registry.register(
            "limits_fault",
            "1 = Redis is unavailable: this replica allows its part of the limits",
            fault.clone(),
        );
        registry.register("limits_alone", "Requests admitted or refused without Redis", alone.clone());
        Self { shared, fault, alone }
    }

    pub(super) fn update(&self, status: &SharingStatus) {
        self.shared.set(status.shared.load(Ordering::Relaxed).into());
        self.fault.set((!status.is_well()).into());
        self.alone.inner().store(status.alone.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}
