//! The files that a configuration was read from, so that Tidegate notices when any of them changes.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

/// The files that a configuration was read from, with hashes of their content. Some files contain secrets, so the content itself
/// is not stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchedFiles(Vec<WatchedFile>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct WatchedFile {
    path: PathBuf,
    held: Result<[u8; 32], io::ErrorKind>,
}

impl WatchedFiles {
    /// Reads one file of the configuration, and remembers the hash of its content so that a later change is noticed.
    pub(super) fn read(&mut self, path: &Path) -> io::Result<Vec<u8>> {
        let read = fs::read(path);
        self.0.push(WatchedFile { path: path.to_owned(), held: held(&read) });
        read
    }

    /// Reads all files of a configuration again and returns their present hashes. The caller compares them with the old ones.
    /// Only the content counts: times and inodes are not reliable on network file systems or for a link whose target was
    /// replaced.
    #[must_use]
    pub fn again(&self) -> Self {
        Self(self.0.iter().map(WatchedFile::again).collect())
    }
}

impl WatchedFile {
    fn again(&self) -> Self {
        // A pipe (`--config <(…)`) can be read only once.
        if fs::metadata(&self.path).is_ok_and(|metadata| !metadata.is_file()) {
            return self.clone();
        }
        Self { path: self.path.clone(), held: held(&fs::read(&self.path)) }
    }
}

fn held(read: &io::Result<Vec<u8>>) -> Result<[u8; 32], io::ErrorKind> {
    read.as_ref().map(|bytes| Sha256::digest(bytes).into()).map_err(io::Error::kind)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn content_counts_and_also_that_there_is_none() {
        let folder = TempDir::new().unwrap();
        let (there, missing) = (folder.path().join("there"), folder.path().join("missing"));
        fs::write(&there, "a").unwrap();
        let mut reads = WatchedFiles::default();
        assert_eq!(reads.read(&there).unwrap(), b"a");
        reads.read(&missing).unwrap_err();
        assert_eq!(reads.again(), reads);
        fs::remove_file(&there).unwrap();
        assert_ne!(reads.again(), reads);
        fs::write(&there, "a").unwrap();
        assert_eq!(reads.again(), reads, "written again as it was");
        fs::write(&missing, "").unwrap();
        assert_ne!(reads.again(), reads);
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_file_is_not_read_again() {
        let mut reads = WatchedFiles::default();
        reads.read(Path::new("/dev/null")).unwrap();
        assert_eq!(reads.again(), reads);
    }
}
