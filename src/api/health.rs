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
    upstreams: RwLock<Upstreams>,
}

#[derive(Debug)]
struct Upstreams {
    /// Names of those that can be used.
    live: Vec<Arc<str>>,
    /// Names of those left out, for want of a credential.
    idle: Vec<Arc<str>>,
}

impl From<&Config> for Upstreams {
    fn from(config: &Config) -> Self {
        Self {
            live: config.upstreams.iter().map(|upstream| Arc::clone(&upstream.name)).collect(),
            idle: config.idle.iter().map(|upstream| Arc::clone(&upstream.name)).collect(),
        }
    }
}

impl Health {
    /// The state of a gateway with this configuration.
    pub fn new(config: &Config) -> Self {
        Self {
            draining: AtomicBool::new(false),
            refused: AtomicBool::new(false),
            upstreams: RwLock::new(config.into()),
        }
    }

    /// From now on no new work is wanted.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// From now on it is a gateway with this configuration.
    pub fn configure(&self, config: &Config) {
        *self.upstreams.write().unwrap_or_else(PoisonError::into_inner) = config.into();
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
    let names = |names: &[Arc<str>]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
    let upstreams = health.upstreams.read().unwrap_or_else(PoisonError::into_inner);
    let status = health.status();
    let body = json!({
        "ready": status.is_success(),
        "draining": !status.is_success(),
        "last_reload_refused": health.refused.load(Ordering::Relaxed),
        "upstreams": names(&upstreams.live),
        "upstreams_without_credential": names(&upstreams.idle),
    });
    (status, [("content-type", "application/json")], body.to_string())
}
