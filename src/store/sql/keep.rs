//! `[store] keep_days`: turns old rows into daily sums.
//!
//! A row is either in the ledger or in the sums, because both change in one transaction. Open and pending rows stay, however old,
//! because they have no final cost yet.

use std::collections::HashSet;

use sqlx::{AssertSqlSafe, Connection as _, QueryBuilder, Row as _};

use super::{
    Database, DatabaseError, LONG,
    dialect::{self, Connection},
    integer, on, within,
};
use crate::domain::{id::RequestId, money::UNIT, spending::Span};

/// Rows of one transaction. SQLite needs about half a second for them, and other writers wait meanwhile.
const ROWS: i64 = 20_000;

/// Each replica sums up its own rows. A row that is older than the retention time by this much belongs to a replica that is gone,
/// and any replica sums it up.
const GONE_MS: u64 = 2 * 86_400_000;

/// Ids of one statement.
const IDS: usize = 900;

/// The removable rows. `$1` = this data folder, `$2` = the time before which its rows go, `$3` = the same for other data folders.
const REMOVABLE: &str =
    "state NOT IN ('open', 'pending') AND (origin = $1 AND time_ms < $2 OR origin <> $1 AND time_ms < $3)";

/// The statement's beginning; a SELECT of the rows follows. `$4` and `$5` = start and end, `$6` = the day.
const SUM_UP: &str = "INSERT INTO daily_sums (day_ms, origin, endpoint, key_name, group_name, model, upstream, state, currency, \
     cny_per_usd, requests, input_tokens, cached_tokens, output_tokens, reasoning_tokens, estimated, cost_units, cost_nano, \
     exchanged_units, exchanged_nano) ";

/// Adds to the sums that exist for the same day.
const ADD: &str = " ON CONFLICT (day_ms, origin, endpoint, key_name, group_name, model, upstream, state, currency, cny_per_usd) \
     DO UPDATE SET requests = daily_sums.requests + excluded.requests, \
     input_tokens = daily_sums.input_tokens + excluded.input_tokens, \
     cached_tokens = daily_sums.cached_tokens + excluded.cached_tokens, \
     output_tokens = daily_sums.output_tokens + excluded.output_tokens, \
     reasoning_tokens = daily_sums.reasoning_tokens + excluded.reasoning_tokens, \
     estimated = daily_sums.estimated + excluded.estimated, cost_units = daily_sums.cost_units + excluded.cost_units, \
     cost_nano = daily_sums.cost_nano + excluded.cost_nano, \
     exchanged_units = daily_sums.exchanged_units + excluded.exchanged_units, \
     exchanged_nano = daily_sums.exchanged_nano + excluded.exchanged_nano";

/// Returns the whole statement. The SQL has fixed words only.
fn sum_up() -> String {
    let text = |column: &str| format!("coalesce({column}, '')");
    let sum = |what: &str| format!("CAST(coalesce(sum({what}), 0) AS BIGINT)");
    let mut columns = vec!["CAST($6 AS BIGINT)".to_owned(), "origin".to_owned()];
    columns.extend(["endpoint", "key_name", "group_name"].map(text));
    columns.push("substr(coalesce(model, ''), 1, 200)".to_owned());
    columns.extend(["upstream", "state", "currency"].map(text));
    columns.extend(["coalesce(cny_per_usd, 0)", "count(*)"].map(str::to_owned));
    columns.extend(["input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens", "estimated"].map(sum));
    for cost in ["cost", "cost_exchanged"] {
        columns.extend(["/", "%"].map(|part| sum(&format!("{cost} {part} {UNIT}"))));
    }
    format!(
        "{SUM_UP} SELECT {} FROM ledger WHERE {REMOVABLE} AND time_ms >= $4 AND time_ms < $5 \
         GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10{ADD}",
        columns.join(", ")
    )
}

impl Database {
    /// Moves ledger rows older than `before` (milliseconds since 1970-01-01 UTC) into the table of daily sums. One call moves one day,
    /// the oldest first, or a part of the day. `origin` is the name of this data folder, whose rows since `own` stay. Returns the number
    /// of removed rows.
    ///
    /// # Errors
    /// When the database cannot do that. Nothing is changed then.
    pub async fn sum_up(
        &mut self,
        origin: &str,
        (before, own): (u64, u64),
        day_of: impl Fn(u64) -> Span,
    ) -> Result<u64, DatabaseError> {
        let begin = match &self.connection {
            Connection::Sqlite(_) => dialect::SQLITE.alone,
            Connection::Postgres(_) => dialect::POSTGRES.alone,
        };
        let others = integer(before.saturating_sub(GONE_MS));
        let select = |what: &str| AssertSqlSafe(format!("SELECT {what} FROM ledger WHERE {REMOVABLE}"));
        let oldest = select("min(time_ms)");
        let last = AssertSqlSafe(format!(
            "SELECT time_ms FROM ledger WHERE {REMOVABLE} AND time_ms >= $4 AND time_ms < $5 ORDER BY time_ms LIMIT 1 OFFSET $6"
        ));
        let mark = AssertSqlSafe(format!(
            "INSERT INTO summed_up (origin, before_ms) SELECT DISTINCT origin, CASE WHEN origin = $1 AND $2 < $5 THEN $2 \
             WHEN origin <> $1 AND $3 < $5 THEN $3 ELSE $5 END FROM ledger WHERE {REMOVABLE} AND time_ms >= $4 AND time_ms < $5 ON CONFLICT (origin) DO UPDATE SET before_ms = excluded.before_ms \
             WHERE summed_up.before_ms < excluded.before_ms"
        ));
        let shown = AssertSqlSafe(format!(
            "DELETE FROM shown WHERE (response_id, upstream) IN (SELECT response_id, upstream FROM ledger \
             WHERE {REMOVABLE} AND time_ms >= $4 AND time_ms < $5)"
        ));
        let remove = AssertSqlSafe(format!("DELETE FROM ledger WHERE {REMOVABLE} AND time_ms >= $4 AND time_ms < $5"));
        within(LONG, async {
            on!(self, |connection, Db| {
                // The parameters of `REMOVABLE` come first. PostgreSQL requires every numbered parameter, so no statement omits
                // one.
                let asked = |text| sqlx::query::<Db>(text).bind(origin).bind(integer(before.min(own))).bind(others);
                let Some(oldest) = asked(oldest).fetch_one(&mut *connection).await?.try_get::<Option<i64>, _>(0)?
                else {
                    return Ok(0);
                };
                let day = day_of(u64::try_from(oldest).unwrap_or_default());
                let (from, to) = (oldest, integer(day.to));
                let last = asked(last).bind(from).bind(to).bind(ROWS).fetch_optional(&mut *connection).await?;
                let last = last.map(|row| row.try_get::<i64, _>(0)).transpose()?;
                let to = last.map_or(to, |last| last.max(from + 1));
                let mut alone = connection.begin_with(begin).await?;
                let sums = asked(AssertSqlSafe(sum_up())).bind(from).bind(to).bind(integer(day.from));
                sums.execute(&mut *alone).await?;
                asked(mark).bind(from).bind(to).execute(&mut *alone).await?;
                asked(shown).bind(from).bind(to).execute(&mut *alone).await?;
                let gone = asked(remove).bind(from).bind(to).execute(&mut *alone).await?.rows_affected();
                alone.commit().await?;
                Ok(gone)
            })
        })
        .await
    }

    /// Returns the start time of the oldest open ledger row of the data folder `origin`, in milliseconds since 1970-01-01 UTC. `None` if
    /// no row is open.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn open_since(&mut self, origin: &str) -> Result<Option<u64>, DatabaseError> {
        const SELECT: &str = "SELECT min(time_ms) FROM ledger WHERE state = 'open' AND origin = $1";
        within(LONG, async {
            on!(self, |connection, Db| {
                let since = sqlx::query::<Db>(SELECT).bind(origin).fetch_one(connection).await?;
                Ok(since.try_get::<Option<i64>, _>(0)?.and_then(|since| u64::try_from(since).ok()))
            })
        })
        .await
    }

    /// Returns the time up to which ledger rows of the data folder `origin` were moved into the daily sums, in milliseconds since
    /// 1970-01-01 UTC. 0 = none were moved.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn summed_up(&mut self, origin: &str) -> Result<u64, DatabaseError> {
        const SELECT: &str = "SELECT before_ms FROM summed_up WHERE origin = $1";
        within(LONG, async {
            on!(self, |connection, Db| {
                let before = sqlx::query::<Db>(SELECT).bind(origin).fetch_optional(connection).await?;
                let before = before.map(|row| row.try_get::<i64, _>(0)).transpose()?;
                Ok(before.and_then(|before| u64::try_from(before).ok()).unwrap_or_default())
            })
        })
        .await
    }

    /// Returns those of these request ids that have a row in the ledger.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn known(&mut self, ids: &[RequestId]) -> Result<HashSet<RequestId>, DatabaseError> {
        let texts: Vec<(String, RequestId)> = ids.iter().map(|id| (id.to_string(), *id)).collect();
        let mut known = HashSet::new();
        within(LONG, async {
            on!(self, |connection, Db| {
                for texts in texts.chunks(IDS) {
                    let mut query = QueryBuilder::<Db>::new("SELECT id FROM ledger WHERE id IN (");
                    let mut values = query.separated(", ");
                    for (text, _) in texts {
                        values.push_bind(text);
                    }
                    query.push(")");
                    for row in query.build().persistent(false).fetch_all(&mut *connection).await? {
                        let found: String = row.try_get(0)?;
                        known.extend(texts.iter().filter(|(text, _)| *text == found).map(|(_, id)| *id));
                    }
                }
                Ok(())
            })
        })
        .await?;
        Ok(known)
    }
}
