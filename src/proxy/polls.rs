//! Polls providers for background responses, so that their ledger rows become exact even if no client polls.
//!
//! A poll goes to the account that stores the response. A poll takes no slot of a client's request, counts for no limit, and
//! does not change the health state of an upstream.

use std::{future::poll_fn, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Request, StatusCode, header::ACCEPT};
use tokio::{task::JoinSet, time::timeout};

use super::gateway::Proxy;
use crate::{
    affinity::Recalled,
    domain::{
        endpoint::Endpoint,
        origin::{Owner, Reference, ReferenceKind},
        usage::PolledUsage,
    },
    metering::{AT_ONCE, PollAnswer, Polling},
    protocol::{
        body::SegmentedBody,
        observe::{AnswerDialect, Observation, Observer, ResponseStatus},
    },
    store::sql::PendingRow,
    upstream::{
        AnswerBody, Credential, Upstream,
        headers::{self, Media, RequestFacts},
    },
};

/// The time of one poll, from its connection to the last byte. The account only looks up the response; no model computes.
const WITHIN: Duration = Duration::from_secs(60);

/// The largest answer that is read. A response contains its images as base64.
const MOST_BYTES: usize = 64 * 1024 * 1024;

/// Asks providers whether background responses have ended, for each response that the ledger wants to know about. Runs until this future
/// is dropped.
pub async fn keep_polling(proxy: Arc<Proxy>, mut polling: Polling) {
    let mut calls = JoinSet::new();
    loop {
        tokio::select! {
            request = polling.requests.recv(), if calls.len() < AT_ONCE => match request {
                Some(row) => drop(calls.spawn(call(Arc::clone(&proxy), row))),
                // The ledger ended before this task, so no more polls follow.
                None => std::future::pending().await,
            },
            Some(called) = calls.join_next(), if !calls.is_empty() => {
                if let Ok(result) = called {
                    // The ledger ended. The next start polls again.
                    let _ = polling.results.send(result);
                }
            }
        }
    }
}

async fn call(proxy: Arc<Proxy>, row: PendingRow) -> (PendingRow, PollAnswer) {
    let answer = timeout(WITHIN, poll(&proxy, &row)).await.ok().flatten();
    (row, answer.unwrap_or(PollAnswer::Failed))
}

/// Polls one response. `None` = no usable answer.
async fn poll(proxy: &Proxy, row: &PendingRow) -> Option<PollAnswer> {
    let tables = proxy.tables();
    let path = format!("/v1/responses/{}", row.response_id);
    let resource = Endpoint::RetrieveResponse.resource(&path)?;
    let index = tables.upstreams.iter().position(|upstream| *upstream.config.name == *row.upstream)?;
    let (upstream, sender) = (tables.upstreams.get(index)?, tables.senders.get(index)?);
    let caller = row.key.as_deref().and_then(|key| tables.keys.named(key));
    let owner = caller.map_or_else(|| Owner::new(row.key.as_deref().unwrap_or_default(), None), |caller| caller.owner);
    let credential = credential_for(proxy, upstream, row, owner).await?;

    let mut request = Request::new(SegmentedBody::new().body());
    *request.uri_mut() = upstream.uri(&resource, None).ok()?;
    let facts = RequestFacts { has_body: false, owner, turn_issuer: None };
    let wants = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("application/json"))]);
    *request.headers_mut() = headers::for_upstream(&wants, facts, &upstream.config, Some(credential));
    let (head, body) = sender.send(request).await.ok()?.into_parts();
    if matches!(head.status, StatusCode::NOT_FOUND | StatusCode::GONE) {
        return Some(PollAnswer::Gone);
    }
    if !head.status.is_success() {
        return None;
    }
    let is_stream = Media::of(&head.headers) == Media::EventStream;
    let observer = Observer::new(AnswerDialect::Responses, is_stream, headers::coded(&head.headers));
    judge(read(body, observer).await?.seen(), &row.response_id)
}

/// Returns the credential for the poll: the one that created the response, or another one of the same account.
async fn credential_for<'a>(
    proxy: &Proxy,
    upstream: &'a Upstream,
    row: &PendingRow,
    owner: Owner,
) -> Option<&'a Credential> {
    let all = || (0..).map_while(|index| upstream.credential(index));
    if let Some(same) = all().find(|credential| credential.name.as_deref() == row.credential.as_deref()) {
        return Some(same);
    }
    // The credential has another name now. The affinity memory knows the account.
    let reference = Reference::new(ReferenceKind::Response, row.response_id.as_bytes());
    let recalled = proxy.origins.recall_all(&[reference], owner, proxy.clock.since_epoch()).await;
    let origin = recalled.into_iter().find_map(Recalled::origin_of_any_owner)?;
    all().find(|credential| credential.account_id == origin.account)
}

/// Reads an answer to its end.
async fn read(mut body: AnswerBody, mut observer: Observer) -> Option<Observer> {
    let mut left = MOST_BYTES;
    while let Some(data) = poll_fn(|cx| body.poll_data(cx)).await {
        let data = data.ok()?;
        left = left.checked_sub(data.len())?;
        observer.feed(&data);
        // The requests and streams of this worker have priority.
        tokio::task::yield_now().await;
    }
    observer.finish();
    Some(observer)
}

/// Returns the status of the response with this id. `None` = the answer does not contain that response.
fn judge(seen: &Observation, id: &str) -> Option<PollAnswer> {
    if seen.response_id.as_deref() != Some(id) {
        return None;
    }
    match seen.status? {
        ResponseStatus::Queued | ResponseStatus::InProgress => Some(PollAnswer::UnderWay),
        ResponseStatus::Completed | ResponseStatus::Failed | ResponseStatus::Incomplete | ResponseStatus::Cancelled => {
            Some(PollAnswer::Over(PolledUsage::new(seen.usage)))
        }
    }
}
