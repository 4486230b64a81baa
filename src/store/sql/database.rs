//! An open database: SQLite or PostgreSQL.

use std::{path::PathBuf, time::Duration};

use sqlx::Connection as _;
use tokio::time::{Instant, timeout};

use super::{
    bounds::{BUSY_FOR, within},
    dialect::{self, Connection},
    error::DatabaseError,
    insert::Texts,
    location::DatabaseLocation,
};
use crate::store::files;

/// The time limit of a migration: a new index over ten million rows takes minutes.
const MIGRATING: Duration = Duration::from_secs(1800);

/// The greatest age of a connection to PostgreSQL. A new connection follows a name or address that leads to another server now,
/// even while the old server still works.
const OLD: Duration = Duration::from_secs(300);

/// The PostgreSQL advisory lock of migrations. Its number is "tidegate" in ASCII, which no other program uses.
const MIGRATES: i64 = i64::from_be_bytes(*b"tidegate");

/// An open connection to the SQL database (SQLite or PostgreSQL), which has the ledger and the stored client keys.
#[derive(Debug)]
pub struct Database {
    pub(super) connection: Connection,
    /// Whether a connection pooler is between the gateway and the server. Then the connection stays the same only inside a
    /// transaction.
    pub(super) pooled: bool,
    opened: Instant,
    /// SQLite's file, and its identity when it was opened.
    file: Option<(PathBuf, Option<(u64, u64)>)>,
    pub(super) texts: Texts,
}

impl From<dialect::Connected> for Database {
    fn from(dialect::Connected { connection, pooled }: dialect::Connected) -> Self {
        Self { connection, pooled, opened: Instant::now(), file: None, texts: Texts::default() }
    }
}

/// Runs the same lines over either connection. `$Db` is the database's type in them.
macro_rules! on {
    ($database:expr, |$connection:ident, $Db:ident| $lines:expr) => {{
        let pooled = $database.pooled;
        match &mut $database.connection {
            crate::store::sql::dialect::Connection::Sqlite($connection) => {
                #[allow(dead_code, reason = "not every statement names it")]
                type $Db = sqlx::Sqlite;
                $lines
            }
            crate::store::sql::dialect::Connection::Postgres(connection) => {
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
pub(super) use on;

impl Database {
    /// Opens the SQL database for reading and writing. Creates a missing SQLite file, and runs the migrations.
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

    /// Opens the SQL database read-only, without migrations. Other processes may write to the database meanwhile.
    ///
    /// # Errors
    /// When the database does not exist or does not answer.
    pub async fn open_to_read(place: &DatabaseLocation) -> Result<Self, DatabaseError> {
        dialect::connect(place, false).await.map(Self::from)
    }

    /// Whether the connection to PostgreSQL is so old that it should be made again, because the address may lead to another server now.
    /// Never for SQLite.
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

    pub(super) fn dialect(&self) -> dialect::SqlDialect {
        match self.connection {
            Connection::Sqlite(_) => dialect::SQLITE,
            Connection::Postgres(_) => dialect::POSTGRES,
        }
    }

    /// Opens the SQL database again after an error. Creates no SQLite file: the file existed before, and its loss must not go unnoticed.
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

    /// Checks that the path of the SQLite file still leads to the file that is open. Data written to a deleted file would be lost.
    ///
    /// # Errors
    /// When the file was deleted or replaced.
    pub fn check_file(&self) -> Result<(), DatabaseError> {
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

    /// Closes the connection to the SQL database, with a time limit of one second. Logs a failure.
    pub async fn close(self) {
        let closing = async {
            match self.connection {
                Connection::Sqlite(connection) => connection.close().await,
                Connection::Postgres(connection) => connection.close().await,
            }
        };
        match timeout(Duration::from_secs(1), closing).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the connection to the database was not closed cleanly at the \
                shutdown: nothing is lost, because each change is one transaction. Nothing needs to be done"),
            Err(_) => tracing::warn!(
                "the connection to the database was not closed in time: Tidegate gave the connection up, and nothing \
                 is lost. Nothing needs to be done"
            ),
        }
    }
}
