//! Client keys in the store, and the audit of their changes.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sqlx::{AssertSqlSafe, Connection as _, Row as _};

use super::{BATCH, Database, DatabaseError, integer, on, within};
use crate::domain::key::{RotatedSecret, StoredKey};

/// The version of the client keys in the database. Every change of a key makes a new version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    /// The number of changes so far.
    #[serde(rename = "revision")]
    pub number: u64,
    /// A random text of the last change. After a failover that lost changes, two servers may have the same number. Empty before
    /// the first change.
    #[serde(default)]
    pub token: String,
}

/// A change of a client key in the database: create, replace or delete. The names of the actions are fixed: column `action`.
#[derive(Clone, Copy, Debug)]
pub enum KeyChange<'a> {
    /// Adds a key.
    Create(&'a StoredKey),
    /// Replaces a key. The word names the action.
    Replace(&'a StoredKey, &'static str),
    /// Deletes the key of this name.
    Delete(&'a str),
}

/// Who changes a client key in the database, and when. The audit trail records both.
#[derive(Clone, Copy, Debug)]
pub struct ChangeAuthor<'a> {
    /// Unique id of the change, with a random part.
    pub id: &'a str,
    /// Name of the author.
    pub name: &'a str,
    /// Milliseconds since 1970-01-01 UTC.
    pub time_ms: u64,
}

/// One entry of the audit trail: who changed which client key in the database, when and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// Milliseconds since 1970-01-01 UTC.
    pub time_ms: u64,
    /// Name of the author.
    pub actor: String,
    /// The action.
    pub action: String,
    /// Name of the key.
    pub key: String,
    /// SHA-256 of the stored key before the change, in hex.
    pub before: Option<String>,
    /// SHA-256 of the stored key after the change, in hex.
    pub after: Option<String>,
}

/// Why a client key in the database was not changed.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// A key of this name exists.
    #[error("the store already has a key of this name: choose another name")]
    Exists,
    /// No key has this name.
    #[error("the store has no key of this name: `tidegate keys list` shows the names")]
    Missing,
    /// Another change came first.
    #[error(
        "another command changed keys in the store at the same moment, so this command changed nothing: look at the keys \
         and try again"
    )]
    Raced,
}

impl From<sqlx::Error> for KeyError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

impl KeyChange<'_> {
    fn name(&self) -> &str {
        match self {
            Self::Create(key) | Self::Replace(key, _) => &key.name,
            Self::Delete(name) => name,
        }
    }

    fn action(&self) -> &'static str {
        match self {
            Self::Create(_) => "create",
            Self::Replace(_, action) => action,
            Self::Delete(_) => "delete",
        }
    }
}

/// Returns the SHA-256 of a stored key, in hex.
fn hash(key: &StoredKey) -> String {
    // Plain data in a fixed order, so serialisation cannot fail.
    data_encoding::HEXLOWER.encode(&Sha256::digest(serde_json::to_vec(key).unwrap_or_default()))
}

const COLUMNS: &str = "name, prefix, sha256, previous_sha256, previous_until_ms, disabled, created_ms, settings";

impl Database {
    /// Returns the version of the client keys in the database, which differs after each change.
    ///
    /// # Errors
    /// When the database cannot be read, or refuses changes: after a failover, the old primary has outdated keys.
    pub async fn revision(&mut self) -> Result<Revision, DatabaseError> {
        let read_only = self.dialect().read_only;
        let query = format!("SELECT number, token, {read_only} FROM revisions WHERE name = 'client_keys'");
        within(BATCH, async {
            on!(self, |connection, Db| {
                let row = sqlx::query::<Db>(AssertSqlSafe(query)).fetch_one(connection).await?;
                let (number, token, read_only): (i64, String, String) =
                    (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
                match &*read_only {
                    "off" => Ok(Revision { number: u64::try_from(number).unwrap_or_default(), token }),
                    _ => Err(DatabaseError::ReadOnly),
                }
            })
        })
        .await
    }

    /// Returns all client keys in the database, ordered by name. Their version comes too, which may be older than the keys but never
    /// newer.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn stored_keys(&mut self) -> Result<(Revision, Vec<StoredKey>), DatabaseError> {
        // Read first: a change between the two reads then causes another read.
        let revision = self.revision().await?;
        let query = format!("SELECT {COLUMNS} FROM client_keys ORDER BY name");
        let keys = within(BATCH, async {
            on!(self, |connection, Db| {
                let rows = sqlx::query::<Db>(AssertSqlSafe(query)).fetch_all(connection).await?;
                let key = |row: &<Db as sqlx::Database>::Row| -> Result<StoredKey, sqlx::Error> {
                    let number = |nth: usize| {
                        row.try_get::<Option<i64>, _>(nth).map(|it| it.and_then(|it| u64::try_from(it).ok()))
                    };
                    let (sha256, until_ms) = (row.try_get::<Option<String>, _>(3)?, number(4)?);
                    let settings: String = row.try_get(7)?;
                    Ok(StoredKey {
                        name: row.try_get(0)?,
                        prefix: row.try_get(1)?,
                        sha256: row.try_get(2)?,
                        previous: sha256.zip(until_ms).map(|(sha256, until_ms)| RotatedSecret { sha256, until_ms }),
                        disabled: number(5)? != Some(0),
                        created_ms: number(6)?.unwrap_or_default(),
                        settings: serde_json::from_str(&settings).map_err(|error| sqlx::Error::Decode(error.into()))?,
                    })
                };
                Ok(rows.iter().map(key).collect::<Result<_, _>>()?)
            })
        })
        .await?;
        Ok((revision, keys))
    }

    /// Creates, replaces or deletes a client key in the database, and adds the audit entry. Does nothing if any key changed since
    /// `revision`.
    ///
    /// # Errors
    /// When the keys are not as expected, or the database fails. Nothing has changed then.
    pub async fn change_key(
        &mut self,
        revision: &Revision,
        change: KeyChange<'_>,
        author: ChangeAuthor<'_>,
    ) -> Result<(), KeyError> {
        let (_, keys) = self.stored_keys().await?;
        let before = keys.iter().find(|key| key.name == change.name());
        match (&change, before) {
            (KeyChange::Create(_), Some(_)) => return Err(KeyError::Exists),
            (KeyChange::Replace(..) | KeyChange::Delete(_), None) => return Err(KeyError::Missing),
            _ => {}
        }
        let after = match change {
            KeyChange::Create(key) | KeyChange::Replace(key, _) => Some(key),
            KeyChange::Delete(_) => None,
        };
        let written = within(BATCH, async {
            on!(self, |connection, Db| {
                let mut transaction = connection.begin().await?;
                // A concurrent change waits here, and then finds another number.
                let raised = sqlx::query::<Db>(
                    "UPDATE revisions SET number = number + 1, token = $1 \
                     WHERE name = 'client_keys' AND number = $2 AND token = $3",
                );
                let raised = raised.bind(author.id).bind(integer(revision.number)).bind(&revision.token);
                let raised = raised.execute(&mut *transaction).await?.rows_affected();
                if raised == 0 {
                    return Ok(false);
                }
                let delete = sqlx::query::<Db>("DELETE FROM client_keys WHERE name = $1").bind(change.name());
                delete.execute(&mut *transaction).await?;
                if let Some(key) = after {
                    let insert = sqlx::query::<Db>(
                        "INSERT INTO client_keys (name, prefix, sha256, previous_sha256, previous_until_ms, disabled, \
                         created_ms, settings) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
                    );
                    let insert = insert.bind(&key.name).bind(&key.prefix).bind(&key.sha256);
                    let previous = key.previous.as_ref();
                    let insert = insert.bind(previous.map(|previous| previous.sha256.as_str()));
                    let insert = insert.bind(previous.map(|previous| integer(previous.until_ms)));
                    let insert = insert.bind(i64::from(key.disabled)).bind(integer(key.created_ms));
                    let settings = serde_json::to_string(&key.settings).unwrap_or_default();
                    insert.bind(settings).execute(&mut *transaction).await?;
                }
                let audit = sqlx::query::<Db>(
                    "INSERT INTO audit (id, time_ms, actor, action, key_name, before, after) VALUES ($1, $2, $3, $4, $5, \
                     $6, $7)",
                );
                let audit = audit.bind(author.id).bind(integer(author.time_ms)).bind(author.name).bind(change.action());
                let audit = audit.bind(change.name()).bind(before.map(hash)).bind(after.map(hash));
                audit.execute(&mut *transaction).await?;
                transaction.commit().await?;
                Ok(true)
            })
        })
        .await?;
        if written { Ok(()) } else { Err(KeyError::Raced) }
    }

    /// Returns the audit trail of a client key: all changes of the key, the oldest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn audit(&mut self, key: &str) -> Result<Vec<AuditEntry>, DatabaseError> {
        const QUERY: &str = "SELECT time_ms, actor, action, key_name, before, after FROM audit WHERE key_name = $1 \
             ORDER BY time_ms, id";
        within(BATCH, async {
            on!(self, |connection, Db| {
                let rows = sqlx::query::<Db>(QUERY).bind(key).fetch_all(connection).await?;
                let entry = |row: &<Db as sqlx::Database>::Row| -> Result<AuditEntry, sqlx::Error> {
                    Ok(AuditEntry {
                        time_ms: u64::try_from(row.try_get::<i64, _>(0)?).unwrap_or_default(),
                        actor: row.try_get(1)?,
                        action: row.try_get(2)?,
                        key: row.try_get(3)?,
                        before: row.try_get(4)?,
                        after: row.try_get(5)?,
                    })
                };
                Ok(rows.iter().map(entry).collect::<Result<_, _>>()?)
            })
        })
        .await
    }
}
