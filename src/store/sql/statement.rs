//! The usage and cost of one key: sums over the ledger, for a statement to the client.

use sqlx::{AssertSqlSafe, Row as _};

use super::{Database, DatabaseError, integer, ledger::amount, on, within};
use crate::domain::{
    endpoint::Endpoint,
    money::{Currency, UNIT},
};

/// The time limit of a sum, because a client waits for it.
const LONGEST: std::time::Duration = std::time::Duration::from_secs(20);

/// The total usage and cost of one client key in a time span: requests, tokens, and money in each currency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyStatement {
    /// Requests that were sent upstream to an endpoint that is not free.
    pub requests: u64,
    /// Input tokens, as reported.
    pub input: u64,
    /// The input tokens that came from a cache.
    pub cached: u64,
    /// Output tokens, as reported.
    pub output: u64,
    /// The output tokens that were reasoning.
    pub reasoning: u64,
    /// Requests whose model has no price, so that their cost is unknown.
    pub unpriced: u64,
    /// The cost of the other requests, in nano-units, by [`Currency::ALL`].
    pub cost: [u64; Currency::ALL.len()],
}

impl Database {
    /// Sums up the usage and cost of a client key in the ledger. Only requests count that began at `since` or later and before `until`
    /// (milliseconds since 1970-01-01 UTC).
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn statement(&mut self, key: &str, since: u64, until: u64) -> Result<KeyStatement, DatabaseError> {
        let query = query();
        within(LONGEST, async {
            on!(self, |connection, Db| {
                let query = sqlx::query::<Db>(AssertSqlSafe(query)).bind(key);
                let row = query.bind(integer(since)).bind(integer(until)).fetch_one(connection).await?;
                let number = |index: usize| row.try_get::<i64, _>(index);
                let count = |index: usize| number(index).map(|number| u64::try_from(number).unwrap_or_default());
                let mut cost = [0; Currency::ALL.len()];
                for (nth, cost) in cost.iter_mut().enumerate() {
                    *cost = amount(number(6 + 2 * nth)?, number(7 + 2 * nth)?);
                }
                Ok(KeyStatement {
                    requests: count(0)?,
                    input: count(1)?,
                    cached: count(2)?,
                    output: count(3)?,
                    reasoning: count(4)?,
                    unpriced: count(5)?,
                    cost,
                })
            })
        })
        .await
    }
}

/// Returns a query over the rows, and over the daily sums of older rows. The SQL has fixed words only.
fn query() -> String {
    let free = Endpoint::ALL.iter().filter(|one| one.is_free()).map(|one| format!("'{}'", one.name()));
    let free = free.collect::<Vec<_>>().join(", ");
    let sum = |what: &str| format!("CAST(coalesce(sum({what}), 0) AS BIGINT)");
    let tokens = ["input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens"].map(sum);
    let (mut rows, mut days) = (vec![sum("1")], vec![sum("requests")]);
    rows.extend(tokens.clone());
    days.extend(tokens);
    rows.push(sum("CASE WHEN currency IS NULL THEN 1 END"));
    days.push(sum("CASE WHEN currency = '' THEN requests END"));
    for currency in Currency::ALL {
        // Units and nano-units are summed separately: the sum of a few large amounts would overflow.
        for (of_row, of_day) in [(format!("cost / {UNIT}"), "cost_units"), (format!("cost % {UNIT}"), "cost_nano")] {
            let paid_in = |cost: &str| sum(&format!("CASE WHEN currency = '{}' THEN {cost} END", currency.name()));
            rows.push(paid_in(&of_row));
            days.push(paid_in(of_day));
        }
    }
    let named: Vec<_> = rows.iter().enumerate().map(|(nth, column)| format!("{column} AS part_{nth}")).collect();
    let all: Vec<_> = (0..rows.len()).map(|nth| sum(&format!("part_{nth}"))).collect();
    format!(
        "SELECT {} FROM (SELECT {} FROM ledger WHERE key_name = $1 AND time_ms >= $2 AND time_ms < $3 AND state <> 'open' \
         AND coalesce(endpoint, '') NOT IN ({free}) UNION ALL SELECT {} FROM daily_sums WHERE key_name = $1 \
         AND day_ms >= $2 AND day_ms < $3 AND endpoint NOT IN ({free})) AS parts",
        all.join(", "),
        named.join(", "),
        days.join(", "),
    )
}
