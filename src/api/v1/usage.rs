//! Usage and budgets of a key, for clients that send the key: `/v1/usage`, and the two billing endpoints that chat programs
//! poll.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Request, State},
    response::Response,
};

use super::{other_method as refuse_method, refuse};
use crate::{
    api::{DataPlane, extract::ArrivedRequest},
    auth::Caller,
    proxy::{Tables, authenticate, error::ApiError, statement},
};

/// `GET /v1/usage`: requests, tokens, costs and budgets of the key.
pub(in crate::api) async fn usage(
    State(data): State<Arc<DataPlane>>,
    ArrivedRequest(arrival): ArrivedRequest,
    request: Request,
) -> Response {
    answer(&data, arrival, request, statement::usage).await
}

/// `GET /dashboard/billing/usage`: the spend of the key, in hundredths of the currency.
pub(in crate::api) async fn billing_usage(
    State(data): State<Arc<DataPlane>>,
    ArrivedRequest(arrival): ArrivedRequest,
    request: Request,
) -> Response {
    answer(&data, arrival, request, statement::billing_usage).await
}

/// `GET /dashboard/billing/subscription`: the upper bound of the key's spend.
pub(in crate::api) async fn subscription(
    State(data): State<Arc<DataPlane>>,
    ArrivedRequest(arrival): ArrivedRequest,
    request: Request,
) -> Response {
    answer(&data, arrival, request, async |_: &_, tables: &Tables, caller: &Caller, _: &str| {
        Ok(statement::subscription(tables, caller))
    })
    .await
}

/// Answers all methods other than GET with 405.
pub(in crate::api) async fn other_method(
    State(data): State<Arc<DataPlane>>,
    ArrivedRequest(arrival): ArrivedRequest,
    request: Request,
) -> Response {
    refuse_method(&data, &arrival, &request, "GET, HEAD")
}

async fn answer(
    data: &DataPlane,
    arrival: crate::proxy::RequestArrival,
    request: Request,
    statement: impl AsyncFnOnce(&crate::proxy::Proxy, &Tables, &Caller, &str) -> Result<String, ApiError>,
) -> Response {
    let tables = data.proxy.tables();
    match authenticate(&tables, request.headers(), &arrival) {
        Ok(caller) => {
            let query = request.uri().query().unwrap_or_default();
            let body = statement(&data.proxy, &tables, &caller, query).await;
            data.proxy.answer(&arrival, &caller, body).map(Body::new)
        }
        Err(error) => refuse(data, &arrival, error.leaving(request.body())),
    }
}
