//! The store of origins, on a thread of its own: what a worker's connection would be driven by is the worker, which may be
//! busy, and a store that stands still shall hold up nobody but who waits for it.
//!
//! Two tasks with a connection each, so that reading never waits for writing. Each knows by itself when the store is slow:
//! from then on workers do not ask it (`AffinityStatus::read_fails`, `AffinityStatus::write_fails`), and the task tries until it
//! answers in time again.

mod desk;
mod reader;
mod writer;

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

use super::{AffinityMemory, WAIT_FOR_FILE};
use crate::{
    config,
    domain::{affinity::AffinityStatus, chance::Chance, clock::Clock},
    store::origins::OriginStoreLocation,
};

use self::{
    desk::{StoreClient, StoreOperation},
    reader::AffinityStoreReader,
    writer::AffinityStoreWriter,
};

/// A start waits this long for the store, so that the first requests find it open.
const OPEN_WITHIN: Duration = Duration::from_secs(1);
/// At the end what waits gets this long to be written.
const END_WITHIN: Duration = Duration::from_secs(2);
/// References of one read or write.
const BATCH: usize = 500;
/// The thread, and the memory that it keeps. It is ended by [`end`](Self::end).
#[derive(Debug)]
pub struct AffinityStoreThread {
    /// The memory.
    pub origins: Arc<AffinityMemory>,
    end: watch::Sender<bool>,
    over: std_mpsc::Receiver<()>,
}

impl AffinityStoreThread {
    /// Opens the memory, and waits a moment for its store.
    ///
    /// # Errors
    /// Without a thread. A store that is away is no error.
    pub fn start(
        place: OriginStoreLocation,
        settings: &config::AffinitySettings,
        clock: Clock,
        chance: Chance,
        condition: Arc<AffinityStatus>,
    ) -> io::Result<Self> {
        let origins = Arc::new(AffinityMemory::new(settings, place.is_shared(), condition));
        let (end, ended) = watch::channel(false);
        let (tell_open, open) = std_mpsc::channel();
        let (tell_over, over) = std_mpsc::channel();
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let opening = Arc::new(Mutex::new(()));
        let desk = |what| StoreClient {
            what,
            place: place.clone(),
            chance,
            clock,
            origins: Arc::clone(&origins),
            opening: Arc::clone(&opening),
            ended: ended.clone(),
            store: None,
            failures: 0,
        };
        let reader = AffinityStoreReader { desk: desk(StoreOperation::Read) };
        let desk = desk(StoreOperation::Written);
        let writer =
            AffinityStoreWriter { desk, rows: Vec::new(), known: None, again: None, swept: Instant::now(), dropped: 0 };
        thread::Builder::new().name("affinity".into()).spawn(move || {
            runtime.block_on(async {
                let (mut reader, mut writer) = (reader, writer);
                tokio::join!(reader.desk.begin(), writer.desk.begin());
                let _ = tell_open.send(());
                tokio::join!(reader.run(), writer.run());
            });
            // Nobody waits any more where it took too long.
            let _ = tell_over.send(());
        })?;
        // Where it took longer, the first requests find it being opened.
        let _ = open.recv_timeout(OPEN_WITHIN);
        Ok(Self { origins, end, over })
    }

    /// Ends it, once everything that was learned is written, or it took too long.
    pub fn end(self) {
        self.end.send_replace(true);
        if self.over.recv_timeout(END_WITHIN + WAIT_FOR_FILE).is_err() {
            tracing::warn!("the memory of origins was not closed in time");
        }
    }
}
