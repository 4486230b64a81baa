//! The journal: append-only files in the data folder, one being written by each worker. What was written survives
//! kill -9 at once, and a loss of power once it was synced.

mod record;

use std::{
    fmt::Display,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

use tokio::time::Instant;

pub use record::{Records, Rest, encode};

use crate::domain::ledger::Condition;

/// What all files together may hold. With it full, nothing new is sent up. It is half a million requests or more, which
/// is what a database may be away for; it is read in seconds at the next start.
pub const MOST: u64 = 256 * 1024 * 1024;

/// A file is closed at this size, and deleted once the database has all of it.
const SEGMENT: u64 = 16 * 1024 * 1024;

/// Requests are refused many times a second and for one reason: the log gets one line of it in this time.
const TELL_EVERY: Duration = Duration::from_secs(1);

const EXTENSION: &str = "journal";

/// The folder of the files.
#[derive(Debug)]
pub struct Journal {
    folder: PathBuf,
    /// Number of the next file. Files of one worker are read in the order of their numbers.
    next: AtomicU64,
    segment: u64,
    written: mpsc::Sender<(Arc<Segment>, Reader)>,
    /// Those that are still being written.
    live: Mutex<Vec<Weak<Segment>>>,
    condition: Arc<Condition>,
    told: Mutex<Option<Instant>>,
}

/// What is there to be read.
#[derive(Debug)]
pub struct Found {
    /// Files of processes before this one, in their order.
    pub before: Vec<PathBuf>,
    /// Every file that this process begins.
    pub written: mpsc::Receiver<(Arc<Segment>, Reader)>,
}

impl Journal {
    /// Opens the folder, for so many workers.
    ///
    /// # Errors
    /// When it can neither be made nor read.
    pub fn open(folder: PathBuf, workers: usize, condition: Arc<Condition>) -> io::Result<(Arc<Self>, Found)> {
        fs::create_dir_all(&folder)?;
        let mut before = Vec::new();
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == EXTENSION) {
                condition.journal_bytes.fetch_add(fs::metadata(&path)?.len(), Ordering::Relaxed);
                before.push(path);
            }
        }
        before.sort();
        let number = |path: &PathBuf| path.file_stem()?.to_str()?.parse::<u64>().ok();
        let next = before.iter().filter_map(number).max().unwrap_or_default() + 1;
        let (sender, written) = mpsc::channel();
        // Files that are being written never take more than a quarter, or many workers would fill the journal with them.
        let segment = SEGMENT.min(MOST / 4 / workers.max(1) as u64);
        let (live, told) = (Mutex::default(), Mutex::default());
        let journal = Self { folder, next: AtomicU64::new(next), segment, written: sender, live, condition, told };
        Ok((Arc::new(journal), Found { before, written }))
    }

    fn create(&self) -> io::Result<Arc<Segment>> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.join(format!("{number:012}.{EXTENSION}"));
        let mut options = OpenOptions::new();
        options.create_new(true).write(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&path)?;
        let reader = Reader::open(&path)?;
        let (written, synced, sealed) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
        let segment = Arc::new(Segment { path, file, written, synced, sealed });
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.retain(|segment| segment.strong_count() > 0);
        live.push(Arc::downgrade(&segment));
        drop(live);
        // Where nobody reads any more the process ends, and the next one reads.
        let _ = self.written.send((Arc::clone(&segment), reader));
        Ok(segment)
    }

    /// Makes what was written survive a loss of power.
    ///
    /// # Errors
    /// When the system says that it may not.
    pub fn sync(&self) -> io::Result<()> {
        let live: Vec<_> = {
            let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
            live.iter().filter_map(Weak::upgrade).collect()
        };
        for segment in live {
            let written = segment.written.load(Ordering::Acquire);
            if written > segment.synced.load(Ordering::Relaxed) {
                segment.file.sync_data()?;
                segment.synced.store(written, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Whether it holds as much as it may.
    pub fn is_full(&self) -> bool {
        let full = self.condition.journal_bytes.load(Ordering::Relaxed) >= MOST;
        if full {
            self.condition.journal_full.store(true, Ordering::Relaxed);
        }
        full
    }

    /// Deletes a file that the database has all of.
    pub fn remove(&self, path: &Path, length: u64) {
        match fs::remove_file(path) {
            Ok(()) => self.freed(length),
            // It is read again at the next start, which changes nothing.
            Err(error) => tracing::warn!(%error, file = %path.display(), "a file of the journal cannot be deleted"),
        }
    }

    /// Puts a damaged file aside: a person may find in it what could not be read.
    pub fn put_aside(&self, path: &Path, length: u64) {
        match fs::rename(path, path.with_extension("damaged")) {
            Ok(()) => self.freed(length),
            Err(error) => tracing::warn!(%error, file = %path.display(), "a damaged file cannot be put aside"),
        }
    }

    fn freed(&self, length: u64) {
        let before = self.condition.journal_bytes.fetch_sub(length, Ordering::Relaxed);
        if before.saturating_sub(length) < MOST {
            self.condition.journal_full.store(false, Ordering::Relaxed);
        }
    }

    /// Tells the log why requests are refused, once a second at most.
    pub fn tell(&self, error: &dyn Display) {
        let now = Instant::now();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|told| told + TELL_EVERY <= now) {
            *told = Some(now);
            tracing::error!(%error, "the journal of the ledger cannot be written: requests are refused");
        }
    }
}

/// One file of this process.
#[derive(Debug)]
pub struct Segment {
    /// Where it is.
    pub path: PathBuf,
    file: File,
    written: AtomicU64,
    synced: AtomicU64,
    sealed: AtomicBool,
}

impl Segment {
    /// How far it may be read: a whole number of records.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// Whether nothing more is written to it. Asked before [`written`](Self::written), it tells the end.
    pub fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::Acquire)
    }
}

/// What one worker writes with.
#[derive(Debug)]
pub struct Writer {
    journal: Arc<Journal>,
    segment: Option<Arc<Segment>>,
}

impl Writer {
    /// Writes to files of its own, the first of which is made when it is needed.
    pub fn new(journal: Arc<Journal>) -> Self {
        Self { journal, segment: None }
    }

    /// Appends records with one call: all of them, or none.
    ///
    /// # Errors
    /// When the system does not take them.
    pub fn write(&mut self, records: &[u8]) -> io::Result<()> {
        let segment = match &self.segment {
            Some(segment) if segment.written() < self.journal.segment => segment,
            _ => {
                let next = self.journal.create()?;
                self.seal();
                self.segment.insert(next)
            }
        };
        let before = segment.written();
        match (&segment.file).write_all(records) {
            Ok(()) => {
                let length = records.len() as u64;
                self.journal.condition.journal_bytes.fetch_add(length, Ordering::Relaxed);
                segment.written.store(before + length, Ordering::Release);
                Ok(())
            }
            Err(error) => {
                // A part of them may be there: it would stand before the next ones.
                let cut = segment.file.set_len(before).and_then(|()| (&segment.file).seek(SeekFrom::Start(before)));
                if cut.is_err() {
                    // Nobody reads beyond `before` in this process, and the next one stops at the torn record.
                    self.seal();
                }
                Err(error)
            }
        }
    }

    fn seal(&mut self) {
        if let Some(segment) = self.segment.take() {
            segment.sealed.store(true, Ordering::Release);
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.seal();
    }
}

/// Reads one file from its beginning, in pieces.
#[derive(Debug)]
pub struct Reader {
    file: File,
    at: u64,
    piece: Vec<u8>,
}

/// A piece holds some 300 rows: what goes to the database at once.
const PIECE: u64 = 128 * 1024;

impl Reader {
    /// Of the file at `path`.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::open(path)?, at: 0, piece: Vec::new() })
    }

    /// What comes next, up to `end`; the same again, until [`advance`](Self::advance) is called.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn piece(&mut self, end: u64) -> io::Result<&[u8]> {
        let length = end.saturating_sub(self.at).min(PIECE);
        self.piece.clear();
        self.file.seek(SeekFrom::Start(self.at))?;
        (&self.file).take(length).read_to_end(&mut self.piece)?;
        Ok(&self.piece)
    }

    /// The first `length` bytes of what was read are done with.
    pub fn advance(&mut self, length: u64) {
        self.at += length;
    }

    /// How far it has come.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// The length of the file now.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn length(&self) -> io::Result<u64> {
        self.file.metadata().map(|metadata| metadata.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(folder: &Path) -> (Arc<Journal>, Found, Arc<Condition>) {
        let condition = Arc::new(Condition::default());
        let (journal, found) = Journal::open(folder.join("journal"), 2, Arc::clone(&condition)).unwrap();
        (journal, found, condition)
    }

    fn bytes(condition: &Condition) -> u64 {
        condition.journal_bytes.load(Ordering::Relaxed)
    }

    #[test]
    fn files_are_closed_when_they_are_full_and_deleted_when_they_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let (journal, found, condition) = open(folder.path());
        let mut writer = Writer::new(Arc::clone(&journal));
        let records = vec![1; 1024 * 1024];
        for _ in 0..17 {
            writer.write(&records).unwrap();
        }
        let [(full, _), (last, _)] = [found.written.recv().unwrap(), found.written.recv().unwrap()];
        assert_eq!((full.is_sealed(), full.written()), (true, SEGMENT));
        assert_eq!((last.is_sealed(), last.written()), (false, 1024 * 1024));
        journal.sync().unwrap();
        assert_eq!(bytes(&condition), 17 * 1024 * 1024);
        journal.remove(&full.path, full.written());
        assert_eq!(bytes(&condition), 1024 * 1024);
        drop(writer);
        assert!(last.is_sealed());
        let (_, again, condition) = open(folder.path());
        assert_eq!((again.before, bytes(&condition)), (vec![last.path.clone()], 1024 * 1024));
    }

    #[test]
    fn a_file_that_cannot_be_made_fails_the_write_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let (journal, found, condition) = open(folder.path());
        let mut writer = Writer::new(journal);
        let gone = folder.path().join("journal");
        fs::remove_dir(&gone).unwrap();
        writer.write(b"one").unwrap_err();
        assert_eq!(bytes(&condition), 0);
        fs::create_dir(&gone).unwrap();
        writer.write(b"two").unwrap();
        assert_eq!(found.written.recv().unwrap().0.written(), 3);
    }
}
