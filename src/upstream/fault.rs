//! Whose fault an error answer of an upstream is.
//!
//! An answer about our credential must not reach the client: SDKs would say that the client's own key is wrong, and such
//! messages repeat part of ours (docs/wire.md, section 3). An answer about the request must reach the client as it is,
//! and must not count against an account that others use. So the table names only answers that are certain; any other
//! answer is the request's. docs/health.md lists the table for operators.

mod words;

use http::StatusCode;

use crate::{
    config::{self, ErrorRule, FaultOwner},
    protocol::error_body::ErrorBody,
};

/// Whose fault an error answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The request's: the answer is for the client, whatever it says. Others would say the same.
    Request,
    /// The upstream does not have the model, or does not offer it to our credential. Another target may have it.
    Model,
    /// Our credential's: it is wrong, expired or disabled.
    Credential,
    /// The account's: its money or quota is spent.
    Balance,
    /// A 402 that says nothing more: the account's money, or the price of this one request.
    Payment,
    /// Our credential asked too often.
    RateLimit,
    /// The upstream's.
    Upstream,
}

/// Whether the body of an answer with this status has to be read before it is known whose fault the answer is.
pub fn depends_on_body(status: StatusCode) -> bool {
    status.is_client_error() || status.is_server_error()
}

/// Whether the judgement matters so much that a slow body is waited for. Of a 401 the status alone tells enough.
pub fn body_matters(status: StatusCode, rules: &[ErrorRule]) -> bool {
    matches!(status, StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST) || has_rule(status, rules)
}

fn has_rule(status: StatusCode, rules: &[ErrorRule]) -> bool {
    let is_error = status.is_client_error() || status.is_server_error();
    rules.iter().any(|rule| rule.status.map_or(is_error, |wanted| wanted == status.as_u16()))
}

/// Whether the answer says that nothing is at the URL, if the answer is none of an API: a server that has the endpoint
/// words its errors in JSON; one that does not shows a page, or nothing.
pub fn is_about_the_url(status: StatusCode, rules: &[ErrorRule]) -> bool {
    matches!(status.as_u16(), 404 | 405 | 501) && rules.iter().all(|rule| rule.status != Some(status.as_u16()))
}

/// What follows from an error answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Whose fault it is.
    pub blame: Blame,
    /// Whether another candidate is asked.
    pub leads_on: bool,
}

/// Judges an answer. The upstream's own rules come first, then the built-in table.
pub fn judge(status: StatusCode, body: &ErrorBody, upstream: &config::Upstream) -> Judgement {
    if let Some(rule) = upstream.error_rules.iter().find(|rule| matches(rule, status, body)) {
        let blame = match rule.fault {
            FaultOwner::Credential => Blame::Credential,
            FaultOwner::Balance => Blame::Balance,
            FaultOwner::Request => Blame::Request,
            FaultOwner::Model => Blame::Model,
            FaultOwner::Upstream => Blame::Upstream,
        };
        return Judgement { blame, leads_on: blame != Blame::Request };
    }
    let blame = blame(status, body);
    let leads_on = match blame {
        Blame::Request | Blame::RateLimit | Blame::Upstream => is_set_to_lead_on(status, body, upstream),
        Blame::Model | Blame::Credential | Blame::Balance | Blame::Payment => true,
    };
    Judgement { blame, leads_on }
}

/// Whose fault the answer is, by the built-in table.
fn blame(status: StatusCode, body: &ErrorBody) -> Blame {
    // Whatever the status: relays send 404, 422, 500, 503, 529 and others for the same.
    if words::is_about_the_model(body) {
        return Blame::Model;
    }
    // Only of these statuses: a code or a sentence on any other one may be an echo of the request.
    if matches!(status.as_u16(), 400..=403 | 429) {
        if words::is_about_money(body) {
            return Blame::Balance;
        }
        let says_wrong = match status.as_u16() {
            429 => false,
            400 => words::is_about_the_key(body),
            _ => words::is_about_the_key(body) || words::is_about_the_token(body),
        };
        if says_wrong {
            return Blame::Credential;
        }
    }
    match status.as_u16() {
        401 => Blame::Credential,
        402 => Blame::Payment,
        429 => Blame::RateLimit,
        408 | 500.. => Blame::Upstream,
        _ => Blame::Request,
    }
}

/// Whether everything that the rule names is so.
fn matches(rule: &ErrorRule, status: StatusCode, body: &ErrorBody) -> bool {
    let code = body.code.as_deref().or(body.kind.as_deref());
    let says = |word: &String| body.message.to_lowercase().contains(&word.to_lowercase());
    rule.status.is_none_or(|wanted| wanted == status.as_u16())
        && rule.code.as_deref().is_none_or(|wanted| Some(wanted) == code)
        && rule.kind.as_deref().is_none_or(|wanted| Some(wanted) == body.kind.as_deref())
        && (rule.words.is_empty() || rule.words.iter().any(says))
}

/// Whether the upstream's settings let another candidate be asked after this status, code or type.
fn is_set_to_lead_on(status: StatusCode, body: &ErrorBody, upstream: &config::Upstream) -> bool {
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
