//! Metrics of the delivery of alerts, updated when Prometheus reads them.

use std::sync::atomic::Ordering;

use prometheus_client::{metrics::counter::Counter, registry::Registry};

use crate::concurrent::alert_queue::AlertDeliveryStatus;

#[derive(Debug)]
pub(super) struct AlertsCollector {
    sent: Counter,
    failed: Counter,
    dropped: Counter,
}

impl AlertsCollector {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let (sent, failed, dropped) = (Counter::default(), Counter::default(), Counter::default());
        registry.register("alerts_sent", "Alerts that the receiver accepted", sent.clone());
        registry.register(
            "alert_deliveries_failed",
            "Failed deliveries of an alert; each may be repeated",
            failed.clone(),
        );
        registry.register("alerts_dropped", "Alerts that were not delivered", dropped.clone());
        Self { sent, failed, dropped }
    }

    pub(super) fn update(&self, status: &AlertDeliveryStatus) {
        for (counter, number) in
            [(&self.sent, &status.sent), (&self.failed, &status.failed), (&self.dropped, &status.dropped)]
        {
            counter.inner().store(number.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}
