//! The ledger's rows, as their requests leave them.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
};

use sqlx::{AssertSqlSafe, Connection as _, QueryBuilder, Row as _, query_builder::Separated};

use super::{BATCH, Database, DatabaseError, LONG, count, integer, on, pending, within};
use crate::domain::{
    id::RequestId,
    ledger::{Row, State, storable},
    money::{Currency, MOST, UNIT},
    spending::Spender,
};

/// Rows of one statement: of their values, 35 each, SQLite takes 32,766 and PostgreSQL 65,535. As many as there may be, as
/// the answers of a slow database come one after the other.
const ROWS: usize = 900;

/// Statements with more rows are not kept prepared: hardly two are alike, and each costs PostgreSQL megabytes.
const KEPT_ROWS: usize = 10;

const INSERT: &str = "INSERT INTO ledger (id, time_ms, state, origin, endpoint, key_name, group_name, model, \
     upstream_model, upstream, credential, end_reason, response_id, currency, status, input_tokens, cached_tokens, \
     output_tokens, reasoning_tokens, total_tokens, reserved_tokens, first_byte_ms, price_input, price_cached, price_output, \
     price_reasoning, price_call, reserved_cost, cost, estimated, bytes_up, bytes_down, attempts, took_ms, awaits) ";

/// No request changes what is over. What was taken for interrupted gives way to what is known after all.
const CONFLICT: &str = " ON CONFLICT (id) DO UPDATE SET state = excluded.state, upstream_model = excluded.upstream_model, \
     upstream = excluded.upstream, credential = excluded.credential, end_reason = excluded.end_reason, \
     status = excluded.status, input_tokens = excluded.input_tokens, cached_tokens = excluded.cached_tokens, \
     output_tokens = excluded.output_tokens, reasoning_tokens = excluded.reasoning_tokens, \
     total_tokens = excluded.total_tokens, currency = excluded.currency, price_input = excluded.price_input, \
     price_cached = excluded.price_cached, price_output = excluded.price_output, \
     price_reasoning = excluded.price_reasoning, price_call = excluded.price_call, cost = excluded.cost, \
     estimated = excluded.estimated, bytes_down = excluded.bytes_down, attempts = excluded.attempts, \
     first_byte_ms = excluded.first_byte_ms, took_ms = excluded.took_ms, response_id = excluded.response_id, \
     awaits = excluded.awaits \
     WHERE ledger.state IN ('open', 'interrupted') AND excluded.state <> 'open' AND excluded.state <> ledger.state \
     RETURNING state";

/// Binds the values of one row, in the order of [`INSERT`].
fn bind<'q, Db>(values: &mut Separated<'_, Db, &'static str>, row: &Row<'q>, origin: &'q str)
where
    Db: sqlx::Database,
    String: sqlx::Encode<'q, Db> + sqlx::Type<Db>,
    &'q str: sqlx::Encode<'q, Db> + sqlx::Type<Db>,
    Option<Cow<'q, str>>: sqlx::Encode<'q, Db> + sqlx::Type<Db>,
    Option<i64>: sqlx::Encode<'q, Db> + sqlx::Type<Db>,
    i64: sqlx::Encode<'q, Db> + sqlx::Type<Db>,
{
    values.push_bind(row.id.to_string()).push_bind(integer(row.id.millis())).push_bind(row.state.name());
    values.push_bind(origin);
    let currency = row.price.map(|price| price.currency.name());
    for text in [
        row.endpoint,
        row.key,
        row.group,
        row.model,
        row.upstream_model,
        row.upstream,
        row.credential,
        row.end,
        row.response_id,
        currency,
    ] {
        // Journals of before hold them as they came.
        values.push_bind(text.map(storable));
    }
    let usage = row.usage;
    for number in [
        row.status,
        usage.input,
        usage.cached,
        usage.output,
        usage.reasoning,
        usage.total,
        row.reserved,
        row.first_byte_ms,
    ] {
        values.push_bind(number.map(count));
    }
    let price = row.price.map(|price| [price.input, price.cached, price.output, price.reasoning, price.per_call]);
    for nth in 0..5 {
        values.push_bind(price.and_then(|price| price.get(nth).copied()).map(integer));
    }
    values.push_bind(row.reserved_cost.map(integer)).push_bind(row.cost.map(integer));
    values.push_bind(i64::from(row.estimated));
    for number in [row.bytes_up, row.bytes_down, row.attempts, row.took_ms] {
        values.push_bind(count(number));
    }
    values.push_bind(i64::from(row.state == State::Pending));
}

/// No statement may touch a row twice: of rows with one id, the one that would be there in the end.
fn distinct<'a, 'r>(rows: &'a [Row<'r>]) -> Vec<&'a Row<'r>> {
    let mut places = HashMap::with_capacity(rows.len());
    let mut kept: Vec<&Row<'r>> = Vec::with_capacity(rows.len());
    for row in rows {
        let place = *places.entry(row.id).or_insert(kept.len());
        match kept.get_mut(place) {
            None => kept.push(row),
            Some(known) if known.state.gives_way() && row.state != State::Open => *known = row,
            Some(_) => {}
        }
    }
    kept
}

impl Database {
    /// Writes rows that come from the data folder `origin`, and what they show of others, all or none. Returned is how many
    /// there are now of each state that were not there like this before: a row that is known already changes nothing, one that
    /// was open gives way to one that is over.
    ///
    /// # Errors
    /// When they cannot be written.
    pub async fn store(&mut self, origin: &str, rows: &[Row<'_>]) -> Result<Vec<(State, u64)>, DatabaseError> {
        let (rows, shown) = (distinct(rows), pending::shown(rows));
        let mut changed = Vec::new();
        within(BATCH, async {
            on!(self, |connection, Db| {
                let mut transaction = connection.begin().await?;
                for rows in rows.chunks(ROWS) {
                    let mut query = QueryBuilder::<Db>::new(INSERT);
                    query.push_values(rows, |mut values, row| bind(&mut values, row, origin));
                    query.push(CONFLICT);
                    let query = query.build().persistent(rows.len() <= KEPT_ROWS);
                    for row in query.fetch_all(&mut *transaction).await? {
                        let state: String = row.try_get(0)?;
                        changed.extend(State::ALL.into_iter().find(|known| known.name() == state));
                    }
                }
                for shown in shown.chunks(ROWS) {
                    let mut query = QueryBuilder::<Db>::new(pending::INSERT);
                    query.push_values(shown, |mut values, shown| pending::bind(&mut values, shown));
                    let query = query.push(pending::CONFLICT).build().persistent(shown.len() <= KEPT_ROWS);
                    query.execute(&mut *transaction).await?;
                }
                transaction.commit().await?;
                Ok(())
            })
        })
        .await?;
        let count = |state| (state, changed.iter().filter(|changed| **changed == state).count() as u64);
        Ok(State::ALL.map(count).into_iter().filter(|(_, count)| *count > 0).collect())
    }

    /// Takes away rows of requests that were put down and then not sent.
    ///
    /// # Errors
    /// When that cannot be done.
    pub async fn forget(&mut self, unsent: &[RequestId]) -> Result<(), DatabaseError> {
        within(BATCH, async {
            on!(self, |connection, Db| {
                for ids in unsent.chunks(ROWS) {
                    let mut query = QueryBuilder::<Db>::new(
                        "DELETE FROM ledger WHERE state IN ('open', 'interrupted') AND id IN (",
                    );
                    let mut values = query.separated(", ");
                    for id in ids {
                        values.push_bind(id.to_string());
                    }
                    query.push(")");
                    query.build().execute(&mut *connection).await?;
                }
                Ok(())
            })
        })
        .await
    }

    /// What came from `origin` and is open was so when the process before this one ended: returned is how much that was. So
    /// was what began before `lost` (milliseconds since 1970-01-01 UTC), wherever it came from: a data folder that is lost has
    /// no next process. It is charged with what was reserved for it, until somebody knows better.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn interrupt(&mut self, origin: &str, lost: u64) -> Result<u64, DatabaseError> {
        const UPDATE: &str = "UPDATE ledger SET state = 'interrupted', cost = reserved_cost, \
             estimated = CASE WHEN reserved_cost IS NULL THEN 0 ELSE 1 END WHERE state = 'open' AND (origin = $1 OR time_ms < $2)";
        within(LONG, async {
            on!(self, |connection, Db| {
                Ok(sqlx::query::<Db>(UPDATE)
                    .bind(origin)
                    .bind(integer(lost))
                    .execute(connection)
                    .await?
                    .rows_affected())
            })
        })
        .await
    }

    /// What a key or a group was charged with, by [`Currency::ALL`], for what began at `from` or later and before `to`
    /// (milliseconds since 1970-01-01 UTC).
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn spent(
        &mut self,
        spender: Spender,
        name: &str,
        from: u64,
        to: u64,
    ) -> Result<[u64; Currency::ALL.len()], DatabaseError> {
        let mut all = [0_u64; Currency::ALL.len()];
        for (_, spent) in self.spent_by_origin(spender, name, from, to).await? {
            all.iter_mut().zip(spent).for_each(|(all, one)| *all = all.saturating_add(one).min(MOST));
        }
        Ok(all)
    }

    /// The same for the rows of each data folder.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn spent_by_origin(
        &mut self,
        spender: Spender,
        name: &str,
        from: u64,
        to: u64,
    ) -> Result<BTreeMap<String, [u64; Currency::ALL.len()]>, DatabaseError> {
        let column = match spender {
            Spender::Key => "key_name",
            Spender::Group => "group_name",
        };
        // In two parts, as the sum of a few large ones would not fit. Made of fixed words only.
        let query = format!(
            "SELECT origin, currency, CAST(sum(cost / {UNIT}) AS BIGINT), CAST(sum(cost % {UNIT}) AS BIGINT) FROM ledger \
             WHERE {column} = $1 AND time_ms >= $2 AND time_ms < $3 AND cost IS NOT NULL AND currency IS NOT NULL \
             GROUP BY origin, currency"
        );
        let mut all = BTreeMap::new();
        within(LONG, async {
            on!(self, |connection, Db| {
                let query = sqlx::query::<Db>(AssertSqlSafe(query)).bind(name).bind(integer(from)).bind(integer(to));
                for row in query.fetch_all(connection).await? {
                    let (origin, currency): (String, String) = (row.try_get(0)?, row.try_get(1)?);
                    let (units, rest): (i64, i64) = (row.try_get(2)?, row.try_get(3)?);
                    let spent = all.entry(origin).or_insert([0; Currency::ALL.len()]);
                    for (known, spent) in Currency::ALL.iter().zip(spent) {
                        if known.name() == currency {
                            *spent = amount(units, rest);
                        }
                    }
                }
                Ok(())
            })
        })
        .await?;
        Ok(all)
    }
}

/// An amount from a sum of its units and one of what is beside them.
pub(super) fn amount(units: i64, rest: i64) -> u64 {
    let part = |number: i64| u64::try_from(number).unwrap_or_default();
    part(units).saturating_mul(UNIT).saturating_add(part(rest)).min(MOST)
}
