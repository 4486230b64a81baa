//! What limits decide about a request, and how they stand.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::gcra::Rate;
use crate::domain::{
    money::Budget,
    spending::{Span, Spender},
};

/// Which limit refuses a request, with its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
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

/// A request exceeds a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limited {
    /// Which limit.
    pub kind: Kind,
    /// Whether a key or a group has the limit.
    pub whose: Spender,
    /// The name of the key or group.
    pub name: Arc<str>,
    /// The model or pattern, if the limit is for these models only.
    pub model: Option<Arc<str>>,
    /// How long the client should wait before it tries again.
    pub after: Duration,
    /// How the rates stand.
    pub quotas: Quotas,
}

/// How the rates stand. If the key and its group both have one: the rate with less left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quotas {
    /// Requests per minute.
    pub requests: Option<Quota>,
    /// Tokens per minute.
    pub tokens: Option<Quota>,
}

/// How one rate stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// The limit per minute.
    pub limit: u64,
    /// The rest now.
    pub remaining: u64,
    /// The time until the whole limit is free again.
    pub reset: Duration,
}

/// The tokens of an answer, as far as they are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Used {
    /// The provider told them.
    Tokens {
        /// Input.
        input: Option<u64>,
        /// Output.
        output: Option<u64>,
    },
    /// None: no provider did any work.
    Nothing,
    /// Part of the usage is unknown.
    Partly {
        /// Input, if the provider told it.
        input: Option<u64>,
        /// Output, if the provider told it, or if all of the output passed.
        output: Option<u64>,
        /// All tokens that the provider told, that passed, or that were reserved for the unknown part.
        seen: u64,
    },
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// A limit is reached.
    Limited(Box<Limited>),
    /// Redis or the ledger is away, and the limits cannot be decided without it.
    Unknown,
}

/// A moment in microseconds since `limits::Meters` began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(pub(super) u64);

impl Moment {
    /// Now, for meters that began at this instant.
    pub(super) fn since(began: Instant) -> Self {
        Self(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// The moment this many microseconds later.
    pub(super) fn after(self, micros: u64) -> Self {
        Self(self.0.saturating_add(micros))
    }
}

impl Quota {
    pub(super) fn of(rate: Rate, free_at: Moment, now: Moment) -> Self {
        let (limit, remaining) = (rate.limit(), rate.remaining(free_at.0, now.0));
        Self { limit, remaining, reset: Duration::from_micros(free_at.0.saturating_sub(now.0)) }
    }
}

impl Kind {
    /// Its fixed name: the name of the setting, or `budgets_reserved`.
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
