//! Asks providers for responses in the background, so that their rows in the ledger become exact also where no client does.
//!
//! A call goes to the account that holds the response. It takes no place of a client's request, counts for nobody's limits, and tells
//! nothing to the health of an upstream.

use std::{future::poll_fn, pin::Pin, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Request, StatusCode, header::ACCEPT};
use http_body::Body;
use hyper::body::Incoming;
use tokio::{task::JoinSet, time::timeout};

use super::Proxy;
use crate::{
    affinity::Recalled,
    domain::{
        endpoint::Endpoint,
        origin::{Kind, Owner, Reference},
        usage::PolledUsage,
    },
    metering::{AT_ONCE, PollAnswer, Polling},
    protocol::{
        body::Rope,
        observe::{AnswerDialect, Observation, Observer, ResponseStatus},
    },
    store::sql::PendingRow,
    upstream::{
        Credential, Upstream,
        headers::{self, Media, RequestFacts},
    },
};

/// One call, from its connection to the last byte. What holds a response looks it up; nothing is computed.
const WITHIN: Duration = Duration::from_secs(60);

/// The largest answer that is read: a response holds its images as base64.
const MOST_BYTES: usize = 64 * 1024 * 1024;

/// Makes the calls that the ledger asks for, until it is dropped.
pub async fn keep_polling(proxy: Arc<Proxy>, mut polling: Polling) {
    let mut calls = JoinSet::new();
    loop {
        tokio::select! {
            asked = polling.asked.recv(), if calls.len() < AT_ONCE => match asked {
                Some(row) => drop(calls.spawn(call(Arc::clone(&proxy), row))),
                // The ledger has ended before this task: nothing is asked for any more.
                None => std::future::pending().await,
            },
            Some(called) = calls.join_next(), if !calls.is_empty() => {
                if let Ok(told) = called {
                    // The ledger has ended: the next start asks again.
                    let _ = polling.told.send(told);
                }
            }
        }
    }
}

async fn call(proxy: Arc<Proxy>, row: PendingRow) -> (PendingRow, PollAnswer) {
    let told = timeout(WITHIN, ask(&proxy, &row)).await.ok().flatten();
    (row, told.unwrap_or(PollAnswer::Failed))
}

/// None where nothing usable came.
async fn ask(proxy: &Proxy, row: &PendingRow) -> Option<PollAnswer> {
    let tables = proxy.tables();
    let path = format!("/v1/responses/{}", row.response_id);
    let resource = Endpoint::RetrieveResponse.resource(&path)?;
    let index = tables.upstreams.iter().position(|upstream| *upstream.config.name == *row.upstream)?;
    let (upstream, sender) = (tables.upstreams.get(index)?, tables.senders.get(index)?);
    let caller = row.key.as_deref().and_then(|key| tables.keys.named(key));
    let owner = caller.map_or_else(|| Owner::new(row.key.as_deref().unwrap_or_default(), None), |caller| caller.owner);
    let credential = holder(proxy, upstream, row, owner).await?;

    let mut request = Request::new(Rope::new().body());
    *request.uri_mut() = upstream.uri(&resource, None).ok()?;
    let facts = RequestFacts { has_body: false, owner, turn_issuer: None };
    let wants = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("application/json"))]);
    *request.headers_mut() = headers::up(&wants, facts, &upstream.config, Some(credential));
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

/// The credential that asks: the one that made the response, or another one of the account that holds it.
async fn holder<'a>(proxy: &Proxy, upstream: &'a Upstream, row: &PendingRow, owner: Owner) -> Option<&'a Credential> {
    let all = || (0..).map_while(|index| upstream.credential(index));
    if let Some(same) = all().find(|credential| credential.name.as_deref() == row.credential.as_deref()) {
        return Some(same);
    }
    // The credential has another name now. The memory of origins knows the account.
    let reference = Reference::new(Kind::Response, row.response_id.as_bytes());
    let recalled = proxy.origins.recall_all(&[reference], owner, proxy.clock.since_epoch()).await;
    let origin = recalled.into_iter().find_map(Recalled::anyones)?;
    all().find(|credential| credential.seat == origin.account)
}

/// Reads an answer to its end.
async fn read(mut body: Incoming, mut observer: Observer) -> Option<Observer> {
    let mut left = MOST_BYTES;
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let Ok(data) = frame.ok()?.into_data() else { continue };
        left = left.checked_sub(data.len())?;
        observer.feed(&data);
        // The requests and streams of this worker come first.
        tokio::task::yield_now().await;
    }
    observer.finish();
    Some(observer)
}

/// What an answer says of the response with this id; none where it says nothing of it.
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
