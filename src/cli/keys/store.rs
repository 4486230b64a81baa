//! The store that a command works on.

use std::time::Duration;

use crate::{
    config::Config,
    domain::key::StoredKey,
    store::sql::{Database, Revision},
};

/// The keys of the store, as they were read.
pub(super) struct KeyStore {
    pub(super) config: Config,
    /// Where the configuration comes from.
    pub(super) source: String,
    /// Whether `config` is whole: of one with faults only the store is known, and nothing of a key can be held against it.
    pub(super) is_whole: bool,
    pub(super) database: Database,
    pub(super) revision: Revision,
    pub(super) keys: Vec<StoredKey>,
    pub(super) now: Duration,
}

/// Whatever keeps a command from being done.
#[derive(Debug)]
pub(super) enum CommandError {
    /// Somebody else changed keys between our reading and our writing: on what there is now it may go well.
    Raced,
    /// For people.
    Told(String),
}

impl From<String> for CommandError {
    fn from(told: String) -> Self {
        Self::Told(told)
    }
}
