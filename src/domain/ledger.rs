//! What the ledger holds of a request, and how the ledger stands.

use std::{
    borrow::Cow,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use super::{
    endpoint::{Endpoint, Shape},
    id::RequestId,
    outcome::{Attempt, AttemptResult, End, Outcome},
    price::Price,
    problem::Problem,
    usage::{Estimate, Shown, Usage},
};

/// How much of what a request cost is known. The names are fixed: column `state`, metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
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
}

impl State {
    /// All of them. Journals hold their places in this list: it only ever grows, at its end.
    pub const ALL: [Self; 6] =
        [Self::Open, Self::Exact, Self::Partial, Self::Unknown, Self::Interrupted, Self::Pending];

    /// Its fixed name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Exact => "exact",
            Self::Partial => "partial",
            Self::Unknown => "unknown",
            Self::Interrupted => "interrupted",
            Self::Pending => "pending",
        }
    }

    /// Whether a row like this changes when its own request says more.
    pub const fn gives_way(self) -> bool {
        matches!(self, Self::Open | Self::Interrupted)
    }

    /// Of a request that is over. It is about the answer that the client got: what attempts before it may have cost, no
    /// provider tells.
    pub fn of(outcome: &Outcome) -> Self {
        let Usage { input, output, .. } = outcome.usage;
        match outcome.end {
            _ if outcome.is_free() => Self::Exact,
            End::UpstreamError => Self::Exact,
            // A client that left got no tokens to count, unless the rest was read on.
            End::Completed | End::ResponseFailed | End::ResponseIncomplete | End::ClientGone | End::ClientStalled
                if input.is_some() && output.is_some() && !outcome.so_far =>
            {
                Self::Exact
            }
            // Inside an error, or while another attempt was waited for.
            End::ClientGone | End::ClientStalled if outcome.attempts.last().is_some_and(is_error) => Self::Exact,
            End::Refused if outcome.attempts.iter().all(|attempt| did_nothing(attempt.result)) => Self::Exact,
            _ if outcome.goes_on => Self::Pending,
            _ if outcome.bytes_seen() > 0 || !outcome.usage.is_empty() => Self::Partial,
            _ => Self::Unknown,
        }
    }
}

/// Whether the provider answered with an error.
fn is_error(attempt: &Attempt) -> bool {
    matches!(attempt.result, AttemptResult::Status(status) if !status.is_success())
}

/// Whether no model can have worked.
fn did_nothing(result: AttemptResult) -> bool {
    match result {
        AttemptResult::Status(status) => !status.is_success(),
        AttemptResult::Fault(problem) => problem == Problem::UpstreamUnreachable,
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
    pub state: State,
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
    /// [`End`], by name.
    pub end: Option<&'a str>,
    /// Id of the response.
    pub response_id: Option<&'a str>,
    /// Status that the client got.
    pub status: Option<u64>,
    /// Tokens as reported.
    pub usage: Usage,
    /// What this call, which costs nothing itself, showed of the tokens of the response with this id.
    pub shown: Option<Shown>,
    /// Tokens that were reserved: an estimate, where nothing was reported.
    pub reserved: Option<u64>,
    /// The price that it is billed with; none where the model has none.
    pub price: Option<Price>,
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
        let state = State::of(outcome);
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
            shown: outcome.shown.filter(|_| outcome.end != End::UpstreamError),
            bytes_down: outcome.bytes_down,
            attempts: outcome.attempts.len() as u64,
            first_byte_ms: outcome.first_byte.map(millis),
            took_ms: millis(outcome.took),
            ..Self::open(outcome, None)
        }
    }

    /// The row of a request that is about to go up to `upstream`.
    pub fn open(outcome: &'a Outcome, upstream: Option<&'a str>) -> Self {
        Self {
            id: outcome.id,
            state: State::Open,
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
            reserved: outcome.estimate.map(Estimate::total),
            price: outcome.price,
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
    Some(outcome.price?.cost(&outcome.estimate?.usage()))
}

/// What a request that is over is charged with, in nano-units, and whether that is an estimate; none where there is no price.
///
/// What only looks something up or puts it away costs nothing, also where there are no prices.
///
/// Where the tokens are not all known it is the larger of what was reserved and what came of it as far as one sees: who
/// hangs up before the last event would have it for nothing otherwise.
pub fn charge(outcome: &Outcome, state: State) -> Option<(u64, bool)> {
    if outcome.is_free() {
        return Some((0, false));
    }
    let price = outcome.price?;
    match state {
        State::Open => None,
        State::Exact if outcome.usage.is_empty() => Some((0, false)),
        State::Exact => Some((price.cost(&outcome.usage), false)),
        State::Partial | State::Unknown | State::Interrupted | State::Pending => {
            let seen = price.cost(&as_far_as_seen(outcome));
            // What was answered and is paid by the call alone costs what it costs, whatever it used.
            let estimated = state != State::Partial || price.counts_tokens();
            Some((seen.max(reserved_cost(outcome).unwrap_or_default()), estimated))
        }
    }
}

/// Bytes of an answer that is no stream for one token of its text, at least.
const BYTES: u64 = 8;

/// Tokens that a request used, as far as they were told or can be seen.
pub fn tokens_seen(outcome: &Outcome) -> u64 {
    let Usage { input, output, total, .. } = as_far_as_seen(outcome);
    let sum = input.unwrap_or_default().saturating_add(output.unwrap_or_default());
    sum.max(total.unwrap_or_default())
}

/// What was reported, and in place of what was not, what can be seen: an event of a stream has one token at least. Bytes of
/// other answers count up to what was reserved: they may be those of an image.
fn as_far_as_seen(outcome: &Outcome) -> Usage {
    let Estimate { input, output } = outcome.estimate.unwrap_or(Estimate { input: 0, output: 0 });
    let output = match outcome.endpoint.map(Endpoint::shape) {
        Some(Shape::Vectors | Shape::Media) => 0,
        _ if outcome.streamed => outcome.events,
        _ => output.min(outcome.bytes_seen() / BYTES),
    };
    Usage { input: outcome.usage.input.or(Some(input)), output: outcome.usage.output.or(Some(output)), ..outcome.usage }
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

/// What came of a call that Tidegate made for a response in the background. The names are fixed: metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polled {
    /// The response is over.
    Over,
    /// It is being made.
    UnderWay,
    /// The provider does not have it.
    Gone,
    /// No usable answer came.
    Failed,
}

impl Polled {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Over, Self::UnderWay, Self::Gone, Self::Failed];

    /// Its fixed name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Over => "over",
            Self::UnderWay => "under_way",
            Self::Gone => "gone",
            Self::Failed => "failed",
        }
    }
}

/// How the ledger stands: written by those who know, read when somebody asks.
#[derive(Debug, Default)]
pub struct Condition {
    /// Bytes of the journal.
    pub journal_bytes: AtomicU64,
    /// Requests that are over.
    pub settled: AtomicU64,
    /// Those of them that are in the database.
    pub stored: AtomicU64,
    /// Rows that were written to the database, by [`State::ALL`].
    pub rows: [AtomicU64; State::ALL.len()],
    /// The journal could not be written when it was tried last: requests are refused.
    pub journal_fails: AtomicBool,
    /// It is as large as it may be: requests are refused.
    pub journal_full: AtomicBool,
    /// What was written may not survive a loss of power.
    pub journal_sync_fails: AtomicBool,
    /// The database could not be written when it was tried last: the journal keeps the rows.
    pub database_fails: AtomicBool,
    /// Responses in the background whose rows are pending, as far as this process asks for them.
    pub pending: AtomicU64,
    /// Calls that Tidegate made for them, by [`Polled::ALL`].
    pub polls: [AtomicU64; Polled::ALL.len()],
    /// Thresholds that budgets reached.
    pub budget_warnings: AtomicU64,
    /// Rows that the database did not take, whatever was left out of them: they lie aside, and somebody has to look.
    pub put_aside: AtomicU64,
}

impl Condition {
    /// Requests that are over and not in the database yet.
    pub fn waiting(&self) -> u64 {
        self.settled.load(Ordering::Relaxed).saturating_sub(self.stored.load(Ordering::Relaxed))
    }

    /// Counts rows that are in the database now.
    pub fn count(&self, state: State, rows: u64) {
        for (known, count) in State::ALL.iter().zip(&self.rows) {
            if *known == state {
                count.fetch_add(rows, Ordering::Relaxed);
            }
        }
    }

    /// What is wrong, by fixed names.
    pub fn faults(&self) -> impl Iterator<Item = (&'static str, bool)> {
        [
            ("journal", &self.journal_fails),
            ("journal_full", &self.journal_full),
            ("journal_sync", &self.journal_sync_fails),
            ("database", &self.database_fails),
        ]
        .into_iter()
        .map(|(name, fault)| (name, fault.load(Ordering::Relaxed)))
        .chain([("rows", self.put_aside.load(Ordering::Relaxed) > 0)])
    }
}
