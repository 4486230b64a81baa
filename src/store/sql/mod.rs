//! What is kept in SQL: in SQLite, one file in the data folder, or in PostgreSQL, which several replicas share. Never used on
//! a worker's thread.
//!
//! There is one text of each statement for both. `on!` runs the same lines over either connection; what differs between them
//! is in `dialect`.

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

/// A database that takes longer is taken for lost: it may be paused, and then says nothing for ever. A batch takes
/// milliseconds.
const BATCH: Duration = Duration::from_secs(5);
/// The same for what looks at many rows.
const LONG: Duration = Duration::from_secs(60);
/// The same for making tables: a new index over ten million rows takes minutes.
const MIGRATING: Duration = Duration::from_secs(1800);

/// A connection to PostgreSQL is made again after this, so that it follows a name or an address that leads to another server now,
/// also where the old one works on.
const OLD: Duration = Duration::from_secs(300);

/// The lock of PostgreSQL that is held while tables are made. A number that nobody else uses: "tidegate" in ASCII.
const MIGRATES: i64 = i64::from_be_bytes(*b"tidegate");

/// Which database.
#[derive(Clone, Debug)]
pub enum DatabaseLocation {
    /// SQLite, in this file.
    Sqlite(PathBuf),
    /// PostgreSQL.
    Postgres {
        /// `postgres://user@host:5432/database`.
        url: Arc<str>,
        /// Of that user.
        password: Option<SecretString>,
    },
}

impl DatabaseLocation {
    /// The one of a configuration.
    pub fn of(config: &Config) -> Self {
        match &config.store {
            Store::Sqlite => Self::Sqlite(config.server.data_dir.join(FILE)),
            Store::Postgres { url, password } => Self::Postgres { url: Arc::clone(url), password: password.clone() },
        }
    }
}

impl fmt::Display for DatabaseLocation {
    /// For people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => path.display().fmt(f),
            Self::Postgres { url, .. } => f.write_str(url),
        }
    }
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// In use.
    #[error(transparent)]
    Sql(#[from] sqlx::Error),
    /// While its tables were made.
    #[error("its tables cannot be made: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// The server takes no changes.
    #[error("it is read-only, as a standby or an old primary is: `[store] url` has to lead to the primary")]
    ReadOnly,
    /// SQLite's file was deleted, or another one was put in its place.
    #[error(
        "the file {0} was deleted or replaced while the gateway runs: put it back, or start the gateway again to begin with what \
         is there"
    )]
    Gone(PathBuf),
    /// It says nothing.
    #[error("it did not answer within {0:?}")]
    Silent(Duration),
}

/// The database, open for one user.
#[derive(Debug)]
pub struct Database {
    connection: Connection,
    /// Whether a pooler of connections is between us and the server, so that a connection is ours only inside of a transaction.
    pooled: bool,
    opened: Instant,
    /// SQLite's file, and which one it was when it was opened.
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
    /// Whether SQLite is being used by somebody else who does not let it be waited for.
    fn is_busy(&self) -> bool {
        match self {
            Self::Sql(error) | Self::Migration(sqlx::migrate::MigrateError::Execute(error)) => is_busy(error),
            _ => false,
        }
    }

    /// Whether the database works, and does not take what a row holds, now and whenever it is tried again.
    pub fn is_about_data(&self) -> bool {
        let error = match self {
            Self::Sql(sqlx::Error::Database(error)) => error,
            Self::Sql(sqlx::Error::Encode(_)) => return true,
            _ => return false,
        };
        let code = error.code().unwrap_or_default();
        if error.try_downcast_ref::<SqliteError>().is_some() {
            // The lowest byte tells the kind: SQLITE_TOOBIG, SQLITE_CONSTRAINT, SQLITE_MISMATCH.
            return code.parse().is_ok_and(|code: u32| matches!(code & 0xff, 18..=20));
        }
        // Data exceptions, violations of constraints, and what is too long for an index.
        ["22", "23", "54000"].iter().any(|class| code.starts_with(class))
    }
}

/// Whether SQLite is being used by somebody else who does not let it be waited for.
pub(super) fn is_busy(error: &sqlx::Error) -> bool {
    // SQLITE_BUSY and SQLITE_BUSY_RECOVERY.
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| matches!(&*code, "5" | "261"))
}

impl Database {
    /// Opens it, makes SQLite's file where it is missing, and brings the tables up to date.
    ///
    /// # Errors
    /// When that cannot be done.
    pub async fn open(place: &DatabaseLocation) -> Result<Self, DatabaseError> {
        loop {
            let opened = match dialect::connect(place, true).await.map(Self::from) {
                Ok(mut database) => within(MIGRATING, database.migrate()).await.map(|()| database.of(place)),
                Err(error) => Err(error),
            };
            match opened {
                // Somebody makes SQLite's file at this very moment, which takes milliseconds.
                Err(error) if error.is_busy() => tokio::time::sleep(BUSY_FOR).await,
                opened => return opened,
            }
        }
    }

    /// Opens it as it is, to be read beside those who write.
    ///
    /// # Errors
    /// When it is not there.
    pub async fn open_to_read(place: &DatabaseLocation) -> Result<Self, DatabaseError> {
        dialect::connect(place, false).await.map(Self::from)
    }

    /// Whether the connection should be made again, as its address may lead to another server now. A file is always the same.
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

    /// Opens it again, and makes no file: that of SQLite was there before, and what was in it must not be taken for gone.
    ///
    /// # Errors
    /// When that cannot be done.
    pub async fn reopen(place: &DatabaseLocation) -> Result<Self, DatabaseError> {
        match place {
            // An empty file is what another process makes where there is none. A copy that was put back has something in it.
            DatabaseLocation::Sqlite(path) if std::fs::metadata(path).is_ok_and(|file| file.len() > 0) => {
                Self::open(place).await
            }
            DatabaseLocation::Sqlite(path) => Err(DatabaseError::Gone(path.clone())),
            DatabaseLocation::Postgres { .. } => Self::open(place).await,
        }
    }

    /// Looks whether SQLite's file is still the one that is open. What is written to a deleted file is lost with the process.
    ///
    /// # Errors
    /// When it is not.
    pub fn look(&self) -> Result<(), DatabaseError> {
        match &self.file {
            Some((path, opened)) if files::identity(path) != *opened => Err(DatabaseError::Gone(path.clone())),
            _ => Ok(()),
        }
    }

    async fn migrate(&mut self) -> Result<(), DatabaseError> {
        match &mut self.connection {
            // Not sqlx's own lock, which a session holds: behind a pooler, another session would be asked to give it back.
            Connection::Postgres(connection) => {
                let mut held = dialect::WorkConnection::take(connection, self.pooled).await?;
                let mut alone = held.connection().begin().await?;
                sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(MIGRATES).execute(&mut *alone).await?;
                dialect::POSTGRES.migrator().run_direct(None, &mut *alone, false).await?;
                alone.commit().await?;
                held.end(Ok(())).await?;
            }
            // SQLite has none, but one transaction around all of it keeps those who open it at the same moment waiting.
            Connection::Sqlite(connection) => {
                let mut alone = connection.begin_with("BEGIN IMMEDIATE").await?;
                dialect::SQLITE.migrator().run_direct(None, &mut *alone, false).await?;
                alone.commit().await?;
            }
        }
        Ok(())
    }

    /// Closes it in order.
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

/// Waits no longer than it may take. A connection on which something did not come to its end is of no use any more.
async fn within<T>(limit: Duration, work: impl Future<Output = Result<T, DatabaseError>>) -> Result<T, DatabaseError> {
    timeout(limit, work).await.unwrap_or(Err(DatabaseError::Silent(limit)))
}

/// The largest count that is kept: nobody uses a trillion tokens, and sums of such rows still fit.
const LARGEST: u64 = 1_000_000_000_000;

/// The pause before another try.
pub(super) const BUSY_FOR: Duration = Duration::from_millis(20);

/// A count for SQL.
fn count(number: u64) -> i64 {
    i64::try_from(number.min(LARGEST)).unwrap_or(i64::MAX)
}

/// A time or an amount for SQL.
fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
