//! `/v1/models`: OpenAI's plain list of what this key may use. Codex asks with `?client_version=` for a catalogue of its
//! own; the plain list is what it copes with best (wire.md section 7).

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Path, Request, State, rejection::PathRejection},
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::refuse;
use crate::{
    api::Data,
    auth::Caller,
    proxy::{Arrival, Tables, error::Refusal, forward::caller},
};

/// `GET /v1/models`.
pub(in crate::api) async fn list(
    State(data): State<Data>,
    Extension(arrival): Extension<Arrival>,
    headers: HeaderMap,
) -> Response {
    let tables = data.proxy.tables();
    match caller(&tables, &headers) {
        Ok(caller) => {
            let models = tables.routes.listed().iter().filter(|model| may_use(&tables, &caller, model));
            let data: Vec<Value> = models.map(|model| object(model)).collect();
            json_response(&json!({ "object": "list", "data": data }))
        }
        Err(refusal) => refuse(&data, &arrival, refusal),
    }
}

/// `GET /v1/models/{id}`. The id may hold `/` and `:`, and is decoded once.
pub(in crate::api) async fn one(
    State(data): State<Data>,
    Extension(arrival): Extension<Arrival>,
    headers: HeaderMap,
    id: Result<Path<String>, PathRejection>,
) -> Response {
    let tables: Arc<Tables> = data.proxy.tables();
    match (caller(&tables, &headers), id) {
        (Err(refusal), _) => refuse(&data, &arrival, refusal),
        (Ok(caller), Ok(Path(id))) if may_use(&tables, &caller, &id) => json_response(&object(&id)),
        (Ok(_), Ok(Path(id))) => refuse(&data, &arrival, Refusal::model_not_found(&id)),
        // Not text once it is decoded.
        (Ok(_), Err(_)) => refuse(&data, &arrival, Refusal::unknown_url()),
    }
}

/// Anything but GET.
pub(in crate::api) async fn other_method(
    State(data): State<Data>,
    Extension(arrival): Extension<Arrival>,
    request: Request,
) -> Response {
    refuse(&data, &arrival, Refusal::method_not_allowed("GET, HEAD").leaving(request.body()))
}

fn may_use(tables: &Tables, caller: &Caller, model: &str) -> bool {
    caller.may_ask(model) && !tables.routes.candidates(model, |upstream| caller.may_use(upstream)).is_empty()
}

/// `created` is required and means nothing here: a name of the configuration has no date.
fn object(id: &str) -> Value {
    json!({ "id": id, "object": "model", "created": 0, "owned_by": "tidegate" })
}

fn json_response(body: &Value) -> Response {
    ([("content-type", "application/json")], body.to_string()).into_response()
}
