//! The journal: append-only files in the data folder, one being written by each worker. What was written survives
//! kill -9 at once, and a loss of power once it was synced.

mod disk;
mod reader;
mod record;

use std::{
    fmt::Display,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

use tokio::time::Instant;

pub use disk::{Disk, SystemDisk};
pub use reader::JournalReader;
pub use record::{EndOfRecords, Records, encode};

use super::files;
use crate::domain::ledger::LedgerStatus;

/// What all files together may hold. With it full, nothing new is sent up. It is half a million requests or more, which
/// is what a database may be away for; it is read in seconds at the next start.
pub const MOST: u64 = 256 * 1024 * 1024;

/// A file is closed at this size, and deleted once the database has all of it.
const SEGMENT: u64 = 16 * 1024 * 1024;

/// Requests are refused many times a second and for one reason: the log gets one line of it in this time.
const TELL_EVERY: Duration = Duration::from_secs(1);

const EXTENSION: &str = "journal";

/// Rows that no database took.
const ASIDE: &str = "refused.rows";

/// A copy that is on its way to take the place of a file that could not be synced.
const COPY: &str = "copy";

/// Names of keys and ids of responses are in it: others shall not read them. Requests are served all the same where they can.
fn make_private(path: &Path) {
    if let Err(error) = files::take_from_others(path) {
        tracing::warn!(
            %error,
            path = %path.display(),
            "other users of this machine may read a part of the journal: its mode cannot be changed. Give it to the user that \
             runs Tidegate, with mode 0700 for the folder and 0600 for its files"
        );
    }
}

/// The folder of the files.
#[derive(Debug)]
pub struct Journal {
    folder: PathBuf,
    disk: &'static dyn Disk,
    /// Number of the next file. Files of one worker are read in the order of their numbers.
    next: AtomicU64,
    segment: u64,
    written: mpsc::Sender<(Arc<Segment>, JournalReader)>,
    /// Those that are still being written.
    live: Mutex<Vec<Weak<Segment>>>,
    condition: Arc<LedgerStatus>,
    told: Mutex<Option<Instant>>,
    /// Held where a file is deleted or replaced, so that none comes back.
    naming: Mutex<()>,
}

/// What is there to be read.
#[derive(Debug)]
pub struct JournalFiles {
    /// Files of processes before this one, in their order.
    pub before: Vec<PathBuf>,
    /// Every file that this process begins.
    pub written: mpsc::Receiver<(Arc<Segment>, JournalReader)>,
}

impl Journal {
    /// Opens the folder on this disk, for so many workers.
    ///
    /// # Errors
    /// When it can neither be made nor read.
    pub fn open(
        folder: PathBuf,
        workers: usize,
        condition: Arc<LedgerStatus>,
        disk: &'static dyn Disk,
    ) -> io::Result<(Arc<Self>, JournalFiles)> {
        files::make_private_folder(&folder)?;
        make_private(&folder);
        let (mut before, mut last) = (Vec::new(), 0);
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            make_private(&path);
            // Also of one that was put aside: another one shall not take its place.
            let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
            last = last.max(number.unwrap_or_default());
            if path.extension().is_some_and(|extension| extension == EXTENSION) {
                condition.journal_bytes.fetch_add(fs::metadata(&path)?.len(), Ordering::Relaxed);
                before.push(path);
            } else if path.extension().is_some_and(|extension| extension == COPY) {
                // Its original is there.
                fs::remove_file(&path)?;
            } else if path.ends_with(ASIDE) {
                tracing::warn!(file = %path.display(), "rows that the database did not take lie aside");
            }
        }
        before.sort();
        let (written, begun) = mpsc::channel();
        // Files that are being written never take more than a quarter, or many workers would fill the journal with them.
        let segment = SEGMENT.min(MOST / 4 / workers.max(1) as u64);
        let (live, told, naming) = (Mutex::default(), Mutex::default(), Mutex::default());
        let next = AtomicU64::new(last.saturating_add(1));
        let journal = Self { folder, disk, next, segment, written, live, condition, told, naming };
        Ok((Arc::new(journal), JournalFiles { before, written: begun }))
    }

    fn create(&self) -> io::Result<Arc<Segment>> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.join(format!("{number:012}.{EXTENSION}"));
        let file = self.disk.create(&path)?;
        let reader = JournalReader::open(&path).inspect_err(|_| {
            // The next try makes another one. An empty one that stays is deleted at the next start.
            let _ = fs::remove_file(&path);
        })?;
        let segment = Arc::new(Segment {
            path,
            file,
            appending: Mutex::default(),
            written: AtomicU64::new(0),
            synced: AtomicU64::new(0),
            sealed: AtomicBool::new(false),
            doubted: AtomicBool::new(false),
            uncut: AtomicBool::new(false),
        });
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
    /// Where the system fails to sync a file, it may have dropped what it could not write, and call the next sync a
    /// success. So such a file is trusted no more: it takes nothing new, and what was written to it is copied, from what
    /// the system still holds in memory, to a file that is synced before it takes its place. Until that succeeds this
    /// fails, at every call. Promised is then what is promised without a sync: what was written survives kill -9, and
    /// gets to the database; a loss of power at that time may lose it.
    ///
    /// # Errors
    /// When the system says that something written may not survive. All files are tried.
    pub fn sync(&self) -> io::Result<()> {
        let live: Vec<_> = {
            let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
            live.iter().filter_map(Weak::upgrade).collect()
        };
        let mut synced = Ok(());
        for segment in live {
            synced = synced.and(self.sync_one(&segment));
        }
        synced
    }

    fn sync_one(&self, segment: &Segment) -> io::Result<()> {
        if segment.is_sealed() && segment.uncut.load(Ordering::Acquire) {
            self.disk.cut(&segment.file, segment.written())?;
            self.disk.sync(&segment.file)?;
            segment.uncut.store(false, Ordering::Release);
        }
        let (written, synced) = (segment.written(), segment.synced.load(Ordering::Relaxed));
        if written == synced {
            return Ok(());
        }
        if !segment.doubted.load(Ordering::Relaxed) {
            let result = self.disk.sync(&segment.file).and_then(|()| match synced {
                // Its name has to survive as well.
                0 => self.sync_folder(),
                _ => Ok(()),
            });
            if result.is_err() {
                segment.doubted.store(true, Ordering::Relaxed);
                segment.seal();
                return result;
            }
            segment.synced.store(written, Ordering::Relaxed);
            return Ok(());
        }
        self.copy(segment, written)?;
        segment.synced.store(written, Ordering::Relaxed);
        Ok(())
    }

    /// Puts a copy in the place of a file that takes nothing new.
    fn copy(&self, segment: &Segment, written: u64) -> io::Result<()> {
        let copy = segment.path.with_extension(COPY);
        let copied = self.write_copy(segment, &copy, written);
        let naming = self.naming();
        // The database may have all of it by now: then it is gone, and stays so.
        let gone = !segment.path.try_exists()?;
        if copied.is_err() || gone {
            // One that stays fails the next try, and goes at the next start.
            let _ = fs::remove_file(&copy);
            return if gone { Ok(()) } else { copied };
        }
        fs::rename(&copy, &segment.path)?;
        drop(naming);
        self.sync_folder()
    }

    fn write_copy(&self, segment: &Segment, copy: &Path, written: u64) -> io::Result<()> {
        let mut reader = JournalReader::open(&segment.path)?;
        let file = self.disk.create(copy)?;
        while reader.at() < written {
            let piece = reader.piece(written)?;
            if piece.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.disk.append(&file, piece)?;
            let length = piece.len() as u64;
            reader.advance(length);
        }
        self.disk.sync(&file)
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.disk.sync(&File::open(&self.folder)?)
    }

    fn naming(&self) -> MutexGuard<'_, ()> {
        self.naming.lock().unwrap_or_else(PoisonError::into_inner)
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
        let _naming = self.naming();
        match fs::remove_file(path) {
            Ok(()) => self.freed(length),
            // It is read again at the next start, which changes nothing.
            Err(error) => tracing::warn!(%error, file = %path.display(), "a file of the journal cannot be deleted"),
        }
    }

    /// Puts a damaged file aside: a person may find in it what could not be read.
    pub fn put_aside(&self, path: &Path, length: u64) {
        let _naming = self.naming();
        match fs::rename(path, path.with_extension("damaged")) {
            Ok(()) => self.freed(length),
            Err(error) => tracing::warn!(%error, file = %path.display(), "a damaged file cannot be put aside"),
        }
    }

    /// Keeps a record that the database takes in no form beside the files of the journal, in a file that nobody reads. Once
    /// what was wrong is mended it can be renamed to `000000000000.journal`: the next start reads it.
    ///
    /// # Errors
    /// When it cannot be written, or the file is as large as it may be.
    pub fn keep_aside(&self, record: &[u8]) -> io::Result<()> {
        let path = self.folder.join(ASIDE);
        let file = match self.disk.create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => File::options().append(true).open(&path)?,
            file => file?,
        };
        if file.metadata()?.len() >= SEGMENT {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.disk.append(&file, record)?;
        self.disk.sync(&file)
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
    /// Held while it is written, for one who ends that.
    appending: Mutex<()>,
    written: AtomicU64,
    synced: AtomicU64,
    sealed: AtomicBool,
    /// A sync failed: nobody knows what of it is on the disk.
    doubted: AtomicBool,
    /// Something may stand behind what was written: the beginning of what then failed.
    uncut: AtomicBool,
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

    fn appending(&self) -> MutexGuard<'_, ()> {
        self.appending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing more is written to it.
    fn seal(&self) {
        let _appending = self.appending();
        self.sealed.store(true, Ordering::Release);
    }
}

/// What one worker writes with.
#[derive(Debug)]
pub struct JournalWriter {
    journal: Arc<Journal>,
    segment: Option<Arc<Segment>>,
}

impl JournalWriter {
    /// Writes to files of its own, the first of which is made when it is needed.
    pub fn new(journal: Arc<Journal>) -> Self {
        Self { journal, segment: None }
    }

    /// Appends records with one call: all of them, or none.
    ///
    /// # Errors
    /// When the system does not take them.
    pub fn write(&mut self, records: &[u8]) -> io::Result<()> {
        loop {
            let segment = match &self.segment {
                Some(segment) if segment.written() < self.journal.segment && !segment.is_sealed() => segment,
                _ => {
                    let next = self.journal.create()?;
                    self.seal();
                    self.segment.insert(next)
                }
            };
            let appending = segment.appending();
            if segment.is_sealed() {
                // Its sync failed just now: the next one.
                continue;
            }
            let before = segment.written();
            let Err(error) = self.journal.disk.append(&segment.file, records) else {
                let length = records.len() as u64;
                self.journal.condition.journal_bytes.fetch_add(length, Ordering::Relaxed);
                segment.written.store(before + length, Ordering::Release);
                return Ok(());
            };
            // A part of them may be there: it would stand before the next ones.
            let cut = self.journal.disk.cut(&segment.file, before);
            segment.uncut.store(cut.is_err(), Ordering::Release);
            drop(appending);
            if cut.is_err() {
                // Nobody reads beyond `before` in this process. The next one would, and find requests among it that were
                // refused: so it is cut off as soon as the disk lets us, together with the next sync.
                self.seal();
            }
            return Err(error);
        }
    }

    fn seal(&mut self) {
        if let Some(segment) = self.segment.take() {
            segment.seal();
        }
    }
}

impl Drop for JournalWriter {
    fn drop(&mut self) {
        self.seal();
    }
}

#[cfg(test)]
mod tests;
