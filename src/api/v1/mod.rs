//! The endpoints of the OpenAI API, one file each.

pub(super) mod models;
pub(super) mod relay;
pub(super) mod responses;

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Request, State},
    response::Response,
};

use super::{Data, extract::Arrived};
use crate::proxy::{Arrival, error::Refusal};

/// Whatever has no route.
pub(super) async fn unknown_url(
    State(data): State<Arc<Data>>,
    Arrived(arrival): Arrived,
    request: Request,
) -> Response {
    refuse(&data, &arrival, Refusal::unknown_url().leaving(request.body()))
}

/// An error of ours as a response.
fn refuse(data: &Data, arrival: &Arrival, refusal: Refusal) -> Response {
    data.proxy.refuse(arrival, refusal).map(Body::new)
}
