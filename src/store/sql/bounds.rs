//! Bounds of work on the database: time limits, sizes of statements, and the largest numbers.

use std::time::Duration;

use tokio::time::timeout;

use super::error::DatabaseError;

/// The time limit of one batch, which normally takes milliseconds. A database that takes longer counts as lost: a paused server
/// never answers.
pub(super) const BATCH: Duration = Duration::from_secs(5);
/// The time limit of work over many rows.
pub(super) const LONG: Duration = Duration::from_secs(60);

/// The pause before the next try.
pub(in crate::store) const BUSY_FOR: Duration = Duration::from_millis(20);

/// The most rows in one statement. A row has 52 values; SQLite allows 32,766 values and PostgreSQL 65,535. Large statements save
/// round trips to a slow database.
pub(super) const ROWS: usize = 900;

/// PostgreSQL does not keep statements with more rows prepared: hardly two are alike, and each costs the server megabytes.
pub(super) const KEPT_ROWS: usize = 10;

/// Runs work with a time limit. A connection whose work did not finish cannot be used any more.
pub(super) async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, DatabaseError>>,
) -> Result<T, DatabaseError> {
    timeout(limit, work).await.unwrap_or(Err(DatabaseError::Silent(limit)))
}

/// The largest stored count. No request uses a trillion tokens, and sums of such rows still fit.
const LARGEST: u64 = 1_000_000_000_000;

/// Returns a count for SQL.
pub(super) fn count(number: u64) -> i64 {
    i64::try_from(number.min(LARGEST)).unwrap_or(i64::MAX)
}

/// Returns a time or an amount for SQL.
pub(super) fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
