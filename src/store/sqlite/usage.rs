//! Sums over the ledger, read beside the process that writes it.

use std::path::Path;

use sqlx::{AssertSqlSafe, Connection, Row as _, SqliteConnection, sqlite::SqliteConnectOptions};

use super::{BUSY, DatabaseError, integer};

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
            Self::Day => "day",
        }
    }

    const fn expression(self) -> &'static str {
        match self {
            Self::Key => "key_name",
            Self::Group => "group_name",
            Self::Model => "model",
            Self::Upstream => "upstream",
            Self::Day => "date(time_ms / 1000, 'unixepoch')",
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
}

/// Sums up what began at `since` (milliseconds since 1970-01-01 UTC) or later.
///
/// # Errors
/// When the database cannot be read.
pub async fn usage(path: &Path, by: By, since: u64) -> Result<Vec<Total>, DatabaseError> {
    let options = SqliteConnectOptions::new().filename(path).read_only(true).busy_timeout(BUSY);
    let mut connection = SqliteConnection::connect_with(&options).await?;
    let name = by.expression();
    let sum = |column: &str| format!("CAST(total(coalesce({column}, 0)) AS INTEGER)");
    let state = |state: &str| format!("count(*) FILTER (WHERE state = '{state}')");
    // Made of fixed words only.
    let query = format!(
        "SELECT {name}, count(*), {}, {}, {}, {}, {}, {}, {}, {} FROM ledger WHERE time_ms >= $1 AND state <> 'open' \
         GROUP BY 1 ORDER BY 1",
        sum("input_tokens"),
        sum("cached_tokens"),
        sum("output_tokens"),
        sum("reasoning_tokens"),
        state("exact"),
        state("partial"),
        state("unknown"),
        state("interrupted"),
    );
    let rows = sqlx::query(AssertSqlSafe(query)).bind(integer(since)).fetch_all(&mut connection).await?;
    connection.close().await?;
    rows.iter()
        .map(|row| {
            let number = |index: usize| row.try_get::<i64, _>(index).map(|number| u64::try_from(number).unwrap_or(0));
            Ok(Total {
                name: row.try_get(0)?,
                requests: number(1)?,
                input: number(2)?,
                cached: number(3)?,
                output: number(4)?,
                reasoning: number(5)?,
                exact: number(6)?,
                partial: number(7)?,
                unknown: number(8)?,
                interrupted: number(9)?,
            })
        })
        .collect()
}
