//! Ending in order: first it only says so, then it takes no new connections and what is under way finishes, and what does
//! not finish in time is cut.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio_util::sync::CancellationToken;

/// Whether connections are no longer kept.
#[derive(Clone, Debug, Default)]
pub(super) struct Leaving(Arc<AtomicBool>);

impl Leaving {
    pub(super) fn is_so(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Told to every listener and connection.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    leaving: Leaving,
    drain: CancellationToken,
    stop: CancellationToken,
    cut: Arc<AtomicBool>,
}

impl Shutdown {
    /// Everything is served as before, but no connection is kept for a further request.
    pub fn leave(&self) {
        self.leaving.0.store(true, Ordering::Relaxed);
    }

    /// Takes no new connections; those at rest end, requests under way go on.
    pub fn drain(&self) {
        self.leave();
        self.drain.cancel();
    }

    /// Ends everything now.
    pub fn stop(&self) {
        self.drain();
        self.stop.cancel();
    }

    /// For whoever needs no more of this: it is cheaper to have than the rest.
    pub(super) fn leaving(&self) -> Leaving {
        self.leaving.clone()
    }

    /// Resolves when no new connections are taken any more.
    pub async fn draining(&self) {
        self.drain.cancelled().await;
    }

    /// Resolves when everything has to end.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// A request did not finish.
    pub(super) fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    /// Whether any did not.
    pub fn was_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }
}
