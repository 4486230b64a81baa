//! Models, and how one of their targets is chosen.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One `[[models]]` block as written in the configuration file: a model name and its targets.
#[derive(Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["name", "targets"]))]
pub(in crate::config) struct Model {
    /// Name that clients ask for. A trailing `*` matches any rest.
    #[schemars(example = &"smart")]
    pub(in crate::config) name: Option<String>,
    /// Order of the targets with the same priority.
    pub(in crate::config) strategy: Strategy,
    /// Targets.
    #[schemars(extend("examples" = [[{ "upstream": "dmxapi", "model": "gpt-5.2-pro" }]]))]
    pub(in crate::config) targets: Option<Vec<Target>>,
    /// A request whose account cannot answer: `fail` = error, `strip_encrypted` = another account, without the
    /// encrypted content.
    pub(in crate::config) on_lost_state: OnLostState,
    /// Add `stream_options.include_usage` to chat streams if the client left it out.
    pub(in crate::config) require_usage: bool,
}

/// One target of a model as written in the configuration file: an upstream, and the upstream's name for the model.
#[derive(Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["upstream"]))]
pub(in crate::config) struct Target {
    /// Name of the upstream.
    #[schemars(example = &"dmxapi")]
    pub(in crate::config) upstream: Option<String>,
    /// Name of the model there. Absent: the name that the client asked for.
    #[schemars(example = &"gpt-5.2-pro")]
    pub(in crate::config) model: Option<String>,
    /// The lowest is first. Default: the place in the list with `ordered`, else 1.
    #[schemars(range(min = 1, max = 1000), example = 1)]
    pub(in crate::config) priority: Option<u32>,
    /// Share among targets of the same priority. Default: 1.
    #[schemars(range(min = 1, max = 1000), example = 3)]
    pub(in crate::config) weight: Option<u32>,
}

/// `strategy` of a model as written in the configuration file: how targets of one priority are ordered.
#[derive(Clone, Copy, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum Strategy {
    #[default]
    Ordered,
    Weighted,
    LeastLatency,
}

/// `on_lost_state` of a model as written in the configuration file: what happens if the account with the state cannot answer.
#[derive(Clone, Copy, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum OnLostState {
    #[default]
    Fail,
    StripEncrypted,
}

/// The table `[routing]` as written in the configuration file: how many attempts and retries a request may make.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Routing {
    /// Upstream for requests without `model`. Absent: such a request gets 400.
    #[schemars(example = &"dmxapi")]
    pub(in crate::config) default_upstream: Option<String>,
    /// Attempts for one request, the first one included. 1 = no failover.
    #[schemars(range(min = 1, max = 10))]
    pub(in crate::config) max_attempts: usize,
    /// Retries at one upstream within 10 s, in percent of its requests (3 are always allowed). 0 = none.
    #[schemars(range(max = 100))]
    pub(in crate::config) retry_percent: u32,
    /// Longest `Retry-After` that Tidegate waits for before a retry. 0 = it never waits.
    #[schemars(range(max = 300))]
    pub(in crate::config) retry_after_max_s: u64,
}

impl Default for Routing {
    fn default() -> Self {
        Self { default_upstream: None, max_attempts: 3, retry_percent: 20, retry_after_max_s: 2 }
    }
}

/// The table `[health]` as written in the configuration file: when a candidate is ejected, and for how long.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Health {
    /// Faults in a row that eject.
    #[schemars(range(min = 1, max = 1000))]
    pub(in crate::config) consecutive_faults: u32,
    /// Share of faults in the last 30 s that ejects, in percent, once there were 20 attempts.
    #[schemars(range(min = 1, max = 100))]
    pub(in crate::config) fault_percent: u32,
    /// First cooldown. Each further one is twice as long.
    #[schemars(range(min = 1, max = 86_400))]
    pub(in crate::config) eject_s: u64,
    /// Longest cooldown.
    #[schemars(range(min = 1, max = 86_400))]
    pub(in crate::config) eject_max_s: u64,
    /// Cooldown of a credential that the provider refused twice, or whose account has no money left.
    #[schemars(range(min = 1, max = 86_400))]
    pub(in crate::config) refused_s: u64,
    /// Longest cooldown after a 429.
    #[schemars(range(min = 1, max = 86_400))]
    pub(in crate::config) cooldown_max_s: u64,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            consecutive_faults: 5,
            fault_percent: 50,
            eject_s: 30,
            eject_max_s: 300,
            refused_s: 600,
            cooldown_max_s: 300,
        }
    }
}
