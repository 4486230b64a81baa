//! What differs between SQLite and PostgreSQL.

use std::{fmt::Write, time::Duration};

use secrecy::ExposeSecret;
use sqlx::{
    AssertSqlSafe, Connection as _, PgConnection, Postgres, Row as _, SqlSafeStr, SqlStr, SqliteConnection,
    Transaction,
    migrate::{Migration, MigrationType, Migrator},
    postgres::PgConnectOptions,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use super::{
    BATCH, Connection, DatabaseError, DatabaseLocation,
    ledger::{KEPT_ROWS, ROWS},
    within,
};
use crate::{config::postgres, store::files};

/// Others may read for a long time, and write (`VACUUM`) for a short one.
const BUSY: Duration = Duration::from_secs(5);

/// All of them, in their order. One that was released is never changed: databases have it already.
const MIGRATIONS: [(&str, &str); 8] = [
    ("ledger", include_str!("0001_ledger.sql")),
    ("keys", include_str!("0002_keys.sql")),
    ("endpoint", include_str!("0003_endpoint.sql")),
    ("pending", include_str!("0004_pending.sql")),
    ("sums", include_str!("0005_sums.sql")),
    ("prices", include_str!("0006_prices.sql")),
    ("daily_sums", include_str!("0007_daily_sums.sql")),
    ("revision token", include_str!("0008_revision_token.sql")),
];

/// One way to say the same.
pub(super) struct SqlDialect {
    /// Makes the text of a migration, which is written for SQLite, the dialect's own.
    translate: fn(&'static str) -> SqlStr,
    /// Begins a transaction whose statements all see the same rows.
    pub(super) alone: &'static str,
    /// Whether the server takes no changes: `on` or `off`.
    pub(super) read_only: &'static str,
    /// Writes the place of a value, counted from one.
    pub(super) placeholder: fn(usize, &mut String),
    /// How many of so many rows go into one statement.
    pub(super) batch: fn(usize) -> usize,
    /// Statements of so many rows at most are kept prepared.
    pub(super) kept: usize,
}

pub(super) const SQLITE: SqlDialect = SqlDialect {
    translate: |text| text.into_sql_str(),
    alone: "BEGIN IMMEDIATE",
    // A file that cannot be written is noticed when it is written.
    read_only: "'off'",
    // With numbers it would look for each in a list of all.
    placeholder: |_, text| text.push('?'),
    // To read a statement takes it longer than to carry it out: so there are few, and each is read once.
    batch: |rows| [64, 16, 4].into_iter().find(|size| *size <= rows).unwrap_or(rows.min(1)),
    kept: 64,
};

pub(super) const POSTGRES: SqlDialect = SqlDialect {
    // Its INTEGER has 32 bits.
    translate: |text| {
        let text = text.replace(" STRICT, WITHOUT ROWID", "").replace("INTEGER", "BIGINT");
        AssertSqlSafe(text).into_sql_str()
    },
    alone: "BEGIN ISOLATION LEVEL REPEATABLE READ",
    // A standby says `on`, and so does a primary that was fenced.
    read_only: "current_setting('transaction_read_only')",
    placeholder: |nth, text| {
        // Writing to a string cannot fail.
        let _ = write!(text, "${nth}");
    },
    // The answers of a slow one come one after the other.
    batch: |rows| rows.min(ROWS),
    kept: KEPT_ROWS,
};

impl SqlDialect {
    pub(super) fn migrator(&self) -> Migrator {
        let migration = |(number, (name, text)): (i64, &(&'static str, &'static str))| {
            Migration::new(number, (*name).into(), MigrationType::Simple, (self.translate)(text), false)
        };
        let mut migrator = Migrator::with_migrations((1..).zip(&MIGRATIONS).map(migration).collect());
        // The transaction around all of them has a lock, or is one.
        migrator.set_locking(false);
        migrator
    }
}

/// A connection, and whether a pooler of connections is between us and the server.
pub(super) struct Connected {
    pub(super) connection: Connection,
    pub(super) pooled: bool,
}

/// Connects; to `write`, SQLite's file is made where it is missing, and a server of PostgreSQL is taken only if it takes changes.
pub(super) async fn connect(place: &DatabaseLocation, write: bool) -> Result<Connected, DatabaseError> {
    match place {
        DatabaseLocation::Sqlite(path) => {
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
            let connecting = async { Ok(SqliteConnection::connect_with(&options).await?) };
            let connection = Connection::Sqlite(within(BATCH, connecting).await?);
            Ok(Connected { connection, pooled: false })
        }
        DatabaseLocation::Postgres { url, password } => {
            let servers = postgres::servers(url).map_err(|wrong| sqlx::Error::Configuration(Box::new(wrong)))?;
            // One server that is lost must not take the time that the next one needs.
            let limit = if servers.len() > 1 { BATCH / 2 } else { BATCH };
            let mut failed = DatabaseError::Silent(limit);
            for mut server in servers {
                if let Some(password) = password {
                    server = server.password(password.expose_secret());
                }
                match within(limit, connect_to(server, write)).await {
                    Ok(connected) => return Ok(connected),
                    Err(error) => failed = error,
                }
            }
            Err(failed)
        }
    }
}

/// Of no meaning to PostgreSQL, which keeps such a setting for the session. A pooler does not hand it on, as its connections to
/// the server are those of many clients.
const DIRECT: &str = "tidegate.direct";

async fn connect_to(server: PgConnectOptions, write: bool) -> Result<Connected, DatabaseError> {
    // Not all poolers know `extra_float_digits`, and no column here holds such a number.
    let server = server.application_name("tidegate").extra_float_digits(None);
    let mut connection = match PgConnection::connect_with(&server.clone().options([(DIRECT, "on")])).await {
        // PgBouncer refuses a setting that it does not hand on, unless it was told to ignore it: protocol_violation.
        Err(error)
            if error.as_database_error().is_some_and(|error| error.code().is_some_and(|code| code == "08P01")) =>
        {
            PgConnection::connect_with(&server).await?
        }
        connected => connected?,
    };
    // As plain text: until it is known whether there is a pooler, no statement is prepared.
    let query =
        format!("SELECT current_setting('transaction_read_only'), coalesce(current_setting('{DIRECT}', true), '')");
    let row = sqlx::raw_sql(AssertSqlSafe(query)).fetch_one(&mut connection).await?;
    let (read_only, direct): (String, String) = (row.try_get(0)?, row.try_get(1)?);
    if write && read_only != "off" {
        return Err(DatabaseError::ReadOnly);
    }
    Ok(Connected { connection: Connection::Postgres(connection), pooled: direct != "on" })
}

/// A connection for one piece of work. Behind a pooler a connection is ours only inside of a transaction, so there is one around it.
pub(super) enum WorkConnection<'c> {
    Plain(&'c mut PgConnection),
    Alone(Transaction<'c, Postgres>),
}

impl<'c> WorkConnection<'c> {
    pub(super) async fn take(connection: &'c mut PgConnection, pooled: bool) -> Result<Self, DatabaseError> {
        Ok(if pooled { Self::Alone(connection.begin().await?) } else { Self::Plain(connection) })
    }

    pub(super) fn connection(&mut self) -> &mut PgConnection {
        match self {
            Self::Plain(connection) => connection,
            Self::Alone(transaction) => transaction,
        }
    }

    /// Ends the work that came to this. What failed is undone.
    pub(super) async fn end<T>(self, done: Result<T, DatabaseError>) -> Result<T, DatabaseError> {
        let Self::Alone(mut transaction) = self else { return done };
        let done = done?;
        transaction.clear_cached_statements().await?;
        // What was prepared would stay with a connection that another client gets next.
        sqlx::raw_sql("DEALLOCATE ALL").execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(done)
    }
}
