//! The store client: opens the store, runs operations, and tracks failures.

use std::{
    fmt, mem,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    pin,
    sync::{Mutex, watch},
    time::timeout,
};

use crate::{
    affinity::AffinityMemory,
    domain::{clock::Clock, random::RandomBytes},
    store::origins::{EntryLifetime, OriginStore, OriginStoreLocation, StoreError},
};

/// The longest time of one operation. After that the connection is opened again.
const LIMIT: Duration = Duration::from_secs(5);
/// The most references of one read or write.
pub(super) const BATCH: usize = 500;
/// The pause between two tries while the store fails.
const TRY_AGAIN: Duration = Duration::from_millis(200);

/// The kind of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StoreOperation {
    Read,
    Written,
}

/// The connection of one task to the store.
pub(super) struct StoreClient {
    pub(super) what: StoreOperation,
    pub(super) place: OriginStoreLocation,
    pub(super) random_bytes: RandomBytes,
    pub(super) clock: Clock,
    pub(super) origins: Arc<AffinityMemory>,
    /// Only one client opens the store at a time, because the first one creates the tables.
    pub(super) opening: Arc<Mutex<()>>,
    pub(super) ended: watch::Receiver<bool>,
    pub(super) store: Option<OriginStore>,
    /// Failures since the last success.
    pub(super) failures: u32,
}

/// The result of an operation.
pub(super) enum StoreResult<T> {
    /// The operation ended in time.
    Quickly(T),
    /// The operation ended late.
    Slowly(T),
    /// The operation failed.
    Failed(StoreError),
}

pub(super) const SLOW: &str = "it took longer than anybody waits";

impl StoreClient {
    pub(super) fn has_ended(&self) -> bool {
        // Also true without a sender, which a failed start drops.
        *self.ended.borrow() || self.ended.has_changed().is_err()
    }

    async fn open(&mut self) -> Result<&mut OriginStore, StoreError> {
        if self.store.is_none() {
            let _one = self.opening.lock().await;
            self.store = Some(OriginStore::open(&self.place, self.random_bytes).await?);
        }
        self.store.as_mut().ok_or(StoreError::Silent)
    }

    /// Opens the store for the first time, which may take longer than any later operation.
    pub(super) async fn begin(&mut self) {
        if let Err(error) = timeout(LIMIT, self.open()).await.unwrap_or(Err(StoreError::Silent)) {
            self.fails(error);
        }
    }

    /// Runs an operation. If it takes longer than any request waits, calls `slow` and then continues.
    pub(super) async fn work<T>(
        &mut self,
        slow: impl FnOnce(),
        work: impl AsyncFnOnce(&mut OriginStore, EntryLifetime) -> Result<T, StoreError>,
    ) -> StoreResult<T> {
        let (life, patience) = (self.origins.life(self.clock.since_epoch()), self.origins.patience());
        let outcome = {
            let working = async { work(self.open().await?, life).await };
            pin!(working);
            match timeout(patience, &mut working).await {
                Ok(worked) => worked.map(StoreResult::Quickly),
                Err(_) => {
                    slow();
                    timeout(LIMIT, working).await.unwrap_or(Err(StoreError::Silent)).map(StoreResult::Slowly)
                }
            }
        };
        outcome.unwrap_or_else(|error| {
            // The operation may have stopped in the middle, so the connection cannot be used again.
            self.store = None;
            StoreResult::Failed(error)
        })
    }

    /// Marks the store as failing, so that no request waits for it. A single failure is not logged.
    pub(super) fn fails(&mut self, why: impl fmt::Display) {
        self.origins.fails(self.what, true);
        self.failures = self.failures.saturating_add(1);
        if self.failures == 2 {
            let store = &self.place;
            match self.what {
                StoreOperation::Read => {
                    tracing::error!(%store, %why, "affinity store reads are failing: requests no longer wait for the store")
                }
                StoreOperation::Written => {
                    tracing::error!(%store, %why, "affinity store writes are failing: new entries wait in memory")
                }
            }
        }
    }

    /// Marks the store as working.
    pub(super) fn works(&mut self) {
        self.origins.fails(self.what, false);
        if mem::take(&mut self.failures) >= 2 {
            let store = &self.place;
            match self.what {
                StoreOperation::Read => tracing::info!(%store, "affinity store reads work again"),
                StoreOperation::Written => tracing::info!(%store, "affinity store writes work again"),
            }
        }
    }

    pub(super) async fn pause(&mut self) {
        let _ = timeout(TRY_AGAIN, self.ended.wait_for(|ended| *ended)).await;
    }

    pub(super) async fn close(&mut self) {
        if let Some(store) = self.store.take() {
            store.close().await;
        }
    }
}

impl AffinityMemory {
    pub(super) fn fails(&self, what: StoreOperation, fails: bool) {
        match what {
            StoreOperation::Read => self.condition.read_fails.store(fails, Ordering::Relaxed),
            StoreOperation::Written => {
                self.condition.write_fails.store(fails, Ordering::Relaxed);
                self.waiting.fails(fails);
            }
        }
    }
}
