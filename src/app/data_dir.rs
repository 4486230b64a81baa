//! The data folder: used by one process at a time, and readable by its owner only.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
};

use crate::store::files;

/// The data folder of this process, locked so that no other process uses it. Dropping this value unlocks the folder.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    lock: File,
}

impl Drop for DataDir {
    /// Unlocks the folder explicitly. Closing the file is not enough while another thread starts a child process: the
    /// child holds a copy of every open file until it runs its own program.
    fn drop(&mut self) {
        // If this fails, closing the file unlocks the folder.
        let _ = self.lock.unlock();
    }
}

/// Why the data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another process holds the lock.
    #[error(
        "the data folder {0} is in use by another process: give each process a data folder of its own (`data_dir`, or \
         the variable TIDEGATE_DATA_DIR)"
    )]
    InUse(PathBuf),
    /// A file in the folder belongs to another user, for example because root ran a command in this folder.
    #[error(
        "the data folder contains {path}, which belongs to user {owner}. This process runs as user {user} and may not \
         use this file or folder: run `chown -R {user}` on the data folder"
    )]
    WrongOwner {
        /// The file or folder.
        path: PathBuf,
        /// The user id of its owner.
        owner: u32,
        /// The user id of this process.
        user: u32,
    },
    /// The folder cannot be created, read or written.
    #[error(
        "the data folder cannot be used: {path}: {source}. Set `data_dir`, or the variable TIDEGATE_DATA_DIR, to a \
         folder that Tidegate can write to"
    )]
    Unusable {
        /// The file or folder that failed.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
}

impl DataDir {
    /// Creates the data folder if it is missing, and locks it for this process. The system releases the lock when the process
    /// ends for any reason.
    ///
    /// # Errors
    /// If another process holds the lock, or the folder cannot be written.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        files::make_private_folder(path).map_err(|source| DataDirError::Unusable { path: path.into(), source })?;
        check_permissions(path)?;
        let lock = path.join(LOCK);
        let unusable = |source| DataDirError::Unusable { path: lock.clone(), source };
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&lock).map_err(unusable)?;
        files::take_from_others(&lock).map_err(unusable)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { path: path.into(), lock: file }),
            Err(TryLockError::WouldBlock) => Err(DataDirError::InUse(path.into())),
            Err(TryLockError::Error(source)) => Err(unusable(source)),
        }
    }

    /// The path of a file with this name in the data folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Reads a file of the data folder as text. `None` if the file does not exist.
    ///
    /// # Errors
    /// If the file exists and cannot be read.
    pub fn read(&self, name: &str) -> Result<Option<String>, DataDirError> {
        let path = self.file(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(DataDirError::Unusable { path, source }),
        }
    }

    /// Writes a file of the data folder that only its owner can read. The file is replaced as a whole or not at all.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Result<(), DataDirError> {
        let path = self.file(name);
        files::replace(&path, text.as_bytes()).map_err(|source| DataDirError::Unusable { path, source })
    }
}

/// Checks that this process may use every file in the folder. SQLite's own error for a database that it cannot write
/// names no file.
#[cfg(unix)]
fn check_permissions(folder: &Path) -> Result<(), DataDirError> {
    use std::os::unix::fs::MetadataExt;

    use rustix::fs::{Access, access};

    let unusable = |source| DataDirError::Unusable { path: folder.into(), source };
    for entry in fs::read_dir(folder).map_err(unusable)? {
        let path = entry.map_err(unusable)?.path();
        // The file was removed since the folder was listed.
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let needs_write = name == LOCK || name.contains(".db") || name.ends_with(".journal") || FOLDERS.contains(&name);
        // Other files are not Tidegate's, or are only read and replaced as a whole.
        if !needs_write && !REPLACED_FILES.contains(&name) {
            continue;
        }
        let wanted = Access::READ_OK | if needs_write { Access::WRITE_OK } else { Access::empty() };
        if access(&path, wanted).is_err() {
            let user = rustix::process::geteuid().as_raw();
            return Err(DataDirError::WrongOwner { path, owner: metadata.uid(), user });
        }
        if metadata.is_dir() && FOLDERS.contains(&name) {
            check_permissions(&path)?;
        }
    }
    Ok(())
}

/// The folders that Tidegate creates inside the data folder.
#[cfg(unix)]
const FOLDERS: [&str; 1] = ["journal"];

/// The files of Tidegate that are replaced as a whole, so they only need to be readable.
#[cfg(unix)]
const REPLACED_FILES: [&str; 4] = ["keys.json", "origin", "budgets.json", "alerts.json"];

/// Other systems have no comparable owners of files.
#[cfg(not(unix))]
fn check_permissions(_: &Path) -> Result<(), DataDirError> {
    Ok(())
}

/// The file that carries the lock.
const LOCK: &str = "lock";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_process_cannot_open_a_locked_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        let first = DataDir::open(&path).unwrap();
        let error = DataDir::open(&path).unwrap_err();
        assert!(matches!(error, DataDirError::InUse(_)), "{error}");
        drop(first);
        DataDir::open(&path).unwrap();
    }

    /// As in a child process that another thread starts at this moment.
    #[test]
    fn a_copy_of_the_open_file_does_not_keep_the_folder_locked() {
        let folder = tempfile::tempdir().unwrap();
        let first = DataDir::open(folder.path()).unwrap();
        let copy = first.lock.try_clone().unwrap();
        drop(first);
        DataDir::open(folder.path()).unwrap();
        drop(copy);
    }

    #[cfg(unix)]
    #[test]
    fn only_the_owner_can_read_the_files() {
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
