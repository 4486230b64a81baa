//! The endpoints of the OpenAI API, one file each.

pub(super) mod models;
pub(super) mod relay;
pub(super) mod responses;
pub(super) mod usage;

use std::{borrow::Cow, sync::Arc};

use axum::{
    body::Body,
    extract::{Request, State},
    response::Response,
};

use super::{DataPlane, extract::ArrivedRequest};
use crate::proxy::{RequestArrival, error::ApiError};

/// Answers a request for an unknown URL with an error, in the format of the API.
pub(super) async fn unknown_url(
    State(data): State<Arc<DataPlane>>,
    ArrivedRequest(arrival): ArrivedRequest,
    request: Request,
) -> Response {
    let tables = data.proxy.tables();
    let error = ApiError::unknown_url(&tables, request.uri().path()).with_request_in_log(&tables, &arrival, &request);
    refuse(&data, &arrival, error.closing_unless_read(request.body()))
}

/// Answers a request whose path exists, but not with this method: 405.
fn other_method(
    data: &DataPlane,
    arrival: &RequestArrival,
    request: &Request,
    allow: impl Into<Cow<'static, str>>,
) -> Response {
    let error = ApiError::method_not_allowed(request.uri().path(), allow);
    let error = error.with_request_in_log(&data.proxy.tables(), arrival, request);
    refuse(data, arrival, error.closing_unless_read(request.body()))
}

/// The response for an error that Tidegate itself answers.
fn refuse(data: &DataPlane, arrival: &RequestArrival, error: ApiError) -> Response {
    data.proxy.refuse(arrival, error).map(Body::new)
}
