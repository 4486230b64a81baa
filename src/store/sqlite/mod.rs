//! The ledger in SQLite: one file in the data folder. Never used on a worker's thread.

mod usage;

use std::{fs::OpenOptions, path::Path, time::Duration};

use sqlx::{
    Connection, QueryBuilder, Row as _, SqlSafeStr, Sqlite, SqliteConnection,
    migrate::{Migration, MigrationType, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use crate::domain::ledger::{Row, State};

pub use usage::{By, Total, usage};

/// Its name in the data folder.
pub const FILE: &str = "ledger.db";

/// Others may read for a long time, and write (`VACUUM`) for a short one.
const BUSY: Duration = Duration::from_secs(5);

/// Rows of one statement: of 23 values each, SQLite takes 32,766.
const ROWS: usize = 100;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// In use.
    #[error(transparent)]
    Sql(#[from] sqlx::Error),
    /// While its tables were made.
    #[error("its tables cannot be made: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
}

/// The database, open for writing. There is one of it.
#[derive(Debug)]
pub struct Database {
    connection: SqliteConnection,
}

impl Database {
    /// Opens the file, makes it where it is missing, and brings its tables up to date.
    ///
    /// # Errors
    /// When that cannot be done.
    pub async fn open(path: &Path) -> Result<Self, DatabaseError> {
        make_private(path).map_err(sqlx::Error::Io)?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            // What is in it may be deleted from the journal: it has to survive a loss of power.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY);
        let mut connection = SqliteConnection::connect_with(&options).await?;
        let sql = include_str!("0001_ledger.sql").into_sql_str();
        let migrations = vec![Migration::new(1, "ledger".into(), MigrationType::Simple, sql, false)];
        Migrator::with_migrations(migrations).run_direct(None, &mut connection, false).await?;
        Ok(Self { connection })
    }

    /// Writes rows, all or none. Returned is how many there are now of each state that were not there like this before:
    /// a row that is known already changes nothing, one that was open gives way to one that is over.
    ///
    /// # Errors
    /// When they cannot be written.
    pub async fn store(&mut self, rows: &[Row<'_>]) -> Result<Vec<(State, u64)>, DatabaseError> {
        let mut changed = Vec::new();
        let mut transaction = self.connection.begin().await?;
        for rows in rows.chunks(ROWS) {
            for row in insert(rows).build().fetch_all(&mut *transaction).await? {
                let state: String = row.try_get(0)?;
                changed.extend(State::ALL.into_iter().find(|known| known.name() == state));
            }
        }
        transaction.commit().await?;
        let count = |state| (state, changed.iter().filter(|changed| **changed == state).count() as u64);
        Ok(State::ALL.map(count).into_iter().filter(|(_, count)| *count > 0).collect())
    }

    /// What is open was so when the process before this one ended: returned is how much that was.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn interrupt(&mut self) -> Result<u64, DatabaseError> {
        let update = sqlx::query("UPDATE ledger SET state = 'interrupted' WHERE state = 'open'");
        Ok(update.execute(&mut self.connection).await?.rows_affected())
    }

    /// Closes it in order.
    pub async fn close(self) {
        if let Err(error) = self.connection.close().await {
            tracing::warn!(%error, "the ledger's database was not closed in order");
        }
    }
}

/// Makes the file its owner's; those that SQLite puts beside it are like it.
fn make_private(path: &Path) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}

const INSERT: &str = "INSERT INTO ledger (id, time_ms, state, key_name, group_name, model, upstream_model, upstream, \
     credential, end_reason, status, input_tokens, cached_tokens, output_tokens, reasoning_tokens, total_tokens, \
     reserved_tokens, bytes_up, bytes_down, attempts, first_byte_ms, took_ms, response_id) ";

/// Nothing that is over is ever changed. What was taken for interrupted gives way to what is known after all.
const CONFLICT: &str = " ON CONFLICT (id) DO UPDATE SET state = excluded.state, upstream_model = excluded.upstream_model, \
     upstream = excluded.upstream, credential = excluded.credential, end_reason = excluded.end_reason, \
     status = excluded.status, input_tokens = excluded.input_tokens, cached_tokens = excluded.cached_tokens, \
     output_tokens = excluded.output_tokens, reasoning_tokens = excluded.reasoning_tokens, \
     total_tokens = excluded.total_tokens, bytes_down = excluded.bytes_down, attempts = excluded.attempts, \
     first_byte_ms = excluded.first_byte_ms, took_ms = excluded.took_ms, response_id = excluded.response_id \
     WHERE ledger.state IN ('open', 'interrupted') AND excluded.state <> 'open' AND excluded.state <> ledger.state \
     RETURNING state";

fn insert(rows: &[Row<'_>]) -> QueryBuilder<Sqlite> {
    let mut query = QueryBuilder::new(INSERT);
    query.push_values(rows, |mut values, row| {
        values.push_bind(row.id.to_string()).push_bind(integer(row.id.millis())).push_bind(row.state.name());
        for text in [row.key, row.group, row.model, row.upstream_model, row.upstream, row.credential, row.end] {
            values.push_bind(text.map(str::to_owned));
        }
        let usage = row.usage;
        for number in [row.status, usage.input, usage.cached, usage.output, usage.reasoning, usage.total, row.reserved]
        {
            values.push_bind(number.map(integer));
        }
        for number in [row.bytes_up, row.bytes_down, row.attempts] {
            values.push_bind(integer(number));
        }
        values.push_bind(row.first_byte_ms.map(integer)).push_bind(integer(row.took_ms));
        values.push_bind(row.response_id.map(str::to_owned));
    });
    query.push(CONFLICT);
    query
}

/// SQL has no larger ones. Nobody uses so many tokens.
fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{id::RequestId, usage::Usage};

    fn row(id: u8, state: State) -> Row<'static> {
        let known = !matches!(state, State::Open | State::Interrupted);
        Row {
            id: RequestId::from_bytes([id; 16]),
            state,
            key: Some("team"),
            group: None,
            model: Some("smart"),
            upstream_model: Some("real"),
            upstream: Some("up"),
            credential: known.then_some("UP_KEY"),
            end: known.then_some("completed"),
            response_id: known.then_some("resp_1"),
            status: known.then_some(200),
            usage: if known { Usage { input: Some(3), output: Some(5), ..Usage::default() } } else { Usage::default() },
            reserved: None,
            price: None,
            reserved_cost: None,
            cost: None,
            estimated: false,
            bytes_up: 10,
            bytes_down: u64::MAX,
            attempts: u64::from(known),
            first_byte_ms: None,
            took_ms: 1,
        }
    }

    #[tokio::test]
    async fn a_row_is_written_once_and_only_an_open_one_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let mut database = Database::open(&path).await.unwrap();
        let (open, exact, partial) = (row(1, State::Open), row(1, State::Exact), row(1, State::Partial));
        for (given, changed) in [
            (vec![open], vec![(State::Open, 1)]),
            (vec![open], vec![]),
            (vec![exact, row(2, State::Open)], vec![(State::Open, 1), (State::Exact, 1)]),
            (vec![exact, open, partial], vec![]),
        ] {
            assert_eq!(database.store(&given).await.unwrap(), changed);
        }
        assert_eq!(database.interrupt().await.unwrap(), 1);
        assert_eq!(database.interrupt().await.unwrap(), 0);
        // It ended after all, as a part of the journal that was found later says.
        assert_eq!(database.store(&[row(2, State::Interrupted)]).await.unwrap(), []);
        assert_eq!(database.store(&[row(2, State::Unknown)]).await.unwrap(), [(State::Unknown, 1)]);
        #[cfg(unix)]
        for file in std::fs::read_dir(folder.path()).unwrap() {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(file.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
        database.close().await;
        // What is there is taken as it is.
        let mut database = Database::open(&path).await.unwrap();
        let many: Vec<_> = (10..=250).map(|id| row(id, State::Exact)).collect();
        assert_eq!(database.store(&many).await.unwrap(), [(State::Exact, 241)]);
        assert_eq!(database.store(&many).await.unwrap(), []);
        let totals = usage(&path, By::Key, 0).await.unwrap();
        assert_eq!((totals.len(), totals[0].requests, totals[0].input, totals[0].exact), (1, 243, 243 * 3, 242));
    }
}
