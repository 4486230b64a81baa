//! Answers lookups from the store.

use std::{sync::Arc, time::Duration};

use tokio::{select, time::sleep};

use super::desk::{BATCH, SLOW, StoreClient, StoreOperation, StoreResult};
use crate::{
    affinity::{AffinityMemory, lookups::LookupBatch},
    store::origins::StoreError,
};

/// How often the reader looks in a shared store for rare events of other replicas, if no lookup arrives.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The task that reads.
pub(super) struct AffinityStoreReader {
    pub(super) desk: StoreClient,
}

impl AffinityStoreReader {
    /// Opens the store, and reads the rare events of the past.
    pub(super) async fn begin(&mut self) {
        self.desk.begin().await;
        if self.desk.failures == 0 {
            self.look().await;
        }
    }

    /// Tests the store, and reads the rare events of other replicas. Returns whether the store works.
    async fn look(&mut self) -> bool {
        let origins = Arc::clone(&self.desk.origins);
        let asked = origins.met.open();
        match self.desk.work(|| (), async |store, life| store.recall(&asked, life).await).await {
            StoreResult::Quickly(found) => {
                origins.met.hear(&asked, &found);
                return true;
            }
            StoreResult::Slowly(_) => self.desk.fails(SLOW),
            StoreResult::Failed(error) => {
                self.desk.fails(error);
                self.desk.pause().await;
            }
        }
        false
    }

    pub(super) async fn run(mut self) {
        // The store could not be opened.
        if self.desk.failures > 0 {
            self.recover().await;
        }
        let origins = Arc::clone(&self.desk.origins);
        loop {
            let looks = origins.is_shared && !origins.met.open().is_empty();
            let batch = select! {
                biased;
                _ = self.desk.ended.wait_for(|ended| *ended) => break,
                batch = origins.lookups.next(BATCH) => Some(batch),
                () = sleep(LOOK_EVERY), if looks => None,
            };
            let is_well = match batch {
                Some(batch) => self.answer(&origins, batch).await,
                None => self.look().await,
            };
            if !is_well {
                self.recover().await;
            }
        }
        origins.lookups.clear();
        self.desk.close().await;
    }

    /// Answers a batch of lookups. Returns whether the store works.
    async fn answer(&mut self, origins: &AffinityMemory, mut batch: LookupBatch) -> bool {
        let (asked, open) = (batch.references.len(), origins.met.open());
        batch.references.extend(&open);
        let slow = || {
            origins.fails(StoreOperation::Read, true);
            // No request waits any longer.
            origins.lookups.clear();
        };
        let references = &batch.references;
        match self.desk.work(slow, async |store, life| store.recall(references, life).await).await {
            StoreResult::Quickly(found) => {
                origins.met.hear(&open, found.get(asked..).unwrap_or_default());
                origins.lookups.answer(batch, found);
                true
            }
            StoreResult::Slowly(_) => {
                self.desk.fails(SLOW);
                false
            }
            StoreResult::Failed(error) => {
                if matches!(error, StoreError::Another) {
                    // The writer must notice the replaced store too.
                    origins.waiting.came.notify_one();
                }
                self.desk.fails(error);
                false
            }
        }
    }

    /// Tries until the store answers in time.
    async fn recover(&mut self) {
        let origins = Arc::clone(&self.desk.origins);
        while !self.desk.has_ended() {
            // Ends lookups that were queued before the failure was known.
            origins.lookups.clear();
            if self.look().await {
                return self.desk.works();
            }
        }
    }
}
