//! Why a gateway did not start.

use std::{io, path::PathBuf};

use super::data_dir::DataDirError;
use crate::{config::Listen, domain::random::NoRandomBytes, proxy::TablesError, store::sql::KeyError};

/// Why a start failed. Nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data folder cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The configuration passed its checks and still cannot be used.
    #[error(transparent)]
    Tables(#[from] TablesError),
    /// The system gives no random numbers, so neither ids nor a key can be created.
    #[error("the system gives no random numbers: {0}")]
    RandomBytes(#[from] NoRandomBytes),
    /// The first key cannot be stored.
    #[error("the first client key cannot be stored: {0}")]
    FirstKey(#[source] KeyError),
    /// Tidegate cannot listen on an address or a Unix socket.
    #[error("cannot listen on {listen} ({setting}): {source}")]
    Listen {
        /// The address or socket.
        listen: Listen,
        /// The setting that names it.
        setting: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// No worker is configured. The checks of the configuration refuse this earlier.
    #[error("no worker is configured")]
    NoWorker,
    /// TLS for clients cannot be set up.
    #[error("TLS for clients cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    /// The journal of the ledger cannot be used.
    #[error("the ledger's journal cannot be used: {path}: {source}")]
    Ledger {
        /// The journal's folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A thread cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}
