//! An upstream or a credential with what is known of each model there: a gate as a whole, and one for each model.
//!
//! Faults and pauses count for the model. Where several models are out, the whole is.

use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{
    gate::{BreakerPass, CircuitBreaker, HealthChange},
    tally::{FailureSource, KeyId},
};
use crate::{
    config::Health,
    domain::{
        chance::{self, Dice},
        standing::{EjectionCause, HealthState},
    },
};

/// Models that are told apart. Clients choose names where a wildcard leads, so there has to be a bound; with more in use,
/// what is known of another one is forgotten, which never leaves an account out.
const MOST_MODELS: usize = 64;

/// A model counts as one in use for this long.
const IN_USE: Duration = Duration::from_secs(30);

/// So many models have to be out before the whole is, or all that are in use, but two at least.
const SEVERAL: usize = 3;

/// An upstream as a whole, or one credential.
#[derive(Debug)]
pub(super) struct HealthTracker {
    began: Instant,
    pub(super) gate: CircuitBreaker,
    models: RwLock<HashMap<Arc<str>, Arc<ModelHealth>>>,
    /// Whether the gate of some model may be shut, for all or for one key. Nearly never: then no model is looked up.
    any_out: AtomicBool,
}

/// What is known of one model.
#[derive(Debug)]
pub(super) struct ModelHealth {
    pub(super) name: Arc<str>,
    /// A number that belongs to the name.
    pub(super) id: u64,
    pub(super) gate: CircuitBreaker,
    /// The credential of the last fault since the last success, plus one; 0 = none. Of an upstream's models only.
    pub(super) last_faulted: AtomicUsize,
    /// Milliseconds since the ward began at which it was asked for last.
    used: AtomicU64,
    /// Whether it ever gave an answer: a made-up name never does.
    answered: AtomicBool,
}

/// What an attempt may have to tell when it is over.
#[derive(Debug)]
pub(super) struct HealthPass {
    pub(super) whole: BreakerPass,
    pub(super) lane: Arc<ModelHealth>,
    pub(super) model: BreakerPass,
}

impl HealthPass {
    /// Whether this attempt is one that probes.
    pub(super) fn is_probe(&self) -> bool {
        self.whole.is_probe() || self.model.is_probe()
    }
}

impl HealthTracker {
    pub(super) fn new(now: Instant) -> Self {
        let (models, any_out) = (RwLock::default(), AtomicBool::new(false));
        Self { began: now, gate: CircuitBreaker::new(now), models, any_out }
    }

    /// How it stands for a model and a key: the worse of the two gates.
    pub(super) fn standing(&self, model: &str, key: KeyId, now: Instant) -> HealthState {
        let whole = self.gate.standing(now);
        if !self.any_out.load(Ordering::Acquire) {
            return whole;
        }
        let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
        models.get(model).map_or(whole, |lane| whole.and(lane.gate.standing_for(key, now)))
    }

    /// How it stands with the best of the models that it is asked for.
    pub(super) fn standing_at_best(&self, now: Instant) -> HealthState {
        let whole = self.gate.standing(now);
        if !self.any_out.load(Ordering::Acquire) {
            return whole;
        }
        let each = self.lanes().into_iter().map(|lane| (lane.gate.standing(now), self.is_used(&lane, now)));
        let known = each.filter(|(standing, used)| *used || *standing != HealthState::InService);
        whole.and(known.map(|(standing, _)| standing).min_by(HealthState::badness).unwrap_or_default())
    }

    /// Lets an attempt through both gates, or through neither.
    pub(super) fn pass(&self, model: &str, key: KeyId, now: Instant, anyway: bool) -> Option<HealthPass> {
        let whole = self.gate.pass(key, now, anyway)?;
        let lane = self.lane(model, now);
        let Some(model) = lane.gate.pass(key, now, anyway) else {
            self.gate.abandoned(whole);
            return None;
        };
        lane.used.store(self.millis(now), Ordering::Relaxed);
        lane.gate.uses(key, now);
        Some(HealthPass { whole, lane, model })
    }

    /// An attempt ended without telling anything.
    pub(super) fn abandoned(&self, pass: &HealthPass) {
        self.gate.abandoned(pass.whole);
        pass.lane.gate.abandoned(pass.model);
    }

    /// The first byte of an answer is here.
    pub(super) fn answers(&self, pass: &HealthPass, now: Instant) -> [Option<HealthChange>; 2] {
        [self.gate.answers(pass.whole, now), pass.lane.gate.answers(pass.model, now)]
    }

    /// An attempt succeeded; see [`CircuitBreaker::succeeded`].
    pub(super) fn succeeded(
        &self,
        pass: &HealthPass,
        key: KeyId,
        now: Instant,
        paid: bool,
    ) -> [Option<HealthChange>; 2] {
        if paid && !pass.lane.answered.load(Ordering::Relaxed) {
            pass.lane.answered.store(true, Ordering::Relaxed);
        }
        let whole = self.gate.succeeded(pass.whole, key, now, paid);
        let model = pass.lane.gate.succeeded(pass.model, key, now, paid);
        if self.any_out.load(Ordering::Acquire) {
            self.look_whether_any_is_out(now);
        }
        [whole, model]
    }

    /// An attempt failed.
    pub(super) fn failed(
        &self,
        pass: &HealthPass,
        key: KeyId,
        now: Instant,
        health: &Health,
        dice: &Dice,
    ) -> [Option<HealthChange>; 2] {
        let model = pass.lane.gate.failed(pass.model, (key, None), now, health, dice);
        if model.is_none() && pass.lane.gate.has_keys_shut(now) {
            self.any_out.store(true, Ordering::Release);
        }
        let whole = if pass.whole.is_probe() {
            self.gate.failed(pass.whole, (key, Some(self.is_alone(key, now))), now, health, dice)
        } else {
            model.and_then(|_| self.widen(EjectionCause::Faults, now, health, dice))
        };
        [whole, model]
    }

    /// An attempt was told to come later.
    pub(super) fn limited(
        &self,
        pass: &HealthPass,
        key: KeyId,
        now: Instant,
        after: Option<Duration>,
        health: &Health,
        dice: &Dice,
    ) -> [Option<HealthChange>; 2] {
        self.gate.abandoned(pass.whole);
        let model = pass.lane.gate.limited(pass.model, key, now, after, health);
        [model.and_then(|_| self.widen(EjectionCause::RateLimited, now, health, dice)), model]
    }

    /// Whether this key is the only one that asked here in the last hour.
    pub(super) fn is_alone(&self, key: KeyId, now: Instant) -> bool {
        self.lanes().iter().all(|lane| lane.gate.is_alone(key, now))
    }

    /// A model went out: so does the whole, where several are out by the faults of several keys, or of the only one.
    fn widen(&self, cause: EjectionCause, now: Instant, health: &Health, dice: &Dice) -> Option<HealthChange> {
        self.any_out.store(true, Ordering::Release);
        let lanes = self.lanes();
        let out = |lane: &Arc<ModelHealth>| match lane.gate.standing(now) {
            HealthState::Out { cause: why, left } if why == cause && !left.is_zero() => {
                Some((lane.gate.accuser()?, left))
            }
            _ => None,
        };
        let are_out: Vec<(FailureSource, Duration)> = lanes.iter().filter_map(out).collect();
        let in_use = lanes.iter().filter(|lane| self.is_used(lane, now) || out(lane).is_some()).count();
        if are_out.len() < in_use.clamp(2, SEVERAL) {
            return None;
        }
        let first = are_out.first()?.0;
        let agreed = match first {
            FailureSource::Several => true,
            FailureSource::One(key) => are_out.iter().any(|(other, _)| *other != first) || self.is_alone(key, now),
        };
        let pause = are_out.iter().map(|(_, left)| *left).min().filter(|_| cause == EjectionCause::RateLimited);
        agreed.then(|| self.gate.widened(now, pause, health, dice))?
    }

    /// Credentials may have changed their places.
    pub(super) fn forget_last_faulted(&self) {
        for lane in self.lanes() {
            lane.last_faulted.store(0, Ordering::Relaxed);
        }
    }

    fn look_whether_any_is_out(&self, now: Instant) {
        let is_out =
            |lane: &Arc<ModelHealth>| lane.gate.standing(now) != HealthState::InService || lane.gate.has_keys_shut(now);
        if !self.lanes().iter().any(is_out) {
            self.any_out.store(false, Ordering::Release);
            // One may have gone out between the two.
            if self.lanes().iter().any(is_out) {
                self.any_out.store(true, Ordering::Release);
            }
        }
    }

    /// The models that gave an answer and were asked for within this time; 64 at most are known.
    pub(super) fn models_lately(&self, now: Instant, within: Duration) -> Vec<Arc<str>> {
        let is_late = |lane: &Arc<ModelHealth>| {
            let used = self.began + Duration::from_millis(lane.used.load(Ordering::Relaxed));
            lane.answered.load(Ordering::Relaxed) && now < used + within && !lane.name.is_empty()
        };
        self.lanes().into_iter().filter(is_late).map(|lane| Arc::clone(&lane.name)).collect()
    }

    fn lanes(&self) -> Vec<Arc<ModelHealth>> {
        self.models.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn lane(&self, model: &str, now: Instant) -> Arc<ModelHealth> {
        if let Some(lane) = self.models.read().unwrap_or_else(PoisonError::into_inner).get(model) {
            return Arc::clone(lane);
        }
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        if models.len() >= MOST_MODELS && !models.contains_key(model) {
            // Names that never gave an answer first, or made-up ones would push real ones out.
            let least = models
                .values()
                .min_by_key(|lane| (lane.answered.load(Ordering::Relaxed), lane.used.load(Ordering::Relaxed)));
            if let Some(least) = least.map(|lane| Arc::clone(&lane.name)) {
                models.remove(&least);
            }
        }
        let name: Arc<str> = Arc::from(model);
        let fresh = || {
            Arc::new(ModelHealth {
                name: Arc::clone(&name),
                id: chance::seed(&[model]),
                gate: CircuitBreaker::new(now),
                last_faulted: AtomicUsize::new(0),
                used: AtomicU64::new(self.millis(now)),
                answered: AtomicBool::new(false),
            })
        };
        Arc::clone(models.entry(Arc::clone(&name)).or_insert_with(fresh))
    }

    fn is_used(&self, lane: &ModelHealth, now: Instant) -> bool {
        let used = self.began + Duration::from_millis(lane.used.load(Ordering::Relaxed));
        now < used + IN_USE
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.began).as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_never_answered_push_out_no_others() {
        let (ward, now) = (HealthTracker::new(Instant::now()), Instant::now());
        for nth in 0..40 {
            let pass = ward.pass(&format!("real-{nth}"), 1, now, false).unwrap();
            let _ = ward.succeeded(&pass, 1, now, true);
        }
        for nth in 0..1000 {
            let later = now + Duration::from_millis(nth);
            let pass = ward.pass(&format!("made-up-{nth}"), 2, later, false).unwrap();
            ward.abandoned(&pass);
        }
        let lanes = ward.lanes();
        assert_eq!(lanes.len(), MOST_MODELS);
        assert_eq!(lanes.iter().filter(|lane| lane.name.starts_with("real-")).count(), 40);
    }
}
