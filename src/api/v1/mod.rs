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

use super::{Data, extract::ArrivedRequest};
use crate::proxy::{RequestArrival, error::ApiError};

/// Whatever has no route.
pub(super) async fn unknown_url(
    State(data): State<Arc<Data>>,
    ArrivedRequest(arrival): ArrivedRequest,
    request: Request,
) -> Response {
    let tables = data.proxy.tables();
    let refusal = ApiError::unknown_url(&tables, request.uri().path()).sent(&tables, &arrival, &request);
    refuse(&data, &arrival, refusal.leaving(request.body()))
}

/// A path that is there, for other methods.
fn other_method(
    data: &Data,
    arrival: &RequestArrival,
    request: &Request,
    allow: impl Into<Cow<'static, str>>,
) -> Response {
    let refusal = ApiError::method_not_allowed(request.uri().path(), allow);
    let refusal = refusal.sent(&data.proxy.tables(), arrival, request);
    refuse(data, arrival, refusal.leaving(request.body()))
}

/// An error of ours as a response.
fn refuse(data: &Data, arrival: &RequestArrival, refusal: ApiError) -> Response {
    data.proxy.refuse(arrival, refusal).map(Body::new)
}
