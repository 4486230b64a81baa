//! The usage of a key, for the key's user. A separate thread reads it from the database. Results are cached for a while, so that
//! polling programs cost nothing.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use tokio::{
    runtime::Builder,
    sync::oneshot,
    time::{Instant, timeout},
};

use crate::store::sql::{Database, DatabaseError, DatabaseLocation, KeyStatement};

/// The most queries that wait. A further query is refused for now.
const WAITING: usize = 64;
/// The longest wait of a client.
const WITHIN: Duration = Duration::from_secs(10);
/// The shortest time for which a result is cached.
const KEPT: Duration = Duration::from_secs(5);
/// A result is cached for at least this many times the duration of its query. So these queries use at most a hundredth of the
/// database's time.
const RESTS: u32 = 100;
/// The greatest age of a connection: a host name may lead to another server by then.
const OPEN_FOR: Duration = Duration::from_secs(300);
/// The most cached results.
const MOST: usize = 1000;

/// A query: the name of a key, the start, the end.
type StatementQuery = (Arc<str>, u64, u64);

/// Reads the usage of client keys from the ledger database, on a thread of its own. The thread ends with the last clone of this value.
#[derive(Clone, Debug)]
pub struct Statements(SyncSender<(StatementQuery, oneshot::Sender<Option<KeyStatement>>)>);

impl Statements {
    /// Starts the thread that reads the usage of client keys from the ledger database.
    ///
    /// # Errors
    /// When the system starts no thread.
    pub fn start(place: DatabaseLocation) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (ask, asked) = sync_channel(WAITING);
        let run = move || runtime.block_on(Reader { place, database: None, kept: HashMap::new() }.run(&asked));
        thread::Builder::new().name("statements".into()).spawn(run)?;
        Ok(Self(ask))
    }

    /// Returns the usage of a client key by requests that began at `since` or later and before `until` (milliseconds since 1970-01-01
    /// UTC). `None` if the usage cannot be read now.
    pub async fn of(&self, key: &Arc<str>, since: u64, until: u64) -> Option<KeyStatement> {
        let (tell, told) = oneshot::channel();
        self.0.try_send(((Arc::from(&**key), since, until), tell)).ok()?;
        timeout(WITHIN, told).await.ok()?.ok()?
    }
}

struct Reader {
    place: DatabaseLocation,
    database: Option<(Database, Instant)>,
    kept: HashMap<StatementQuery, (KeyStatement, Instant)>,
}

impl Reader {
    async fn run(mut self, asked: &Receiver<(StatementQuery, oneshot::Sender<Option<KeyStatement>>)>) {
        while let Ok((question, tell)) = asked.recv() {
            // A client that disconnected needs no result.
            if !tell.is_closed() {
                let _ = tell.send(self.answer(question).await);
            }
        }
        if let Some((database, _)) = self.database {
            database.close().await;
        }
    }

    async fn answer(&mut self, question: StatementQuery) -> Option<KeyStatement> {
        let began = Instant::now();
        if let Some((statement, _)) = self.kept.get(&question).filter(|(_, until)| began < *until) {
            return Some(*statement);
        }
        let had_connection = self.database.is_some();
        let mut read = self.read(&question).await;
        if read.is_err() && had_connection {
            // The server, or a network device, may have closed an idle connection.
            self.database = None;
            read = self.read(&question).await;
        }
        match read {
            Ok(statement) => {
                if self.kept.len() >= MOST {
                    self.kept.retain(|_, (_, until)| began < *until);
                }
                if self.kept.len() < MOST {
                    let until = Instant::now() + (began.elapsed() * RESTS).max(KEPT);
                    self.kept.insert(question, (statement, until));
                }
                Some(statement)
            }
            Err(error) => {
                tracing::debug!(%error, "the usage of a key cannot be read");
                self.database = None;
                None
            }
        }
    }

    async fn read(&mut self, (key, since, until): &StatementQuery) -> Result<KeyStatement, DatabaseError> {
        if self.database.as_ref().is_some_and(|(_, opened)| opened.elapsed() >= OPEN_FOR) {
            self.database = None;
        }
        let (database, _) = match &mut self.database {
            Some(open) => open,
            none => none.insert((Database::open_to_read(&self.place).await?, Instant::now())),
        };
        database.statement(key, *since, *until).await
    }
}
