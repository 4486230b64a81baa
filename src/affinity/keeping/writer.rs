//! Writes what was learned to the store, and sweeps it.

use std::{
    mem,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    select,
    time::{Instant, sleep, timeout},
};

use super::{
    BATCH, END_WITHIN,
    desk::{SLOW, StoreClient, StoreOperation, StoreResult},
};
use crate::{
    domain::origin::Reference,
    store::origins::{HashSecret, StoredOrigin},
};

/// What a store of this process alone is written in one go: nobody waits for it, and it costs less together. What a kill
/// loses is this much.
const GATHER: Duration = Duration::from_millis(50);
/// How often what is too old, or too much, is looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// The task.
pub(super) struct AffinityStoreWriter {
    pub(super) desk: StoreClient,
    /// What is being written.
    pub(super) rows: Vec<(Reference, StoredOrigin)>,
    /// The store that was written last, and which of its servers.
    pub(super) known: Option<(HashSecret, String)>,
    /// The part of memory that is written next to a store that lost what it had; none where it has everything.
    pub(super) again: Option<usize>,
    pub(super) swept: Instant,
    /// How many had not been let wait when all of memory was written last.
    pub(super) dropped: u64,
}

impl AffinityStoreWriter {
    pub(super) async fn run(mut self) {
        let origins = Arc::clone(&self.desk.origins);
        while !self.desk.has_ended() {
            let mut ended = self.desk.ended.clone();
            if self.again.is_none() && self.desk.failures == 0 {
                select! {
                    _ = ended.wait_for(|ended| *ended) => {}
                    () = origins.waiting.came.notified() => {}
                    () = sleep(SWEEP_EVERY) => {}
                }
                if !origins.is_shared {
                    let _ = timeout(GATHER, ended.wait_for(|ended| *ended)).await;
                }
            }
            if !(self.write_all().await && self.write_again().await && self.sweep().await) {
                self.desk.pause().await;
            }
        }
        let waits = origins.condition.waiting.load(Ordering::Relaxed) > 0;
        if waits && !timeout(END_WITHIN, self.write_all()).await.unwrap_or(false) {
            tracing::warn!(store = %self.desk.place, "the last affinity entries were not written: after a restart their ids are unknown");
        }
        self.desk.close().await;
    }

    /// Writes what waits, or else finds out how the store is. Returned is whether all is well.
    async fn write_all(&mut self) -> bool {
        let origins = Arc::clone(&self.desk.origins);
        let mut written = 0;
        loop {
            if self.rows.is_empty() {
                self.rows = origins.waiting.first(BATCH);
            }
            if self.rows.is_empty() && written > 0 && self.desk.failures == 0 {
                return true;
            }
            let rows = mem::take(&mut self.rows);
            if !self.write(&rows).await {
                self.rows = rows;
                return false;
            }
            if rows.is_empty() {
                return self.desk.failures == 0;
            }
            written += rows.len();
            origins.waiting.is_written(rows.len(), &origins.condition);
        }
    }

    /// Writes rows. Returned is whether they are written.
    async fn write(&mut self, rows: &[(Reference, StoredOrigin)]) -> bool {
        let origins = Arc::clone(&self.desk.origins);
        // Nobody waits for a store of this process alone.
        let slow = || {
            if origins.is_shared {
                origins.fails(StoreOperation::Written, true);
            }
        };
        let others = match self.desk.work(slow, async |store, life| store.learn(rows, life).await).await {
            StoreResult::Slowly(others) if origins.is_shared => {
                self.desk.fails(SLOW);
                others
            }
            StoreResult::Quickly(others) | StoreResult::Slowly(others) => {
                self.desk.works();
                others
            }
            StoreResult::Failed(error) => {
                self.desk.fails(error);
                return false;
            }
        };
        for ((reference, _), other) in rows.iter().zip(others) {
            if let Some(other) = other {
                origins.condition.foreign.fetch_add(1, Ordering::Relaxed);
                origins.memory.take(*reference, other);
            }
        }
        self.compare();
        true
    }

    /// Where this is another store than before, it was emptied: all that is in memory is written to it. So it is where a replica
    /// took the place of the master, which may not have told it of the last entries, and where more was learned than could wait.
    fn compare(&mut self) {
        let dropped = self.desk.origins.condition.dropped.load(Ordering::Relaxed);
        if dropped > mem::replace(&mut self.dropped, dropped) {
            self.again = Some(0);
        }
        let here = self.desk.store.as_ref().map(|store| (store.secret().clone(), store.server().to_owned()));
        if let Some(here) = here.filter(|here| self.known.as_ref() != Some(here))
            && self.known.replace(here).is_some()
        {
            let store = &self.desk.place;
            tracing::warn!(%store, "the affinity store may have lost data: Tidegate writes the entries of its memory to the store again");
            self.again = Some(0);
        }
    }

    /// Writes the next part of memory to a store that lost it. Returned is whether that went well.
    async fn write_again(&mut self) -> bool {
        let Some(part) = self.again else { return true };
        self.again = Some(part + 1);
        let Some(rows) = self.desk.origins.memory.all_of(part) else {
            self.again = None;
            return true;
        };
        for rows in rows.chunks(BATCH) {
            if !self.write(rows).await {
                // Also where it was lost once more meanwhile, which the next write finds out.
                self.again = Some(part);
                return false;
            }
        }
        true
    }

    /// Deletes what is too old or too much, a part at a time. Returned is whether that went well.
    async fn sweep(&mut self) -> bool {
        if self.swept.elapsed() < SWEEP_EVERY {
            return true;
        }
        let most = self.desk.origins.most_rows.load(Ordering::Relaxed);
        while !self.desk.has_ended() {
            match self.desk.work(|| (), async |store, life| store.sweep(life, most).await).await {
                StoreResult::Quickly(true) | StoreResult::Slowly(true) => {}
                StoreResult::Quickly(false) | StoreResult::Slowly(false) => break,
                StoreResult::Failed(error) => {
                    self.desk.fails(error);
                    return false;
                }
            }
            if !self.write_all().await {
                return false;
            }
        }
        self.swept = Instant::now();
        true
    }
}
