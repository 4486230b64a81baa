//! Reads ledger rows page by page, while other processes write.

use sqlx::{AssertSqlSafe, Row as _};

use super::{Database, DatabaseError, LONG, UsageQuery, integer, on, within};

/// Rows of one page, which are some hundred KiB.
const PAGE: i64 = 1000;

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Count,
    Time,
    Amount,
    Flag,
}

/// All exported columns: the exported name, the name in the table, the type.
const COLUMNS: [(&str, &str, Kind); 50] = [
    ("id", "id", Kind::Text),
    ("time", "time_ms", Kind::Time),
    ("state", "state", Kind::Text),
    ("origin", "origin", Kind::Text),
    ("key", "key_name", Kind::Text),
    ("group", "group_name", Kind::Text),
    ("endpoint", "endpoint", Kind::Text),
    ("model", "model", Kind::Text),
    ("upstream_model", "upstream_model", Kind::Text),
    ("upstream", "upstream", Kind::Text),
    ("credential", "credential", Kind::Text),
    ("end", "end_reason", Kind::Text),
    ("status", "status", Kind::Count),
    ("response_id", "response_id", Kind::Text),
    ("input_tokens", "input_tokens", Kind::Count),
    ("cached_tokens", "cached_tokens", Kind::Count),
    ("output_tokens", "output_tokens", Kind::Count),
    ("reasoning_tokens", "reasoning_tokens", Kind::Count),
    ("total_tokens", "total_tokens", Kind::Count),
    ("reserved_tokens", "reserved_tokens", Kind::Count),
    ("currency", "currency", Kind::Text),
    ("price_input", "price_input", Kind::Amount),
    ("price_cached", "price_cached", Kind::Amount),
    ("price_output", "price_output", Kind::Amount),
    ("price_reasoning", "price_reasoning", Kind::Amount),
    ("price_call", "price_call", Kind::Amount),
    ("reserved_cost", "reserved_cost", Kind::Amount),
    ("cost", "cost", Kind::Amount),
    ("estimated", "estimated", Kind::Flag),
    ("bytes_up", "bytes_up", Kind::Count),
    ("bytes_down", "bytes_down", Kind::Count),
    ("attempts", "attempts", Kind::Count),
    ("first_byte_ms", "first_byte_ms", Kind::Count),
    ("took_ms", "took_ms", Kind::Count),
    ("cache_write_tokens", "cache_write_tokens", Kind::Count),
    ("cache_write_1h_tokens", "cache_write_1h_tokens", Kind::Count),
    ("input_audio_tokens", "input_audio_tokens", Kind::Count),
    ("input_image_tokens", "input_image_tokens", Kind::Count),
    ("output_audio_tokens", "output_audio_tokens", Kind::Count),
    ("output_image_tokens", "output_image_tokens", Kind::Count),
    ("image_tool_input_tokens", "image_tool_input_tokens", Kind::Count),
    ("image_tool_output_tokens", "image_tool_output_tokens", Kind::Count),
    ("web_searches", "web_searches", Kind::Count),
    ("audio_ms", "audio_ms", Kind::Count),
    ("service_tier", "service_tier", Kind::Text),
    ("unpriced_parts", "unpriced_parts", Kind::Text),
    ("price_more", "price_more", Kind::Text),
    ("cny_per_usd", "cny_per_usd", Kind::Amount),
    ("cost_exchanged", "cost_exchanged", Kind::Amount),
    ("told_cost", "told_cost", Kind::Amount),
];

/// The value of one column in one exported ledger row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    /// No value.
    None,
    /// A name, or an id.
    Text(String),
    /// A count.
    Count(u64),
    /// Milliseconds since 1970-01-01 UTC.
    Time(u64),
    /// Nano-units of the row's currency.
    Amount(u64),
    /// Yes or no.
    Flag(bool),
}

/// One exported ledger row, with the values of all exported columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqlRow {
    time: i64,
    id: String,
    /// In the order of [`columns`].
    pub cells: Vec<Cell>,
}

impl SqlRow {
    /// Returns the value of this ledger row in the column with this name; [`Cell::None`] for an unknown name.
    pub fn cell(&self, name: &str) -> &Cell {
        let cell = columns().zip(&self.cells).find(|(column, _)| *column == name);
        cell.map_or(&Cell::None, |(_, cell)| cell)
    }
}

/// Returns the names of the columns with which ledger rows are exported.
pub fn columns() -> impl Iterator<Item = &'static str> {
    COLUMNS.iter().map(|(name, _, _)| *name)
}

impl Database {
    /// Returns the next page of finished ledger rows, the oldest first; an empty page after the last row. The requests began at `since`
    /// or later and before `until` (milliseconds since 1970-01-01 UTC). `after` is the last row of the previous page.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn page(&mut self, since: u64, until: u64, after: Option<&SqlRow>) -> Result<Vec<SqlRow>, DatabaseError> {
        self.page_of(&UsageQuery { since, until, ..UsageQuery::default() }, after).await
    }

    /// Returns the next page of finished ledger rows that match this query (times, key and model), the oldest first. `after` is the last
    /// row of the previous page.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn page_of(
        &mut self,
        asked: &UsageQuery<'_>,
        after: Option<&SqlRow>,
    ) -> Result<Vec<SqlRow>, DatabaseError> {
        let query = query(&asked.filter(5));
        // The empty id is the smallest of all.
        let (time, id) = after.map_or((integer(asked.since), ""), |after| (after.time, &after.id));
        within(LONG, async {
            on!(self, |connection, Db| {
                let mut query = sqlx::query::<Db>(AssertSqlSafe(query)).bind(time).bind(integer(asked.until));
                query = query.bind(id).bind(PAGE);
                for name in [asked.key, asked.model].into_iter().flatten() {
                    query = query.bind(name);
                }
                let rows = query.fetch_all(connection).await?;
                let stored = |row: &<Db as sqlx::Database>::Row| -> Result<SqlRow, sqlx::Error> {
                    let cell = |(nth, (_, _, kind)): (usize, &(&str, &str, Kind))| {
                        if *kind == Kind::Text {
                            return Ok(row.try_get::<Option<String>, _>(nth)?.map_or(Cell::None, Cell::Text));
                        }
                        let number = row.try_get::<Option<i64>, _>(nth)?;
                        Ok(number.map_or(Cell::None, |number| kind.cell(u64::try_from(number).unwrap_or_default())))
                    };
                    let cells = COLUMNS.iter().enumerate().map(cell).collect::<Result<_, sqlx::Error>>()?;
                    Ok(SqlRow { id: row.try_get(0)?, time: row.try_get(1)?, cells })
                };
                Ok(rows.iter().map(stored).collect::<Result<_, _>>()?)
            })
        })
        .await
    }
}

impl Kind {
    fn cell(self, number: u64) -> Cell {
        match self {
            Self::Text | Self::Count => Cell::Count(number),
            Self::Time => Cell::Time(number),
            Self::Amount => Cell::Amount(number),
            Self::Flag => Cell::Flag(number != 0),
        }
    }
}

/// The SQL has fixed words only.
fn query(filter: &str) -> String {
    let names: Vec<_> = COLUMNS.iter().map(|(_, name, _)| *name).collect();
    format!(
        "SELECT {} FROM ledger WHERE time_ms >= $1 AND time_ms < $2 AND (time_ms > $1 OR id > $3) AND state <> 'open'{filter} \
         ORDER BY time_ms, id LIMIT $4",
        names.join(", ")
    )
}
