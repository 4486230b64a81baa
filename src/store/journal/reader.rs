//! Reads what stands in a file of the journal.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

/// Reads one file from its beginning, in pieces.
#[derive(Debug)]
pub struct JournalReader {
    file: File,
    at: u64,
    piece: Vec<u8>,
}

/// A piece holds some 700 rows: what goes to the database at once.
const PIECE: u64 = 256 * 1024;

impl JournalReader {
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
