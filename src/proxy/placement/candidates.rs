//! The candidates of a request: the targets that its caller may use, each with its credentials and their health states.

use http::HeaderMap;
use tokio::time::Instant;

use crate::{
    auth::Caller,
    domain::{
        endpoint::{Endpoint, Surface},
        random,
    },
    proxy::{request::receive::ReceivedBody, tables::Tables},
    routing::{Candidate, ExclusionReason, Route, Target},
    upstream::Upstream,
};

/// Returns the targets that the caller may use and that have the endpoint.
pub(in crate::proxy) fn usable_targets<'a>(
    tables: &'a Tables,
    caller: &Caller,
    route: &'a Route<'_>,
    endpoint: Endpoint,
) -> impl Iterator<Item = (&'a Target, &'a Upstream)> {
    route.targets.iter().filter(|target| caller.may_use(target.upstream)).filter_map(move |target| {
        let upstream = tables.upstreams.get(target.upstream).filter(|upstream| upstream.has(endpoint.surface()))?;
        Some((target, &**upstream))
    })
}

/// Returns every candidate of the request, with its present health state.
pub(in crate::proxy) fn candidates(
    tables: &Tables,
    caller: &Caller,
    route: &Route<'_>,
    asked: Option<&str>,
    surface: Surface,
    body: u64,
) -> Vec<Candidate> {
    let now = Instant::now();
    let mut candidates = Vec::with_capacity(route.targets.len());
    for (index, target) in route.targets.iter().enumerate() {
        let Some(upstream) = tables.upstreams.get(target.upstream) else { continue };
        let exclusion = match upstream.config.max_body_bytes {
            _ if !caller.may_use(target.upstream) => Some(ExclusionReason::Key),
            _ if !upstream.has(surface) => Some(ExclusionReason::Surface),
            Some(limit) if body > limit => Some(ExclusionReason::TooLarge(limit)),
            _ => None,
        };
        let latency = upstream.latency(now);
        let model = target.model.as_deref().or(asked).unwrap_or_default();
        for (credential, (account, condition)) in upstream.credentials_for(model, caller.owner.key, now).enumerate() {
            candidates.push(Candidate {
                target: index,
                upstream: target.upstream,
                credential,
                upstream_seed: upstream.seed,
                account_id: account.account_id,
                exclusion,
                health_state: condition.health_state,
                full: condition.full,
                in_flight: condition.in_flight,
                latency,
            });
        }
    }
    candidates
}

/// Codex's headers for related requests, where the body has no `prompt_cache_key` (docs/wire.md, section 4).
const SESSION_HEADERS: [&str; 2] = ["session-id", "thread-id"];

/// Returns a number that related requests share, so that they profit from one account's prompt cache. Only requests of the same
/// key share a number: no other key can crowd an account.
pub(in crate::proxy) fn preference(caller: &Caller, received: &ReceivedBody, headers: &HeaderMap) -> Option<u64> {
    let session = || SESSION_HEADERS.iter().find_map(|name| headers.get(*name)?.to_str().ok());
    let text = received.cache_key.as_deref().or_else(session)?;
    Some(random::seed(&[&caller.name, text]))
}
