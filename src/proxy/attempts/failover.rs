//! The failover rule: the first candidate, the next candidate, and the client's answer when no candidate is left.
//!
//! Another candidate is attempted only before any byte of an answer was sent to the client. This holds until [`attempt`]
//! returns a reply.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until, timeout};

use super::{
    attempt::{AttemptFailure, AttemptTarget, FailedAnswer, FailureScope, attempt},
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
    upstream::{AttemptContext, KeyId, Lease, NoSlot, Queue, ReportedVerdicts, Upstream},
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
    given: ReportedVerdicts,
    /// Candidates that were not attempted yet, in order.
    fresh: Vec<Candidate>,
    /// Whether candidates are attempted although all of them are ejected.
    last_resort: bool,
    /// Candidates that may be attempted again, and from when.
    again: Vec<(Instant, Candidate)>,
    /// The upstream of each attempt so far.
    asked: Vec<usize>,
    /// Upstreams that need a pause, with its end. `None` = the pause is longer than a request waits.
    resting: Vec<(usize, Option<Instant>)>,
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
            given: ReportedVerdicts::NOTHING,
            fresh: choice.candidates,
            last_resort: choice.last_resort,
            again: Vec::new(),
            asked: Vec::new(),
            resting: Vec::new(),
            best: None,
        }
    }

    /// Attempts candidates until one answers or none is left.
    pub(in crate::proxy) async fn run(mut self, outgoing: &OutgoingRequest<'_>) -> Result<Reply, ApiError> {
        let (mut lease, mut candidate) = self.first().await?;
        let mut model = self.note(&candidate, outgoing);
        // The journal gets the row before the first byte is sent upstream: one row per request, however many attempts follow.
        let down = self.settlement.goes_up(&self.proxy.ledger, Some(&lease.upstream().config.name)).await;
        down.map_err(|_| ApiError::upstream(Problem::LedgerUnavailable))?;
        loop {
            let upstream = candidate.upstream;
            self.asked.push(upstream);
            let may_go_on = self.asked.len() < self.tables.retries.max_attempts;
            let hold = may_go_on && self.fresh.iter().any(|other| other.upstream != upstream);
            let target = AttemptTarget { upstream, lease, model, hold };
            let failure = match attempt(self.proxy, self.tables, self.settlement, outgoing, target).await {
                Ok(reply) => return Ok(reply),
                Err(failure) => failure,
            };
            if let Some(verdict) = failure.verdict {
                self.given.note(verdict);
            }
            let may_go_on = may_go_on && outgoing.presence.is_none_or(ClientPresence::goes_on);
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
            outgoing.model.map(|asked| Arc::from(&*asked.name))
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
        if let Some(taken) = self.take_fresh() {
            return Ok(taken);
        }
        Box::pin(self.queue()).await
    }

    fn take_fresh(&mut self) -> Option<(Lease, Candidate)> {
        let tables = self.tables;
        let taken = self.fresh.iter().enumerate().find_map(|(index, candidate)| {
            let (upstream, asker) = (tables.upstreams.get(candidate.upstream)?, self.asker(candidate));
            let lease = upstream.lease(candidate.credential, &asker, self.last_resort).ok()?;
            Some((index, lease))
        });
        let (index, lease) = taken?;
        let candidate = self.fresh.remove(index);
        lease.upstream().count_request();
        Some((lease, candidate))
    }

    /// Waits for a slot, because no candidate has one now.
    async fn queue(&mut self) -> Result<(Lease, Candidate), ApiError> {
        // Another request probes each half-open candidate now. A full upstream is worth waiting for. If no upstream is full,
        // the last usable candidate is attempted in any case.
        let mut full: Vec<&Arc<Upstream>> = Vec::new();
        for candidate in &self.fresh {
            let Some(upstream) = self.tables.upstreams.get(candidate.upstream) else { continue };
            let known = full.iter().any(|other| Arc::ptr_eq(other, upstream));
            if !known && matches!(upstream.lease(candidate.credential, &self.asker(candidate), true), Err(NoSlot::Full))
            {
                full.push(upstream);
            }
        }
        if full.is_empty() {
            self.last_resort = true;
            return self.take_fresh().ok_or_else(ApiError::upstream_busy);
        }
        let lines: Vec<Queue> = full.into_iter().filter_map(Upstream::queue).collect();
        if lines.is_empty() {
            return Err(ApiError::upstream_busy());
        }
        let taken = timeout(self.tables.timeouts.queue, Queue::wait(&lines, || self.take_fresh())).await;
        taken.map_err(|_| ApiError::upstream_busy())
    }

    /// Returns the next candidate after this failure. Keeps the failed answer for the client in case no candidate is left.
    async fn after(
        &mut self,
        candidate: Candidate,
        failure: AttemptFailure,
        may_go_on: bool,
    ) -> Option<(Lease, Candidate)> {
        let AttemptFailure { scope, elsewhere, here, after, verdict: _, answer } = failure;
        let upstream = candidate.upstream;
        let now = Instant::now();
        let briefly = after.is_none_or(|after| after <= self.tables.retries.retry_after_max);
        let until = briefly.then(|| now + self.backoff(upstream).max(after.unwrap_or_default()));
        if !matches!(scope, FailureScope::Credential | FailureScope::Target) {
            self.resting.retain(|(resting, _)| *resting != upstream);
            self.resting.push((upstream, until));
        }
        if let Some(until) = until.filter(|_| here) {
            self.again.push((until, candidate.clone()));
        }
        let same = |other: &Candidate| other.upstream == upstream;
        match scope {
            FailureScope::Credential => {
                self.fresh.retain(|other| !(same(other) && other.credential == candidate.credential));
            }
            FailureScope::Target => self.fresh.retain(|other| other.target != candidate.target),
            FailureScope::Connection => self.fresh.retain(|other| !same(other)),
            // Another credential of this upstream would most probably fail in the same way.
            FailureScope::Upstream => self.fresh.sort_by_key(same),
        }
        let goes_on = elsewhere && may_go_on && !(self.fresh.is_empty() && self.again.is_empty());
        if !goes_on {
            self.keep(answer, after);
            return None;
        }
        let answer = answer.settle_down().await;
        self.keep(answer, after);
        if let Some(next) = self.next_fresh().await {
            return Some(next);
        }
        self.next_again().await
    }

    /// Returns the next candidate that was not attempted yet.
    async fn next_fresh(&mut self) -> Option<(Lease, Candidate)> {
        let tables = self.tables;
        while !self.fresh.is_empty() {
            let candidate = self.fresh.remove(0);
            let Some(upstream) = tables.upstreams.get(candidate.upstream) else { continue };
            if self.asked.contains(&candidate.upstream) {
                let Some(at) = self.rests_until(candidate.upstream) else { continue };
                if let Some(lease) = self.retry(upstream, &candidate, at, true).await {
                    return Some((lease, candidate));
                }
                continue;
            }
            match upstream.lease(candidate.credential, &self.asker(&candidate), self.last_resort) {
                Ok(lease) => return Some((self.fails_over(lease, candidate.upstream), candidate)),
                // Other candidates may have room. This candidate waits until no other is left.
                Err(NoSlot::Full) => self.again.push((Instant::now(), candidate)),
                Err(NoSlot::Out) => {}
            }
        }
        None
    }

    /// Returns the candidate that may be attempted again first, even if it is ejected: no better one is left.
    async fn next_again(&mut self) -> Option<(Lease, Candidate)> {
        let tables = self.tables;
        self.again.sort_by_key(|(at, _)| *at);
        while !self.again.is_empty() {
            let (at, candidate) = self.again.remove(0);
            let Some(upstream) = tables.upstreams.get(candidate.upstream) else { continue };
            let lease = if self.asked.contains(&candidate.upstream) {
                self.retry(upstream, &candidate, at, false).await
            } else {
                let lease = self.line(upstream, &candidate).await;
                lease.map(|lease| self.fails_over(lease, candidate.upstream))
            };
            if let Some(lease) = lease {
                return Some((lease, candidate));
            }
        }
        None
    }

    /// Returns the context of an attempt at this candidate.
    fn asker(&self, candidate: &Candidate) -> AttemptContext<'a> {
        let target = self.route.targets.get(candidate.target);
        let model = target.and_then(|target| target.model.as_deref()).or(self.subject.model).unwrap_or_default();
        AttemptContext { key: self.subject.key, model, given: self.given }
    }

    fn fails_over(&self, lease: Lease, upstream: usize) -> Lease {
        lease.upstream().count_request();
        self.tables.metrics.reattempted(upstream, ReattemptReason::Failover);
        lease
    }

    /// Waits in the queue like a first attempt, because no better candidate is left. Under load, another request takes a
    /// released slot before the next attempt.
    async fn line(&self, upstream: &Arc<Upstream>, candidate: &Candidate) -> Option<Lease> {
        let line = [upstream.queue()?];
        let asker = self.asker(candidate);
        let taken = Queue::wait(&line, || upstream.lease(candidate.credential, &asker, true).ok());
        timeout(self.tables.timeouts.queue, taken).await.ok()
    }

    /// Takes a slot for a retry after a pause, unless the upstream had too many retries lately. Only a retry that is made
    /// counts.
    async fn retry(&self, upstream: &Arc<Upstream>, candidate: &Candidate, at: Instant, fresh: bool) -> Option<Lease> {
        let percent = self.tables.retries.percent;
        // After a fault of a credential, the next credential is no additional load on the upstream.
        let free = fresh && !self.resting.iter().any(|(resting, _)| *resting == candidate.upstream);
        let anyway = !fresh || self.last_resort;
        if free || upstream.may_retry(percent) {
            sleep_until(at).await;
            let lease = match upstream.lease(candidate.credential, &self.asker(candidate), anyway) {
                Err(NoSlot::Full) if anyway && self.fresh.is_empty() => self.line(upstream, candidate).await,
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

    fn rests_until(&self, upstream: usize) -> Option<Instant> {
        let rests = self.resting.iter().find(|(resting, _)| *resting == upstream);
        rests.map_or_else(|| Some(Instant::now()), |(_, until)| *until)
    }

    /// Draws a pause between zero and the bound (full jitter).
    fn backoff(&self, upstream: usize) -> Duration {
        let times = self.asked.iter().filter(|asked| **asked == upstream).count().saturating_sub(1);
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
            Some(FailedAnswer::Theirs(reply)) => Ok(*reply),
            Some(FailedAnswer::Ours(refusal)) => Err(refusal),
            None => Err(ApiError::internal()),
        }
    }
}
