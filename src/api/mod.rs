//! HTTP routes and handlers: they parse requests and call the proxy. They make no decisions of their own.

mod explain;
mod extract;
mod health;
mod metrics;
mod state;
mod v1;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    http::{
        HeaderValue, StatusCode,
        header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS},
    },
    routing::{MethodRouter, any, get},
};
use tower_http::{
    catch_panic::CatchPanicLayer, compression::CompressionLayer, set_header::SetResponseHeaderLayer,
    timeout::TimeoutLayer, trace::TraceLayer,
};

pub use state::{AdminPlane, DataPlane, Health};

use crate::domain::endpoint::Endpoint::*;

use v1::relay::relay;

/// Makes the router with all routes of the data plane. Raw paths match exactly, with and without `/v1`: many users omit `/v1` in
/// the base URL (docs/wire.md, section 1). Tidegate never redirects. Paths such as `/responses/models` show that a client's base
/// URL ends in `/responses`, and the error answer says so. `domain::endpoint` checks the ids in paths.
pub fn data(state: Arc<DataPlane>) -> Router {
    let routes = |router: Router<Arc<DataPlane>>, base: &str| {
        let at = |path: &str| format!("{base}{path}");
        router
            .route(&at("/responses"), relay([CreateResponse]).fallback(v1::responses::other_method))
            .route(&at("/responses/input_tokens"), relay([CountInputTokens]))
            .route(&at("/responses/compact"), relay([CompactResponse]))
            .route(&at("/responses/responses"), any(v1::unknown_url))
            .route(&at("/responses/models"), any(v1::unknown_url))
            .route(&at("/responses/conversations"), any(v1::unknown_url))
            .route(&at("/responses/embeddings"), any(v1::unknown_url))
            .route(&at("/responses/{id}"), relay([RetrieveResponse, DeleteResponse]))
            .route(&at("/responses/{id}/cancel"), relay([CancelResponse]))
            .route(&at("/responses/{id}/input_items"), relay([ListInputItems]))
            .route(&at("/conversations"), relay([CreateConversation]))
            .route(&at("/conversations/{id}"), relay([RetrieveConversation, UpdateConversation, DeleteConversation]))
            .route(&at("/conversations/{id}/items"), relay([CreateItems, ListItems]))
            .route(&at("/conversations/{id}/items/{item}"), relay([RetrieveItem, DeleteItem]))
            .route(&at("/chat/completions"), relay([CreateChatCompletion]))
            .route(&at("/completions"), relay([CreateCompletion]))
            .route(&at("/embeddings"), relay([CreateEmbedding]))
            .route(&at("/moderations"), relay([CreateModeration]))
            .route(&at("/images/generations"), relay([GenerateImage]))
            .route(&at("/audio/speech"), relay([CreateSpeech]))
            .route(&at("/models"), models())
            .route(&at("/models/{*id}"), model())
            .route(&at("/usage"), get(v1::usage::usage).fallback(v1::usage::other_method))
            .route(&at("/dashboard/billing/usage"), get(v1::usage::billing_usage).fallback(v1::usage::other_method))
            .route(
                &at("/dashboard/billing/subscription"),
                get(v1::usage::subscription).fallback(v1::usage::other_method),
            )
    };
    ["/v1", ""]
        .into_iter()
        .fold(Router::new(), routes)
        .fallback(v1::unknown_url)
        .route("/healthz", get(health::live))
        .route("/readyz", get(health::ready))
        .with_state(state)
}

/// Makes the router with all routes of the admin plane: health, readiness, metrics and `/explain`.
pub fn admin(state: AdminPlane) -> Router {
    let routes = Router::new()
        .route("/healthz", get(health::live))
        .route("/readyz", get(health::detail))
        .route("/metrics", get(metrics::text))
        .route("/explain", get(explain::explain));
    with_layers(routes).with_state(state)
}

/// Makes the router of the listener that serves `/metrics` only.
pub fn metrics_only(state: AdminPlane) -> Router {
    with_layers(Router::new().route("/metrics", get(metrics::text))).with_state(state)
}

/// A route of the admin plane reads memory only. A route that needs more than 30 s hangs, and a scraper has given up before.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(30);

/// Adds to a router of the admin plane what each of its answers gets. The last layer is the outermost.
///
/// The answers change at any time and belong to the operator, so no cache may store them. gzip makes `/metrics` about ten times smaller.
fn with_layers(router: Router<AdminPlane>) -> Router<AdminPlane> {
    router
        .layer(CompressionLayer::new())
        .layer(SetResponseHeaderLayer::if_not_present(CACHE_CONTROL, HeaderValue::from_static("no-store")))
        .layer(SetResponseHeaderLayer::if_not_present(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")))
        .layer(TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, ADMIN_TIMEOUT))
        .layer(CatchPanicLayer::new())
        // A 503 of `/readyz` is an answer, not a failure: only the debug lines of each request are logged.
        .layer(TraceLayer::new_for_http().on_failure(()))
}

fn models() -> MethodRouter<Arc<DataPlane>> {
    get(v1::models::list).fallback(v1::models::other_method)
}

fn model() -> MethodRouter<Arc<DataPlane>> {
    get(v1::models::one).fallback(v1::models::other_method)
}
