//! `GET /explain`: who would be asked for a model, and why, as text.

use axum::{
    extract::{Query, State, rejection::QueryRejection},
    http::StatusCode,
};
use serde::Deserialize;

use super::Admin;
use crate::{
    domain::endpoint::Surface,
    proxy::explain::{ExplainQuery, explain as explained},
};

/// `?key=NAME&model=MODEL`, and perhaps `&cache_key=TEXT` and `&surface=NAME`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExplainParameters {
    key: String,
    model: String,
    cache_key: Option<String>,
    surface: Option<String>,
}

/// The explanation, or what is wrong with the question.
pub(super) async fn explain(
    State(admin): State<Admin>,
    asked: Result<Query<ExplainParameters>, QueryRejection>,
) -> (StatusCode, String) {
    let Query(ExplainParameters { key, model, cache_key, surface }) = match asked {
        Ok(asked) => asked,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("{}\n", error.body_text())),
    };
    let Some(surface) = surface.as_deref().map_or(Some(Surface::Responses), Surface::named) else {
        return (StatusCode::BAD_REQUEST, "no part of the API has this name\n".to_owned());
    };
    let proxy = &admin.data.proxy;
    match explained(&proxy.tables(), proxy.dice(), proxy.now(), &ExplainQuery { key, model, cache_key, surface }) {
        Ok(text) => (StatusCode::OK, text),
        Err(error) => (StatusCode::NOT_FOUND, format!("{error}\n")),
    }
}
