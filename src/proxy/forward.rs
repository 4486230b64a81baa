//! The path of one call, read from top to bottom.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Body;

use super::{
    Answer, Arrival, Proxy, Tables,
    attempt::{self, Call},
    error::Refusal,
    receive::{self, Received},
    respond::{self, Reply},
};
use crate::{
    auth::Caller,
    metering::Settlement,
    protocol::body::{Edit, json_string},
    routing::Candidate,
    upstream::Endpoint,
};

/// Forwards a call and hands back the answer, whose body goes on by itself.
///
/// Whatever goes wrong on the way becomes a response in OpenAI's shape. Dropping the future, or later the body,
/// cancels the call upstream.
pub async fn forward<B>(proxy: &Proxy, arrival: Arrival, endpoint: Endpoint, request: Request<B>) -> Response<Answer>
where
    B: Body<Data = Bytes> + Send + Unpin,
{
    let mut settlement = proxy.open(&arrival);
    match obtain(proxy, &mut settlement, endpoint, request).await {
        Ok(reply) => respond::relay(reply, settlement),
        Err(refusal) => refusal.answer(settlement),
    }
}

/// Everything up to the head of an answer that the client may have.
async fn obtain<B>(
    proxy: &Proxy,
    settlement: &mut Settlement,
    endpoint: Endpoint,
    request: Request<B>,
) -> Result<Reply, Refusal>
where
    B: Body<Data = Bytes> + Send + Unpin,
{
    let tables = proxy.tables();
    let (head, body) = request.into_parts();

    // Authenticate: the cheapest refusal comes first, before a byte of the body is read.
    let caller = caller(&tables, &head.headers).map_err(|refusal| refusal.leaving(&body))?;
    settlement.outcome().key = Some(Arc::clone(&caller.name));

    // Read the body: bounded, decoded, scanned piece by piece.
    let received = receive::receive(body, &head.headers, &tables.timeouts, tables.max_body_bytes).await?;
    settlement.outcome().bytes_up = received.rope.len();

    // Resolve, and rewrite the model.
    let (candidate, edit) = resolve(&tables, &caller, &received)?;
    record_models(settlement, &received, candidate.as_ref().map(|candidate| &candidate.model));
    let upstream = match &candidate {
        Some(candidate) => candidate.upstream,
        None => tables.routes.default_upstream().ok_or_else(Refusal::model_required)?,
    };

    // Attempt.
    let call =
        Call { endpoint, query: head.uri.query(), headers: &head.headers, body: received.rope.edited(edit.as_slice()) };
    attempt::attempt(proxy, &tables, settlement, upstream, call).await
}

/// The candidate that will be asked and the edit of the body that asks it. Both none: the request names no model and
/// goes to the default upstream, untouched.
fn resolve(
    tables: &Tables,
    caller: &Caller,
    received: &Received,
) -> Result<(Option<Candidate>, Option<Edit>), Refusal> {
    let limit_of = |upstream: usize| tables.upstreams.get(upstream)?.config.max_body_bytes;
    let Some(model) = &received.model else {
        if caller.is_restricted_in_models() {
            return Err(Refusal::model_required_of_key());
        }
        return match tables.routes.default_upstream() {
            Some(upstream) if caller.may_use(upstream) => match limit_of(upstream) {
                Some(limit) if received.rope.len() > limit => Err(Refusal::upstream_limit(limit)),
                _ => Ok((None, None)),
            },
            _ => Err(Refusal::model_required()),
        };
    };
    let candidates = if caller.may_ask(&model.name) {
        tables.routes.candidates(&model.name, |upstream| caller.may_use(upstream))
    } else {
        Vec::new()
    };
    if candidates.is_empty() {
        return Err(Refusal::model_not_found(&model.name));
    }
    let fits = |candidate: &Candidate| limit_of(candidate.upstream).is_none_or(|limit| received.rope.len() <= limit);
    let largest = candidates.iter().filter_map(|candidate| limit_of(candidate.upstream)).max().unwrap_or_default();
    let candidate = candidates.into_iter().find(fits).ok_or_else(|| Refusal::upstream_limit(largest))?;
    let edit = (*candidate.model != *model.name)
        .then(|| Edit { range: model.range.clone(), with: json_string(&candidate.model) });
    Ok((Some(candidate), edit))
}

/// The names that the log may show: those of models, which were found to lead somewhere.
fn record_models(settlement: &mut Settlement, received: &Received, upstream_model: Option<&Arc<str>>) {
    let outcome = settlement.outcome();
    outcome.model = received.model.as_ref().map(|model| Arc::from(&*model.name));
    outcome.upstream_model = upstream_model.cloned();
}

/// Who calls, for endpoints that Tidegate answers by itself.
///
/// # Errors
/// When nobody known does.
pub fn caller(tables: &Tables, headers: &HeaderMap) -> Result<Arc<Caller>, Refusal> {
    tables.keys.authenticate(headers).map_err(Refusal::stranger)
}
