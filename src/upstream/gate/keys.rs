//! The circuit breaker's view of the client keys that use it.

use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::CircuitBreaker;
use crate::{
    config::Health,
    domain::health_state::{EjectionCause, HealthState},
    upstream::tally::{FailureCounts, KeyId},
};

impl CircuitBreaker {
    /// Returns the health state for one key: ejected, where too many of that key's own attempts failed.
    pub(in crate::upstream) fn health_state_for(&self, key: KeyId, now: Instant) -> HealthState {
        let health_state = self.health_state(now);
        if health_state != HealthState::InService || !self.has_keys_shut(now) {
            return health_state;
        }
        let shut = self.state().tally.shut(key, now);
        shut.map_or(health_state, |left| HealthState::Out { cause: EjectionCause::Faults, left })
    }

    /// Whether the breaker may be shut for a single key.
    pub(in crate::upstream) fn has_keys_shut(&self, now: Instant) -> bool {
        self.keys_shut.load(Ordering::Acquire) > self.millis(now)
    }

    /// Notes that an attempt of this key begins.
    pub(in crate::upstream) fn uses(&self, key: KeyId, now: Instant) {
        self.state().tally.uses(key, now);
    }

    /// Whether no other key shares the breaker.
    pub(in crate::upstream) fn is_alone(&self, key: KeyId, now: Instant) -> bool {
        self.state().tally.is_alone(key, now)
    }

    /// Shuts the breaker for one key alone, if too many of that key's own attempts failed.
    pub(super) fn shut_for(&self, tally: &mut FailureCounts, key: KeyId, now: Instant, health: &Health) {
        if let Some(until) = tally.shut_for(key, now, health) {
            self.keys_shut.fetch_max(self.millis(until).saturating_add(1), Ordering::AcqRel);
        }
    }
}
