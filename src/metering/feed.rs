//! Feeds the database from the journal, on its own thread and in batches. Each row is stored once, however often it is read.

mod retention;
mod row_isolator;

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

pub use self::retention::Retention;
use self::{retention::OldRowSums, row_isolator::RowIsolator};
use super::{polls::Polls, spent::Spent, unpriced};
use crate::{
    budgets::Spending,
    concurrent::ledger_status::LedgerStatus,
    domain::{
        clock::Clock,
        id::RequestId,
        ledger::{Row, UsageState},
    },
    metrics::Unpriced,
    store::{
        journal::{self, Journal, JournalFiles, JournalReader, Records, RecordsEnd, Segment},
        sql::{Database, DatabaseError, DatabaseLocation},
    },
};

/// How often the feed reads the journal, and so about how late rows are in the database.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// The pause before the next try when the database or the disk fails.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// How often the journal is synced. Written rows survive a power loss after about this time.
const SYNC_EVERY: Duration = Duration::from_millis(100);
/// Rows that are open for longer belong to a lost data folder. A request that really takes so long gets its right row at its end.
const LOST: Duration = Duration::from_secs(86_400);
/// How long the database may take for the last rows at shutdown. The next start reads the others.
const END_WITHIN: Duration = Duration::from_secs(5);

/// The threads that sync the journal to disk and copy its ledger rows to the database. [`end`](Self::end) ends them.
#[derive(Debug)]
pub struct FeedThreads {
    end: watch::Sender<bool>,
    over: mpsc::Receiver<()>,
    syncing: mpsc::Sender<()>,
    sync: JoinHandle<()>,
}

/// Where the ledger rows of the journal go (the database), and what else needs their content: budgets, retention, polls.
#[derive(Debug)]
pub struct FeedTarget {
    /// The database.
    pub place: DatabaseLocation,
    /// The name of this data folder in the database.
    pub origin: Arc<str>,
    /// The spend of budgets.
    pub spending: Arc<Spending>,
    /// Decides which budget windows are over.
    pub clock: Clock,
    /// The file with a copy of the spend, for a start without the database.
    pub copy: PathBuf,
    /// How long rows are kept; none = for ever.
    pub keep: Option<Retention>,
    /// Requests the state of background responses.
    pub polls: Polls,
    /// Counts parts without a price in the usage that polls show.
    pub unpriced: Unpriced,
}

impl FeedThreads {
    /// Starts the threads that sync the journal to disk and copy its ledger rows to the database.
    ///
    /// # Errors
    /// When the system starts no thread.
    pub fn start(
        into: FeedTarget,
        journal: Arc<Journal>,
        found: JournalFiles,
        condition: Arc<LedgerStatus>,
    ) -> io::Result<Self> {
        let FeedTarget { place, origin, spending, clock, copy, polls, keep, unpriced } = into;
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
            unpriced,
        };
        thread::Builder::new().name("ledger".into()).spawn(move || {
            runtime.block_on(feed.run(ended));
            // The receiver is gone if the shutdown took too long.
            let _ = tell.send(());
        })?;
        Ok(Self { end, over, syncing, sync })
    }

    /// Ends the threads of the journal when the database has all ledger rows, or when that takes too long.
    pub fn end(self) {
        self.end.send_replace(true);
        if self.over.recv_timeout(END_WITHIN).is_err() {
            tracing::warn!(
                "the database did not take the last ledger rows before the shutdown: the next start writes these rows from the journal. Check the database"
            );
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
            tracing::error!(%error, "the journal of the ledger cannot be synced to disk: a power failure may lose the \
                newest ledger rows. Check the disk of the data folder");
        }
        if ends {
            return;
        }
    }
}

/// Why rows did not reach the database.
#[derive(Debug, thiserror::Error)]
enum FeedError {
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error("the journal of the ledger cannot be read: {0}")]
    Journal(#[from] io::Error),
}

struct Feed {
    place: DatabaseLocation,
    /// Names the data folder: several data folders may feed one database.
    origin: Arc<str>,
    database: Option<Database>,
    spent: Spent,
    journal: Arc<Journal>,
    condition: Arc<LedgerStatus>,
    /// Files of earlier processes, until the database has all of their rows.
    before: Option<Vec<PathBuf>>,
    written: mpsc::Receiver<(Arc<Segment>, JournalReader)>,
    segments: Vec<JournalTail>,
    /// The number of segments so far.
    begun: u64,
    /// Unfinished requests: each has the number of its segment, and its record as read.
    open: HashMap<RequestId, (u64, Vec<u8>)>,
    apart: RowIsolator,
    /// Turns rows older than the retention time into daily sums.
    old: Option<OldRowSums>,
    polls: Polls,
    unpriced: Unpriced,
}

/// A file of this process that the feed reads.
struct JournalTail {
    number: u64,
    segment: Arc<Segment>,
    reader: JournalReader,
}

impl Feed {
    async fn run(mut self, mut end: watch::Receiver<bool>) {
        loop {
            // A dropped sender also means the end.
            let ends = timeout(LOOK_EVERY, end.wait_for(|end| *end)).await.is_ok();
            let fed = self.feed(ends).await;
            self.spent.spending.set_ledger_readable(fed.is_ok());
            self.spent.warn(&self.condition);
            self.spent.save();
            self.condition.database_fails.store(fed.is_err(), Ordering::Relaxed);
            match fed {
                Ok(()) if ends => break,
                Ok(()) => {}
                Err(error) => {
                    let database = &self.place;
                    tracing::error!(%error, %database, "the ledger database cannot be written: the journal keeps the \
                        ledger rows until the database works again. Check the database");
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

    /// Brings all written rows into the database. With `ends`, all writers have stopped.
    async fn feed(&mut self, ends: bool) -> Result<(), FeedError> {
        if let Some(database) = &self.database {
            database.check_file()?;
        }
        if self.database.as_ref().is_none_or(|database| database.is_old(Instant::now())) {
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
                unpriced::note_settled(&settled, &self.condition, &self.unpriced);
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

    /// Reads the new records of a file of this process. Returns whether the file is done.
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

    /// Reads the files of earlier processes. Their unfinished requests were interrupted.
    async fn recover(&mut self) -> Result<(), FeedError> {
        let Some(files) = self.before.take() else { return Ok(()) };
        let recovered = self.read_before(&files).await;
        match recovered {
            Ok(()) => Ok(()),
            Err(error) => {
                // The next try reads everything again. Rows that are stored already do not change.
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
                // The previous try has quarantined or deleted the file.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error.into()),
            };
            let length = reader.length()?;
            self.read(&mut reader, length, 0).await?;
            let left = length - reader.at();
            let damaged = left > 0 && {
                let rest = reader.piece(length)?;
                Records::new(rest).rest() == RecordsEnd::Damaged
            };
            if left > 0 && !damaged {
                tracing::warn!(file = %path.display(), bytes = left, "the journal of the ledger ends in the middle of \
                    a record: Tidegate removed the incomplete record. Nothing needs to be done");
            }
            read.push((path, damaged, length));
        }
        self.carry(0).await?;
        let Some(database) = &mut self.database else { return Ok(()) };
        let lost = self.spent.clock.since_epoch().saturating_sub(LOST).as_millis();
        let interrupted = database.interrupt(&self.origin, u64::try_from(lost).unwrap_or_default()).await?;
        self.condition.count(UsageState::Interrupted, interrupted);
        // `spent` reads its sums from the database later, so they include these rows.
        let settled = database.settle_all().await?;
        unpriced::note_settled(&settled, &self.condition, &self.unpriced);
        for (path, damaged, length) in read {
            self.dispose(path, damaged, length);
        }
        if !files.is_empty() {
            tracing::info!(files = files.len(), interrupted, "the database has all ledger rows of the previous run");
        }
        Ok(())
    }

    fn dispose(&self, path: &std::path::Path, damaged: bool, length: u64) {
        if damaged {
            tracing::error!(file = %path.display(), "a journal file of the ledger is corrupt: Tidegate quarantines the \
                rest of the file, and the rows in this rest are missing in the ledger. Check the disk");
            self.journal.quarantine(path, length);
        } else {
            self.journal.remove(path, length);
        }
    }

    /// Reads the records of a file up to `end`.
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

    /// Stores the records of a piece. Returns their length. Rows count only after they are stored. Only open rows are noted
    /// before, and may be noted twice.
    async fn store(&mut self, piece: &[u8], segment: u64) -> Result<u64, FeedError> {
        let Some(database) = &mut self.database else { return Ok(0) };
        let mut records = Records::new(piece);
        let (mut over, mut rows, mut unsent) = (Vec::new(), Vec::new(), Vec::new());
        for row in records.by_ref() {
            if row.state == UsageState::Open {
                // Enough for nearly every record.
                let mut record = Vec::with_capacity(512);
                journal::encode(&row, &mut record);
                self.open.insert(row.id, (segment, record));
            } else {
                over.push(row.id);
                // A request whose open row was written but that was never sent leaves no row.
                if row.attempts > 0 {
                    rows.push(row);
                } else if !self.open.contains_key(&row.id) {
                    // The open row may be in the database already, carried over from another file.
                    unsent.push(row.id);
                }
            }
        }
        database.forget(&unsent).await?;
        if segment == 0 {
            rows = retention::not_summed_up(database, &self.origin, rows).await?;
        }
        self.apart.store(database, &rows).await?;
        let settled = database.settle(&rows).await?;
        unpriced::note_settled(&settled, &self.condition, &self.unpriced);
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

    /// Stores the rows that are still open in a segment, so that the segment can be deleted.
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
