//! Reads the journal's files.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

/// Reads one journal file in pieces, from the beginning. A piece is about one batch of ledger rows for the database.
#[derive(Debug)]
pub struct JournalReader {
    file: File,
    at: u64,
    piece: Vec<u8>,
}

/// The size of a piece: some 700 rows, which is one batch for the database.
const PIECE: u64 = 256 * 1024;

impl JournalReader {
    /// Opens the journal file at `path` for reading.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::open(path)?, at: 0, piece: Vec::new() })
    }

    /// Returns the next bytes of the journal file, at most one piece and not beyond the position `end`. The same bytes come again until
    /// [`advance`](Self::advance) is called.
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

    /// Marks the first `length` bytes of the current piece of the journal file as done. The next piece begins behind these bytes.
    pub fn advance(&mut self, length: u64) {
        self.at += length;
    }

    /// Returns how many bytes of the journal file are read and done.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Returns the current length of the journal file, in bytes.
    ///
    /// # Errors
    /// When the system fails.
    pub fn length(&self) -> io::Result<u64> {
        self.file.metadata().map(|metadata| metadata.len())
    }
}
