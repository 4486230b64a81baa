//! The accept loop.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};
use tokio_util::task::TaskTracker;

use super::{
    bind::Listener,
    connection::{self, ServerContext},
    deadlines::Deadlines,
    service::Service,
};

/// The pause after a failed accept. Such failures mostly mean that file descriptors ran out, and an immediate retry
/// would spin.
const BACK_OFF: Duration = Duration::from_millis(50);

/// The time between two log lines about failed accepts: such failures are all alike and may come many times a second.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Runs an HTTP server on one listener: accepts connections until the drain begins, then waits for the open connections to end.
/// `deadlines` holds the deadlines for the next connection. `slots` bounds the number of connections over all listeners.
///
/// # Errors
/// If the runtime refuses the listener.
pub async fn run<S: Service>(
    listener: impl Into<Listener>,
    mut shared: ServerContext<S>,
    deadlines: watch::Receiver<Deadlines>,
    slots: Arc<Semaphore>,
) -> io::Result<()> {
    let listener = listener.into().accepting()?;
    let connections = TaskTracker::new();
    let heartbeat = Arc::clone(&shared.heartbeat);
    let beating = tokio::spawn(async move { heartbeat.beat().await });
    let mut failures = AcceptFailures::default();
    loop {
        let accepted = tokio::select! {
            biased;
            () = shared.shutdown.draining() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                // The slot is taken after the accept: an idle listener that held a slot would keep it from the others.
                // Without a free slot this connection waits, and later ones wait in the kernel's backlog.
                let slot = tokio::select! {
                    biased;
                    () = shared.shutdown.draining() => break,
                    slot = Arc::clone(&slots).acquire_owned() => slot,
                };
                // The semaphore is never closed, so this cannot fail.
                let Ok(slot) = slot else { break };
                shared.deadlines = *deadlines.borrow();
                let serving = connection::serve(stream, peer, shared.clone());
                connections.spawn(async move {
                    serving.await;
                    drop(slot);
                });
            }
            Err(error) => {
                if let Some(failed) = failures.count(Instant::now()) {
                    tracing::warn!(%error, failed, "the operating system refused to open connections: the clients wait \
                        until the system allows more connections. Check the limit of open files");
                }
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
    beating.abort();
    Ok(())
}

/// Counts failed accepts of one listener for the log.
#[derive(Default)]
struct AcceptFailures {
    /// Failures that were not logged yet.
    unlogged: u64,
    logged: Option<Instant>,
}

impl AcceptFailures {
    /// Counts one failure. Returns the number to log if a log line is due.
    fn count(&mut self, now: Instant) -> Option<u64> {
        self.unlogged += 1;
        if self.logged.is_some_and(|logged| now < logged + LOG_INTERVAL) {
            return None;
        }
        self.logged = Some(now);
        Some(std::mem::take(&mut self.unlogged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_accepts_are_logged_once_a_second() {
        let began = Instant::now();
        let mut failures = AcceptFailures::default();
        let logged = (0..60).filter_map(|turn| failures.count(began + BACK_OFF * turn)).collect::<Vec<_>>();
        assert_eq!(logged, [1, 20, 20]);
    }
}
