//! The path of one request, to read from top to bottom.

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, request::Parts};
use http_body::Body;
use tokio::time::Instant;

use super::{
    Proxy, RequestArrival, ResponseBody, Tables,
    call::Call,
    closing::Closing,
    cost::dearest,
    error::{ApiError, rejected},
    failover::{Failover, FailoverRequest},
    place::{Destination, able, place},
    quota,
    read_on::{ClientPresence, DetachOnDrop, DrainContext},
    receive::{self, ReceivedBody},
    request_head,
    respond::{self, Reply},
};
use crate::{
    auth::Caller,
    config::OnClientGone,
    domain::{
        chance,
        clock::UnixMillis,
        endpoint::{AnswerShape, Endpoint, RequestBodyKind, Surface},
    },
    limits::{Costs, Permit, Refused, Size},
    protocol::references::query,
    routing::{self, Candidate, ExclusionReason, Route},
    upstream::headers::TURN_STATE,
};

/// Forwards a request and returns the response, whose body relays itself.
///
/// Every error on the way becomes a response in OpenAI's shape. Dropping the future, or later the body, cancels the request
/// upstream, unless the key wants the answer to be drained.
pub async fn forward<B>(
    proxy: &Arc<Proxy>,
    arrival: RequestArrival,
    endpoint: Endpoint,
    request: Request<B>,
) -> Response<ResponseBody>
where
    B: Body<Data = Bytes, Error: std::error::Error + 'static> + Send + Unpin,
{
    // Kept to the end, so that a reload never changes a request in progress.
    let tables = proxy.tables();
    let mut closing = Closing::from(tables.open(&arrival));
    let admitted = admit(proxy, &tables, &arrival, &mut closing, endpoint, request).await;
    let read_on = admitted.as_ref().ok().and_then(|admitted| proxy.read_on(&tables, admitted, &arrival));
    let (closing, obtained) = match admitted {
        Err(refusal) => (closing, Err(refusal)),
        Ok(admitted) => match &read_on {
            None => {
                let obtained = obtain(proxy, &tables, &mut closing, &admitted, None).await;
                (closing, obtained)
            }
            Some(read_on) => outliving(proxy, tables, closing, admitted, read_on).await,
        },
    };
    let quotas = closing.permit.as_ref().map(Permit::quotas);
    let mut response = match obtained {
        Ok(reply) => respond::relay(reply, closing, read_on),
        Err(refusal) => refusal.answer(closing),
    };
    if let Some(quotas) = quotas {
        quota::write(response.headers_mut(), &quotas);
    }
    response
}

/// An admitted request with its whole body.
pub(super) struct Admitted {
    pub(super) caller: Arc<Caller>,
    endpoint: Endpoint,
    head: Parts,
    pub(super) received: ReceivedBody,
}

impl Admitted {
    /// Returns the query of the URL, without the `?`.
    pub(super) fn query(&self) -> &str {
        self.head.uri.query().unwrap_or_default()
    }

    /// Whether the answer is drained by default after its client left. Three conditions must be true: the key or its group has
    /// a budget, a model works for the request, and the answer is no stream. The provider computes and bills the whole of such
    /// an answer in any case.
    pub(super) fn is_read_on_by_default(&self, tables: &Tables) -> bool {
        self.caller.on_client_gone == OnClientGone::ByCost
            && !self.received.stream
            && !self.endpoint.is_free()
            && tables.limits.has_budgets(self.caller.index, self.received.model.as_ref().map(|model| &*model.name))
    }
}

/// Admits the request and reads it to its end.
async fn admit<B>(
    proxy: &Proxy,
    tables: &Tables,
    arrival: &RequestArrival,
    closing: &mut Closing,
    endpoint: Endpoint,
    request: Request<B>,
) -> Result<Admitted, ApiError>
where
    B: Body<Data = Bytes, Error: std::error::Error + 'static> + Send + Unpin,
{
    let (head, body) = request.into_parts();
    let Closing { settlement, permit } = closing;
    settlement.outcome().endpoint = Some(endpoint);

    // Authenticate. The cheapest rejection comes first, before a byte of the body is read.
    let caller = caller(tables, &head.headers, arrival).map_err(|refusal| refusal.leaving(&body))?;
    let outcome = settlement.outcome();
    (outcome.key, outcome.group) = (Some(Arc::clone(&caller.name)), caller.group.clone());

    // Check the declared type of the body, also before a byte of the body is read.
    let has_body = endpoint.request_body() != RequestBodyKind::Nothing && !body.is_end_stream();
    request_head::check(&head.headers, has_body).map_err(|refusal| refusal.leaving(&body))?;
    if endpoint.request_body() == RequestBodyKind::Model
        && head.uri.query().is_some_and(|query| query::has(query, "model"))
    {
        return Err(ApiError::model_in_query().leaving(&body));
    }

    // Admit by the request limits, per minute and at once.
    let admitted = tables.limits.admit(caller.index).await;
    *permit = Some(admitted.map_err(|refused| refuse(tables, refused).leaving(&body))?);

    // Check the ids in the path. Tidegate takes an id unchanged or rejects the request.
    if endpoint.resource(head.uri.path()).is_none() {
        return Err(ApiError::unknown_id().leaving(&body));
    }

    // Read the body: bounded, decoded, scanned piece by piece.
    let (timeouts, max) = (&tables.timeouts, tables.max_body_bytes);
    let memory = tables.body_memory.get(caller.index).ok_or_else(ApiError::internal)?;
    let received =
        receive::receive(body, endpoint, &head.headers, timeouts, max, memory, proxy.origins.has_opaque()).await?;
    settlement.outcome().bytes_up = received.rope.len();
    Ok(Admitted { caller, endpoint, head, received })
}

fn refuse(tables: &Tables, refused: Refused) -> ApiError {
    match refused {
        Refused::Limited(limited) => {
            tables.metrics.limited(limited.kind.name(), limited.whose.name());
            ApiError::limited(&limited, &tables.budget_terms)
        }
        Refused::Unknown => ApiError::limits_unavailable(),
    }
}

/// Obtains the answer for a key that wants a drain. If the client leaves, a request that is already upstream goes on.
async fn outliving(
    proxy: &Arc<Proxy>,
    tables: Arc<Tables>,
    mut closing: Closing,
    admitted: Admitted,
    read_on: &DrainContext,
) -> (Closing, Result<Reply, ApiError>) {
    let (proxy, presence) = (Arc::clone(proxy), Arc::<ClientPresence>::default());
    let told = Arc::clone(&presence);
    let asked = Box::pin(async move {
        let obtained = obtain(&proxy, &tables, &mut closing, &admitted, Some(&told)).await;
        (closing, obtained)
    });
    DetachOnDrop { asked: Some(asked), presence, read_on: read_on.clone() }.await
}

/// Obtains the answer of an admitted request, up to the head that the client may have.
async fn obtain(
    proxy: &Proxy,
    tables: &Tables,
    closing: &mut Closing,
    admitted: &Admitted,
    presence: Option<&ClientPresence>,
) -> Result<Reply, ApiError> {
    let Admitted { caller, endpoint, head, received } = admitted;
    let Closing { settlement, permit: Some(permit) } = closing else { return Err(ApiError::internal()) };
    let resource = endpoint.resource(head.uri.path()).ok_or_else(ApiError::unknown_id)?;

    // Resolve: find the account of the request's state, or else the route of its model.
    let placing = place(proxy, tables, settlement, admitted, &resource);
    let (placed, turn_issuer) = match head.headers.contains_key(TURN_STATE) {
        false => (placing.await, None),
        // Both at once, so that a slow affinity store delays the request only once. Boxed, because this path is rare.
        true => Box::pin(async { tokio::join!(placing, proxy.learning.issuer(&head.headers, caller.owner)) }).await,
    };
    let Destination { route, account, first, cuts, unowned } = placed?;
    let outcome = settlement.outcome();
    // Set only now: the log may show the name of a model only after the model was found.
    outcome.model = received.model.as_ref().map(|model| Arc::from(&*model.name));
    outcome.background = received.background;
    if endpoint.shape() == AnswerShape::Response {
        outcome.named = resource.ids().next().map(Box::from);
    }

    // Reserve the estimated usage and its cost.
    if !endpoint.is_free() {
        let size = Size { bytes: received.rope.len(), encoded: received.encoded };
        let estimate = tables.limits.estimate(permit, caller.owner, route.model, size, endpoint.has_output());
        let outcome = settlement.outcome();
        (outcome.estimate, outcome.habit) = (Some(estimate), permit.habit());
        let began = settlement.outcome().id.millis();
        let asked = received.model.as_ref().map(|model| &*model.name);
        let costs = if permit.asks_for(asked) {
            dearest(tables, able(tables, caller, &route, *endpoint), asked, estimate, began)?
        } else {
            Costs::default()
        };
        permit.reserve(estimate, &costs, UnixMillis(began)).await.map_err(|refused| refuse(tables, refused))?;
    }

    // Choose and order the candidates. If an account stores the request's state, no other account is a candidate.
    let asked = received.model.as_ref().map(|model| &*model.name);
    let mut candidates = candidates(tables, caller, &route, asked, endpoint.surface(), received.rope.len());
    candidates.retain(|candidate| account.is_none_or(|account| candidate.account_id == account));
    let preference = preference(caller, received, &head.headers);
    let turn = proxy.turn.fetch_add(1, Ordering::Relaxed);
    let mut choice = routing::choose(&route, candidates, preference, turn, &proxy.dice);
    if let Some(first) = first
        && (!choice.last_resort || cuts.unless.is_some())
    {
        choice.candidates.sort_by_key(|candidate| candidate.account_id != first);
    }
    if endpoint.has_ids() {
        // State in one account is unknown in all other accounts.
        let account = choice.candidates.first().map(|first| first.account_id);
        choice.candidates.retain(|other| Some(other.account_id) == account);
    }

    // Attempt candidates until one answers.
    let (model, body) = (received.model.as_ref(), &received.rope);
    let (query, headers, owner, cuts) = (head.uri.query(), &head.headers, caller.owner, &cuts);
    let requires_usage = (caller.require_usage || route.require_usage) && endpoint.shape() == AnswerShape::Completion;
    let telling_usage = requires_usage.then(|| received.telling_usage()).flatten();
    let unowned = &unowned;
    let call =
        Call { resource, query, headers, body, cuts, model, telling_usage, owner, unowned, turn_issuer, presence };
    let wish = FailoverRequest { key: owner.key, model: asked };
    Failover::new(proxy, tables, settlement, &route, wish, choice).run(&call).await
}

/// Returns every candidate of the request, with its present health state.
pub(super) fn candidates(
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
                upstream_seed: upstream.home,
                account_id: account.seat,
                exclusion,
                standing: condition.standing,
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
fn preference(caller: &Caller, received: &ReceivedBody, headers: &HeaderMap) -> Option<u64> {
    let session = || SESSION_HEADERS.iter().find_map(|name| headers.get(*name)?.to_str().ok());
    let text = received.cache_key.as_deref().or_else(session)?;
    Some(chance::seed(&[&caller.name, text]))
}

/// Authenticates the caller, for endpoints that Tidegate answers by itself.
///
/// # Errors
/// When the request has no valid key.
pub fn caller(tables: &Tables, headers: &HeaderMap, arrival: &RequestArrival) -> Result<Arc<Caller>, ApiError> {
    let refuse = |why| ApiError::stranger(why, rejected(tables, headers, arrival));
    tables.keys.authenticate(headers, arrival.visit()).map_err(refuse)
}
