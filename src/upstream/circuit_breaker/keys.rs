//! The circuit breaker's view of the client keys that use it.

use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::CircuitBreaker;
use crate::{
    config::Health,
    domain::health_state::{EjectionCause, HealthState},
    upstream::failure_counts::{FailureCounts, KeyId},
};

impl CircuitBreaker {
    /// Returns the health state for one key: ejected, where too many of that key's own attempts failed.
    pub(in crate::upstream) fn health_state_for(&self, key: KeyId, now: Instant) -> HealthState {
        let health_state = self.health_state(now);
        if health_state != HealthState::InService || !self.has_keys_shut(now) {
            return health_state;
        }
        let shut = self.state().failure_counts.shut(key, now);
        shut.map_or(health_state, |left| HealthState::Out { cause: EjectionCause::Faults, left })
    }

    /// Whether the breaker may be shut for a single key.
    pub(in crate::upstream) fn has_keys_shut(&self, now: Instant) -> bool {
        self.shut_keys_until.load(Ordering::Acquire) > self.millis(now)
    }

    /// Notes that an attempt of this key begins.
    pub(in crate::upstream) fn uses(&self, key: KeyId, now: Instant) {
        self.state().failure_counts.uses(key, now);
    }

    /// Whether no other key shares the breaker.
    pub(in crate::upstream) fn is_alone(&self, key: KeyId, now: Instant) -> bool {
        self.state().failure_counts.is_alone(key, now)
    }

    /// Shuts the breaker for one key alone, if too many of that key's own attempts failed.
    pub(super) fn shut_for(&self, failure_counts: &mut FailureCounts, key: KeyId, now: Instant, health: &Health) {
        if let Some(until) = failure_counts.shut_for(key, now, health) {
            self.shut_keys_until.fetch_max(self.millis(until).saturating_add(1), Ordering::AcqRel);
        }
    }
}
