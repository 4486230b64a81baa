//! State that handlers share.

use std::sync::{
    Arc, PoisonError, RwLock,
    atomic::{AtomicBool, Ordering},
};

use axum::http::StatusCode;

use crate::{concurrent::key_status::StoredKeysStatus, config::Config, metrics::Metrics, proxy::Proxy};

/// State of the data plane's handlers, one per worker.
#[derive(Debug)]
pub struct DataPlane {
    /// The proxy of this worker.
    pub proxy: Arc<Proxy>,
    /// Liveness and readiness.
    pub health: Arc<Health>,
}

/// State of the admin plane's handlers.
#[derive(Clone, Debug)]
pub struct AdminPlane {
    /// Data of one worker: all workers share the values that the admin plane shows.
    pub data: Arc<DataPlane>,
    /// All metrics.
    pub metrics: Arc<Metrics>,
    /// Liveness and readiness.
    pub health: Arc<Health>,
}

/// State from which readiness is computed.
#[derive(Debug)]
pub struct Health {
    draining: AtomicBool,
    /// The configuration that was read last could not be used.
    pub(super) reload_refused: AtomicBool,
    /// Names of the upstreams that are not used, because they have no credential.
    pub(super) idle: RwLock<Vec<String>>,
    pub(super) keys: Arc<StoredKeysStatus>,
}

fn idle_upstreams(config: &Config) -> Vec<String> {
    config.idle.iter().map(|upstream| upstream.name.to_string()).collect()
}

impl Health {
    /// The state of a gateway with this configuration.
    pub fn new(config: &Config, keys: &Arc<StoredKeysStatus>) -> Self {
        let (draining, reload_refused) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { draining, reload_refused, idle: RwLock::new(idle_upstreams(config)), keys: Arc::clone(keys) }
    }

    /// Starts to drain: from now on the process is not ready for new requests.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Replaces the configuration after a reload.
    pub fn configure(&self, config: &Config) {
        *self.idle.write().unwrap_or_else(PoisonError::into_inner) = idle_upstreams(config);
    }

    /// Records whether the last reload was refused. A refused reload does not make the process unready: the process continues
    /// with the previous configuration. Otherwise all replicas that read the same file would become unready at once.
    pub fn refused(&self, refused: bool) {
        self.reload_refused.store(refused, Ordering::Relaxed);
    }

    /// Whether the process drains.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// The readiness status. Before the first read of the keys in the store, the process cannot serve clients with these keys.
    pub(super) fn status(&self) -> StatusCode {
        let unread = self.keys.unread.load(Ordering::Relaxed);
        if unread || self.is_draining() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }
    }
}
