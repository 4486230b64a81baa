//! The health of an upstream or a credential: one circuit breaker for the whole, and one for each model.
//!
//! Faults and rate limits count against the model. If several models are ejected, the whole is ejected.

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
    circuit_breaker::{BreakerPass, CircuitBreaker, HealthChange},
    failure_counts::{FailureSource, KeyId},
};
use crate::{
    concurrent::random_source::RandomSource,
    config::Health,
    domain::{
        health_state::{EjectionCause, HealthState},
        random::{self},
    },
};

/// The most models with a breaker of their own. Clients choose the names where a wildcard route leads, so a bound is needed. A
/// further model replaces the state of another one, which never keeps an account ejected.
const MAX_MODELS: usize = 64;

/// A model is in use for this long after its last request.
const IN_USE: Duration = Duration::from_secs(30);

/// The whole is ejected when this many models are ejected. Where fewer are in use, all of them must be, and at least two.
const MODELS_TO_EJECT_ALL: usize = 3;

/// The health of an upstream or of one credential.
#[derive(Debug)]
pub(super) struct HealthTracker {
    began: Instant,
    pub(super) breaker: CircuitBreaker,
    models: RwLock<HashMap<Arc<str>, Arc<ModelHealth>>>,
    /// Whether a model's breaker may be ejected, or shut for one key. Nearly always false: then no model is looked up.
    any_ejected: AtomicBool,
}

/// The health of one model.
#[derive(Debug)]
pub(super) struct ModelHealth {
    pub(super) name: Arc<str>,
    /// A hash of the name.
    pub(super) id: u64,
    pub(super) breaker: CircuitBreaker,
    /// The index of the credential of the last fault since the last success, plus one; 0 = none. Only used for an upstream's
    /// models.
    pub(super) last_faulted: AtomicUsize,
    /// Milliseconds from the tracker's `began` to the model's last request.
    used: AtomicU64,
    /// Whether the model ever gave an answer. A made-up name never does.
    answered: AtomicBool,
}

/// The state of both breakers at the beginning of an attempt. The attempt returns the pass at its end.
#[derive(Debug)]
pub(super) struct HealthPass {
    pub(super) whole: BreakerPass,
    pub(super) model_health: Arc<ModelHealth>,
    pub(super) model: BreakerPass,
}

impl HealthPass {
    /// Whether this attempt is a probe.
    pub(super) fn is_probe(&self) -> bool {
        self.whole.is_probe() || self.model.is_probe()
    }
}

impl HealthTracker {
    pub(super) fn new(now: Instant) -> Self {
        let (models, any_ejected) = (RwLock::default(), AtomicBool::new(false));
        Self { began: now, breaker: CircuitBreaker::new(now), models, any_ejected }
    }

    /// Returns the health state for a model and a key: the worse of the two breakers' states.
    pub(super) fn health_state(&self, model: &str, key: KeyId, now: Instant) -> HealthState {
        let whole = self.breaker.health_state(now);
        if !self.any_ejected.load(Ordering::Acquire) {
            return whole;
        }
        let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
        models.get(model).map_or(whole, |model_health| whole.and(model_health.breaker.health_state_for(key, now)))
    }

    /// Returns the health state for the best of the models in use.
    pub(super) fn best_health_state(&self, now: Instant) -> HealthState {
        let whole = self.breaker.health_state(now);
        if !self.any_ejected.load(Ordering::Acquire) {
            return whole;
        }
        let each = self
            .all_models()
            .into_iter()
            .map(|model_health| (model_health.breaker.health_state(now), self.is_used(&model_health, now)));
        let known = each.filter(|(health_state, used)| *used || *health_state != HealthState::InService);
        whole.and(known.map(|(health_state, _)| health_state).min_by(HealthState::badness).unwrap_or_default())
    }

    /// Admits an attempt through both breakers, or through neither.
    pub(super) fn pass(&self, model: &str, key: KeyId, now: Instant, anyway: bool) -> Option<HealthPass> {
        let whole = self.breaker.pass(key, now, anyway)?;
        let model_health = self.model_health(model, now);
        let Some(model) = model_health.breaker.pass(key, now, anyway) else {
            self.breaker.abandoned(whole);
            return None;
        };
        model_health.used.store(self.millis(now), Ordering::Relaxed);
        model_health.breaker.uses(key, now);
        Some(HealthPass { whole, model_health, model })
    }

    /// Notes that an attempt ended without a result.
    pub(super) fn abandoned(&self, pass: &HealthPass) {
        self.breaker.abandoned(pass.whole);
        pass.model_health.breaker.abandoned(pass.model);
    }

    /// Notes the first byte of an answer.
    pub(super) fn answers(&self, pass: &HealthPass, now: Instant) -> [Option<HealthChange>; 2] {
        [self.breaker.answers(pass.whole, now), pass.model_health.breaker.answers(pass.model, now)]
    }

    /// Notes that an attempt succeeded; see [`CircuitBreaker::succeeded`].
    pub(super) fn succeeded(
        &self,
        pass: &HealthPass,
        key: KeyId,
        now: Instant,
        paid: bool,
    ) -> [Option<HealthChange>; 2] {
        if paid && !pass.model_health.answered.load(Ordering::Relaxed) {
            pass.model_health.answered.store(true, Ordering::Relaxed);
        }
        let whole = self.breaker.succeeded(pass.whole, key, now, paid);
        let model = pass.model_health.breaker.succeeded(pass.model, key, now, paid);
        if self.any_ejected.load(Ordering::Acquire) {
            self.update_any_ejected(now);
        }
        [whole, model]
    }

    /// Notes that an attempt failed.
    pub(super) fn failed(
        &self,
        pass: &HealthPass,
        key: KeyId,
        now: Instant,
        health: &Health,
        random: &RandomSource,
    ) -> [Option<HealthChange>; 2] {
        let model = pass.model_health.breaker.failed(pass.model, (key, None), now, health, random);
        if model.is_none() && pass.model_health.breaker.has_keys_shut(now) {
            self.any_ejected.store(true, Ordering::Release);
        }
        let whole = if pass.whole.is_probe() {
            self.breaker.failed(pass.whole, (key, Some(self.is_alone(key, now))), now, health, random)
        } else {
            model.and_then(|_| self.widen(EjectionCause::Faults, now, health, random))
        };
        [whole, model]
    }

    /// Notes that an attempt got a 429.
    pub(super) fn limited(
        &self,
        pass: &HealthPass,
        key: KeyId,
        now: Instant,
        after: Option<Duration>,
        health: &Health,
        random: &RandomSource,
    ) -> [Option<HealthChange>; 2] {
        self.breaker.abandoned(pass.whole);
        let model = pass.model_health.breaker.limited(pass.model, key, now, after, health);
        [model.and_then(|_| self.widen(EjectionCause::RateLimited, now, health, random)), model]
    }

    /// Whether this key is the only one with requests in the last hour.
    pub(super) fn is_alone(&self, key: KeyId, now: Instant) -> bool {
        self.all_models().iter().all(|model_health| model_health.breaker.is_alone(key, now))
    }

    /// Ejects the whole after the ejection of a model, if enough models are ejected by the faults of several keys, or of the only
    /// key.
    fn widen(
        &self,
        cause: EjectionCause,
        now: Instant,
        health: &Health,
        random: &RandomSource,
    ) -> Option<HealthChange> {
        self.any_ejected.store(true, Ordering::Release);
        let all_models = self.all_models();
        let out = |model_health: &Arc<ModelHealth>| match model_health.breaker.health_state(now) {
            HealthState::Out { cause: why, left } if why == cause && !left.is_zero() => {
                Some((model_health.breaker.failure_source()?, left))
            }
            _ => None,
        };
        let ejected: Vec<(FailureSource, Duration)> = all_models.iter().filter_map(out).collect();
        let in_use = all_models
            .iter()
            .filter(|model_health| self.is_used(model_health, now) || out(model_health).is_some())
            .count();
        if ejected.len() < in_use.clamp(2, MODELS_TO_EJECT_ALL) {
            return None;
        }
        let first = ejected.first()?.0;
        let agreed = match first {
            FailureSource::Several => true,
            FailureSource::One(key) => ejected.iter().any(|(other, _)| *other != first) || self.is_alone(key, now),
        };
        let pause = ejected.iter().map(|(_, left)| *left).min().filter(|_| cause == EjectionCause::RateLimited);
        agreed.then(|| self.breaker.eject_for_models(now, pause, health, random))?
    }

    /// Forgets the indices of credentials, which may have changed.
    pub(super) fn forget_last_faulted(&self) {
        for model_health in self.all_models() {
            model_health.last_faulted.store(0, Ordering::Relaxed);
        }
    }

    fn update_any_ejected(&self, now: Instant) {
        let is_out = |model_health: &Arc<ModelHealth>| {
            model_health.breaker.health_state(now) != HealthState::InService || model_health.breaker.has_keys_shut(now)
        };
        if !self.all_models().iter().any(is_out) {
            self.any_ejected.store(false, Ordering::Release);
            // A model may have been ejected between the check and the store.
            if self.all_models().iter().any(is_out) {
                self.any_ejected.store(true, Ordering::Release);
            }
        }
    }

    /// Returns the models that gave an answer and were requested within this time. At most 64 models are known.
    pub(super) fn recent_models(&self, now: Instant, within: Duration) -> Vec<Arc<str>> {
        let is_late = |model_health: &Arc<ModelHealth>| {
            let used = self.began + Duration::from_millis(model_health.used.load(Ordering::Relaxed));
            model_health.answered.load(Ordering::Relaxed) && now < used + within && !model_health.name.is_empty()
        };
        self.all_models().into_iter().filter(is_late).map(|model_health| Arc::clone(&model_health.name)).collect()
    }

    fn all_models(&self) -> Vec<Arc<ModelHealth>> {
        self.models.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn model_health(&self, model: &str, now: Instant) -> Arc<ModelHealth> {
        if let Some(model_health) = self.models.read().unwrap_or_else(PoisonError::into_inner).get(model) {
            return Arc::clone(model_health);
        }
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        if models.len() >= MAX_MODELS && !models.contains_key(model) {
            // Names that never gave an answer are removed first. Otherwise made-up names would displace real ones.
            let least = models.values().min_by_key(|model_health| {
                (model_health.answered.load(Ordering::Relaxed), model_health.used.load(Ordering::Relaxed))
            });
            if let Some(least) = least.map(|model_health| Arc::clone(&model_health.name)) {
                models.remove(&least);
            }
        }
        let name: Arc<str> = Arc::from(model);
        let fresh = || {
            Arc::new(ModelHealth {
                name: Arc::clone(&name),
                id: random::seed(&[model]),
                breaker: CircuitBreaker::new(now),
                last_faulted: AtomicUsize::new(0),
                used: AtomicU64::new(self.millis(now)),
                answered: AtomicBool::new(false),
            })
        };
        Arc::clone(models.entry(Arc::clone(&name)).or_insert_with(fresh))
    }

    fn is_used(&self, model_health: &ModelHealth, now: Instant) -> bool {
        let used = self.began + Duration::from_millis(model_health.used.load(Ordering::Relaxed));
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
    fn unknown_model_names_displace_no_real_ones() {
        let (tracker, now) = (HealthTracker::new(Instant::now()), Instant::now());
        for nth in 0..40 {
            let pass = tracker.pass(&format!("real-{nth}"), 1, now, false).unwrap();
            let _ = tracker.succeeded(&pass, 1, now, true);
        }
        for nth in 0..1000 {
            let later = now + Duration::from_millis(nth);
            let pass = tracker.pass(&format!("made-up-{nth}"), 2, later, false).unwrap();
            tracker.abandoned(&pass);
        }
        let all_models = tracker.all_models();
        assert_eq!(all_models.len(), MAX_MODELS);
        assert_eq!(all_models.iter().filter(|model_health| model_health.name.starts_with("real-")).count(), 40);
    }
}
