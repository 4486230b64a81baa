//! Ending in order: first it only says so, then it takes no new connections and what is under way finishes, and what does
//! not finish in time is cut.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
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
pub(super) struct Shutdown {
    leaving: Leaving,
    drain: CancellationToken,
    stop: CancellationToken,
    cut: Arc<AtomicBool>,
}

impl Shutdown {
    /// Everything is served as before, but no connection is kept for a further request.
    pub(super) fn leave(&self) {
        self.leaving.0.store(true, Ordering::Relaxed);
    }

    /// Takes no new connections; those at rest end, requests under way go on.
    pub(super) fn drain(&self) {
        self.leave();
        self.drain.cancel();
    }

    /// Ends everything now.
    pub(super) fn stop(&self) {
        self.drain();
        self.stop.cancel();
    }

    /// For whoever needs no more of this: it is cheaper to have than the rest.
    pub(super) fn leaving(&self) -> Leaving {
        self.leaving.clone()
    }

    /// Resolves when no new connections are taken any more.
    pub(super) async fn draining(&self) {
        self.drain.cancelled().await;
    }

    /// Resolves when everything has to end.
    pub(super) async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// A request did not finish.
    pub(super) fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    /// Whether any did not.
    pub(super) fn was_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }
}

/// How long an end in order may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grace {
    /// From the wish to end until no new connection is taken.
    pub delay: Duration,
    /// From then on, for requests under way.
    pub limit: Duration,
}

/// The grace that holds now: who ends the gateway reads it when the end begins, so that a reload can change it.
#[derive(Clone, Debug, Default)]
pub(super) struct SharedGrace(Arc<Mutex<Grace>>);

impl SharedGrace {
    pub(super) fn get(&self) -> Grace {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set(&self, grace: Grace) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = grace;
    }
}
