//! How long an end in order may take, which a reload can change.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// How long an end in order may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grace {
    /// From the wish to end until no new connection is taken.
    pub delay: Duration,
    /// From then on, for requests under way.
    pub limit: Duration,
}

/// The grace that holds now: who ends the gateway reads it when the end begins, so that a reload can change it.
#[derive(Clone, Debug, Default)]
pub(super) struct SharedGrace(Arc<Mutex<Grace>>);

impl SharedGrace {
    pub(super) fn get(&self) -> Grace {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set(&self, grace: Grace) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = grace;
    }
}
