//! How the delivery of alerts stands: brought up to date when the metrics are read.

use std::sync::atomic::Ordering;

use prometheus_client::{metrics::counter::Counter, registry::Registry};

use crate::domain::alert::AlertDeliveryStatus;

#[derive(Debug)]
pub(super) struct AlertsCollector {
    sent: Counter,
    failed: Counter,
    dropped: Counter,
}

impl AlertsCollector {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let (sent, failed, dropped) = (Counter::default(), Counter::default(), Counter::default());
        registry.register("alerts_sent", "Alerts that the receiver of [alerts] took", sent.clone());
        registry.register("alert_tries_failed", "Tries to deliver an alert that failed", failed.clone());
        registry.register("alerts_dropped", "Alerts that were not delivered", dropped.clone());
        Self { sent, failed, dropped }
    }

    pub(super) fn show(&self, condition: &AlertDeliveryStatus) {
        for (counter, number) in
            [(&self.sent, &condition.sent), (&self.failed, &condition.failed), (&self.dropped, &condition.dropped)]
        {
            counter.inner().store(number.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}
