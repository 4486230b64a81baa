//! Redis being away, as the log tells of it.

use std::time::Duration;

use tokio::time::Instant;

use super::link_error::LinkError;

/// The log says this often at most that Redis is away.
const LOG_EVERY: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(super) struct Outages {
    /// When the one that lasts began, and whether the log told of it.
    now: Option<(Instant, bool)>,
    /// When the log told of one last.
    logged: Option<Instant>,
}

impl Outages {
    /// Redis is away, still or from now on.
    pub(super) fn goes_on(&mut self, error: &LinkError) {
        let now = Instant::now();
        let (_, told) = self.now.get_or_insert((now, false));
        if !*told && self.logged.is_none_or(|last| last + LOG_EVERY <= now) {
            (*told, self.logged) = (true, Some(now));
            tracing::warn!(
                %error,
                "Redis is unavailable: this replica allows its part of the limits and budgets until Redis is back. Check \
                 `[limits] redis` and the server"
            );
        }
    }

    /// Redis is back.
    pub(super) fn ends(&mut self) {
        if let Some((began, true)) = self.now.take() {
            let seconds = began.elapsed().as_secs_f64();
            tracing::info!(
                seconds,
                "Redis is available again: this replica shares its limits and budgets with the others"
            );
        }
    }
}
