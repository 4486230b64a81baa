//! The ledger row of a request, and what the request is charged.

mod poll_outcome;

use std::borrow::Cow;

pub use poll_outcome::PollOutcome;

use super::{
    endpoint::{AnswerShape, Endpoint},
    id::RequestId,
    money::Exchange,
    outcome::{AttemptResult, EndReason, Outcome},
    price::{Bill, Parts, Price},
    problem::Problem,
    usage::{DEFAULT_REASONING_TOKENS, DEFAULT_TOKENS_PER_SECOND, MAX_TOKENS, PolledUsage, Usage, UsageEstimate},
};

/// How much of the usage and the cost of a request is known. The names are fixed: column `state`, metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UsageState {
    /// The request is in progress: nothing is known yet.
    Open,
    /// All of it: the provider reported the tokens of an answer that ended normally, or did no work.
    Exact,
    /// A part of an answer came, and the provider reported none or not all of its tokens.
    Partial,
    /// The request was sent upstream, and no answer came.
    Unknown,
    /// The process was killed before the request ended.
    Interrupted,
    /// A background response that still ran when its answer ended. A later request for the response by its id may show the
    /// tokens.
    Pending,
    /// The provider reported the whole usage, and a part of the usage has no price: the cost is an estimate.
    UnpricedPart,
}

impl UsageState {
    /// All usage states of a ledger row. The journal stores the position in this list: add new states at the end only.
    pub const ALL: [Self; 7] =
        [Self::Open, Self::Exact, Self::Partial, Self::Unknown, Self::Interrupted, Self::Pending, Self::UnpricedPart];

    /// The fixed name of the usage state of a ledger row, such as `exact`: column `state`, metric label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Exact => "exact",
            Self::Partial => "partial",
            Self::Unknown => "unknown",
            Self::Interrupted => "interrupted",
            Self::Pending => "pending",
            Self::UnpricedPart => "unpriced_part",
        }
    }

    /// Whether a ledger row in this state is replaced when a later row of the same request comes.
    pub const fn is_replaceable(self) -> bool {
        matches!(self, Self::Open | Self::Interrupted)
    }

    /// The usage state of a finished request: how much of its usage and cost is known. The state is about the answer that the
    /// client got, because no provider reports the cost of the attempts before it.
    pub fn of(outcome: &Outcome) -> Self {
        match Self::ignoring_prices(outcome) {
            Self::Exact if !unpriced(outcome).is_empty() => Self::UnpricedPart,
            state => state,
        }
    }

    /// The state as if every part of the usage had a price.
    fn ignoring_prices(outcome: &Outcome) -> Self {
        match outcome.end {
            _ if outcome.is_free() => Self::Exact,
            EndReason::UpstreamError => Self::Exact,
            // The tokens of an answer whose client left are known only if Tidegate drained the answer to its end.
            EndReason::Completed
            | EndReason::ResponseFailed
            | EndReason::ResponseIncomplete
            | EndReason::ClientGone
            | EndReason::ClientStalled
                if is_usage_credible(outcome) =>
            {
                Self::Exact
            }
            // The client left inside an error answer, or while it waited for another attempt.
            EndReason::ClientGone | EndReason::ClientStalled
                if outcome.attempts.last().is_some_and(|attempt| did_no_work(attempt.result)) =>
            {
                Self::Exact
            }
            EndReason::Refused if outcome.attempts.iter().all(|attempt| did_no_work(attempt.result)) => Self::Exact,
            _ if outcome.continues_in_background => Self::Pending,
            EndReason::Completed
            | EndReason::ResponseFailed
            | EndReason::ResponseIncomplete
            | EndReason::Incomplete
            | EndReason::UpstreamBroken
            | EndReason::UpstreamStalled
                if outcome.is_empty_answer =>
            {
                Self::Exact
            }
            _ if outcome.bytes_seen() > 0 || !outcome.usage.is_empty() => Self::Partial,
            _ => Self::Unknown,
        }
    }
}

/// The text that passed may have this many times the reported output tokens, plus [`TOKEN_SLACK`]: with more text, the report is
/// not credible. The estimate by bytes is right within a factor of two for texts that people and models write. For a run of
/// one character, the estimate is far off.
const MAX_TEXT_PER_REPORTED_TOKEN: u64 = 4;
/// Tokens that are added to the bound of [`MAX_TEXT_PER_REPORTED_TOKEN`].
const TOKEN_SLACK: u64 = 16;

/// Whether the provider reported the tokens of the whole answer, and the report is credible. Some providers report zeros for an
/// answer full of text.
fn is_usage_credible(outcome: &Outcome) -> bool {
    let Usage { input, output, audio_ms, .. } = outcome.usage;
    // Audio that is billed by time has no tokens.
    let Some((_, output)) = input.zip(output) else { return audio_ms.is_some() && !outcome.usage_may_grow };
    let most =
        if output == 0 { 0 } else { output.saturating_mul(MAX_TEXT_PER_REPORTED_TOKEN).saturating_add(TOKEN_SLACK) };
    !outcome.usage_may_grow && outcome.text_tokens <= most
}

/// Whether no model can have worked: the provider answered with an error, a web page or a redirect, or sent no byte at all.
/// After a timeout, the upstream may still be working.
fn did_no_work(result: AttemptResult) -> bool {
    match result {
        AttemptResult::Status(status) => !status.is_success(),
        AttemptResult::Fault(problem) => {
            matches!(problem, Problem::UpstreamUnreachable | Problem::UpstreamDisconnected | Problem::UpstreamBadAnswer)
        }
        AttemptResult::Abandoned => false,
    }
}

/// One ledger row, the record of one request: names and numbers only, never a prompt, a secret or the text of an error. An open
/// row holds what is known before the request is sent upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row<'a> {
    /// Id of the request. The id also holds the time.
    pub id: RequestId,
    /// How much of the usage and the cost is known.
    pub state: UsageState,
    /// Name of the [`Endpoint`]. Rows written before Tidegate had several endpoints have none.
    pub endpoint: Option<&'a str>,
    /// Name of the client's key.
    pub key: Option<&'a str>,
    /// Name of the key's group.
    pub group: Option<&'a str>,
    /// The model that the client requested.
    pub model: Option<&'a str>,
    /// The model name that was sent upstream.
    pub upstream_model: Option<&'a str>,
    /// Name of the upstream of the last attempt.
    pub upstream: Option<&'a str>,
    /// Name of the credential of the last attempt.
    pub credential: Option<&'a str>,
    /// Name of the [`EndReason`].
    pub end: Option<&'a str>,
    /// Id of the response.
    pub response_id: Option<&'a str>,
    /// Status that the client got.
    pub status: Option<u64>,
    /// Tokens that the provider reported.
    pub usage: Usage,
    /// Usage of the background response `response_id`, where this request polled it. The poll itself costs nothing.
    pub shown: Option<PolledUsage>,
    /// Tokens that were reserved before the usage was known: an estimate.
    pub reserved: Option<u64>,
    /// The price of the request, chosen by the input's size and the service tier. None where the model has no price.
    pub price: Option<Price>,
    /// The model's whole tariff ([`Tariff::to_text`](super::price::Tariff::to_text)), where the usage is reported later.
    pub terms: Option<&'a str>,
    /// Parts of the usage that have no price.
    pub unpriced: Parts,
    /// The exchange rate when the price was looked up: a later rate does not change the cost of this request.
    pub exchange: Exchange,
    /// The cost that was estimated before the request was sent upstream, in nano-units.
    pub reserved_cost: Option<u64>,
    /// The charge, in nano-units. None while the row is open, and where there is no price.
    pub cost: Option<u64>,
    /// Whether the charge is an estimate, because not all tokens or prices are known.
    pub estimated: bool,
    /// Bytes of the request's body.
    pub bytes_up: u64,
    /// Bytes of the answer's body.
    pub bytes_down: u64,
    /// Number of attempts.
    pub attempts: u64,
    /// Milliseconds from the request's head to the first byte of the answer's body.
    pub first_byte_ms: Option<u64>,
    /// Milliseconds from the request's head to the end.
    pub took_ms: u64,
}

impl<'a> Row<'a> {
    /// The ledger row of a finished request, made from the outcome of the request.
    pub fn settled(outcome: &'a Outcome) -> Self {
        let last_attempt = outcome.attempts.last();
        let state = UsageState::of(outcome);
        let (cost, estimated) =
            charge(outcome, state).map_or((None, false), |(cost, estimated)| (Some(cost), estimated));
        Self {
            state,
            cost,
            estimated,
            upstream: last_attempt.map(|attempt| &*attempt.upstream),
            credential: last_attempt.and_then(|attempt| attempt.credential.as_deref()),
            end: Some(outcome.end.name()),
            response_id: outcome.response_id.as_deref(),
            status: outcome.status.map(|status| status.as_u16().into()),
            usage: outcome.usage,
            price: bill(outcome).map(|bill| bill.price),
            terms: outcome.terms.as_deref(),
            unpriced: unpriced(outcome),
            shown: outcome.shown.filter(|_| outcome.end != EndReason::UpstreamError),
            bytes_down: outcome.bytes_down,
            attempts: outcome.attempts.len() as u64,
            first_byte_ms: outcome.first_byte.map(millis),
            took_ms: millis(outcome.took),
            ..Self::open(outcome, None)
        }
    }

    /// The cost of a ledger row in the other currency, at the exchange rate of the row. For an open row, the reserved cost. None
    /// without a rate or a cost.
    pub fn exchanged(&self) -> Option<u64> {
        let (nano, from) = (self.cost.or(self.reserved_cost)?, self.price?.currency);
        self.exchange.convert(nano, from, from.other())
    }

    /// The open ledger row of a request that Tidegate is about to send to `upstream`. The journal gets this row before the first
    /// byte is sent.
    pub fn open(outcome: &'a Outcome, upstream: Option<&'a str>) -> Self {
        Self {
            id: outcome.id,
            state: UsageState::Open,
            endpoint: outcome.endpoint.map(Endpoint::name),
            key: outcome.key.as_deref(),
            group: outcome.group.as_deref(),
            model: outcome.model.as_deref(),
            upstream_model: outcome.upstream_model.as_deref(),
            upstream,
            credential: None,
            end: None,
            response_id: None,
            status: None,
            usage: Usage::default(),
            shown: None,
            reserved: outcome.estimate.map(UsageEstimate::total),
            price: outcome.price.as_ref().map(|tariff| tariff.base),
            terms: None,
            unpriced: Parts::default(),
            exchange: outcome.exchange,
            reserved_cost: reserved_cost(outcome),
            cost: None,
            estimated: false,
            bytes_up: outcome.bytes_up,
            bytes_down: 0,
            attempts: 0,
            first_byte_ms: None,
            took_ms: 0,
        }
    }
}

/// The estimated cost of a request before it is sent upstream, in nano-units. None without a price or an estimate.
fn reserved_cost(outcome: &Outcome) -> Option<u64> {
    Some(outcome.price.as_ref()?.cost(&outcome.estimate?.usage()))
}

/// The bill for the reported usage. None where the model has no price, and for endpoints that cost nothing.
fn bill(outcome: &Outcome) -> Option<Bill> {
    let tariff = outcome.price.as_ref().filter(|_| !outcome.is_free())?;
    Some(tariff.bill(&outcome.usage))
}

/// Parts of a request's reported usage that the price of its model does not cover. Empty where the model has no price at all.
pub fn unpriced(outcome: &Outcome) -> Parts {
    let is_reported = !outcome.usage.is_empty();
    bill(outcome).filter(|_| is_reported).map(|bill| bill.unpriced).unwrap_or_default()
}

/// The charge for a finished request, in nano-units, and whether the charge is an estimate. None where there is no price.
///
/// Endpoints without a model ([`Endpoint::is_free`]) cost nothing, also where there are no prices.
///
/// Where not all tokens are known, the charge is for the input and for the output that passed. Output that Tidegate did not see
/// is charged as reserved.
pub fn charge(outcome: &Outcome, state: UsageState) -> Option<(u64, bool)> {
    if outcome.is_free() {
        return Some((0, false));
    }
    let price = outcome.price.as_ref()?;
    match state {
        UsageState::Open => None,
        UsageState::Exact if outcome.usage.is_nothing() => Some((0, false)),
        UsageState::Exact => Some((price.cost(&outcome.usage), false)),
        UsageState::UnpricedPart => Some((price.cost(&outcome.usage), true)),
        UsageState::Partial | UsageState::Unknown | UsageState::Interrupted | UsageState::Pending => {
            // A partial answer with a price per request only has an exact cost, whatever its usage.
            let estimated = state != UsageState::Partial || price.bills_parts();
            Some((price.cost(&usage_with_estimates(outcome)), estimated))
        }
    }
}

/// Number of tokens that a finished request is charged with: reported tokens, else tokens of the text that passed, else the
/// reservation.
pub fn tokens_charged(outcome: &Outcome) -> u64 {
    let Usage { input, output, total, .. } = usage_with_estimates(outcome);
    let sum = input.unwrap_or_default().saturating_add(output.unwrap_or_default());
    sum.max(total.unwrap_or_default())
}

/// The reported usage, with estimates in place of missing counts: the estimated input (also for a reported input of zero), and
/// the output by the text that passed and the reasoning that did not pass.
///
/// The reserved output is used where the output was not seen:
/// - an answer whose client left before the answer came,
/// - a stream before its first text,
/// - images and sound without reported tokens.
///
/// When the client leaves a stream, the provider stops the rest.
fn usage_with_estimates(outcome: &Outcome) -> Usage {
    let estimate = outcome.estimate.unwrap_or(UsageEstimate { input: 0, output: 0 });
    let reported = outcome.usage;
    let input = reported.input.filter(|input| *input > 0).unwrap_or(estimate.input);
    let hidden = hidden(outcome);
    let seen = reported.output.unwrap_or_default().max(outcome.text_tokens.saturating_add(hidden));
    let was_seen = !outcome.continues_in_background && (outcome.whole || (outcome.streamed && outcome.text_tokens > 0));
    let is_countable = !outcome.other_output || reported.output.is_some_and(|output| output > 0);
    let output = match outcome.endpoint.map(Endpoint::shape) {
        Some(AnswerShape::Vectors) => 0,
        _ if was_seen && is_countable => seen,
        _ => seen.max(estimate.output),
    };
    let reasoning = reported.reasoning.or((hidden > 0).then_some(hidden));
    Usage { input: Some(input), output: Some(output), reasoning, ..reported }
}

/// Estimates the output tokens of billed reasoning that did not pass as text and was not reported: by the size of encrypted
/// reasoning, by the time that it took, and by recent answers of the key and model. Returns the largest, as each can be too low.
fn hidden(outcome: &Outcome) -> u64 {
    let Outcome { usage, hidden, answer_averages, thought_for, .. } = outcome;
    let answers = outcome.whole || (outcome.streamed && (outcome.text_tokens > 0 || hidden.thinks));
    let is_reported = usage.output.is_some_and(|output| output > 0);
    if is_reported
        || !answers
        || outcome.is_empty_answer
        || outcome.endpoint.map(Endpoint::shape) == Some(AnswerShape::Vectors)
    {
        return 0;
    }
    let sealed = hidden.sealed.unwrap_or_default();
    if !hidden.thinks {
        return sealed.max(answer_averages.hidden);
    }
    let speed = answer_averages.tokens_per_second.unwrap_or(DEFAULT_TOKENS_PER_SECOND);
    let in_time = thought_for.as_millis() * u128::from(speed) / 1000;
    let usual = answer_averages.reasoning.unwrap_or(if sealed > 0 { 0 } else { DEFAULT_REASONING_TOKENS });
    sealed.max(usual).max(u64::try_from(in_time).unwrap_or(u64::MAX)).min(MAX_TOKENS)
}

/// Replaces control characters in a text of a ledger row by `?`. So every database can store the text, and every terminal can
/// show it. PostgreSQL refuses NUL: a row with NUL would never reach the database.
pub fn storable(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().map(|char| if char.is_control() { '?' } else { char }).collect())
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
