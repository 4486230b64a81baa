use super::*;

fn open(folder: &Path) -> (Arc<Journal>, JournalFiles, Arc<LedgerStatus>) {
    let condition = Arc::new(LedgerStatus::default());
    let (journal, found) = Journal::open(folder.join("journal"), 2, Arc::clone(&condition), &SystemDisk).unwrap();
    (journal, found, condition)
}

fn bytes(condition: &LedgerStatus) -> u64 {
    condition.journal_bytes.load(Ordering::Relaxed)
}

#[test]
fn full_files_are_closed_and_read_files_are_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, found, condition) = open(folder.path());
    let mut writer = JournalWriter::new(Arc::clone(&journal));
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

/// Fails to sync so many times.
#[derive(Debug)]
struct FailingSyncDisk(AtomicU64);

impl Disk for FailingSyncDisk {
    fn create(&self, path: &Path) -> io::Result<File> {
        SystemDisk.create(path)
    }

    fn append(&self, file: &File, records: &[u8]) -> io::Result<()> {
        SystemDisk.append(file, records)
    }

    fn cut(&self, file: &File, length: u64) -> io::Result<()> {
        SystemDisk.cut(file, length)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        let left = self.0.load(Ordering::Relaxed);
        self.0.store(left.saturating_sub(1), Ordering::Relaxed);
        if left > 0 { Err(io::ErrorKind::Other.into()) } else { SystemDisk.sync(file) }
    }
}

#[test]
fn a_file_that_failed_to_sync_is_replaced_by_a_copy() {
    static DISK: FailingSyncDisk = FailingSyncDisk(AtomicU64::new(2));
    let folder = tempfile::tempdir().unwrap();
    let open = || Journal::open(folder.path().join("journal"), 1, Arc::default(), &DISK).unwrap();
    let (journal, found) = open();
    let mut writer = JournalWriter::new(Arc::clone(&journal));
    writer.write(b"one").unwrap();
    let (first, _) = found.written.recv().unwrap();
    let file = || std::os::unix::fs::MetadataExt::ino(&fs::metadata(&first.path).unwrap());
    let before = file();
    journal.sync().unwrap_err();
    assert!(first.is_sealed());
    writer.write(b"two").unwrap();
    let (second, _) = found.written.recv().unwrap();
    assert_eq!((first.written(), second.written()), (3, 3));
    // The copy fails as well; the other file does not.
    journal.sync().unwrap_err();
    assert_eq!((file() == before, second.synced.load(Ordering::Relaxed)), (true, 3));
    journal.sync().unwrap();
    assert_eq!((file() == before, fs::read(&first.path).unwrap()), (false, b"one".to_vec()));
    journal.sync().unwrap();
    assert_eq!(fs::read_dir(folder.path().join("journal")).unwrap().count(), 2);

    // Rows that are in the database by then do not return.
    DISK.0.store(1, Ordering::Relaxed);
    writer.write(b"three").unwrap();
    journal.sync().unwrap_err();
    journal.remove(&second.path, second.written());
    journal.sync().unwrap();
    assert!(!second.path.exists());
}

/// Writes half of what it is given, and does not let it be cut off so many times.
#[derive(Debug)]
struct FailingTruncateDisk(AtomicU64);

impl Disk for FailingTruncateDisk {
    fn create(&self, path: &Path) -> io::Result<File> {
        SystemDisk.create(path)
    }

    fn append(&self, file: &File, records: &[u8]) -> io::Result<()> {
        if self.0.load(Ordering::Relaxed) == 0 {
            return SystemDisk.append(file, records);
        }
        SystemDisk.append(file, &records[..records.len() / 2])?;
        Err(io::ErrorKind::StorageFull.into())
    }

    fn cut(&self, file: &File, length: u64) -> io::Result<()> {
        let left = self.0.load(Ordering::Relaxed);
        self.0.store(left.saturating_sub(1), Ordering::Relaxed);
        if left > 0 { Err(io::ErrorKind::Other.into()) } else { SystemDisk.cut(file, length) }
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        SystemDisk.sync(file)
    }
}

#[test]
fn a_partly_written_record_is_cut_off_once_the_disk_works() {
    static DISK: FailingTruncateDisk = FailingTruncateDisk(AtomicU64::new(0));
    let folder = tempfile::tempdir().unwrap();
    let (journal, found) = Journal::open(folder.path().join("journal"), 1, Arc::default(), &DISK).unwrap();
    let mut writer = JournalWriter::new(Arc::clone(&journal));
    writer.write(b"one").unwrap();
    DISK.0.store(2, Ordering::Relaxed);
    writer.write(b"refused").unwrap_err();
    let (first, _) = found.written.recv().unwrap();
    let text = || fs::read_to_string(&first.path).unwrap();
    journal.sync().unwrap_err();
    assert_eq!((text(), first.is_sealed()), ("oneref".to_owned(), true));
    journal.sync().unwrap();
    assert_eq!(text(), "one");
    writer.write(b"two").unwrap();
    assert_eq!(found.written.recv().unwrap().0.written(), 3);
}

/// Makes files that cannot be opened.
#[derive(Debug)]
struct UnreadableDisk;

impl Disk for UnreadableDisk {
    fn create(&self, path: &Path) -> io::Result<File> {
        std::os::unix::fs::symlink("nowhere", path)?;
        tempfile::tempfile()
    }

    fn append(&self, file: &File, records: &[u8]) -> io::Result<()> {
        SystemDisk.append(file, records)
    }

    fn cut(&self, file: &File, length: u64) -> io::Result<()> {
        SystemDisk.cut(file, length)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        SystemDisk.sync(file)
    }
}

#[test]
fn a_new_file_that_cannot_be_opened_for_reading_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _found) = Journal::open(folder.path().join("journal"), 1, Arc::default(), &UnreadableDisk).unwrap();
    let mut writer = JournalWriter::new(journal);
    for _ in 0..3 {
        writer.write(b"one").unwrap_err();
    }
    assert_eq!(fs::read_dir(folder.path().join("journal")).unwrap().count(), 0);
}

#[test]
fn file_numbers_in_use_are_not_used_again() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()));
    fs::write(folder.path().join("journal/000000000007.damaged"), "look at this").unwrap();
    let (journal, found, _) = open(folder.path());
    assert_eq!(found.before, Vec::<PathBuf>::new());
    JournalWriter::new(journal).write(b"one").unwrap();
    assert!(found.written.recv().unwrap().0.path.ends_with("000000000008.journal"));
}

#[test]
fn an_unfinished_copy_is_not_a_journal_file() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()));
    let copy = folder.path().join("journal/000000000001.copy");
    fs::write(&copy, "half").unwrap();
    assert_eq!(open(folder.path()).1.before, Vec::<PathBuf>::new());
    assert!(!copy.exists());
}

#[test]
fn a_file_that_cannot_be_created_fails_only_its_write() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, found, condition) = open(folder.path());
    let mut writer = JournalWriter::new(journal);
    let gone = folder.path().join("journal");
    fs::remove_dir(&gone).unwrap();
    writer.write(b"one").unwrap_err();
    assert_eq!(bytes(&condition), 0);
    fs::create_dir(&gone).unwrap();
    writer.write(b"two").unwrap();
    assert_eq!(found.written.recv().unwrap().0.written(), 3);
}
