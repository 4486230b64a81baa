//! The slot of one attempt at an upstream, taken before anything is sent and released after the last byte of the answer. The slot
//! reports the attempt's result to the health trackers.

use std::{
    fmt,
    future::poll_fn,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    Credential, Upstream,
    circuit_breaker::{HealthChange, Refusal, Refused},
    failure_counts::{ANY_KEY, KeyId},
    health::HealthPass,
    pool::{CredentialHealth, UpstreamShared},
    verdict::{AttemptContext, ReportedVerdicts, Verdict},
};
use crate::domain::health_state::EjectionCause;

/// A client's disconnect counts against the upstream only after this time, and only if the upstream answered no request
/// meanwhile: such an upstream hangs. Clients wait 300 to 600 s (docs/wire.md, section 5), people less.
const HUNG_AFTER: Duration = Duration::from_secs(20);

/// Why an attempt at an upstream gets no slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotUnavailable {
    /// The upstream or the credential has reached its `max_in_flight`.
    Full,
    /// The upstream or the credential is ejected, or another request probes it.
    Ejected,
}

/// The slot of one attempt at an upstream, until the last byte of the answer. Reports the result of the attempt to the health state.
pub struct Lease {
    upstream: Arc<Upstream>,
    credential: usize,
    began: Instant,
    key: KeyId,
    given: ReportedVerdicts,
    upstream_pass: HealthPass,
    credential_pass: HealthPass,
    answered: bool,
    told: bool,
}

impl Upstream {
    /// Takes a slot of this upstream and of its credential at this index. `anyway` takes ejected ones too, if no better one is left.
    ///
    /// # Errors
    /// When no slot is free, or the upstream or the credential is ejected.
    pub fn lease(
        self: &Arc<Self>,
        credential: usize,
        asker: &AttemptContext<'_>,
        anyway: bool,
    ) -> Result<Lease, SlotUnavailable> {
        let now = Instant::now();
        let &AttemptContext { key, model, given } = asker;
        let (shared, account) = (&self.pool.shared, self.account(credential).ok_or(SlotUnavailable::Ejected)?);
        let limit = self.credentials.get(credential).and_then(|credential| credential.max_in_flight);
        let upstream_pass = shared.tracker.pass(model, key, now, anyway).ok_or(SlotUnavailable::Ejected)?;
        let Some(credential_pass) = account.tracker.pass(model, key, now, anyway) else {
            shared.tracker.abandoned(&upstream_pass);
            return Err(SlotUnavailable::Ejected);
        };
        if !shared.enter(account, self.config.max_in_flight, limit) {
            shared.tracker.abandoned(&upstream_pass);
            account.tracker.abandoned(&credential_pass);
            return Err(SlotUnavailable::Full);
        }
        let upstream = Arc::clone(self);
        let (answered, told) = (false, false);
        Ok(Lease { upstream, credential, began: now, key, given, upstream_pass, credential_pass, answered, told })
    }

    fn account(&self, credential: usize) -> Option<&CredentialHealth> {
        self.pool.credentials.get(credential).map(Arc::as_ref)
    }

    fn leave(&self, in_flight: &AtomicUsize) {
        // `SeqCst` orders this against the waiters, which join the queue first and look for a slot then. So a waiter sees the
        // free slot, or this call sees the waiter.
        in_flight.fetch_sub(1, Ordering::SeqCst);
        if self.pool.shared.queued.load(Ordering::SeqCst) > 0 {
            self.pool.shared.room.notify_one();
        }
    }

    /// Joins the queue of requests that wait for a slot of this upstream. Returns `None` if the queue is full.
    pub fn queue(self: &Arc<Self>) -> Option<Queue> {
        let longer = |queued| (queued < self.config.max_queued).then_some(queued + 1);
        self.pool.shared.queued.fetch_update(Ordering::SeqCst, Ordering::SeqCst, longer).ok()?;
        Some(Queue { upstream: Arc::clone(self) })
    }

    /// Counts that a request makes its first attempt at this upstream. A share of these requests may be retried.
    pub fn count_request(&self) {
        self.pool.shared.count_request(Instant::now());
    }

    /// Whether this upstream's share of retries is not used up, so that [`Self::count_retry`] would succeed now.
    pub fn may_retry(&self, percent: u32) -> bool {
        self.pool.shared.may_retry(Instant::now(), percent)
    }

    /// Counts a further attempt of a request at this upstream. Returns false if the share of `percent` of retries is used up.
    pub fn count_retry(&self, percent: u32) -> bool {
        self.pool.shared.count_retry(Instant::now(), percent)
    }
}

impl UpstreamShared {
    /// Takes a slot below both limits, or none. A slot that is taken only for a moment would look used to other requests, and its
    /// release would wake waiters in vain.
    fn enter(&self, account: &CredentialHealth, whole: Option<usize>, own: Option<usize>) -> bool {
        let limits = [(&self.in_flight, whole), (&account.in_flight, own)];
        let limited = limits.iter().any(|(_, limit)| limit.is_some());
        let _one_by_one = limited.then(|| self.slot_lock.lock().unwrap_or_else(PoisonError::into_inner));
        let room = limits.iter().all(|(count, limit)| limit.is_none_or(|limit| count.load(Ordering::SeqCst) < limit));
        if room {
            for (count, _) in limits {
                count.fetch_add(1, Ordering::AcqRel);
            }
        }
        room
    }
}

impl Lease {
    /// Returns the upstream at which this attempt is made.
    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    /// Returns the credential of the provider with which this attempt at an upstream is made.
    pub fn credential(&self) -> Option<&Credential> {
        self.upstream.credential(self.credential)
    }

    /// Records the first byte of an answer's body, which puts the upstream and the credential in service again. The time until then
    /// counts for the upstream's latency only where a model `works` on the answer.
    pub fn answers(&mut self, works: bool) {
        if std::mem::replace(&mut self.answered, true) {
            return;
        }
        let now = Instant::now();
        if works {
            self.shared().took(now, now.saturating_duration_since(self.began));
        }
        self.shared().note_answer(now);
        let upstream = self.shared().tracker.answers(&self.upstream_pass, now);
        let credential = self.account().map(|account| account.tracker.answers(&self.credential_pass, now));
        self.note(upstream, credential.unwrap_or_default());
    }

    /// Records that the client left during the answer: a failure if the upstream hangs. `since`: the time of the last received byte.
    pub fn client_left(&mut self, since: Instant) {
        if since.elapsed() < HUNG_AFTER {
            self.report(Verdict::Answered);
        } else {
            self.report_if_hung(since);
        }
    }

    /// Reports a failure if the client waited in vain since then for longer than [`HUNG_AFTER`].
    fn report_if_hung(&mut self, since: Instant) {
        if since.elapsed() >= HUNG_AFTER && !self.shared().has_answered_since(since) {
            self.report(Verdict::Failed);
        }
    }

    /// Reports the result of the attempt to the health states of the upstream and the credential. Only the first call counts.
    pub fn report(&mut self, verdict: Verdict) {
        if std::mem::replace(&mut self.told, true) {
            return;
        }
        let now = Instant::now();
        let Some(account) = self.account() else { return };
        let (shared, key) = (self.shared(), self.key);
        if !matches!(verdict, Verdict::Failed | Verdict::Unreachable) {
            shared.note_answer(now);
        }
        let (of_upstream, of_credential) = if self.given.has(verdict) {
            self.abandoned(shared, account)
        } else {
            match verdict {
                Verdict::Answered | Verdict::Declined => {
                    let paid = verdict == Verdict::Answered;
                    self.upstream_pass.model_health.last_faulted.store(0, Ordering::Relaxed);
                    (
                        shared.tracker.succeeded(&self.upstream_pass, key, now, paid),
                        account.tracker.succeeded(&self.credential_pass, key, now, paid),
                    )
                }
                Verdict::NoModel => self.abandoned(shared, account),
                Verdict::Failed => self.failed(shared, account, now),
                Verdict::Unreachable => self.unreachable(shared, account, now),
                Verdict::RateLimited(after) => self.limited(shared, account, now, after),
                Verdict::Refused => self.refused(shared, account, now, Refusal::Key),
                Verdict::Unpaid => self.refused(shared, account, now, Refusal::Balance),
                Verdict::Payment => self.refused(shared, account, now, Refusal::Payment),
            }
        };
        self.note(of_upstream, of_credential);
    }

    fn abandoned(&self, shared: &UpstreamShared, account: &CredentialHealth) -> (HealthChanges, HealthChanges) {
        shared.tracker.abandoned(&self.upstream_pass);
        account.tracker.abandoned(&self.credential_pass);
        Default::default()
    }

    fn failed(
        &self,
        shared: &UpstreamShared,
        account: &CredentialHealth,
        now: Instant,
    ) -> (HealthChanges, HealthChanges) {
        let (health, random) = (&self.upstream.health, &*self.upstream.random);
        // A fault counts against the upstream only if the last one came from another credential, or if the attempt is a probe.
        let last = self.upstream_pass.model_health.last_faulted.swap(self.credential + 1, Ordering::Relaxed);
        let wide = self.upstream_pass.is_probe() || (last != 0 && last != self.credential + 1);
        (
            if wide {
                shared.tracker.failed(&self.upstream_pass, self.key, now, health, random)
            } else {
                HealthChanges::default()
            },
            account.tracker.failed(&self.credential_pass, self.key, now, health, random),
        )
    }

    fn unreachable(
        &self,
        shared: &UpstreamShared,
        account: &CredentialHealth,
        now: Instant,
    ) -> (HealthChanges, HealthChanges) {
        let (health, random) = (&self.upstream.health, &*self.upstream.random);
        account.tracker.abandoned(&self.credential_pass);
        self.upstream_pass.model_health.breaker.abandoned(self.upstream_pass.model);
        let whole = shared.tracker.breaker.failed(self.upstream_pass.whole, (ANY_KEY, Some(true)), now, health, random);
        ([whole, None], HealthChanges::default())
    }

    fn limited(
        &self,
        shared: &UpstreamShared,
        account: &CredentialHealth,
        now: Instant,
        after: Option<Duration>,
    ) -> (HealthChanges, HealthChanges) {
        let (health, random) = (&self.upstream.health, &*self.upstream.random);
        (
            // An upstream that answers 429 works.
            shared.tracker.succeeded(&self.upstream_pass, self.key, now, false),
            account.tracker.limited(&self.credential_pass, self.key, now, after, health, random),
        )
    }

    fn refused(
        &self,
        shared: &UpstreamShared,
        account: &CredentialHealth,
        now: Instant,
        why: Refusal,
    ) -> (HealthChanges, HealthChanges) {
        let (health, random) = (&self.upstream.health, &*self.upstream.random);
        let pass = &self.credential_pass;
        let refused = Refused { why, key: self.key, model: pass.model_health.id, at: now };
        // Another key must confirm the refusal, unless no other key uses the credential. A 402 may be about the price of one
        // request: an only key must confirm it with another model.
        let confirms = |first: &Refused| match why {
            Refusal::Key | Refusal::Balance => first.key != self.key || account.tracker.is_alone(self.key, now),
            Refusal::Payment => {
                first.key != self.key
                    || (first.model != pass.model_health.id && account.tracker.is_alone(self.key, now))
            }
        };
        pass.model_health.breaker.abandoned(pass.model);
        let whole = account.tracker.breaker.refused(pass.whole, refused, confirms, health, random);
        (shared.tracker.succeeded(&self.upstream_pass, self.key, now, false), [whole, None])
    }

    fn shared(&self) -> &UpstreamShared {
        &self.upstream.pool.shared
    }

    fn account(&self) -> Option<&CredentialHealth> {
        self.upstream.account(self.credential)
    }

    /// Logs the changes of the upstream and of the credential, each as a whole and for the model.
    fn note(&self, upstream: HealthChanges, credential: HealthChanges) {
        let name = self.account().and_then(|account| account.name.as_deref());
        for (whose, name, [whole, model]) in [("upstream", None, upstream), ("credential", name, credential)] {
            for (change, model) in [(model, Some(&*self.credential_pass.model_health.name)), (whole, None)] {
                if let Some(change) = change {
                    self.log_change(whose, name, model.filter(|model| !model.is_empty()), change);
                }
            }
        }
    }

    fn log_change(&self, whose: &str, credential: Option<&str>, model: Option<&str>, change: HealthChange) {
        let pool = &self.upstream.pool;
        // A first refusal is not certain. The metric counts only what an operator has to look at.
        if let HealthChange::Ejected(cause, _) = change
            && cause != EjectionCause::RefusedOnce
        {
            pool.metrics.ejected(credential, cause);
        }
        let upstream = &*pool.name;
        match change {
            HealthChange::Restored => {
                tracing::info!(upstream, credential, model, "the {whose} is in service again: no action is needed")
            }
            HealthChange::Ejected(EjectionCause::RefusedOnce, length) => tracing::error!(
                upstream,
                credential,
                seconds = length.as_secs(),
                "the upstream refused this credential: the credential is ejected for `seconds`, and then one request tests it. Check the credential"
            ),
            HealthChange::Ejected(EjectionCause::Refused, length) => tracing::error!(
                upstream,
                credential,
                seconds = length.as_secs(),
                "the upstream refused this credential twice: the credential is ejected. Replace the credential"
            ),
            HealthChange::Ejected(EjectionCause::Unpaid, length) => tracing::error!(
                upstream,
                credential,
                seconds = length.as_secs(),
                "the account of this credential has no money left: the credential is ejected. Top up the account"
            ),
            HealthChange::Ejected(cause, length) => tracing::warn!(
                upstream,
                credential,
                model,
                cause = cause.name(),
                seconds = length.as_secs(),
                "the {whose} is ejected because of `cause`: requests go to other candidates. Check the provider"
            ),
        }
    }
}

/// Changes of the whole, and of one model.
type HealthChanges = [Option<HealthChange>; 2];

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let upstream = &self.upstream.config.name;
        f.debug_struct("Lease")
            .field("upstream", upstream)
            .field("credential", &self.credential)
            .finish_non_exhaustive()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.answered {
            self.report_if_hung(self.began);
        }
        let upstream = &self.upstream;
        let Some(account) = upstream.account(self.credential) else { return };
        if !self.told {
            upstream.pool.shared.tracker.abandoned(&self.upstream_pass);
            account.tracker.abandoned(&self.credential_pass);
        }
        upstream.leave(&account.in_flight);
        upstream.leave(&upstream.pool.shared.in_flight);
    }
}

/// A request's place in the queue for a slot of an upstream that has reached its `max_in_flight`.
#[derive(Debug)]
pub struct Queue {
    upstream: Arc<Upstream>,
}

impl Queue {
    /// Waits in these queues until `take` gets a slot at an upstream. `take` runs now, and whenever a request at the upstreams ends.
    pub async fn wait<T>(lines: &[Self], mut take: impl FnMut() -> Option<T>) -> T {
        loop {
            let mut rooms: Vec<_> =
                lines.iter().map(|line| Box::pin(line.upstream.pool.shared.room.notified())).collect();
            // Registered before `take` looks. Otherwise the end of a request between the two would be missed.
            for room in &mut rooms {
                room.as_mut().enable();
            }
            if let Some(taken) = take() {
                return taken;
            }
            // When dropped, the other futures pass on a notification that they received.
            poll_fn(|cx| match rooms.iter_mut().any(|room| room.as_mut().poll(cx).is_ready()) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            })
            .await;
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.upstream.pool.shared.queued.fetch_sub(1, Ordering::AcqRel);
        // This waiter may have been woken and have taken another slot. The next waiter has to look.
        self.upstream.pool.shared.room.notify_one();
    }
}

#[cfg(test)]
mod tests;
