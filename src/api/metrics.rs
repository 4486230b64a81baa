//! `GET /metrics`.

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};

use super::AdminPlane;
use crate::metrics::CONTENT_TYPE;

/// Answers `GET /metrics` with all metrics of the process, in the format of Prometheus.
pub(super) async fn text(State(admin): State<AdminPlane>) -> Response {
    admin.data.proxy.tables().update_health_metrics(&admin.metrics);
    match admin.metrics.text() {
        Ok(text) => ([("content-type", CONTENT_TYPE)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
