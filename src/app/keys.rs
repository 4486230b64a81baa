//! Keys of the store: read at the start and after each change. A snapshot in the data folder allows a start without the
//! database. All of this happens outside the workers' threads.

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

/// The time between two looks for changes: a change takes effect at most this much later. A look reads one number, so
/// it costs next to nothing.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// With a snapshot in the data folder, a start waits no longer than this for the database.
const START_TIMEOUT: Duration = Duration::from_secs(3);

/// The time between two log messages while the database is unavailable.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The file of the snapshot in the data folder. It holds hashes of keys only.
const SNAPSHOT: &str = "keys.json";

/// The client keys of the store as one reading found them, with their revision number.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredKeysReading {
    #[serde(flatten)]
    revision: Revision,
    pub(super) keys: Vec<StoredKey>,
}

/// Runs `work` on a separate thread: the caller may be inside a runtime, which cannot block on another one.
fn block_on_thread<T: Send>(runtime: &Runtime, work: impl Future<Output = T> + Send) -> T {
    thread::scope(|scope| match scope.spawn(|| runtime.block_on(work)).join() {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// Reads the client keys of the store from the database, and keeps a snapshot of them in the data folder.
#[derive(Debug)]
pub(super) struct StoredKeys {
    location: DatabaseLocation,
    snapshot: PathBuf,
    status: Arc<StoredKeysStatus>,
    /// Shows when the ledger connects to the database again.
    ledger: Arc<LedgerStatus>,
    /// How often the ledger had connected when this connection was opened.
    connections: u64,
    runtime: Runtime,
    /// Whether the database was opened at least once.
    opened: bool,
    database: Option<Database>,
    pub(super) stored: StoredKeysReading,
}

impl StoredKeys {
    /// Reads the client keys from the database, or from the snapshot in the data folder if the database is unavailable.
    pub(super) fn open(
        location: DatabaseLocation,
        data_dir: &DataDir,
        status: Arc<StoredKeysStatus>,
        ledger: Arc<LedgerStatus>,
    ) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let snapshot = data_dir.file(SNAPSHOT);
        let (connections, database, stored) = (0, None, StoredKeysReading::default());
        let mut keys =
            Self { location, snapshot, status, ledger, connections, runtime, opened: false, database, stored };
        match keys.read_within(START_TIMEOUT) {
            Ok(Some(stored)) => keys.take(stored),
            Ok(None) => keys.status.unread.store(false, Ordering::Release),
            Err(error) => {
                let snapshot = std::fs::read(&keys.snapshot).ok().and_then(|text| serde_json::from_slice(&text).ok());
                let copied = snapshot.is_some();
                tracing::error!(%error, copied, "the client keys in the database cannot be read: Tidegate uses the \
                    snapshot of the keys in the data folder. If `copied` is false, there is no snapshot, and no key of the \
                    database works. Check the database");
                keys.status.unread.store(!copied, Ordering::Release);
                keys.stored = snapshot.unwrap_or_default();
                keys.count();
            }
        }
        Ok(keys)
    }

    /// Whether the client keys of the store are unknown, because neither the database nor the snapshot could be read.
    pub(super) fn are_unread(&self) -> bool {
        self.status.unread.load(Ordering::Acquire)
    }

    /// Creates a client key in the database. Fails if another process created a key with the same name or changed the keys.
    pub(super) fn create(&mut self, key: &StoredKey, author: ChangeAuthor<'_>) -> Result<(), KeyError> {
        let Some(database) = &mut self.database else { return Err(DatabaseError::Silent(START_TIMEOUT).into()) };
        block_on_thread(&self.runtime, database.change_key(&self.stored.revision, KeyChange::Create(key), author))
    }

    /// Reads the client keys from the database again. `None` if they did not change.
    pub(super) fn read(&mut self) -> Result<Option<StoredKeysReading>, DatabaseError> {
        self.read_within(Duration::MAX)
    }

    fn read_within(&mut self, limit: Duration) -> Result<Option<StoredKeysReading>, DatabaseError> {
        let (known, unread) = (&self.stored, self.are_unread());
        // If the ledger had to reconnect, its address may lead to another server now, and this connection still to the
        // old one.
        let connections = self.ledger.connections.load(Ordering::Acquire);
        let moved = std::mem::replace(&mut self.connections, connections) != connections;
        if moved || self.database.as_ref().is_some_and(|database| database.is_old(Instant::now())) {
            self.database = None;
        }
        let reading = async {
            let database = match &mut self.database {
                Some(database) => {
                    database.check_file()?;
                    if !unread && database.revision().await? == known.revision {
                        return Ok(None);
                    }
                    database
                }
                // A new connection reads all keys, even if the revision is the same: the server may be another one with
                // another history.
                none if self.opened => none.insert(Database::reopen(&self.location).await?),
                none => none.insert(Database::open(&self.location).await?),
            };
            self.opened = true;
            let (revision, keys) = database.stored_keys().await?;
            let read = StoredKeysReading { revision, keys };
            Ok((unread || read != *known).then_some(read))
        };
        let read = block_on_thread(&self.runtime, async { timeout(limit, reading).await });
        let read = read.unwrap_or(Err(DatabaseError::Silent(limit)));
        if read.is_err() {
            self.database = None;
        }
        match &read {
            Err(_) => self.status.fails.store(true, Ordering::Release),
            Ok(None) => self.status.fails.store(false, Ordering::Release),
            // The next look clears the fault. The keys must be in force before a client may hear that its key is
            // unknown.
            Ok(Some(_)) => {}
        }
        read
    }

    /// Keeps the client keys that a reading found, and writes the snapshot of them.
    pub(super) fn take(&mut self, stored: StoredKeysReading) {
        self.status.unread.store(false, Ordering::Release);
        self.stored = stored;
        self.count();
        let written = serde_json::to_vec(&self.stored).map_err(io::Error::from);
        if let Err(error) = written.and_then(|text| files::replace(&self.snapshot, &text)) {
            tracing::warn!(%error, file = %self.snapshot.display(), "the snapshot of the client keys cannot be written \
                to the data folder: a start without the database would use an older snapshot. Check the disk of the \
                data folder");
        }
    }

    fn count(&self) {
        self.status.revision.store(self.stored.revision.number, Ordering::Relaxed);
        self.status.stored.store(self.stored.keys.len() as u64, Ordering::Relaxed);
    }

    /// Starts a thread that looks for changed client keys in the database once a second, and sends each change to the reloader.
    /// The thread ends when the other end of `stop` is dropped.
    pub(super) fn watch(mut self, reloader: Sender<Command>, stop: Receiver<()>) -> io::Result<()> {
        let run = move || {
            let mut logged: Option<Instant> = None;
            while stop.recv_timeout(LOOK_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                match self.read() {
                    Ok(None) => logged = None,
                    Ok(Some(stored)) => {
                        logged = None;
                        self.take(stored);
                        if reloader.send(Command::Keys(self.stored.keys.clone())).is_err() {
                            return;
                        }
                    }
                    Err(error) if logged.is_none_or(|logged| logged.elapsed() >= LOG_INTERVAL) => {
                        logged = Some(Instant::now());
                        let database = &self.location;
                        tracing::error!(%error, %database, "the client keys in the database cannot be read: the last \
                            known keys stay active, and Tidegate does not see changes of keys. Check the database");
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
