//! Rows of background responses: the usage that calls by their ids show later, and the rows that this usage settles.

use std::collections::{BTreeMap, HashSet};

use sqlx::{QueryBuilder, Row as _, query_builder::Separated};

use super::{BATCH, Database, DatabaseError, LONG, count, insert::more_counts, integer, on, within};
use crate::domain::{
    ledger::{Row, UsageState},
    money::{Currency, Exchange},
    price::{Parts, Price, Tariff},
    usage::{PolledUsage, ServiceTier, Usage},
};

/// Ids of one statement.
const IDS: usize = 900;

pub(super) const INSERT: &str = "INSERT INTO shown (response_id, upstream, input_tokens, cached_tokens, output_tokens, reasoning_tokens, \
     total_tokens, cache_write_tokens, cache_write_1h_tokens, input_audio_tokens, input_image_tokens, output_audio_tokens, \
     output_image_tokens, image_tool_input_tokens, image_tool_output_tokens, web_searches, audio_ms, told_cost, service_tier) ";

/// The first usage with tokens counts, in whichever order the usages come.
pub(super) const CONFLICT: &str = " ON CONFLICT (response_id, upstream) DO UPDATE SET input_tokens = excluded.input_tokens, \
     cached_tokens = excluded.cached_tokens, output_tokens = excluded.output_tokens, \
     reasoning_tokens = excluded.reasoning_tokens, total_tokens = excluded.total_tokens, \
     cache_write_tokens = excluded.cache_write_tokens, cache_write_1h_tokens = excluded.cache_write_1h_tokens, \
     input_audio_tokens = excluded.input_audio_tokens, input_image_tokens = excluded.input_image_tokens, \
     output_audio_tokens = excluded.output_audio_tokens, output_image_tokens = excluded.output_image_tokens, \
     image_tool_input_tokens = excluded.image_tool_input_tokens, \
     image_tool_output_tokens = excluded.image_tool_output_tokens, web_searches = excluded.web_searches, \
     audio_ms = excluded.audio_ms, told_cost = excluded.told_cost, service_tier = excluded.service_tier \
     WHERE shown.input_tokens IS NULL AND excluded.input_tokens IS NOT NULL";

/// The usage shown of the response with this id at this upstream.
pub(super) type PolledResponse<'a> = ((&'a str, &'a str), PolledUsage);

/// Returns the usage that rows show of other responses, one for each response. All writers use the same order, so that they never
/// deadlock.
pub(super) fn shown<'a>(rows: &[Row<'a>]) -> Vec<PolledResponse<'a>> {
    let mut all = BTreeMap::new();
    for row in rows {
        if let (Some(id), Some(upstream), Some(shown)) = (row.response_id, row.upstream, row.shown) {
            let known = all.entry((id, upstream)).or_insert(shown);
            if known.usage().is_none() {
                *known = shown;
            }
        }
    }
    all.into_iter().collect()
}

/// Binds the values of one usage, in the order of [`INSERT`].
pub(super) fn bind<'q, Db>(values: &mut Separated<'_, Db, &'static str>, ((id, upstream), shown): &PolledResponse<'q>)
where
    Db: sqlx::Database,
    &'q str: sqlx::Encode<'q, Db> + sqlx::Type<Db>,
    Option<&'q str>: sqlx::Encode<'q, Db> + sqlx::Type<Db>,
    Option<i64>: sqlx::Encode<'q, Db> + sqlx::Type<Db>,
{
    values.push_bind(*id).push_bind(*upstream);
    let usage = shown.usage().unwrap_or_default();
    let Usage { input, cached, output, reasoning, total, .. } = usage;
    for number in [input, cached, output, reasoning, total].into_iter().chain(more_counts(&usage)) {
        values.push_bind(number.map(count));
    }
    values.push_bind(usage.reported_cost.map(integer)).push_bind(usage.tier.map(ServiceTier::name));
}

/// A ledger row of a background response that has just got its final usage and cost, because a later call showed them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettledRow {
    /// The new state: exact, unpriced in a part, or partial where the provider reported no tokens.
    pub state: UsageState,
    /// Name of the upstream that made the response.
    pub upstream: String,
    /// The model's name as sent upstream.
    pub upstream_model: Option<String>,
    /// Parts of the reported usage that have no price.
    pub unpriced: Parts,
    /// Name of the client's key.
    pub key: Option<String>,
    /// Name of the key's group.
    pub group: Option<String>,
    /// When the request began, in milliseconds since 1970-01-01 UTC.
    pub began: u64,
    /// The currency of both amounts; none if the model has no price.
    pub currency: Option<Currency>,
    /// The amount charged before, in nano-units.
    pub charged: u64,
    /// The real cost, in nano-units.
    pub cost: u64,
}

/// A row whose usage was shown.
struct PolledRow {
    id: String,
    settled: SettledRow,
    /// The price of the bill, if the usage is known.
    price: Option<Price>,
    exchanged: Option<u64>,
}

const SELECT: &str = "SELECT ledger.id, key_name, group_name, time_ms, currency, cost, price_input, price_cached, price_output, \
     price_reasoning, price_call, shown.input_tokens, shown.cached_tokens, shown.output_tokens, shown.reasoning_tokens, \
     shown.total_tokens, shown.cache_write_tokens, shown.cache_write_1h_tokens, shown.input_audio_tokens, \
     shown.input_image_tokens, shown.output_audio_tokens, shown.output_image_tokens, shown.image_tool_input_tokens, \
     shown.image_tool_output_tokens, shown.web_searches, shown.audio_ms, shown.service_tier, price_terms, cny_per_usd, \
     ledger.upstream, upstream_model \
     FROM ledger JOIN shown ON shown.response_id = ledger.response_id AND shown.upstream = ledger.upstream \
     WHERE awaits = 1 AND (state = 'pending' OR shown.input_tokens IS NOT NULL)";

/// Changes only rows that no other replica has settled: of several replicas, one settles a row. The values of [`PolledRow`] go
/// between the two texts.
const TOLD: (&str, &str) = (
    "UPDATE ledger SET state = told.column2, awaits = 0, \
     estimated = CASE WHEN told.column5 IS NULL THEN 0 ELSE 1 END, input_tokens = shown.input_tokens, \
     cached_tokens = shown.cached_tokens, output_tokens = shown.output_tokens, reasoning_tokens = shown.reasoning_tokens, \
     total_tokens = shown.total_tokens, cache_write_tokens = shown.cache_write_tokens, \
     cache_write_1h_tokens = shown.cache_write_1h_tokens, input_audio_tokens = shown.input_audio_tokens, \
     input_image_tokens = shown.input_image_tokens, output_audio_tokens = shown.output_audio_tokens, \
     output_image_tokens = shown.output_image_tokens, image_tool_input_tokens = shown.image_tool_input_tokens, \
     image_tool_output_tokens = shown.image_tool_output_tokens, web_searches = shown.web_searches, \
     audio_ms = shown.audio_ms, told_cost = shown.told_cost, service_tier = shown.service_tier, cost = told.column3, \
     cost_exchanged = told.column4, unpriced_parts = told.column5, price_more = told.column6, \
     price_input = coalesce(told.column7, price_input), price_cached = coalesce(told.column8, price_cached), \
     price_output = coalesce(told.column9, price_output), price_reasoning = coalesce(told.column10, price_reasoning), \
     price_call = coalesce(told.column11, price_call) FROM shown, (",
    ") AS told WHERE ledger.id = told.column1 AND awaits = 1 AND shown.response_id = ledger.response_id \
     AND shown.upstream = ledger.upstream RETURNING id",
);
/// The same for rows without tokens. The ids follow the text.
const PARTIAL: &str = "UPDATE ledger SET state = 'partial' WHERE state = 'pending' AND id IN (";

impl PolledRow {
    fn read<R: sqlx::Row>(row: &R) -> Result<Self, sqlx::Error>
    where
        usize: sqlx::ColumnIndex<R>,
        for<'r> Option<String>: sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
        for<'r> Option<i64>: sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
    {
        let text = |nth: usize| row.try_get::<Option<String>, _>(nth);
        let number = |nth: usize| {
            row.try_get::<Option<i64>, _>(nth).map(|number| number.and_then(|number| u64::try_from(number).ok()))
        };
        let amount = |nth: usize| number(nth).map(Option::unwrap_or_default);
        let currency = text(4)?.as_deref().and_then(Currency::named);
        // Rows of earlier versions have only a standard price.
        let terms = text(27)?.as_deref().and_then(Tariff::from_text);
        let tariff = match currency.filter(|_| terms.is_none()) {
            Some(currency) => Some(Tariff::from(Price {
                input: amount(6)?,
                cached: amount(7)?,
                output: amount(8)?,
                reasoning: amount(9)?,
                per_call: amount(10)?,
                ..Price::free(currency)
            })),
            None => terms,
        };
        let told = Usage {
            input: number(11)?,
            cached: number(12)?,
            output: number(13)?,
            reasoning: number(14)?,
            total: number(15)?,
            cache_write: number(16)?,
            cache_write_1h: number(17)?,
            input_audio: number(18)?,
            input_image: number(19)?,
            output_audio: number(20)?,
            output_image: number(21)?,
            image_tool_input: number(22)?,
            image_tool_output: number(23)?,
            web_searches: number(24)?,
            audio_ms: number(25)?,
            tier: text(26)?.as_deref().and_then(ServiceTier::named),
            reported_cost: None,
        };
        let (usage, charged) = (PolledUsage::new(told).usage(), amount(5)?);
        // The row's own prices apply, whatever the current prices are.
        let bill = usage.and_then(|usage| Some(tariff?.bill(&usage)));
        let cost = match usage {
            Some(_) => bill.map_or(0, |bill| bill.cost),
            None => charged,
        };
        let unpriced = bill.map(|bill| bill.unpriced).unwrap_or_default();
        let state = match usage {
            None => UsageState::Partial,
            Some(_) if unpriced.is_empty() => UsageState::Exact,
            Some(_) => UsageState::UnpricedPart,
        };
        let exchange = Exchange { cny_per_usd: number(28)? };
        let exchanged = currency.and_then(|from| exchange.convert(cost, from, from.other()));
        let (key, group, began) = (text(1)?, text(2)?, amount(3)?);
        let (upstream, upstream_model) = (text(29)?.unwrap_or_default(), text(30)?);
        let settled =
            SettledRow { state, upstream, upstream_model, unpriced, key, group, began, currency, charged, cost };
        let price = bill.map(|bill| bill.price);
        Ok(Self { id: text(0)?.unwrap_or_default(), settled, price, exchanged })
    }
}

/// A ledger row of a background response that, as far as Tidegate knows, is still in progress at its provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingRow {
    /// The row's id.
    pub id: String,
    /// When the request began, in milliseconds since 1970-01-01 UTC.
    pub began: u64,
    /// Name of the upstream that makes the response.
    pub upstream: String,
    /// Name of the credential that created the response.
    pub credential: Option<String>,
    /// Name of the client's key.
    pub key: Option<String>,
    /// Id of the response.
    pub response_id: String,
}

const ROWS: &str = "SELECT id, time_ms, upstream, credential, key_name, response_id FROM ledger WHERE awaits = 1 \
     AND state = 'pending' AND response_id IS NOT NULL AND upstream IS NOT NULL AND (origin = $1 OR time_ms < $2) \
     ORDER BY id LIMIT $3";

impl Database {
    /// Returns ledger rows of background responses that are still in progress, the oldest first and at most `most`. They are those of the
    /// data folder `origin`, and those of other data folders that began before `before`.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn pending(&mut self, origin: &str, before: u64, most: u32) -> Result<Vec<PendingRow>, DatabaseError> {
        within(BATCH, async {
            on!(self, |connection, Db| {
                let query = sqlx::query::<Db>(ROWS).bind(origin).bind(integer(before)).bind(i64::from(most));
                let rows = query.fetch_all(connection).await?;
                let row = |row: &<Db as sqlx::Database>::Row| -> Result<PendingRow, sqlx::Error> {
                    let began: i64 = row.try_get(1)?;
                    Ok(PendingRow {
                        id: row.try_get(0)?,
                        began: u64::try_from(began).unwrap_or_default(),
                        upstream: row.try_get(2)?,
                        credential: row.try_get(3)?,
                        key: row.try_get(4)?,
                        response_id: row.try_get(5)?,
                    })
                };
                Ok(rows.iter().map(row).collect::<Result<_, _>>()?)
            })
        })
        .await
    }

    /// Stores the usage of background responses that have ended, and settles their ledger rows: replaces the estimated cost. Returns the
    /// rows that this call settled.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn store_polled_usage(
        &mut self,
        over: &[(PendingRow, PolledUsage)],
    ) -> Result<Vec<SettledRow>, DatabaseError> {
        if over.is_empty() {
            return Ok(Vec::new());
        }
        let all: BTreeMap<_, _> =
            over.iter().map(|(row, shown)| ((&*row.response_id, &*row.upstream), *shown)).collect();
        let all: Vec<PolledResponse<'_>> = all.into_iter().collect();
        within(BATCH, async {
            on!(self, |connection, Db| {
                for shown in all.chunks(IDS) {
                    let mut query = QueryBuilder::<Db>::new(INSERT);
                    query.push_values(shown, |mut values, shown| bind(&mut values, shown));
                    query.push(CONFLICT).build().persistent(false).execute(&mut *connection).await?;
                }
                Ok(())
            })
        })
        .await?;
        let ids: Vec<&str> = all.iter().map(|((id, _), _)| *id).collect();
        let mut settled = Vec::new();
        for ids in ids.chunks(IDS) {
            settled.append(&mut within(BATCH, self.settle_some(Some(ids))).await?);
        }
        Ok(settled)
    }

    /// Settles ledger rows of background responses whose final usage is stored: those among `rows`, and those whose usage a row of `rows`
    /// showed. Call [`store`](Self::store) with `rows` before, so that the later of two writers sees both the row and its usage. Returns
    /// the rows that this call settled.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn settle(&mut self, rows: &[Row<'_>]) -> Result<Vec<SettledRow>, DatabaseError> {
        let concerned = rows.iter().filter(|row| row.state == UsageState::Pending || row.shown.is_some());
        let mut ids: Vec<_> = concerned.filter_map(|row| row.response_id).collect();
        ids.sort_unstable();
        ids.dedup();
        let mut settled = Vec::new();
        for ids in ids.chunks(IDS) {
            settled.append(&mut within(BATCH, self.settle_some(Some(ids))).await?);
        }
        Ok(settled)
    }

    /// Settles all ledger rows of background responses whose final usage is stored. Needed at a start: the previous process may have
    /// ended between storing and settling.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn settle_all(&mut self) -> Result<Vec<SettledRow>, DatabaseError> {
        within(LONG, self.settle_some(None)).await
    }

    async fn settle_some(&mut self, ids: Option<&[&str]>) -> Result<Vec<SettledRow>, DatabaseError> {
        on!(self, |connection, Db| {
            let mut query = QueryBuilder::<Db>::new(SELECT);
            if let Some(ids) = ids {
                query.push(" AND ledger.response_id IN (");
                let mut values = query.separated(", ");
                for id in ids {
                    values.push_bind(*id);
                }
                query.push(")");
            }
            // All writers use the same order, so that they never deadlock.
            query.push(" ORDER BY ledger.id");
            let found = query.build().persistent(false).fetch_all(&mut *connection).await?;
            let found = found.iter().map(PolledRow::read).collect::<Result<Vec<_>, _>>()?;
            let (told, over): (Vec<_>, Vec<_>) =
                found.into_iter().partition(|found| found.settled.state != UsageState::Partial);
            let mut settled = Vec::new();
            // Few large statements save round trips to a slow database.
            for told in told.chunks(IDS) {
                let mut query = QueryBuilder::<Db>::new(TOLD.0);
                query.push_values(told, |mut values, found| {
                    let settled = &found.settled;
                    values.push_bind(&found.id).push_bind(settled.state.name());
                    values.push_bind(settled.currency.map(|_| integer(settled.cost)));
                    values.push_bind(found.exchanged.map(integer)).push_bind(settled.unpriced.names());
                    values.push_bind(found.price.and_then(|price| price.optional_rates_text()));
                    let price = found.price.map(|price| {
                        [price.input, price.cached, price.output, price.reasoning, price.per_call].map(integer)
                    });
                    for nth in 0..5 {
                        values.push_bind(price.and_then(|price| price.get(nth).copied()));
                    }
                });
                query.push(TOLD.1);
                let done = query.build().persistent(false).fetch_all(&mut *connection).await?;
                settled.append(&mut those_of(told, &done)?);
            }
            for over in over.chunks(IDS) {
                let mut query = QueryBuilder::<Db>::new(PARTIAL);
                let mut values = query.separated(", ");
                for PolledRow { id, .. } in over {
                    values.push_bind(id);
                }
                query.push(") RETURNING id");
                let done = query.build().persistent(false).fetch_all(&mut *connection).await?;
                settled.append(&mut those_of(over, &done)?);
            }
            Ok(settled)
        })
    }
}

/// Returns the rows of `found` whose ids are in `done`.
fn those_of<R: sqlx::Row>(found: &[PolledRow], done: &[R]) -> Result<Vec<SettledRow>, sqlx::Error>
where
    usize: sqlx::ColumnIndex<R>,
    for<'r> String: sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
{
    let ids = done.iter().map(|row| row.try_get(0)).collect::<Result<HashSet<String>, _>>()?;
    Ok(found.iter().filter(|found| ids.contains(&found.id)).map(|found| found.settled.clone()).collect())
}
