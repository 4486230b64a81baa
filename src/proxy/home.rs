//! Where a call goes that names no model: to where what it is about lives.

use super::{Tables, error::ApiError};
use crate::{auth::Caller, domain::endpoint::Resource, routing::Route};

/// The home of what `resource` names, or of what is made where nothing is named. The only upstream that the caller may use and
/// that has this part of the API is the home. Of several, `[routing] default_upstream` is; without it, new objects are made at
/// the first one of the file, and an id that is not known is refused. No second upstream is ever asked: what lives in one
/// account is unknown in all others.
pub(super) fn home_of(tables: &Tables, caller: &Caller, resource: &Resource<'_>) -> Result<Route<'static>, ApiError> {
    let endpoint = resource.endpoint;
    let serves = |upstream: usize| {
        let has = tables.upstreams.get(upstream).is_some_and(|upstream| upstream.has(endpoint.surface()));
        has && caller.may_use(upstream)
    };
    let mut able = (0..tables.upstreams.len()).filter(|upstream| serves(*upstream));
    let (first, second) = (able.next().ok_or_else(|| ApiError::not_served(endpoint))?, able.next());
    let default = tables.routes.default_upstream().filter(|default| serves(*default));
    let home = match (second, default) {
        (None, _) => first,
        (Some(_), Some(default)) => default,
        (Some(_), None) if endpoint.has_ids() => return Err(ApiError::unknown_id()),
        (Some(_), None) => first,
    };
    Ok(Route::to(home, None))
}
