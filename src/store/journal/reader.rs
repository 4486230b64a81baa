//! Reads the journal's files.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

/// Reads one file in pieces, from the beginning.
#[derive(Debug)]
pub struct JournalReader {
    file: File,
    at: u64,
    piece: Vec<u8>,
}

/// The size of a piece: some 700 rows, which is one batch for the database.
const PIECE: u64 = 256 * 1024;

impl JournalReader {
    /// Opens the file at `path`.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::open(path)?, at: 0, piece: Vec::new() })
    }

    /// Returns the next piece, up to `end`. The same piece comes again until [`advance`](Self::advance) is called.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn piece(&mut self, end: u64) -> io::Result<&[u8]> {
        let length = end.saturating_sub(self.at).min(PIECE);
        self.piece.clear();
        self.file.seek(SeekFrom::Start(self.at))?;
        (&self.file).take(length).read_to_end(&mut self.piece)?;
        Ok(&self.piece)
    }

    /// Marks the first `length` bytes of the piece as done.
    pub fn advance(&mut self, length: u64) {
        self.at += length;
    }

    /// Returns the current position.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Returns the current length of the file.
    ///
    /// # Errors
    /// When the system fails.
    pub fn length(&self) -> io::Result<u64> {
        self.file.metadata().map(|metadata| metadata.len())
    }
}
