//! An open affinity store, over one of its backends.

use super::{
    entry::{EntryLifetime, HashSecret, OriginStoreLocation, StoreError, StoredOrigin},
    redis::Redis,
    sqlite::Sqlite,
};
use crate::domain::{origin::Reference, random::RandomBytes};

/// An open connection to the affinity store (an SQLite file or Redis), which knows the account and the owner of each id.
#[derive(Debug)]
pub struct OriginStore(Backend);

#[derive(Debug)]
enum Backend {
    Sqlite(Sqlite),
    Redis(Redis),
}

impl OriginStore {
    /// Opens the affinity store. Creates what is missing there: the file, the tables and the secret of the hashes.
    ///
    /// # Errors
    /// When the store cannot be opened.
    pub async fn open(place: &OriginStoreLocation, random_bytes: RandomBytes) -> Result<Self, StoreError> {
        Ok(Self(match place {
            OriginStoreLocation::Sqlite(path) => Backend::Sqlite(Sqlite::open(path, random_bytes).await?),
            OriginStoreLocation::Redis(place) => Backend::Redis(Redis::open(place, random_bytes).await?),
        }))
    }

    /// Returns the secret with which the affinity store hashes ids. A different secret means that the store was emptied or replaced.
    pub fn secret(&self) -> &HashSecret {
        match &self.0 {
            Backend::Sqlite(sqlite) => &sqlite.secret,
            Backend::Redis(redis) => &redis.secret,
        }
    }

    /// Returns which of several replicated Redis servers the affinity store uses. Empty for a single server and for SQLite.
    pub fn server(&self) -> String {
        match &self.0 {
            Backend::Sqlite(_) => String::new(),
            Backend::Redis(redis) => redis.server(),
        }
    }

    /// Looks up ids in the affinity store. Returns the valid entry of each id, or none, in the same order. An empty list only checks
    /// whether the store answers.
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

    /// Stores the account and the owner of new ids in the affinity store. The first entry of an id stays while it is valid. Returns that
    /// entry where it differs from the new one, in the order of `entries`.
    ///
    /// After an error some of the entries may be stored, and a repeat is safe.
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

    /// Deletes a few expired entries of the affinity store, then the oldest entries beyond `most`. Returns whether more entries are to be
    /// deleted. Redis expires entries itself.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn sweep(&mut self, life: EntryLifetime, most: u64) -> Result<bool, StoreError> {
        match &mut self.0 {
            Backend::Sqlite(sqlite) => sqlite.sweep(life, most).await,
            Backend::Redis(_) => Ok(false),
        }
    }

    /// Closes the affinity store's SQLite file. For Redis, nothing is to be done.
    pub async fn close(self) {
        match self.0 {
            Backend::Sqlite(sqlite) => sqlite.close().await,
            Backend::Redis(_) => {}
        }
    }
}
