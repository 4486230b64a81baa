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
    B: Body<Data = Bytes, Error: std::error::Error + 'static> + Send + Unpin,
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
    B: Body<Data = Bytes, Error: std::error::Error + 'static> + Send + Unpin,
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
    let resolved = resolve(&tables, &caller, &received)?;
    let outcome = settlement.outcome();
    // Only now, as the log may show the names of models that were found to lead somewhere, and no others.
    outcome.model = received.model.as_ref().map(|model| Arc::from(&*model.name));
    outcome.upstream_model = resolved.model;

    // Attempt.
    let body = received.rope.edited(resolved.edit.as_slice());
    let call = Call { endpoint, query: head.uri.query(), headers: &head.headers, body };
    attempt::attempt(proxy, &tables, settlement, resolved.upstream, call).await
}

/// Who will be asked, and how.
struct Resolved {
    /// Index of the upstream.
    upstream: usize,
    /// The model to ask it for; none where the request names none.
    model: Option<Arc<str>>,
    /// What makes the body ask for it; none where it does already.
    edit: Option<Edit>,
}

/// Finds who is asked: the first candidate for the model that takes a body of this size, or the default upstream for a
/// request without a model, which goes there untouched.
fn resolve(tables: &Tables, caller: &Caller, received: &Received) -> Result<Resolved, Refusal> {
    let limit_of = |upstream: usize| tables.upstreams.get(upstream)?.config.max_body_bytes;
    let fits = |upstream: usize| limit_of(upstream).is_none_or(|limit| received.rope.len() <= limit);
    let Some(model) = &received.model else {
        if caller.is_restricted_in_models() {
            return Err(Refusal::model_required_of_key());
        }
        let upstream = tables.routes.default_upstream().filter(|upstream| caller.may_use(*upstream));
        let upstream = upstream.ok_or_else(Refusal::model_required)?;
        if !fits(upstream) {
            return Err(Refusal::upstream_limit(limit_of(upstream).unwrap_or_default()));
        }
        return Ok(Resolved { upstream, model: None, edit: None });
    };
    let candidates = if caller.may_ask(&model.name) {
        tables.routes.candidates(&model.name, |upstream| caller.may_use(upstream))
    } else {
        Vec::new()
    };
    if candidates.is_empty() {
        return Err(Refusal::model_not_found(&model.name));
    }
    let largest = candidates.iter().filter_map(|candidate| limit_of(candidate.upstream)).max().unwrap_or_default();
    let Candidate { upstream, model: upstream_model } = candidates
        .into_iter()
        .find(|candidate| fits(candidate.upstream))
        .ok_or_else(|| Refusal::upstream_limit(largest))?;
    let edit = (*upstream_model != *model.name)
        .then(|| Edit { range: model.range.clone(), with: json_string(&upstream_model) });
    Ok(Resolved { upstream, model: Some(upstream_model), edit })
}

/// Who calls, for endpoints that Tidegate answers by itself.
///
/// # Errors
/// When nobody known does.
pub fn caller(tables: &Tables, headers: &HeaderMap) -> Result<Arc<Caller>, Refusal> {
    tables.keys.authenticate(headers).map_err(Refusal::stranger)
}
