//! Writes the usage and the budgets of a key as JSON. A key sees only its own numbers: no numbers of its group, and none of
//! another key.

use jiff::{Timestamp, civil::Date};
use serde_json::{Value, json};

use super::{error::ApiError, gateway::Proxy, tables::Tables};
use crate::{
    auth::Caller,
    domain::{
        clock::UnixMillis,
        money::{Currency, UNIT, Window, decimal},
    },
    limits::BudgetState,
    store::sql::KeyStatement,
};

/// The limit that new-api and one-api report for a key without a limit. Chat programs show this number as unlimited.
const UNLIMITED: f64 = 100_000_000.0;

/// Returns the JSON answer of `GET /v1/usage`: the usage, cost and budgets of the caller's key.
///
/// # Errors
/// When a date is invalid, or the ledger cannot be read.
pub async fn usage(proxy: &Proxy, tables: &Tables, caller: &Caller, query: &str) -> Result<String, ApiError> {
    let (since, until) = dates(tables, query)?;
    let used = read(proxy, caller, since, until).await?;
    let budgets: Vec<Value> = tables.limits.budgets(caller.index, UnixMillis(proxy.now())).iter().map(budget).collect();
    let costs = Currency::ALL.iter().zip(used.cost).map(|(currency, cost)| (currency.name(), decimal(cost)));
    let KeyStatement { requests, input, cached, output, reasoning, unpriced, cost: _ } = used;
    let statement = json!({
        "object": "usage",
        "key": &*caller.name,
        "group": caller.group.as_deref(),
        "start": (since > 0).then(|| moment(since)),
        "end": (until < u64::MAX).then(|| moment(until)),
        "requests": requests,
        "input_tokens": input,
        "cached_tokens": cached,
        "output_tokens": output,
        "reasoning_tokens": reasoning,
        "unpriced_requests": unpriced,
        // As text, because most programs read a JSON number as a float.
        "cost": costs.collect::<std::collections::BTreeMap<_, _>>(),
        "budgets": budgets,
        "expires": caller.expires.map(moment),
    });
    Ok(statement.to_string())
}

/// Returns the JSON answer of `GET /dashboard/billing/usage`: the cost of the caller's key. `total_usage` is in hundredths of a dollar,
/// or of the currency in `currency`.
///
/// # Errors
/// As [`usage`].
pub async fn billing_usage(proxy: &Proxy, tables: &Tables, caller: &Caller, query: &str) -> Result<String, ApiError> {
    let (since, until) = dates(tables, query)?;
    let used = read(proxy, caller, since, until).await?;
    let currency = shown_in(tables, caller, Some(&used));
    let costs = Currency::ALL.iter().zip(used.cost);
    let nano: u64 = costs.filter_map(|(from, cost)| tables.exchange.convert(cost, *from, currency)).sum();
    Ok(json!({ "object": "list", "total_usage": units(nano) * 100.0, "currency": currency.name() }).to_string())
}

/// Returns the JSON answer of `GET /dashboard/billing/subscription`: the main budget of the caller's key, in the shape of new-api and
/// one-api.
pub fn subscription(tables: &Tables, caller: &Caller) -> String {
    let currency = shown_in(tables, caller, None);
    let budget = main_budget(&tables.limits.budgets(caller.index, UnixMillis(0))).map(|state| state.budget.money);
    let limit = budget.and_then(|money| tables.exchange.convert(money.nano, money.currency, currency));
    let limit = limit.map_or(UNLIMITED, units);
    json!({
        "object": "billing_subscription",
        "has_payment_method": true,
        "soft_limit_usd": limit,
        "hard_limit_usd": limit,
        "system_hard_limit_usd": limit,
        "access_until": caller.expires.map_or(0, |ends| ends / 1000),
        "currency": currency.name(),
    })
    .to_string()
}

/// Returns the currency of the answer. The order: dollars where an exchange rate is configured, the currency of the key's
/// budget, the only currency that the key paid in.
fn shown_in(tables: &Tables, caller: &Caller, used: Option<&KeyStatement>) -> Currency {
    if tables.exchange.cny_per_usd.is_some() {
        return Currency::Usd;
    }
    if let Some(state) = main_budget(&tables.limits.budgets(caller.index, UnixMillis(0))) {
        return state.budget.money.currency;
    }
    let paid = |currency: &Currency| {
        let costs = used.map(|used| used.cost).unwrap_or_default();
        Currency::ALL.iter().zip(costs).any(|(known, cost)| known == currency && cost > 0)
    };
    if paid(&Currency::Usd) || !paid(&Currency::Cny) { Currency::Usd } else { Currency::Cny }
}

/// Returns the budget that a chat program shows: per month, which such programs expect, else in total, else per day.
fn main_budget(budgets: &[BudgetState]) -> Option<BudgetState> {
    let rank = |state: &&BudgetState| match state.budget.window {
        Window::Month => 0,
        Window::Total => 1,
        _ => 2,
    };
    budgets.iter().min_by_key(rank).copied()
}

fn budget(state: &BudgetState) -> Value {
    let BudgetState { budget, spent, span } = state;
    let left = spent.map(|spent| budget.money.nano.saturating_sub(spent));
    json!({
        "budget": budget.to_string(),
        "currency": budget.money.currency.name(),
        "limit": decimal(budget.money.nano),
        "spent": spent.map(decimal),
        "left": left.map(decimal),
        "renews": (span.to < u64::MAX).then(|| moment(span.to)),
    })
}

async fn read(proxy: &Proxy, caller: &Caller, since: u64, until: u64) -> Result<KeyStatement, ApiError> {
    proxy.statements.of(&caller.name, since, until).await.ok_or_else(ApiError::statement_unavailable)
}

/// Reads `start_date` and `end_date` of a query as days in the time zone of budgets. The last day is excluded, because chat
/// programs send tomorrow. Without the two fields, the span is everything.
fn dates(tables: &Tables, query: &str) -> Result<(u64, u64), ApiError> {
    let (mut since, mut until) = (0, u64::MAX);
    for pair in query.split('&') {
        let (name, day) = pair.split_once('=').unwrap_or((pair, ""));
        let bound = match name {
            "start_date" => &mut since,
            "end_date" => &mut until,
            _ => continue,
        };
        // Accepts a month of one digit, as some programs write it.
        let parts: Vec<i16> = day.split('-').map_while(|part| part.parse().ok()).collect();
        let day = match parts.as_slice() {
            [year, month, day] => {
                Date::new(*year, i8::try_from(*month).unwrap_or(0), i8::try_from(*day).unwrap_or(0)).ok()
            }
            _ => None,
        };
        let begins = day.and_then(|day| day.to_zoned(tables.time_zone.clone()).ok());
        let begins = begins.map(|begins| u64::try_from(begins.timestamp().as_millisecond()).unwrap_or_default());
        *bound = begins
            .ok_or_else(|| ApiError::invalid_date(if name == "start_date" { "start_date" } else { "end_date" }))?;
    }
    Ok((since, until))
}

fn moment(millis: u64) -> String {
    let moment = i64::try_from(millis).ok().and_then(|millis| Timestamp::from_millisecond(millis).ok());
    moment.map(|moment| moment.to_string()).unwrap_or_default()
}

/// Converts to units with decimals, as a float, which these endpoints use.
fn units(nano: u64) -> f64 {
    nano as f64 / UNIT as f64
}
