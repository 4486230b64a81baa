//! Handlers for the endpoints that the proxy relays. The handlers have no logic of their own.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Request, State},
    routing::{MethodFilter, MethodRouter},
};

use super::other_method;
use crate::{
    api::{DataPlane, extract::ArrivedRequest},
    domain::endpoint::Endpoint,
    proxy::forward::forward,
};

/// Makes the route of one API path: relays each of `endpoints` by its method, and answers 405 to all other methods. HEAD gets 405
/// too: Tidegate would fetch an answer only to drop it.
pub(in crate::api) fn relay<const N: usize>(endpoints: [Endpoint; N]) -> MethodRouter<Arc<DataPlane>> {
    let fallback = move |State(data): State<Arc<DataPlane>>,
                         ArrivedRequest(arrival): ArrivedRequest,
                         request: Request| async move {
        other_method(&data, &arrival, &request, allowed(&endpoints))
    };
    endpoints.into_iter().fold(MethodRouter::new().fallback(fallback), |router, endpoint| {
        let call = move |State(data): State<Arc<DataPlane>>,
                         ArrivedRequest(arrival): ArrivedRequest,
                         request: Request| async move {
            if request.method() == endpoint.method() {
                forward(&data.proxy, arrival, endpoint, request).await.map(Body::new)
            } else {
                other_method(&data, &arrival, &request, allowed(&endpoints))
            }
        };
        match MethodFilter::try_from(endpoint.method()) {
            Ok(method) => router.on(method, call),
            Err(_) => router,
        }
    })
}

fn allowed(endpoints: &[Endpoint]) -> String {
    let methods = endpoints.iter().map(|endpoint| endpoint.method().to_string());
    methods.collect::<Vec<_>>().join(", ")
}
