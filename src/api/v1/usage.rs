//! What a key used and may use, told to whoever holds the key: `/v1/usage`, and the two pages that chat programs poll.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Request, State},
    response::Response,
};

use super::{other_method as refuse_method, refuse};
use crate::{
    api::{Data, extract::ArrivedRequest},
    auth::Caller,
    proxy::{Tables, error::ApiError, forward::caller, statement},
};

/// `GET /v1/usage`: requests, tokens, costs and budgets of the key.
pub(in crate::api) async fn usage(
    State(data): State<Arc<Data>>,
    ArrivedRequest(arrival): ArrivedRequest,
    request: Request,
) -> Response {
    answer(&data, arrival, request, statement::usage).await
}

/// `GET /dashboard/billing/usage`: what was spent, in hundredths.
pub(in crate::api) async fn billing_usage(
    State(data): State<Arc<Data>>,
    ArrivedRequest(arrival): ArrivedRequest,
    request: Request,
) -> Response {
    answer(&data, arrival, request, statement::billing_usage).await
}

/// `GET /dashboard/billing/subscription`: how much may be spent.
pub(in crate::api) async fn subscription(
    State(data): State<Arc<Data>>,
    ArrivedRequest(arrival): ArrivedRequest,
    request: Request,
) -> Response {
    answer(&data, arrival, request, async |_: &_, tables: &Tables, caller: &Caller, _: &str| {
        Ok(statement::subscription(tables, caller))
    })
    .await
}

/// Anything but GET.
pub(in crate::api) async fn other_method(
    State(data): State<Arc<Data>>,
    ArrivedRequest(arrival): ArrivedRequest,
    request: Request,
) -> Response {
    refuse_method(&data, &arrival, &request, "GET, HEAD")
}

async fn answer(
    data: &Data,
    arrival: crate::proxy::RequestArrival,
    request: Request,
    say: impl AsyncFnOnce(&crate::proxy::Proxy, &Tables, &Caller, &str) -> Result<String, ApiError>,
) -> Response {
    let tables = data.proxy.tables();
    match caller(&tables, request.headers(), &arrival) {
        Ok(caller) => {
            let query = request.uri().query().unwrap_or_default();
            let said = say(&data.proxy, &tables, &caller, query).await;
            data.proxy.answer(&arrival, &caller, said).map(Body::new)
        }
        Err(refusal) => refuse(data, &arrival, refusal.leaving(request.body())),
    }
}
