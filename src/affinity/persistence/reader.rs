//! Answers lookups from the store.

use std::{sync::Arc, time::Duration};

use tokio::{select, time::sleep};

use super::client::{BATCH, StoreClient, StoreOperation, StoreResult, TOO_SLOW};
use crate::{
    affinity::{AffinityMemory, lookups::LookupBatch},
    store::origins::StoreError,
};

/// How often the reader looks in a shared store for rare events of other replicas, if no lookup arrives.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// The task that answers lookups of ids from the affinity store.
pub(super) struct AffinityStoreReader {
    pub(super) client: StoreClient,
}

impl AffinityStoreReader {
    /// Opens the affinity store for reading, and reads which rare events happened before.
    pub(super) async fn begin(&mut self) {
        self.client.connect().await;
        if self.client.failures == 0 {
            self.look().await;
        }
    }

    /// Tests the store, and reads the rare events of other replicas. Returns whether the store works.
    async fn look(&mut self) -> bool {
        let origins = Arc::clone(&self.client.origins);
        let asked = origins.rare_events.unknown_marks();
        match self.client.run(|| (), async |store, life| store.recall(&asked, life).await).await {
            StoreResult::InTime(found) => {
                origins.rare_events.record_found(&asked, &found);
                return true;
            }
            StoreResult::Late(_) => self.client.mark_failing(TOO_SLOW),
            StoreResult::Failed(error) => {
                self.client.mark_failing(error);
                self.client.pause().await;
            }
        }
        false
    }

    /// Answers lookups from the affinity store until the shutdown.
    pub(super) async fn run(mut self) {
        // The store could not be opened.
        if self.client.failures > 0 {
            self.recover().await;
        }
        let origins = Arc::clone(&self.client.origins);
        loop {
            let looks = origins.is_shared && !origins.rare_events.unknown_marks().is_empty();
            let batch = select! {
                biased;
                _ = self.client.ended.wait_for(|ended| *ended) => break,
                batch = origins.lookups.next(BATCH) => Some(batch),
                () = sleep(LOOK_INTERVAL), if looks => None,
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
        self.client.close().await;
    }

    /// Answers a batch of lookups. Returns whether the store works.
    async fn answer(&mut self, origins: &AffinityMemory, mut batch: LookupBatch) -> bool {
        let (asked, open) = (batch.references.len(), origins.rare_events.unknown_marks());
        batch.references.extend(&open);
        let slow = || {
            origins.fails(StoreOperation::Read, true);
            // No request waits any longer.
            origins.lookups.clear();
        };
        let references = &batch.references;
        match self.client.run(slow, async |store, life| store.recall(references, life).await).await {
            StoreResult::InTime(found) => {
                origins.rare_events.record_found(&open, found.get(asked..).unwrap_or_default());
                origins.lookups.answer(batch, found);
                true
            }
            StoreResult::Late(_) => {
                self.client.mark_failing(TOO_SLOW);
                false
            }
            StoreResult::Failed(error) => {
                if matches!(error, StoreError::Another) {
                    // The writer must notice the replaced store too.
                    origins.waiting.arrived.notify_one();
                }
                self.client.mark_failing(error);
                false
            }
        }
    }

    /// Tries until the store answers in time.
    async fn recover(&mut self) {
        let origins = Arc::clone(&self.client.origins);
        while !self.client.has_ended() {
            // Ends lookups that were queued before the failure was known.
            origins.lookups.clear();
            if self.look().await {
                return self.client.mark_working();
            }
        }
    }
}
