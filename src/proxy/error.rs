//! Writes every error of Tidegate and turns it into a response in OpenAI's shape (docs/wire.md, section 3). No other module
//! does so.

mod body;
mod head;
mod state;
mod status;
mod url;

use std::{borrow::Cow, time::Duration};

use bytes::Bytes;
use http::{
    HeaderValue, Response, StatusCode,
    header::{ACCEPT_ENCODING, ALLOW, CONNECTION, CONTENT_TYPE, RETRY_AFTER, UPGRADE, WWW_AUTHENTICATE},
};
use http_body::Body;
use serde::Serialize;

pub(super) use self::status::UPSTREAM;
use self::status::{is_retryable, kind, source, status};
use super::{
    quota::{self, BudgetTerms},
    settle::SettleOnDrop,
};
use crate::{
    auth::AuthError,
    domain::{
        endpoint::Endpoint,
        id::RequestId,
        outcome::{EndReason, RejectedRequest},
        problem::Problem,
    },
    limits::{LimitKind, Limited, Quotas},
};

/// The name of the response header with Tidegate's id of the request, which every response has.
pub const REQUEST_ID: &str = "x-tidegate-request-id";
/// The name of the response header with the request id that SDKs show: the upstream's id if it sent one, else Tidegate's id.
pub const CLIENT_REQUEST_ID: &str = "x-request-id";
/// The name of the response header that says who caused an error answer: `upstream` or `gateway`.
pub const ERROR_SOURCE: &str = "x-tidegate-error-source";
const SHOULD_RETRY: &str = "x-should-retry";
/// Seconds. A full gateway mostly has room a moment later. After a 503 without this header Codex retries at once.
const RETRY_SOON: &str = "1";

/// The text begins with OpenAI's words, by which the client of `LiteLLM` recognises a wrong key.
const UNKNOWN_KEY: &str = "Incorrect API key provided. Use a key of this gateway, not a provider's.";

/// An error that Tidegate itself answers to a client: its kind, its message, and what the client may do.
#[derive(Debug)]
pub struct ApiError {
    problem: Problem,
    message: Cow<'static, str>,
    param: Option<&'static str>,
    /// Replaces the default status of the problem.
    status: Option<StatusCode>,
    allow: Option<Cow<'static, str>>,
    /// When the client may retry.
    after: Option<Duration>,
    /// The state of the limits, if a limit caused the error.
    quotas: Option<Box<Quotas>>,
    /// Additional details for the log.
    rejected: Option<Box<RejectedRequest>>,
    /// Whether the connection must close, because the rest of the request's body is not read.
    close: bool,
}

impl ApiError {
    fn new(problem: Problem, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            problem,
            message: message.into(),
            param: None,
            status: None,
            allow: None,
            after: None,
            quotas: None,
            rejected: None,
            close: false,
        }
    }

    fn about(mut self, param: &'static str) -> Self {
        self.param = Some(param);
        self
    }

    /// Closes the connection after the answer, because the body was not read to its end.
    fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    /// Makes this error close the client's connection after the answer, unless the request's `body` was read to its end. The answer
    /// announces the end, so that the client sends no next request into a connection that closes.
    #[must_use]
    pub fn closing_unless_read(self, body: &impl Body) -> Self {
        if body.is_end_stream() { self } else { self.closing() }
    }

    /// A request without a valid key. The answer never repeats the key, not even masked. Only the log says that a key is
    /// disabled, has expired, or comes from an address that is not allowed.
    pub(super) fn unauthenticated(why: AuthError, mut rejected: RejectedRequest) -> Self {
        let (message, reason) = match &why {
            AuthError::NoKey => ("You didn't provide an API key. Send one as `Authorization: Bearer <key>`.", "no_key"),
            AuthError::SeveralKeys => ("", "several_keys"),
            AuthError::UnknownKey => (UNKNOWN_KEY, "unknown"),
            AuthError::Refused(_, why) => (UNKNOWN_KEY, *why),
            AuthError::KeysUnread => (
                "The client keys of this gateway cannot be read right now, so this key could not be checked. Please \
                 try again in a moment.",
                "keys_unread",
            ),
        };
        let mut refusal = match &why {
            AuthError::SeveralKeys => Self::repeated_header("Authorization"),
            AuthError::KeysUnread => Self::new(Problem::KeysUnavailable, message),
            _ => Self::new(Problem::InvalidApiKey, message),
        };
        rejected.reason = Some(reason);
        if let AuthError::Refused(key, _) = why {
            rejected.key = Some(key);
            rejected.key_begins = None;
        }
        refusal.rejected = Some(Box::new(rejected));
        refusal
    }

    /// Makes the error for a WebSocket upgrade, status 426. Codex falls back to HTTP at once on 426, and on no other status
    /// (docs/wire.md, section 1).
    pub fn websocket_unsupported() -> Self {
        Self::new(
            Problem::WebsocketUnsupported,
            "This gateway does not serve WebSocket. Use POST /v1/responses over HTTP.",
        )
        .closing()
    }

    /// Makes the error for a model that does not exist, or that the client's key may not use.
    pub fn model_not_found(model: &str) -> Self {
        let shown: String = model.chars().filter(|c| !c.is_control()).take(100).collect();
        Self::new(
            Problem::ModelNotFound,
            format!("The model `{shown}` does not exist, or this key may not use the model. GET /v1/models lists the models of this key."),
        )
        .about("model")
    }

    /// No upstream of this request has the endpoint.
    pub(super) fn not_served(endpoint: Endpoint) -> Self {
        Self::unsupported(endpoint, "No provider that this request may use serves")
    }

    /// The provider itself answers that it does not have the endpoint.
    pub(super) fn not_served_by_provider(endpoint: Endpoint) -> Self {
        Self::unsupported(endpoint, "The provider does not serve")
    }

    fn unsupported(endpoint: Endpoint, what: &str) -> Self {
        let message =
            format!("{what} {} /v1{}. Use another endpoint or another model.", endpoint.method(), endpoint.path());
        Self::new(Problem::UnsupportedEndpoint, message)
    }

    /// The request names no model, and no default upstream exists.
    pub(super) fn model_required() -> Self {
        Self::new(Problem::ModelRequired, "you must provide a model parameter: send the name of a model as `model`")
            .about("model")
    }

    pub(super) fn model_required_of_key() -> Self {
        Self::new(
            Problem::ModelRequired,
            "you must provide a model parameter, because this key may use only some models. Send the name of a model \
             as `model`",
        )
        .about("model")
    }

    pub(super) fn invalid_model(why: &'static str) -> Self {
        Self::new(Problem::InvalidModel, format!("`model` {why}")).about("model")
    }

    /// A lenient upstream would read another model than the one that Tidegate checks.
    pub(super) fn model_in_query() -> Self {
        Self::new(Problem::InvalidQuery, "`model` is in the query of the URL. Send `model` only in the body.")
            .about("model")
    }

    /// The key has a budget, and a request with an unknown cost could overspend it.
    pub(super) fn unpriced_model(model: Option<&str>) -> Self {
        const HELP: &str = "and this key has a budget. Use a model with a price. Or ask the operator to add a price to \
            [[prices]] (0 if free), or to set `unpriced = \"allow\"` in [money].";
        let message = match model {
            Some(model) => format!("The model `{model}` has no price at this gateway, {HELP}"),
            None => format!("The request names no model and so has no price at this gateway, {HELP}"),
        };
        Self::new(Problem::UnpricedModel, message).about("model")
    }

    pub(super) fn upstream(problem: Problem) -> Self {
        Self::new(
            problem,
            match problem {
                Problem::UpstreamUnreachable => "The provider cannot be reached. Try again in a moment.",
                Problem::UpstreamDisconnected => {
                    "The provider closed the connection before an answer came. Try again in a moment."
                }
                Problem::UpstreamTimeout => "The provider did not answer in time. Try again in a moment.",
                Problem::UpstreamAuth => {
                    "The provider refused the credential of this gateway. Your own key is fine. Tell the operator of \
                     this gateway."
                }
                Problem::UpstreamBadAnswer => {
                    "The provider's answer is not an answer of the API (for example an HTML page). Try again, or tell \
                     the operator of this gateway."
                }
                Problem::LedgerUnavailable => {
                    "This gateway cannot write to the ledger right now, so this gateway sent nothing to a provider. \
                     Try again in a moment."
                }
                _ => {
                    "This gateway has an internal fault. Try again, and tell the operator of this gateway the request \
                     id."
                }
            },
        )
    }

    /// Every candidate has reached its limit of requests in progress.
    pub(super) fn upstream_busy() -> Self {
        Self::new(
            Problem::UpstreamBusy,
            "All providers of this model are busy, because each has reached the limit of requests in progress at this \
             gateway. Try again in a moment.",
        )
    }

    /// The key or its group has reached a limit.
    pub(super) fn limited(limited: &Limited, terms: &BudgetTerms) -> Self {
        let Limited { kind, whose, name, model, after, quotas } = limited;
        let model = model.as_ref().map(|model| format!(" for the model `{model}`")).unwrap_or_default();
        let whose = format!("the {} `{name}`{model}", whose.name());
        let soon = quota::format_duration(*after);
        let rate =
            |limit, of| format!("Rate limit reached for {whose}: {limit} {of} per minute. Please try again in {soon}.");
        let (problem, message) = match kind {
            LimitKind::Requests(limit) => (Problem::RequestLimit, rate(limit, "requests")),
            LimitKind::Tokens(limit) => (Problem::TokenLimit, rate(limit, "tokens")),
            LimitKind::InFlight(limit) => (
                Problem::InFlightLimit,
                format!(
                    "The limit of requests in progress for {whose} is {limit}, and this limit is reached. Please try \
                     again when one request has ended."
                ),
            ),
            LimitKind::Reserved(budget) => (
                Problem::BudgetReserved,
                format!(
                    "Requests in progress have reserved the rest of the budget of {budget} of {whose}. Please try \
                     again in a moment."
                ),
            ),
            LimitKind::Budget { budget, span, spent } => {
                (Problem::BudgetSpent, terms.spent(&whose, *budget, *spent, *span))
            }
        };
        let mut refusal = Self::new(problem, message);
        // Spent budget does not come back while an SDK waits.
        if problem == Problem::BudgetSpent {
            refusal.status = Some(terms.status);
        } else {
            refusal.after = Some(*after);
        }
        refusal.quotas = Some(Box::new(*quotas));
        refusal
    }

    /// The shared limits cannot be read now, and `fail = "closed"`.
    pub(super) fn limits_unavailable() -> Self {
        Self::new(
            Problem::LimitsUnavailable,
            "This gateway cannot read the limits of your key right now, so this gateway sent nothing to a provider. \
             Try again in a moment.",
        )
    }

    /// Makes the error for a fault inside Tidegate (status 500).
    pub fn internal() -> Self {
        Self::upstream(Problem::Internal)
    }

    /// Settles the request with this error and returns the response.
    pub(super) fn answer(mut self, mut guard: SettleOnDrop) -> Response<Bytes> {
        let outcome = guard.settlement.outcome();
        let id = outcome.id;
        if let Some(rejected) = self.rejected.take() {
            outcome.key = rejected.key.clone().or(outcome.key.take());
            outcome.rejected = Some(rejected);
        }
        if self.problem == Problem::RequestAborted {
            // The client left, so no one reads the answer.
            guard.settle(EndReason::ClientGone);
        } else {
            guard.refuse(self.problem, self.status());
        }
        self.response(id)
    }

    fn status(&self) -> StatusCode {
        self.status.unwrap_or_else(|| status(self.problem))
    }

    /// Returns the error as JSON.
    pub(super) fn body(&self) -> Bytes {
        let error =
            Error { message: &self.message, kind: kind(self.problem), param: self.param, code: self.problem.name() };
        // Serializing strings and nulls cannot fail.
        Bytes::from(serde_json::to_vec(&Envelope { error }).unwrap_or_default())
    }

    fn response(self, id: RequestId) -> Response<Bytes> {
        let status = self.status();
        let mut response = Response::new(self.body());
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ERROR_SOURCE, HeaderValue::from_static(source(self.problem)));
        if !is_retryable(self.problem) {
            headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        match self.problem {
            Problem::InvalidApiKey => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Problem::UnsupportedEncoding => {
                headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip, deflate, br, zstd"));
            }
            Problem::UpstreamBusy
            | Problem::GatewayOverloaded
            | Problem::LedgerUnavailable
            | Problem::LimitsUnavailable
            | Problem::KeysUnavailable
            | Problem::AffinityUnavailable => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static(RETRY_SOON));
            }
            // RFC 9110 requires a 426 to name a protocol. The client must use this one instead of WebSocket.
            Problem::WebsocketUnsupported => {
                headers.insert(UPGRADE, HeaderValue::from_static("HTTP/1.1"));
            }
            _ => {}
        }
        if let Some(after) = self.after {
            // Whole seconds, at least one. Codex aborts a turn on a 429 without this header.
            headers.insert(RETRY_AFTER, HeaderValue::from(after.as_millis().div_ceil(1000).clamp(1, 3600) as u64));
        }
        if let Some(quotas) = self.quotas.as_deref() {
            quota::write(headers, quotas);
        }
        if let Some(allow) = self.allow.and_then(|allow| HeaderValue::try_from(&*allow).ok()) {
            headers.insert(ALLOW, allow);
        }
        if self.close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        sign(headers, id);
        response
    }
}

/// OpenAI's error object, always with all four fields.
#[derive(Serialize)]
struct Envelope<'a> {
    error: Error<'a>,
}

#[derive(Serialize)]
struct Error<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<&'static str>,
    code: &'static str,
}

/// Adds the request's id to a response: always as `x-tidegate-request-id`, and as `x-request-id` unless the upstream sent one.
pub(super) fn sign(headers: &mut http::HeaderMap, id: RequestId) {
    if let Ok(id) = HeaderValue::try_from(id.to_string()) {
        headers.entry(CLIENT_REQUEST_ID).or_insert_with(|| id.clone());
        headers.insert(REQUEST_ID, id);
    }
}
