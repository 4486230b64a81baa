//! How long a graceful shutdown may take. A reload can change these times.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// How long a graceful shutdown may take: the delay before new connections are refused, and the time to drain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grace {
    /// How long Tidegate still accepts connections after readiness fails, so that load balancers notice.
    pub delay: Duration,
    /// After that, how long requests in progress may take.
    pub limit: Duration,
}

/// The current times of a graceful shutdown. A shutdown reads them when it begins, so that a reload before it can change them.
#[derive(Clone, Debug, Default)]
pub(super) struct SharedGrace(Arc<Mutex<Grace>>);

impl SharedGrace {
    /// How long a graceful shutdown that begins now may take.
    pub(super) fn get(&self) -> Grace {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets how long a graceful shutdown may take, after a reload.
    pub(super) fn set(&self, grace: Grace) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = grace;
    }
}
