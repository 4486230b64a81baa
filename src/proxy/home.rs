//! Where a call goes that names no model: to where what it is about lives.

use super::{Tables, error::Refusal};
use crate::{auth::Caller, domain::endpoint::Resource, routing::Route};

/// The home of what `resource` names, or of what is made where nothing is named: `[routing] default_upstream`, or the only
/// upstream that the caller may use and that has this part of the API. Nobody else is ever asked: what lives in one
/// account is unknown in all others.
pub(super) fn home_of(tables: &Tables, caller: &Caller, resource: &Resource<'_>) -> Result<Route<'static>, Refusal> {
    let endpoint = resource.endpoint;
    let serves = |upstream: usize| {
        let has = tables.upstreams.get(upstream).is_some_and(|upstream| upstream.has(endpoint.surface()));
        has && caller.may_use(upstream)
    };
    let mut able = (0..tables.upstreams.len()).filter(|upstream| serves(*upstream));
    let home = match (able.next(), able.next()) {
        (None, _) => return Err(Refusal::not_served(endpoint)),
        (Some(only), None) => Some(only),
        (Some(_), Some(_)) => tables.routes.default_upstream().filter(|default| serves(*default)),
    };
    let unknown = || if endpoint.has_ids() { Refusal::unknown_id() } else { Refusal::no_home(endpoint) };
    home.map(|upstream| Route::to(upstream, None)).ok_or_else(unknown)
}
