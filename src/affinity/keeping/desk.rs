//! One end of the store: opens it, works with it, and knows how it is.

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
    domain::{chance::Chance, clock::Clock},
    store::origins::{EntryLifetime, OriginStore, OriginStoreLocation, StoreError},
};

/// What does not answer for so long will not, and is opened anew.
const LIMIT: Duration = Duration::from_secs(5);
/// A store that is away is tried again this often.
const TRY_AGAIN: Duration = Duration::from_millis(200);

/// What is done with a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StoreOperation {
    Read,
    Written,
}

/// One end of the store.
pub(super) struct StoreClient {
    pub(super) what: StoreOperation,
    pub(super) place: OriginStoreLocation,
    pub(super) chance: Chance,
    pub(super) clock: Clock,
    pub(super) origins: Arc<AffinityMemory>,
    /// One opens at a time: who comes first makes the tables.
    pub(super) opening: Arc<Mutex<()>>,
    pub(super) ended: watch::Receiver<bool>,
    pub(super) store: Option<OriginStore>,
    /// How often it failed since it worked last.
    pub(super) failures: u32,
}

/// What came of a piece of work.
pub(super) enum StoreResult<T> {
    /// In time.
    Quickly(T),
    /// It came to its end.
    Slowly(T),
    /// It did not.
    Failed(StoreError),
}

pub(super) const SLOW: &str = "it took longer than anybody waits";

impl StoreClient {
    pub(super) fn has_ended(&self) -> bool {
        // Also where nobody can end it any more, as a start failed.
        *self.ended.borrow() || self.ended.has_changed().is_err()
    }

    async fn open(&mut self) -> Result<&mut OriginStore, StoreError> {
        if self.store.is_none() {
            let _one = self.opening.lock().await;
            self.store = Some(OriginStore::open(&self.place, self.chance).await?);
        }
        self.store.as_mut().ok_or(StoreError::Silent)
    }

    /// Opens it for the first time, which may take longer than anything later.
    pub(super) async fn begin(&mut self) {
        if let Err(error) = timeout(LIMIT, self.open()).await.unwrap_or(Err(StoreError::Silent)) {
            self.fails(error);
        }
    }

    /// Works with the store. When that has taken as long as anybody waits, `slow` hears of it, and it goes on.
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
            // Whatever it was in the middle of: nothing else can follow on this connection.
            self.store = None;
            StoreResult::Failed(error)
        })
    }

    /// From now on nobody waits for it. One failure after which it works again is not worth a line in the log.
    pub(super) fn fails(&mut self, why: impl fmt::Display) {
        self.origins.fails(self.what, true);
        self.failures = self.failures.saturating_add(1);
        if self.failures == 2 {
            let store = &self.place;
            match self.what {
                StoreOperation::Read => {
                    tracing::error!(%store, %why, "where ids came from cannot be looked up: nobody waits for it")
                }
                StoreOperation::Written => {
                    tracing::error!(%store, %why, "where ids came from cannot be kept: it waits in memory")
                }
            }
        }
    }

    /// It is as it should be.
    pub(super) fn works(&mut self) {
        self.origins.fails(self.what, false);
        if mem::take(&mut self.failures) >= 2 {
            let store = &self.place;
            match self.what {
                StoreOperation::Read => tracing::info!(%store, "where ids came from can be looked up again"),
                StoreOperation::Written => tracing::info!(%store, "where ids came from is kept again"),
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
