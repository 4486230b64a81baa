//! Counts connections of clients.

use crate::metrics::Metrics;

/// While it lives, a connection is counted: also a panic ends it.
pub(super) struct Counted<'a>(&'a Metrics);

impl<'a> Counted<'a> {
    pub(super) fn new(metrics: &'a Metrics) -> Self {
        metrics.connections.open.inc();
        Self(metrics)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.connections.open.dec();
        if std::thread::panicking() {
            self.0.connections.panics.inc();
        }
    }
}
