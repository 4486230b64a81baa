//! The journal: append-only files in the data folder, one current file for each worker. Written rows survive kill -9 at once, and
//! a power loss after the next sync.

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
pub use record::{Records, RecordsEnd, encode};

use super::files;
use crate::concurrent::ledger_status::LedgerStatus;

/// The largest total size of all journal files, in bytes. A full journal refuses new requests. The size holds half a million ledger rows
/// or more while the database is away. The next start reads them in seconds.
pub const MOST: u64 = 256 * 1024 * 1024;

/// The size at which a file is closed. The file is deleted once the database has all of its rows.
const SEGMENT: u64 = 16 * 1024 * 1024;

/// The shortest time between two log lines: while the journal fails, requests are refused many times a second for one reason.
const LOG_EVERY: Duration = Duration::from_secs(1);

const EXTENSION: &str = "journal";

/// The quarantine file for rows that the database refuses.
const ASIDE: &str = "refused.rows";

/// The extension of a copy that will replace a file whose sync failed.
const COPY: &str = "copy";

/// Removes other users' access, because the files contain key names and response ids. A failure does not stop the gateway.
fn make_private(path: &Path) {
    if let Err(error) = files::take_from_others(path) {
        tracing::warn!(
            %error,
            path = %path.display(),
            "other users of this machine may read a part of the journal of the ledger: Tidegate cannot change the file \
             mode. Make the user of Tidegate the owner, with mode 0700 for folders and 0600 for files"
        );
    }
}

/// The journal: a folder of append-only files, to which each ledger row is written before the database gets it.
#[derive(Debug)]
pub struct Journal {
    folder: PathBuf,
    disk: &'static dyn Disk,
    /// Number of the next file. The files of one worker are read in the order of their numbers.
    next: AtomicU64,
    segment: u64,
    written: mpsc::Sender<(Arc<Segment>, JournalReader)>,
    /// The files that are still being written.
    live: Mutex<Vec<Weak<Segment>>>,
    condition: Arc<LedgerStatus>,
    logged: Mutex<Option<Instant>>,
    /// Locked while a file is deleted or replaced, so that no deleted file comes back.
    naming: Mutex<()>,
}

/// What the thread that copies ledger rows to the database reads: the journal files of earlier processes and of this process.
#[derive(Debug)]
pub struct JournalFiles {
    /// Files of earlier processes, in order.
    pub before: Vec<PathBuf>,
    /// Receives each file that this process creates.
    pub written: mpsc::Receiver<(Arc<Segment>, JournalReader)>,
}

impl Journal {
    /// Opens the journal in this folder, or creates the folder. The journal then accepts rows from this number of workers. Also returns
    /// the files to read.
    ///
    /// # Errors
    /// When the folder can neither be created nor read.
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
            // Quarantined files count too, so that no new file replaces one.
            let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
            last = last.max(number.unwrap_or_default());
            if path.extension().is_some_and(|extension| extension == EXTENSION) {
                condition.journal_bytes.fetch_add(fs::metadata(&path)?.len(), Ordering::Relaxed);
                before.push(path);
            } else if path.extension().is_some_and(|extension| extension == COPY) {
                // The original still exists.
                fs::remove_file(&path)?;
            } else if path.ends_with(ASIDE) {
                tracing::warn!(file = %path.display(), "the data folder has a file of quarantined ledger rows, which \
                    the database refused earlier: these rows are missing in the ledger. Keep the file until somebody \
                    has read the rows");
            }
        }
        before.sort();
        let (written, begun) = mpsc::channel();
        // The current files use at most a quarter, or many workers would fill the journal with them.
        let segment = SEGMENT.min(MOST / 4 / workers.max(1) as u64);
        let (live, logged, naming) = (Mutex::default(), Mutex::default(), Mutex::default());
        let next = AtomicU64::new(last.saturating_add(1));
        let journal = Self { folder, disk, next, segment, written, live, condition, logged, naming };
        Ok((Arc::new(journal), JournalFiles { before, written: begun }))
    }

    fn create(&self) -> io::Result<Arc<Segment>> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.join(format!("{number:012}.{EXTENSION}"));
        let file = self.disk.create(&path)?;
        let reader = JournalReader::open(&path).inspect_err(|_| {
            // The next try creates another file. The next start deletes an empty file that remains.
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
        // Without a receiver the process is ending, and the next process reads the file.
        let _ = self.written.send((Arc::clone(&segment), reader));
        Ok(segment)
    }

    /// Syncs all journal files to the disk, so that the written ledger rows survive a power loss.
    ///
    /// After a failed sync, the system may drop data, and the next sync may still report success. So the journal seals such a file, and
    /// replaces it by a synced copy of its content, which the system still has in memory. Until the copy exists, every call fails. The
    /// written rows then still survive kill -9 and reach the database, but a power loss may lose them.
    ///
    /// # Errors
    /// When written rows may not survive a power loss. Every file is tried.
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
                // The name of a new file must survive as well.
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

    /// Replaces a sealed file by a copy.
    fn copy(&self, segment: &Segment, written: u64) -> io::Result<()> {
        let copy = segment.path.with_extension(COPY);
        let copied = self.write_copy(segment, &copy, written);
        let naming = self.naming();
        // The database may have all rows by now. Then the file is deleted already, and must not come back.
        let gone = !segment.path.try_exists()?;
        if copied.is_err() || gone {
            // A copy that remains makes the next try fail. The next start deletes it.
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

    /// Whether the journal files have reached their largest total size ([`MOST`]), so that the gateway must refuse new requests.
    pub fn is_full(&self) -> bool {
        let full = self.condition.journal_bytes.load(Ordering::Relaxed) >= MOST;
        if full {
            self.condition.journal_full.store(true, Ordering::Relaxed);
        }
        full
    }

    /// Deletes a journal file after the database has stored all of its ledger rows. `length` is the size of the file.
    pub fn remove(&self, path: &Path, length: u64) {
        let _naming = self.naming();
        match fs::remove_file(path) {
            Ok(()) => self.freed(length),
            // The next start reads the file again, which changes nothing.
            Err(error) => {
                tracing::warn!(%error, file = %path.display(), "a journal file of the ledger cannot be deleted: the \
                    next start reads the file again and stores no row twice. Check the disk of the data folder")
            }
        }
    }

    /// Renames a damaged journal file, so that no start reads the file and a person may recover the unreadable part.
    pub fn quarantine(&self, path: &Path, length: u64) {
        let _naming = self.naming();
        match fs::rename(path, path.with_extension("damaged")) {
            Ok(()) => self.freed(length),
            Err(error) => {
                tracing::warn!(%error, file = %path.display(), "a corrupt journal file of the ledger cannot be \
                    quarantined, so the file stays in the journal. Check the disk of the data folder")
            }
        }
    }

    /// Writes a ledger record that the database refuses in every form to a quarantine file, which the gateway never reads. After the
    /// cause is removed, an operator can rename the file to `000000000000.journal`, and the next start reads it.
    ///
    /// # Errors
    /// When the file cannot be written, or has reached its largest size.
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

    /// Logs the error because of which the journal cannot be written and requests are refused. Logs at most once a second.
    pub fn log_failure(&self, error: &dyn Display) {
        let now = Instant::now();
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.is_none_or(|logged| logged + LOG_EVERY <= now) {
            *logged = Some(now);
            tracing::error!(%error, "the journal cannot be written: Tidegate refuses requests, because the ledger rows \
                of these requests would be lost. Check the disk of the data folder");
        }
    }
}

/// One journal file that this process writes, with its path, its readable length, and whether the file still takes records.
#[derive(Debug)]
pub struct Segment {
    /// The path of the file.
    pub path: PathBuf,
    file: File,
    /// Locked while a worker writes, so that a sync can seal the file between two writes.
    appending: Mutex<()>,
    written: AtomicU64,
    synced: AtomicU64,
    sealed: AtomicBool,
    /// Whether a sync failed, so that the content of the disk is unknown.
    doubted: AtomicBool,
    /// Whether the file may have a partial record of a failed write behind the written records.
    uncut: AtomicBool,
}

impl Segment {
    /// Returns how many bytes of this journal file can be read. They are a whole number of records.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// Whether this journal file takes no more records. Check this before [`written`](Self::written), which then is the final length.
    pub fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::Acquire)
    }

    fn appending(&self) -> MutexGuard<'_, ()> {
        self.appending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the writing of this file.
    fn seal(&self) {
        let _appending = self.appending();
        self.sealed.store(true, Ordering::Release);
    }
}

/// Writes the ledger records of one worker to the journal files of that worker.
#[derive(Debug)]
pub struct JournalWriter {
    journal: Arc<Journal>,
    segment: Option<Arc<Segment>>,
}

impl JournalWriter {
    /// Makes the journal writer of one worker. The writer creates its first file when the first record comes.
    pub fn new(journal: Arc<Journal>) -> Self {
        Self { journal, segment: None }
    }

    /// Appends encoded ledger records to the worker's journal file with one system call: all of the records, or none.
    ///
    /// # Errors
    /// When the system cannot write them.
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
                // A sync of this file has just failed. The next file takes the records.
                continue;
            }
            let before = segment.written();
            let Err(error) = self.journal.disk.append(&segment.file, records) else {
                let length = records.len() as u64;
                self.journal.condition.journal_bytes.fetch_add(length, Ordering::Relaxed);
                segment.written.store(before + length, Ordering::Release);
                return Ok(());
            };
            // A part of the records may be in the file, in front of the next records.
            let cut = self.journal.disk.cut(&segment.file, before);
            segment.uncut.store(cut.is_err(), Ordering::Release);
            drop(appending);
            if cut.is_err() {
                // This process never reads beyond `before`. The next process would, and would find refused requests there. So the
                // next sync that succeeds cuts the part off.
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
