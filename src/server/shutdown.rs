//! Graceful shutdown in three steps. Leave: announce the end. Drain: accept no connections and finish the requests in
//! progress. Stop: cut what did not finish in time.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio_util::sync::CancellationToken;

/// Whether connections close after their next answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Leaving(Arc<AtomicBool>);

impl Leaving {
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The shutdown signal for all listeners and connections of the HTTP server, in three steps: leave, drain, stop.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    leaving: Leaving,
    drain: CancellationToken,
    stop: CancellationToken,
    record_cut: Arc<AtomicBool>,
}

impl Shutdown {
    /// Begins the first step of the shutdown: everything is served as before, but each connection closes after its next answer.
    pub fn leave(&self) {
        self.leaving.0.store(true, Ordering::Relaxed);
    }

    /// Begins the second step of the shutdown: the server accepts no new connections and closes idle ones. Requests in progress continue.
    pub fn drain(&self) {
        self.leave();
        self.drain.cancel();
    }

    /// Begins the last step of the shutdown: all connections and requests end now.
    pub fn stop(&self) {
        self.drain();
        self.stop.cancel();
    }

    /// The leave flag alone, which is cheaper to read than the rest.
    pub(super) fn leaving(&self) -> Leaving {
        self.leaving.clone()
    }

    /// Waits until the shutdown reaches the drain: the server accepts no new connections.
    pub async fn draining(&self) {
        self.drain.cancelled().await;
    }

    /// Waits until the shutdown reaches its last step: all connections must end.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// Records that a request was cut.
    pub(super) fn record_cut(&self) {
        self.record_cut.store(true, Ordering::Relaxed);
    }

    /// Whether the shutdown ended any request before its answer was complete.
    pub fn cut_requests(&self) -> bool {
        self.record_cut.load(Ordering::Relaxed)
    }
}
