//! The data folder: one process each, readable by its owner only.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
};

use crate::store::files;

/// A data folder that is ours until this is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

/// Why the data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another process has it.
    #[error(
        "the data folder {0} is in use by another process: give each one a folder of its own \
         (`data_dir`, or the variable TIDEGATE_DATA_DIR)"
    )]
    InUse(PathBuf),
    /// It cannot be made, read or written.
    #[error("the data folder cannot be used: {path}: {source} (`data_dir`, or the variable TIDEGATE_DATA_DIR)")]
    Unusable {
        /// What was touched.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl DataDir {
    /// Makes the folder where it is missing, and takes its lock. The system gives the lock back when the process
    /// ends, however it ends.
    ///
    /// # Errors
    /// When another process holds it, or it cannot be written.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        files::make_private_folder(path).map_err(|source| DataDirError::Unusable { path: path.into(), source })?;
        let lock = path.join("lock");
        let unusable = |source| DataDirError::Unusable { path: lock.clone(), source };
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&lock).map_err(unusable)?;
        files::take_from_others(&lock).map_err(unusable)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { path: path.into(), _lock: file }),
            Err(TryLockError::WouldBlock) => Err(DataDirError::InUse(path.into())),
            Err(TryLockError::Error(source)) => Err(unusable(source)),
        }
    }

    /// The path of a file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Reads a file of it; none where there is none.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn read(&self, name: &str) -> Result<Option<String>, DataDirError> {
        let path = self.file(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(DataDirError::Unusable { path, source }),
        }
    }

    /// Writes a file that only its owner can read: whole, or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Result<(), DataDirError> {
        let path = self.file(name);
        files::replace(&path, text.as_bytes()).map_err(|source| DataDirError::Unusable { path, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_each() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        let first = DataDir::open(&path).unwrap();
        let error = DataDir::open(&path).unwrap_err();
        assert!(matches!(error, DataDirError::InUse(_)), "{error}");
        drop(first);
        DataDir::open(&path).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn files_are_their_owners() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let data = DataDir::open(&folder.path().join("data")).unwrap();
        data.write("secret", "text").unwrap();
        assert_eq!(data.read("secret").unwrap().as_deref(), Some("text"));
        assert_eq!(data.read("other").unwrap(), None);
        let mode = fs::metadata(data.file("secret")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
