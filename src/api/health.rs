//! Liveness and readiness.

use std::sync::{
    Arc,
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
    /// Names of the upstreams that can be used.
    upstreams: Vec<Arc<str>>,
    /// Names of those left out, for want of a credential.
    idle: Vec<Arc<str>>,
}

impl Health {
    /// The state of a gateway with this configuration.
    pub fn new(config: &Config) -> Self {
        Self {
            draining: AtomicBool::new(false),
            upstreams: config.upstreams.iter().map(|upstream| Arc::clone(&upstream.name)).collect(),
            idle: config.idle.iter().map(|upstream| Arc::clone(&upstream.name)).collect(),
        }
    }

    /// From now on no new work is wanted.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    fn status(&self) -> StatusCode {
        if self.draining.load(Ordering::Relaxed) { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }
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
    let status = health.status();
    let body = json!({
        "ready": status.is_success(),
        "draining": !status.is_success(),
        "upstreams": names(&health.upstreams),
        "upstreams_without_credential": names(&health.idle),
    });
    (status, [("content-type", "application/json")], body.to_string())
}
