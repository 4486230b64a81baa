//! Ending in order: no new connections, what is under way finishes, what does not finish in time is cut.

use tokio_util::sync::CancellationToken;

/// Told to every listener and connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Shutdown {
    drain: CancellationToken,
    stop: CancellationToken,
}

impl Shutdown {
    /// Takes no new connections; those at rest end, requests under way go on.
    pub(super) fn drain(&self) {
        self.drain.cancel();
    }

    /// Ends everything now.
    pub(super) fn stop(&self) {
        self.drain.cancel();
        self.stop.cancel();
    }

    /// Resolves at the first of the two.
    pub(super) async fn draining(&self) {
        self.drain.cancelled().await;
    }

    /// Resolves when everything has to end.
    pub(super) async fn stopped(&self) {
        self.stop.cancelled().await;
    }
}
