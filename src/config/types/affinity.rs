//! How Tidegate remembers the account and the owner of stored state.

use std::time::Duration;

/// The checked `[affinity]` table of the configuration: how Tidegate remembers which account holds the state behind an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AffinitySettings {
    /// How long Tidegate remembers the account of an id after its last use.
    pub ttl: Duration,
    /// Number of ids in memory.
    pub max_entries: usize,
    /// Whether replicas share the ids in the Redis of [`SharedLimits`](super::SharedLimits). If so, that Redis is configured.
    pub shared: bool,
    /// Requests with ids that Tidegate never saw. None = refused where several keys or groups can use the account, else routed.
    pub unknown_ids: Option<UnknownIds>,
}

/// What happens to a request that names state by an id which Tidegate never saw: refused or routed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownIds {
    /// Refused, like a request with an id of another owner.
    Refuse,
    /// Routed as if it had no id: the upstream decides whether the id is valid.
    Route,
}

/// `[[models]] on_lost_state`: what happens to a request whose state is in an account that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnLostState {
    /// The request fails, and the error says why.
    Fail,
    /// If only encrypted reasoning pins the request, Tidegate removes that reasoning and another account answers.
    StripEncrypted,
}
