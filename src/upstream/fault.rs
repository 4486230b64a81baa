//! Who caused an error answer of an upstream: the request, the model, the credential, the account or the upstream.
//!
//! An answer about our credential must not reach the client (docs/wire.md, section 3). SDKs would report that the client's own
//! key is wrong, and such messages repeat part of our credential. An answer about the request must reach the client unchanged,
//! and must not count against an account that other clients use. So the table names only certain cases; every other answer is
//! about the request. docs/health.md lists the table for operators.

mod words;

use http::StatusCode;

use crate::{
    config::{self, ErrorRule, FaultOwner},
    protocol::error_body::ErrorBody,
};

/// Who caused an error answer of an upstream: the request, the model, the credential, the account, or the upstream itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCause {
    /// The request: the client gets the answer unchanged. Other upstreams would answer the same.
    Request,
    /// The model: the upstream lacks the model, or does not offer the model to our credential. Another target may have the model.
    Model,
    /// Our credential: the credential is wrong, expired or disabled.
    Credential,
    /// The account: its money or quota is spent.
    Balance,
    /// A 402 without details: the account's money is spent, or this one request costs too much.
    Payment,
    /// Our credential reached a rate limit.
    RateLimit,
    /// The upstream.
    Upstream,
}

/// Whether [`judge`] needs the body of an upstream's answer with this status to tell who caused the error.
pub fn depends_on_body(status: StatusCode) -> bool {
    status.is_client_error() || status.is_server_error()
}

/// Whether the gateway waits for a slow body of an error answer with this status, to learn the cause of the error. For a 401 the status
/// alone is enough.
pub fn body_matters(status: StatusCode, rules: &[ErrorRule]) -> bool {
    matches!(status, StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST) || has_rule(status, rules)
}

fn has_rule(status: StatusCode, rules: &[ErrorRule]) -> bool {
    let is_error = status.is_client_error() || status.is_server_error();
    rules.iter().any(|rule| rule.status.map_or(is_error, |wanted| wanted == status.as_u16()))
}

/// Whether an upstream's answer with this status means that the base URL is wrong, if the body is not an API error either. A server that
/// has the endpoint sends its errors as JSON. A server without the endpoint sends a web page or an empty body.
pub fn is_about_the_url(status: StatusCode, rules: &[ErrorRule]) -> bool {
    matches!(status.as_u16(), 404 | 405 | 501) && rules.iter().all(|rule| rule.status != Some(status.as_u16()))
}

/// Who caused an upstream's error answer, and whether the gateway may try another candidate (failover).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorJudgement {
    /// Who caused the answer.
    pub error_cause: ErrorCause,
    /// Whether another candidate is attempted.
    pub allows_failover: bool,
}

/// Judges an upstream's error answer: who caused the error, and whether failover is allowed. The upstream's own rules come first, then
/// the built-in table.
pub fn judge(status: StatusCode, body: &ErrorBody, upstream: &config::Upstream) -> ErrorJudgement {
    if let Some(rule) = upstream.error_rules.iter().find(|rule| matches(rule, status, body)) {
        let error_cause = match rule.fault {
            FaultOwner::Credential => ErrorCause::Credential,
            FaultOwner::Balance => ErrorCause::Balance,
            FaultOwner::Request => ErrorCause::Request,
            FaultOwner::Model => ErrorCause::Model,
            FaultOwner::Upstream => ErrorCause::Upstream,
        };
        return ErrorJudgement { error_cause, allows_failover: error_cause != ErrorCause::Request };
    }
    let error_cause = error_cause(status, body);
    let allows_failover = match error_cause {
        ErrorCause::Request | ErrorCause::RateLimit | ErrorCause::Upstream => {
            failover_is_configured(status, body, upstream)
        }
        ErrorCause::Model | ErrorCause::Credential | ErrorCause::Balance | ErrorCause::Payment => true,
    };
    ErrorJudgement { error_cause, allows_failover }
}

/// Returns who caused the answer, by the built-in table.
fn error_cause(status: StatusCode, body: &ErrorBody) -> ErrorCause {
    // Relays send 404, 422, 500, 503, 529 and other statuses for a missing model, so the status does not matter here.
    if words::is_about_the_model(body) {
        return ErrorCause::Model;
    }
    // With any other status, a code or a sentence may be an echo of the request.
    if matches!(status.as_u16(), 400..=403 | 429) {
        if words::is_about_money(body) {
            return ErrorCause::Balance;
        }
        let says_wrong = match status.as_u16() {
            429 => false,
            400 => words::is_about_the_key(body),
            _ => words::is_about_the_key(body) || words::is_about_the_token(body),
        };
        if says_wrong {
            return ErrorCause::Credential;
        }
    }
    match status.as_u16() {
        401 => ErrorCause::Credential,
        402 => ErrorCause::Payment,
        429 => ErrorCause::RateLimit,
        408 | 500.. => ErrorCause::Upstream,
        _ => ErrorCause::Request,
    }
}

/// Whether the answer meets every condition of the rule.
fn matches(rule: &ErrorRule, status: StatusCode, body: &ErrorBody) -> bool {
    let code = body.code.as_deref().or(body.kind.as_deref());
    let says = |word: &String| body.message.to_lowercase().contains(&word.to_lowercase());
    rule.status.is_none_or(|wanted| wanted == status.as_u16())
        && rule.code.as_deref().is_none_or(|wanted| Some(wanted) == code)
        && rule.kind.as_deref().is_none_or(|wanted| Some(wanted) == body.kind.as_deref())
        && (rule.words.is_empty() || rule.words.iter().any(says))
}

/// Whether the upstream's settings allow failover after this status, code or type.
fn failover_is_configured(status: StatusCode, body: &ErrorBody, upstream: &config::Upstream) -> bool {
    let is_named = |name: &Option<Box<str>>| {
        name.as_ref().is_some_and(|name| upstream.failover_codes.iter().any(|code| **code == **name))
    };
    let by_status = match &upstream.failover_statuses {
        None => matches!(status.as_u16(), 408 | 429 | 500..),
        Some(statuses) => statuses.contains(&status.as_u16()),
    };
    by_status || is_named(&body.code) || is_named(&body.kind)
}

#[cfg(test)]
mod tests;
