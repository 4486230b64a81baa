//! Where a request goes: to the account that holds the state which it refers to, else to where its model leads.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    Proxy, Tables,
    error::ApiError,
    forward::Admitted,
    home::home_of,
    refers::{LocatedReference, recall, refers, unowned},
};
use crate::{
    affinity::{self, Decision, LookedUpReference},
    auth::Caller,
    config::{OnLostState, UnknownIds},
    domain::{
        affinity::PlacementResult,
        endpoint::{Endpoint, RequestBodyKind, Resource},
        origin::{Kind, Reference},
        standing::{EjectionCause, HealthState},
    },
    metering::Settlement,
    protocol::{body::Edit, references::request::ScannedRequest},
    routing::{Route, Target},
    upstream::Upstream,
};

/// Most models that an error names.
const MODELS_TOLD: usize = 10;

/// Where a request goes.
pub(super) struct Destination<'a> {
    pub(super) route: Route<'a>,
    /// The only account there that may be asked.
    pub(super) account: Option<u64>,
    /// The one that is asked first, if it can be.
    pub(super) first: Option<u64>,
    /// What is cut out of its body.
    pub(super) cuts: BodyCuts,
    /// What the request names that is not known to be its caller's.
    pub(super) unowned: Arc<[Reference]>,
}

/// What is cut out of the body of a request.
#[derive(Default)]
pub(super) struct BodyCuts {
    /// Sorted, apart from each other.
    pub(super) edits: Vec<Edit>,
    /// The account that understands all of it: nothing is cut out of what it gets.
    pub(super) unless: Option<u64>,
}

impl BodyCuts {
    /// What is cut out of the body that this account gets.
    pub(super) fn of(&self, account: Option<u64>) -> &[Edit] {
        if self.unless.is_some() && self.unless == account { &[] } else { &self.edits }
    }
}

impl<'a> Destination<'a> {
    fn free(route: Route<'a>) -> Self {
        Self { route, account: None, first: None, cuts: BodyCuts::default(), unowned: Arc::default() }
    }
}

/// Finds it. Whether somebody there can serve the request is part of the answer.
pub(super) async fn place<'a>(
    proxy: &Proxy,
    tables: &'a Tables,
    settlement: &mut Settlement,
    admitted: &Admitted,
    resource: &Resource<'_>,
) -> Result<Destination<'a>, ApiError> {
    let asked = PlacementRequest { tables, admitted, resource, named: named_route(tables, admitted, resource)? };
    if admitted.received.state.is_none() && !resource.endpoint.has_ids() && admitted.query().is_empty() {
        return asked.free().map(Destination::free);
    }
    // Boxed, as what most requests do not need shall not make the future of every request larger.
    Box::pin(asked.with_state(proxy, settlement)).await
}

/// The route of the model that the request names; none where it names none.
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

/// A request that wants to go somewhere.
struct PlacementRequest<'a, 'b> {
    tables: &'a Tables,
    admitted: &'b Admitted,
    resource: &'b Resource<'b>,
    named: Option<Route<'a>>,
}

impl<'a> PlacementRequest<'a, '_> {
    /// Where it goes without its references: home, if its endpoint has no model; else its model's route, or the default upstream
    /// for one without a model, which goes there untouched.
    fn free(&self) -> Result<Route<'a>, ApiError> {
        let (tables, caller) = (self.tables, &self.admitted.caller);
        let may_use = |route: &Route<'_>| route.targets.iter().any(|target| caller.may_use(target.upstream));
        let route = match (&self.named, &self.admitted.received.model) {
            (Some(route), Some(model)) => Some(route)
                .filter(|route| may_use(route))
                .cloned()
                .ok_or_else(|| ApiError::model_not_found(&model.name))?,
            _ if self.resource.endpoint.request_body() != RequestBodyKind::Model => {
                home_of(tables, caller, self.resource)?
            }
            _ => {
                let default = tables.routes.default_upstream().map(|upstream| Route::to(upstream, None));
                default.filter(may_use).ok_or_else(ApiError::model_required)?
            }
        };
        self.fits(&route)?;
        Ok(route)
    }

    /// Whether somebody there has the endpoint and takes a body of this size.
    fn fits(&self, route: &Route<'_>) -> Result<(), ApiError> {
        let (endpoint, len) = (self.resource.endpoint, self.admitted.received.rope.len());
        // Who takes a body of any size has no limit to tell of.
        let limits = able(self.tables, &self.admitted.caller, route, endpoint)
            .map(|(_, upstream)| upstream.config.max_body_bytes.unwrap_or(u64::MAX));
        match limits.max() {
            None => Err(ApiError::not_served(endpoint)),
            Some(largest) if len > largest => Err(ApiError::upstream_limit(largest)),
            Some(_) => Ok(()),
        }
    }

    async fn with_state(self, proxy: &Proxy, settlement: &mut Settlement) -> Result<Destination<'a>, ApiError> {
        let refers = refers(self.admitted, self.resource, proxy.origins.has_opaque());
        let named = recall(proxy, self.admitted, &refers).await?;
        let mut free = Some(self.free());
        let decision = affinity::decide(&named, |account| self.refuses_unknown(account, free.as_ref()));
        let (placed, kind, place) = match decision {
            Decision::Free | Decision::Leaning(_) => {
                let place = free.take().unwrap_or_else(|| self.free()).map(Destination::free);
                let first = if let Decision::Leaning(account) = decision { Some(account) } else { None };
                (PlacementResult::Free, None, place.map(|place| Destination { first, ..place }))
            }
            Decision::CannotTell => (PlacementResult::CannotTell, None, Err(ApiError::affinity_unavailable())),
            Decision::Unknown(place) => {
                let used = refers.get(place).and_then(|refers| refers.used);
                match (free, used) {
                    // If the request could go nowhere without its references either, that is the error.
                    (Some(Err(refusal)), _) => (PlacementResult::Refused, None, Err(refusal)),
                    (free, Some(used)) => {
                        let refusal = ApiError::unknown_reference(used.kind, used.name);
                        self.or_without(&refers, &named, free, PlacementResult::Refused, refusal)
                    }
                    _ => (PlacementResult::Refused, None, Err(ApiError::unknown_id())),
                }
            }
            Decision::Conflict(one, other) => {
                let what = [one, other].map(|place| refers.get(place).map_or("", LocatedReference::words));
                let at = [one, other].map(|place| {
                    let origin = named.get(place).and_then(|named| named.recalled.anyones());
                    let upstream = origin.and_then(|origin| self.upstream_of(origin.account));
                    upstream.map_or("a removed one", |(_, upstream)| &*upstream.config.name)
                });
                self.or_without(&refers, &named, free, PlacementResult::Conflict, ApiError::conflicting_state(what, at))
            }
            Decision::Pinned { account, by } => {
                let kind = refers.get(by).map(|by| by.kind);
                let words = refers.get(by).map_or("", LocatedReference::words);
                match self.softly(account, &refers, &named, free.as_ref()) {
                    Some(place) => (PlacementResult::Pinned, kind, Ok(place)),
                    None => match self.pinned(account, free.as_ref(), words) {
                        Ok(place) => (PlacementResult::Pinned, kind, Ok(place)),
                        Err((PlacementResult::Pinned, refusal)) => (PlacementResult::Pinned, kind, Err(refusal)),
                        Err((placed, refusal)) => self.or_without(&refers, &named, free, placed, refusal),
                    },
                }
            }
        };
        // Whether something is cut out is known when an account is asked.
        if placed != PlacementResult::Stripped {
            self.tables.metrics.placed(placed);
        }
        settlement.outcome().pinned = kind;
        place.map(|place| Destination { unowned: unowned(&refers, &named), ..place })
    }

    /// Where its model lets it go on without what one account alone understands: to this account first, and elsewhere without that, if
    /// nothing else binds the request, and its model leads there.
    fn softly(
        &self,
        account: u64,
        refers: &[LocatedReference<'_>],
        named: &[LookedUpReference],
        free: Option<&Result<Route<'a>, ApiError>>,
    ) -> Option<Destination<'a>> {
        let state = self.strips()?;
        let route = free?.as_ref().ok()?;
        let (index, _) = self.upstream_of(account)?;
        if !self.admitted.caller.may_use(index) || !route.leads_to(index) {
            return None;
        }
        let decision = self.decide_without(state, refers, named, free?);
        let cuts = BodyCuts { edits: state.without_bound(), unless: Some(account) };
        matches!(decision, Decision::Free | Decision::Leaning(_)).then(|| Destination {
            first: Some(account),
            cuts,
            ..Destination::free(route.clone())
        })
    }

    /// What its body holds, if its model lets it go on without what one account alone understands.
    fn strips(&self) -> Option<&ScannedRequest> {
        let strips = self.named.as_ref().is_some_and(|route| route.on_lost_state == OnLostState::StripEncrypted);
        self.admitted.received.state.as_deref().filter(|_| strips)
    }

    /// Whether ids that nobody knows are refused, in a request that goes to this account or else goes free: where the caller
    /// shares nothing with somebody else who may use what he may.
    fn refuses_unknown(&self, account: Option<u64>, free: Option<&Result<Route<'_>, ApiError>>) -> bool {
        let strangers = |upstream| self.tables.keys.has_several_owners(upstream);
        match (self.tables.unknown_ids, account, free) {
            // It cannot go free: nothing but what it refers to could tell where to.
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

    /// The upstream that has this account.
    fn upstream_of(&self, account: u64) -> Option<(usize, &'a Upstream)> {
        let mut upstreams = self.tables.upstreams.iter().enumerate();
        upstreams.find_map(|(index, upstream)| upstream.has_account(account).then_some((index, &**upstream)))
    }

    /// To this account, whatever the targets of the model say.
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
        let route = match &self.named {
            None => Some(Route::to(index, None)),
            Some(route) => route.clone().only(index, asked),
        };
        let Some(route) = route else {
            let refusal = self.conflicting_model(what, index, &upstream.config.name);
            return Err((PlacementResult::Conflict, refusal));
        };
        self.fits(&route).map_err(|refusal| (PlacementResult::Pinned, refusal))?;
        let now = Instant::now();
        if let Some(left) = out_for(upstream, account, now)
            && self.others_serve(account, free, endpoint, now)
        {
            return Err((PlacementResult::Unavailable, ApiError::state_unavailable(what, left)));
        }
        Ok(Destination { account: Some(account), ..Destination::free(route) })
    }

    /// Its model does not lead to the upstream of this name and index, which holds its state.
    fn conflicting_model(&self, what: &str, index: usize, upstream: &str) -> ApiError {
        let (routes, caller) = (&self.tables.routes, &self.admitted.caller);
        let leads = |name: &str| routes.route(name).is_some_and(|route| route.leads_to(index));
        let others =
            routes.listed().iter().map(|name| &**name).filter(|name| caller.may_use_model(name) && leads(name));
        let others: Vec<&str> = others.take(MODELS_TOLD).collect();
        let model = self.admitted.received.model.as_ref().map_or("", |model| &*model.name);
        ApiError::conflicting_model(what, upstream, model, &others)
    }

    /// Whether another account is in service where the request could go. A refused account that is the only one is asked all the same:
    /// an ejection is meant to send requests elsewhere.
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
                    let others = upstream.credentials("", now).filter(|(credential, _)| credential.seat != account);
                    others.into_iter().any(|(_, condition)| condition.standing.is_usable())
                })
        };
        match free {
            Some(Ok(route)) if self.named.is_some() => route.targets.iter().any(|target| serves(target.upstream)),
            _ => (0..self.tables.upstreams.len()).any(serves),
        }
    }

    /// Without what one account alone understands, where its model wants that and the request can go somewhere then; else the refusal.
    fn or_without(
        &self,
        refers: &[LocatedReference<'_>],
        named: &[LookedUpReference],
        free: Option<Result<Route<'a>, ApiError>>,
        placed: PlacementResult,
        refusal: ApiError,
    ) -> (PlacementResult, Option<Kind>, Result<Destination<'a>, ApiError>) {
        let refused = (placed, None, Err(refusal));
        let (Some(state), Some(free)) = (self.strips(), free) else { return refused };
        let cuts = BodyCuts { edits: state.without_bound(), unless: None };
        if cuts.edits.is_empty() {
            return refused;
        }
        let place = match self.decide_without(state, refers, named, &free) {
            Decision::Free => free.ok().map(Destination::free),
            Decision::Leaning(account) => {
                free.ok().map(|route| Destination { first: Some(account), ..Destination::free(route) })
            }
            Decision::Pinned { account, .. } => self.pinned(account, Some(&free), "").ok(),
            _ => None,
        };
        place.map_or(refused, |place| (PlacementResult::Stripped, None, Ok(Destination { cuts, ..place })))
    }

    /// Where the request goes without what one account alone understands.
    fn decide_without(
        &self,
        state: &ScannedRequest,
        refers: &[LocatedReference<'_>],
        named: &[LookedUpReference],
        free: &Result<Route<'_>, ApiError>,
    ) -> Decision {
        let stays = |refers: &LocatedReference<'_>| refers.used.is_none_or(|used| !state.is_bound(used));
        let kept: Vec<LookedUpReference> =
            refers.iter().zip(named).filter(|(refers, _)| stays(refers)).map(|(_, named)| *named).collect();
        // Where it goes then, other strangers may be.
        affinity::decide(&kept, |account| self.refuses_unknown(account, Some(free)))
    }
}

/// For how long every credential of the account is refused for certain; none where one may answer. Whatever else is held
/// against an account, a request for its state is tried: no other account can answer, and the request serves as a probe.
fn out_for(upstream: &Upstream, account: u64, now: Instant) -> Option<Duration> {
    let mut least: Option<Duration> = None;
    for (_, condition) in upstream.credentials("", now).filter(|(credential, _)| credential.seat == account) {
        match condition.standing {
            HealthState::Out { cause: EjectionCause::Refused, left } if !left.is_zero() => {
                least = Some(least.map_or(left, |least| least.min(left)));
            }
            _ => return None,
        }
    }
    least
}

/// The targets that the caller may use and that have the endpoint.
pub(super) fn able<'a>(
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
