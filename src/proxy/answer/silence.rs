//! Measures how long an upstream is silent inside an answer.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep};

/// The longest gap inside an answer. A stream has one timer, which is made at the first gap and moved only when it fires. An
/// immediate answer therefore costs no timer, and a busy stream costs almost nothing.
#[derive(Debug)]
pub(in crate::proxy) struct LongestGap {
    limit: Duration,
    since: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

impl LongestGap {
    pub(in crate::proxy) fn new(limit: Duration) -> Self {
        Self { limit, since: Instant::now(), timer: None }
    }

    /// Returns when the upstream last sent something.
    pub(in crate::proxy) fn since(&self) -> Instant {
        self.since
    }

    /// Starts a new gap, because bytes arrived.
    pub(in crate::proxy) fn restart(&mut self) {
        self.since = Instant::now();
    }

    pub(in crate::proxy) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let until = self.since + self.limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        loop {
            ready!(timer.as_mut().poll(cx));
            if until <= Instant::now() {
                return Poll::Ready(());
            }
            timer.as_mut().reset(until);
        }
    }
}
