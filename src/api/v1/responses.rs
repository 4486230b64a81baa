//! `/v1/responses`.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{Method, header::UPGRADE},
    response::Response,
};

use super::{other_method as refuse_method, refuse};
use crate::{
    api::{DataPlane, extract::ArrivedRequest},
    proxy::error::ApiError,
};

/// Answers a request to `/v1/responses` with a method other than POST: 405. A WebSocket upgrade gets 426: only with this status
/// Codex falls back to HTTP at once.
pub(in crate::api) async fn other_method(
    State(data): State<Arc<DataPlane>>,
    ArrivedRequest(arrival): ArrivedRequest,
    request: Request,
) -> Response {
    let upgrade = request.headers().get_all(UPGRADE).iter();
    let websocket = upgrade.into_iter().any(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    if request.method() == Method::GET && websocket {
        return refuse(&data, &arrival, ApiError::websocket_unsupported().closing_unless_read(request.body()));
    }
    refuse_method(&data, &arrival, &request, "POST")
}
