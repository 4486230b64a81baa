//! Starts and stops the sharing of limits and budgets with other replicas.

use std::sync::Arc;

use super::{StartContext, StartError};
use crate::{
    config::Config,
    limits::{Identity, LimitsInRedis},
    metrics::Metrics,
    proxy::SharedState,
};

/// Starts to share limits and budgets with other replicas, if a Redis is configured.
pub(super) fn start(
    config: &Config,
    context: StartContext,
    origin: &Arc<str>,
    metrics: &Metrics,
    common: &mut SharedState,
) -> Result<Option<Arc<LimitsInRedis>>, StartError> {
    let Some(sharing) = &config.sharing else { return Ok(None) };
    let identity = Identity { process: context.random_bytes.bytes()?, origin: Arc::clone(origin), redis_clock: None };
    let (spending, status) = (Arc::clone(&common.spending), Arc::clone(&metrics.sharing));
    let shared = Arc::new(LimitsInRedis::start(sharing, identity, spending, status).map_err(StartError::Thread)?);
    common.share_limits(Arc::clone(&shared));
    Ok(Some(shared))
}

/// Ends the sharing of limits with other replicas: sends the last settled amounts to Redis. The caller makes sure that no request
/// takes a reservation any more.
pub(super) fn end(shared: Option<&LimitsInRedis>) {
    if let Some(shared) = shared {
        shared.end();
    }
}
