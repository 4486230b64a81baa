//! Commands for the reloader thread.

use crate::domain::key::StoredKey;

/// A command for the thread that reloads the configuration: reload, use these keys of the store, or end.
#[derive(Debug)]
pub(super) enum Command {
    /// Read the configuration again now.
    Reload,
    /// Use these keys of the store from now on.
    Keys(Vec<StoredKey>),
    /// End the thread, because the gateway ends.
    End,
}
