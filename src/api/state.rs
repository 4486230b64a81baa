//! What handlers share.

use std::sync::{
    Arc, PoisonError, RwLock,
    atomic::{AtomicBool, Ordering},
};

use axum::http::StatusCode;

use crate::{config::Config, domain::key, metrics::Metrics, proxy::Proxy};

/// What the data plane's handlers share: one per worker.
#[derive(Debug)]
pub struct Data {
    /// The gateway as this worker sees it.
    pub proxy: Arc<Proxy>,
    /// Liveness and readiness.
    pub health: Arc<Health>,
}

/// What the admin plane's handlers share.
#[derive(Clone, Debug)]
pub struct Admin {
    /// The gateway as one of the workers sees it: they share what is shown here.
    pub data: Arc<Data>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Liveness and readiness.
    pub health: Arc<Health>,
}

/// What readiness is made of.
#[derive(Debug)]
pub struct Health {
    draining: AtomicBool,
    /// The configuration that was read last could not be used.
    pub(super) refused: AtomicBool,
    /// Names of the upstreams left out, for want of a credential.
    pub(super) idle: RwLock<Vec<String>>,
    pub(super) keys: Arc<key::StoredKeysStatus>,
}

fn idle(config: &Config) -> Vec<String> {
    config.idle.iter().map(|upstream| upstream.name.to_string()).collect()
}

impl Health {
    /// The state of a gateway with this configuration.
    pub fn new(config: &Config, keys: &Arc<key::StoredKeysStatus>) -> Self {
        let (draining, refused) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { draining, refused, idle: RwLock::new(idle(config)), keys: Arc::clone(keys) }
    }

    /// From now on no new work is wanted.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// From now on it is a gateway with this configuration.
    pub fn configure(&self, config: &Config) {
        *self.idle.write().unwrap_or_else(PoisonError::into_inner) = idle(config);
    }

    /// Notes whether the configuration that was read last could not be used. It does not make the gateway unready: it
    /// serves with the one before, and every replica that reads the same file would go at once.
    pub fn refused(&self, refused: bool) {
        self.refused.store(refused, Ordering::Relaxed);
    }

    /// Whether no new work is wanted.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Who has never read the keys of its store cannot serve those who have one.
    pub(super) fn status(&self) -> StatusCode {
        let unread = self.keys.unread.load(Ordering::Relaxed);
        if unread || self.is_draining() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }
    }
}
