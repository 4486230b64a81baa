//! Where a request goes: to the account that holds the state which it refers to, else to where its model leads.

use std::time::Duration;

use tokio::time::Instant;

use super::{Proxy, Tables, error::Refusal, forward::Admitted, home::home_of};
use crate::{
    affinity::{self, Decision, Named, Recalled, Role},
    auth::Caller,
    config::{OnLostState, UnknownIds},
    domain::{
        affinity::Placed,
        endpoint::{Carries, Endpoint, Resource},
        origin::{Kind, Reference},
        standing::{Cause, Standing},
    },
    metering::Settlement,
    protocol::{
        body::Edit,
        references::request::{Request, Used},
    },
    routing::{Route, Target},
    upstream::Upstream,
};

/// Where a request goes.
pub(super) struct Place<'a> {
    pub(super) route: Route<'a>,
    /// The only account there that may be asked.
    pub(super) account: Option<u64>,
    /// The one that is asked first, if it can be.
    pub(super) first: Option<u64>,
    /// What is cut out of its body.
    pub(super) cuts: Vec<Edit>,
}

impl<'a> Place<'a> {
    fn free(route: Route<'a>) -> Self {
        Self { route, account: None, first: None, cuts: Vec::new() }
    }
}

/// Finds it. Whether somebody there can serve the request is part of the answer.
pub(super) async fn place<'a>(
    proxy: &Proxy,
    tables: &'a Tables,
    settlement: &mut Settlement,
    admitted: &Admitted,
    resource: &Resource<'_>,
) -> Result<Place<'a>, Refusal> {
    let asked = Asked { tables, admitted, resource, named: named_route(tables, admitted, resource)? };
    if admitted.received.state.is_none() && !resource.endpoint.has_ids() {
        return asked.free().map(Place::free);
    }
    // Boxed, as what most requests do not need shall not make the future of every request larger.
    Box::pin(asked.with_state(proxy, settlement)).await
}

/// The route of the model that the request names; none where it names none.
fn named_route<'a>(
    tables: &'a Tables,
    admitted: &Admitted,
    resource: &Resource<'_>,
) -> Result<Option<Route<'a>>, Refusal> {
    let (caller, model) = (&admitted.caller, &admitted.received.model);
    match model {
        _ if resource.endpoint.carries() != Carries::Model => Ok(None),
        None if caller.is_restricted_in_models() => Err(Refusal::model_required_of_key()),
        None => Ok(None),
        Some(model) => {
            let route =
                Some(&model.name).filter(|name| caller.may_ask(name)).and_then(|name| tables.routes.route(name));
            route.map(Some).ok_or_else(|| Refusal::model_not_found(&model.name))
        }
    }
}

/// A request that wants to go somewhere.
struct Asked<'a, 'b> {
    tables: &'a Tables,
    admitted: &'b Admitted,
    resource: &'b Resource<'b>,
    named: Option<Route<'a>>,
}

/// What a request refers to, and where that stands.
#[derive(Clone, Copy)]
struct Refers<'b> {
    kind: Kind,
    role: Role,
    /// None where it can name nothing that is known.
    reference: Option<Reference>,
    /// Its field in the body; none where it stands in the path.
    used: Option<&'b Used>,
}

impl<'a> Asked<'a, '_> {
    /// Where it goes without its references: home, if its endpoint has no model; else its model's route, or the default upstream
    /// for one without a model, which goes there untouched.
    fn free(&self) -> Result<Route<'a>, Refusal> {
        let (tables, caller) = (self.tables, &self.admitted.caller);
        let may_use = |route: &Route<'_>| route.targets.iter().any(|target| caller.may_use(target.upstream));
        let route = match (&self.named, &self.admitted.received.model) {
            (Some(route), Some(model)) => Some(route)
                .filter(|route| may_use(route))
                .cloned()
                .ok_or_else(|| Refusal::model_not_found(&model.name))?,
            _ if self.resource.endpoint.carries() != Carries::Model => home_of(tables, caller, self.resource)?,
            _ => {
                let default = tables.routes.default_upstream().map(|upstream| Route::to(upstream, None));
                default.filter(may_use).ok_or_else(Refusal::model_required)?
            }
        };
        self.fits(&route)?;
        Ok(route)
    }

    /// Whether somebody there has the endpoint and takes a body of this size.
    fn fits(&self, route: &Route<'_>) -> Result<(), Refusal> {
        let (endpoint, len) = (self.resource.endpoint, self.admitted.received.rope.len());
        // Who takes a body of any size has no limit to tell of.
        let limits = able(self.tables, &self.admitted.caller, route, endpoint)
            .map(|(_, upstream)| upstream.config.max_body_bytes.unwrap_or(u64::MAX));
        match limits.max() {
            None => Err(Refusal::not_served(endpoint)),
            Some(largest) if len > largest => Err(Refusal::upstream_limit(largest)),
            Some(_) => Ok(()),
        }
    }

    async fn with_state(self, proxy: &Proxy, settlement: &mut Settlement) -> Result<Place<'a>, Refusal> {
        let refers = self.refers();
        let named = recall(proxy, self.admitted, &refers).await;
        let mut free = Some(self.free());
        let decision = affinity::decide(&named, |account| self.refuses_unknown(account, free.as_ref()));
        let (placed, kind, place) = match decision {
            Decision::Free | Decision::Leaning(_) => {
                let place = free.take().unwrap_or_else(|| self.free()).map(Place::free);
                let first = if let Decision::Leaning(account) = decision { Some(account) } else { None };
                (Placed::Free, None, place.map(|place| Place { first, ..place }))
            }
            Decision::CannotTell => (Placed::CannotTell, None, Err(Refusal::affinity_unavailable())),
            Decision::Unknown(place) => {
                // Where it could go nowhere at all, that is what it hears.
                let refusal = match (free.take(), refers.get(place)) {
                    (Some(Err(refusal)), _) => refusal,
                    (_, Some(Refers { used: Some(used), .. })) => Refusal::unknown_reference(used.kind, used.name),
                    _ => Refusal::unknown_id(),
                };
                (Placed::Refused, None, Err(refusal))
            }
            Decision::Conflict(one, other) => {
                let what = [one, other].map(|place| refers.get(place).map_or("", Refers::words));
                self.or_without(&refers, &named, free, Placed::Conflict, Refusal::conflicting_state(what[0], what[1]))
            }
            Decision::Pinned { account, by } => {
                let kind = refers.get(by).map(|by| by.kind);
                let words = refers.get(by).map_or("", Refers::words);
                match self.pinned(account, free.as_ref(), words) {
                    Ok(place) => (Placed::Pinned, kind, Ok(place)),
                    Err((Placed::Pinned, refusal)) => (Placed::Pinned, kind, Err(refusal)),
                    Err((placed, refusal)) => self.or_without(&refers, &named, free, placed, refusal),
                }
            }
        };
        self.tables.metrics.placed(placed);
        let outcome = settlement.outcome();
        (outcome.pinned, outcome.stripped) = (kind, placed == Placed::Stripped);
        place
    }

    /// All that it refers to: in the path, then in the body.
    fn refers(&self) -> Vec<Refers<'_>> {
        let path = self.resource.names().enumerate().map(|(place, (kind, id))| Refers {
            kind,
            role: if place == 0 { Role::LookedUp } else { Role::Within },
            reference: Some(Reference::new(kind, id.as_bytes())),
            used: None,
        });
        let used = self.admitted.received.state.iter().flat_map(|state| &state.references);
        path.chain(used.map(Refers::from)).collect()
    }

    /// Whether ids that nobody knows are refused, in a request that goes to this account or else goes free: where the caller
    /// shares nothing with somebody else who may use what he may.
    fn refuses_unknown(&self, account: Option<u64>, free: Option<&Result<Route<'_>, Refusal>>) -> bool {
        let strangers = |upstream| self.tables.keys.strangers_use(upstream);
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
        free: Option<&Result<Route<'a>, Refusal>>,
        what: &str,
    ) -> Result<Place<'a>, (Placed, Refusal)> {
        let endpoint = self.resource.endpoint;
        let upstream = self.upstream_of(account).filter(|(index, _)| self.admitted.caller.may_use(*index));
        let Some((index, upstream)) = upstream else { return Err((Placed::Lost, Refusal::state_lost(what))) };
        let route = self.named.clone().unwrap_or_else(|| Route::to(index, None)).only(index);
        self.fits(&route).map_err(|refusal| (Placed::Pinned, refusal))?;
        let now = Instant::now();
        if let Some(left) = out_for(upstream, account, now)
            && self.others_serve(account, free, endpoint, now)
        {
            return Err((Placed::Unavailable, Refusal::state_unavailable(what, left)));
        }
        Ok(Place { account: Some(account), ..Place::free(route) })
    }

    /// Whether anybody else is in service where the request could go. A refused account that is the only one is asked even so:
    /// an ejection is meant to send requests elsewhere.
    fn others_serve(
        &self,
        account: u64,
        free: Option<&Result<Route<'_>, Refusal>>,
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

    /// Without its encrypted reasoning, where its model wants that and nothing else binds it; else the refusal.
    fn or_without(
        &self,
        refers: &[Refers<'_>],
        named: &[Named],
        free: Option<Result<Route<'a>, Refusal>>,
        placed: Placed,
        refusal: Refusal,
    ) -> (Placed, Option<Kind>, Result<Place<'a>, Refusal>) {
        let strips = self.named.as_ref().is_some_and(|route| route.on_lost_state == OnLostState::StripEncrypted);
        match (&self.admitted.received.state, free) {
            (Some(state), Some(free @ Ok(_))) if strips && !self.binds(state, refers, named, &free) => {
                let cuts = state.without_reasoning();
                (Placed::Stripped, None, free.map(|route| Place { cuts, ..Place::free(route) }))
            }
            _ => (placed, None, Err(refusal)),
        }
    }

    /// Whether something beside its encrypted reasoning keeps the request from going free: it binds it to an account, or may not
    /// go there. An item that is whole does neither.
    fn binds(
        &self,
        state: &Request,
        refers: &[Refers<'_>],
        named: &[Named],
        free: &Result<Route<'_>, Refusal>,
    ) -> bool {
        let mut left = state.left_without_reasoning().peekable();
        let stays = |refers: &Refers<'_>| match refers.used {
            None => true,
            Some(used) => left.next_if(|left| std::ptr::eq(*left, used)).is_some_and(|left| !left.whole),
        };
        let stays: Vec<bool> = refers.iter().map(stays).collect();
        let kept: Vec<Named> = named.iter().zip(stays).filter(|(_, stays)| *stays).map(|(named, _)| *named).collect();
        // Where it goes then, other strangers may be.
        let decision = affinity::decide(&kept, |account| self.refuses_unknown(account, Some(free)));
        !matches!(decision, Decision::Free | Decision::Leaning(_))
    }
}

/// What the memory says of each. The store is not asked for what only leans: nobody shall wait for it.
async fn recall(proxy: &Proxy, admitted: &Admitted, refers: &[Refers<'_>]) -> Vec<Named> {
    let is_whole = |refers: &Refers<'_>| refers.role == Role::Whole;
    let of = |whole: bool| -> Vec<Reference> {
        refers.iter().filter(|refers| is_whole(refers) == whole).filter_map(|refers| refers.reference).collect()
    };
    let (owner, now) = (admitted.caller.owner, Duration::from_millis(proxy.now()));
    let mut whole = proxy.origins.recall_here(&of(true), owner, now).into_iter();
    let mut others = proxy.origins.recall_all(&of(false), owner, now).await.into_iter();
    let named = |refers: &Refers<'_>| {
        let recalled = if is_whole(refers) { &mut whole } else { &mut others };
        let recalled = refers.reference.and_then(|_| recalled.next()).unwrap_or(Recalled::Unknown);
        Named { kind: refers.kind, role: refers.role, recalled }
    };
    refers.iter().map(named).collect()
}

/// For how long every credential of the account is refused for certain; none where one may answer. Whatever else is held
/// against an account, a request for its state is tried: no other account can answer, and the request serves as a probe.
fn out_for(upstream: &Upstream, account: u64, now: Instant) -> Option<Duration> {
    let mut least: Option<Duration> = None;
    for (_, condition) in upstream.credentials("", now).filter(|(credential, _)| credential.seat == account) {
        match condition.standing {
            Standing::Out { cause: Cause::Refused, left } if !left.is_zero() => {
                least = Some(least.map_or(left, |least| least.min(left)));
            }
            _ => return None,
        }
    }
    least
}

impl<'b> From<&'b Used> for Refers<'b> {
    fn from(used: &'b Used) -> Self {
        let role = if used.whole { Role::Whole } else { Role::LookedUp };
        Self { kind: used.kind, role, reference: used.reference, used: Some(used) }
    }
}

impl Refers<'_> {
    /// Words for an error: the field, or what the path names.
    fn words(&self) -> &'static str {
        match self.used {
            Some(used) if used.name != "id" => used.name,
            _ => self.kind.name(),
        }
    }
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
