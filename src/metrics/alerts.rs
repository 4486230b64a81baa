//! Metrics of the delivery of alerts, updated when Prometheus reads them. Also the counts that the alert about truncated answers
//! uses.

use std::sync::{Arc, atomic::Ordering};

use prometheus_client::{metrics::counter::Counter, registry::Registry};

use super::{EndLabels, Metrics};
use crate::domain::{alert::AlertDeliveryStatus, outcome::EndReason};

impl Metrics {
    /// The number of finished answers of an upstream, and how many of them ended before they were complete.
    pub fn answers(&self, upstream: &str) -> (u64, u64) {
        let upstream: Arc<str> = upstream.into();
        let (mut all, mut truncated) = (0, 0);
        for end in EndReason::ALL {
            let labels = EndLabels { upstream: Arc::clone(&upstream), end: end.name() };
            let count = self.requests.get(&labels).map_or(0, |counter| counter.get());
            match end {
                EndReason::Incomplete | EndReason::UpstreamBroken | EndReason::UpstreamStalled => truncated += count,
                EndReason::Completed | EndReason::ResponseFailed | EndReason::ResponseIncomplete => {}
                // These ends say nothing about the answers of the upstream.
                _ => continue,
            }
            all += count;
        }
        (all, truncated)
    }
}

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
