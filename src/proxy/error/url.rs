//! Errors about the URL of a request.

use std::{borrow::Cow, sync::Arc};

use http::Request;

use super::ApiError;
use crate::{
    domain::{endpoint::Endpoint, problem::Problem},
    proxy::{arrival::RequestArrival, rejection::rejected, tables::Tables},
};

/// The most bytes of a path in the log.
const MOST_OF_PATH: usize = 200;

/// Endpoints that Tidegate answers by itself.
const OWN: [&str; 2] = ["GET /v1/models", "GET /v1/usage"];

impl ApiError {
    /// Makes the error for a request to a path that does not exist. The answer does not repeat the path, which may contain anything.
    pub fn unknown_url(tables: &Tables, path: &str) -> Self {
        let message = match advice(path) {
            Some(advice) => format!("No endpoint of this gateway has this URL: {advice}"),
            None => format!("No endpoint of this gateway has this URL. This gateway serves {}.", served(tables)),
        };
        Self::new(Problem::UnknownUrl, message)
    }

    /// Makes the error for a request whose path exists, but only for other methods.
    pub fn method_not_allowed(path: &str, allow: impl Into<Cow<'static, str>>) -> Self {
        let allow = allow.into();
        let advice = advice(path).map(|advice| format!(" Probably {advice}")).unwrap_or_default();
        let mut refusal = Self::new(
            Problem::MethodNotAllowed,
            format!("This URL accepts only the methods {allow}. Use one of these methods.{advice}"),
        );
        refusal.allow = Some(allow);
        refusal
    }

    /// A date in the query is not a date.
    pub(in crate::proxy) fn invalid_date(name: &'static str) -> Self {
        Self::new(Problem::InvalidQuery, format!("`{name}` in the query must be a date, such as 2026-11-01."))
            .about(name)
    }

    /// The ledger cannot be read now.
    pub(in crate::proxy) fn statement_unavailable() -> Self {
        Self::new(
            Problem::LedgerUnavailable,
            "The usage of this key cannot be read right now. Please try again in a moment.",
        )
    }

    /// Adds the method, the path and the key of the rejected request to the log line of this error. The operator sees whose client is set
    /// up wrongly.
    #[must_use]
    pub fn with_request_in_log<B>(mut self, tables: &Tables, arrival: &RequestArrival, request: &Request<B>) -> Self {
        let mut rejected = rejected(tables, request.headers(), arrival);
        rejected.method = Some(request.method().clone());
        rejected.path = Some(beginning(request.uri().path()).into());
        if let Ok(caller) = tables.keys.authenticate(request.headers(), arrival.source()) {
            rejected.key = Some(Arc::clone(&caller.name));
            rejected.key_begins = None;
        }
        self.rejected = Some(Box::new(rejected));
        self
    }
}

/// Returns the first 200 bytes of a path, cut between characters.
fn beginning(path: &str) -> &str {
    path.get(..path.floor_char_boundary(MOST_OF_PATH)).unwrap_or_default()
}

/// Lists each endpoint without an id that an upstream has, and the endpoints that Tidegate answers by itself.
fn served(tables: &Tables) -> String {
    let has = |endpoint: &Endpoint| tables.upstreams.iter().any(|upstream| upstream.has(endpoint.surface()));
    let endpoints = Endpoint::ALL.into_iter().filter(|endpoint| !endpoint.has_ids()).filter(has);
    let mut names: Vec<_> = endpoints.map(|endpoint| format!("{} /v1{}", endpoint.method(), endpoint.path())).collect();
    names.extend(OWN.map(str::to_owned));
    names.join(", ")
}

/// Returns how to correct the settings of a client that sends this path. SDKs append the path of an endpoint to their base URL.
/// A wrong base URL therefore appears as a prefix of an endpoint's path.
fn advice(path: &str) -> Option<Cow<'static, str>> {
    let is_there = |path: &str| place_of(path).is_some();
    let path = match path.trim_end_matches('/') {
        trimmed if trimmed.len() < path.len() && is_there(trimmed) => {
            let place = place_of(trimmed)?;
            return Some(format!("the URL ends with a slash that must be removed. Use /v1{place}.").into());
        }
        trimmed => trimmed,
    };
    if path.contains("//") {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        if let Some(place) = place_of(&format!("/{}", parts.join("/"))) {
            return Some(
                format!(
                    "the URL has two slashes in a row. Use /v1{place}: set base_url to …/v1, without a slash at the end."
                )
                .into(),
            );
        }
    }
    for (at, _) in path.match_indices('/').filter(|(at, _)| *at > 0) {
        let (before, endpoint) = path.split_at(at);
        let before_without = before.trim_end_matches('/');
        if !is_there(endpoint) || before_without.ends_with("/chat") && endpoint == "/completions" {
            continue;
        }
        let is_base = before_without.is_empty() || (before_without == "/v1" && !endpoint.starts_with("/v1/"));
        if !is_base {
            return Some(
                "set base_url to …/v1, which is the address of this gateway and then /v1, without any other path."
                    .into(),
            );
        }
    }
    None
}

/// Returns the endpoint's path below /v1, with placeholders for ids, so that any client may see the result.
fn place_of(path: &str) -> Option<&'static str> {
    let path = path.strip_prefix("/v1").filter(|rest| rest.starts_with('/')).unwrap_or(path);
    match path {
        "/models" => Some("/models"),
        "/usage" => Some("/usage"),
        _ if path.starts_with("/models/") => Some("/models/{model}"),
        _ => Endpoint::ALL.iter().find(|endpoint| endpoint.resource(path).is_some()).map(|endpoint| endpoint.path()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_that_is_wrong_is_told_by_the_path() {
        for base in [
            "/v1/responses",
            "/v1/v1",
            "/openai/v1",
            "/openai",
            "/api/v1",
            "/v1/chat/completions",
            "/responses",
            "/v1/models",
        ] {
            for endpoint in [
                "/responses",
                "/chat/completions",
                "/embeddings",
                "/models",
                "/models/gpt-5",
                "/responses/resp_1/cancel",
            ] {
                let told = advice(&format!("{base}{endpoint}"));
                assert!(
                    told.as_ref().is_some_and(|told| told.contains("set base_url to …/v1")),
                    "{base}{endpoint}: {told:?}"
                );
            }
        }
        for (path, place) in [
            ("/v1/responses/", "/v1/responses."),
            ("/v1/chat/completions/", "/v1/chat/completions."),
            ("/models/", "/v1/models."),
            ("/v1/responses/resp_1/cancel//", "/v1/responses/{id}/cancel."),
        ] {
            let told = advice(path).unwrap_or_default();
            assert!(told.contains("ends with a slash") && told.contains(place), "{path}: {told}");
        }
        for (path, place) in [
            ("/v1//responses", "/v1/responses:"),
            ("//v1/responses", "/v1/responses:"),
            ("//responses", "/v1/responses:"),
            ("/v1//chat/completions", "/v1/chat/completions:"),
            ("/v1/chat//completions/", "/v1/chat/completions:"),
            ("/v1/responses//resp_1", "/v1/responses/{id}:"),
        ] {
            let told = advice(path).unwrap_or_default();
            assert!(told.contains("two slashes") && told.contains(place), "{path}: {told}");
        }
        for path in [
            "/",
            "",
            "/v1",
            "/v1/",
            "/v1/files",
            "/nothing",
            "/v1/responses",
            "/v1/chat/completions",
            "/chat/completions",
            "/v1/responses/resp_1",
            "/v1/responses/resp_1/cancel",
            "/v1/conversations/c/items/i",
            "/v1/models",
            "/index.html",
        ] {
            assert_eq!(advice(path), None, "{path}");
        }
    }

    #[test]
    fn a_long_path_is_cut_between_characters() {
        assert_eq!(beginning("/short"), "/short");
        assert_eq!(beginning(&"/é".repeat(100)).len(), 199);
        assert_eq!(beginning(&"x".repeat(300)).len(), 200);
    }
}
