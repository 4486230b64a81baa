//! What is kept in SQL: in SQLite, one file in the data folder, or in PostgreSQL, which several replicas share. Never used on
//! a worker's thread.
//!
//! There is one text of each statement for both. `on!` runs the same lines over either connection; what differs between them
//! is in `dialect`.

mod dialect;
mod keys;
mod ledger;
mod pending;
mod rows;
mod statement;
mod usage;

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use secrecy::SecretString;
use sqlx::{Connection as _, PgConnection, SqliteConnection, sqlite::SqliteError};
use tokio::time::timeout;

use crate::config::{Config, Store};

pub use keys::{Author, Change, Entry, KeyError};
pub use pending::{PendingRow, Settled};
pub use rows::{Cell, Stored, columns};
pub use statement::Statement;
pub use usage::{By, Total};

/// SQLite's file in the data folder.
pub const FILE: &str = "ledger.db";

/// A database that takes longer is taken for lost: it may be paused, and then says nothing for ever. A batch takes
/// milliseconds.
const BATCH: Duration = Duration::from_secs(5);
/// The same for what looks at many rows, or makes tables.
const LONG: Duration = Duration::from_secs(60);

/// Which database.
#[derive(Clone, Debug)]
pub enum Place {
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

impl Place {
    /// The one of a configuration.
    pub fn of(config: &Config) -> Self {
        match &config.store {
            Store::Sqlite => Self::Sqlite(config.server.data_dir.join(FILE)),
            Store::Postgres { url, password } => Self::Postgres { url: Arc::clone(url), password: password.clone() },
        }
    }
}

impl fmt::Display for Place {
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
    /// It says nothing.
    #[error("it did not answer within {0:?}")]
    Silent(Duration),
}

/// The database, open for one user.
#[derive(Debug)]
pub struct Database {
    connection: Connection,
    texts: ledger::Texts,
}

impl From<Connection> for Database {
    fn from(connection: Connection) -> Self {
        Self { connection, texts: ledger::Texts::default() }
    }
}

#[derive(Debug)]
enum Connection {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

/// Runs the same lines over either connection. `$Db` is the database's type in them.
macro_rules! on {
    ($database:expr, |$connection:ident, $Db:ident| $lines:expr) => {
        match &mut $database.connection {
            crate::store::sql::Connection::Sqlite($connection) => {
                #[allow(dead_code, reason = "not every statement names it")]
                type $Db = sqlx::Sqlite;
                $lines
            }
            crate::store::sql::Connection::Postgres($connection) => {
                #[allow(dead_code, reason = "not every statement names it")]
                type $Db = sqlx::Postgres;
                $lines
            }
        }
    };
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
    pub async fn open(place: &Place) -> Result<Self, DatabaseError> {
        loop {
            let connecting = async { Ok(Self::from(dialect::connect(place, true).await?)) };
            let opened = match within(BATCH, connecting).await {
                Ok(mut database) => within(LONG, database.migrate()).await.map(|()| database),
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
    pub async fn open_to_read(place: &Place) -> Result<Self, DatabaseError> {
        within(BATCH, async { Ok(Self::from(dialect::connect(place, false).await?)) }).await
    }

    async fn migrate(&mut self) -> Result<(), DatabaseError> {
        match &mut self.connection {
            // PostgreSQL has a lock for it, which sqlx takes.
            Connection::Postgres(connection) => {
                dialect::POSTGRES.migrator().run_direct(None, connection, false).await?
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
            Ok(Err(error)) => tracing::warn!(%error, "the database was not closed in order"),
            Err(_) => tracing::warn!("the database was not closed in time"),
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
