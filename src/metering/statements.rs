//! What a key used, for whoever holds the key: read from the database on a thread of its own, and kept for a while, so that programs
//! which poll cost nothing.

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

/// Questions that may wait; with more, the next one is told to come later.
const WAITING: usize = 64;
/// A client waits no longer than this.
const WITHIN: Duration = Duration::from_secs(10);
/// An answer is kept for this long,
const KEPT: Duration = Duration::from_secs(5);
/// or for this many times as long as it took, so that the database is never busy with this for more than a hundredth of the time.
const RESTS: u32 = 100;
/// A connection is used for this long: behind a name there may be another server since.
const OPEN_FOR: Duration = Duration::from_secs(300);
/// Answers that are kept.
const MOST: usize = 1000;

/// What is asked: the name of a key, from when on, until before when.
type StatementQuery = (Arc<str>, u64, u64);

/// The way to ask. The thread ends with the last of these.
#[derive(Clone, Debug)]
pub struct Statements(SyncSender<(StatementQuery, oneshot::Sender<Option<KeyStatement>>)>);

impl Statements {
    /// Starts the thread.
    ///
    /// # Errors
    /// Without a thread.
    pub fn start(place: DatabaseLocation) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (ask, asked) = sync_channel(WAITING);
        let run = move || runtime.block_on(Reader { place, database: None, kept: HashMap::new() }.run(&asked));
        thread::Builder::new().name("statements".into()).spawn(run)?;
        Ok(Self(ask))
    }

    /// What the key used between the two, in milliseconds since 1970-01-01 UTC. None where that cannot be told now.
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
            // A client that left needs no answer.
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
            // The connection may have been idle for long: the server, or something on the way, has closed it.
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
                tracing::debug!(%error, "what a key used cannot be read");
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
