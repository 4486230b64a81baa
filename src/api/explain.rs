//! `GET /explain`: the candidates for a model, in order, and why, as text.

use axum::{
    extract::{Query, State, rejection::QueryRejection},
    http::StatusCode,
};
use serde::Deserialize;

use super::AdminPlane;
use crate::{
    domain::endpoint::Surface,
    proxy::explain::{ExplainQuery, explain as explain_route},
};

/// Query parameters of `GET /explain`: `key=NAME&model=MODEL`, and optionally `cache_key=TEXT` and `surface=NAME`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExplainParameters {
    key: String,
    model: String,
    cache_key: Option<String>,
    surface: Option<String>,
}

/// Answers `GET /explain` on the admin plane: why a request would go to which upstream, or what is wrong in the query.
pub(super) async fn explain(
    State(admin): State<AdminPlane>,
    query: Result<Query<ExplainParameters>, QueryRejection>,
) -> (StatusCode, String) {
    let Query(ExplainParameters { key, model, cache_key, surface }) = match query {
        Ok(query) => query,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("{}\n", error.body_text())),
    };
    let Some(surface) = surface.as_deref().map_or(Some(Surface::Responses), Surface::named) else {
        let names = Surface::ALL.map(Surface::name).join(", ");
        return (StatusCode::BAD_REQUEST, format!("unknown surface; use one of: {names}\n"));
    };
    let proxy = &admin.data.proxy;
    match explain_route(&proxy.tables(), proxy.random(), proxy.now(), &ExplainQuery { key, model, cache_key, surface })
    {
        Ok(text) => (StatusCode::OK, text),
        Err(error) => (StatusCode::NOT_FOUND, format!("{error}\n")),
    }
}
