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
const OPERATION_TIMEOUT: Duration = Duration::from_secs(5);
/// The most references of one read or write of the affinity store.
pub(super) const BATCH: usize = 500;
/// The pause between two tries while the store fails.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Whether a connection to the affinity store reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StoreOperation {
    Read,
    Write,
}

/// The connection of one task to the affinity store. It opens the store, runs operations and tracks failures.
pub(super) struct StoreClient {
    pub(super) operation: StoreOperation,
    pub(super) location: OriginStoreLocation,
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

/// The result of an operation on the affinity store: in time, late or failed.
pub(super) enum StoreResult<T> {
    /// The operation ended in time.
    InTime(T),
    /// The operation ended late.
    Late(T),
    /// The operation failed.
    Failed(StoreError),
}

/// Text for the log: why a slow affinity store counts as failing.
pub(super) const TOO_SLOW: &str = "the operation on the affinity store took longer than any request waits";

impl StoreClient {
    /// Whether the thread of the affinity store must end.
    pub(super) fn has_ended(&self) -> bool {
        // Also true without a sender, which a failed start drops.
        *self.ended.borrow() || self.ended.has_changed().is_err()
    }

    async fn open(&mut self) -> Result<&mut OriginStore, StoreError> {
        if self.store.is_none() {
            let _one = self.opening.lock().await;
            self.store = Some(OriginStore::open(&self.location, self.random_bytes).await?);
        }
        self.store.as_mut().ok_or(StoreError::Silent)
    }

    /// Opens the affinity store for the first time, which may take longer than any later operation.
    pub(super) async fn connect(&mut self) {
        if let Err(error) = timeout(OPERATION_TIMEOUT, self.open()).await.unwrap_or(Err(StoreError::Silent)) {
            self.mark_failing(error);
        }
    }

    /// Runs one operation on the affinity store. If it takes longer than any request waits, calls `slow` and then continues.
    pub(super) async fn run<T>(
        &mut self,
        slow: impl FnOnce(),
        work: impl AsyncFnOnce(&mut OriginStore, EntryLifetime) -> Result<T, StoreError>,
    ) -> StoreResult<T> {
        let (life, max_wait) = (self.origins.life(self.clock.since_epoch()), self.origins.max_wait());
        let outcome = {
            let working = async { work(self.open().await?, life).await };
            pin!(working);
            match timeout(max_wait, &mut working).await {
                Ok(worked) => worked.map(StoreResult::InTime),
                Err(_) => {
                    slow();
                    timeout(OPERATION_TIMEOUT, working).await.unwrap_or(Err(StoreError::Silent)).map(StoreResult::Late)
                }
            }
        };
        outcome.unwrap_or_else(|error| {
            // The operation may have stopped in the middle, so the connection cannot be used again.
            self.store = None;
            StoreResult::Failed(error)
        })
    }

    /// Marks the affinity store as failing, so that no request waits for it. A single failure is not logged.
    pub(super) fn mark_failing(&mut self, why: impl fmt::Display) {
        self.origins.fails(self.operation, true);
        self.failures = self.failures.saturating_add(1);
        if self.failures == 2 {
            let store = &self.location;
            match self.operation {
                StoreOperation::Read => {
                    tracing::error!(%store, %why, "affinity store reads are failing (the store knows which provider account \
                        owns which id): requests no longer wait for the store, and ids that are not in memory cannot \
                        be found. Check the store")
                }
                StoreOperation::Write => {
                    tracing::error!(%store, %why, "affinity store writes are failing (the store knows which provider account \
                        owns which id): new ids wait in memory, and a restart now loses these ids. Check the store")
                }
            }
        }
    }

    /// Marks the affinity store as working, after an operation in time.
    pub(super) fn mark_working(&mut self) {
        self.origins.fails(self.operation, false);
        if mem::take(&mut self.failures) >= 2 {
            let store = &self.location;
            match self.operation {
                StoreOperation::Read => {
                    tracing::info!(%store, "affinity store reads work again: requests can find all stored ids. Nothing \
                        needs to be done")
                }
                StoreOperation::Write => {
                    tracing::info!(%store, "affinity store writes work again: Tidegate writes the ids that wait in \
                        memory. Nothing needs to be done")
                }
            }
        }
    }

    /// Waits a moment before the next try at a failing affinity store. The shutdown ends the wait.
    pub(super) async fn pause(&mut self) {
        let _ = timeout(RETRY_PAUSE, self.ended.wait_for(|ended| *ended)).await;
    }

    /// Closes the connection to the affinity store.
    pub(super) async fn close(&mut self) {
        if let Some(store) = self.store.take() {
            store.close().await;
        }
    }
}

impl AffinityMemory {
    /// Records whether reads from, or writes to, the affinity store fail.
    pub(super) fn fails(&self, operation: StoreOperation, fails: bool) {
        match operation {
            StoreOperation::Read => self.status.read_fails.store(fails, Ordering::Relaxed),
            StoreOperation::Write => {
                self.status.write_fails.store(fails, Ordering::Relaxed);
                self.waiting.fails(fails);
            }
        }
    }
}
