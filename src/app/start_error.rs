//! Why a gateway did not start.

use std::{io, path::PathBuf};

use super::data_dir::DataDirError;
use crate::{config::Listen, domain::random::NoRandomBytes, proxy::TablesError, store::sql::KeyError};

/// Why the gateway did not start. After such an error, no part of the gateway runs.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data folder cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The configuration passed its checks and still cannot be used.
    #[error(transparent)]
    Tables(#[from] TablesError),
    /// The system gives no random numbers, so neither ids nor a key can be created.
    #[error("Tidegate cannot start, because the operating system gives no random numbers: {0}")]
    RandomBytes(#[from] NoRandomBytes),
    /// The first key cannot be stored.
    #[error("the first client key cannot be written to the key store: {0}")]
    FirstKey(#[source] KeyError),
    /// Tidegate cannot listen on an address or a Unix socket.
    #[error("Tidegate cannot listen on {listen} ({setting}): {source}")]
    Listen {
        /// The address or socket.
        listen: Listen,
        /// The setting that names it.
        setting: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// No worker is configured. The checks of the configuration refuse this earlier.
    #[error("Tidegate cannot start without a worker thread: set `workers` in [server] to 1 or more")]
    NoWorker,
    /// TLS for clients cannot be set up.
    #[error("TLS for clients cannot be set up: {0}. Check `tls` in [server]")]
    Tls(#[from] rustls::Error),
    /// The journal of the ledger cannot be used.
    #[error("the journal of the ledger cannot be used: {path}: {source}. Check the disk and the data folder")]
    Ledger {
        /// The journal's folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A thread cannot be started.
    #[error("the operating system cannot start a thread for Tidegate: {0}. Check the limit of threads")]
    Thread(io::Error),
}
