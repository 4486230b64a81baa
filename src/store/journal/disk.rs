//! The journal's disk operations, as a trait. Tests use a disk that fails.

use std::{
    fmt::Debug,
    fs::{File, OpenOptions},
    io::{self, Seek, SeekFrom, Write},
    path::Path,
};

/// The disk operations of the journal, which is the set of files to which each ledger row is written first. Tests use a disk that fails.
pub trait Disk: Debug + Send + Sync {
    /// Creates a file that must not exist yet.
    ///
    /// # Errors
    /// When the system fails.
    fn create(&self, path: &Path) -> io::Result<File>;

    /// Appends records. After an error the file may have a part of them.
    ///
    /// # Errors
    /// When the system fails.
    fn append(&self, file: &File, records: &[u8]) -> io::Result<()>;

    /// Truncates the file to `length`, and continues there.
    ///
    /// # Errors
    /// When the system fails.
    fn cut(&self, file: &File, length: u64) -> io::Result<()>;

    /// Returns when the written data survives a power loss.
    ///
    /// # Errors
    /// When the system fails. The system may then have dropped unwritten data without an error at the next call.
    fn sync(&self, file: &File) -> io::Result<()>;
}

/// The disk of the operating system, to which the journal writes in production. Tests use other disks, which fail.
#[derive(Clone, Copy, Debug)]
pub struct SystemDisk;

impl Disk for SystemDisk {
    fn create(&self, path: &Path) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.create_new(true).write(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options.open(path)
    }

    fn append(&self, mut file: &File, records: &[u8]) -> io::Result<()> {
        file.write_all(records)
    }

    fn cut(&self, mut file: &File, length: u64) -> io::Result<()> {
        file.set_len(length)?;
        file.seek(SeekFrom::Start(length)).map(drop)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }
}
