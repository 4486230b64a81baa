//! Where state came from, kept: in SQLite, a file in the data folder, or in Redis, which several replicas share. Never used
//! on a worker's thread.
//!
//! A reference is kept as a keyed hash. The key is 256 random bits, made where there is none yet, and lies in the store
//! itself: ids cannot be read in it, and rows of one store mean nothing beside those of another. Who has all of a store can
//! still find out whether an id that he knows already is in it.
//!
//! To add a backend: a file with the same five functions, an arm in [`OriginStoreLocation`] and in each function here, a line in the suite
//! that every backend passes (`tests/it/origins.rs`).

mod redis;
mod sqlite;

use std::{fmt, path::PathBuf};

use sha2::{Digest, Sha256};

use crate::{
    config::{self, Config},
    domain::{
        chance::{Chance, NoChance},
        origin::{Origin, Owner, Reference},
    },
    store::redis::LinkError,
};

use self::{redis::Redis, sqlite::Sqlite};

/// SQLite's file in the data folder. It is not the ledger's: rows come and go here by the million, and whoever keeps the
/// ledger in PostgreSQL has this one too.
pub const FILE: &str = "origins.db";

/// Where they are kept.
#[derive(Clone, Debug)]
pub enum OriginStoreLocation {
    /// SQLite, in this file.
    Sqlite(PathBuf),
    /// Redis.
    Redis(config::RedisSettings),
}

impl OriginStoreLocation {
    /// The one of a configuration.
    pub fn of(config: &Config) -> Self {
        match &config.sharing {
            Some(sharing) if config.affinity.shared => Self::Redis(sharing.redis.clone()),
            _ => Self::Sqlite(config.server.data_dir.join(FILE)),
        }
    }

    /// Whether others may learn what is kept here.
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::Redis(_))
    }
}

/// For people.
impl fmt::Display for OriginStoreLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => path.display().fmt(f),
            Self::Redis(redis) => redis.fmt(f),
        }
    }
}

/// What is remembered of a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredOrigin {
    /// Where it came from.
    pub origin: Origin,
    /// When it was learned, or used by who may use it: seconds since 1970-01-01 UTC.
    pub used_s: u32,
}

/// What an entry lives by.
#[derive(Clone, Copy, Debug)]
pub struct EntryLifetime {
    /// Now: seconds since 1970-01-01 UTC.
    pub now_s: u32,
    /// How long it is remembered after it was used.
    pub ttl_s: u32,
}

impl EntryLifetime {
    /// Whether an entry that was used then is remembered.
    pub fn lasts(self, used_s: u32) -> bool {
        self.rest(used_s) > 0
    }

    /// For how long yet.
    fn rest(self, used_s: u32) -> u32 {
        used_s.saturating_add(self.ttl_s).saturating_sub(self.now_s).min(self.ttl_s)
    }

    /// What was used before this is forgotten.
    fn since(self) -> u32 {
        self.now_s.saturating_sub(self.ttl_s).saturating_add(1)
    }
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite.
    #[error(transparent)]
    Sqlite(#[from] sqlx::Error),
    /// Redis.
    #[error(transparent)]
    Redis(#[from] ::redis::RedisError),
    /// The way to Redis.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// Neither there nor to be made.
    #[error(transparent)]
    NoSecret(#[from] NoChance),
    /// It was emptied, or is another one: what it holds is under keys that are not known.
    #[error("it is not the one that was opened")]
    Another,
    /// Nobody knows what is in it.
    #[error("it holds what this version cannot read")]
    Unreadable,
    /// What is left of its memory is for others.
    #[error("three quarters of its memory are used")]
    Full,
    /// It did not come to an end.
    #[error("it did not answer in time")]
    Silent,
}

/// What makes references into keys of one store.
#[derive(Clone, PartialEq, Eq)]
pub struct HashSecret([u8; Self::BYTES]);

impl HashSecret {
    const BYTES: usize = 32;

    fn new(chance: Chance) -> Result<Self, NoChance> {
        chance.bytes().map(Self)
    }

    fn read(bytes: &[u8]) -> Result<Self, StoreError> {
        bytes.try_into().map(Self).map_err(|_| StoreError::Unreadable)
    }

    /// The key of a reference: the first 128 bits of a hash over both.
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

/// A store, open for one user.
#[derive(Debug)]
pub struct OriginStore(Backend);

#[derive(Debug)]
enum Backend {
    Sqlite(Sqlite),
    Redis(Redis),
}

impl OriginStore {
    /// Opens it, makes what is missing.
    ///
    /// # Errors
    /// When that cannot be done.
    pub async fn open(place: &OriginStoreLocation, chance: Chance) -> Result<Self, StoreError> {
        Ok(Self(match place {
            OriginStoreLocation::Sqlite(path) => Backend::Sqlite(Sqlite::open(path, chance).await?),
            OriginStoreLocation::Redis(place) => Backend::Redis(Redis::open(place, chance).await?),
        }))
    }

    /// What its keys are made with: another one says that it is another store.
    pub fn secret(&self) -> &HashSecret {
        match &self.0 {
            Backend::Sqlite(sqlite) => &sqlite.secret,
            Backend::Redis(redis) => &redis.secret,
        }
    }

    /// Which of several servers it is, one of which takes the place of another; empty where there is one.
    pub fn server(&self) -> &str {
        match &self.0 {
            Backend::Sqlite(_) => "",
            Backend::Redis(redis) => &redis.server,
        }
    }

    /// What is remembered of references, each in its place. Of none it only tells whether the store answers.
    ///
    /// # Errors
    /// When it cannot be read.
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

    /// Remembers entries; after an error some of them may be, and it can be done again. Returned is, each in its place, what
    /// stays instead where a reference is of another origin already: the first one keeps it while it lives.
    ///
    /// # Errors
    /// When it cannot be written.
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

    /// Forgets a few of those that are forgotten anyway, then of the oldest ones beyond `most`. Returned is whether there are
    /// more. Redis does that by itself.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn sweep(&mut self, life: EntryLifetime, most: u64) -> Result<bool, StoreError> {
        match &mut self.0 {
            Backend::Sqlite(sqlite) => sqlite.sweep(life, most).await,
            Backend::Redis(_) => Ok(false),
        }
    }

    /// Closes it in order.
    pub async fn close(self) {
        match self.0 {
            Backend::Sqlite(sqlite) => sqlite.close().await,
            Backend::Redis(_) => {}
        }
    }
}

/// An origin in so many bytes.
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
