//! Keys of the store: read at the start and whenever they changed, with a copy in the data folder for a start without the
//! database. Never on a worker's thread.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    runtime::Runtime,
    time::{Instant, timeout},
};

use super::{command::Command, data_dir::DataDir};
use crate::{
    concurrent::{key_status::StoredKeysStatus, ledger_status::LedgerStatus},
    domain::key::StoredKey,
    store::{
        files,
        sql::{ChangeAuthor, Database, DatabaseError, DatabaseLocation, KeyChange, KeyError, Revision},
    },
};

/// A change of a key holds at most this much later, and what a look at one number costs is nothing.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A start waits for its database no longer than this where there is a copy of what was in it.
const START_WITHIN: Duration = Duration::from_secs(3);

/// The database being away is told of this often.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// The copy in the data folder: hashes only.
const COPY: &str = "keys.json";

/// What was read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredKeysReading {
    #[serde(flatten)]
    revision: Revision,
    pub(super) keys: Vec<StoredKey>,
}

/// Waits on a thread of its own: whoever starts a gateway may be inside a runtime, which cannot wait for another.
fn wait_for<T: Send>(runtime: &Runtime, work: impl Future<Output = T> + Send) -> T {
    thread::scope(|scope| match scope.spawn(|| runtime.block_on(work)).join() {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// The keys, and where they are read.
#[derive(Debug)]
pub(super) struct StoredKeys {
    place: DatabaseLocation,
    copy: PathBuf,
    condition: Arc<StoredKeysStatus>,
    /// Tells when the ledger connects again.
    ledger: Arc<LedgerStatus>,
    /// How often the ledger had connected when the database was opened here.
    connections: u64,
    runtime: Runtime,
    /// Whether the database was there once.
    opened: bool,
    database: Option<Database>,
    pub(super) stored: StoredKeysReading,
}

impl StoredKeys {
    /// Reads them, from the database or else from the copy.
    pub(super) fn open(
        place: DatabaseLocation,
        data_dir: &DataDir,
        condition: Arc<StoredKeysStatus>,
        ledger: Arc<LedgerStatus>,
    ) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let copy = data_dir.file(COPY);
        let (connections, database, stored) = (0, None, StoredKeysReading::default());
        let mut keys = Self { place, copy, condition, ledger, connections, runtime, opened: false, database, stored };
        match keys.read_within(START_WITHIN) {
            Ok(Some(stored)) => keys.take(stored),
            Ok(None) => keys.condition.unread.store(false, Ordering::Release),
            Err(error) => {
                let copy = std::fs::read(&keys.copy).ok().and_then(|text| serde_json::from_slice(&text).ok());
                let copied = copy.is_some();
                tracing::error!(%error, copied, "the stored keys cannot be read: Tidegate uses the snapshot in the data folder");
                keys.condition.unread.store(!copied, Ordering::Release);
                keys.stored = copy.unwrap_or_default();
                keys.count();
            }
        }
        Ok(keys)
    }

    /// Whether nobody knows what keys there are.
    pub(super) fn are_unread(&self) -> bool {
        self.condition.unread.load(Ordering::Acquire)
    }

    /// Makes a key, unless somebody else made one of its name.
    pub(super) fn create(&mut self, key: &StoredKey, author: ChangeAuthor<'_>) -> Result<(), KeyError> {
        let Some(database) = &mut self.database else { return Err(DatabaseError::Silent(START_WITHIN).into()) };
        wait_for(&self.runtime, database.change_key(&self.stored.revision, KeyChange::Create(key), author))
    }

    /// Reads them again; none where they are the same.
    pub(super) fn read(&mut self) -> Result<Option<StoredKeysReading>, DatabaseError> {
        self.read_within(Duration::MAX)
    }

    fn read_within(&mut self, limit: Duration) -> Result<Option<StoredKeysReading>, DatabaseError> {
        let (known, unread) = (&self.stored, self.are_unread());
        // Where the ledger had to connect again, its connection may lead to another server now, and this one to the old one.
        let connections = self.ledger.connections.load(Ordering::Acquire);
        let moved = std::mem::replace(&mut self.connections, connections) != connections;
        if moved || self.database.as_ref().is_some_and(|database| database.is_old(Instant::now())) {
            self.database = None;
        }
        let reading = async {
            let database = match &mut self.database {
                Some(database) => {
                    database.look()?;
                    if !unread && database.revision().await? == known.revision {
                        return Ok(None);
                    }
                    database
                }
                // On a new connection everything is read: the server may be another one, with another history.
                none if self.opened => none.insert(Database::reopen(&self.place).await?),
                none => none.insert(Database::open(&self.place).await?),
            };
            self.opened = true;
            let (revision, keys) = database.stored_keys().await?;
            let read = StoredKeysReading { revision, keys };
            Ok((unread || read != *known).then_some(read))
        };
        let read = wait_for(&self.runtime, async { timeout(limit, reading).await });
        let read = read.unwrap_or(Err(DatabaseError::Silent(limit)));
        if read.is_err() {
            self.database = None;
        }
        match &read {
            Err(_) => self.condition.fails.store(true, Ordering::Release),
            Ok(None) => self.condition.fails.store(false, Ordering::Release),
            // With the next look: what was read has to be in place before anybody is told that a key is not known.
            Ok(Some(_)) => {}
        }
        read
    }

    /// Takes what was read.
    pub(super) fn take(&mut self, stored: StoredKeysReading) {
        self.condition.unread.store(false, Ordering::Release);
        self.stored = stored;
        self.count();
        let written = serde_json::to_vec(&self.stored).map_err(io::Error::from);
        if let Err(error) = written.and_then(|text| files::replace(&self.copy, &text)) {
            tracing::warn!(%error, file = %self.copy.display(), "the snapshot of the stored keys cannot be written: a start without the database would use an older one");
        }
    }

    fn count(&self) {
        self.condition.revision.store(self.stored.revision.number, Ordering::Relaxed);
        self.condition.stored.store(self.stored.keys.len() as u64, Ordering::Relaxed);
    }

    /// Looks for changes until nobody holds the other end of `stop`, and tells of them.
    pub(super) fn watch(mut self, tell: Sender<Command>, stop: Receiver<()>) -> io::Result<()> {
        let run = move || {
            let mut told: Option<Instant> = None;
            while stop.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
                match self.read() {
                    Ok(None) => told = None,
                    Ok(Some(stored)) => {
                        told = None;
                        self.take(stored);
                        if tell.send(Command::Keys(self.stored.keys.clone())).is_err() {
                            return;
                        }
                    }
                    Err(error) if told.is_none_or(|told| told.elapsed() >= TELL_EVERY) => {
                        told = Some(Instant::now());
                        let database = &self.place;
                        tracing::error!(%error, %database, "the stored keys cannot be read: the keys that were read last stay active, and changes are not seen");
                    }
                    Err(_) => {}
                }
            }
            if let Some(database) = self.database.take() {
                self.runtime.block_on(database.close());
            }
        };
        thread::Builder::new().name("keys".into()).spawn(run).map(drop)
    }
}
