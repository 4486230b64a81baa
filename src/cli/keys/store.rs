//! The store that a command works on.

use std::time::Duration;

use crate::{
    config::Config,
    domain::key::StoredKey,
    store::sql::{Database, Revision},
};

/// The client keys of the store that `tidegate keys` works on, with the database and the configuration.
pub(super) struct KeyStore {
    pub(super) config: Config,
    /// Where the configuration comes from.
    pub(super) source: String,
    /// Whether `config` is complete. If the file has faults, only its store is known, and keys cannot be checked against it.
    pub(super) is_whole: bool,
    pub(super) database: Database,
    pub(super) revision: Revision,
    pub(super) keys: Vec<StoredKey>,
    pub(super) now: Duration,
}

/// Why a subcommand of `tidegate keys` failed.
#[derive(Debug)]
pub(super) enum CommandError {
    /// Another command changed keys between the read and the write of this one. A new try may succeed.
    Raced,
    /// A message for people.
    Message(String),
}

impl From<String> for CommandError {
    fn from(told: String) -> Self {
        Self::Message(told)
    }
}
