//! Why a gateway does not start.

use std::{io, path::PathBuf};

use super::data_dir::DataDirError;
use crate::{config::Listen, domain::random::NoRandomBytes, proxy::TablesError, store::sql::KeyError};

/// Why a start failed. Nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data folder.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The configuration passed its checks and still cannot be used.
    #[error(transparent)]
    Tables(#[from] TablesError),
    /// Neither ids nor a key can be made.
    #[error("random numbers cannot be had: {0}")]
    RandomBytes(#[from] NoRandomBytes),
    /// The first key cannot be kept.
    #[error("the first client key cannot be kept: {0}")]
    FirstKey(#[source] KeyError),
    /// An address or a Unix socket cannot be listened on.
    #[error("cannot listen on {listen} ({setting}): {source}")]
    Listen {
        /// Which one.
        listen: Listen,
        /// The setting that names it.
        setting: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// No worker is wanted, which the checks of the configuration refuse.
    #[error("no worker is configured")]
    NoWorker,
    /// TLS to clients cannot be had.
    #[error("TLS to clients cannot be had: {0}")]
    Tls(#[from] rustls::Error),
    /// The journal of the ledger.
    #[error("the ledger's journal cannot be used: {path}: {source}")]
    Ledger {
        /// Its folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A thread cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}
