//! Sums over the ledger, read while other processes write.

use std::collections::BTreeMap;

use jiff::{Timestamp, ToSpan, tz::TimeZone};
use sqlx::{AssertSqlSafe, Row as _};

use super::{Database, DatabaseError, LONG, integer, ledger::amount, on, within};
use crate::domain::{
    endpoint::Endpoint,
    ledger::UsageState,
    money::{Currency, Exchange, MOST},
};

/// Every current time zone differs from UTC by a multiple of this.
const QUARTER_MS: i64 = 900_000;

/// What a usage report has one line for: each key, model, upstream, day, and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupBy {
    /// Each client key.
    Key,
    /// Each group of keys.
    Group,
    /// Each model as requested.
    Model,
    /// Each upstream.
    Upstream,
    /// Each endpoint, free ones included.
    Endpoint,
    /// Each day.
    Day,
    /// Each week, named by its Monday.
    Week,
    /// Each month.
    Month,
}

impl GroupBy {
    /// Returns the fixed name of this grouping, which is also the heading of the first column of a usage report.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Group => "group",
            Self::Model => "model",
            Self::Upstream => "upstream",
            Self::Endpoint => "endpoint",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
        }
    }

    const fn is_time(self) -> bool {
        matches!(self, Self::Day | Self::Week | Self::Month)
    }

    /// Returns the SQL expression for either table. Daily sums have empty texts where ledger rows have NULL.
    fn expression(self, time: &str) -> String {
        match self {
            Self::Key => "nullif(key_name, '')".into(),
            Self::Group => "nullif(group_name, '')".into(),
            Self::Model => "nullif(model, '')".into(),
            Self::Upstream => "nullif(upstream, '')".into(),
            // Rows of early versions have no endpoint: only one existed.
            Self::Endpoint => "coalesce(nullif(endpoint, ''), 'responses.create')".into(),
            Self::Day | Self::Week | Self::Month => format!("CAST({time} / {QUARTER_MS} AS TEXT)"),
        }
    }
}

/// What a usage report or an export of the ledger covers: times, key and model, and how to group.
#[derive(Clone, Debug)]
pub struct UsageQuery<'a> {
    /// One line for each of these.
    pub by: GroupBy,
    /// Only requests that began then or later, in milliseconds since 1970-01-01 UTC.
    pub since: u64,
    /// Only requests that began before, in milliseconds since 1970-01-01 UTC.
    pub until: u64,
    /// Only requests of this key.
    pub key: Option<&'a str>,
    /// Only requests for this model, as requested.
    pub model: Option<&'a str>,
    /// The time zone of days, weeks and months.
    pub zone: TimeZone,
    /// The exchange rate for rows without one.
    pub exchange: Exchange,
}

impl Default for UsageQuery<'_> {
    fn default() -> Self {
        let (by, exchange) = (GroupBy::Key, Exchange::default());
        Self { by, since: 0, until: u64::MAX, key: None, model: None, zone: TimeZone::UTC, exchange }
    }
}

/// One line of a usage report: the sums of requests, tokens and cost, for example of one key or one day.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsageTotal {
    /// Name of the line; none for requests without one.
    pub name: Option<String>,
    /// Requests that were sent upstream.
    pub requests: u64,
    /// Input tokens, as reported.
    pub input: u64,
    /// The input tokens that came from a cache.
    pub cached: u64,
    /// Output tokens, as reported.
    pub output: u64,
    /// The output tokens that were reasoning.
    pub reasoning: u64,
    /// Requests whose usage is known exactly.
    pub exact: u64,
    /// Requests whose usage is known in part.
    pub partial: u64,
    /// Requests whose usage is unknown.
    pub unknown: u64,
    /// Requests that were in flight when the gateway was killed.
    pub interrupted: u64,
    /// Background requests whose end no request has shown yet.
    pub pending: u64,
    /// Requests with a part that has no price, so that their cost is an estimate.
    pub unpriced_part: u64,
    /// Requests whose model has no price, so that their cost is unknown.
    pub unpriced: u64,
    /// Requests whose cost is an estimate.
    pub estimated: u64,
    /// The cost of the other requests, in nano-units, by [`Currency::ALL`].
    pub cost: [u64; Currency::ALL.len()],
    /// The whole cost in each currency, by the rows' rates. Rows without a rate are left out.
    pub in_all: [u64; Currency::ALL.len()],
    /// The cost of rows without a rate, by the currency to exchange into.
    pub unrated: [u64; Currency::ALL.len()],
}

impl UsageTotal {
    /// Returns the counts, in a fixed order.
    fn counts_mut(&mut self) -> [&mut u64; 13] {
        [
            &mut self.requests,
            &mut self.input,
            &mut self.cached,
            &mut self.output,
            &mut self.reasoning,
            &mut self.exact,
            &mut self.partial,
            &mut self.unknown,
            &mut self.interrupted,
            &mut self.pending,
            &mut self.unpriced_part,
            &mut self.unpriced,
            &mut self.estimated,
        ]
    }

    /// Adds the counts and costs of another line of a usage report to this line. A sum that is too large stays at the largest number.
    pub fn add(&mut self, other: &Self) {
        let mut other = other.clone();
        for (sum, number) in self.counts_mut().into_iter().zip(other.counts_mut()) {
            *sum = sum.saturating_add(*number);
        }
        let costs = self.cost.iter_mut().chain(&mut self.in_all).chain(&mut self.unrated);
        for (sum, number) in costs.zip(other.cost.into_iter().chain(other.in_all).chain(other.unrated)) {
            *sum = sum.saturating_add(number).min(MOST);
        }
    }

    /// Exchanges the cost of rows without a rate, by this rate. Rounded once, so that the number of parts does not matter.
    fn exchanged(mut self, exchange: Exchange) -> Self {
        let unrated = std::mem::take(&mut self.unrated);
        for ((into, all), unrated) in Currency::ALL.into_iter().zip(&mut self.in_all).zip(unrated) {
            let unrated = exchange.convert(unrated, into.other(), into).unwrap_or_default();
            *all = all.saturating_add(unrated).min(MOST);
        }
        self
    }
}

impl Database {
    /// Returns a usage report: sums over the requests that began at `since` or later and before `until` (milliseconds since 1970-01-01
    /// UTC). Free endpoints count only in a report by endpoint. Days are UTC days.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn usage(&mut self, by: GroupBy, since: u64, until: u64) -> Result<Vec<UsageTotal>, DatabaseError> {
        self.usage_of(&UsageQuery { by, since, until, ..UsageQuery::default() }).await
    }

    /// Returns a usage report for the part of the ledger that this query selects by times, key and model.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn usage_of(&mut self, asked: &UsageQuery<'_>) -> Result<Vec<UsageTotal>, DatabaseError> {
        let query = query(asked);
        let totals = within(LONG, async {
            on!(self, |connection, Db| {
                let mut query = sqlx::query::<Db>(AssertSqlSafe(query));
                query = query.bind(integer(asked.since)).bind(integer(asked.until));
                for name in [asked.key, asked.model].into_iter().flatten() {
                    query = query.bind(name);
                }
                let rows = query.fetch_all(connection).await?;
                rows.iter()
                    .map(|row| {
                        let mut column = 0;
                        let mut number = || {
                            column += 1;
                            row.try_get::<i64, _>(column)
                        };
                        let mut total = UsageTotal { name: row.try_get(0)?, ..UsageTotal::default() };
                        for count in total.counts_mut() {
                            *count = u64::try_from(number()?).unwrap_or_default();
                        }
                        let mut costs = || Ok::<_, sqlx::Error>(amount(number()?, number()?));
                        for cost in &mut total.cost {
                            *cost = costs()?;
                        }
                        for (all, unrated) in total.in_all.iter_mut().zip(&mut total.unrated) {
                            (*all, *unrated) = (costs()?, costs()?);
                        }
                        Ok(total)
                    })
                    .collect::<Result<Vec<_>, sqlx::Error>>()
                    .map_err(DatabaseError::from)
            })
        })
        .await?;
        let totals = if asked.by.is_time() { asked.by_time(&totals) } else { totals };
        Ok(totals.into_iter().map(|total| total.exchanged(asked.exchange)).collect())
    }
}

impl UsageQuery<'_> {
    /// Returns the conditions for key and model, with placeholders from `first` on.
    pub(super) fn filter(&self, first: usize) -> String {
        let filters = [("key_name", self.key), ("model", self.model)].into_iter().filter(|(_, name)| name.is_some());
        (first..).zip(filters).map(|(nth, (column, _))| format!(" AND {column} = ${nth}")).collect()
    }

    /// Adds up sums of quarter-hours to days, weeks or months of the time zone.
    fn by_time(&self, quarters: &[UsageTotal]) -> Vec<UsageTotal> {
        let mut all: BTreeMap<String, UsageTotal> = BTreeMap::new();
        for quarter in quarters {
            let name = quarter.name.as_deref().and_then(|name| name.parse::<i64>().ok());
            let Some(name) = name.and_then(|number| self.name_of(number)) else { continue };
            all.entry(name).or_default().add(quarter);
        }
        all.into_iter().map(|(name, total)| UsageTotal { name: Some(name), ..total }).collect()
    }

    /// Returns the day, the month, or the week's Monday of a quarter-hour.
    fn name_of(&self, quarter: i64) -> Option<String> {
        let moment = Timestamp::from_millisecond(quarter.checked_mul(QUARTER_MS)?).ok()?;
        let day = moment.to_zoned(self.zone.clone()).date();
        Some(match self.by {
            GroupBy::Month => day.strftime("%Y-%m").to_string(),
            GroupBy::Week => {
                let since_monday = i64::from(day.weekday().to_monday_zero_offset());
                day.checked_sub(since_monday.days()).ok()?.to_string()
            }
            _ => day.to_string(),
        })
    }
}

/// Returns a query over the rows, and over the daily sums of older rows. The SQL has fixed words only.
fn query(asked: &UsageQuery<'_>) -> String {
    let by = asked.by;
    let free: Vec<String> =
        Endpoint::ALL.iter().filter(|one| one.is_free()).map(|one| format!("'{}'", one.name())).collect();
    let costs = format!("coalesce(endpoint, '') NOT IN ({})", free.join(", "));
    // Polling and listing must not look like model requests.
    let mut counted = if by == GroupBy::Endpoint { String::new() } else { format!(" AND {costs}") };
    counted.push_str(&asked.filter(3));
    let rows = columns(by, &costs, &OF_ROWS);
    let days = columns(by, &costs, &OF_DAYS);
    let names: Vec<String> = (0..rows.len()).map(|nth| format!("c{nth}")).collect();
    let sums: Vec<String> = names.iter().skip(1).map(|name| format!("CAST(sum({name}) AS BIGINT)")).collect();
    let select = |columns: &[String]| {
        let named = columns.iter().zip(&names).map(|(column, name)| format!("{column} AS {name}"));
        named.collect::<Vec<_>>().join(", ")
    };
    format!(
        "SELECT c0, {} FROM (SELECT {} FROM ledger WHERE time_ms >= $1 AND time_ms < $2 AND state <> 'open'{counted} \
         GROUP BY 1 UNION ALL SELECT {} FROM daily_sums WHERE day_ms >= $1 AND day_ms < $2{counted} GROUP BY 1) AS parts \
         GROUP BY c0 ORDER BY c0",
        sums.join(", "),
        select(&rows),
        select(&days),
    )
}

/// The SQL expressions of one table.
struct SummedColumns {
    time: &'static str,
    /// The requests of one line of the table.
    requests: &'static str,
    unpriced: &'static str,
    /// Units and nano-units of the cost, and of the cost in the other currency.
    cost: [&'static str; 2],
    exchanged: [&'static str; 2],
    /// Whether a line has no exchange rate.
    unrated: &'static str,
}

const OF_ROWS: SummedColumns = SummedColumns {
    time: "time_ms",
    requests: "1",
    unpriced: "currency IS NULL",
    cost: ["cost / 1000000000", "cost % 1000000000"],
    exchanged: ["cost_exchanged / 1000000000", "cost_exchanged % 1000000000"],
    unrated: "cost_exchanged IS NULL",
};

const OF_DAYS: SummedColumns = SummedColumns {
    time: "day_ms",
    requests: "requests",
    unpriced: "currency = ''",
    cost: ["cost_units", "cost_nano"],
    exchanged: ["exchanged_units", "exchanged_nano"],
    unrated: "cny_per_usd = 0",
};

/// Returns the columns in the order in which [`UsageTotal::counts_mut`] and the costs are read.
fn columns(by: GroupBy, costs: &str, of: &SummedColumns) -> Vec<String> {
    let sum = |what: &str| format!("CAST(coalesce(sum({what}), 0) AS BIGINT)");
    let requests = |when: &str| sum(&format!("CASE WHEN {when} THEN {} END", of.requests));
    let mut columns = vec![by.expression(of.time), sum(of.requests)];
    columns.extend(["input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens"].map(sum));
    let states = [
        UsageState::Exact,
        UsageState::Partial,
        UsageState::Unknown,
        UsageState::Interrupted,
        UsageState::Pending,
        UsageState::UnpricedPart,
    ];
    columns.extend(states.map(|state| requests(&format!("state = '{}'", state.name()))));
    columns.push(requests(&format!("{} AND {costs}", of.unpriced)));
    columns.push(sum("estimated"));
    // Units and nano-units are summed separately: the sum of a few large amounts would overflow.
    for currency in Currency::ALL.map(Currency::name) {
        columns.extend(of.cost.map(|cost| sum(&format!("CASE WHEN currency = '{currency}' THEN {cost} END"))));
    }
    for into in Currency::ALL {
        let (own, other) = (into.name(), into.other().name());
        for (cost, exchanged) in of.cost.into_iter().zip(of.exchanged) {
            columns.push(sum(&format!("CASE currency WHEN '{own}' THEN {cost} WHEN '{other}' THEN {exchanged} END")));
        }
        let unrated = |cost| sum(&format!("CASE WHEN currency = '{other}' AND {} THEN {cost} END", of.unrated));
        columns.extend(of.cost.map(unrated));
    }
    columns
}
