//! Answers those who ask the store.

use std::sync::Arc;

use tokio::select;

use super::{
    BATCH,
    desk::{SLOW, StoreClient, StoreOperation, StoreResult},
};
use crate::{
    affinity::{AffinityMemory, lookups::LookupBatch},
    store::origins::StoreError,
};

/// The task.
pub(super) struct AffinityStoreReader {
    pub(super) desk: StoreClient,
}

impl AffinityStoreReader {
    pub(super) async fn run(mut self) {
        // It could not be opened.
        if self.desk.failures > 0 {
            self.recover().await;
        }
        let origins = Arc::clone(&self.desk.origins);
        loop {
            let batch = select! {
                biased;
                _ = self.desk.ended.wait_for(|ended| *ended) => break,
                batch = origins.lookups.next(BATCH) => batch,
            };
            if !self.answer(&origins, batch).await {
                self.recover().await;
            }
        }
        origins.lookups.clear();
        self.desk.close().await;
    }

    /// Reads a batch. Returned is whether the store is as it should be.
    async fn answer(&mut self, origins: &AffinityMemory, batch: LookupBatch) -> bool {
        let slow = || {
            origins.fails(StoreOperation::Read, true);
            // Nobody is held up any longer.
            origins.lookups.clear();
        };
        let references = &batch.references;
        match self.desk.work(slow, async |store, life| store.recall(references, life).await).await {
            StoreResult::Quickly(found) => {
                origins.lookups.answer(batch, found);
                true
            }
            StoreResult::Slowly(_) => {
                self.desk.fails(SLOW);
                false
            }
            StoreResult::Failed(error) => {
                if matches!(error, StoreError::Another) {
                    // Who writes has to find that out as well.
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
            // Those who asked before they could know.
            origins.lookups.clear();
            match self.desk.work(|| (), async |store, life| store.recall(&[], life).await).await {
                StoreResult::Quickly(_) => return self.desk.works(),
                StoreResult::Slowly(_) => self.desk.fails(SLOW),
                StoreResult::Failed(error) => {
                    self.desk.fails(error);
                    self.desk.pause().await;
                }
            }
        }
    }
}
