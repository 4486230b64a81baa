//! One attempt's place at an upstream: taken before anything is sent, held until the last byte of the answer, and told
//! what came of it.

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
    gate::{Change, Pass},
    pool::{Account, Shared},
};
use crate::domain::standing::Cause;

/// A client that leaves says nothing of the upstream, unless it waited this long in vain, and the upstream answered nobody
/// else meanwhile either: that one hangs. Clients wait 300 to 600 s (docs/wire.md, section 5), people less.
const HUNG: Duration = Duration::from_secs(20);

/// What came of an attempt, as far as the health of who was asked is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was answered, to the end or as long as the client wanted.
    Answered,
    /// It failed at the upstream: 5xx, 408, no answer, an answer that broke.
    Failed,
    /// No connection: no credential has to do with it.
    Unreachable,
    /// 429, with its `Retry-After`.
    RateLimited(Option<Duration>),
    /// The credential was refused, or its money is spent.
    Refused,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPlace {
    /// As many requests are under way as may be.
    Full,
    /// It is passed by, or another request probes it.
    Out,
}

/// A place for one attempt.
pub struct Lease {
    upstream: Arc<Upstream>,
    credential: usize,
    began: Instant,
    upstream_pass: Pass,
    credential_pass: Pass,
    answered: bool,
    told: bool,
}

impl Upstream {
    /// Takes a place with the credential of this index. Where one of the two is passed by only `anyway`, because
    /// nothing better is left.
    ///
    /// # Errors
    /// When there is none.
    pub fn lease(self: &Arc<Self>, credential: usize, anyway: bool) -> Result<Lease, NoPlace> {
        let now = Instant::now();
        let (shared, account) = (&self.pool.shared, self.account(credential).ok_or(NoPlace::Out)?);
        let limit = self.credentials.get(credential).and_then(|credential| credential.max_in_flight);
        let upstream_pass = shared.gate.pass(now, anyway).ok_or(NoPlace::Out)?;
        let Some(credential_pass) = account.gate.pass(now, anyway) else {
            shared.gate.abandoned(upstream_pass);
            return Err(NoPlace::Out);
        };
        if !shared.enter(account, self.config.max_in_flight, limit) {
            shared.gate.abandoned(upstream_pass);
            account.gate.abandoned(credential_pass);
            return Err(NoPlace::Full);
        }
        let upstream = Arc::clone(self);
        Ok(Lease { upstream, credential, began: now, upstream_pass, credential_pass, answered: false, told: false })
    }

    fn account(&self, credential: usize) -> Option<&Account> {
        self.pool.credentials.get(credential).map(Arc::as_ref)
    }

    fn leave(&self, in_flight: &AtomicUsize) {
        // One order for all with what waiters do, who stand in line first and look then: one of the two sees the other.
        in_flight.fetch_sub(1, Ordering::SeqCst);
        if self.pool.shared.queued.load(Ordering::SeqCst) > 0 {
            self.pool.shared.room.notify_one();
        }
    }

    /// Waits in line for a place to be left, if the line is not too long already.
    pub fn queue(self: &Arc<Self>) -> Option<Queue> {
        let longer = |queued| (queued < self.config.max_queued).then_some(queued + 1);
        self.pool.shared.queued.fetch_update(Ordering::SeqCst, Ordering::SeqCst, longer).ok()?;
        Some(Queue { upstream: Arc::clone(self) })
    }

    /// Counts a request's first attempt here.
    pub fn count_request(&self) {
        self.pool.shared.count_request(Instant::now());
    }

    /// Whether [`Self::count_retry`] would count one now.
    pub fn may_retry(&self, percent: u32) -> bool {
        self.pool.shared.may_retry(Instant::now(), percent)
    }

    /// Counts a request's further attempt here, if its share of `percent` is not used up.
    pub fn count_retry(&self, percent: u32) -> bool {
        self.pool.shared.count_retry(Instant::now(), percent)
    }
}

impl Shared {
    /// Takes a place below both limits or none at all: one that is held for a moment only would look like one that is
    /// taken, and its end would wake waiters in vain.
    fn enter(&self, account: &Account, whole: Option<usize>, own: Option<usize>) -> bool {
        let limits = [(&self.in_flight, whole), (&account.in_flight, own)];
        let limited = limits.iter().any(|(_, limit)| limit.is_some());
        let _one_by_one = limited.then(|| self.door.lock().unwrap_or_else(PoisonError::into_inner));
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
    /// Who is asked.
    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    /// With what.
    pub fn credential(&self) -> Option<&Credential> {
        self.upstream.credential(self.credential)
    }

    /// The first byte of an answer's body is here. How long it took is only remembered where it tells of the upstream's
    /// pace: where a model `works`.
    pub fn answers(&mut self, works: bool) {
        if std::mem::replace(&mut self.answered, true) {
            return;
        }
        let now = Instant::now();
        if works {
            self.shared().took(now, now.saturating_duration_since(self.began));
        }
        self.shared().hears(now);
        let upstream = self.shared().gate.answers(self.upstream_pass, now);
        let credential = self.account().and_then(|account| account.gate.answers(self.credential_pass, now));
        self.note(upstream, credential);
    }

    /// The client left inside the answer, of which the last came at `since`.
    pub fn left(&mut self, since: Instant) {
        if since.elapsed() < HUNG {
            self.tell(Verdict::Answered);
        } else {
            self.given_up(since);
        }
    }

    /// Nobody waits any longer for what did not come since then.
    fn given_up(&mut self, since: Instant) {
        if since.elapsed() >= HUNG && !self.shared().was_heard_since(since) {
            self.tell(Verdict::Failed);
        }
    }

    /// Tells what came of the attempt. Only the first call counts.
    pub fn tell(&mut self, verdict: Verdict) {
        if std::mem::replace(&mut self.told, true) {
            return;
        }
        let now = Instant::now();
        let Some(account) = self.account() else { return };
        let (shared, upstream) = (self.shared(), &self.upstream);
        let (health, dice) = (&upstream.health, &*upstream.dice);
        if !matches!(verdict, Verdict::Failed | Verdict::Unreachable) {
            shared.hears(now);
        }
        let (of_upstream, of_credential) = match verdict {
            Verdict::Answered => {
                shared.last_faulted.store(0, Ordering::Relaxed);
                (shared.gate.succeeded(self.upstream_pass, now), account.gate.succeeded(self.credential_pass, now))
            }
            Verdict::Failed => {
                // One bad credential is no bad upstream: a fault counts against that where it follows one of another.
                let last = shared.last_faulted.swap(self.credential + 1, Ordering::Relaxed);
                let wide = self.upstream_pass.is_probe() || (last != 0 && last != self.credential + 1);
                (
                    wide.then(|| shared.gate.failed(self.upstream_pass, now, health, dice)).flatten(),
                    account.gate.failed(self.credential_pass, now, health, dice),
                )
            }
            Verdict::Unreachable => {
                account.gate.abandoned(self.credential_pass);
                (shared.gate.failed(self.upstream_pass, now, health, dice), None)
            }
            // Whoever answers that is there.
            Verdict::RateLimited(after) => (
                shared.gate.succeeded(self.upstream_pass, now),
                account.gate.limited(self.credential_pass, now, after, health),
            ),
            Verdict::Refused => (
                shared.gate.succeeded(self.upstream_pass, now),
                account.gate.refused(self.credential_pass, now, health, dice),
            ),
        };
        self.note(of_upstream, of_credential);
    }

    fn shared(&self) -> &Shared {
        &self.upstream.pool.shared
    }

    fn account(&self) -> Option<&Account> {
        self.upstream.account(self.credential)
    }

    /// Tells the operator what changed.
    fn note(&self, upstream: Option<Change>, credential: Option<Change>) {
        let pool = &self.upstream.pool;
        for (whose, change) in [("upstream", upstream), ("credential", credential)] {
            let Some(change) = change else { continue };
            let name = self.account().and_then(|account| account.name.as_deref()).filter(|_| whose == "credential");
            if let Change::Out(cause, _) = change {
                pool.metrics.ejected(name, cause);
            }
            let upstream = &*pool.name;
            match change {
                Change::Restored => tracing::info!(upstream, credential = name, "{whose} restored"),
                Change::Out(Cause::Refused, length) => tracing::error!(
                    upstream,
                    credential = name,
                    seconds = length.as_secs(),
                    "the upstream refuses this credential, or its money is spent: it is left alone; renew it"
                ),
                Change::Out(cause, length) => tracing::warn!(
                    upstream,
                    credential = name,
                    cause = cause.name(),
                    seconds = length.as_secs(),
                    "{whose} ejected"
                ),
            }
        }
    }
}

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
            self.given_up(self.began);
        }
        let upstream = &self.upstream;
        let Some(account) = upstream.account(self.credential) else { return };
        if !self.told {
            upstream.pool.shared.gate.abandoned(self.upstream_pass);
            account.gate.abandoned(self.credential_pass);
        }
        upstream.leave(&account.in_flight);
        upstream.leave(&upstream.pool.shared.in_flight);
    }
}

/// A place in the line before a full upstream.
#[derive(Debug)]
pub struct Queue {
    upstream: Arc<Upstream>,
}

impl Queue {
    /// Takes a place as soon as `take` finds one; it is asked now and whenever a request ends at one of these.
    pub async fn wait<T>(lines: &[Self], mut take: impl FnMut() -> Option<T>) -> T {
        loop {
            let mut rooms: Vec<_> =
                lines.iter().map(|line| Box::pin(line.upstream.pool.shared.room.notified())).collect();
            // In line before it is asked, or the end of a request between the two would be missed.
            for room in &mut rooms {
                room.as_mut().enable();
            }
            if let Some(taken) = take() {
                return taken;
            }
            // The others hand on what they were told, as they are dropped.
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
        // It may have been woken and found something else: the next one shall look.
        self.upstream.pool.shared.room.notify_one();
    }
}

#[cfg(test)]
mod tests;
