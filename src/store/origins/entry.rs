//! The data of the affinity store: its location, its entries, the secret of its hashes, and its errors.

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

/// Name of the SQLite file of the affinity store, in the data folder. The ledger's file is another one: millions of these rows come and
/// go, and this file also exists if the ledger is in PostgreSQL.
pub const FILE: &str = "origins.db";

/// Where the affinity store is: an SQLite file or Redis. The affinity store knows which account and owner each id belongs to.
#[derive(Clone, Debug)]
pub enum OriginStoreLocation {
    /// SQLite, in this file.
    Sqlite(PathBuf),
    /// Redis.
    Redis(config::RedisSettings),
}

impl OriginStoreLocation {
    /// Returns where the affinity store is by the configuration: in Redis if replicas share ids, and else in an SQLite file.
    pub fn of(config: &Config) -> Self {
        match &config.sharing {
            Some(sharing) if config.affinity.shared => Self::Redis(sharing.redis.clone()),
            _ => Self::Sqlite(config.server.data_dir.join(FILE)),
        }
    }

    /// Whether several replicas use the same affinity store, which is the case in Redis.
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

/// An entry of the affinity store: the account and the owner of one id, and when the id was used last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredOrigin {
    /// The account and the owner.
    pub origin: Origin,
    /// The last time when the reference was learned, or used by a permitted key: seconds since 1970-01-01 UTC.
    pub used_s: u32,
}

/// The current time and the lifetime of entries in the affinity store. Together they decide whether an entry is still valid.
#[derive(Clone, Copy, Debug)]
pub struct EntryLifetime {
    /// The current time: seconds since 1970-01-01 UTC.
    pub now_s: u32,
    /// How long an entry stays valid after its last use, in seconds.
    pub ttl_s: u32,
}

impl EntryLifetime {
    /// Whether an entry of the affinity store that was last used at `used_s` (seconds since 1970-01-01 UTC) is still valid.
    pub fn lasts(self, used_s: u32) -> bool {
        self.rest(used_s) > 0
    }

    /// Returns how many seconds the entry stays valid.
    pub(super) fn rest(self, used_s: u32) -> u32 {
        used_s.saturating_add(self.ttl_s).saturating_sub(self.now_s).min(self.ttl_s)
    }

    /// Returns the earliest last use of a valid entry.
    pub(super) fn since(self) -> u32 {
        self.now_s.saturating_sub(self.ttl_s).saturating_add(1)
    }
}

/// Why the affinity store failed. The affinity store knows which account and owner each id belongs to.
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
    #[error("the affinity store was emptied or replaced after Tidegate opened the store")]
    Another,
    /// The store has an unknown format.
    #[error("the affinity store contains data that this version of Tidegate cannot read")]
    Unreadable,
    /// The rest of Redis's memory is reserved for limits.
    #[error(
        "the affinity store is full, because three quarters of the memory of Redis are used. Raise `maxmemory` of Redis"
    )]
    Full,
    /// The store did not answer in time.
    #[error("the affinity store did not answer in time")]
    Silent,
}

/// The random secret with which one affinity store hashes ids, so that nobody can read ids in the store.
#[derive(Clone, PartialEq, Eq)]
pub struct HashSecret(pub(super) [u8; Self::BYTES]);

impl HashSecret {
    pub(super) const BYTES: usize = 32;

    pub(super) fn new(random_bytes: RandomBytes) -> Result<Self, NoRandomBytes> {
        random_bytes.bytes().map(Self)
    }

    pub(super) fn read(bytes: &[u8]) -> Result<Self, StoreError> {
        bytes.try_into().map(Self).map_err(|_| StoreError::Unreadable)
    }

    /// Returns the store's key of a reference: the first 128 bits of a hash over the secret and the reference.
    pub(super) fn key(&self, reference: Reference) -> [u8; 16] {
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

/// The length of a stored origin, in bytes.
pub(super) const ORIGIN: usize = 24;

pub(super) fn origin_bytes(origin: Origin) -> [u8; ORIGIN] {
    let mut bytes = [0; ORIGIN];
    let parts = [origin.account, origin.owner.key, origin.owner.group];
    for (place, part) in bytes.chunks_exact_mut(8).zip(parts) {
        place.copy_from_slice(&part.to_be_bytes());
    }
    bytes
}

pub(super) fn origin_of(parts: [u64; 3]) -> Origin {
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
