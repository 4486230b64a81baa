//! Starts and ends the thread of the affinity store.

use std::{
    io,
    sync::{Arc, mpsc as std_mpsc},
    thread,
    time::Duration,
};

use tokio::{
    runtime::Builder,
    sync::{Mutex, watch},
    time::Instant,
};

use super::{
    client::{StoreClient, StoreOperation},
    reader::AffinityStoreReader,
    writer::{AffinityStoreWriter, END_TIMEOUT},
};
use crate::{
    affinity::{AffinityMemory, WAIT_FOR_FILE},
    concurrent::affinity_status::AffinityStatus,
    config,
    domain::{clock::Clock, random::RandomBytes},
    store::origins::OriginStoreLocation,
};

/// The most time that a start waits for the store, so that the first requests find an open store.
const OPEN_TIMEOUT: Duration = Duration::from_secs(1);

/// The thread that reads and writes the affinity store, with its affinity memory. [`end`](Self::end) ends the thread.
#[derive(Debug)]
pub struct AffinityStoreThread {
    /// The affinity memory.
    pub origins: Arc<AffinityMemory>,
    end: watch::Sender<bool>,
    over: std_mpsc::Receiver<()>,
}

impl AffinityStoreThread {
    /// Creates the affinity memory, starts the thread of its store, and waits a moment until the store is open.
    ///
    /// # Errors
    /// When no thread can be started. A store that cannot be reached is no error.
    pub fn start(
        location: OriginStoreLocation,
        settings: &config::AffinitySettings,
        clock: Clock,
        random_bytes: RandomBytes,
        status: Arc<AffinityStatus>,
    ) -> io::Result<Self> {
        let origins = Arc::new(AffinityMemory::new(settings, location.is_shared(), status));
        let (end, ended) = watch::channel(false);
        let (tell_open, open) = std_mpsc::channel();
        let (tell_over, over) = std_mpsc::channel();
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let opening = Arc::new(Mutex::new(()));
        let client = |operation| StoreClient {
            operation,
            location: location.clone(),
            random_bytes,
            clock,
            origins: Arc::clone(&origins),
            opening: Arc::clone(&opening),
            ended: ended.clone(),
            store: None,
            failures: 0,
        };
        let reader = AffinityStoreReader { client: client(StoreOperation::Read) };
        let client = client(StoreOperation::Write);
        let writer = AffinityStoreWriter {
            client,
            rows: Vec::new(),
            known: None,
            again: None,
            swept: Instant::now(),
            dropped: 0,
        };
        thread::Builder::new().name("affinity".into()).spawn(move || {
            runtime.block_on(async {
                let (mut reader, mut writer) = (reader, writer);
                tokio::join!(reader.begin(), writer.client.connect());
                let _ = tell_open.send(());
                tokio::join!(reader.run(), writer.run());
            });
            // After a slow end, no one listens.
            let _ = tell_over.send(());
        })?;
        // After a slow start, the first requests find the store still opening.
        let _ = open.recv_timeout(OPEN_TIMEOUT);
        Ok(Self { origins, end, over })
    }

    /// Ends the thread of the affinity store after all entries are written, or after a time limit.
    pub fn end(self) {
        self.end.send_replace(true);
        if self.over.recv_timeout(END_TIMEOUT + WAIT_FOR_FILE).is_err() {
            tracing::warn!(
                "the affinity store (which account owns which id) did not close in time at the shutdown: Tidegate may \
                 not know the newest ids after a restart. Check the disk, or the Redis server"
            );
        }
    }
}
