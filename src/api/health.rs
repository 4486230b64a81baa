//! Liveness and readiness.

use std::sync::{
    Arc, PoisonError, RwLock,
    atomic::{AtomicBool, Ordering},
};

use axum::{extract::State, http::StatusCode, response::IntoResponse};
use serde_json::json;

use super::{Admin, Data};
use crate::{config::Config, domain::key};

/// What readiness is made of.
#[derive(Debug)]
pub struct Health {
    draining: AtomicBool,
    /// The configuration that was read last could not be used.
    refused: AtomicBool,
    /// Names of the upstreams left out, for want of a credential.
    idle: RwLock<Vec<String>>,
    keys: Arc<key::StoredKeysStatus>,
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
    fn status(&self) -> StatusCode {
        let unread = self.keys.unread.load(Ordering::Relaxed);
        if unread || self.is_draining() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }
    }
}

/// `GET /healthz`: the process runs and answers.
pub(super) async fn live() -> StatusCode {
    StatusCode::OK
}

/// `GET /readyz` on the data plane: a bare status.
pub(super) async fn ready(State(data): State<Arc<Data>>) -> StatusCode {
    data.health.status()
}

/// `GET /readyz` on the admin plane: with the reasons.
pub(super) async fn detail(State(admin): State<Admin>) -> impl IntoResponse {
    let health = &admin.health;
    let idle = health.idle.read().unwrap_or_else(PoisonError::into_inner);
    let status = health.status();
    let (ledger, sharing, affinity) = (&admin.metrics.ledger, &admin.metrics.sharing, &admin.metrics.affinity);
    let body = json!({
        "ready": status.is_success(),
        "draining": health.is_draining(),
        "last_reload_refused": health.refused.load(Ordering::Relaxed),
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
