//! What limits decide about a request, and how much of each limit is left.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::gcra::Rate;
use crate::domain::{
    money::Budget,
    spending::{Span, Spender},
};

/// Which kind of limit refuses a request (such as `rpm` or a budget), with the size of the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitKind {
    /// `rpm`: requests per minute.
    Requests(u64),
    /// `tpm`: tokens per minute.
    Tokens(u64),
    /// `max_in_flight`: requests in progress.
    InFlight(usize),
    /// A budget is spent.
    Budget {
        /// The budget.
        budget: Budget,
        /// The window.
        span: Span,
        /// Its spend, in nano-units of its currency.
        spent: u64,
    },
    /// Requests in progress have reserved the rest of a budget.
    Reserved(Budget),
}

/// The refusal of a request that exceeds a limit: which limit of which key or group, and how long the client should wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limited {
    /// Which limit.
    pub kind: LimitKind,
    /// Whether a key or a group has the limit.
    pub whose: Spender,
    /// The name of the key or group.
    pub name: Arc<str>,
    /// The model or pattern, if the limit is for these models only.
    pub model: Option<Arc<str>>,
    /// How long the client should wait before it tries again.
    pub after: Duration,
    /// How much is left of the limits per minute.
    pub quotas: Quotas,
}

/// How much is left of the limits per minute that apply to a request (`rpm`, `tpm`). If the key and its group both have one: the
/// limit with less left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quotas {
    /// Requests per minute.
    pub requests: Option<Quota>,
    /// Tokens per minute.
    pub tokens: Option<Quota>,
}

/// How much is left of one limit per minute, and when the whole limit is free again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// The limit per minute.
    pub limit: u64,
    /// The rest now.
    pub remaining: u64,
    /// The time until the whole limit is free again.
    pub reset: Duration,
}

/// The tokens that a finished request used, as far as they are known. Replaces the reservation in the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsedTokens {
    /// The provider reported the tokens.
    Reported {
        /// Input.
        input: Option<u64>,
        /// Output.
        output: Option<u64>,
    },
    /// No tokens: no provider did any work.
    Nothing,
    /// Part of the usage is unknown.
    Partly {
        /// Input, if the provider reported it.
        input: Option<u64>,
        /// Output, if the provider reported it, or if all of the output passed.
        output: Option<u64>,
        /// All tokens that the provider reported, that passed, or that were reserved for the unknown part.
        seen: u64,
    },
}

/// Why limits refuse a request: a limit is reached, or Redis or the ledger is unavailable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// A limit is reached.
    Limited(Box<Limited>),
    /// Redis or the ledger is away, and the limits cannot be decided without it.
    Unknown,
}

/// A moment for limits per minute, in microseconds since the process began to count limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(pub(super) u64);

impl Moment {
    /// The present moment, in microseconds since the counting of limits began.
    pub(super) fn since(began: Instant) -> Self {
        Self(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// The moment this many microseconds later.
    pub(super) fn after(self, micros: u64) -> Self {
        Self(self.0.saturating_add(micros))
    }
}

impl Quota {
    /// Computes how much is left of a limit per minute. `free_at` is when the whole limit is free again.
    pub(super) fn of(rate: Rate, free_at: Moment, now: Moment) -> Self {
        let (limit, remaining) = (rate.limit(), rate.remaining(free_at.0, now.0));
        Self { limit, remaining, reset: Duration::from_micros(free_at.0.saturating_sub(now.0)) }
    }
}

impl LimitKind {
    /// The fixed name of the limit that refuses a request: the name of the setting, such as `rpm`, or `budgets_reserved`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Requests(_) => "rpm",
            Self::Tokens(_) => "tpm",
            Self::InFlight(_) => "max_in_flight",
            Self::Budget { .. } => "budgets",
            Self::Reserved(_) => "budgets_reserved",
        }
    }
}
