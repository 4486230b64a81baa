//! One try at one upstream: build the request, send it, judge the head of the answer.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    Proxy, Tables,
    error::Refusal,
    respond::{Reply, Source},
};
use crate::{
    config::Fault,
    domain::{outcome::AttemptResult, problem::Problem},
    metering::Settlement,
    protocol::{body::Rope, observe::Observer},
    upstream::{
        Endpoint, Upstream, fault,
        headers::{self, Media},
        send::SendError,
    },
};

/// An error answer that may be about our credential is read this far before it is judged. Error objects are small.
pub(super) const ERROR_BODY_LIMIT: usize = 64 * 1024;
/// And for this long: the head is here, the rest of a small object follows at once or never.
const ERROR_BODY_WITHIN: Duration = Duration::from_secs(10);
/// And for this long where only the log wants its code: the client waits for an error that is known already.
const ERROR_CODE_WITHIN: Duration = Duration::from_secs(1);

/// OpenAI's ids of requests have 36 characters, as have UUIDs.
const REQUEST_ID_LIMIT: usize = 128;

/// What the client wants, apart from who shall do it.
pub(super) struct Call<'a> {
    pub(super) endpoint: Endpoint,
    pub(super) query: Option<&'a str>,
    pub(super) headers: &'a HeaderMap,
    pub(super) body: Rope,
}

/// Makes the try.
pub(super) async fn attempt(
    proxy: &Proxy,
    tables: &Tables,
    settlement: &mut Settlement,
    index: usize,
    call: Call<'_>,
) -> Result<Reply, Refusal> {
    let (Some(upstream), Some(sender)) = (tables.upstreams.get(index), proxy.senders.get(index)) else {
        return Err(Refusal::internal());
    };
    let credential = upstream.credential();
    let mut request = Request::new(call.body.body());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = upstream.uri(call.endpoint, call.query).map_err(|_| Refusal::internal())?;
    *request.headers_mut() = headers::up(call.headers, &upstream.config, credential);

    let since =
        settlement.attempt(index, upstream.config.name.clone(), credential.map(|credential| credential.name.clone()));
    let sent = timeout(tables.timeouts.upstream_head, sender.send(request)).await;
    let problem = match sent {
        Ok(Ok(response)) => {
            settlement.attempted(since, AttemptResult::Status(response.status()));
            return judge(tables, settlement, since, upstream, response).await;
        }
        Ok(Err(error)) => {
            tracing::debug!(id = %settlement.outcome().id, upstream = &*upstream.config.name, %error, "no answer");
            match error {
                SendError::Connect(_) => Problem::UpstreamUnreachable,
                SendError::Broken(_) => Problem::UpstreamDisconnected,
                SendError::Nonsense(_) => Problem::UpstreamBadAnswer,
            }
        }
        Err(_) => Problem::UpstreamTimeout,
    };
    settlement.attempted(since, AttemptResult::Fault(problem));
    Err(Refusal::upstream(problem))
}

/// Decides whether the client gets the answer, or an error of ours in its place.
async fn judge(
    tables: &Tables,
    settlement: &mut Settlement,
    since: Instant,
    upstream: &Upstream,
    response: Response<Incoming>,
) -> Result<Reply, Refusal> {
    let (head, body) = response.into_parts();
    let request_id = head.headers.get(super::error::CLIENT_REQUEST_ID).and_then(request_id);
    settlement.outcome().upstream_request_id = request_id.map(Into::into);

    let media = Media::of(&head.headers);
    let no_api = head.status.is_informational()
        || head.status.is_redirection()
        || (head.status.is_success() && media == Media::Html);
    if no_api {
        settlement.attempted(since, AttemptResult::Fault(Problem::UpstreamBadAnswer));
        return Err(Refusal::upstream(Problem::UpstreamBadAnswer));
    }

    let rules = &upstream.config.error_rules;
    let source = if fault::may_be_ours(head.status, rules) {
        let within = if fault::needs_no_code(head.status, rules) { ERROR_CODE_WITHIN } else { ERROR_BODY_WITHIN };
        // Boxed, as what is rare shall not make the future of every request larger.
        let (source, code) = Box::pin(read_error(body, within)).await;
        if fault::whose(head.status, code.as_deref(), rules) == Fault::Credential {
            settlement.outcome().upstream_code = code;
            return Err(Refusal::upstream(Problem::UpstreamAuth));
        }
        source
    } else {
        Source::from(body)
    };
    let on_incomplete = upstream.config.on_incomplete;
    Ok(Reply { head, media, source, on_incomplete, silence: tables.timeouts.upstream_silence })
}

/// The upstream's id of the request, if the log may have it: an upstream shall not write pages into it.
fn request_id(value: &HeaderValue) -> Option<&str> {
    let id = value.to_str().ok()?;
    (!id.is_empty() && id.len() <= REQUEST_ID_LIMIT && id.bytes().all(|byte| byte.is_ascii_graphic())).then_some(id)
}

/// Reads the beginning of an error answer, finds its code, and keeps what was read for the client.
async fn read_error(mut body: Incoming, within: Duration) -> (Source, Option<Box<str>>) {
    let deadline = Instant::now() + within;
    let mut observer = Observer::json();
    let mut read: Vec<Bytes> = Vec::new();
    let mut len = 0;
    let mut rest = None;
    loop {
        if len > ERROR_BODY_LIMIT {
            observer.cut_short();
            rest = Some(body);
            break;
        }
        match timeout_at(deadline, body.frame()).await {
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    observer.feed(&data);
                    len += data.len();
                    read.push(data);
                }
            }
            Ok(None) => {
                observer.finish();
                break;
            }
            // The client sees the same break, unless the answer turns out to be about us.
            Ok(Some(Err(error))) => return (Source::replay_broken(read, error), observer.seen().code.clone()),
            // Too slow: the client waits for the rest.
            Err(_) => {
                rest = Some(body);
                break;
            }
        }
    }
    (Source::replay(read, rest), observer.seen().code.clone())
}
