//! Liveness and readiness.

use std::sync::{
    Arc, PoisonError, RwLock,
    atomic::{AtomicBool, Ordering},
};

use axum::{extract::State, http::StatusCode, response::IntoResponse};
use serde_json::json;

use super::{Admin, Data};
use crate::config::Config;

/// What readiness is made of.
#[derive(Debug)]
pub struct Health {
    draining: AtomicBool,
    /// The configuration that was read last could not be used.
    refused: AtomicBool,
    /// Names of the upstreams left out, for want of a credential.
    idle: RwLock<Vec<String>>,
}

fn idle(config: &Config) -> Vec<String> {
    config.idle.iter().map(|upstream| upstream.name.to_string()).collect()
}

impl Health {
    /// The state of a gateway with this configuration.
    pub fn new(config: &Config) -> Self {
        Self { draining: AtomicBool::new(false), refused: AtomicBool::new(false), idle: RwLock::new(idle(config)) }
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

    fn status(&self) -> StatusCode {
        if self.is_draining() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }
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
    let ledger = &admin.metrics.ledger;
    let body = json!({
        "ready": status.is_success(),
        "draining": !status.is_success(),
        "last_reload_refused": health.refused.load(Ordering::Relaxed),
        "ledger": {
            "faults": ledger.faults().filter(|(_, fails)| *fails).map(|(name, _)| name).collect::<Vec<_>>(),
            "waiting": ledger.waiting(),
            "journal_bytes": ledger.journal_bytes.load(Ordering::Relaxed),
        },
        "upstreams": admin.data.proxy.tables().states(),
        "upstreams_without_credential": *idle,
    });
    (status, [("content-type", "application/json")], body.to_string())
}
