//! How long a graceful shutdown may take. A reload can change these times.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// How long a graceful shutdown may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grace {
    /// How long Tidegate still accepts connections after readiness fails, so that load balancers notice.
    pub delay: Duration,
    /// After that, how long requests in progress may take.
    pub limit: Duration,
}

/// The current grace. It is read when the shutdown begins, so that a reload can change it.
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
