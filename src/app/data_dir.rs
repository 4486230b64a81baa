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
    lock: File,
}

impl Drop for DataDir {
    /// Closing the file alone gives the lock back later where another thread is just starting a process: until that process
    /// runs its own program, it holds a copy of every open file.
    fn drop(&mut self) {
        // Closing gives it back at the latest.
        let _ = self.lock.unlock();
    }
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
    /// Something in it belongs to somebody else, such as to root, after a command that root ran in this folder.
    #[error(
        "the data folder holds {path}, which belongs to user {owner} and which this process, user {user}, may not use: \
         run `chown -R {user}` on the data folder"
    )]
    NotOurs {
        /// What it is.
        path: PathBuf,
        /// The number of its owner.
        owner: u32,
        /// Our own.
        user: u32,
    },
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
        look_through(path)?;
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

/// Looks whether everything in the folder can be used. A database that cannot be written says so without a name.
#[cfg(unix)]
fn look_through(folder: &Path) -> Result<(), DataDirError> {
    use std::os::unix::fs::MetadataExt;

    use rustix::fs::{Access, access};

    let unusable = |source| DataDirError::Unusable { path: folder.into(), source };
    for entry in fs::read_dir(folder).map_err(unusable)? {
        let path = entry.map_err(unusable)?.path();
        // What ended meanwhile needs no look.
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_written = name == LOCK || name.contains(".db") || name.ends_with(".journal") || FOLDERS.contains(&name);
        // Others are read and replaced as a whole, or none of ours.
        if !is_written && !READ.contains(&name) {
            continue;
        }
        let wanted = Access::READ_OK | if is_written { Access::WRITE_OK } else { Access::empty() };
        if access(&path, wanted).is_err() {
            let user = rustix::process::geteuid().as_raw();
            return Err(DataDirError::NotOurs { path, owner: metadata.uid(), user });
        }
        if metadata.is_dir() && FOLDERS.contains(&name) {
            look_through(&path)?;
        }
    }
    Ok(())
}

/// Folders of ours in it.
#[cfg(unix)]
const FOLDERS: [&str; 1] = ["journal"];

/// Files of ours in it that are replaced as a whole.
#[cfg(unix)]
const READ: [&str; 4] = ["keys.json", "origin", "budgets.json", "alerts.json"];

/// Other systems have no such owners.
#[cfg(not(unix))]
fn look_through(_: &Path) -> Result<(), DataDirError> {
    Ok(())
}

/// The file by which one process has the folder.
const LOCK: &str = "lock";

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

    /// As a process has it that another thread starts at this moment.
    #[test]
    fn a_copy_of_the_open_file_does_not_keep_the_folder_in_use() {
        let folder = tempfile::tempdir().unwrap();
        let first = DataDir::open(folder.path()).unwrap();
        let copy = first.lock.try_clone().unwrap();
        drop(first);
        DataDir::open(folder.path()).unwrap();
        drop(copy);
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
