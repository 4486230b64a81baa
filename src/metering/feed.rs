//! From the journal to the database: on a thread of its own, in batches, each row once however often it is read.

mod apart;
mod keep;

use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    sync::{Arc, atomic::Ordering, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::{
    runtime::Builder,
    sync::watch,
    time::{Instant, timeout},
};

pub use self::keep::Retention;
use self::{apart::RowIsolator, keep::OldRowSums};
use super::{polls::Polls, spent::Spent};
use crate::{
    budgets::Spending,
    domain::{
        clock::Clock,
        id::RequestId,
        ledger::{LedgerStatus, Row, UsageState},
    },
    store::{
        journal::{self, EndOfRecords, Journal, JournalFiles, JournalReader, Records, Segment},
        sql::{Database, DatabaseError, DatabaseLocation},
    },
};

/// Rows are in the database about this much later.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A database that cannot be written is tried again this often.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// What was written survives a loss of power this much later.
const SYNC_EVERY: Duration = Duration::from_millis(100);
/// What is open for longer is of a data folder that is lost. A request that does last so long gets its row right at its end.
const LOST: Duration = Duration::from_secs(86_400);
/// At the end the database gets this long to take the rest. What it does not take, the next start reads.
const END_WITHIN: Duration = Duration::from_secs(5);

/// The threads that bring the journal to the disk and into the database. They are ended by [`end`](Self::end).
#[derive(Debug)]
pub struct FeedThreads {
    end: watch::Sender<bool>,
    over: mpsc::Receiver<()>,
    syncing: mpsc::Sender<()>,
    sync: JoinHandle<()>,
}

/// Where rows are brought, and who wants to know of them.
#[derive(Debug)]
pub struct FeedTarget {
    /// The database.
    pub place: DatabaseLocation,
    /// Names this data folder in it.
    pub origin: Arc<str>,
    /// What was spent of budgets.
    pub spending: Arc<Spending>,
    /// Tells which windows are over.
    pub clock: Clock,
    /// The file with a copy of what was spent, for a start without the database.
    pub copy: PathBuf,
    /// How long rows are kept; none = for ever.
    pub keep: Option<Retention>,
    /// Asks for responses in the background.
    pub polls: Polls,
}

impl FeedThreads {
    /// Starts them.
    ///
    /// # Errors
    /// Without threads.
    pub fn start(
        into: FeedTarget,
        journal: Arc<Journal>,
        found: JournalFiles,
        condition: Arc<LedgerStatus>,
    ) -> io::Result<Self> {
        let FeedTarget { place, origin, spending, clock, copy, polls, keep } = into;
        let (syncing, stop) = mpsc::channel();
        let (synced, at) = (Arc::clone(&journal), Arc::clone(&condition));
        let sync = thread::Builder::new().name("journal".into()).spawn(move || keep_syncing(&synced, &at, &stop))?;
        let (end, ended) = watch::channel(false);
        let (tell, over) = mpsc::channel();
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let apart = RowIsolator::new(&origin, &journal, &condition);
        let feed = Feed {
            place,
            database: None,
            spent: Spent::new(spending, clock, Arc::clone(&origin), copy),
            journal,
            condition,
            before: Some(found.before),
            written: found.written,
            segments: Vec::new(),
            begun: 0,
            open: HashMap::new(),
            apart,
            old: keep.map(OldRowSums::new),
            polls,
            origin,
        };
        thread::Builder::new().name("ledger".into()).spawn(move || {
            runtime.block_on(feed.run(ended));
            // Nobody waits any more where it took too long.
            let _ = tell.send(());
        })?;
        Ok(Self { end, over, syncing, sync })
    }

    /// Ends them, once everything that was written is in the database, or it took too long.
    pub fn end(self) {
        self.end.send_replace(true);
        if self.over.recv_timeout(END_WITHIN).is_err() {
            tracing::warn!("the database did not take the rest of the ledger in time: the next start reads it");
        }
        drop(self.syncing);
        // A thread that panicked has ended too.
        let _ = self.sync.join();
    }
}

fn keep_syncing(journal: &Journal, condition: &LedgerStatus, stop: &mpsc::Receiver<()>) {
    let mut told: Option<Instant> = None;
    let mut wait = SYNC_EVERY;
    loop {
        let ends = stop.recv_timeout(wait) != Err(mpsc::RecvTimeoutError::Timeout);
        let synced = journal.sync();
        wait = if synced.is_ok() { SYNC_EVERY } else { TRY_AGAIN };
        condition.journal_sync_fails.store(synced.is_err(), Ordering::Relaxed);
        if let Err(error) = synced
            && told.is_none_or(|told| told.elapsed() >= TRY_AGAIN)
        {
            told = Some(Instant::now());
            tracing::error!(%error, "the journal may not survive a loss of power");
        }
        if ends {
            return;
        }
    }
}

/// Why rows did not get there.
#[derive(Debug, thiserror::Error)]
enum FeedError {
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error("the journal cannot be read: {0}")]
    Journal(#[from] io::Error),
}

struct Feed {
    place: DatabaseLocation,
    /// Names the data folder: several feed one database.
    origin: Arc<str>,
    database: Option<Database>,
    spent: Spent,
    journal: Arc<Journal>,
    condition: Arc<LedgerStatus>,
    /// Files of processes before this one, until all of them are in the database.
    before: Option<Vec<PathBuf>>,
    written: mpsc::Receiver<(Arc<Segment>, JournalReader)>,
    segments: Vec<JournalTail>,
    /// Segments begun so far.
    begun: u64,
    /// What went up and is not over, with the number of its segment: records, as they were read.
    open: HashMap<RequestId, (u64, Vec<u8>)>,
    apart: RowIsolator,
    /// Makes sums of rows that are older than they are kept.
    old: Option<OldRowSums>,
    polls: Polls,
}

/// A file of this process that is being read.
struct JournalTail {
    number: u64,
    segment: Arc<Segment>,
    reader: JournalReader,
}

impl Feed {
    async fn run(mut self, mut end: watch::Receiver<bool>) {
        loop {
            // A sender that is gone is an end as well.
            let ends = timeout(LOOK_EVERY, end.wait_for(|end| *end)).await.is_ok();
            let fed = self.feed(ends).await;
            self.spent.spending.ledger_answers(fed.is_ok());
            self.spent.warn(&self.condition);
            self.spent.save();
            self.condition.database_fails.store(fed.is_err(), Ordering::Relaxed);
            match fed {
                Ok(()) if ends => break,
                Ok(()) => {}
                Err(error) => {
                    let database = &self.place;
                    tracing::error!(%error, %database, "the ledger's database cannot be written: the journal keeps the rows");
                    self.database = None;
                    if ends {
                        break;
                    }
                    let _ = timeout(TRY_AGAIN, end.wait_for(|end| *end)).await;
                }
            }
        }
        if let Some(database) = self.database {
            database.close().await;
        }
    }

    /// Brings everything that was written into the database. With `ends`, nobody writes any more.
    async fn feed(&mut self, ends: bool) -> Result<(), FeedError> {
        if let Some(database) = &self.database {
            database.look()?;
        }
        if self.database.as_ref().is_none_or(Database::is_old) {
            self.database = None;
            let opened = match self.condition.connections.load(Ordering::Acquire) {
                0 => Database::open(&self.place).await?,
                _ => Database::reopen(&self.place).await?,
            };
            self.database = Some(opened);
            self.condition.connections.fetch_add(1, Ordering::Release);
        }
        self.recover().await?;
        if let Some(database) = &mut self.database {
            self.spent.begin(database).await?;
        }
        while let Ok((segment, reader)) = self.written.try_recv() {
            self.begun += 1;
            self.segments.push(JournalTail { number: self.begun, segment, reader });
        }
        let mut fed = Ok(());
        for mut tail in std::mem::take(&mut self.segments) {
            if fed.is_ok() {
                match self.follow(&mut tail, ends).await {
                    Ok(true) => continue,
                    Ok(false) => {}
                    Err(error) => fed = Err(error),
                }
            }
            self.segments.push(tail);
        }
        fed?;
        if let Some(database) = &mut self.database {
            if !ends {
                let settled = self.polls.run(database, &self.origin, self.spent.clock, &self.condition).await?;
                settled.iter().for_each(|settled| self.condition.count(settled.state, 1));
                self.spent.settled(&settled);
            }
            self.spent.read(database, ends).await?;
            if let Some(old) = self.old.as_mut().filter(|_| !ends) {
                let open = self.open.keys().map(|id| id.millis()).min();
                old.sum_up(database, &self.origin, self.spent.now(), open).await?;
            }
        }
        Ok(())
    }

    /// Reads a file of this process on; returned is whether that was the last of it.
    async fn follow(&mut self, tail: &mut JournalTail, ends: bool) -> Result<bool, FeedError> {
        let JournalTail { number, segment, reader } = tail;
        let over = segment.is_sealed() || ends;
        let end = segment.written();
        self.read(reader, end, *number).await?;
        let damaged = reader.at() < end;
        if over || damaged {
            self.carry(*number).await?;
            self.dispose(&segment.path, damaged, end);
        }
        Ok(over || damaged)
    }

    /// Reads what processes before this one left behind. What was under way in them was interrupted.
    async fn recover(&mut self) -> Result<(), FeedError> {
        let Some(files) = self.before.take() else { return Ok(()) };
        let recovered = self.read_before(&files).await;
        match recovered {
            Ok(()) => Ok(()),
            Err(error) => {
                // From the beginning again: what was written already stays as it is.
                self.open.clear();
                self.before = Some(files);
                Err(error)
            }
        }
    }

    async fn read_before(&mut self, files: &[PathBuf]) -> Result<(), FeedError> {
        let mut read = Vec::with_capacity(files.len());
        for path in files {
            let mut reader = match JournalReader::open(path) {
                Ok(reader) => reader,
                // Put aside or deleted by the try before this one.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error.into()),
            };
            let length = reader.length()?;
            self.read(&mut reader, length, 0).await?;
            let left = length - reader.at();
            let damaged = left > 0 && {
                let rest = reader.piece(length)?;
                Records::new(rest).rest() == EndOfRecords::Damaged
            };
            if left > 0 && !damaged {
                tracing::warn!(file = %path.display(), bytes = left, "the journal ends in the middle of a record: cut there");
            }
            read.push((path, damaged, length));
        }
        self.carry(0).await?;
        let Some(database) = &mut self.database else { return Ok(()) };
        let lost = self.spent.clock.since_epoch().saturating_sub(LOST).as_millis();
        let interrupted = database.interrupt(&self.origin, u64::try_from(lost).unwrap_or_default()).await?;
        self.condition.count(UsageState::Interrupted, interrupted);
        // What was spent is not asked for yet.
        let settled = database.settle_all().await?;
        settled.iter().for_each(|settled| self.condition.count(settled.state, 1));
        for (path, damaged, length) in read {
            self.dispose(path, damaged, length);
        }
        if !files.is_empty() {
            tracing::info!(files = files.len(), interrupted, "the journal of the process before was read");
        }
        Ok(())
    }

    fn dispose(&self, path: &std::path::Path, damaged: bool, length: u64) {
        if damaged {
            tracing::error!(file = %path.display(), "a file of the journal is damaged: what stands behind is put aside");
            self.journal.put_aside(path, length);
        } else {
            self.journal.remove(path, length);
        }
    }

    /// Reads a file on to `end`, as far as there are records.
    async fn read(&mut self, reader: &mut JournalReader, end: u64, segment: u64) -> Result<(), FeedError> {
        while reader.at() < end {
            let length = self.store(reader.piece(end)?, segment).await?;
            reader.advance(length);
            if length == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Stores the records of a piece; returned is how much of it they are. Nothing is noted before it is stored, but for
    /// what is open, which may be noted twice.
    async fn store(&mut self, piece: &[u8], segment: u64) -> Result<u64, FeedError> {
        let Some(database) = &mut self.database else { return Ok(0) };
        let mut records = Records::new(piece);
        let (mut over, mut rows, mut unsent) = (Vec::new(), Vec::new(), Vec::new());
        for row in records.by_ref() {
            if row.state == UsageState::Open {
                // Room for nearly all.
                let mut record = Vec::with_capacity(512);
                journal::encode(&row, &mut record);
                self.open.insert(row.id, (segment, record));
            } else {
                over.push(row.id);
                // One that was put down and then not sent leaves no row.
                if row.attempts > 0 {
                    rows.push(row);
                } else if !self.open.contains_key(&row.id) {
                    // That it was put down may be in the database already, carried over from another file.
                    unsent.push(row.id);
                }
            }
        }
        database.forget(&unsent).await?;
        if segment == 0 {
            rows = keep::not_summed_up(database, &self.origin, rows).await?;
        }
        self.apart.store(database, &rows).await?;
        let settled = database.settle(&rows).await?;
        settled.iter().for_each(|settled| self.condition.count(settled.state, 1));
        self.spent.settled(&settled);
        if segment == 0 {
            self.condition.settled.fetch_add(over.len() as u64, Ordering::Relaxed);
        } else {
            self.spent.stored(&rows);
        }
        self.condition.stored.fetch_add(over.len() as u64, Ordering::Relaxed);
        for id in over {
            self.open.remove(&id);
        }
        Ok((piece.len() - records.left()) as u64)
    }

    /// Writes what is still open in a segment, which then can go.
    async fn carry(&mut self, segment: u64) -> Result<(), FeedError> {
        let Some(database) = &mut self.database else { return Ok(()) };
        let of_it = self.open.values().filter(|(number, _)| *number == segment);
        let rows: Vec<Row<'_>> = of_it.filter_map(|(_, record)| Records::new(record).next()).collect();
        self.apart.store(database, &rows).await?;
        self.open.retain(|_, (number, _)| *number != segment);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
