//! Liveness and readiness.

use std::sync::{Arc, PoisonError, atomic::Ordering};

use axum::{extract::State, http::StatusCode, response::IntoResponse};
use serde_json::json;

use super::state::{AdminPlane, DataPlane};

/// Answers `GET /healthz`: liveness. The status is always 200.
pub(super) async fn live() -> StatusCode {
    StatusCode::OK
}

/// Answers `GET /readyz` on the data plane: readiness as a status without a body.
pub(super) async fn ready(State(data): State<Arc<DataPlane>>) -> StatusCode {
    data.health.status()
}

/// Answers `GET /readyz` on the admin plane: readiness, with the reasons as JSON.
pub(super) async fn detail(State(admin): State<AdminPlane>) -> impl IntoResponse {
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
