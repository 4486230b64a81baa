//! Starts and stops the sharing of limits and budgets with other replicas.

use std::{sync::Arc, thread, time::Duration};

use tokio::time::Instant;

use super::{StartContext, StartError};
use crate::{
    config::Config,
    limits::{Identity, Shared},
    metrics::Metrics,
    proxy::SharedState,
};

/// How long a start waits for Redis, so that the first requests already use shared limits.
const START_TIMEOUT: Duration = Duration::from_secs(1);
const LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// Starts sharing if a Redis is configured.
pub(super) fn start(
    config: &Config,
    context: StartContext,
    origin: &Arc<str>,
    metrics: &Metrics,
    common: &mut SharedState,
) -> Result<Option<Arc<Shared>>, StartError> {
    let status = &metrics.sharing;
    let Some(sharing) = &config.sharing else { return Ok(None) };
    let (process, spending) = (context.chance.bytes()?, Arc::clone(&common.spending));
    let identity = Identity { process, origin: Arc::clone(origin), redis_clock: None };
    let shared = Shared::start(sharing, identity, spending, Arc::clone(status)).map_err(StartError::Thread)?;
    let shared = Arc::new(shared);
    common.share_limits(Arc::clone(&shared));
    let started = Instant::now();
    while !status.is_well() && started.elapsed() < START_TIMEOUT {
        thread::sleep(LOOK_INTERVAL);
    }
    Ok(Some(shared))
}

/// Sends the last settled amounts to Redis. The caller makes sure that no request takes a reservation any more.
pub(super) fn end(shared: Option<&Shared>) {
    if let Some(shared) = shared {
        shared.end();
    }
}
