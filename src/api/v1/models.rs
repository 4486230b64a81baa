//! `/v1/models`: the models that the key may use, as OpenAI's plain list. Codex sends `?client_version=` to request a catalogue
//! in another format; Codex works best with the plain list (docs/wire.md, section 7).

use std::{collections::BTreeSet, sync::Arc};

use axum::{
    body::Body,
    extract::{Path, Request, State, rejection::PathRejection},
    http::{HeaderMap, Uri},
    response::Response,
};
use serde::Serialize;

use super::{other_method as refuse_method, refuse};
use crate::{
    api::{DataPlane, extract::ArrivedRequest},
    auth::Caller,
    proxy::{Tables, authenticate, error::ApiError},
};

/// Answers `GET /v1/models`: the list of models that the client's key may use.
pub(in crate::api) async fn list(
    State(data): State<Arc<DataPlane>>,
    ArrivedRequest(arrival): ArrivedRequest,
    headers: HeaderMap,
) -> Response {
    let tables = data.proxy.tables();
    match authenticate(&tables, &headers, &arrival) {
        Ok(caller) => {
            let models = tables.routes.listed().iter().filter(|model| may_use(&tables, &caller, model));
            let mut models: Vec<Model<'_>> = models.map(|model| Model::new(model)).collect();
            // Some clients offer only listed models. If the key may use models by wildcards only, the list has to name them.
            let by_wildcard =
                if models.is_empty() { data.proxy.behind_wildcards(&tables, &caller).await } else { BTreeSet::new() };
            models.extend(by_wildcard.iter().map(|model| Model::new(model)));
            let answer = json(&List { object: "list", data: models });
            data.proxy.answer(&arrival, &caller, answer).map(Body::new)
        }
        Err(error) => refuse(&data, &arrival, error),
    }
}

/// Answers `GET /v1/models/{id}`: one model that the client's key may use. The id may contain `/` and `:`, and is percent-decoded once.
pub(in crate::api) async fn one(
    State(data): State<Arc<DataPlane>>,
    ArrivedRequest(arrival): ArrivedRequest,
    uri: Uri,
    headers: HeaderMap,
    id: Result<Path<String>, PathRejection>,
) -> Response {
    let tables = data.proxy.tables();
    let caller = match authenticate(&tables, &headers, &arrival) {
        Ok(caller) => caller,
        Err(error) => return refuse(&data, &arrival, error),
    };
    let answer = match id {
        Ok(Path(id)) if may_use(&tables, &caller, &id) => json(&Model::new(&id)),
        Ok(Path(id)) => Err(ApiError::model_not_found(&id)),
        // The decoded id is not UTF-8.
        Err(_) => Err(ApiError::unknown_url(&tables, uri.path())),
    };
    data.proxy.answer(&arrival, &caller, answer).map(Body::new)
}

/// Answers a request to `/v1/models` or a path below with a method other than GET: 405.
pub(in crate::api) async fn other_method(
    State(data): State<Arc<DataPlane>>,
    ArrivedRequest(arrival): ArrivedRequest,
    request: Request,
) -> Response {
    refuse_method(&data, &arrival, &request, "GET, HEAD")
}

fn may_use(tables: &Tables, caller: &Caller, model: &str) -> bool {
    caller.may_use_model(model)
        && tables
            .routes
            .route(model)
            .is_some_and(|route| route.targets.iter().any(|target| caller.may_use(target.upstream)))
}

/// The list in OpenAI's format.
#[derive(Serialize)]
struct List<'a> {
    object: &'static str,
    data: Vec<Model<'a>>,
}

/// A model in OpenAI's format.
#[derive(Serialize)]
struct Model<'a> {
    id: &'a str,
    object: &'static str,
    /// Required by the format. Always 0, because a configured model has no date.
    created: u64,
    owned_by: &'static str,
}

impl<'a> Model<'a> {
    fn new(id: &'a str) -> Self {
        Self { id, object: "model", created: 0, owned_by: "tidegate" }
    }
}

fn json(body: &impl Serialize) -> Result<String, ApiError> {
    serde_json::to_string(body).map_err(|_| ApiError::internal())
}
