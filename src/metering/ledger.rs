//! One worker's writer of ledger rows. It writes a row before a request is sent upstream, and the settled row soon after the
//! request's end.

use std::{
    future::poll_fn,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use tokio::sync::Notify;

use crate::{
    concurrent::ledger_status::LedgerStatus,
    domain::ledger::Row,
    store::journal::{self, Journal, JournalWriter},
};

/// A settled row is in the journal within this time. A killed process loses no more than that.
const SETTLED_WITHIN: Duration = Duration::from_millis(5);

/// The pause before the next try after a failed write.
const TRY_AGAIN: Duration = Duration::from_millis(100);

/// The error that the journal of the ledger cannot be written. A request without a written row must not be sent upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalUnavailable;

/// The writer of one worker's ledger rows, which go to the journal. While the worker runs, only its own thread takes the lock. At
/// shutdown another thread flushes the last rows.
#[derive(Debug)]
pub struct Ledger {
    journal: Arc<Journal>,
    condition: Arc<LedgerStatus>,
    pending: Mutex<UnsentRow>,
    settled: Notify,
}

#[derive(Debug)]
struct UnsentRow {
    writer: JournalWriter,
    /// Records of finished requests. They stay until they are written.
    settled: Vec<u8>,
    /// Records of requests that wait to be sent upstream.
    open: Vec<u8>,
    batch: Arc<RowBatch>,
}

/// The rows of one common write, before their requests are sent upstream.
#[derive(Debug, Default)]
pub(super) struct RowBatch {
    over: AtomicBool,
    failed: AtomicBool,
}

impl Ledger {
    /// Makes the writer of one worker's ledger rows. The rows go to this journal.
    pub fn new(journal: &Arc<Journal>, condition: &Arc<LedgerStatus>) -> Self {
        let pending = UnsentRow {
            writer: JournalWriter::new(Arc::clone(journal)),
            settled: Vec::new(),
            open: Vec::new(),
            batch: Arc::default(),
        };
        let (journal, condition) = (Arc::clone(journal), Arc::clone(condition));
        Self { journal, condition, pending: Mutex::new(pending), settled: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, UnsentRow> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the row of a request that is to be sent upstream. The request may be sent once the row is [written](Self::written).
    ///
    /// # Errors
    /// When the journal is full.
    pub(super) fn open(&self, row: &Row<'_>) -> Result<Arc<RowBatch>, JournalUnavailable> {
        if self.journal.is_full() {
            self.journal.log_failure(&"it is full, as the database does not take its rows");
            return Err(JournalUnavailable);
        }
        let mut pending = self.lock();
        journal::encode(row, &mut pending.open);
        Ok(Arc::clone(&pending.batch))
    }

    /// Waits until the row is written. All requests that get here in one round of the thread's executor share one write.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub(super) async fn written(&self, batch: Arc<RowBatch>) -> Result<(), JournalUnavailable> {
        let mut yielded = false;
        poll_fn(|cx| {
            if std::mem::replace(&mut yielded, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
        if !batch.over.load(Ordering::Relaxed) {
            self.flush();
        }
        if batch.failed.load(Ordering::Relaxed) { Err(JournalUnavailable) } else { Ok(()) }
    }

    /// Adds the settled row of a request whose open row was written before.
    pub(super) fn settle(&self, row: &Row<'_>) {
        self.condition.settled.fetch_add(1, Ordering::Relaxed);
        let first = {
            let mut pending = self.lock();
            let first = pending.settled.is_empty();
            journal::encode(row, &mut pending.settled);
            first
        };
        if first {
            self.settled.notify_one();
        }
    }

    /// Writes the ledger rows of settled requests to the journal, as long as the worker runs.
    pub async fn keep_writing(&self) {
        loop {
            self.settled.notified().await;
            tokio::time::sleep(SETTLED_WITHIN).await;
            while !self.flush() {
                tokio::time::sleep(TRY_AGAIN).await;
            }
        }
    }

    /// Writes all waiting ledger rows of this worker to the journal with one call. Returns whether they are written.
    pub fn flush(&self) -> bool {
        let mut pending = self.lock();
        let UnsentRow { writer, settled, open, batch } = &mut *pending;
        if settled.is_empty() && open.is_empty() {
            return true;
        }
        // Open rows come first: a client may have disconnected meanwhile, so that a request's settled row waits here too.
        let opened = open.len();
        open.append(settled);
        let written = writer.write(open);
        if written.is_err() {
            // The waiting requests fail and are not sent upstream. Settled rows stay for the next try.
            settled.extend_from_slice(open.get(opened..).unwrap_or_default());
            batch.failed.store(true, Ordering::Relaxed);
        }
        open.clear();
        batch.over.store(true, Ordering::Relaxed);
        *batch = Arc::default();
        drop(pending);
        self.condition.journal_fails.store(written.is_err(), Ordering::Relaxed);
        if let Err(error) = &written {
            self.journal.log_failure(error);
        }
        written.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::{
        domain::{id::RequestId, ledger::UsageState, outcome::Outcome},
        store::journal::{JournalFiles, JournalReader, MOST, Records, SystemDisk},
    };

    fn begin(folder: &Path) -> (Ledger, JournalFiles, Arc<LedgerStatus>) {
        let condition = Arc::new(LedgerStatus::default());
        let (journal, found) = Journal::open(folder.join("journal"), 1, Arc::clone(&condition), &SystemDisk).unwrap();
        (Ledger::new(&journal, &condition), found, condition)
    }

    fn outcome(id: u8) -> Outcome {
        Outcome::new(RequestId::from_bytes([id; 16]))
    }

    async fn open(ledger: &Ledger, outcome: &Outcome) -> Result<(), JournalUnavailable> {
        ledger.written(ledger.open(&Row::open(outcome, None))?).await
    }

    fn read(reader: &mut JournalReader) -> Vec<(u8, UsageState)> {
        let length = reader.length().unwrap();
        Records::new(reader.piece(length).unwrap()).map(|row| (row.id.to_bytes()[0], row.state)).collect()
    }

    #[tokio::test]
    async fn simultaneous_rows_are_written_together() {
        let folder = tempfile::tempdir().unwrap();
        let (ledger, found, condition) = begin(folder.path());
        let (one, two) = (outcome(1), outcome(2));
        let mut both = Box::pin(async { tokio::join!(open(&ledger, &one), open(&ledger, &two)) });
        poll_fn(|cx| {
            assert!(both.as_mut().poll(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        assert_eq!(condition.journal_bytes.load(Ordering::Relaxed), 0, "nothing is written before others could come");
        assert_eq!(both.await, (Ok(()), Ok(())));
        let mut reader = found.written.recv().unwrap().1;
        assert_eq!(read(&mut reader), [(1, UsageState::Open), (2, UsageState::Open)]);
    }

    #[tokio::test]
    async fn a_request_whose_client_left_is_recorded_as_open_before_it_is_settled() {
        let folder = tempfile::tempdir().unwrap();
        let (ledger, found, _) = begin(folder.path());
        let (one, two) = (outcome(1), outcome(2));
        ledger.settle(&Row::settled(&two));
        drop(ledger.open(&Row::open(&one, None)).unwrap());
        ledger.settle(&Row::settled(&one));
        assert!(ledger.flush());
        let mut reader = found.written.recv().unwrap().1;
        assert_eq!(read(&mut reader), [(1, UsageState::Open), (2, UsageState::Unknown), (1, UsageState::Unknown)]);
    }

    #[tokio::test]
    async fn a_request_that_cannot_be_recorded_is_not_sent_and_finished_ones_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (ledger, found, condition) = begin(folder.path());
        let (one, two) = (outcome(1), outcome(2));
        let gone = folder.path().join("journal");
        fs::remove_dir(&gone).unwrap();
        ledger.settle(&Row::settled(&one));
        assert_eq!(open(&ledger, &two).await, Err(JournalUnavailable));
        assert!(!ledger.flush());
        assert!(condition.journal_fails.load(Ordering::Relaxed));
        assert_eq!(condition.waiting(), 1);
        fs::create_dir(&gone).unwrap();
        assert!(ledger.flush());
        assert!(!condition.journal_fails.load(Ordering::Relaxed));
        assert_eq!(open(&ledger, &two).await, Ok(()));
        let mut reader = found.written.recv().unwrap().1;
        assert_eq!(read(&mut reader), [(1, UsageState::Unknown), (2, UsageState::Open)]);
    }

    #[tokio::test]
    async fn a_full_journal_refuses_new_requests_and_accepts_finished_ones() {
        let folder = tempfile::tempdir().unwrap();
        let (ledger, found, condition) = begin(folder.path());
        condition.journal_bytes.store(MOST, Ordering::Relaxed);
        let one = outcome(1);
        assert_eq!(open(&ledger, &one).await, Err(JournalUnavailable));
        assert!(condition.journal_full.load(Ordering::Relaxed));
        ledger.settle(&Row::settled(&one));
        assert!(ledger.flush());
        let (segment, mut reader) = found.written.recv().unwrap();
        assert_eq!(read(&mut reader), [(1, UsageState::Unknown)]);
        // The database took the rest.
        ledger.journal.remove(&segment.path, MOST / 2);
        assert!(!condition.journal_full.load(Ordering::Relaxed));
        assert_eq!(open(&ledger, &one).await, Ok(()));
    }
}
