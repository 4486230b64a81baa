//! What the ledger holds of a request, and how the ledger stands.

mod condition;

use std::borrow::Cow;

pub use condition::{LedgerStatus, PollOutcome};

use super::{
    endpoint::{AnswerShape, Endpoint},
    id::RequestId,
    money::Exchange,
    outcome::{AttemptResult, EndReason, Outcome},
    price::{Bill, Parts, Price},
    problem::Problem,
    usage::{MOST_TOKENS, PACE, PolledUsage, THOUGHT, Usage, UsageEstimate},
};

/// How much of what a request cost is known. The names are fixed: column `state`, metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UsageState {
    /// It goes up, or is on its way: nothing is known yet.
    Open,
    /// All of it: the provider told the tokens of an answer that came to its end, or did no work.
    Exact,
    /// Something was answered, and the tokens were not told, or not all of them.
    Partial,
    /// It went up, and nothing came back.
    Unknown,
    /// The gateway was killed before the end.
    Interrupted,
    /// It is made in the background, and went on when its answer was over: a call by its id may tell the tokens.
    Pending,
    /// The provider told all that it used, and a part of that has no price: the cost is an estimate.
    UnpricedPart,
}

impl UsageState {
    /// All of them. Journals hold their places in this list: it only ever grows, at its end.
    pub const ALL: [Self; 7] =
        [Self::Open, Self::Exact, Self::Partial, Self::Unknown, Self::Interrupted, Self::Pending, Self::UnpricedPart];

    /// Its fixed name.
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

    /// Whether a row like this changes when its own request says more.
    pub const fn gives_way(self) -> bool {
        matches!(self, Self::Open | Self::Interrupted)
    }

    /// Of a request that is over. It is about the answer that the client got: what attempts before it may have cost, no
    /// provider tells.
    pub fn of(outcome: &Outcome) -> Self {
        match Self::told(outcome) {
            Self::Exact if !unpriced(outcome).is_empty() => Self::UnpricedPart,
            state => state,
        }
    }

    /// The same, whether all of what was told has a price or not.
    fn told(outcome: &Outcome) -> Self {
        match outcome.end {
            _ if outcome.is_free() => Self::Exact,
            EndReason::UpstreamError => Self::Exact,
            // A client that left got no tokens to count, unless the rest was read on.
            EndReason::Completed
            | EndReason::ResponseFailed
            | EndReason::ResponseIncomplete
            | EndReason::ClientGone
            | EndReason::ClientStalled
                if is_told(outcome) =>
            {
                Self::Exact
            }
            // Inside an error, or while another attempt was waited for.
            EndReason::ClientGone | EndReason::ClientStalled
                if outcome.attempts.last().is_some_and(|attempt| did_nothing(attempt.result)) =>
            {
                Self::Exact
            }
            EndReason::Refused if outcome.attempts.iter().all(|attempt| did_nothing(attempt.result)) => Self::Exact,
            _ if outcome.goes_on => Self::Pending,
            EndReason::Completed
            | EndReason::ResponseFailed
            | EndReason::ResponseIncomplete
            | EndReason::Incomplete
            | EndReason::UpstreamBroken
            | EndReason::UpstreamStalled
                if outcome.made_nothing =>
            {
                Self::Exact
            }
            _ if outcome.bytes_seen() > 0 || !outcome.usage.is_empty() => Self::Partial,
            _ => Self::Unknown,
        }
    }
}

/// The text that passed may come to so many times the tokens that were told, and 16 more: counting by bytes is right
/// within a factor of two for what people and models write, and a run of one character is far off.
const DOUBT: u64 = 4;
/// See [`DOUBT`].
const SLACK: u64 = 16;

/// Whether the provider told the tokens of all of the answer, and can be believed. Some tell zeros for an answer full of text.
fn is_told(outcome: &Outcome) -> bool {
    let Usage { input, output, audio_ms, .. } = outcome.usage;
    // Audio that is billed by time has no tokens.
    let Some((_, output)) = input.zip(output) else { return audio_ms.is_some() && !outcome.so_far };
    let most = if output == 0 { 0 } else { output.saturating_mul(DOUBT).saturating_add(SLACK) };
    !outcome.so_far && outcome.text_tokens <= most
}

/// Whether no model can have worked: the provider answered with an error, a page or a redirect, or not with a single byte. An
/// upstream that takes too long to answer may well be at work.
fn did_nothing(result: AttemptResult) -> bool {
    match result {
        AttemptResult::Status(status) => !status.is_success(),
        AttemptResult::Fault(problem) => {
            matches!(problem, Problem::UpstreamUnreachable | Problem::UpstreamDisconnected | Problem::UpstreamBadAnswer)
        }
        AttemptResult::Abandoned => false,
    }
}

/// One row: names and numbers only, never a prompt, a secret or an error's text. An open one holds what is known before
/// anything goes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row<'a> {
    /// The request; it tells the time as well.
    pub id: RequestId,
    /// What is known of its cost.
    pub state: UsageState,
    /// What was asked for: [`Endpoint`], by name. Rows of before there were several have none.
    pub endpoint: Option<&'a str>,
    /// Name of the client's key.
    pub key: Option<&'a str>,
    /// Name of the key's group.
    pub group: Option<&'a str>,
    /// The model as asked.
    pub model: Option<&'a str>,
    /// The model as sent up.
    pub upstream_model: Option<&'a str>,
    /// Name of the upstream that was asked last.
    pub upstream: Option<&'a str>,
    /// Name of the credential that was sent to it.
    pub credential: Option<&'a str>,
    /// [`EndReason`], by name.
    pub end: Option<&'a str>,
    /// Id of the response.
    pub response_id: Option<&'a str>,
    /// Status that the client got.
    pub status: Option<u64>,
    /// Tokens as reported.
    pub usage: Usage,
    /// What this call, which costs nothing itself, showed of the tokens of the response with this id.
    pub shown: Option<PolledUsage>,
    /// Tokens that were reserved: an estimate, where nothing was reported.
    pub reserved: Option<u64>,
    /// The price that it is billed with, by its size and service tier; none where the model has none.
    pub price: Option<Price>,
    /// The model's whole tariff ([`Tariff::written`](super::price::Tariff::written)), where the usage is told later.
    pub terms: Option<&'a str>,
    /// Parts of the usage that have no price.
    pub unpriced: Parts,
    /// How currencies were exchanged when its price was looked up: a later rate does not change what it did cost.
    pub exchange: Exchange,
    /// What it was thought to cost before it went up, in nano-units.
    pub reserved_cost: Option<u64>,
    /// What it is charged with, in nano-units; none while it is open, and where there is no price.
    pub cost: Option<u64>,
    /// Whether that is an estimate, as its tokens are not all known.
    pub estimated: bool,
    /// Bytes of the request's body.
    pub bytes_up: u64,
    /// Bytes of the answer's body.
    pub bytes_down: u64,
    /// Tries at upstreams.
    pub attempts: u64,
    /// Milliseconds to the first byte of the answer.
    pub first_byte_ms: Option<u64>,
    /// Milliseconds to the end.
    pub took_ms: u64,
}

impl<'a> Row<'a> {
    /// The row of a request that is over.
    pub fn settled(outcome: &'a Outcome) -> Self {
        let asked = outcome.attempts.last();
        let state = UsageState::of(outcome);
        let (cost, estimated) =
            charge(outcome, state).map_or((None, false), |(cost, estimated)| (Some(cost), estimated));
        Self {
            state,
            cost,
            estimated,
            upstream: asked.map(|attempt| &*attempt.upstream),
            credential: asked.and_then(|attempt| attempt.credential.as_deref()),
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

    /// What it is charged with in the other currency, at the row's own rate; for one that is open, what was reserved. None
    /// where there was no rate, and no cost.
    pub fn exchanged(&self) -> Option<u64> {
        let (nano, from) = (self.cost.or(self.reserved_cost)?, self.price?.currency);
        self.exchange.convert(nano, from, from.other())
    }

    /// The row of a request that is about to go up to `upstream`.
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

/// What it was thought to cost before it went up, in nano-units, where there is a price.
fn reserved_cost(outcome: &Outcome) -> Option<u64> {
    Some(outcome.price.as_ref()?.cost(&outcome.estimate?.usage()))
}

/// What is billed for what was told; none where its model has no price, and for what costs nothing.
fn bill(outcome: &Outcome) -> Option<Bill> {
    let tariff = outcome.price.as_ref().filter(|_| !outcome.is_free())?;
    Some(tariff.bill(&outcome.usage))
}

/// Parts of what was told that have no price, where its model has one.
pub fn unpriced(outcome: &Outcome) -> Parts {
    let told = !outcome.usage.is_empty();
    bill(outcome).filter(|_| told).map(|bill| bill.unpriced).unwrap_or_default()
}

/// What a request that is over is charged with, in nano-units, and whether that is an estimate; none where there is no price.
///
/// What only looks something up or puts it away costs nothing, also where there are no prices.
///
/// Where the tokens are not all known, the charge is for the input and for the output that passed. Output that was not seen is
/// charged as it was reserved.
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
            // What was answered and is paid by the call alone costs what it costs, whatever it used.
            let estimated = state != UsageState::Partial || price.bills_parts();
            Some((price.cost(&as_far_as_seen(outcome)), estimated))
        }
    }
}

/// Tokens that a request is charged with, as far as they were told or can be seen.
pub fn tokens_seen(outcome: &Outcome) -> u64 {
    let Usage { input, output, total, .. } = as_far_as_seen(outcome);
    let sum = input.unwrap_or_default().saturating_add(output.unwrap_or_default());
    sum.max(total.unwrap_or_default())
}

/// What was told; in place of what was not, the input as it was estimated, and the output by the text that passed and the
/// reasoning that did not pass.
///
/// What was reserved counts for output that was not seen: of an answer that the client did not wait for, of a stream before its
/// first text, and of images and sound whose tokens were not told. Of a stream that its client left, the provider stops the
/// rest.
fn as_far_as_seen(outcome: &Outcome) -> Usage {
    let estimate = outcome.estimate.unwrap_or(UsageEstimate { input: 0, output: 0 });
    let told = outcome.usage;
    let input = told.input.filter(|input| *input > 0).unwrap_or(estimate.input);
    let hidden = hidden(outcome);
    let seen = told.output.unwrap_or_default().max(outcome.text_tokens.saturating_add(hidden));
    let was_seen = !outcome.goes_on && (outcome.whole || (outcome.streamed && outcome.text_tokens > 0));
    let is_countable = !outcome.other_output || told.output.is_some_and(|output| output > 0);
    let output = match outcome.endpoint.map(Endpoint::shape) {
        Some(AnswerShape::Vectors) => 0,
        _ if was_seen && is_countable => seen,
        _ => seen.max(estimate.output),
    };
    let reasoning = told.reasoning.or((hidden > 0).then_some(hidden));
    Usage { input: Some(input), output: Some(output), reasoning, ..told }
}

/// Output tokens of reasoning that is billed, did not pass as text, and was not told: how large it is where it passed encrypted, how
/// long it took, and what answers of the key and model had of late. Of these the largest, as each can be too low.
fn hidden(outcome: &Outcome) -> u64 {
    let Outcome { usage, hidden, habit, thought_for, .. } = outcome;
    let answers = outcome.whole || (outcome.streamed && (outcome.text_tokens > 0 || hidden.thinks));
    let is_told = usage.output.is_some_and(|output| output > 0);
    if is_told
        || !answers
        || outcome.made_nothing
        || outcome.endpoint.map(Endpoint::shape) == Some(AnswerShape::Vectors)
    {
        return 0;
    }
    let sealed = hidden.sealed.unwrap_or_default();
    if !hidden.thinks {
        return sealed.max(habit.hidden);
    }
    let in_time = thought_for.as_millis() * u128::from(habit.pace.unwrap_or(PACE)) / 1000;
    let usual = habit.thought.unwrap_or(if sealed > 0 { 0 } else { THOUGHT });
    sealed.max(usual).max(u64::try_from(in_time).unwrap_or(u64::MAX)).min(MOST_TOKENS)
}

/// A text that every database stores and every terminal shows: a row with another one would never get there. PostgreSQL takes
/// no NUL.
pub fn storable(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().map(|char| if char.is_control() { '?' } else { char }).collect())
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
