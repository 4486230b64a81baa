//! The store of origins, on a thread of its own: what a worker's connection would be driven by is the worker, which may be
//! busy, and a store that stands still shall hold up nobody but who waits for it.
//!
//! Two tasks with a connection each, so that reading never waits for writing. Each knows by itself when the store is slow:
//! from then on workers do not ask it (`Condition::read_fails`, `Condition::write_fails`), and the task tries until it
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

use super::{Origins, WAIT_FOR_FILE};
use crate::{
    config,
    domain::{affinity::Condition, chance::Chance, clock::Clock},
    store::origins::Place,
};

use self::{
    desk::{Desk, What},
    reader::Reader,
    writer::Writer,
};

/// A start waits this long for the store, so that the first requests find it open.
const OPEN_WITHIN: Duration = Duration::from_secs(1);
/// At the end what waits gets this long to be written.
const END_WITHIN: Duration = Duration::from_secs(2);
/// References of one read or write.
const BATCH: usize = 500;
/// The thread, and the memory that it keeps. It is ended by [`end`](Self::end).
#[derive(Debug)]
pub struct Keeping {
    /// The memory.
    pub origins: Arc<Origins>,
    end: watch::Sender<bool>,
    over: std_mpsc::Receiver<()>,
}

impl Keeping {
    /// Opens the memory, and waits a moment for its store.
    ///
    /// # Errors
    /// Without a thread. A store that is away is no error.
    pub fn start(
        place: Place,
        settings: &config::Affinity,
        clock: Clock,
        chance: Chance,
        condition: Arc<Condition>,
    ) -> io::Result<Self> {
        let origins = Arc::new(Origins::new(settings, place.is_shared(), condition));
        let (end, ended) = watch::channel(false);
        let (tell_open, open) = std_mpsc::channel();
        let (tell_over, over) = std_mpsc::channel();
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let opening = Arc::new(Mutex::new(()));
        let desk = |what| Desk {
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
        let reader = Reader { desk: desk(What::Read) };
        let desk = desk(What::Written);
        let writer = Writer { desk, rows: Vec::new(), known: None, again: None, swept: Instant::now(), dropped: 0 };
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
