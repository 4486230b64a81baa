//! The HTTP surface: takes requests apart, calls the gateway, decides nothing.

mod explain;
mod extract;
mod health;
mod metrics;
mod v1;

use std::sync::Arc;

use axum::{
    Router,
    routing::{MethodRouter, get, post},
};

pub use health::Health;

use crate::{metrics::Metrics, proxy::Proxy};

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

/// All routes of the data plane. Matched exactly, on the raw path, with and without `/v1`: users leave it out of the
/// base URL (docs/wire.md, section 1). Nothing is ever redirected.
pub fn data(state: Arc<Data>) -> Router {
    Router::new()
        .route("/v1/responses", responses())
        .route("/responses", responses())
        .route("/v1/models", models())
        .route("/models", models())
        .route("/v1/models/{*id}", model())
        .route("/models/{*id}", model())
        .fallback(v1::unknown_url)
        .route("/healthz", get(health::live))
        .route("/readyz", get(health::ready))
        .with_state(state)
}

/// All routes of the admin plane.
pub fn admin(state: Admin) -> Router {
    Router::new()
        .route("/healthz", get(health::live))
        .route("/readyz", get(health::detail))
        .route("/metrics", get(metrics::text))
        .route("/explain", get(explain::explain))
        .with_state(state)
}

/// `/metrics` alone.
pub fn metrics_only(state: Admin) -> Router {
    Router::new().route("/metrics", get(metrics::text)).with_state(state)
}

fn responses() -> MethodRouter<Arc<Data>> {
    post(v1::responses::create).fallback(v1::responses::other_method)
}

fn models() -> MethodRouter<Arc<Data>> {
    get(v1::models::list).fallback(v1::models::other_method)
}

fn model() -> MethodRouter<Arc<Data>> {
    get(v1::models::one).fallback(v1::models::other_method)
}
