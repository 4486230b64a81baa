//! Decides the destination of a request without a model: the upstream that stores its object.

use crate::{
    auth::Caller,
    domain::endpoint::Resource,
    proxy::{error::ApiError, tables::Tables},
    routing::Route,
};

/// Returns the route to the upstream of the object that `resource` names, or of a new object. If only one upstream has this part
/// of the API and may be used by the caller, the route leads there. Of several, `[routing] default_upstream` is the one. Without that
/// setting, new objects go to the first upstream of the file, and an unknown id is an error. No second upstream is ever
/// attempted, because state in one account is unknown in all other accounts.
pub(in crate::proxy) fn object_route(
    tables: &Tables,
    caller: &Caller,
    resource: &Resource<'_>,
) -> Result<Route<'static>, ApiError> {
    let endpoint = resource.endpoint;
    let serves = |upstream: usize| {
        let has = tables.upstreams.get(upstream).is_some_and(|upstream| upstream.has(endpoint.surface()));
        has && caller.may_use(upstream)
    };
    let mut able = (0..tables.upstreams.len()).filter(|upstream| serves(*upstream));
    let (first, second) = (able.next().ok_or_else(|| ApiError::not_served(endpoint))?, able.next());
    let default = tables.routes.default_upstream().filter(|default| serves(*default));
    let upstream = match (second, default) {
        (None, _) => first,
        (Some(_), Some(default)) => default,
        (Some(_), None) if endpoint.has_ids() => return Err(ApiError::unknown_id()),
        (Some(_), None) => first,
    };
    Ok(Route::to(upstream, None))
}
