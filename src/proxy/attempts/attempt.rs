//! One attempt at one upstream: builds the request, sends it, judges the head of the answer, and reports the verdict to the
//! upstream's health state.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode, header::RETRY_AFTER};
use tokio::time::{Instant, timeout, timeout_at};

use super::outgoing::OutgoingRequest;
use crate::{
    domain::{affinity::PlacementResult, clock::Clock, endpoint::Endpoint, outcome::AttemptResult, problem::Problem},
    metering::Settlement,
    protocol::error_body::ErrorBody,
    proxy::{
        answer::{
            reply::{Reply, upstream_request_id},
            upstream_body::UpstreamBody,
        },
        error::ApiError,
        gateway::Proxy,
        tables::Tables,
    },
    upstream::{
        AnswerBody, Credential, Lease, Verdict,
        fault::{self, ErrorCause, ErrorJudgement},
        headers::Media,
        send::SendError,
    },
};

/// The most bytes of an error answer that are read before Tidegate judges the answer. Error objects are small.
pub(in crate::proxy) const ERROR_BODY_LIMIT: usize = 64 * 1024;
/// The most time for that reading. The head is here already: the rest of a small object follows at once or never.
const ERROR_BODY_WITHIN: Duration = Duration::from_secs(10);
/// The most time for that reading where little depends on the body. The client or the next candidate waits.
const ERROR_CODE_WITHIN: Duration = Duration::from_secs(1);
/// The most time that a success is held back for its first byte. Clients want to see the head.
const FIRST_BYTE_WITHIN: Duration = Duration::from_secs(1);

/// A longer `Retry-After` counts as this long, which means never. The limit also keeps additions of times from overflowing.
const NEVER: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// SDKs obey this header. Tidegate obeys the header where it forbids a retry (docs/wire.md, section 3).
const SHOULD_RETRY: &str = "x-should-retry";
const RETRY_AFTER_MS: &str = "retry-after-ms";

/// An attempt without an answer for the client. The client gets this failure only if no attempt gives more.
pub(in crate::proxy) struct AttemptFailure {
    /// What caused the failure. The failover rule skips the same cause.
    pub(in crate::proxy) scope: FailureScope,
    /// Which candidates may be attempted next.
    pub(in crate::proxy) next: NextAttempt,
    /// How long the upstream asks Tidegate to wait.
    pub(in crate::proxy) after: Option<Duration>,
    /// The verdict that the health state of the candidate got.
    pub(in crate::proxy) verdict: Option<Verdict>,
    /// The answer for the client, if no better answer comes.
    pub(in crate::proxy) answer: FailedAnswer,
}

/// Which candidates may be attempted after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) enum NextAttempt {
    /// No candidate: the client gets the failure.
    Never,
    /// Another candidate.
    OtherCandidate,
    /// Another candidate, or the same one again.
    AnyCandidate,
}

impl NextAttempt {
    fn new(other_candidate: bool, same_candidate: bool) -> Self {
        match (other_candidate, same_candidate) {
            (false, _) => Self::Never,
            (true, false) => Self::OtherCandidate,
            (true, true) => Self::AnyCandidate,
        }
    }
}

/// What caused the failure of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) enum FailureScope {
    Credential,
    /// The model at this upstream. Each credential of the target would fail in the same way.
    Target,
    Upstream,
    /// The connection to the upstream. Another credential would make no difference.
    Connection,
}

/// The answer of a failed attempt, for the client.
pub(in crate::proxy) enum FailedAnswer {
    /// The upstream's answer.
    Upstream(Box<Reply>),
    /// An error of Tidegate.
    Gateway(ApiError),
}

/// The candidate of an attempt.
pub(in crate::proxy) struct AttemptTarget {
    /// Index of the upstream.
    pub(in crate::proxy) upstream: usize,
    pub(in crate::proxy) lease: Lease,
    /// The upstream's name of the model. `None` = the request names no model.
    pub(in crate::proxy) model: Option<Arc<str>>,
    /// Whether a success may be held back until its first byte arrives.
    pub(in crate::proxy) hold: bool,
}

/// Makes one attempt.
pub(in crate::proxy) async fn attempt(
    proxy: &Proxy,
    tables: &Tables,
    settlement: &mut Settlement,
    outgoing: &OutgoingRequest<'_>,
    target: AttemptTarget,
) -> Result<Reply, AttemptFailure> {
    let AttemptTarget { upstream: index, mut lease, model, hold } = target;
    let upstream = Arc::clone(lease.upstream());
    let Some(sender) = tables.senders.get(index) else {
        return Err(AttemptFailure::last(Problem::Internal));
    };
    let endpoint = outgoing.resource.endpoint;
    let Ok(uri) = upstream.uri(&outgoing.resource, outgoing.query) else {
        return Err(AttemptFailure::last(Problem::Internal));
    };
    let account = lease.credential().map(|credential| credential.account_id);
    let cuts = outgoing.cuts.of(account);
    let stripped = std::mem::replace(&mut settlement.outcome().stripped, !cuts.is_empty());
    if !stripped && !cuts.is_empty() {
        tables.metrics.placed(PlacementResult::Stripped);
    }
    let request = || outgoing.request(uri.clone(), model.as_deref(), cuts, &upstream.config, lease.credential());
    let credential = lease.credential().and_then(|credential| credential.name.clone());
    let since = settlement.attempt(index, upstream.config.name.clone(), credential);
    let mut sent = timeout(tables.timeouts.upstream_head, sender.send(request())).await;
    if let Ok(Err(error @ SendError::Stale(_))) = &sent {
        tracing::debug!(id = %settlement.outcome().id, upstream = &*upstream.config.name, %error, "the upstream closed a reused connection: the request is sent once more");
        // Boxed, so that this rare path does not make the future of every request larger.
        sent = Box::pin(timeout(tables.timeouts.upstream_head, sender.send_fresh(request()))).await;
    }
    let failover_on = upstream.config.failover_on;
    let (problem, verdict, scope, may_fail_over) = match sent {
        Ok(Ok(response)) => {
            settlement.attempted(since, AttemptResult::Status(response.status()));
            let mut reply = judge(proxy.clock, tables, settlement, since, lease, endpoint, response).await?;
            let succeeded = reply.head.status.is_success();
            // Where all keys of the upstream share their state, the caller owns each reference that the request names.
            let unowned = Some(outgoing.unowned).filter(|_| tables.keys.has_several_owners(index));
            let recorder = |account| proxy.affinity.recorder(account, outgoing.owner, unowned.cloned());
            reply.recorder = account.filter(|_| succeeded).map(recorder);
            let hold = hold && failover_on.empty && succeeded;
            return if hold { Box::pin(first_byte(settlement, since, reply)).await } else { Ok(reply) };
        }
        Ok(Err(error)) => {
            tracing::debug!(id = %settlement.outcome().id, upstream = &*upstream.config.name, %error, "no answer");
            match error {
                // Tidegate sent nothing.
                SendError::Connect(_) => {
                    (Problem::UpstreamUnreachable, Verdict::Unreachable, FailureScope::Connection, true)
                }
                SendError::Broken(_) | SendError::Stale(_) => {
                    let may_fail_over = failover_on.disconnect || endpoint.is_safe();
                    (Problem::UpstreamDisconnected, Verdict::Failed, FailureScope::Upstream, may_fail_over)
                }
                SendError::NotHttp(_) => {
                    (Problem::UpstreamBadAnswer, Verdict::Failed, FailureScope::Upstream, failover_on.disconnect)
                }
            }
        }
        Err(_) => (Problem::UpstreamTimeout, Verdict::Failed, FailureScope::Upstream, failover_on.timeout),
    };
    settlement.attempted(since, AttemptResult::Fault(problem));
    lease.report(verdict);
    let may_retry = match problem {
        Problem::UpstreamUnreachable => true,
        Problem::UpstreamDisconnected => endpoint.is_safe(),
        _ => false,
    };
    let next = NextAttempt::new(may_fail_over, may_retry);
    let (verdict, answer) = (Some(verdict), FailedAnswer::Gateway(ApiError::upstream(problem)));
    Err(AttemptFailure { scope, next, after: None, verdict, answer })
}

impl AttemptFailure {
    /// Returns a failure after which no other candidate is attempted.
    fn last(problem: Problem) -> Self {
        let answer = FailedAnswer::Gateway(ApiError::upstream(problem));
        Self { next: NextAttempt::Never, ..Self::of(FailureScope::Upstream, None, answer) }
    }

    /// Returns the failure for an answer that repeats the credential. The upstream works and answered, so another attempt could
    /// be billed twice.
    fn echoed(mut lease: Lease) -> Self {
        lease.report(Verdict::Declined);
        let answer = FailedAnswer::Gateway(ApiError::echoed());
        Self { next: NextAttempt::Never, ..Self::of(FailureScope::Upstream, Some(Verdict::Declined), answer) }
    }

    /// Returns a failure after which other candidates are attempted.
    fn of(scope: FailureScope, verdict: Option<Verdict>, answer: FailedAnswer) -> Self {
        Self { scope, next: NextAttempt::OtherCandidate, after: None, verdict, answer }
    }
}

/// Decides whether the client gets the answer.
async fn judge(
    clock: Clock,
    tables: &Tables,
    settlement: &mut Settlement,
    since: Instant,
    mut lease: Lease,
    endpoint: Endpoint,
    response: Response<AnswerBody>,
) -> Result<Reply, AttemptFailure> {
    let (mut head, body) = response.into_parts();
    // The masking comes first, so that the code below reads no more of the answer than the client may.
    let echo = Credential::echo_watch(lease.credential(), settlement.outcome().id);
    let mut body = UpstreamBody::new(&mut head, body, echo);
    settlement.outcome().upstream_request_id = upstream_request_id(&head.headers).map(Into::into);

    let upstream = Arc::clone(lease.upstream());
    let config = &upstream.config;
    let media = Media::of(&head.headers);
    let is_no_api_answer = head.status.is_informational()
        || head.status.is_redirection()
        || (head.status.is_success() && media == Media::Html);
    if is_no_api_answer {
        settlement.attempted(since, AttemptResult::Fault(Problem::UpstreamBadAnswer));
        lease.report(Verdict::Failed);
        let answer = FailedAnswer::Gateway(ApiError::upstream(Problem::UpstreamBadAnswer));
        // A captive portal or a parked domain answered. No model worked, so another attempt is not billed twice.
        return Err(AttemptFailure::of(FailureScope::Upstream, Some(Verdict::Failed), answer));
    }

    if head.status.is_success() && body.is_coded() && Box::pin(body.repeats_the_credential(FIRST_BYTE_WITHIN)).await {
        settlement.attempted(since, AttemptResult::Fault(Problem::UpstreamBadAnswer));
        return Err(AttemptFailure::echoed(lease));
    }

    let is_not_found = head.status == StatusCode::NOT_FOUND;
    if !is_not_found && !endpoint.has_ids() {
        upstream.answered(head.status);
    }
    if fault::is_about_the_url(head.status, &config.error_rules)
        && media != Media::Json
        && !Box::pin(body.begins_with(b'{', ERROR_CODE_WITHIN)).await
    {
        lease.report(Verdict::Declined);
        if is_not_found && !endpoint.has_ids() {
            upstream.answered(head.status);
        }
        let answer = FailedAnswer::Gateway(ApiError::not_served_by_provider(endpoint));
        return Err(AttemptFailure::of(FailureScope::Connection, Some(Verdict::Declined), answer));
    }

    let (source, error_body) = if fault::depends_on_body(head.status) {
        let within =
            if fault::body_matters(head.status, &config.error_rules) { ERROR_BODY_WITHIN } else { ERROR_CODE_WITHIN };
        // Boxed, so that this rare path does not make the future of every request larger.
        Box::pin(read_error(body, within)).await
    } else {
        (body, ErrorBody::default())
    };
    let ErrorJudgement { error_cause, allows_failover } = fault::judge(head.status, &error_body, config);
    if is_not_found && !endpoint.has_ids() && error_cause != ErrorCause::Model {
        upstream.answered(head.status);
    }
    let is_about_credential = matches!(error_cause, ErrorCause::Credential | ErrorCause::Balance | ErrorCause::Payment);
    if is_about_credential {
        settlement.outcome().upstream_code = error_body.logged();
        // A spent balance does not come back by itself, whatever the answer says. Clients would wait in vain.
        head.headers.remove(RETRY_AFTER);
        head.headers.remove(RETRY_AFTER_MS);
    }
    let after = retry_after(&head.headers, clock);
    let forbidden = head.headers.get(SHOULD_RETRY).is_some_and(|value| value == "false");
    let (verdict, scope, may_retry) = match error_cause {
        ErrorCause::Request => (Verdict::Declined, FailureScope::Upstream, false),
        ErrorCause::Model => (Verdict::NoModel, FailureScope::Target, false),
        ErrorCause::Credential => (Verdict::Refused, FailureScope::Credential, false),
        ErrorCause::Balance => (Verdict::Unpaid, FailureScope::Credential, false),
        ErrorCause::Payment => (Verdict::Payment, FailureScope::Credential, false),
        ErrorCause::RateLimit => (Verdict::RateLimited(after), FailureScope::Credential, after.is_some() && !forbidden),
        ErrorCause::Upstream => (Verdict::Failed, FailureScope::Upstream, !forbidden),
    };
    let passes = error_cause == ErrorCause::Request && !allows_failover;
    // Where the client gets the answer, the end of the answer decides the verdict.
    if !passes {
        lease.report(verdict);
    }
    let (on_incomplete, silence) = (config.on_incomplete, tables.timeouts.upstream_silence);
    let reply = Reply { head, media, source, on_incomplete, silence, lease: Some(lease), recorder: None };
    if passes {
        return Ok(reply);
    }
    let answer = match reply.head.status {
        // The client gets the upstream's 429, also one about a spent balance. A 429 stops retries, and reveals no credential.
        StatusCode::TOO_MANY_REQUESTS => FailedAnswer::Upstream(Box::new(reply)),
        StatusCode::UNAUTHORIZED => FailedAnswer::Gateway(ApiError::upstream(Problem::UpstreamAuth)),
        _ if is_about_credential => FailedAnswer::Gateway(ApiError::upstream(Problem::UpstreamAuth)),
        _ => FailedAnswer::Upstream(Box::new(reply)),
    };
    Err(AttemptFailure {
        next: NextAttempt::new(allows_failover, may_retry),
        after,
        ..AttemptFailure::of(scope, Some(verdict), answer)
    })
}

/// Waits a short time for the first byte of a success. A body that ends before its first byte is no success.
async fn first_byte(settlement: &mut Settlement, since: Instant, mut reply: Reply) -> Result<Reply, AttemptFailure> {
    let problem = match timeout(FIRST_BYTE_WITHIN, reply.source.fill()).await {
        Err(_) | Ok(Some(Ok(()))) => return Ok(reply),
        Ok(None) => Problem::UpstreamBadAnswer,
        Ok(Some(Err(_))) => Problem::UpstreamDisconnected,
    };
    settlement.attempted(since, AttemptResult::Fault(problem));
    if let Some(lease) = &mut reply.lease {
        lease.report(Verdict::Failed);
    }
    let answer = FailedAnswer::Gateway(ApiError::upstream(problem));
    Err(AttemptFailure::of(FailureScope::Upstream, Some(Verdict::Failed), answer))
}

impl FailedAnswer {
    /// Releases the upstream, because another candidate is next. Keeps the answer if the answer is small and has arrived.
    pub(in crate::proxy) async fn release_upstream(self) -> Self {
        let Self::Upstream(mut reply) = self else { return self };
        reply.source = read_error(reply.source, ERROR_CODE_WITHIN).await.0;
        reply.lease = None;
        Self::Upstream(reply)
    }

    /// Returns the status of the upstream's answer.
    pub(in crate::proxy) fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Upstream(reply) => Some(reply.head.status),
            Self::Gateway(_) => None,
        }
    }
}

/// Returns how long the upstream asks Tidegate to wait: in milliseconds, in seconds, or until a date.
fn retry_after(headers: &HeaderMap, clock: Clock) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let seconds = |text: &str, unit: f64| {
        // NaN stays NaN, which gives `None`.
        let count = (text.parse::<f64>().ok()? / unit).clamp(-1.0, NEVER.as_secs_f64());
        Duration::try_from_secs_f64(count).ok()
    };
    let date = |text: &str| {
        let date = httpdate::parse_http_date(text).ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
        Some(date.saturating_sub(clock.since_epoch()).min(NEVER))
    };
    let millis = text(RETRY_AFTER_MS).and_then(|text| seconds(text, 1000.0));
    millis.or_else(|| text(RETRY_AFTER.as_str()).and_then(|text| seconds(text, 1.0).or_else(|| date(text))))
}

/// Reads the beginning of an error answer, and keeps the bytes for the client.
async fn read_error(mut source: UpstreamBody, within: Duration) -> (UpstreamBody, ErrorBody) {
    let deadline = Instant::now() + within;
    let mut read: Vec<Bytes> = Vec::new();
    let mut len = 0;
    while len <= ERROR_BODY_LIMIT {
        match timeout_at(deadline, source.next()).await {
            Ok(Some(Ok(data))) => {
                len += data.len();
                read.push(data);
            }
            // The client sees the same break, unless the answer turns out to be about Tidegate's credential.
            Ok(Some(Err(error))) => {
                source.fail_with(error);
                break;
            }
            // The answer ended or is too slow. In the second case the client waits for the rest.
            Ok(None) | Err(_) => break,
        }
    }
    let mut error_body = match &read[..] {
        [] => ErrorBody::default(),
        [one] => ErrorBody::read(one.get(..ERROR_BODY_LIMIT).unwrap_or(one)),
        several => {
            let mut beginning = several.concat();
            beginning.truncate(ERROR_BODY_LIMIT);
            ErrorBody::read(&beginning)
        }
    };
    source.put_back(read);
    source.mask_name(&mut error_body.code);
    source.mask_name(&mut error_body.kind);
    (source, error_body)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn when_to_come_back_is_read_in_every_form() {
        // 1994-11-06 08:49:37.
        let clock = Clock::from_fn(|| UNIX_EPOCH + Duration::from_secs(784_111_777));
        for (ms, after, wanted) in [
            ("", "", None),
            ("", "3", Some(3000)),
            ("", " 1.5 ", Some(1500)),
            ("250", "3", Some(250)),
            ("soon", "3", Some(3000)),
            ("-1", "3", Some(3000)),
            ("", "-1", None),
            ("", "NaN", None),
            ("", "soon", None),
            ("", "0", Some(0)),
            ("", "Sun, 06 Nov 1994 08:50:37 GMT", Some(60_000)),
            ("", "Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("", "Fri, 31 Dec 9999 23:59:59 GMT", Some(NEVER.as_millis())),
            ("", "10000000000000000000", Some(NEVER.as_millis())),
            ("1e300", "3", Some(NEVER.as_millis())),
            ("", "inf", Some(NEVER.as_millis())),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in [(RETRY_AFTER_MS, ms), (RETRY_AFTER.as_str(), after)] {
                if !value.is_empty() {
                    headers.insert(HeaderName::try_from(name).unwrap(), HeaderValue::from_static(value));
                }
            }
            let found = retry_after(&headers, clock).map(|after| after.as_millis());
            assert_eq!(found, wanted, "{ms:?} {after:?}");
        }
    }
}
