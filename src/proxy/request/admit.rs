//! Admits a request: its key, its head, its limits, then its whole body. The cheapest rejection comes first.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Request, request::Parts};
use http_body::Body;

use super::{
    head,
    receive::{self, ReceivedBody},
};
use crate::{
    auth::Caller,
    config::OnClientGone,
    domain::endpoint::{Endpoint, RequestBodyKind},
    limits::Refused,
    protocol::references::query,
    proxy::{
        answer::drain::DrainContext, arrival::RequestArrival, error::ApiError, gateway::Proxy, rejection::rejected,
        settle::SettleOnDrop, tables::Tables,
    },
};

/// An admitted request with its whole body.
pub(in crate::proxy) struct Admitted {
    pub(in crate::proxy) caller: Arc<Caller>,
    pub(in crate::proxy) endpoint: Endpoint,
    pub(in crate::proxy) head: Parts,
    pub(in crate::proxy) received: ReceivedBody,
}

impl Admitted {
    /// Returns the query of the URL, without the `?`.
    pub(in crate::proxy) fn query(&self) -> &str {
        self.head.uri.query().unwrap_or_default()
    }

    /// Whether the answer is drained by default after its client left. Three conditions must be true: the key or its group has
    /// a budget, a model works for the request, and the answer is no stream. The provider computes and bills the whole of such
    /// an answer in any case.
    fn is_drained_by_default(&self, tables: &Tables) -> bool {
        self.caller.on_client_gone == OnClientGone::ByCost
            && !self.received.stream
            && !self.endpoint.is_free()
            && tables.limits.has_budgets(self.caller.index, self.received.model.as_ref().map(|model| &*model.name))
    }

    /// Returns how the answer is drained after the client left. `None` = the answer is cancelled.
    pub(in crate::proxy) fn drain_context(
        &self,
        proxy: &Proxy,
        tables: &Tables,
        arrival: &RequestArrival,
    ) -> Option<DrainContext> {
        let drains = self.caller.on_client_gone == OnClientGone::Drain;
        (drains || self.is_drained_by_default(tables)).then(|| DrainContext {
            tasks: Arc::clone(&proxy.drains),
            disconnect: arrival.disconnect.clone(),
            within: tables.timeouts.client_gone_drain,
            bytes: tables.client_gone_drain,
            streams: drains,
        })
    }
}

/// Admits the request and reads it to its end.
pub(in crate::proxy) async fn admit<B>(
    proxy: &Proxy,
    tables: &Tables,
    arrival: &RequestArrival,
    guard: &mut SettleOnDrop,
    endpoint: Endpoint,
    request: Request<B>,
) -> Result<Admitted, ApiError>
where
    B: Body<Data = Bytes, Error: std::error::Error + 'static> + Send + Unpin,
{
    let (head, body) = request.into_parts();
    let SettleOnDrop { settlement, permit } = guard;
    settlement.outcome().endpoint = Some(endpoint);

    // Authenticate. The cheapest rejection comes first, before a byte of the body is read.
    let caller = authenticate(tables, &head.headers, arrival).map_err(|refusal| refusal.closing_unless_read(&body))?;
    let outcome = settlement.outcome();
    (outcome.key, outcome.group) = (Some(Arc::clone(&caller.name)), caller.group.clone());

    // Check the declared type of the body, also before a byte of the body is read.
    let has_body = endpoint.request_body() != RequestBodyKind::Nothing && !body.is_end_stream();
    head::check(&head.headers, has_body).map_err(|refusal| refusal.closing_unless_read(&body))?;
    if endpoint.request_body() == RequestBodyKind::Model
        && head.uri.query().is_some_and(|query| query::has(query, "model"))
    {
        return Err(ApiError::model_in_query().closing_unless_read(&body));
    }

    // Admit by the request limits, per minute and at once.
    let admitted = tables.limits.admit(caller.index).await;
    *permit = Some(admitted.map_err(|refused| limit_error(tables, refused).closing_unless_read(&body))?);

    // Check the ids in the path. Tidegate takes an id unchanged or rejects the request.
    if endpoint.resource(head.uri.path()).is_none() {
        return Err(ApiError::unknown_id().closing_unless_read(&body));
    }

    // Read the body: bounded, decoded, scanned piece by piece.
    let (timeouts, max) = (&tables.timeouts, tables.max_body_bytes);
    let memory = tables.body_memory.get(caller.index).ok_or_else(ApiError::internal)?;
    let received =
        receive::receive(body, endpoint, &head.headers, timeouts, max, memory, proxy.origins.has_opaque()).await?;
    settlement.outcome().bytes_up = received.rope.len();
    Ok(Admitted { caller, endpoint, head, received })
}

/// Returns the error for a request that the limits refuse, and counts it.
pub(in crate::proxy) fn limit_error(tables: &Tables, refused: Refused) -> ApiError {
    match refused {
        Refused::Limited(limited) => {
            tables.metrics.limited(limited.kind.name(), limited.whose.name());
            ApiError::limited(&limited, &tables.budget_terms)
        }
        Refused::Unknown => ApiError::limits_unavailable(),
    }
}

/// Returns the caller of a request, whose client key is in the headers. For endpoints that Tidegate answers by itself.
///
/// # Errors
/// When the request has no valid key.
pub fn authenticate(tables: &Tables, headers: &HeaderMap, arrival: &RequestArrival) -> Result<Arc<Caller>, ApiError> {
    let refuse = |why| ApiError::unauthenticated(why, rejected(tables, headers, arrival));
    tables.keys.authenticate(headers, arrival.source()).map_err(refuse)
}
