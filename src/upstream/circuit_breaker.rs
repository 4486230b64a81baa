//! A circuit breaker: whether attempts may use an upstream, a credential, or either of them for one model.
//!
//! In service -> ejected (for a time) -> half-open (one request probes) -> in service, or ejected again for longer. A read of
//! the health state costs two loads. A lock, held for nanoseconds, guards the counts.

mod keys;
mod refusal;

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

pub(super) use refusal::{Refusal, Refused};

use super::failure_counts::{FailureCounts, FailureSource, KeyId};
use crate::{
    concurrent::random_source::RandomSource,
    config::Health,
    domain::health_state::{EjectionCause, HealthState},
};

/// The cooldown after a 429 without `Retry-After`. Each further one in a row doubles it, up to the maximum.
const COOLDOWN: Duration = Duration::from_secs(1);
const COOLDOWN_MAX: Duration = Duration::from_secs(30);

/// After this time without an answer to a probe, a second probe starts: an answer that is not streamed takes minutes.
const PROBE_TIMEOUT: Duration = Duration::from_secs(30);

/// The ejection after the first refusal of a credential. Long enough that requests in progress use other candidates, short
/// enough that a provider's mistake costs little. Then one request asks for the second proof.
const REFUSED_ONCE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct CircuitBreaker {
    began: Instant,
    /// Milliseconds since `began`, plus one, until which the breaker is ejected; 0 = in service.
    until: AtomicU64,
    cause: AtomicU8,
    /// Milliseconds since `began`, plus one, at which the probe began; 0 = no probe is in progress.
    probing: AtomicU64,
    /// The number of ejections so far. An attempt that began under another number does not restore the breaker.
    epoch: AtomicU64,
    /// Milliseconds since `began` until which the breaker may be shut for a single key.
    shut_keys_until: AtomicU64,
    /// Whether a count exists that a success would change. Nearly always false: then a success needs no lock.
    has_counts: AtomicBool,
    state: Mutex<BreakerState>,
}

#[derive(Debug, Default)]
struct BreakerState {
    failure_counts: FailureCounts,
    limited_in_a_row: u32,
    /// Consecutive ejections without a long healthy time between them.
    ejections: u32,
    restored: Option<Instant>,
    /// The first credential refusal since the last success.
    refused: Option<Refused>,
    /// The keys whose faults caused the last ejection.
    failure_source: Option<FailureSource>,
    /// The key whose probe failed since the last ejection, and the time until which that key may not probe again. Other keys may.
    failed_probe: Option<(KeyId, Instant)>,
}

/// The state of the breaker at the beginning of an attempt. The attempt returns the pass at its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct BreakerPass {
    epoch: u64,
    /// When this attempt began to probe, as in `probing`; 0 = the attempt is no probe.
    probe: u64,
}

impl BreakerPass {
    pub(super) fn is_probe(self) -> bool {
        self.probe > 0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HealthChange {
    /// Ejected for this time.
    Ejected(EjectionCause, Duration),
    /// In service again.
    Restored,
}

impl CircuitBreaker {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            began: now,
            until: AtomicU64::new(0),
            cause: AtomicU8::new(0),
            probing: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
            shut_keys_until: AtomicU64::new(0),
            has_counts: AtomicBool::new(false),
            state: Mutex::default(),
        }
    }

    /// Returns the current health state.
    pub(super) fn health_state(&self, now: Instant) -> HealthState {
        let until = self.until.load(Ordering::Acquire);
        if until == 0 {
            return HealthState::InService;
        }
        let cause = self.cause();
        let left = (self.began + Duration::from_millis(until - 1)).saturating_duration_since(now);
        match (left.is_zero(), cause) {
            // A cooldown after a 429 ends without a probe.
            (true, EjectionCause::RateLimited) => HealthState::InService,
            (true, _) if !self.is_recent(self.probing.load(Ordering::Relaxed), now) => HealthState::Probation(cause),
            _ => HealthState::Out { cause, left },
        }
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.began).as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether a probe began at `probe` and its answer may still come.
    fn is_recent(&self, probe: u64, now: Instant) -> bool {
        probe > 0 && now < self.began + Duration::from_millis(probe - 1) + PROBE_TIMEOUT
    }

    fn cause(&self) -> EjectionCause {
        EjectionCause::ALL
            .get(usize::from(self.cause.load(Ordering::Relaxed)))
            .copied()
            .unwrap_or(EjectionCause::Faults)
    }

    /// Returns the keys whose faults caused the last ejection.
    pub(super) fn failure_source(&self) -> Option<FailureSource> {
        self.state().failure_source
    }

    /// Admits an attempt. A half-open breaker admits only the first one. `anyway` admits an attempt even if the breaker is
    /// ejected, because no better candidate is left.
    pub(super) fn pass(&self, key: KeyId, now: Instant, anyway: bool) -> Option<BreakerPass> {
        let epoch = self.epoch.load(Ordering::Acquire);
        match self.health_state(now) {
            HealthState::InService => Some(BreakerPass { epoch, probe: 0 }),
            HealthState::Probation(_) => {
                self.probe(key, now).or_else(|| anyway.then_some(BreakerPass { epoch, probe: 0 }))
            }
            HealthState::Out { .. } => anyway.then_some(BreakerPass { epoch, probe: 0 }),
        }
    }

    /// Takes the role of the probe under the lock: otherwise an ejection at this moment would leave an outdated probe to wait
    /// for.
    fn probe(&self, key: KeyId, now: Instant) -> Option<BreakerPass> {
        let state = self.state();
        if state.failed_probe.is_some_and(|(failed, until)| failed == key && now < until) {
            return None;
        }
        let epoch = self.epoch.load(Ordering::Acquire);
        match self.health_state(now) {
            HealthState::InService => Some(BreakerPass { epoch, probe: 0 }),
            HealthState::Probation(_) => {
                let probe = self.millis(now).saturating_add(1);
                self.probing.store(probe, Ordering::Release);
                Some(BreakerPass { epoch, probe })
            }
            HealthState::Out { .. } => None,
        }
    }

    /// Notes that an attempt ended without a result.
    pub(super) fn abandoned(&self, pass: BreakerPass) {
        if pass.is_probe() {
            let _state = self.state();
            self.release(pass);
        }
    }

    /// Ends the probe, if this attempt is the probe.
    fn release(&self, pass: BreakerPass) {
        if pass.is_probe() && self.is_current(pass) && self.probing.load(Ordering::Relaxed) == pass.probe {
            self.probing.store(0, Ordering::Release);
        }
    }

    fn is_current(&self, pass: BreakerPass) -> bool {
        pass.epoch == self.epoch.load(Ordering::Acquire)
    }

    /// Notes the first byte of an answer. The breaker is in service again, whatever becomes of the rest of the answer.
    pub(super) fn answers(&self, pass: BreakerPass, now: Instant) -> Option<HealthChange> {
        // The breaker is nearly always in service. Then no lock is needed.
        if self.until.load(Ordering::Acquire) == 0 || !self.is_current(pass) {
            return None;
        }
        let mut state = self.state();
        self.is_current(pass).then(|| self.restore(&mut state, now))?
    }

    /// Notes that an attempt succeeded. A declined request (not `paid`) proves nothing about the credential or its money.
    pub(super) fn succeeded(&self, pass: BreakerPass, key: KeyId, now: Instant, paid: bool) -> Option<HealthChange> {
        if !self.has_counts.load(Ordering::Acquire) {
            return None;
        }
        let mut state = self.state();
        state.failure_counts.succeeded(key, now);
        state.limited_in_a_row = 0;
        if paid {
            state.refused = None;
        }
        let restores = self.is_current(pass) && (paid || !self.cause().is_refusal());
        if !restores {
            self.release(pass);
        }
        let change = if restores { self.restore(&mut state, now) } else { None };
        if state.refused.is_none() && self.until.load(Ordering::Acquire) == 0 && state.failure_counts.is_clean(now) {
            self.has_counts.store(false, Ordering::Release);
        }
        change
    }

    /// Notes that an attempt failed. `alone`: whether no other key shares the breaker, where the breaker itself does not know the
    /// keys.
    pub(super) fn failed(
        &self,
        pass: BreakerPass,
        (key, alone): (KeyId, Option<bool>),
        now: Instant,
        health: &Health,
        random: &RandomSource,
    ) -> Option<HealthChange> {
        let mut state = self.state();
        self.has_counts.store(true, Ordering::Release);
        state.failure_counts.failed(key, now);
        let failure_source = match self.health_state(now) {
            HealthState::Out { left, .. } if !left.is_zero() => None,
            HealthState::Out { .. } | HealthState::Probation(_) if !self.is_current(pass) => None,
            HealthState::Out { .. } | HealthState::Probation(_) => {
                let alone = alone.unwrap_or_else(|| state.failure_counts.is_alone(key, now));
                let failure_source = match state.failed_probe {
                    Some((other, _)) if other != key => Some(FailureSource::Several),
                    _ => alone.then_some(FailureSource::One(key)),
                };
                // The failed probe of one key among several is not enough. The next request of another key probes at once.
                if failure_source.is_none() {
                    state.failed_probe = Some((key, now + health.eject));
                    self.release(pass);
                }
                failure_source
            }
            HealthState::InService => state.failure_counts.is_too_much(now, health),
        };
        if failure_source.is_none() {
            self.shut_for(&mut state.failure_counts, key, now, health);
        }
        state.failure_source = Some(failure_source?);
        Some(self.eject(&mut state, now, health, random))
    }

    /// Ejects for failures that other breakers counted, unless already ejected: for a cooldown of the length `pause`, or else as
    /// `Faults`.
    pub(super) fn eject_for_models(
        &self,
        now: Instant,
        pause: Option<Duration>,
        health: &Health,
        random: &RandomSource,
    ) -> Option<HealthChange> {
        let mut state = self.state();
        if self.health_state(now) != HealthState::InService {
            return None;
        }
        self.has_counts.store(true, Ordering::Release);
        Some(match pause {
            Some(length) => self.out(&mut state, EjectionCause::RateLimited, now, length),
            None => self.eject(&mut state, now, health, random),
        })
    }

    fn eject(&self, state: &mut BreakerState, now: Instant, health: &Health, random: &RandomSource) -> HealthChange {
        if state.restored.is_some_and(|restored| now >= restored + health.eject_max) {
            state.ejections = 0;
        }
        let times = 1_u32.checked_shl(state.ejections).unwrap_or(u32::MAX);
        state.ejections = state.ejections.saturating_add(1);
        let length = jitter(health.eject.saturating_mul(times).min(health.eject_max), random);
        self.out(state, EjectionCause::Faults, now, length)
    }

    /// Notes that the upstream refused the credential of an attempt. The first refusal ejects for a short time, or not at all
    /// where the request may be the cause. A second refusal that `confirms` the first ejects for long.
    pub(super) fn refused(
        &self,
        pass: BreakerPass,
        refused: Refused,
        confirms: impl FnOnce(&Refused) -> bool,
        health: &Health,
        random: &RandomSource,
    ) -> Option<HealthChange> {
        let (now, why) = (refused.at, refused.why);
        let mut state = self.state();
        self.has_counts.store(true, Ordering::Release);
        match self.health_state(now) {
            // The attempt began before the last ejection, so this refusal adds nothing new.
            HealthState::Out { .. } if !self.is_current(pass) => return None,
            HealthState::Out { cause: EjectionCause::Refused | EjectionCause::Unpaid, left } if !left.is_zero() => {
                return None;
            }
            _ => {}
        }
        let recent = |first: &Refused| now < first.at + health.refused.saturating_mul(2);
        let first = state.refused.filter(|first| recent(first) && first.why.cause() == why.cause());
        if first.is_some_and(|first| confirms(&first)) {
            let length = jitter(health.refused, random);
            return Some(self.out(&mut state, why.cause(), now, length));
        }
        state.refused = Some(first.unwrap_or(refused));
        match self.health_state(now) {
            HealthState::Out { left, .. } if !left.is_zero() => None,
            _ if why == Refusal::Payment => {
                self.release(pass);
                None
            }
            _ => {
                let length = REFUSED_ONCE.min(health.refused);
                let news = first.is_none();
                let change = self.out(&mut state, EjectionCause::RefusedOnce, now, length);
                news.then_some(change)
            }
        }
    }

    /// Notes that an attempt got a 429. `after` is the time from `Retry-After`.
    pub(super) fn limited(
        &self,
        pass: BreakerPass,
        key: KeyId,
        now: Instant,
        after: Option<Duration>,
        health: &Health,
    ) -> Option<HealthChange> {
        let mut state = self.state();
        self.has_counts.store(true, Ordering::Release);
        // Several attempts in flight that all got a 429 count as one 429.
        if after.is_none() && !self.is_current(pass) && matches!(self.health_state(now), HealthState::Out { .. }) {
            return None;
        }
        let times = 1_u32.checked_shl(state.limited_in_a_row).unwrap_or(u32::MAX);
        let length = match after {
            Some(after) => after.min(health.cooldown_max),
            None => {
                state.limited_in_a_row = state.limited_in_a_row.saturating_add(1);
                COOLDOWN.saturating_mul(times).min(COOLDOWN_MAX).min(health.cooldown_max)
            }
        };
        let (longer, known) = match self.health_state(now) {
            HealthState::Out { left, cause } => (length > left, cause == EjectionCause::RateLimited),
            HealthState::InService | HealthState::Probation(_) => (!length.is_zero(), false),
        };
        if !longer {
            self.release(pass);
            return None;
        }
        state.failure_source = Some(FailureSource::One(key));
        let change = self.out(&mut state, EjectionCause::RateLimited, now, length);
        // Where no better candidate is left, attempts still use an ejected one. Each further 429 is then not reported again.
        (!known).then_some(change)
    }

    fn out(&self, state: &mut BreakerState, cause: EjectionCause, now: Instant, length: Duration) -> HealthChange {
        state.failure_counts.clear();
        state.failed_probe = None;
        // Rounded up to a full millisecond: no attempt starts before the time that the upstream named.
        let until = (now + length).saturating_duration_since(self.began).as_nanos().div_ceil(1_000_000);
        let until = u64::try_from(until).unwrap_or(u64::MAX - 1);
        self.cause
            .store(EjectionCause::ALL.iter().position(|other| *other == cause).unwrap_or(0) as u8, Ordering::Relaxed);
        self.probing.store(0, Ordering::Relaxed);
        self.epoch.fetch_add(1, Ordering::AcqRel);
        self.until.store(until.saturating_add(1), Ordering::Release);
        HealthChange::Ejected(cause, length)
    }

    fn restore(&self, state: &mut BreakerState, now: Instant) -> Option<HealthChange> {
        if self.until.swap(0, Ordering::AcqRel) == 0 {
            return None;
        }
        self.probing.store(0, Ordering::Release);
        state.failed_probe = None;
        // The end of a cooldown after a 429 is no recovery.
        (self.cause() != EjectionCause::RateLimited).then(|| {
            // Attempts that began before the ejection may have been counted since. Their results say nothing about the health
            // now.
            state.failure_counts.clear();
            state.restored = Some(now);
            state.refused = None;
            HealthChange::Restored
        })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, BreakerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Varies a time by a factor between 0.9 and 1.1. Without it all replicas would send their probes at the same moment.
fn jitter(length: Duration, random: &RandomSource) -> Duration {
    length.mul_f64(0.9 + random.draw() / 5.0)
}

#[cfg(test)]
mod tests;
