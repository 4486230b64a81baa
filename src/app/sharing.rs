//! The limits that a running gateway shares with others.

use std::{sync::Arc, thread, time::Duration};

use tokio::time::Instant;

use super::{StartContext, StartError};
use crate::{
    config::Config,
    limits::{Identity, Shared},
    metrics::Metrics,
    proxy::SharedState,
};

/// A start waits so long for Redis, so that the first requests are shared already.
const WITHIN: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Begins to share them, where a Redis is configured.
pub(super) fn start(
    config: &Config,
    world: StartContext,
    origin: &Arc<str>,
    metrics: &Metrics,
    common: &mut SharedState,
) -> Result<Option<Arc<Shared>>, StartError> {
    let status = &metrics.sharing;
    let Some(sharing) = &config.sharing else { return Ok(None) };
    let (process, spending) = (world.random_bytes.bytes()?, Arc::clone(&common.spending));
    let identity = Identity { process, origin: Arc::clone(origin), redis_clock: None };
    let shared = Shared::start(sharing, identity, spending, Arc::clone(status)).map_err(StartError::Thread)?;
    let shared = Arc::new(shared);
    common.share_limits(Arc::clone(&shared));
    let began = Instant::now();
    while !status.is_well() && began.elapsed() < WITHIN {
        thread::sleep(LOOK_AGAIN);
    }
    Ok(Some(shared))
}

/// Brings away what requests gave back. Nobody takes anything any more.
pub(super) fn end(shared: Option<&Shared>) {
    if let Some(shared) = shared {
        shared.end();
    }
}
