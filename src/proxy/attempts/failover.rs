//! The failover rule: the first candidate, the next candidate, and the client's answer when no candidate is left.
//!
//! Another candidate is attempted only before any byte of an answer was sent to the client. This holds until [`attempt`]
//! returns a reply.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until, timeout};

use super::{
    attempt::{AttemptFailure, AttemptTarget, FailedAnswer, FailureScope, NextAttempt, attempt},
    outgoing::OutgoingRequest,
};
use crate::{
    domain::problem::Problem,
    metering::Settlement,
    metrics::ReattemptReason,
    proxy::{
        answer::{drain::ClientPresence, reply::Reply},
        error::ApiError,
        gateway::Proxy,
        tables::Tables,
    },
    routing::{Candidate, Choice, Route},
    upstream::{AttemptContext, KeyId, Lease, Queue, ReportedVerdicts, SlotUnavailable, Upstream},
};

/// The upper bound of the first pause before a retry. The pause is drawn between zero and the bound, which doubles with each
/// retry. Requests that failed together therefore do not retry together.
const BACKOFF: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// One request on its way through its candidates.
pub(in crate::proxy) struct Failover<'a> {
    proxy: &'a Proxy,
    tables: &'a Tables,
    settlement: &'a mut Settlement,
    route: &'a Route<'a>,
    /// The key and the model of the request.
    subject: FailoverRequest<'a>,
    /// The verdicts that this request already reported to health states.
    reported: ReportedVerdicts,
    /// Candidates that were not attempted yet, in order.
    untried: Vec<Candidate>,
    /// Whether candidates are attempted although all of them are ejected.
    last_resort: bool,
    /// Candidates that may be attempted again, and from when.
    retryable: Vec<(Instant, Candidate)>,
    /// The upstream of each attempt so far.
    attempted_upstreams: Vec<usize>,
    /// Upstreams that need a pause, with its end. `None` = the pause is longer than a request waits.
    pausing: Vec<(usize, Option<Instant>)>,
    /// The best failed answer so far.
    best: Option<BestFailure>,
}

/// The key and the model of a request.
#[derive(Clone, Copy)]
pub(in crate::proxy) struct FailoverRequest<'a> {
    /// The client key.
    pub(in crate::proxy) key: KeyId,
    /// The model as the client wrote it. `None` = the request names no model.
    pub(in crate::proxy) model: Option<&'a str>,
}

struct BestFailure {
    answer: FailedAnswer,
    /// The `Retry-After` of a 429.
    after: Option<Duration>,
}

impl<'a> Failover<'a> {
    /// Starts before the first attempt.
    pub(in crate::proxy) fn new(
        proxy: &'a Proxy,
        tables: &'a Tables,
        settlement: &'a mut Settlement,
        route: &'a Route<'a>,
        subject: FailoverRequest<'a>,
        choice: Choice,
    ) -> Self {
        Self {
            proxy,
            tables,
            settlement,
            route,
            subject,
            reported: ReportedVerdicts::NOTHING,
            untried: choice.candidates,
            last_resort: choice.last_resort,
            retryable: Vec::new(),
            attempted_upstreams: Vec::new(),
            pausing: Vec::new(),
            best: None,
        }
    }

    /// Attempts candidates until one answers or none is left.
    pub(in crate::proxy) async fn run(mut self, outgoing: &OutgoingRequest<'_>) -> Result<Reply, ApiError> {
        let (mut lease, mut candidate) = self.first().await?;
        let mut model = self.note(&candidate, outgoing);
        // The journal gets the row before the first byte is sent upstream: one row per request, however many attempts follow.
        let down = self.settlement.write_open_row(&self.proxy.ledger, Some(&lease.upstream().config.name)).await;
        down.map_err(|_| ApiError::upstream(Problem::LedgerUnavailable))?;
        loop {
            let upstream = candidate.upstream;
            self.attempted_upstreams.push(upstream);
            let may_go_on = self.attempted_upstreams.len() < self.tables.retries.max_attempts;
            let hold = may_go_on && self.untried.iter().any(|other| other.upstream != upstream);
            let target = AttemptTarget { upstream, lease, model, hold };
            let failure = match attempt(self.proxy, self.tables, self.settlement, outgoing, target).await {
                Ok(reply) => return Ok(reply),
                Err(failure) => failure,
            };
            if let Some(verdict) = failure.verdict {
                self.reported.remember(verdict);
            }
            let may_go_on = may_go_on && outgoing.presence.is_none_or(ClientPresence::may_continue);
            // Boxed, so that this rare path does not make the future of every request larger.
            match Box::pin(self.after(candidate, failure, may_go_on)).await {
                Some(next) => (lease, candidate) = next,
                None => return self.end(),
            }
            model = self.note(&candidate, outgoing);
        }
    }

    /// Notes the upstream's model of this candidate and its price.
    fn note(&mut self, candidate: &Candidate, outgoing: &OutgoingRequest<'_>) -> Option<Arc<str>> {
        let target = self.route.targets.get(candidate.target);
        let model = target.and_then(|target| target.model.clone()).or_else(|| {
            // Such a target uses the name that the client wrote.
            outgoing.model.map(|requested| Arc::from(&*requested.name))
        });
        let outcome = self.settlement.outcome();
        let price = |model: &str| self.tables.prices.price(candidate.upstream, model, outcome.id.millis());
        outcome.exchange = self.tables.prices.exchange();
        outcome.price = model.as_deref().filter(|_| !outcome.is_free()).and_then(price);
        outcome.upstream_model.clone_from(&model);
        model
    }

    /// Returns the first candidate with a free slot. If all are full, waits for the first slot, up to the queue timeout.
    async fn first(&mut self) -> Result<(Lease, Candidate), ApiError> {
        if let Some(taken) = self.take_untried() {
            return Ok(taken);
        }
        Box::pin(self.queue()).await
    }

    fn take_untried(&mut self) -> Option<(Lease, Candidate)> {
        let tables = self.tables;
        let taken = self.untried.iter().enumerate().find_map(|(index, candidate)| {
            let (upstream, context) = (tables.upstreams.get(candidate.upstream)?, self.context(candidate));
            let lease = upstream.lease(candidate.credential, &context, self.last_resort).ok()?;
            Some((index, lease))
        });
        let (index, lease) = taken?;
        let candidate = self.untried.remove(index);
        lease.upstream().count_request();
        Some((lease, candidate))
    }

    /// Waits for a slot, because no candidate has one now.
    async fn queue(&mut self) -> Result<(Lease, Candidate), ApiError> {
        // Another request probes each half-open candidate now. A full upstream is worth waiting for. If no upstream is full,
        // the last usable candidate is attempted in any case.
        let mut full: Vec<&Arc<Upstream>> = Vec::new();
        for candidate in &self.untried {
            let Some(upstream) = self.tables.upstreams.get(candidate.upstream) else { continue };
            let known = full.iter().any(|other| Arc::ptr_eq(other, upstream));
            if !known
                && matches!(
                    upstream.lease(candidate.credential, &self.context(candidate), true),
                    Err(SlotUnavailable::Full)
                )
            {
                full.push(upstream);
            }
        }
        if full.is_empty() {
            self.last_resort = true;
            return self.take_untried().ok_or_else(ApiError::upstream_busy);
        }
        let lines: Vec<Queue> = full.into_iter().filter_map(Upstream::queue).collect();
        if lines.is_empty() {
            return Err(ApiError::upstream_busy());
        }
        let taken = timeout(self.tables.timeouts.queue, Queue::wait(&lines, || self.take_untried())).await;
        taken.map_err(|_| ApiError::upstream_busy())
    }

    /// Returns the next candidate after this failure. Keeps the failed answer for the client in case no candidate is left.
    async fn after(
        &mut self,
        candidate: Candidate,
        failure: AttemptFailure,
        may_go_on: bool,
    ) -> Option<(Lease, Candidate)> {
        let AttemptFailure { scope, next, after, verdict: _, answer } = failure;
        let upstream = candidate.upstream;
        let now = Instant::now();
        let briefly = after.is_none_or(|after| after <= self.tables.retries.retry_after_max);
        let until = briefly.then(|| now + self.backoff(upstream).max(after.unwrap_or_default()));
        if !matches!(scope, FailureScope::Credential | FailureScope::Target) {
            self.pausing.retain(|(pausing, _)| *pausing != upstream);
            self.pausing.push((upstream, until));
        }
        if let Some(until) = until.filter(|_| next == NextAttempt::AnyCandidate) {
            self.retryable.push((until, candidate.clone()));
        }
        let same = |other: &Candidate| other.upstream == upstream;
        match scope {
            FailureScope::Credential => {
                self.untried.retain(|other| !(same(other) && other.credential == candidate.credential));
            }
            FailureScope::Target => self.untried.retain(|other| other.target != candidate.target),
            FailureScope::Connection => self.untried.retain(|other| !same(other)),
            // Another credential of this upstream would most probably fail in the same way.
            FailureScope::Upstream => self.untried.sort_by_key(same),
        }
        let goes_on =
            next != NextAttempt::Never && may_go_on && !(self.untried.is_empty() && self.retryable.is_empty());
        if !goes_on {
            self.keep(answer, after);
            return None;
        }
        let answer = answer.release_upstream().await;
        self.keep(answer, after);
        if let Some(next) = self.next_untried().await {
            return Some(next);
        }
        self.next_retryable().await
    }

    /// Returns the next candidate that was not attempted yet.
    async fn next_untried(&mut self) -> Option<(Lease, Candidate)> {
        let tables = self.tables;
        while !self.untried.is_empty() {
            let candidate = self.untried.remove(0);
            let Some(upstream) = tables.upstreams.get(candidate.upstream) else { continue };
            if self.attempted_upstreams.contains(&candidate.upstream) {
                let Some(at) = self.pause_end(candidate.upstream) else { continue };
                if let Some(lease) = self.retry(upstream, &candidate, at, true).await {
                    return Some((lease, candidate));
                }
                continue;
            }
            match upstream.lease(candidate.credential, &self.context(&candidate), self.last_resort) {
                Ok(lease) => return Some((self.fails_over(lease, candidate.upstream), candidate)),
                // Other candidates may have room. This candidate waits until no other is left.
                Err(SlotUnavailable::Full) => self.retryable.push((Instant::now(), candidate)),
                Err(SlotUnavailable::Ejected) => {}
            }
        }
        None
    }

    /// Returns the candidate that may be attempted again first, even if it is ejected: no better one is left.
    async fn next_retryable(&mut self) -> Option<(Lease, Candidate)> {
        let tables = self.tables;
        self.retryable.sort_by_key(|(at, _)| *at);
        while !self.retryable.is_empty() {
            let (at, candidate) = self.retryable.remove(0);
            let Some(upstream) = tables.upstreams.get(candidate.upstream) else { continue };
            let lease = if self.attempted_upstreams.contains(&candidate.upstream) {
                self.retry(upstream, &candidate, at, false).await
            } else {
                let lease = self.wait_in_queue(upstream, &candidate).await;
                lease.map(|lease| self.fails_over(lease, candidate.upstream))
            };
            if let Some(lease) = lease {
                return Some((lease, candidate));
            }
        }
        None
    }

    /// Returns the context of an attempt at this candidate.
    fn context(&self, candidate: &Candidate) -> AttemptContext<'a> {
        let target = self.route.targets.get(candidate.target);
        let model = target.and_then(|target| target.model.as_deref()).or(self.subject.model).unwrap_or_default();
        AttemptContext { key: self.subject.key, model, given: self.reported }
    }

    fn fails_over(&self, lease: Lease, upstream: usize) -> Lease {
        lease.upstream().count_request();
        self.tables.metrics.reattempted(upstream, ReattemptReason::Failover);
        lease
    }

    /// Waits in the queue like a first attempt, because no better candidate is left. Under load, another request takes a
    /// released slot before the next attempt.
    async fn wait_in_queue(&self, upstream: &Arc<Upstream>, candidate: &Candidate) -> Option<Lease> {
        let line = [upstream.queue()?];
        let context = self.context(candidate);
        let taken = Queue::wait(&line, || upstream.lease(candidate.credential, &context, true).ok());
        timeout(self.tables.timeouts.queue, taken).await.ok()
    }

    /// Takes a slot for a retry after a pause, unless the upstream had too many retries lately. Only a retry that is made
    /// counts.
    async fn retry(
        &self,
        upstream: &Arc<Upstream>,
        candidate: &Candidate,
        at: Instant,
        untried: bool,
    ) -> Option<Lease> {
        let percent = self.tables.retries.percent;
        // After a fault of a credential, the next credential is no additional load on the upstream.
        let free = untried && !self.pausing.iter().any(|(pausing, _)| *pausing == candidate.upstream);
        let anyway = !untried || self.last_resort;
        if free || upstream.may_retry(percent) {
            sleep_until(at).await;
            let lease = match upstream.lease(candidate.credential, &self.context(candidate), anyway) {
                Err(SlotUnavailable::Full) if anyway && self.untried.is_empty() => {
                    self.wait_in_queue(upstream, candidate).await
                }
                lease => lease.ok(),
            }?;
            if free || upstream.count_retry(percent) {
                self.tables.metrics.reattempted(candidate.upstream, ReattemptReason::Retry);
                return Some(lease);
            }
        }
        self.tables.metrics.retry_denied(candidate.upstream);
        None
    }

    fn pause_end(&self, upstream: usize) -> Option<Instant> {
        let pause = self.pausing.iter().find(|(pausing, _)| *pausing == upstream);
        pause.map_or_else(|| Some(Instant::now()), |(_, until)| *until)
    }

    /// Draws a pause between zero and the bound (full jitter).
    fn backoff(&self, upstream: usize) -> Duration {
        let times =
            self.attempted_upstreams.iter().filter(|attempted| **attempted == upstream).count().saturating_sub(1);
        let limit = BACKOFF.saturating_mul(1 << times.min(8)).min(BACKOFF_MAX);
        limit.mul_f64(self.proxy.random.draw())
    }

    /// Keeps the more useful of two answers. The order: a 429 with `Retry-After` (the sooner the better), the last upstream's
    /// answer, an error of Tidegate.
    fn keep(&mut self, answer: FailedAnswer, after: Option<Duration>) {
        let rank = |answer: &FailedAnswer, after: Option<Duration>| match answer.status().map(|status| status.as_u16())
        {
            Some(429) if after.is_some() => (0, after.unwrap_or_default()),
            Some(_) => (1, Duration::ZERO),
            None => (2, Duration::ZERO),
        };
        let better = self.best.as_ref().is_none_or(|best| rank(&answer, after) <= rank(&best.answer, best.after));
        if better {
            self.best = Some(BestFailure { answer, after });
        }
    }

    fn end(self) -> Result<Reply, ApiError> {
        match self.best.map(|best| best.answer) {
            Some(FailedAnswer::Upstream(reply)) => Ok(*reply),
            Some(FailedAnswer::Gateway(refusal)) => Err(refusal),
            None => Err(ApiError::internal()),
        }
    }
}
