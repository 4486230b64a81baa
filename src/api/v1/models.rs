//! `/v1/models`: OpenAI's plain list of what this key may use. Codex asks with `?client_version=` for a catalogue of its
//! own; the plain list is what it copes with best (docs/wire.md, section 7).

use std::sync::Arc;

use axum::{
    extract::{Path, Request, State, rejection::PathRejection},
    http::{HeaderMap, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::refuse;
use crate::{
    api::{Data, extract::Arrived},
    auth::Caller,
    proxy::{
        Arrival, Tables,
        error::{Refusal, sign},
        forward::caller,
    },
};

/// `GET /v1/models`.
pub(in crate::api) async fn list(
    State(data): State<Arc<Data>>,
    Arrived(arrival): Arrived,
    headers: HeaderMap,
) -> Response {
    let tables = data.proxy.tables();
    match caller(&tables, &headers) {
        Ok(caller) => {
            let models = tables.routes.listed().iter().filter(|model| may_use(&tables, &caller, model));
            let models = models.map(|model| Model::new(model)).collect();
            json(&data, &arrival, &List { object: "list", data: models })
        }
        Err(refusal) => refuse(&data, &arrival, refusal),
    }
}

/// `GET /v1/models/{id}`. The id may hold `/` and `:`, and is decoded once.
pub(in crate::api) async fn one(
    State(data): State<Arc<Data>>,
    Arrived(arrival): Arrived,
    headers: HeaderMap,
    id: Result<Path<String>, PathRejection>,
) -> Response {
    let tables = data.proxy.tables();
    match (caller(&tables, &headers), id) {
        (Err(refusal), _) => refuse(&data, &arrival, refusal),
        (Ok(caller), Ok(Path(id))) if may_use(&tables, &caller, &id) => json(&data, &arrival, &Model::new(&id)),
        (Ok(_), Ok(Path(id))) => refuse(&data, &arrival, Refusal::model_not_found(&id)),
        // Not text once it is decoded.
        (Ok(_), Err(_)) => refuse(&data, &arrival, Refusal::unknown_url()),
    }
}

/// Anything but GET.
pub(in crate::api) async fn other_method(
    State(data): State<Arc<Data>>,
    Arrived(arrival): Arrived,
    request: Request,
) -> Response {
    refuse(&data, &arrival, Refusal::method_not_allowed("GET, HEAD").leaving(request.body()))
}

fn may_use(tables: &Tables, caller: &Caller, model: &str) -> bool {
    caller.may_ask(model) && !tables.routes.candidates(model, |upstream| caller.may_use(upstream)).is_empty()
}

/// The list as OpenAI writes it.
#[derive(Serialize)]
struct List<'a> {
    object: &'static str,
    data: Vec<Model<'a>>,
}

/// A model as OpenAI writes it.
#[derive(Serialize)]
struct Model<'a> {
    id: &'a str,
    object: &'static str,
    /// Required, and without meaning here: a name of the configuration has no date.
    created: u64,
    owned_by: &'static str,
}

impl<'a> Model<'a> {
    fn new(id: &'a str) -> Self {
        Self { id, object: "model", created: 0, owned_by: "tidegate" }
    }
}

fn json(data: &Data, arrival: &Arrival, body: &impl Serialize) -> Response {
    match serde_json::to_string(body) {
        Ok(body) => {
            let mut response = ([(CONTENT_TYPE, "application/json")], body).into_response();
            sign(response.headers_mut(), arrival.id);
            response
        }
        Err(_) => refuse(data, arrival, Refusal::internal()),
    }
}
