//! The path of one request, to read from top to bottom.

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;

use super::{
    answer::{
        drain::{ClientPresence, DetachOnDrop, DrainContext},
        reply::Reply,
        respond::{self, ResponseBody},
    },
    arrival::RequestArrival,
    attempts::{
        failover::{Failover, FailoverRequest},
        outgoing::OutgoingRequest,
    },
    cost::highest_costs,
    error::ApiError,
    gateway::Proxy,
    placement::{
        candidates::{candidates, preference, usable_targets},
        destination::{Destination, find_destination},
    },
    quota,
    request::admit::{Admitted, admit, limit_error},
    settle::SettleOnDrop,
    tables::Tables,
};
use crate::{
    domain::{
        clock::UnixMillis,
        endpoint::{AnswerShape, Endpoint},
    },
    limits::{BodySize, Costs, Permit},
    routing,
    upstream::headers::TURN_STATE,
};

/// Serves one API request of a client: checks the request, sends it to an upstream, and returns the response. The response's body relays
/// the upstream's answer.
///
/// Every error on the way becomes a response in OpenAI's shape. Dropping the future, or later the body, cancels the request upstream,
/// unless the key wants the answer to be drained.
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
    let mut guard = tables.open(&arrival);
    let admitted = admit(proxy, &tables, &arrival, &mut guard, endpoint, request).await;
    let drain = admitted.as_ref().ok().and_then(|admitted| admitted.drain_context(proxy, &tables, &arrival));
    let (guard, obtained) = match admitted {
        Err(refusal) => (guard, Err(refusal)),
        Ok(admitted) => match &drain {
            None => {
                let obtained = obtain(proxy, &tables, &mut guard, &admitted, None).await;
                (guard, obtained)
            }
            Some(drain) => obtain_detached(proxy, tables, guard, admitted, drain).await,
        },
    };
    let quotas = guard.permit.as_ref().map(Permit::quotas);
    let mut response = match obtained {
        Ok(reply) => respond::relay(reply, guard, drain),
        Err(error) => respond::refuse(error, guard),
    };
    if let Some(quotas) = quotas {
        quota::write(response.headers_mut(), &quotas);
    }
    response
}

/// Obtains the answer for a key that wants a drain. If the client leaves, a request that is already upstream goes on.
async fn obtain_detached(
    proxy: &Arc<Proxy>,
    tables: Arc<Tables>,
    mut guard: SettleOnDrop,
    admitted: Admitted,
    drain: &DrainContext,
) -> (SettleOnDrop, Result<Reply, ApiError>) {
    let (proxy, presence) = (Arc::clone(proxy), Arc::<ClientPresence>::default());
    let noted = Arc::clone(&presence);
    let obtaining = Box::pin(async move {
        let obtained = obtain(&proxy, &tables, &mut guard, &admitted, Some(&noted)).await;
        (guard, obtained)
    });
    DetachOnDrop { obtaining: Some(obtaining), presence, drain: drain.clone() }.await
}

/// Obtains the answer of an admitted request, up to the head that the client may have.
async fn obtain(
    proxy: &Proxy,
    tables: &Tables,
    guard: &mut SettleOnDrop,
    admitted: &Admitted,
    presence: Option<&ClientPresence>,
) -> Result<Reply, ApiError> {
    let Admitted { caller, endpoint, head, received } = admitted;
    let SettleOnDrop { settlement, permit: Some(permit) } = guard else { return Err(ApiError::internal()) };
    let resource = endpoint.resource(head.uri.path()).ok_or_else(ApiError::unknown_id)?;

    // Resolve: find the account of the request's state, or else the route of its model.
    let placing = find_destination(proxy, tables, settlement, admitted, &resource);
    let (placed, turn_issuer) = match head.headers.contains_key(TURN_STATE) {
        false => (placing.await, None),
        // Both at once, so that a slow affinity store delays the request only once. Boxed, because this path is rare.
        true => Box::pin(async { tokio::join!(placing, proxy.affinity.issuer(&head.headers, caller.owner)) }).await,
    };
    let Destination { route, account, preferred, cuts, unowned } = placed?;
    let outcome = settlement.outcome();
    // Set only now: the log may show the name of a model only after the model was found.
    outcome.model = received.model.as_ref().map(|model| Arc::from(&*model.name));
    outcome.background = received.background;
    if endpoint.shape() == AnswerShape::Response {
        outcome.named = resource.ids().next().map(Box::from);
    }

    // Reserve the estimated usage and its cost.
    if !endpoint.is_free() {
        let size = BodySize { bytes: received.rope.len(), encoded: received.encoded };
        let estimate = tables.limits.estimate(permit, caller.owner, route.model, size, endpoint.has_output());
        let outcome = settlement.outcome();
        (outcome.estimate, outcome.answer_averages) = (Some(estimate), permit.answer_averages());
        let began = settlement.outcome().id.millis();
        let asked = received.model.as_ref().map(|model| &*model.name);
        let costs = if permit.apply_model_limits(asked) {
            highest_costs(tables, usable_targets(tables, caller, &route, *endpoint), asked, estimate, began)?
        } else {
            Costs::default()
        };
        permit.reserve(estimate, &costs, UnixMillis(began)).await.map_err(|refused| limit_error(tables, refused))?;
    }

    // Choose and order the candidates. If an account stores the request's state, no other account is a candidate.
    let asked = received.model.as_ref().map(|model| &*model.name);
    let mut candidates = candidates(tables, caller, &route, asked, endpoint.surface(), received.rope.len());
    candidates.retain(|candidate| account.is_none_or(|account| candidate.account_id == account));
    let preference = preference(caller, received, &head.headers);
    let turn = proxy.request_count.fetch_add(1, Ordering::Relaxed);
    let mut choice = routing::choose(&route, candidates, preference, turn, &proxy.random);
    if let Some(preferred) = preferred
        && (!choice.last_resort || cuts.whole_for.is_some())
    {
        choice.candidates.sort_by_key(|candidate| candidate.account_id != preferred);
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
    let usage_edit = requires_usage.then(|| received.edit_to_report_usage()).flatten();
    let unowned = &unowned;
    let outgoing = OutgoingRequest {
        resource,
        query,
        headers,
        body,
        cuts,
        model,
        usage_edit,
        owner,
        unowned,
        turn_issuer,
        presence,
    };
    let subject = FailoverRequest { key: owner.key, model: asked };
    Failover::new(proxy, tables, settlement, &route, subject, choice).run(&outgoing).await
}
