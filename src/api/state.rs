//! State that handlers share.

use std::sync::{
    Arc, PoisonError, RwLock,
    atomic::{AtomicBool, Ordering},
};

use axum::http::StatusCode;

use crate::{concurrent::key_status::StoredKeysStatus, config::Config, metrics::Metrics, proxy::Proxy};

/// What the HTTP handlers of the data plane (for clients) share: the proxy of one worker, and readiness.
#[derive(Debug)]
pub struct DataPlane {
    /// The proxy of this worker.
    pub proxy: Arc<Proxy>,
    /// Liveness and readiness.
    pub health: Arc<Health>,
}

/// What the HTTP handlers of the admin plane (for operators) share: metrics, readiness, and the data of one worker.
#[derive(Clone, Debug)]
pub struct AdminPlane {
    /// Data of one worker: all workers share the values that the admin plane shows.
    pub data: Arc<DataPlane>,
    /// All metrics.
    pub metrics: Arc<Metrics>,
    /// Liveness and readiness.
    pub health: Arc<Health>,
}

/// Whether this process is ready for traffic, and why not: it drains, or the keys in the store were never read.
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
    /// Makes the readiness of a gateway that starts with this configuration.
    pub fn new(config: &Config, keys: &Arc<StoredKeysStatus>) -> Self {
        let (draining, reload_refused) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { draining, reload_refused, idle: RwLock::new(idle_upstreams(config)), keys: Arc::clone(keys) }
    }

    /// Makes readiness fail from now on, because the process drains for a shutdown.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Takes over from a reloaded configuration which upstreams have no credential, for the report about readiness.
    pub fn configure(&self, config: &Config) {
        *self.idle.write().unwrap_or_else(PoisonError::into_inner) = idle_upstreams(config);
    }

    /// Records whether the last reload of the configuration was refused. A refused reload does not make the process unready: the
    /// process continues with the previous configuration. Otherwise all replicas that read the same file would become unready at
    /// once.
    pub fn refused(&self, refused: bool) {
        self.reload_refused.store(refused, Ordering::Relaxed);
    }

    /// Whether the process drains for a shutdown, so that it is not ready.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// The HTTP status that `/readyz` answers. Before the first read of the keys in the store, the process cannot serve clients
    /// with these keys.
    pub(super) fn status(&self) -> StatusCode {
        let unread = self.keys.unread.load(Ordering::Relaxed);
        if unread || self.is_draining() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }
    }
}
