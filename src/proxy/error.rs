//! The only place that words an error of ours and turns it into a response, in OpenAI's shape (docs/wire.md, section 3).

mod body;
mod head;
mod state;
mod url;

use std::{borrow::Cow, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderValue, Response, StatusCode,
    header::{ACCEPT_ENCODING, ALLOW, CONNECTION, CONTENT_TYPE, RETRY_AFTER, UPGRADE, WWW_AUTHENTICATE},
};
use http_body::Body;
use serde::Serialize;

pub(super) use url::rejected;

use super::{
    Proxy, RequestArrival, ResponseBody,
    closing::Closing,
    quota::{self, BudgetTerms},
    status::{kind, may_heal, source, status},
};
use crate::{
    auth::{AuthError, Caller},
    domain::{
        endpoint::Endpoint,
        id::RequestId,
        outcome::{EndReason, RejectedRequest},
        problem::Problem,
    },
    limits::{Kind, Limited, Quotas},
};

/// Our id of the request, on every response.
pub const REQUEST_ID: &str = "x-tidegate-request-id";
/// The id that SDKs show: the upstream's if it sent one, else ours.
pub const CLIENT_REQUEST_ID: &str = "x-request-id";
/// Whose error an error answer is: `upstream` or `gateway`.
pub const ERROR_SOURCE: &str = "x-tidegate-error-source";
const SHOULD_RETRY: &str = "x-should-retry";
/// Seconds: what is full now mostly has room a moment later, and a 503 without it makes Codex come back at once.
const RETRY_SOON: &str = "1";

/// It begins with OpenAI's words, by which the client of `LiteLLM` recognises a wrong key.
const UNKNOWN_KEY: &str = "Incorrect API key provided. Use a key of this gateway, not a provider's.";

/// An error of ours, worded.
#[derive(Debug)]
pub struct ApiError {
    problem: Problem,
    message: Cow<'static, str>,
    param: Option<&'static str>,
    /// In place of the status that the problem has by default.
    status: Option<StatusCode>,
    allow: Option<Cow<'static, str>>,
    /// When to come back.
    after: Option<Duration>,
    /// Of a limit: how the limits stand.
    quotas: Option<Box<Quotas>>,
    /// What the log says beside.
    rejected: Option<Box<RejectedRequest>>,
    /// The rest of the request's body is not read: the connection cannot be used again.
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

    /// Closes the connection after the answer: the body was not read to its end.
    fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    /// Closes the connection after the answer unless `body`, which is read no further, was read to its end. Told to
    /// the client, who would otherwise send its next request into a connection that closes.
    #[must_use]
    pub fn leaving(self, body: &impl Body) -> Self {
        if body.is_end_stream() { self } else { self.closing() }
    }

    /// A request without a key that may be used. The key is not repeated, not even masked; that it is disabled, has ended or comes
    /// from elsewhere is told to the log alone.
    pub(super) fn stranger(why: AuthError, mut rejected: RejectedRequest) -> Self {
        let (message, reason) = match &why {
            AuthError::NoKey => ("You didn't provide an API key. Send one as `Authorization: Bearer <key>`.", "no_key"),
            AuthError::SeveralKeys => ("", "several_keys"),
            AuthError::UnknownKey => (UNKNOWN_KEY, "unknown"),
            AuthError::Refused(_, why) => (UNKNOWN_KEY, *why),
            AuthError::KeysUnread => {
                ("The keys of this gateway cannot be read right now. Please try again in a moment.", "keys_unread")
            }
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

    /// Codex falls back to HTTP at once on 426, and on nothing else (docs/wire.md, section 1).
    pub fn websocket_unsupported() -> Self {
        Self::new(Problem::WebsocketUnsupported, "WebSocket is not served here. Use POST /v1/responses over HTTP.")
            .closing()
    }

    /// The model does not exist for this caller.
    pub fn model_not_found(model: &str) -> Self {
        let shown: String = model.chars().filter(|c| !c.is_control()).take(100).collect();
        Self::new(
            Problem::ModelNotFound,
            format!("The model `{shown}` does not exist, or this key may not use it. GET /v1/models lists the models of this key."),
        )
        .about("model")
    }

    /// Nobody who could be asked has the endpoint.
    pub(super) fn not_served(endpoint: Endpoint) -> Self {
        Self::unsupported(endpoint, "No provider that this request may use serves")
    }

    /// The provider itself says that it does not have the endpoint.
    pub(super) fn not_there(endpoint: Endpoint) -> Self {
        Self::unsupported(endpoint, "The provider does not serve")
    }

    fn unsupported(endpoint: Endpoint, what: &str) -> Self {
        let message = format!("{what} {} /v1{}.", endpoint.method(), endpoint.path());
        Self::new(Problem::UnsupportedEndpoint, message)
    }

    /// No model, and nowhere to send a request without one.
    pub(super) fn model_required() -> Self {
        Self::new(Problem::ModelRequired, "you must provide a model parameter").about("model")
    }

    pub(super) fn model_required_of_key() -> Self {
        Self::new(Problem::ModelRequired, "you must provide a model parameter: this key is restricted to some models")
            .about("model")
    }

    pub(super) fn invalid_model(why: &'static str) -> Self {
        Self::new(Problem::InvalidModel, format!("`model` {why}")).about("model")
    }

    /// A lenient upstream would read another model than the one that is checked.
    pub(super) fn model_in_query() -> Self {
        Self::new(Problem::InvalidQuery, "`model` stands in the query. Name the model in the body alone.")
            .about("model")
    }

    /// The key has a budget, which a request whose cost is not known could overspend.
    pub(super) fn unpriced_model(model: Option<&str>) -> Self {
        const HELP: &str = "and this key has a budget. Use a model with a price, or ask the operator to add one to [[prices]] \
                            (0 where the model is free) or to set `unpriced = \"allow\"` below [money].";
        let message = match model {
            Some(model) => format!("The model `{model}` has no price at this gateway, {HELP}"),
            None => format!("The request names no model, so it has no price at this gateway, {HELP}"),
        };
        Self::new(Problem::UnpricedModel, message).about("model")
    }

    pub(super) fn upstream(problem: Problem) -> Self {
        Self::new(
            problem,
            match problem {
                Problem::UpstreamUnreachable => "The provider cannot be reached.",
                Problem::UpstreamDisconnected => "The provider closed the connection before it answered.",
                Problem::UpstreamTimeout => "The provider did not answer in time.",
                Problem::UpstreamAuth => {
                    "The provider refused this gateway's own credential. Your key is fine; tell the operator."
                }
                Problem::UpstreamBadAnswer => {
                    "The provider's answer is not an answer of the API (for example an HTML page)."
                }
                Problem::LedgerUnavailable => {
                    "This gateway cannot write its ledger right now, so it sent nothing to a provider. Try again in a moment."
                }
                _ => "Something went wrong inside the gateway.",
            },
        )
    }

    /// Every candidate has as many requests as it may have.
    pub(super) fn upstream_busy() -> Self {
        Self::new(
            Problem::UpstreamBusy,
            "Every provider of this model has the most requests in progress that this gateway allows. Try again in a moment.",
        )
    }

    /// A limit of the key or its group is reached.
    pub(super) fn limited(limited: &Limited, terms: &BudgetTerms) -> Self {
        let Limited { kind, whose, name, model, after, quotas } = limited;
        let model = model.as_ref().map(|model| format!(" for the model `{model}`")).unwrap_or_default();
        let bare = format!("{} `{name}`{model}", whose.name());
        let whose = format!("the {bare}");
        let soon = quota::written(*after);
        let rate =
            |limit, of| format!("Rate limit reached for {whose}: {limit} {of} per minute. Please try again in {soon}.");
        let (problem, message) = match kind {
            Kind::Requests(limit) => (Problem::RequestLimit, rate(limit, "requests")),
            Kind::Tokens(limit) => (Problem::TokenLimit, rate(limit, "tokens")),
            Kind::InFlight(limit) => (
                Problem::InFlightLimit,
                format!(
                    "The {bare} has {limit} requests in progress, which is its limit. Please try again when one has ended."
                ),
            ),
            Kind::Reserved(budget) => (
                Problem::BudgetReserved,
                format!(
                    "Requests in progress have reserved the rest of the budget of {budget} of {whose}. Please try again in a moment."
                ),
            ),
            Kind::Budget { budget, span, spent } => (Problem::BudgetSpent, terms.spent(&whose, *budget, *spent, *span)),
        };
        let mut refusal = Self::new(problem, message);
        // What is spent does not come back while an SDK waits.
        if problem == Problem::BudgetSpent {
            refusal.status = Some(terms.status);
        } else {
            refusal.after = Some(*after);
        }
        refusal.quotas = Some(Box::new(*quotas));
        refusal
    }

    /// What is left of the limits that replicas share cannot be known, and `fail = "closed"`.
    pub(super) fn limits_unavailable() -> Self {
        Self::new(
            Problem::LimitsUnavailable,
            "This gateway cannot read the limits of your key right now, so it sent nothing to a provider. Try again in a moment.",
        )
    }

    /// A fault of our own.
    pub fn internal() -> Self {
        Self::upstream(Problem::Internal)
    }

    /// Settles the record with this error and makes the response.
    pub(super) fn answer(mut self, mut closing: Closing) -> Response<ResponseBody> {
        let outcome = closing.settlement.outcome();
        let id = outcome.id;
        if let Some(rejected) = self.rejected.take() {
            outcome.key = rejected.key.clone().or(outcome.key.take());
            outcome.rejected = Some(rejected);
        }
        if self.problem == Problem::RequestAborted {
            // Nobody is there to read the answer.
            closing.close(EndReason::ClientGone);
        } else {
            closing.refuse(self.problem, self.status());
        }
        self.response(id)
    }

    fn status(&self) -> StatusCode {
        self.status.unwrap_or_else(|| status(self.problem))
    }

    /// The error as JSON.
    pub(super) fn body(&self) -> Bytes {
        let error =
            Error { message: &self.message, kind: kind(self.problem), param: self.param, code: self.problem.name() };
        // Texts and nulls: writing them down cannot fail.
        Bytes::from(serde_json::to_vec(&Envelope { error }).unwrap_or_default())
    }

    fn response(self, id: RequestId) -> Response<ResponseBody> {
        let status = self.status();
        let mut response = Response::new(ResponseBody::whole(self.body()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ERROR_SOURCE, HeaderValue::from_static(source(self.problem)));
        if !may_heal(self.problem) {
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
            // RFC 9110 wants a 426 to name a protocol: the one to use in place of WebSocket.
            Problem::WebsocketUnsupported => {
                headers.insert(UPGRADE, HeaderValue::from_static("HTTP/1.1"));
            }
            _ => {}
        }
        if let Some(after) = self.after {
            // Whole seconds, one at least: Codex gives up a turn on a 429 without it.
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

/// OpenAI's error object: all four fields, always.
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

impl Proxy {
    /// Answers a request with an error of ours, and records it.
    pub fn refuse(&self, arrival: &RequestArrival, refusal: ApiError) -> Response<ResponseBody> {
        refusal.answer(self.tables().open(arrival).into())
    }

    /// Answers a caller with a JSON text of ours, or with an error of ours in its place, and records it.
    pub fn answer(
        &self,
        arrival: &RequestArrival,
        caller: &Caller,
        json: Result<String, ApiError>,
    ) -> Response<ResponseBody> {
        let mut settlement = self.tables().open(arrival);
        settlement.outcome().key = Some(Arc::clone(&caller.name));
        let body = match json {
            Ok(json) => Bytes::from(json),
            Err(refusal) => return refusal.answer(settlement.into()),
        };
        let outcome = settlement.outcome();
        outcome.status = Some(StatusCode::OK);
        outcome.bytes_down = body.len() as u64;
        settlement.settle(EndReason::Completed);
        let mut response = Response::new(ResponseBody::whole(body));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        sign(response.headers_mut(), arrival.id);
        response
    }
}

/// Puts the request's id on a response: `x-tidegate-request-id` always, `x-request-id` unless the upstream sent one.
pub(super) fn sign(headers: &mut http::HeaderMap, id: RequestId) {
    if let Ok(id) = HeaderValue::try_from(id.to_string()) {
        headers.entry(CLIENT_REQUEST_ID).or_insert_with(|| id.clone());
        headers.insert(REQUEST_ID, id);
    }
}
