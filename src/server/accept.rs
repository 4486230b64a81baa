//! The accept loop.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};
use tokio_util::task::TaskTracker;

use super::{
    bind::Listener,
    connection::{self, Shared},
    limits::Limits,
    service::Service,
};

/// When accepting fails for want of something (file descriptors above all), trying at once would only spin.
const BACK_OFF: Duration = Duration::from_millis(50);

/// Failures to accept come many times a second and are all alike: the log gets one line of them in this time.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Accepts until drained, then waits for the connections to end. `limits` tells those of a new connection; `slots` bounds
/// the number of connections, over all listeners.
///
/// # Errors
/// When the runtime refuses the listener.
pub async fn run<S: Service>(
    listener: impl Into<Listener>,
    mut shared: Shared<S>,
    limits: watch::Receiver<Limits>,
    slots: Arc<Semaphore>,
) -> io::Result<()> {
    let listener = listener.into().accepting()?;
    let connections = TaskTracker::new();
    let heartbeat = Arc::clone(&shared.heartbeat);
    let beating = tokio::spawn(async move { heartbeat.beat().await });
    let mut failures = Failures::default();
    loop {
        let accepted = tokio::select! {
            biased;
            () = shared.shutdown.draining() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                // Taken after the connection: a listener that holds a slot while nobody comes would keep it from the
                // others. Without a free one this connection waits, and those after it in the backlog.
                let slot = tokio::select! {
                    biased;
                    () = shared.shutdown.draining() => break,
                    slot = Arc::clone(&slots).acquire_owned() => slot,
                };
                // Never closed.
                let Ok(slot) = slot else { break };
                shared.limits = *limits.borrow();
                let serving = connection::serve(stream, peer, shared.clone());
                connections.spawn(async move {
                    serving.await;
                    drop(slot);
                });
            }
            Err(error) => {
                if let Some(failed) = failures.count(Instant::now()) {
                    tracing::warn!(%error, failed, "connections could not be accepted: clients wait until the system allows more");
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

/// Failures of one listener to accept.
#[derive(Default)]
struct Failures {
    /// Those that the log does not tell of yet.
    untold: u64,
    told: Option<Instant>,
}

impl Failures {
    /// Counts one. Returned is how many to tell of, if it is time to.
    fn count(&mut self, now: Instant) -> Option<u64> {
        self.untold += 1;
        if self.told.is_some_and(|told| now < told + TELL_EVERY) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_to_accept_are_told_of_once_a_second() {
        let began = Instant::now();
        let mut failures = Failures::default();
        let told = (0..60).filter_map(|turn| failures.count(began + BACK_OFF * turn)).collect::<Vec<_>>();
        assert_eq!(told, [1, 20, 20]);
    }
}
