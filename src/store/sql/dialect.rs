//! The differences between SQLite and PostgreSQL.

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
    bounds::{BATCH, KEPT_ROWS, ROWS, within},
    error::DatabaseError,
    location::DatabaseLocation,
};
use crate::{config::postgres, store::files};

/// How long SQLite waits for a lock. Other processes may read for a long time, and write (`VACUUM`) for a short one.
const BUSY: Duration = Duration::from_secs(5);

/// All migrations, in order. A released migration never changes, because existing databases have it already.
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

/// A connection to either database.
#[derive(Debug)]
pub(super) enum Connection {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

/// The properties of one kind of database.
pub(super) struct SqlDialect {
    /// Translates a migration, which is written for SQLite, into the dialect.
    translate: fn(&'static str) -> SqlStr,
    /// Begins a transaction whose statements all see the same rows.
    pub(super) alone: &'static str,
    /// An SQL expression for whether the server refuses changes: `on` or `off`.
    pub(super) read_only: &'static str,
    /// Writes the placeholder of a value. The first value has number one.
    pub(super) placeholder: fn(usize, &mut String),
    /// Returns how many of the given number of rows one statement takes.
    pub(super) batch: fn(usize) -> usize,
    /// The most rows of a statement that is kept prepared.
    pub(super) kept: usize,
}

pub(super) const SQLITE: SqlDialect = SqlDialect {
    translate: |text| text.into_sql_str(),
    alone: "BEGIN IMMEDIATE",
    // A read-only file is noticed at the first write.
    read_only: "'off'",
    // SQLite looks up each numbered placeholder in a list of all of them.
    placeholder: |_, text| text.push('?'),
    // SQLite takes longer to parse a statement than to run it. So there are few sizes, and each is parsed once.
    batch: |rows| [64, 16, 4].into_iter().find(|size| *size <= rows).unwrap_or(rows.min(1)),
    kept: 64,
};

pub(super) const POSTGRES: SqlDialect = SqlDialect {
    // PostgreSQL's INTEGER has 32 bits.
    translate: |text| {
        let text = text.replace(" STRICT, WITHOUT ROWID", "").replace("INTEGER", "BIGINT");
        AssertSqlSafe(text).into_sql_str()
    },
    alone: "BEGIN ISOLATION LEVEL REPEATABLE READ",
    // A standby returns `on`, and so does a fenced primary.
    read_only: "current_setting('transaction_read_only')",
    placeholder: |nth, text| {
        // Writing to a string cannot fail.
        let _ = write!(text, "${nth}");
    },
    // Few large statements save round trips to a slow server.
    batch: |rows| rows.min(ROWS),
    kept: KEPT_ROWS,
};

impl SqlDialect {
    pub(super) fn migrator(&self) -> Migrator {
        let migration = |(number, (name, text)): (i64, &(&'static str, &'static str))| {
            Migration::new(number, (*name).into(), MigrationType::Simple, (self.translate)(text), false)
        };
        let mut migrator = Migrator::with_migrations((1..).zip(&MIGRATIONS).map(migration).collect());
        // The surrounding transaction holds a lock (PostgreSQL), or is one (SQLite).
        migrator.set_locking(false);
        migrator
    }
}

/// A connection, and whether a connection pooler is between the gateway and the server.
pub(super) struct Connected {
    pub(super) connection: Connection,
    pub(super) pooled: bool,
}

/// Connects. To `write`, creates a missing SQLite file, and accepts only a PostgreSQL server that accepts changes.
pub(super) async fn connect(place: &DatabaseLocation, write: bool) -> Result<Connected, DatabaseError> {
    match place {
        DatabaseLocation::Sqlite(path) => {
            if write {
                files::make_private(path).map_err(sqlx::Error::Io)?;
            }
            let mut options = SqliteConnectOptions::new().filename(path).busy_timeout(BUSY);
            options = if write {
                // The journal may delete rows that the database has, so the database must survive a power loss.
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
            // One lost server must not use up the time that the next server needs.
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

/// A setting without meaning to PostgreSQL, which keeps it for the session. A pooler does not pass it on, because many clients
/// share the pooler's server connections.
const DIRECT: &str = "tidegate.direct";

async fn connect_to(server: PgConnectOptions, write: bool) -> Result<Connected, DatabaseError> {
    // Some poolers do not know `extra_float_digits`, and no column here has such a number.
    let server = server.application_name("tidegate").extra_float_digits(None);
    let mut connection = match PgConnection::connect_with(&server.clone().options([(DIRECT, "on")])).await {
        // PgBouncer refuses a setting that it does not pass on, unless PgBouncer is configured to ignore the setting. Error code
        // 08P01: protocol_violation.
        Err(error)
            if error.as_database_error().is_some_and(|error| error.code().is_some_and(|code| code == "08P01")) =>
        {
            PgConnection::connect_with(&server).await?
        }
        connected => connected?,
    };
    // As plain text: no statement may be prepared before it is known whether a pooler is used.
    let query =
        format!("SELECT current_setting('transaction_read_only'), coalesce(current_setting('{DIRECT}', true), '')");
    let row = sqlx::raw_sql(AssertSqlSafe(query)).fetch_one(&mut connection).await?;
    let (read_only, direct): (String, String) = (row.try_get(0)?, row.try_get(1)?);
    if write && read_only != "off" {
        return Err(DatabaseError::ReadOnly);
    }
    Ok(Connected { connection: Connection::Postgres(connection), pooled: direct != "on" })
}

/// A connection for one piece of work. Behind a pooler the connection stays the same only inside a transaction, so the work runs
/// in one.
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

    /// Ends the work with its result. A failure rolls the transaction back.
    pub(super) async fn end<T>(self, done: Result<T, DatabaseError>) -> Result<T, DatabaseError> {
        let Self::Alone(mut transaction) = self else { return done };
        // A prepared statement would stay on a connection that another client gets next, also after a failure. `DEALLOCATE ALL` would
        // fail after a failure, and PgBouncer 1.21 does not notice that it removes the statements that the pooler itself keeps.
        let closed = transaction.clear_cached_statements().await;
        let done = done?;
        closed?;
        transaction.commit().await?;
        Ok(done)
    }
}
