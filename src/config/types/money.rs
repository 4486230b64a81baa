//! Settings of prices and budgets.

use std::sync::Arc;

use http::StatusCode;
use jiff::tz::TimeZone;

use crate::domain::price::Tariff;

/// The checked `[money]` table of the configuration: how prices and budgets are counted.
#[derive(Clone, Debug, PartialEq)]
pub struct MoneySettings {
    /// Time zone in which the days, weeks and months of budgets and prices begin.
    pub time_zone: TimeZone,
    /// Nano-yuan for one dollar; none = amounts in the two currencies are never added.
    pub cny_per_usd: Option<u64>,
    /// A request for a model without a price, from a key with a budget.
    pub unpriced: Unpriced,
    /// Status of the error for a spent budget: 429 or 402.
    pub budget_status: StatusCode,
    /// Fractions of a budget at which Tidegate logs a warning, in billionths. Default for keys and groups without their own.
    pub warn_at: Arc<[u64]>,
}

/// What happens to a request for a model without a price when its key has a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unpriced {
    /// Refused: the budget could not count the request.
    Refuse,
    /// Served: the cost is unknown and counts as nothing.
    Allow,
}

/// One `[[prices]]` block of the configuration: what an upstream bills for a model from a day on.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelPrice {
    /// Index into `Config::upstreams`.
    pub upstream: usize,
    /// The upstream's name of the model. With a trailing `*` it matches every name that begins so.
    pub model: Arc<str>,
    /// Time from which the price applies: milliseconds since 1970-01-01 UTC.
    pub from: u64,
    /// The prices, by service tier and input length.
    pub price: Tariff,
}
