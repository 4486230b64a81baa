//! The affinity store in SQLite. Batches are not synced one by one. A killed process loses only unwritten entries, a power loss
//! the last seconds too. The file stays valid (WAL).

use std::{collections::HashMap, path::Path, time::Duration};

use sqlx::{
    Connection as _, QueryBuilder, Row as _, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteRow, SqliteSynchronous},
};

use super::entry::{EntryLifetime, HashSecret, StoreError, StoredOrigin, origin_of};
use crate::{
    domain::{origin::Reference, random::RandomBytes},
    store::{
        files,
        sql::{BUSY_FOR, is_busy},
    },
};

/// How long SQLite waits for a lock. Only an operator's own tool could lock the file.
const BUSY: Duration = Duration::from_secs(5);
/// The format of the file. Another version of Tidegate may use another number.
const VERSION: i64 = 1;
/// The numbers of rows in one statement, largest first. Few sizes, so that each statement is prepared once: SQLite needs longer
/// to parse a statement than to run it.
const ROWS: [usize; 5] = [256, 64, 16, 4, 1];
/// The most rows deleted at once, in about 10 ms. New entries wait meanwhile.
const SWEPT: usize = 1000;

/// `used_s` of a missing key.
const MISSING: i64 = -1;

const TABLES: &str = include_str!("origins.sql");

/// The open file.
#[derive(Debug)]
pub(super) struct Sqlite {
    connection: SqliteConnection,
    pub(super) secret: HashSecret,
    /// The number of rows, or slightly more; `None` = not counted yet.
    rows: Option<u64>,
}

/// Maps all bits to SQLite's signed integers.
fn number(bits: u64) -> i64 {
    i64::from_ne_bytes(bits.to_ne_bytes())
}

fn bits(number: i64) -> u64 {
    u64::from_ne_bytes(number.to_ne_bytes())
}

/// Returns the key of a row, and the entry if the key has one.
fn entry(row: &SqliteRow) -> Result<([u8; 16], Option<StoredOrigin>), StoreError> {
    let key: &[u8] = row.try_get(0)?;
    let part = |nth: usize| row.try_get(nth).map(bits);
    let origin = origin_of([part(1)?, part(2)?, part(3)?]);
    let used_s: i64 = row.try_get(4)?;
    let entry = (used_s != MISSING).then(|| StoredOrigin { origin, used_s: u32::try_from(used_s).unwrap_or_default() });
    Ok((key.try_into().map_err(|_| StoreError::Unreadable)?, entry))
}

/// Splits rows into parts of these sizes.
fn parts<T>(mut rows: &[T]) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let size = ROWS.into_iter().find(|size| *size <= rows.len())?;
        let (part, rest) = rows.split_at(size);
        rows = rest;
        Some(part)
    })
}

/// Returns the entries of these keys. Missing keys get a row and the same work too. Otherwise the time would reveal to
/// strangers which ids exist (the difference was 16 µs in a debug build).
async fn select(
    connection: &mut SqliteConnection,
    keys: &[[u8; 16]],
) -> Result<HashMap<[u8; 16], Option<StoredOrigin>>, StoreError> {
    let mut found = HashMap::new();
    for keys in parts(keys) {
        let mut query = QueryBuilder::new(
            "SELECT asked.column1, coalesce(account, 0), coalesce(owner, 0), coalesce(owner_group, 0), coalesce(used_s, -1) FROM (",
        );
        query.push_values(keys, |mut values, key| {
            values.push_bind(key.as_slice());
        });
        query.push(") AS asked LEFT JOIN origins ON origins.key = asked.column1");
        for row in query.build().fetch_all(&mut *connection).await? {
            let (key, entry) = entry(&row)?;
            found.insert(key, entry);
        }
    }
    Ok(found)
}

impl Sqlite {
    pub(super) async fn open(path: &Path, random_bytes: RandomBytes) -> Result<Self, StoreError> {
        loop {
            match Self::try_open(path, random_bytes).await {
                // Another process creates the file at this moment, which takes milliseconds.
                Err(StoreError::Sqlite(error)) if is_busy(&error) => tokio::time::sleep(BUSY_FOR).await,
                opened => return opened,
            }
        }
    }

    async fn try_open(path: &Path, random_bytes: RandomBytes) -> Result<Self, StoreError> {
        files::make_private(path).map_err(sqlx::Error::Io)?;
        let options = SqliteConnectOptions::new().filename(path).busy_timeout(BUSY);
        let options = options.journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Normal);
        let mut connection = SqliteConnection::connect_with(&options).await?;
        let version: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut connection).await?;
        if version == 0 {
            let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
            sqlx::raw_sql(TABLES).execute(&mut *transaction).await?;
            let secret = HashSecret::new(random_bytes)?;
            let insert = sqlx::query("INSERT INTO secret (number, bytes) VALUES (1, $1) ON CONFLICT DO NOTHING");
            insert.bind(secret.0.as_slice()).execute(&mut *transaction).await?;
            transaction.commit().await?;
        } else if version != VERSION {
            return Err(StoreError::Unreadable);
        }
        let secret: Vec<u8> = sqlx::query_scalar("SELECT bytes FROM secret").fetch_one(&mut connection).await?;
        Ok(Self { connection, secret: HashSecret::read(&secret)?, rows: None })
    }

    fn keys<'a>(&self, references: impl Iterator<Item = &'a Reference>) -> Vec<[u8; 16]> {
        references.map(|reference| self.secret.key(*reference)).collect()
    }

    /// Checks that the store answers.
    async fn answers(&mut self) -> Result<Vec<Option<StoredOrigin>>, StoreError> {
        sqlx::query("SELECT number FROM secret").fetch_one(&mut self.connection).await?;
        Ok(Vec::new())
    }

    pub(super) async fn recall(&mut self, references: &[Reference]) -> Result<Vec<Option<StoredOrigin>>, StoreError> {
        if references.is_empty() {
            return self.answers().await;
        }
        let keys = self.keys(references.iter());
        let found = select(&mut self.connection, &keys).await?;
        Ok(keys.iter().map(|key| found.get(key).copied().flatten()).collect())
    }

    pub(super) async fn learn(
        &mut self,
        entries: &[(Reference, StoredOrigin)],
        life: EntryLifetime,
    ) -> Result<Vec<Option<StoredOrigin>>, StoreError> {
        if entries.is_empty() {
            return self.answers().await;
        }
        let keys = self.keys(entries.iter().map(|(reference, _)| reference));
        let keyed: Vec<_> = keys.iter().zip(entries.iter().map(|(_, entry)| entry)).collect();
        let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await?;
        let mut taken = Vec::with_capacity(keys.len());
        for rows in parts(&keyed) {
            let mut query = QueryBuilder::new("INSERT INTO origins (key, account, owner, owner_group, used_s) ");
            query.push_values(rows, |mut values, (key, StoredOrigin { origin, used_s })| {
                values.push_bind(key.as_slice());
                for part in [origin.account, origin.owner.key, origin.owner.group] {
                    values.push_bind(number(part));
                }
                values.push_bind(i64::from(*used_s));
            });
            // Any origin may replace an expired entry. Only a later use of the same origin may replace a valid one.
            query.push(
                " ON CONFLICT (key) DO UPDATE SET account = excluded.account, owner = excluded.owner, \
                 owner_group = excluded.owner_group, used_s = excluded.used_s WHERE origins.used_s < ",
            );
            query.push_bind(i64::from(life.since()));
            query.push(
                " OR (origins.used_s < excluded.used_s AND origins.account = excluded.account \
                 AND origins.owner = excluded.owner AND origins.owner_group = excluded.owner_group) RETURNING key",
            );
            for row in query.build().fetch_all(&mut *transaction).await? {
                taken.push(row.try_get::<&[u8], _>(0)?.to_vec());
            }
        }
        // Counts new and reused entries alike. `sweep` corrects the number before it deletes rows because of it.
        self.rows = self.rows.map(|rows| rows.saturating_add(taken.len() as u64));
        taken.sort_unstable();
        let kept: Vec<_> = keys
            .iter()
            .copied()
            .filter(|key| taken.binary_search_by(|other| other.as_slice().cmp(key)).is_err())
            .collect();
        let kept = select(&mut transaction, &kept).await?;
        transaction.commit().await?;
        let others = |(key, ours): &(&[u8; 16], &StoredOrigin)| {
            kept.get(*key).copied().flatten().filter(|it| it.origin != ours.origin)
        };
        Ok(keyed.iter().map(others).collect())
    }

    pub(super) async fn sweep(&mut self, life: EntryLifetime, most: u64) -> Result<bool, StoreError> {
        let old = "DELETE FROM origins WHERE key IN (SELECT key FROM origins WHERE used_s < $1 LIMIT $2)";
        let old = sqlx::query(old).bind(i64::from(life.since())).bind(SWEPT as i64);
        let deleted = old.execute(&mut self.connection).await?.rows_affected();
        if deleted > 0 {
            self.rows = self.rows.map(|rows| rows.saturating_sub(deleted));
            return Ok(deleted == SWEPT as u64);
        }
        if self.rows.is_none_or(|rows| rows > most) {
            let count: i64 = sqlx::query_scalar("SELECT count(*) FROM origins").fetch_one(&mut self.connection).await?;
            self.rows = Some(bits(count));
        }
        let over = self.rows.unwrap_or_default().saturating_sub(most).min(SWEPT as u64);
        if over > 0 {
            let oldest = "DELETE FROM origins WHERE key IN (SELECT key FROM origins ORDER BY used_s LIMIT $1)";
            let deleted = sqlx::query(oldest).bind(number(over)).execute(&mut self.connection).await?.rows_affected();
            self.rows = self.rows.map(|rows| rows.saturating_sub(deleted));
        }
        Ok(self.rows.is_some_and(|rows| rows > most))
    }

    pub(super) async fn close(self) {
        if let Err(error) = self.connection.close().await {
            tracing::warn!(%error, "the file of the affinity store (which account owns which id) was not closed \
                cleanly: the next start repairs the file. Check the disk if this happens again");
        }
    }
}
