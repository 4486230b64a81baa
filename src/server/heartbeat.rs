//! Records when a worker last polled the system for events. An event that the worker sees later came later, or the
//! worker was too busy to see it in time.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};

/// In milliseconds: a client that closes its sending side this soon after the last byte of its request still waits for
/// the answer. Its FIN is a packet of its own and may come late. 20 ms are more than a network's jitter, and less than
/// a person or a program needs to change its mind.
const HALF_CLOSE_MS: u64 = 20;

/// The precision with which the end of that time is known.
const BEAT_INTERVAL: Duration = Duration::from_millis(5);

/// The number of beats after the last request. Together they last longer than `HALF_CLOSE_MS`.
const BEATS_AFTER_REQUEST: u32 = 6;

/// Knows when a worker last polled the system for events, so that the HTTP server can tell when a client really left. It beats only for a
/// short time after a request, so an idle worker is not woken.
#[derive(Debug)]
pub struct Heartbeat {
    started: Instant,
    /// When the worker last polled for events, in milliseconds since `started`, as far as known.
    polled_at: AtomicU64,
    /// Whether a request came since the last beat.
    request_came: AtomicBool,
    start: Notify,
}

impl Default for Heartbeat {
    fn default() -> Self {
        let (polled_at, request_came, start) = (AtomicU64::default(), AtomicBool::default(), Notify::new());
        Self { started: Instant::now(), polled_at, request_came, start }
    }
}

impl Heartbeat {
    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Records that the last byte of a request was read. Returns the time, for [`Self::is_over`].
    pub(super) fn request(&self) -> u64 {
        if !self.request_came.load(Ordering::Relaxed) {
            self.request_came.store(true, Ordering::Relaxed);
            self.start.notify_one();
        }
        self.now()
    }

    /// Whether a FIN that is seen now came too late to belong to the request of that time. The answer is no while the
    /// worker was too busy to see the FIN earlier: the client gets the benefit of the doubt.
    pub(super) fn is_over(&self, request: u64) -> bool {
        self.polled_at.load(Ordering::Relaxed) >= request + HALF_CLOSE_MS
    }

    /// Beats forever. The runtime polls for events before it runs due timers, and wakes the tasks of those events
    /// before this one.
    pub(super) async fn beat(&self) {
        loop {
            self.start.notified().await;
            let mut left = BEATS_AFTER_REQUEST;
            while left > 0 {
                left = if self.request_came.swap(false, Ordering::Relaxed) { BEATS_AFTER_REQUEST } else { left - 1 };
                sleep(BEAT_INTERVAL).await;
                self.polled_at.store(self.now(), Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_fin_belongs_to_the_request_within_20_ms_or_while_the_worker_is_busy() {
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
            // The answer stays, also after the last beat.
            sleep(Duration::from_millis(500)).await;
            assert!(heart.is_over(request));
        }
        // The worker only computes: time passes, and the runtime does not poll for events.
        let request = heart.request();
        tokio::time::advance(Duration::from_millis(100)).await;
        assert!(!heart.is_over(request));
        beating.abort();
    }
}
