//! What the journal does to the disk, as a parameter: tests give one that fails.

use std::{
    fmt::Debug,
    fs::{File, OpenOptions},
    io::{self, Seek, SeekFrom, Write},
    path::Path,
};

/// A disk that files of the journal are written to.
pub trait Disk: Debug + Send + Sync {
    /// Makes a file that is not there yet.
    ///
    /// # Errors
    /// As the system does.
    fn create(&self, path: &Path) -> io::Result<File>;

    /// Writes behind what is there. After an error a part of it may be there.
    ///
    /// # Errors
    /// As the system does.
    fn append(&self, file: &File, records: &[u8]) -> io::Result<()>;

    /// Takes away what is behind `length`, and goes on there.
    ///
    /// # Errors
    /// As the system does.
    fn cut(&self, file: &File, length: u64) -> io::Result<()>;

    /// Returns once what was written survives a loss of power.
    ///
    /// # Errors
    /// As the system does. It may then have dropped what it could not write, and say nothing of it the next time.
    fn sync(&self, file: &File) -> io::Result<()>;
}

/// The system's.
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
