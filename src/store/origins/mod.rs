//! The affinity store: the origin of each reference, in SQLite (one file of the data folder) or in Redis, which several replicas
//! share. Never used on a worker's thread.
//!
//! A reference is stored as a keyed hash. The hash key is 256 random bits, generated once and stored in the same store. So no id
//! can be read from the store, and rows of one store are useless in another. A person with the whole store can still check
//! whether it has an id that the person knows.
//!
//! To add a backend, add a file with the same five functions and a variant of [`OriginStoreLocation`]. Each function here gets a
//! match arm, and the test suite for all backends (`tests/it/origins.rs`) gets a line.

mod redis;
mod sqlite;

use std::{fmt, path::PathBuf};

use sha2::{Digest, Sha256};

use crate::{
    config::{self, Config},
    domain::{
        origin::{Origin, Owner, Reference},
        random::{NoRandomBytes, RandomBytes},
    },
    store::redis::LinkError,
};

use self::{redis::Redis, sqlite::Sqlite};

/// SQLite's file in the data folder. It is separate from the ledger's: millions of its rows come and go, and it exists also where
/// the ledger is in PostgreSQL.
pub const FILE: &str = "origins.db";

/// The location of the affinity store.
#[derive(Clone, Debug)]
pub enum OriginStoreLocation {
    /// SQLite, in this file.
    Sqlite(PathBuf),
    /// Redis.
    Redis(config::RedisSettings),
}

impl OriginStoreLocation {
    /// Returns the location that a configuration names.
    pub fn of(config: &Config) -> Self {
        match &config.sharing {
            Some(sharing) if config.affinity.shared => Self::Redis(sharing.redis.clone()),
            _ => Self::Sqlite(config.server.data_dir.join(FILE)),
        }
    }

    /// Whether other replicas use the same store.
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::Redis(_))
    }
}

/// Writes the location for people.
impl fmt::Display for OriginStoreLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => path.display().fmt(f),
            Self::Redis(redis) => redis.fmt(f),
        }
    }
}

/// The stored entry of a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredOrigin {
    /// The account and the owner.
    pub origin: Origin,
    /// The last time when the reference was learned, or used by a permitted key: seconds since 1970-01-01 UTC.
    pub used_s: u32,
}

/// The values that decide whether an entry is still valid.
#[derive(Clone, Copy, Debug)]
pub struct EntryLifetime {
    /// The current time: seconds since 1970-01-01 UTC.
    pub now_s: u32,
    /// How long an entry stays valid after its last use, in seconds.
    pub ttl_s: u32,
}

impl EntryLifetime {
    /// Whether an entry with this last use is still valid.
    pub fn lasts(self, used_s: u32) -> bool {
        self.rest(used_s) > 0
    }

    /// Returns how many seconds the entry stays valid.
    fn rest(self, used_s: u32) -> u32 {
        used_s.saturating_add(self.ttl_s).saturating_sub(self.now_s).min(self.ttl_s)
    }

    /// Returns the earliest last use of a valid entry.
    fn since(self) -> u32 {
        self.now_s.saturating_sub(self.ttl_s).saturating_add(1)
    }
}

/// Why the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite failed.
    #[error(transparent)]
    Sqlite(#[from] sqlx::Error),
    /// Redis failed.
    #[error(transparent)]
    Redis(#[from] ::redis::RedisError),
    /// The connection to Redis failed.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The hash key does not exist, and none can be generated.
    #[error(transparent)]
    NoSecret(#[from] NoRandomBytes),
    /// The store was emptied or replaced: its entries use another hash key.
    #[error("it is not the one that was opened")]
    Another,
    /// The store has an unknown format.
    #[error("it holds what this version cannot read")]
    Unreadable,
    /// The rest of Redis's memory is reserved for limits.
    #[error("three quarters of its memory are used")]
    Full,
    /// The store did not answer in time.
    #[error("it did not answer in time")]
    Silent,
}

/// The secret key for the hashes of one store.
#[derive(Clone, PartialEq, Eq)]
pub struct HashSecret([u8; Self::BYTES]);

impl HashSecret {
    const BYTES: usize = 32;

    fn new(random_bytes: RandomBytes) -> Result<Self, NoRandomBytes> {
        random_bytes.bytes().map(Self)
    }

    fn read(bytes: &[u8]) -> Result<Self, StoreError> {
        bytes.try_into().map(Self).map_err(|_| StoreError::Unreadable)
    }

    /// Returns the store's key of a reference: the first 128 bits of a hash over the secret and the reference.
    fn key(&self, reference: Reference) -> [u8; 16] {
        let digest: [u8; 32] = Sha256::new_with_prefix(self.0).chain_update(reference.0).finalize().into();
        let mut key = [0; 16];
        key.copy_from_slice(&digest[..16]);
        key
    }
}

impl fmt::Debug for HashSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").finish_non_exhaustive()
    }
}

/// An open affinity store, for one user.
#[derive(Debug)]
pub struct OriginStore(Backend);

#[derive(Debug)]
enum Backend {
    Sqlite(Sqlite),
    Redis(Redis),
}

impl OriginStore {
    /// Opens the store and creates the missing parts.
    ///
    /// # Errors
    /// When the store cannot be opened.
    pub async fn open(place: &OriginStoreLocation, random_bytes: RandomBytes) -> Result<Self, StoreError> {
        Ok(Self(match place {
            OriginStoreLocation::Sqlite(path) => Backend::Sqlite(Sqlite::open(path, random_bytes).await?),
            OriginStoreLocation::Redis(place) => Backend::Redis(Redis::open(place, random_bytes).await?),
        }))
    }

    /// Returns the store's hash secret. A different secret means a different store.
    pub fn secret(&self) -> &HashSecret {
        match &self.0 {
            Backend::Sqlite(sqlite) => &sqlite.secret,
            Backend::Redis(redis) => &redis.secret,
        }
    }

    /// Returns which of several replicated servers is in use; empty for a single server.
    pub fn server(&self) -> &str {
        match &self.0 {
            Backend::Sqlite(_) => "",
            Backend::Redis(redis) => &redis.server,
        }
    }

    /// Returns the stored entries of references, in the same order. An empty list only checks whether the store answers.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn recall(
        &mut self,
        references: &[Reference],
        life: EntryLifetime,
    ) -> Result<Vec<Option<StoredOrigin>>, StoreError> {
        let found = match &mut self.0 {
            Backend::Sqlite(sqlite) => sqlite.recall(references).await?,
            Backend::Redis(redis) => redis.recall(references).await?,
        };
        Ok(found.into_iter().map(|entry| entry.filter(|entry| life.lasts(entry.used_s))).collect())
    }

    /// Stores entries. After an error some of them may be stored, and a repeat is safe. The first origin of a reference keeps it
    /// while its entry is valid. Returns that entry where it differs from the new one, in the order of `entries`.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn learn(
        &mut self,
        entries: &[(Reference, StoredOrigin)],
        life: EntryLifetime,
    ) -> Result<Vec<Option<StoredOrigin>>, StoreError> {
        match &mut self.0 {
            Backend::Sqlite(sqlite) => sqlite.learn(entries, life).await,
            Backend::Redis(redis) => redis.learn(entries, life).await,
        }
    }

    /// Deletes a few expired entries, then the oldest entries beyond `most`. Returns whether more entries are to be deleted.
    /// Redis expires entries itself.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn sweep(&mut self, life: EntryLifetime, most: u64) -> Result<bool, StoreError> {
        match &mut self.0 {
            Backend::Sqlite(sqlite) => sqlite.sweep(life, most).await,
            Backend::Redis(_) => Ok(false),
        }
    }

    /// Closes the store cleanly.
    pub async fn close(self) {
        match self.0 {
            Backend::Sqlite(sqlite) => sqlite.close().await,
            Backend::Redis(_) => {}
        }
    }
}

/// The length of a stored origin, in bytes.
const ORIGIN: usize = 24;

fn origin_bytes(origin: Origin) -> [u8; ORIGIN] {
    let mut bytes = [0; ORIGIN];
    let parts = [origin.account, origin.owner.key, origin.owner.group];
    for (place, part) in bytes.chunks_exact_mut(8).zip(parts) {
        place.copy_from_slice(&part.to_be_bytes());
    }
    bytes
}

fn origin_of(parts: [u64; 3]) -> Origin {
    let [account, key, group] = parts;
    Origin { account, owner: Owner { key, group } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_lives_as_long_as_it_is_used() {
        let life = EntryLifetime { now_s: 1000, ttl_s: 100 };
        for (used_s, lasts) in [(899, false), (900, false), (901, true), (1000, true), (1100, true)] {
            assert_eq!((life.lasts(used_s), used_s >= life.since()), (lasts, lasts), "{used_s}");
        }
        assert!(EntryLifetime { now_s: 10, ttl_s: 100 }.lasts(5), "a clock near its beginning");
        assert_eq!(life.rest(u32::MAX), 100, "a clock that was ahead");
    }

    #[test]
    fn a_key_is_of_a_reference_and_a_store() {
        let (one, other) = (HashSecret([1; 32]), HashSecret([2; 32]));
        let (a, b) = (Reference([1; 16]), Reference([2; 16]));
        assert_eq!(one.key(a), one.key(a));
        assert_ne!(one.key(a), one.key(b));
        assert_ne!(one.key(a), other.key(a));
        assert_ne!(one.key(a), a.0);
        assert_eq!(format!("{one:?}"), "Secret { .. }");
    }
}
