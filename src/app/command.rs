//! Commands for the reloader thread.

use crate::domain::key::StoredKey;

/// A command for the reloader thread.
#[derive(Debug)]
pub(super) enum Command {
    /// Read it again now.
    Reload,
    /// These are the keys of the store from now on.
    Keys(Vec<StoredKey>),
    /// The gateway ends.
    End,
}
