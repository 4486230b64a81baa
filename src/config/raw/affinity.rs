//! `[affinity]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The table `[affinity]` as written in the configuration file: how Tidegate remembers the account and the owner of stored state.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Affinity {
    /// Days for which an id is remembered after its last use.
    #[schemars(range(min = 1, max = 3650))]
    pub(in crate::config) ttl_days: u64,
    /// Ids in memory, about 60 bytes each. The store keeps ten times as many.
    #[schemars(range(min = 1000, max = 100_000_000))]
    pub(in crate::config) max_entries: usize,
    /// Whether replicas share ids through the Redis of `[limits]`. Absent: yes, if `[limits]` has a Redis.
    #[schemars(example = true)]
    pub(in crate::config) shared: Option<bool>,
    /// Ids that Tidegate never saw. Absent: such an id is refused if several keys or groups can use the account.
    #[schemars(example = &"refuse")]
    pub(in crate::config) unknown_ids: Option<UnknownIds>,
}

impl Default for Affinity {
    fn default() -> Self {
        Self { ttl_days: 30, max_entries: 1_000_000, shared: None, unknown_ids: None }
    }
}

/// `unknown_ids` as written in the configuration file: what happens to a request with an id that Tidegate never saw.
#[derive(Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum UnknownIds {
    Refuse,
    Route,
}
