//! Sums over the ledger, read beside those who write it.

use std::collections::BTreeMap;

use jiff::{Timestamp, ToSpan, tz::TimeZone};
use sqlx::{AssertSqlSafe, Row as _};

use super::{Database, DatabaseError, LONG, integer, ledger::amount, on, within};
use crate::domain::{
    endpoint::Endpoint,
    ledger::UsageState,
    money::{Currency, Exchange, MOST},
};

/// Every time zone of today is a whole number of these away from UTC.
const QUARTER_MS: i64 = 900_000;

/// What sums are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupBy {
    /// Each key of clients.
    Key,
    /// Each group of keys.
    Group,
    /// Each model as asked.
    Model,
    /// Each upstream.
    Upstream,
    /// Each endpoint, those included at which nothing costs.
    Endpoint,
    /// Each day.
    Day,
    /// Each week, from Monday on: named by that day.
    Week,
    /// Each month.
    Month,
}

impl GroupBy {
    /// Its fixed name: heads the column.
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

    /// Of either table: sums have empty texts where rows have none.
    fn expression(self, time: &str) -> String {
        match self {
            Self::Key => "nullif(key_name, '')".into(),
            Self::Group => "nullif(group_name, '')".into(),
            Self::Model => "nullif(model, '')".into(),
            Self::Upstream => "nullif(upstream, '')".into(),
            // Rows of before there were several.
            Self::Endpoint => "coalesce(nullif(endpoint, ''), 'responses.create')".into(),
            Self::Day | Self::Week | Self::Month => format!("CAST({time} / {QUARTER_MS} AS TEXT)"),
        }
    }
}

/// Of which part of the ledger sums are made, and how.
#[derive(Clone, Debug)]
pub struct UsageQuery<'a> {
    /// A line for each of these.
    pub by: GroupBy,
    /// Of what began then or later: milliseconds since 1970-01-01 UTC.
    pub since: u64,
    /// And before that.
    pub until: u64,
    /// Of this key alone.
    pub key: Option<&'a str>,
    /// Of this model alone, as asked.
    pub model: Option<&'a str>,
    /// Where days, weeks and months begin.
    pub zone: TimeZone,
    /// The rate for rows that have none.
    pub exchange: Exchange,
}

impl Default for UsageQuery<'_> {
    fn default() -> Self {
        let (by, exchange) = (GroupBy::Key, Exchange::default());
        Self { by, since: 0, until: u64::MAX, key: None, model: None, zone: TimeZone::UTC, exchange }
    }
}

/// The sums of one of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsageTotal {
    /// Its name; none for requests without one.
    pub name: Option<String>,
    /// Requests that went up.
    pub requests: u64,
    /// Tokens as reported.
    pub input: u64,
    /// Those of them that came from a cache.
    pub cached: u64,
    /// Tokens as reported.
    pub output: u64,
    /// Those of them that were reasoning.
    pub reasoning: u64,
    /// Requests whose tokens are known.
    pub exact: u64,
    /// Those whose tokens are known in part.
    pub partial: u64,
    /// Those of which nothing is known.
    pub unknown: u64,
    /// Those under way when the gateway was killed.
    pub interrupted: u64,
    /// Those made in the background that nobody asked for since they were over.
    pub pending: u64,
    /// Those of which a part has no price: what they cost is an estimate.
    pub unpriced_part: u64,
    /// Those whose model has no price: what they cost is not known.
    pub unpriced: u64,
    /// Those whose cost is an estimate.
    pub estimated: u64,
    /// What the others cost, in nano-units, by [`Currency::ALL`].
    pub cost: [u64; Currency::ALL.len()],
    /// All of that in each currency, by the rates of the rows; what has no rate is left out.
    pub in_all: [u64; Currency::ALL.len()],
    /// What has no rate of its own, by the currency that it is to be exchanged into.
    pub unrated: [u64; Currency::ALL.len()],
}

impl UsageTotal {
    /// The counts, in one order.
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

    /// Adds what is in another one; what would be more than a number holds stays at the most.
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

    /// Adds what has no rate of its own, by this one. Rounded once, so that it does not matter in how many parts it was read.
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
    /// Sums up what costs something, and by endpoint what does not as well, of what began at `since` or later and before `until`
    /// (milliseconds since 1970-01-01 UTC). Days are those of UTC.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn usage(&mut self, by: GroupBy, since: u64, until: u64) -> Result<Vec<UsageTotal>, DatabaseError> {
        self.usage_of(&UsageQuery { by, since, until, ..UsageQuery::default() }).await
    }

    /// The same of a part of the ledger.
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
    /// The conditions that key and model are, with their places from `first` on.
    pub(super) fn filter(&self, first: usize) -> String {
        let filters = [("key_name", self.key), ("model", self.model)].into_iter().filter(|(_, name)| name.is_some());
        (first..).zip(filters).map(|(nth, (column, _))| format!(" AND {column} = ${nth}")).collect()
    }

    /// Sums of quarters of an hour become sums of days, weeks or months of the time zone.
    fn by_time(&self, quarters: &[UsageTotal]) -> Vec<UsageTotal> {
        let mut all: BTreeMap<String, UsageTotal> = BTreeMap::new();
        for quarter in quarters {
            let name = quarter.name.as_deref().and_then(|name| name.parse::<i64>().ok());
            let Some(name) = name.and_then(|number| self.name_of(number)) else { continue };
            all.entry(name).or_default().add(quarter);
        }
        all.into_iter().map(|(name, total)| UsageTotal { name: Some(name), ..total }).collect()
    }

    /// The day, the month, or the Monday of the week that a quarter of an hour is in.
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

/// Made of fixed words only. Sums of rows and sums of what is left of older ones, added up.
fn query(asked: &UsageQuery<'_>) -> String {
    let by = asked.by;
    let free: Vec<String> =
        Endpoint::ALL.iter().filter(|one| one.is_free()).map(|one| format!("'{}'", one.name())).collect();
    let costs = format!("coalesce(endpoint, '') NOT IN ({})", free.join(", "));
    // Who polls or lists is not to look like who asks models.
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

/// How a table says what is summed up.
struct SummedColumns {
    time: &'static str,
    /// One request, for each line of the table.
    requests: &'static str,
    unpriced: &'static str,
    /// Units and nano-units of a cost, and of what it is in the other currency.
    cost: [&'static str; 2],
    exchanged: [&'static str; 2],
    /// Whether a line has no rate.
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

/// In the order in which [`UsageTotal::counts_mut`] and costs are read.
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
    // In two parts, as the sum of a few large ones would not fit.
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
