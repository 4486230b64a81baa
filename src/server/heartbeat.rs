//! When a worker last asked the system for events. What it learns later came later, or it was too busy to learn it in time.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};

/// A client that closes its sending side this soon after the last byte of its request still waits for the answer: its FIN is a
/// packet of its own, and may come late. 20 ms are more than the jitter of a network, and less than a person or a program takes
/// to change its mind.
const HALF_CLOSE: u64 = 20;

/// How exactly the end of that time is known.
const BEAT: Duration = Duration::from_millis(5);

/// Beats after the last request: together they are longer than `HALF_CLOSE`.
const BEATS: u32 = 6;

/// One for each worker. It beats only while a request is fresh: a worker that has none is not woken.
#[derive(Debug)]
pub struct Heartbeat {
    began: Instant,
    /// Milliseconds since `began` at which events were last asked for, as far as is known.
    asked: AtomicU64,
    /// A request came since the last beat.
    fresh: AtomicBool,
    start: Notify,
}

impl Default for Heartbeat {
    fn default() -> Self {
        let (asked, fresh, start) = (AtomicU64::default(), AtomicBool::default(), Notify::new());
        Self { began: Instant::now(), asked, fresh, start }
    }
}

impl Heartbeat {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The last byte of a request was read. Returns the moment, for [`Self::is_over`].
    pub(super) fn request(&self) -> u64 {
        if !self.fresh.load(Ordering::Relaxed) {
            self.fresh.store(true, Ordering::Relaxed);
            self.start.notify_one();
        }
        self.now()
    }

    /// Whether the time in which a FIN belongs to the request of that moment is over, and the worker could have learned of
    /// the FIN within that time. A worker that was busy for longer gives its client the benefit of the doubt.
    pub(super) fn is_over(&self, request: u64) -> bool {
        self.asked.load(Ordering::Relaxed) >= request + HALF_CLOSE
    }

    /// Beats, for ever. The runtime asks for events before it runs timers that are due, and wakes whom the events are for
    /// before it wakes this.
    pub(super) async fn beat(&self) {
        loop {
            self.start.notified().await;
            let mut left = BEATS;
            while left > 0 {
                left = if self.fresh.swap(false, Ordering::Relaxed) { BEATS } else { left - 1 };
                sleep(BEAT).await;
                self.asked.store(self.now(), Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_fin_belongs_to_a_request_for_20_ms_and_while_the_worker_is_busy() {
        let heart = Arc::new(Heartbeat::default());
        let beating = tokio::spawn({
            let heart = Arc::clone(&heart);
            async move { heart.beat().await }
        });
        for pause in [0, 3, 50, 1000] {
            sleep(Duration::from_millis(pause)).await;
            let request = heart.request();
            assert!(!heart.is_over(request));
            sleep(Duration::from_millis(19)).await;
            assert!(!heart.is_over(request), "after a pause of {pause} ms");
            sleep(Duration::from_millis(8)).await;
            assert!(heart.is_over(request), "after a pause of {pause} ms");
            // For good, also once nothing beats any more.
            sleep(Duration::from_millis(500)).await;
            assert!(heart.is_over(request));
        }
        // The worker does nothing but compute: the time goes by, and events are not asked for.
        let request = heart.request();
        tokio::time::advance(Duration::from_millis(100)).await;
        assert!(!heart.is_over(request));
        beating.abort();
    }
}
