//! Where state goes that an upstream keeps.

use std::time::Duration;

/// `[affinity]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AffinitySettings {
    /// How long it is remembered where an id came from, after it was used last.
    pub ttl: Duration,
    /// Ids in memory.
    pub max_entries: usize,
    /// Whether replicas share them in the Redis of [`Sharing`](super::SharedLimits), which is there then.
    pub shared: bool,
    /// Ids that Tidegate never saw; none = refused where several keys or groups can use the account, else routed.
    pub unknown_ids: Option<UnknownIds>,
}

/// What becomes of a request that names an id that Tidegate never saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownIds {
    /// It is refused like one with an id of somebody else's.
    Refuse,
    /// It goes where it would go without: the upstream knows.
    Route,
}

/// `[[models]] on_lost_state`: a request whose state is in an account that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnLostState {
    /// It fails, and the error says so.
    Fail,
    /// Encrypted reasoning is cut out of it where nothing else binds it, and it goes on elsewhere.
    StripEncrypted,
}
