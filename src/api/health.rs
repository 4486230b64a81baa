//! Liveness and readiness.

use std::sync::{
    Arc, PoisonError, RwLock,
    atomic::{AtomicBool, Ordering},
};

use axum::{extract::State, http::StatusCode, response::IntoResponse};
use serde_json::json;

use super::{Admin, Data};
use crate::{config::Config, domain::key};

/// State from which readiness is computed.
#[derive(Debug)]
pub struct Health {
    draining: AtomicBool,
    /// The configuration that was read last could not be used.
    reload_refused: AtomicBool,
    /// Names of the upstreams that are not used, because they have no credential.
    idle: RwLock<Vec<String>>,
    keys: Arc<key::StoredKeysStatus>,
}

fn idle_upstreams(config: &Config) -> Vec<String> {
    config.idle.iter().map(|upstream| upstream.name.to_string()).collect()
}

impl Health {
    /// The state of a gateway with this configuration.
    pub fn new(config: &Config, keys: &Arc<key::StoredKeysStatus>) -> Self {
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
    fn status(&self) -> StatusCode {
        let unread = self.keys.unread.load(Ordering::Relaxed);
        if unread || self.is_draining() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }
    }
}

/// `GET /healthz`: liveness. Always 200.
pub(super) async fn live() -> StatusCode {
    StatusCode::OK
}

/// `GET /readyz` on the data plane: readiness as a status without a body.
pub(super) async fn ready(State(data): State<Arc<Data>>) -> StatusCode {
    data.health.status()
}

/// `GET /readyz` on the admin plane: readiness with the reasons.
pub(super) async fn detail(State(admin): State<Admin>) -> impl IntoResponse {
    let health = &admin.health;
    let idle = health.idle.read().unwrap_or_else(PoisonError::into_inner);
    let status = health.status();
    let (ledger, sharing, affinity) = (&admin.metrics.ledger, &admin.metrics.sharing, &admin.metrics.affinity);
    let body = json!({
        "ready": status.is_success(),
        "draining": health.is_draining(),
        "last_reload_refused": health.reload_refused.load(Ordering::Relaxed),
        "keys": {
            "unread": health.keys.unread.load(Ordering::Relaxed),
            "store_fails": health.keys.fails.load(Ordering::Relaxed),
            "stored": health.keys.stored.load(Ordering::Relaxed),
            "revision": health.keys.revision.load(Ordering::Relaxed),
        },
        "ledger": {
            "faults": ledger.faults().filter(|(_, fails)| *fails).map(|(name, _)| name).collect::<Vec<_>>(),
            "waiting": ledger.waiting(),
            "journal_bytes": ledger.journal_bytes.load(Ordering::Relaxed),
        },
        "limits": {
            "shared": sharing.shared.load(Ordering::Relaxed),
            "redis_fails": !sharing.is_well(),
            "alone": sharing.alone.load(Ordering::Relaxed),
        },
        "affinity": {
            "faults": affinity.faults().iter().filter(|(_, fails)| *fails).map(|(name, _)| name).collect::<Vec<_>>(),
            "waiting": affinity.waiting.load(Ordering::Relaxed),
        },
        "upstreams": admin.data.proxy.tables().states(),
        "upstreams_without_credential": *idle,
    });
    (status, [("content-type", "application/json")], body.to_string())
}
