//! The log line of each request. The line has only names and numbers: never a prompt, a secret, a query string or an upstream's
//! error text.

use std::{fmt::Write as _, time::Duration};

use crate::domain::{
    endpoint::Endpoint,
    ledger::{self, UsageState},
    money::Money,
    origin::ReferenceKind,
    outcome::{AttemptResult, EndReason, Outcome},
    problem::Problem,
};

/// Writes the line: as `warn` where an operator may have to act, otherwise as `info`.
pub(super) fn line(outcome: &Outcome) {
    let rejected = outcome.rejected.as_deref();
    macro_rules! line {
        ($level:ident, $attempts:expr) => {
            tracing::$level!(
                target: "tidegate::request",
                id = %outcome.id,
                endpoint = outcome.endpoint.map(Endpoint::name),
                end = outcome.end.name(),
                status = outcome.status.map(|status| status.as_u16()),
                problem = outcome.problem.map(Problem::name),
                reason = rejected.and_then(|rejected| rejected.reason),
                key = outcome.key.as_deref(),
                key_begins = rejected.and_then(|rejected| rejected.key_begins.as_deref()),
                client = rejected.and_then(|rejected| rejected.client).map(tracing::field::display),
                method = rejected.and_then(|rejected| rejected.method.as_ref()).map(|method| method.as_str()),
                path = rejected.and_then(|rejected| rejected.path.as_deref()),
                model = outcome.model.as_deref(),
                upstream_model = outcome.upstream_model.as_deref(),
                pinned = outcome.pinned.map(ReferenceKind::name),
                stripped = outcome.stripped.then_some(true),
                attempts = $attempts,
                response_id = outcome.response_id.as_deref(),
                upstream_request_id = outcome.upstream_request_id.as_deref(),
                upstream_code = outcome.upstream_code.as_deref(),
                input_tokens = outcome.usage.input,
                cached_tokens = outcome.usage.cached,
                output_tokens = outcome.usage.output,
                reasoning_tokens = outcome.usage.reasoning,
                total_tokens = outcome.usage.total,
                cost = cost(outcome).map(tracing::field::display),
                streamed = outcome.streamed,
                events = outcome.events,
                bytes_up = outcome.bytes_up,
                bytes_down = outcome.bytes_down,
                bytes_drained = (outcome.bytes_drained > 0).then_some(outcome.bytes_drained),
                first_byte_ms = outcome.first_byte.map(millis),
                took_ms = millis(outcome.took),
            )
        };
    }
    if needs_a_look(outcome) {
        if tracing::enabled!(target: "tidegate::request", tracing::Level::WARN) {
            line!(warn, attempts(outcome).as_deref());
        }
    } else if tracing::enabled!(target: "tidegate::request", tracing::Level::INFO) {
        line!(info, attempts(outcome).as_deref());
    }
}

/// Returns the charge, if the request was sent upstream and its model has a price.
fn cost(outcome: &Outcome) -> Option<Money> {
    let (nano, _) = ledger::charge(outcome, UsageState::of(outcome)).filter(|_| !outcome.attempts.is_empty())?;
    Some(Money { nano, currency: outcome.price.as_ref()?.base.currency })
}

fn needs_a_look(outcome: &Outcome) -> bool {
    match outcome.end {
        EndReason::Incomplete | EndReason::UpstreamBroken | EndReason::UpstreamStalled | EndReason::GatewayStop => true,
        EndReason::Refused => matches!(
            outcome.problem,
            Some(
                Problem::UpstreamUnreachable
                    | Problem::UpstreamDisconnected
                    | Problem::UpstreamTimeout
                    | Problem::UpstreamAuth
                    | Problem::UpstreamBadAnswer
                    | Problem::Internal
            )
        ),
        _ => false,
    }
}

/// Returns each attempt as `upstream/credential result milliseconds`, in order, or `None` if nothing was sent.
fn attempts(outcome: &Outcome) -> Option<String> {
    let mut text = String::new();
    for attempt in &outcome.attempts {
        let separator = if text.is_empty() { "" } else { "; " };
        let credential = attempt.credential.as_deref().unwrap_or("-");
        // Writing to a string cannot fail.
        let _ = write!(text, "{separator}{}/{credential} ", attempt.upstream);
        let _ = match attempt.result {
            AttemptResult::Status(status) => write!(text, "{}", status.as_u16()),
            AttemptResult::Fault(problem) => write!(text, "{}", problem.name()),
            AttemptResult::Abandoned => write!(text, "abandoned"),
        };
        let _ = write!(text, " {:.1}ms", millis(attempt.took));
    }
    (!text.is_empty()).then_some(text)
}

/// Returns milliseconds with three decimals, for people and programs.
fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1_000_000.0).round() / 1000.0
}
