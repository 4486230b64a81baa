//! Prices, budgets and what they are counted by.

use std::sync::Arc;

use http::StatusCode;
use jiff::tz::TimeZone;

use crate::domain::price::Tariff;

/// `[money]`.
#[derive(Clone, Debug, PartialEq)]
pub struct MoneySettings {
    /// Where days, weeks and months of budgets and prices begin.
    pub time_zone: TimeZone,
    /// Nano-yuan for a dollar; none = the two are never added up.
    pub cny_per_usd: Option<u64>,
    /// A model without a price, asked for by a key with a budget.
    pub unpriced: Unpriced,
    /// Status of the answer to a key whose budget is spent: 429, or 402.
    pub budget_status: StatusCode,
    /// Parts of a budget at which the log warns, in billionths; for keys and groups that have none of their own.
    pub warn_at: Arc<[u64]>,
}

/// What becomes of a request for a model without a price, where its key has a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unpriced {
    /// It is refused: the budget could not count it.
    Refuse,
    /// It is served, and costs nothing that is known.
    Allow,
}

/// `[[prices]]`: what an upstream bills for a model.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelPrice {
    /// Index into `Config::upstreams`.
    pub upstream: usize,
    /// The model's name there; with a trailing `*` it matches any rest.
    pub model: Arc<str>,
    /// From when on: milliseconds since 1970-01-01 UTC.
    pub from: u64,
    /// How much.
    pub price: Tariff,
}
