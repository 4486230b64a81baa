//! Writes ledger rows and reads spend.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
};

use sqlx::{Arguments as _, AssertSqlSafe, Connection as _, Encode, QueryBuilder, Row as _, Type, error::BoxDynError};

use super::{
    BATCH, Database, DatabaseError, LONG,
    bounds::{KEPT_ROWS, ROWS},
    count,
    insert::{VALUES, more_counts},
    integer, on, pending, within,
};
use crate::domain::{
    id::RequestId,
    ledger::{Row, UsageState, storable},
    model_name::ModelPattern,
    money::{Currency, Exchange, MOST, UNIT},
    spending::Spender,
};

/// Adds the values of one row, in the order of the columns in `insert`.
fn add<'q, Db>(values: &mut Db::Arguments, row: &Row<'q>, origin: &'q str) -> Result<(), BoxDynError>
where
    Db: sqlx::Database,
    String: Encode<'q, Db> + Type<Db>,
    &'q str: Encode<'q, Db> + Type<Db>,
    Option<Cow<'q, str>>: Encode<'q, Db> + Type<Db>,
    Option<i64>: Encode<'q, Db> + Type<Db>,
    i64: Encode<'q, Db> + Type<Db>,
{
    values.add(row.id.to_string())?;
    values.add(integer(row.id.millis()))?;
    values.add(row.state.name())?;
    values.add(origin)?;
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
        // Journals of earlier versions contain these texts unchecked.
        values.add(text.map(storable))?;
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
        values.add(number.map(count))?;
    }
    let price = row.price.map(|price| [price.input, price.cached, price.output, price.reasoning, price.per_call]);
    for nth in 0..5 {
        values.add(price.and_then(|price| price.get(nth).copied()).map(integer))?;
    }
    values.add(row.reserved_cost.map(integer))?;
    values.add(row.cost.map(integer))?;
    values.add(i64::from(row.estimated))?;
    for number in [row.bytes_up, row.bytes_down, row.attempts, row.took_ms] {
        values.add(count(number))?;
    }
    values.add(i64::from(row.state == UsageState::Pending))?;
    for number in more_counts(&usage) {
        values.add(number.map(count))?;
    }
    values.add(usage.reported_cost.map(integer))?;
    values.add(usage.tier.map(|tier| Cow::Borrowed(tier.name())))?;
    values.add(row.unpriced.names().map(Cow::<str>::Owned))?;
    values.add(row.price.and_then(|price| price.optional_rates_text()).map(Cow::<str>::Owned))?;
    values.add(row.terms.map(Cow::Borrowed))?;
    values.add(row.exchange.cny_per_usd.map(integer))?;
    values.add(row.exchanged().map(integer))
}

/// Returns one row for each id, because no statement may touch a row twice. Of several rows, the final one stays.
fn distinct<'a, 'r>(rows: &'a [Row<'r>]) -> Vec<&'a Row<'r>> {
    let mut places = HashMap::with_capacity(rows.len());
    let mut kept: Vec<&Row<'r>> = Vec::with_capacity(rows.len());
    for row in rows {
        let place = *places.entry(row.id).or_insert(kept.len());
        match kept.get_mut(place) {
            None => kept.push(row),
            Some(known) if known.state.is_replaceable() && row.state != UsageState::Open => *known = row,
            Some(_) => {}
        }
    }
    kept
}

impl Database {
    /// Writes ledger rows of the data folder `origin` in one transaction. A finished row replaces an open one; a row that is already
    /// stored changes nothing. Also stores the usage that these requests showed of earlier background responses. Returns the number of
    /// new or changed rows of each state.
    ///
    /// # Errors
    /// When the database cannot write the rows.
    pub async fn store(&mut self, origin: &str, rows: &[Row<'_>]) -> Result<Vec<(UsageState, u64)>, DatabaseError> {
        let (rows, shown) = (distinct(rows), pending::shown(rows));
        let changed = match self.write(origin, &rows, &shown, false).await? {
            Some(changed) => changed,
            None => self.write(origin, &rows, &shown, true).await?.unwrap_or_default(),
        };
        let count = |state| (state, changed.iter().filter(|changed| **changed == state).count() as u64);
        Ok(UsageState::ALL.map(count).into_iter().filter(|(_, count)| *count > 0).collect())
    }

    /// Writes the rows. Returns the states of the new or changed ones. Without `ask`, returns `None` and writes nothing if some
    /// row is neither.
    async fn write(
        &mut self,
        origin: &str,
        rows: &[&Row<'_>],
        shown: &[pending::PolledResponse<'_>],
        ask: bool,
    ) -> Result<Option<Vec<UsageState>>, DatabaseError> {
        let dialect = self.dialect();
        let texts = &mut self.texts;
        let work = async {
            on!(self, |connection, Db| {
                let mut changed = Vec::with_capacity(rows.len());
                let mut transaction = connection.begin().await?;
                let mut rest = rows;
                while !rest.is_empty() {
                    let (rows, after) = rest.split_at((dialect.batch)(rest.len()));
                    rest = after;
                    let mut values = <Db as sqlx::Database>::Arguments::default();
                    values.reserve(rows.len() * VALUES, 0);
                    for row in rows {
                        add::<Db>(&mut values, row, origin).map_err(sqlx::Error::Encode)?;
                    }
                    let (text, kept) = texts.insert(&dialect, rows.len(), ask);
                    let query = sqlx::query_with::<Db, _>(AssertSqlSafe(text), values).persistent(kept);
                    if ask {
                        for row in query.fetch_all(&mut *transaction).await? {
                            let state: String = row.try_get(0)?;
                            changed.extend(UsageState::ALL.into_iter().find(|known| known.name() == state));
                        }
                    } else if query.execute(&mut *transaction).await?.rows_affected() == rows.len() as u64 {
                        changed.extend(rows.iter().map(|row| row.state));
                    } else {
                        transaction.rollback().await?;
                        return Ok(None);
                    }
                }
                for shown in shown.chunks(ROWS) {
                    let mut query = QueryBuilder::<Db>::new(pending::INSERT);
                    query.push_values(shown, |mut values, shown| pending::bind(&mut values, shown));
                    let query = query.push(pending::CONFLICT).build().persistent(shown.len() <= KEPT_ROWS);
                    query.execute(&mut *transaction).await?;
                }
                transaction.commit().await?;
                Ok(Some(changed))
            })
        };
        within(BATCH, work).await
    }

    /// Deletes the ledger rows of requests that were recorded in advance, but never sent upstream.
    ///
    /// # Errors
    /// When the database cannot delete them.
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

    /// Marks open ledger rows of the data folder `origin` as interrupted, because the previous process ended while they were open. Also
    /// marks open rows of any data folder that began before `lost` (milliseconds since 1970-01-01 UTC): a lost data folder has no next
    /// process. Each row is charged its reservation until its real cost is known. Returns the number of rows.
    ///
    /// # Errors
    /// When the database cannot write the rows.
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

    /// Returns what a key or group was charged between two times, as one total in each of [`Currency::ALL`]. Amounts in the other
    /// currency are exchanged at the rate of their ledger rows.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn spent(
        &mut self,
        spender: Spender,
        name: &str,
        from: u64,
        to: u64,
    ) -> Result<[u64; Currency::ALL.len()], DatabaseError> {
        let mut all = [0_u64; Currency::ALL.len()];
        for (currency, all) in Currency::ALL.into_iter().zip(&mut all) {
            let money = (currency, Exchange::default());
            let spent = self.spent_by_origin(spender, name, None, (from, to), money).await?;
            *all = spent.into_values().fold(0, u64::saturating_add).min(MOST);
        }
        Ok(all)
    }

    /// Returns what a key or group was charged, in this currency, for each data folder. Only requests count that began at `from` or later
    /// and before `to` (milliseconds since 1970-01-01 UTC). With a `model`, only requests for this model count. Amounts in another
    /// currency are exchanged at the row's rate, or at `rate` if the row has none.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn spent_by_origin(
        &mut self,
        spender: Spender,
        name: &str,
        model: Option<&ModelPattern>,
        (from, to): (u64, u64),
        (into, rate): (Currency, Exchange),
    ) -> Result<BTreeMap<String, u64>, DatabaseError> {
        let column = match spender {
            Spender::Key => "key_name",
            Spender::Group => "group_name",
        };
        let (of_model, wanted) = match model {
            None => (String::new(), None),
            // As `ModelPattern::matches` decides: the requested name, alone or after the upstream's name.
            Some(model) => match model.prefix() {
                None => (" AND (model = $4 OR model = upstream || '/' || $4)".to_owned(), Some(&*model.0)),
                Some(beginning) => {
                    let length = beginning.chars().count();
                    let prefix = format!(
                        " AND (substr(model, 1, {length}) = $4 \
                         OR substr(model, 1, length(upstream) + 1 + {length}) = upstream || '/' || $4)"
                    );
                    (prefix, Some(beginning))
                }
            },
        };
        // Units and nano-units are summed separately: the sum of a few large amounts would overflow. The SQL has fixed words
        // only.
        let (own, other) = (into.name(), into.other().name());
        let sum = |what: String| format!("CAST(coalesce(sum({what}), 0) AS BIGINT)");
        let rated = |cost: &str, exchanged: &str| {
            sum(format!("CASE currency WHEN '{own}' THEN {cost} WHEN '{other}' THEN {exchanged} END"))
        };
        let unrated =
            |cost: &str, when: &str| sum(format!("CASE WHEN currency = '{other}' AND {when} THEN {cost} END"));
        let parts = [
            rated(&format!("cost / {UNIT}"), &format!("cost_exchanged / {UNIT}")),
            rated(&format!("cost % {UNIT}"), &format!("cost_exchanged % {UNIT}")),
            unrated(&format!("cost / {UNIT}"), "cost_exchanged IS NULL"),
            unrated(&format!("cost % {UNIT}"), "cost_exchanged IS NULL"),
        ];
        let of_days = [
            rated("cost_units", "exchanged_units"),
            rated("cost_nano", "exchanged_nano"),
            unrated("cost_units", "cny_per_usd = 0"),
            unrated("cost_nano", "cny_per_usd = 0"),
        ];
        let query = format!(
            "SELECT origin, {} FROM ledger WHERE {column} = $1 AND time_ms >= $2 AND time_ms < $3 AND cost IS NOT NULL{of_model} \
             GROUP BY origin UNION ALL SELECT origin, {} FROM daily_sums WHERE {column} = $1 AND day_ms >= $2 \
             AND day_ms < $3{of_model} GROUP BY origin",
            parts.join(", "),
            of_days.join(", "),
        );
        let mut all = BTreeMap::new();
        within(LONG, async {
            on!(self, |connection, Db| {
                let query = sqlx::query::<Db>(AssertSqlSafe(query)).bind(name).bind(integer(from)).bind(integer(to));
                let query = if let Some(wanted) = wanted { query.bind(wanted) } else { query };
                for row in query.fetch_all(connection).await? {
                    let (rated, unrated) =
                        (amount(row.try_get(1)?, row.try_get(2)?), amount(row.try_get(3)?, row.try_get(4)?));
                    let sums: &mut [u64; 2] = all.entry(row.try_get(0)?).or_default();
                    for (sum, part) in sums.iter_mut().zip([rated, unrated]) {
                        *sum = sum.saturating_add(part).min(MOST);
                    }
                }
                Ok(())
            })
        })
        .await?;
        // Rounded once, so that the result does not depend on which rows have become daily sums.
        let spent = |[rated, unrated]: [u64; 2]| {
            rated.saturating_add(rate.convert(unrated, into.other(), into).unwrap_or_default()).min(MOST)
        };
        Ok(all.into_iter().map(|(origin, sums)| (origin, spent(sums))).collect())
    }
}

/// Returns an amount from the sum of its units and the sum of its nano-units.
pub(super) fn amount(units: i64, rest: i64) -> u64 {
    let part = |number: i64| u64::try_from(number).unwrap_or_default();
    part(units).saturating_mul(UNIT).saturating_add(part(rest)).min(MOST)
}
