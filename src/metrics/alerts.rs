//! How the delivery of alerts stands: brought up to date when the metrics are read.

use std::sync::{Arc, atomic::Ordering};

use prometheus_client::{metrics::counter::Counter, registry::Registry};

use super::{EndLabels, Metrics};
use crate::domain::{alert::AlertDeliveryStatus, outcome::EndReason};

impl Metrics {
    /// Answers of an upstream that are over, and those of them whose transfer ended before their end.
    pub fn answers(&self, upstream: &str) -> (u64, u64) {
        let upstream: Arc<str> = upstream.into();
        let (mut all, mut truncated) = (0, 0);
        for end in EndReason::ALL {
            let labels = EndLabels { upstream: Arc::clone(&upstream), end: end.name() };
            let count = self.requests.get(&labels).map_or(0, |counter| counter.get());
            match end {
                EndReason::Incomplete | EndReason::UpstreamBroken | EndReason::UpstreamStalled => truncated += count,
                EndReason::Completed | EndReason::ResponseFailed | EndReason::ResponseIncomplete => {}
                // These tell nothing of how the upstream's answers end.
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
