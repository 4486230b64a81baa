//! The SQL store: SQLite in one file of the data folder, or PostgreSQL, which several replicas share. Never used on a worker's
//! thread.
//!
//! Both databases share the text of each statement. `on!` runs the same lines over either connection. `dialect` has the
//! differences.

mod dialect;
mod keep;
mod keys;
mod ledger;
mod pending;
mod rows;
mod statement;
mod usage;

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use secrecy::SecretString;
use sqlx::{Connection as _, PgConnection, SqliteConnection, sqlite::SqliteError};
use tokio::time::{Instant, timeout};

use super::files;
use crate::config::{Config, Store};

pub use keys::{AuditEntry, ChangeAuthor, KeyChange, KeyError, Revision};
pub use pending::{PendingRow, SettledRow};
pub use rows::{Cell, SqlRow, columns};
pub use statement::KeyStatement;
pub use usage::{GroupBy, UsageQuery, UsageTotal};

/// SQLite's file in the data folder.
pub const FILE: &str = "ledger.db";

/// The time limit of one batch, which normally takes milliseconds. A database that takes longer counts as lost: a paused server
/// never answers.
const BATCH: Duration = Duration::from_secs(5);
/// The time limit of work over many rows.
const LONG: Duration = Duration::from_secs(60);
/// The time limit of a migration: a new index over ten million rows takes minutes.
const MIGRATING: Duration = Duration::from_secs(1800);

/// The greatest age of a connection to PostgreSQL. A new connection follows a name or address that leads to another server now,
/// even while the old server still works.
const OLD: Duration = Duration::from_secs(300);

/// The PostgreSQL advisory lock of migrations. Its number is "tidegate" in ASCII, which no other program uses.
const MIGRATES: i64 = i64::from_be_bytes(*b"tidegate");

/// The location of the database.
#[derive(Clone, Debug)]
pub enum DatabaseLocation {
    /// SQLite, in this file.
    Sqlite(PathBuf),
    /// PostgreSQL.
    Postgres {
        /// `postgres://user@host:5432/database`.
        url: Arc<str>,
        /// The password of that user.
        password: Option<SecretString>,
    },
}

impl DatabaseLocation {
    /// Returns the location that a configuration names.
    pub fn of(config: &Config) -> Self {
        match &config.store {
            Store::Sqlite => Self::Sqlite(config.server.data_dir.join(FILE)),
            Store::Postgres { url, password } => Self::Postgres { url: Arc::clone(url), password: password.clone() },
        }
    }
}

impl fmt::Display for DatabaseLocation {
    /// Writes the location for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => path.display().fmt(f),
            Self::Postgres { url, .. } => f.write_str(url),
        }
    }
}

/// Why the database failed.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// A statement or the connection failed.
    #[error(transparent)]
    Sql(#[from] sqlx::Error),
    /// A migration failed.
    #[error("its tables cannot be made: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// The server refuses changes.
    #[error("it is read-only, as a standby or an old primary is: `[store] url` has to lead to the primary")]
    ReadOnly,
    /// SQLite's file was deleted or replaced.
    #[error(
        "the file {0} was deleted or replaced while the gateway runs: put it back, or start the gateway again to begin with what \
         is there"
    )]
    Gone(PathBuf),
    /// The database did not answer in time.
    #[error("it did not answer within {0:?}")]
    Silent(Duration),
}

/// An open database, for one user.
#[derive(Debug)]
pub struct Database {
    connection: Connection,
    /// Whether a connection pooler is between the gateway and the server. Then the connection stays the same only inside a
    /// transaction.
    pooled: bool,
    opened: Instant,
    /// SQLite's file, and its identity when it was opened.
    file: Option<(PathBuf, Option<(u64, u64)>)>,
    texts: ledger::Texts,
}

impl From<dialect::Connected> for Database {
    fn from(dialect::Connected { connection, pooled }: dialect::Connected) -> Self {
        Self { connection, pooled, opened: Instant::now(), file: None, texts: ledger::Texts::default() }
    }
}

#[derive(Debug)]
enum Connection {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

/// Runs the same lines over either connection. `$Db` is the database's type in them.
macro_rules! on {
    ($database:expr, |$connection:ident, $Db:ident| $lines:expr) => {{
        let pooled = $database.pooled;
        match &mut $database.connection {
            crate::store::sql::Connection::Sqlite($connection) => {
                #[allow(dead_code, reason = "not every statement names it")]
                type $Db = sqlx::Sqlite;
                $lines
            }
            crate::store::sql::Connection::Postgres(connection) => {
                #[allow(dead_code, reason = "not every statement names it")]
                type $Db = sqlx::Postgres;
                let mut held = crate::store::sql::dialect::WorkConnection::take(connection, pooled).await?;
                let done = async {
                    let $connection = held.connection();
                    $lines
                };
                let done = done.await;
                held.end(done).await
            }
        }
    }};
}
use on;

impl DatabaseError {
    /// Whether another process uses SQLite in a way that SQLite's own timeout does not cover.
    fn is_busy(&self) -> bool {
        match self {
            Self::Sql(error) | Self::Migration(sqlx::migrate::MigrateError::Execute(error)) => is_busy(error),
            _ => false,
        }
    }

    /// Whether the database works but refuses the data of a row, now and at every further try.
    pub fn is_about_data(&self) -> bool {
        let error = match self {
            Self::Sql(sqlx::Error::Database(error)) => error,
            Self::Sql(sqlx::Error::Encode(_)) => return true,
            _ => return false,
        };
        let code = error.code().unwrap_or_default();
        if error.try_downcast_ref::<SqliteError>().is_some() {
            // The lowest byte is the kind: SQLITE_TOOBIG, SQLITE_CONSTRAINT, SQLITE_MISMATCH.
            return code.parse().is_ok_and(|code: u32| matches!(code & 0xff, 18..=20));
        }
        // Data exceptions, constraint violations, and values too long for an index.
        ["22", "23", "54000"].iter().any(|class| code.starts_with(class))
    }
}

/// Whether another process uses SQLite in a way that SQLite's own timeout does not cover.
pub(super) fn is_busy(error: &sqlx::Error) -> bool {
    // SQLITE_BUSY and SQLITE_BUSY_RECOVERY.
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| matches!(&*code, "5" | "261"))
}

impl Database {
    /// Opens the database, creates a missing SQLite file, and runs the migrations.
    ///
    /// # Errors
    /// When one of these steps fails.
    pub async fn open(place: &DatabaseLocation) -> Result<Self, DatabaseError> {
        loop {
            let opened = match dialect::connect(place, true).await.map(Self::from) {
                Ok(mut database) => within(MIGRATING, database.migrate()).await.map(|()| database.of(place)),
                Err(error) => Err(error),
            };
            match opened {
                // Another process creates SQLite's file at this moment, which takes milliseconds.
                Err(error) if error.is_busy() => tokio::time::sleep(BUSY_FOR).await,
                opened => return opened,
            }
        }
    }

    /// Opens the database read-only, while other processes may write.
    ///
    /// # Errors
    /// When the database does not exist or does not answer.
    pub async fn open_to_read(place: &DatabaseLocation) -> Result<Self, DatabaseError> {
        dialect::connect(place, false).await.map(Self::from)
    }

    /// Whether the connection should be made again, because its address may lead to another server now. A file never needs that.
    pub fn is_old(&self, now: Instant) -> bool {
        matches!(self.connection, Connection::Postgres(_)) && now.saturating_duration_since(self.opened) >= OLD
    }

    fn of(self, place: &DatabaseLocation) -> Self {
        let file = match place {
            DatabaseLocation::Sqlite(path) => Some((path.clone(), files::identity(path))),
            DatabaseLocation::Postgres { .. } => None,
        };
        Self { file, ..self }
    }

    fn dialect(&self) -> dialect::SqlDialect {
        match self.connection {
            Connection::Sqlite(_) => dialect::SQLITE,
            Connection::Postgres(_) => dialect::POSTGRES,
        }
    }

    /// Opens the database again, but creates no file: SQLite's file existed before, and its loss must not go unnoticed.
    ///
    /// # Errors
    /// When the file is gone or the database cannot be opened.
    pub async fn reopen(place: &DatabaseLocation) -> Result<Self, DatabaseError> {
        match place {
            // Where no file exists, another process may create an empty one. A restored copy is never empty.
            DatabaseLocation::Sqlite(path) if std::fs::metadata(path).is_ok_and(|file| file.len() > 0) => {
                Self::open(place).await
            }
            DatabaseLocation::Sqlite(path) => Err(DatabaseError::Gone(path.clone())),
            DatabaseLocation::Postgres { .. } => Self::open(place).await,
        }
    }

    /// Checks that SQLite's file is still the open one. Data written to a deleted file is lost with the process.
    ///
    /// # Errors
    /// When the file was deleted or replaced.
    pub fn look(&self) -> Result<(), DatabaseError> {
        match &self.file {
            Some((path, opened)) if files::identity(path) != *opened => Err(DatabaseError::Gone(path.clone())),
            _ => Ok(()),
        }
    }

    async fn migrate(&mut self) -> Result<(), DatabaseError> {
        match &mut self.connection {
            // sqlx's own lock belongs to a session. Behind a pooler, another session would have to release it.
            Connection::Postgres(connection) => {
                let mut held = dialect::WorkConnection::take(connection, self.pooled).await?;
                let mut alone = held.connection().begin().await?;
                sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(MIGRATES).execute(&mut *alone).await?;
                dialect::POSTGRES.migrator().run_direct(None, &mut *alone, false).await?;
                alone.commit().await?;
                held.end(Ok(())).await?;
            }
            // SQLite has no such lock. One transaction around all migrations makes other processes that open the file wait.
            Connection::Sqlite(connection) => {
                let mut alone = connection.begin_with("BEGIN IMMEDIATE").await?;
                dialect::SQLITE.migrator().run_direct(None, &mut *alone, false).await?;
                alone.commit().await?;
            }
        }
        Ok(())
    }

    /// Closes the database cleanly.
    pub async fn close(self) {
        let closing = async {
            match self.connection {
                Connection::Sqlite(connection) => connection.close().await,
                Connection::Postgres(connection) => connection.close().await,
            }
        };
        match timeout(Duration::from_secs(1), closing).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the database connection was not closed cleanly"),
            Err(_) => tracing::warn!("the database connection was not closed in time"),
        }
    }
}

/// Runs work with a time limit. A connection whose work did not finish cannot be used any more.
async fn within<T>(limit: Duration, work: impl Future<Output = Result<T, DatabaseError>>) -> Result<T, DatabaseError> {
    timeout(limit, work).await.unwrap_or(Err(DatabaseError::Silent(limit)))
}

/// The largest stored count. No request uses a trillion tokens, and sums of such rows still fit.
const LARGEST: u64 = 1_000_000_000_000;

/// The pause before the next try.
pub(super) const BUSY_FOR: Duration = Duration::from_millis(20);

/// Returns a count for SQL.
fn count(number: u64) -> i64 {
    i64::try_from(number.min(LARGEST)).unwrap_or(i64::MAX)
}

/// Returns a time or an amount for SQL.
fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
