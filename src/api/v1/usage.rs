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

/// Answers `GET /v1/usage`: requests, tokens, costs and budgets of the client's key.
pub(in crate::api) async fn usage(
    State(data): State<Arc<DataPlane>>,
    ArrivedRequest(arrival): ArrivedRequest,
    request: Request,
) -> Response {
    answer(&data, arrival, request, statement::usage).await
}

/// Answers `GET /dashboard/billing/usage`, which chat programs poll: the spend of the client's key, in hundredths of the currency.
pub(in crate::api) async fn billing_usage(
    State(data): State<Arc<DataPlane>>,
    ArrivedRequest(arrival): ArrivedRequest,
    request: Request,
) -> Response {
    answer(&data, arrival, request, statement::billing_usage).await
}

/// Answers `GET /dashboard/billing/subscription`, which chat programs poll: the budget of the client's key.
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

/// Answers a request to a usage or billing path with a method other than GET: 405.
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
        Err(error) => refuse(data, &arrival, error.closing_unless_read(request.body())),
    }
}
