//! The errors of the database, and what they mean.

use std::{path::PathBuf, time::Duration};

use sqlx::sqlite::SqliteError;

/// Why the SQL database (SQLite or PostgreSQL) failed.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// A statement or the connection failed.
    #[error(transparent)]
    Sql(#[from] sqlx::Error),
    /// A migration failed.
    #[error("the tables of the database cannot be created or updated: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// The server refuses changes.
    #[error("the database is read-only, as a standby or an old primary is: set `url` in [store] to the primary")]
    ReadOnly,
    /// SQLite's file was deleted or replaced.
    #[error(
        "the database file {0} was deleted or replaced while the gateway was running: put the old file back, or \
         restart the gateway to use the present file"
    )]
    Gone(PathBuf),
    /// The database did not answer in time.
    #[error("the database did not answer within {0:?}")]
    Silent(Duration),
}

impl DatabaseError {
    /// Whether another process uses SQLite in a way that SQLite's own timeout does not cover.
    pub(super) fn is_busy(&self) -> bool {
        match self {
            Self::Sql(error) | Self::Migration(sqlx::migrate::MigrateError::Execute(error)) => is_busy(error),
            _ => false,
        }
    }

    /// Whether the database works but refuses the values of a ledger row, so that every further try would fail too.
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
pub(in crate::store) fn is_busy(error: &sqlx::Error) -> bool {
    // SQLITE_BUSY and SQLITE_BUSY_RECOVERY.
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| matches!(&*code, "5" | "261"))
}
