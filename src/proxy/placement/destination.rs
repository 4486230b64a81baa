//! Decides the destination of a request: the account that stores the state in its references, or else the route of its model.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    candidates::usable_targets,
    object_route::object_route,
    references::{LocatedReference, look_up, references_of, unowned},
};
use crate::{
    affinity::{self, Decision, LookedUpReference},
    config::{OnLostState, UnknownIds},
    domain::{
        affinity::PlacementResult,
        endpoint::{Endpoint, RequestBodyKind, Resource},
        health_state::{EjectionCause, HealthState},
        origin::{Reference, ReferenceKind},
    },
    metering::Settlement,
    protocol::{body::Edit, references::request::ScannedRequest},
    proxy::{error::ApiError, gateway::Proxy, request::admit::Admitted, tables::Tables},
    routing::Route,
    upstream::Upstream,
};

/// The most models that an error lists.
const MODELS_LISTED: usize = 10;

/// The destination of a request.
pub(in crate::proxy) struct Destination<'a> {
    pub(in crate::proxy) route: Route<'a>,
    /// The only account that may be attempted.
    pub(in crate::proxy) account: Option<u64>,
    /// The account that is attempted first, if possible.
    pub(in crate::proxy) preferred: Option<u64>,
    /// What is cut out of the body.
    pub(in crate::proxy) cuts: BodyCuts,
    /// References of the request that are not known to belong to its caller.
    pub(in crate::proxy) unowned: Arc<[Reference]>,
}

/// The cuts in the body of a request.
#[derive(Default)]
pub(in crate::proxy) struct BodyCuts {
    /// Sorted, without overlap.
    pub(in crate::proxy) edits: Vec<Edit>,
    /// The account that understands the whole body. This account gets the body without cuts.
    pub(in crate::proxy) whole_for: Option<u64>,
}

impl BodyCuts {
    /// Returns the cuts of the body that this account gets.
    pub(in crate::proxy) fn of(&self, account: Option<u64>) -> &[Edit] {
        if self.whole_for.is_some() && self.whole_for == account { &[] } else { &self.edits }
    }
}

impl<'a> Destination<'a> {
    fn free(route: Route<'a>) -> Self {
        Self { route, account: None, preferred: None, cuts: BodyCuts::default(), unowned: Arc::default() }
    }
}

/// Finds the destination. Also checks whether an upstream there can serve the request.
pub(in crate::proxy) async fn find_destination<'a>(
    proxy: &Proxy,
    tables: &'a Tables,
    settlement: &mut Settlement,
    admitted: &Admitted,
    resource: &Resource<'_>,
) -> Result<Destination<'a>, ApiError> {
    let request =
        PlacementRequest { tables, admitted, resource, model_route: named_route(tables, admitted, resource)? };
    if admitted.received.state.is_none() && !resource.endpoint.has_ids() && admitted.query().is_empty() {
        return request.free().map(Destination::free);
    }
    // Boxed, because most requests do not need this path. The future of every request stays small.
    Box::pin(request.with_state(proxy, settlement)).await
}

/// Returns the route of the model that the request names. `None` = the request names no model.
fn named_route<'a>(
    tables: &'a Tables,
    admitted: &Admitted,
    resource: &Resource<'_>,
) -> Result<Option<Route<'a>>, ApiError> {
    let (caller, model) = (&admitted.caller, &admitted.received.model);
    match model {
        _ if resource.endpoint.request_body() != RequestBodyKind::Model => Ok(None),
        None if caller.is_restricted_in_models() => Err(ApiError::model_required_of_key()),
        None => Ok(None),
        Some(model) => {
            let route =
                Some(&model.name).filter(|name| caller.may_use_model(name)).and_then(|name| tables.routes.route(name));
            route.map(Some).ok_or_else(|| ApiError::model_not_found(&model.name))
        }
    }
}

/// A request whose destination is needed.
struct PlacementRequest<'a, 'b> {
    tables: &'a Tables,
    admitted: &'b Admitted,
    resource: &'b Resource<'b>,
    model_route: Option<Route<'a>>,
}

impl<'a> PlacementRequest<'a, '_> {
    /// Returns the destination without regard to references. A request with a model goes to the route of the model. A request
    /// whose endpoint has no model goes to the upstream of its objects. Any other request goes unchanged to the default upstream.
    fn free(&self) -> Result<Route<'a>, ApiError> {
        let (tables, caller) = (self.tables, &self.admitted.caller);
        let may_use = |route: &Route<'_>| route.targets.iter().any(|target| caller.may_use(target.upstream));
        let route = match (&self.model_route, &self.admitted.received.model) {
            (Some(route), Some(model)) => Some(route)
                .filter(|route| may_use(route))
                .cloned()
                .ok_or_else(|| ApiError::model_not_found(&model.name))?,
            _ if self.resource.endpoint.request_body() != RequestBodyKind::Model => {
                object_route(tables, caller, self.resource)?
            }
            _ => {
                let default = tables.routes.default_upstream().map(|upstream| Route::to(upstream, None));
                default.filter(may_use).ok_or_else(ApiError::model_required)?
            }
        };
        self.fits(&route)?;
        Ok(route)
    }

    /// Checks that an upstream of the route has the endpoint and accepts a body of this size.
    fn fits(&self, route: &Route<'_>) -> Result<(), ApiError> {
        let (endpoint, len) = (self.resource.endpoint, self.admitted.received.rope.len());
        // An upstream without a limit accepts any size.
        let limits = usable_targets(self.tables, &self.admitted.caller, route, endpoint)
            .map(|(_, upstream)| upstream.config.max_body_bytes.unwrap_or(u64::MAX));
        match limits.max() {
            None => Err(ApiError::not_served(endpoint)),
            Some(largest) if len > largest => Err(ApiError::upstream_limit(largest)),
            Some(_) => Ok(()),
        }
    }

    async fn with_state(self, proxy: &Proxy, settlement: &mut Settlement) -> Result<Destination<'a>, ApiError> {
        let references = references_of(self.admitted, self.resource, proxy.origins.has_opaque());
        let looked_up = look_up(proxy, self.admitted, &references).await?;
        let mut free = Some(self.free());
        let decision = affinity::decide(&looked_up, |account| self.refuses_unknown(account, free.as_ref()));
        let (placed, kind, destination) = match decision {
            Decision::Free | Decision::Leaning(_) => {
                let destination = free.take().unwrap_or_else(|| self.free()).map(Destination::free);
                let preferred = if let Decision::Leaning(account) = decision { Some(account) } else { None };
                (PlacementResult::Free, None, destination.map(|destination| Destination { preferred, ..destination }))
            }
            Decision::LookupFailed => (PlacementResult::LookupFailed, None, Err(ApiError::affinity_unavailable())),
            Decision::Unknown(index) => {
                let used = references.get(index).and_then(|reference| reference.used);
                match (free, used) {
                    // If the request has no destination even without its references, that error comes first.
                    (Some(Err(refusal)), _) => (PlacementResult::Refused, None, Err(refusal)),
                    (free, Some(used)) => {
                        let refusal = ApiError::unknown_reference(used.kind, used.name);
                        self.or_without_bound_state(&references, &looked_up, free, PlacementResult::Refused, refusal)
                    }
                    _ => (PlacementResult::Refused, None, Err(ApiError::unknown_id())),
                }
            }
            Decision::Conflict(one, other) => {
                let what = [one, other].map(|index| references.get(index).map_or("", LocatedReference::words));
                let at = [one, other].map(|index| {
                    let origin = looked_up.get(index).and_then(|found| found.recalled.origin_of_any_owner());
                    let upstream = origin.and_then(|origin| self.upstream_of(origin.account));
                    upstream.map_or("a removed one", |(_, upstream)| &*upstream.config.name)
                });
                self.or_without_bound_state(
                    &references,
                    &looked_up,
                    free,
                    PlacementResult::Conflict,
                    ApiError::conflicting_state(what, at),
                )
            }
            Decision::Pinned { account, by } => {
                let kind = references.get(by).map(|by| by.kind);
                let words = references.get(by).map_or("", LocatedReference::words);
                match self.prefer_account(account, &references, &looked_up, free.as_ref()) {
                    Some(destination) => (PlacementResult::Pinned, kind, Ok(destination)),
                    None => match self.pinned(account, free.as_ref(), words) {
                        Ok(destination) => (PlacementResult::Pinned, kind, Ok(destination)),
                        Err((PlacementResult::Pinned, refusal)) => (PlacementResult::Pinned, kind, Err(refusal)),
                        Err((placed, refusal)) => {
                            self.or_without_bound_state(&references, &looked_up, free, placed, refusal)
                        }
                    },
                }
            }
        };
        // Whether a cut is applied is known only at the attempt.
        if placed != PlacementResult::Stripped {
            self.tables.metrics.placed(placed);
        }
        settlement.outcome().pinned = kind;
        destination.map(|destination| Destination { unowned: unowned(&references, &looked_up), ..destination })
    }

    /// Returns a destination that prefers this account, where the model allows to cut bound state (what only one account
    /// understands). Another account gets the body without that state. No other reference may bind the request, and the model
    /// must have a target at the account's upstream.
    fn prefer_account(
        &self,
        account: u64,
        references: &[LocatedReference<'_>],
        looked_up: &[LookedUpReference],
        free: Option<&Result<Route<'a>, ApiError>>,
    ) -> Option<Destination<'a>> {
        let state = self.strippable()?;
        let route = free?.as_ref().ok()?;
        let (index, _) = self.upstream_of(account)?;
        if !self.admitted.caller.may_use(index) || !route.leads_to(index) {
            return None;
        }
        let decision = self.decide_without(state, references, looked_up, free?);
        let cuts = BodyCuts { edits: state.without_bound(), whole_for: Some(account) };
        matches!(decision, Decision::Free | Decision::Leaning(_)).then(|| Destination {
            preferred: Some(account),
            cuts,
            ..Destination::free(route.clone())
        })
    }

    /// Returns the scan of the body, if the model allows to cut bound state.
    fn strippable(&self) -> Option<&ScannedRequest> {
        let strips = self.model_route.as_ref().is_some_and(|route| route.on_lost_state == OnLostState::StripEncrypted);
        self.admitted.received.state.as_deref().filter(|_| strips)
    }

    /// Whether unknown ids are an error in a request with this destination. By default: where keys that do not share their
    /// state with each other use the same upstream.
    fn refuses_unknown(&self, account: Option<u64>, free: Option<&Result<Route<'_>, ApiError>>) -> bool {
        let strangers = |upstream| self.tables.keys.has_several_owners(upstream);
        match (self.tables.unknown_ids, account, free) {
            // The request has no destination without its references: only a reference can decide the account.
            (_, None, None | Some(Err(_))) => true,
            (Some(UnknownIds::Refuse), ..) => true,
            (Some(UnknownIds::Route), ..) => false,
            (None, Some(account), _) => self.upstream_of(account).is_none_or(|(upstream, _)| strangers(upstream)),
            (None, None, Some(Ok(free))) => {
                let caller = &self.admitted.caller;
                free.targets.iter().any(|target| caller.may_use(target.upstream) && strangers(target.upstream))
            }
        }
    }

    /// Returns the upstream that has this account.
    fn upstream_of(&self, account: u64) -> Option<(usize, &'a Upstream)> {
        let mut upstreams = self.tables.upstreams.iter().enumerate();
        upstreams.find_map(|(index, upstream)| upstream.has_account(account).then_some((index, &**upstream)))
    }

    /// Returns the destination at this account, whatever the targets of the model are.
    fn pinned(
        &self,
        account: u64,
        free: Option<&Result<Route<'a>, ApiError>>,
        what: &str,
    ) -> Result<Destination<'a>, (PlacementResult, ApiError)> {
        let endpoint = self.resource.endpoint;
        let upstream = self.upstream_of(account).filter(|(index, _)| self.admitted.caller.may_use(*index));
        let Some((index, upstream)) = upstream else { return Err((PlacementResult::Lost, ApiError::state_lost(what))) };
        let asked = self.admitted.received.model.as_ref().map(|model| &*model.name);
        let route = match &self.model_route {
            None => Some(Route::to(index, None)),
            Some(route) => route.clone().only(index, asked),
        };
        let Some(route) = route else {
            let refusal = self.conflicting_model(what, index, &upstream.config.name);
            return Err((PlacementResult::Conflict, refusal));
        };
        self.fits(&route).map_err(|refusal| (PlacementResult::Pinned, refusal))?;
        let now = Instant::now();
        if let Some(left) = ejected_for(upstream, account, now)
            && self.others_serve(account, free, endpoint, now)
        {
            return Err((PlacementResult::Unavailable, ApiError::state_unavailable(what, left)));
        }
        Ok(Destination { account: Some(account), ..Destination::free(route) })
    }

    /// Returns the error for a model without a target at the upstream that stores the state.
    fn conflicting_model(&self, what: &str, index: usize, upstream: &str) -> ApiError {
        let (routes, caller) = (&self.tables.routes, &self.admitted.caller);
        let leads = |name: &str| routes.route(name).is_some_and(|route| route.leads_to(index));
        let others =
            routes.listed().iter().map(|name| &**name).filter(|name| caller.may_use_model(name) && leads(name));
        let others: Vec<&str> = others.take(MODELS_LISTED).collect();
        let model = self.admitted.received.model.as_ref().map_or("", |model| &*model.name);
        ApiError::conflicting_model(what, upstream, model, &others)
    }

    /// Whether another account in service could serve the request. A refused account without alternative is attempted all the
    /// same, because an ejection only makes sense if requests can go elsewhere.
    fn others_serve(
        &self,
        account: u64,
        free: Option<&Result<Route<'_>, ApiError>>,
        endpoint: Endpoint,
        now: Instant,
    ) -> bool {
        let serves = |index: usize| {
            let upstream = self.tables.upstreams.get(index).filter(|upstream| upstream.has(endpoint.surface()));
            self.admitted.caller.may_use(index)
                && upstream.is_some_and(|upstream| {
                    let others =
                        upstream.credentials("", now).filter(|(credential, _)| credential.account_id != account);
                    others.into_iter().any(|(_, condition)| condition.health_state.is_usable())
                })
        };
        match free {
            Some(Ok(route)) if self.model_route.is_some() => route.targets.iter().any(|target| serves(target.upstream)),
            _ => (0..self.tables.upstreams.len()).any(serves),
        }
    }

    /// Returns a destination for the body without bound state, if the model allows that and such a destination exists. Else
    /// returns the error.
    fn or_without_bound_state(
        &self,
        references: &[LocatedReference<'_>],
        looked_up: &[LookedUpReference],
        free: Option<Result<Route<'a>, ApiError>>,
        placed: PlacementResult,
        refusal: ApiError,
    ) -> (PlacementResult, Option<ReferenceKind>, Result<Destination<'a>, ApiError>) {
        let refused = (placed, None, Err(refusal));
        let (Some(state), Some(free)) = (self.strippable(), free) else { return refused };
        let cuts = BodyCuts { edits: state.without_bound(), whole_for: None };
        if cuts.edits.is_empty() {
            return refused;
        }
        let destination = match self.decide_without(state, references, looked_up, &free) {
            Decision::Free => free.ok().map(Destination::free),
            Decision::Leaning(account) => {
                free.ok().map(|route| Destination { preferred: Some(account), ..Destination::free(route) })
            }
            Decision::Pinned { account, .. } => self.pinned(account, Some(&free), "").ok(),
            _ => None,
        };
        destination.map_or(refused, |found| (PlacementResult::Stripped, None, Ok(Destination { cuts, ..found })))
    }

    /// Decides the destination of the body without bound state.
    fn decide_without(
        &self,
        state: &ScannedRequest,
        references: &[LocatedReference<'_>],
        looked_up: &[LookedUpReference],
        free: &Result<Route<'_>, ApiError>,
    ) -> Decision {
        let stays = |reference: &LocatedReference<'_>| reference.used.is_none_or(|used| !state.is_bound(used));
        let kept: Vec<LookedUpReference> = references
            .iter()
            .zip(looked_up)
            .filter(|(reference, _)| stays(reference))
            .map(|(_, found)| *found)
            .collect();
        // At the new destination other keys may share the upstream, so unknown ids are checked again.
        affinity::decide(&kept, |account| self.refuses_unknown(account, Some(free)))
    }
}

/// Returns the remaining ejection where the upstream refused every credential of the account. `None` = a credential may answer.
/// After any other cause Tidegate still sends a request for the account's state: no other account can answer, and the request
/// serves as a probe.
fn ejected_for(upstream: &Upstream, account: u64, now: Instant) -> Option<Duration> {
    let mut least: Option<Duration> = None;
    for (_, condition) in upstream.credentials("", now).filter(|(credential, _)| credential.account_id == account) {
        match condition.health_state {
            HealthState::Out { cause: EjectionCause::Refused, left } if !left.is_zero() => {
                least = Some(least.map_or(left, |least| least.min(left)));
            }
            _ => return None,
        }
    }
    least
}
