//! Sums over the ledger, read beside those who write it.

use sqlx::{AssertSqlSafe, Row as _};

use super::{Database, DatabaseError, LONG, integer, ledger::amount, on, within};
use crate::domain::{
    endpoint::Endpoint,
    money::{Currency, UNIT},
};

/// What sums are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
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
    /// Each day, in UTC.
    Day,
}

impl By {
    /// Its fixed name: heads the column.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Group => "group",
            Self::Model => "model",
            Self::Upstream => "upstream",
            Self::Endpoint => "endpoint",
            Self::Day => "day",
        }
    }

    const fn expression(self, day: &'static str) -> &'static str {
        match self {
            Self::Key => "key_name",
            Self::Group => "group_name",
            Self::Model => "model",
            Self::Upstream => "upstream",
            // Rows of before there were several.
            Self::Endpoint => "coalesce(endpoint, 'responses.create')",
            Self::Day => day,
        }
    }
}

/// The sums of one of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Total {
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
    /// Those whose model has no price: what they cost is not known.
    pub unpriced: u64,
    /// Those whose cost is an estimate.
    pub estimated: u64,
    /// What the others cost, in nano-units, by [`Currency::ALL`].
    pub cost: [u64; Currency::ALL.len()],
}

impl Total {
    /// Adds what is in another one; what would be more than a number holds stays at the most.
    pub fn add(&mut self, other: &Self) {
        for (sum, number) in [
            (&mut self.requests, other.requests),
            (&mut self.input, other.input),
            (&mut self.cached, other.cached),
            (&mut self.output, other.output),
            (&mut self.reasoning, other.reasoning),
            (&mut self.exact, other.exact),
            (&mut self.partial, other.partial),
            (&mut self.unknown, other.unknown),
            (&mut self.interrupted, other.interrupted),
            (&mut self.pending, other.pending),
            (&mut self.unpriced, other.unpriced),
            (&mut self.estimated, other.estimated),
        ] {
            *sum = sum.saturating_add(number);
        }
        for (sum, number) in self.cost.iter_mut().zip(other.cost) {
            *sum = sum.saturating_add(number);
        }
    }
}

impl Database {
    /// Sums up what costs something, and by endpoint what does not as well, of what began at `since` or later and before `until`
    /// (milliseconds since 1970-01-01 UTC).
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn usage(&mut self, by: By, since: u64, until: u64) -> Result<Vec<Total>, DatabaseError> {
        let dialect = self.dialect();
        let query = query(by, dialect.day);
        within(LONG, async {
            on!(self, |connection, Db| {
                let query = sqlx::query::<Db>(AssertSqlSafe(query)).bind(integer(since)).bind(integer(until));
                let rows = query.fetch_all(connection).await?;
                rows.iter()
                    .map(|row| {
                        let number = |index: usize| row.try_get::<i64, _>(index);
                        let count =
                            |index: usize| number(index).map(|number| u64::try_from(number).unwrap_or_default());
                        let mut cost = [0; Currency::ALL.len()];
                        for (nth, cost) in cost.iter_mut().enumerate() {
                            *cost = amount(number(13 + 2 * nth)?, number(14 + 2 * nth)?);
                        }
                        Ok(Total {
                            name: row.try_get(0)?,
                            requests: count(1)?,
                            input: count(2)?,
                            cached: count(3)?,
                            output: count(4)?,
                            reasoning: count(5)?,
                            exact: count(6)?,
                            partial: count(7)?,
                            unknown: count(8)?,
                            interrupted: count(9)?,
                            pending: count(10)?,
                            unpriced: count(11)?,
                            estimated: count(12)?,
                            cost,
                        })
                    })
                    .collect()
            })
        })
        .await
    }
}

/// Made of fixed words only.
fn query(by: By, day: &'static str) -> String {
    let free: Vec<String> =
        Endpoint::ALL.iter().filter(|one| one.is_free()).map(|one| format!("'{}'", one.name())).collect();
    let costs = format!("coalesce(endpoint, '') NOT IN ({})", free.join(", "));
    let sum = |what: &str| format!("CAST(coalesce(sum({what}), 0) AS BIGINT)");
    let state = |state: &str| format!("count(*) FILTER (WHERE state = '{state}')");
    let mut columns = vec![by.expression(day).to_owned(), "count(*)".to_owned()];
    columns.extend(["input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens"].map(sum));
    columns.extend(["exact", "partial", "unknown", "interrupted", "pending"].map(state));
    columns.push(format!("count(*) FILTER (WHERE currency IS NULL AND {costs})"));
    columns.push(sum("estimated"));
    for currency in Currency::ALL {
        // In two parts, as the sum of a few large ones would not fit.
        for part in ["/", "%"] {
            columns.push(sum(&format!("CASE WHEN currency = '{}' THEN cost {part} {UNIT} END", currency.name())));
        }
    }
    // Who polls or lists is not to look like who asks models.
    let counted = if by == By::Endpoint { String::new() } else { format!(" AND {costs}") };
    format!(
        "SELECT {} FROM ledger WHERE time_ms >= $1 AND time_ms < $2 AND state <> 'open'{counted} GROUP BY 1 ORDER BY 1",
        columns.join(", ")
    )
}
