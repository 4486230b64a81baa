//! Writes new entries to the store, and deletes old ones.

use std::{
    mem,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    select,
    time::{Instant, sleep, timeout},
};

use super::client::{BATCH, StoreClient, StoreOperation, StoreResult, TOO_SLOW};
use crate::{
    domain::origin::Reference,
    store::origins::{HashSecret, StoredOrigin},
};

/// The delay that gathers entries for an unshared store. No answer waits for that store, and fewer writes cost less. A killed
/// process loses this much.
const GATHER_DELAY: Duration = Duration::from_millis(50);
/// The longest time at the shutdown for writing the waiting entries to the affinity store.
pub(super) const END_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the writer looks at a shared store without new entries. The store may have lost entries of this process: Redis was emptied, or
/// the server that had the last entries is no longer the master.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How often expired and surplus rows are deleted.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// The task that writes new entries to the affinity store and deletes old ones.
pub(super) struct AffinityStoreWriter {
    pub(super) client: StoreClient,
    /// The entries that are being written.
    pub(super) rows: Vec<(Reference, StoredOrigin)>,
    /// The store and the server of the last write.
    pub(super) known: Option<(HashSecret, String)>,
    /// The next part of memory to write to a store that lost its data. `None` = the store has everything.
    pub(super) again: Option<usize>,
    pub(super) swept: Instant,
    /// The dropped entries at the last check. More of them mean that all of memory must be written.
    pub(super) dropped: u64,
}

impl AffinityStoreWriter {
    /// Writes new entries to the affinity store and deletes old ones until the shutdown.
    pub(super) async fn run(mut self) {
        let origins = Arc::clone(&self.client.origins);
        let longest_sleep = if origins.is_shared { CHECK_INTERVAL } else { SWEEP_INTERVAL };
        while !self.client.has_ended() {
            let mut ended = self.client.ended.clone();
            if self.again.is_none() && self.client.failures == 0 {
                select! {
                    _ = ended.wait_for(|ended| *ended) => {}
                    () = origins.waiting.arrived.notified() => {}
                    () = sleep(longest_sleep) => {}
                }
                if !origins.is_shared {
                    let _ = timeout(GATHER_DELAY, ended.wait_for(|ended| *ended)).await;
                }
            }
            if !(self.write_all().await && self.write_again().await && self.sweep().await) {
                self.client.pause().await;
            }
        }
        let waits = origins.status.waiting.load(Ordering::Relaxed) > 0;
        if waits && !timeout(END_TIMEOUT, self.write_all()).await.unwrap_or(false) {
            tracing::warn!(store = %self.client.location, "the affinity store did not take the newest ids before the \
                shutdown: after a restart, Tidegate does not know which account owns these ids. Check the store");
        }
        self.client.close().await;
    }

    /// Writes the waiting entries, or tests the store if there are none. Returns whether the store works.
    async fn write_all(&mut self) -> bool {
        let origins = Arc::clone(&self.client.origins);
        let mut written = 0;
        loop {
            if self.rows.is_empty() {
                self.rows = origins.waiting.first(BATCH);
            }
            if self.rows.is_empty() && written > 0 && self.client.failures == 0 {
                return true;
            }
            let rows = mem::take(&mut self.rows);
            if !self.write(&rows).await {
                self.rows = rows;
                return false;
            }
            if rows.is_empty() {
                return self.client.failures == 0;
            }
            written += rows.len();
            origins.waiting.is_written(rows.len(), &origins.status);
        }
    }

    /// Writes entries. Returns whether they are written.
    async fn write(&mut self, rows: &[(Reference, StoredOrigin)]) -> bool {
        let origins = Arc::clone(&self.client.origins);
        // No answer waits for an unshared store.
        let slow = || {
            if origins.is_shared {
                origins.fails(StoreOperation::Write, true);
            }
        };
        let others = match self.client.run(slow, async |store, life| store.learn(rows, life).await).await {
            StoreResult::Late(others) if origins.is_shared => {
                self.client.mark_failing(TOO_SLOW);
                others
            }
            StoreResult::InTime(others) | StoreResult::Late(others) => {
                self.client.mark_working();
                others
            }
            StoreResult::Failed(error) => {
                self.client.mark_failing(error);
                return false;
            }
        };
        for ((reference, _), other) in rows.iter().zip(others) {
            if let Some(other) = other {
                origins.status.foreign.fetch_add(1, Ordering::Relaxed);
                origins.memory.take(*reference, other);
            }
        }
        self.compare();
        true
    }

    /// Starts to write all of memory again where the store is another one than before, because it may lack entries. A promoted
    /// Redis replica is another server and may lack the last entries. The same applies after dropped entries.
    fn compare(&mut self) {
        let dropped = self.client.origins.status.dropped.load(Ordering::Relaxed);
        if dropped > mem::replace(&mut self.dropped, dropped) {
            self.again = Some(0);
        }
        let here = self.client.store.as_ref().map(|store| (store.secret().clone(), store.server()));
        if let Some(here) = here.filter(|here| self.known.as_ref() != Some(here))
            && self.known.replace(here).is_some()
        {
            let store = &self.client.location;
            tracing::warn!(%store, "the server or file of the affinity store was replaced, so the store may have lost ids: \
                Tidegate writes the ids that are still in memory to the store. Nothing needs to be done");
            self.again = Some(0);
        }
    }

    /// Writes the next part of memory to a store that lost its data. Returns whether the write succeeded.
    async fn write_again(&mut self) -> bool {
        let Some(part) = self.again else { return true };
        self.again = Some(part + 1);
        let Some(rows) = self.client.origins.memory.all_of(part) else {
            self.again = None;
            return true;
        };
        for rows in rows.chunks(BATCH) {
            if !self.write(rows).await {
                // This part is due again, also if the store lost its data once more. The next write notices that.
                self.again = Some(part);
                return false;
            }
        }
        true
    }

    /// Deletes expired and surplus rows, a part at a time. Returns whether that succeeded.
    async fn sweep(&mut self) -> bool {
        if self.swept.elapsed() < SWEEP_INTERVAL {
            return true;
        }
        let most = self.client.origins.max_rows.load(Ordering::Relaxed);
        while !self.client.has_ended() {
            match self.client.run(|| (), async |store, life| store.sweep(life, most).await).await {
                StoreResult::InTime(true) | StoreResult::Late(true) => {}
                StoreResult::InTime(false) | StoreResult::Late(false) => break,
                StoreResult::Failed(error) => {
                    self.client.mark_failing(error);
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
