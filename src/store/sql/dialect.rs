//! What differs between SQLite and PostgreSQL.

use std::{fmt::Write, str::FromStr, time::Duration};

use secrecy::ExposeSecret;
use sqlx::{
    Connection as _, PgConnection, SqlSafeStr, SqlStr, SqliteConnection,
    migrate::{Migration, MigrationType, Migrator},
    postgres::PgConnectOptions,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use super::{
    Connection, DatabaseError, Place,
    ledger::{KEPT_ROWS, ROWS},
};
use crate::store::files;

/// Others may read for a long time, and write (`VACUUM`) for a short one.
const BUSY: Duration = Duration::from_secs(5);

/// All of them, in their order. One that was released is never changed: databases have it already.
const MIGRATIONS: [(&str, &str); 7] = [
    ("ledger", include_str!("0001_ledger.sql")),
    ("keys", include_str!("0002_keys.sql")),
    ("endpoint", include_str!("0003_endpoint.sql")),
    ("pending", include_str!("0004_pending.sql")),
    ("sums", include_str!("0005_sums.sql")),
    ("prices", include_str!("0006_prices.sql")),
    ("daily_sums", include_str!("0007_daily_sums.sql")),
];

/// One way to say the same.
pub(super) struct Dialect {
    /// Makes the text of a migration, which is written for SQLite, the dialect's own.
    translate: fn(&'static str) -> SqlStr,
    /// Begins a transaction whose statements all see the same rows.
    pub(super) alone: &'static str,
    /// Writes the place of a value, counted from one.
    pub(super) placeholder: fn(usize, &mut String),
    /// How many of so many rows go into one statement.
    pub(super) batch: fn(usize) -> usize,
    /// Statements of so many rows at most are kept prepared.
    pub(super) kept: usize,
}

pub(super) const SQLITE: Dialect = Dialect {
    translate: |text| text.into_sql_str(),
    alone: "BEGIN IMMEDIATE",
    // With numbers it would look for each in a list of all.
    placeholder: |_, text| text.push('?'),
    // To read a statement takes it longer than to carry it out: so there are few, and each is read once.
    batch: |rows| [64, 16, 4].into_iter().find(|size| *size <= rows).unwrap_or(rows.min(1)),
    kept: 64,
};

pub(super) const POSTGRES: Dialect = Dialect {
    // Its INTEGER has 32 bits.
    translate: |text| {
        let text = text.replace(" STRICT, WITHOUT ROWID", "").replace("INTEGER", "BIGINT");
        sqlx::AssertSqlSafe(text).into_sql_str()
    },
    alone: "BEGIN ISOLATION LEVEL REPEATABLE READ",
    placeholder: |nth, text| {
        // Writing to a string cannot fail.
        let _ = write!(text, "${nth}");
    },
    // The answers of a slow one come one after the other.
    batch: |rows| rows.min(ROWS),
    kept: KEPT_ROWS,
};

impl Dialect {
    pub(super) fn migrator(&self) -> Migrator {
        let migration = |(number, (name, text)): (i64, &(&'static str, &'static str))| {
            Migration::new(number, (*name).into(), MigrationType::Simple, (self.translate)(text), false)
        };
        Migrator::with_migrations((1..).zip(&MIGRATIONS).map(migration).collect())
    }
}

/// Connects; to `write`, SQLite's file is made where it is missing.
pub(super) async fn connect(place: &Place, write: bool) -> Result<Connection, DatabaseError> {
    match place {
        Place::Sqlite(path) => {
            if write {
                files::make_private(path).map_err(sqlx::Error::Io)?;
            }
            let mut options = SqliteConnectOptions::new().filename(path).busy_timeout(BUSY);
            options = if write {
                // What is in it may be deleted from the journal: it has to survive a loss of power.
                options.journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Full)
            } else {
                options.read_only(true)
            };
            Ok(Connection::Sqlite(SqliteConnection::connect_with(&options).await?))
        }
        Place::Postgres { url, password } => {
            let mut options = PgConnectOptions::from_str(url)?.application_name("tidegate");
            if let Some(password) = password {
                options = options.password(password.expose_secret());
            }
            Ok(Connection::Postgres(PgConnection::connect_with(&options).await?))
        }
    }
}
