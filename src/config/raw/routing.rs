//! Models, and how one of their targets is chosen.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["name", "targets"]))]
pub(in crate::config) struct Model {
    /// What clients ask for. A trailing `*` matches any rest.
    #[schemars(example = &"smart")]
    pub(in crate::config) name: Option<String>,
    /// How the candidates are ordered for a request.
    pub(in crate::config) strategy: Strategy,
    /// Candidates.
    #[schemars(extend("examples" = [[{ "upstream": "dmxapi", "model": "gpt-5.2-pro" }]]))]
    pub(in crate::config) targets: Option<Vec<Target>>,
    /// A request whose state is in an account that cannot be used.
    pub(in crate::config) on_lost_state: OnLostState,
    /// Chat streams have to tell their tokens: `stream_options.include_usage` is added where the client left it out.
    pub(in crate::config) require_usage: bool,
}

#[derive(Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["upstream"]))]
pub(in crate::config) struct Target {
    /// Name of the upstream.
    #[schemars(example = &"dmxapi")]
    pub(in crate::config) upstream: Option<String>,
    /// Name of the model there; absent = the name the client asked for.
    #[schemars(example = &"gpt-5.2-pro")]
    pub(in crate::config) model: Option<String>,
    /// The lowest is asked first. Absent = its place in the list where `strategy = "ordered"`, otherwise 1.
    #[schemars(range(min = 1, max = 1000), example = 1)]
    pub(in crate::config) priority: Option<u32>,
    /// Its share among the targets of the same priority; absent = 1.
    #[schemars(range(min = 1, max = 1000), example = 3)]
    pub(in crate::config) weight: Option<u32>,
}

#[derive(Clone, Copy, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum Strategy {
    #[default]
    Ordered,
    Weighted,
    LeastLatency,
}

#[derive(Clone, Copy, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum OnLostState {
    #[default]
    Fail,
    StripEncrypted,
}

#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Routing {
    /// Upstream for requests that name no model.
    #[schemars(example = &"dmxapi")]
    pub(in crate::config) default_upstream: Option<String>,
    /// Upstreams asked for one request, the first one included; 1 = no failover.
    #[schemars(range(min = 1, max = 10))]
    pub(in crate::config) max_attempts: usize,
    /// Retries at one upstream over 10 s, in percent of its requests, 3 at least; 0 = none.
    #[schemars(range(max = 100))]
    pub(in crate::config) retry_percent: u32,
    /// The longest `Retry-After` that is waited for before the same upstream is asked again; 0 = none is.
    #[schemars(range(max = 300))]
    pub(in crate::config) retry_after_max_s: u64,
}

impl Default for Routing {
    fn default() -> Self {
        Self { default_upstream: None, max_attempts: 3, retry_percent: 20, retry_after_max_s: 2 }
    }
}

#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Health {
    /// Faults in a row that eject.
    #[schemars(range(min = 1, max = 1000))]
    pub(in crate::config) consecutive_faults: u32,
    /// Faults among the attempts of the last 30 s that eject, in percent; 20 attempts must have been made.
    #[schemars(range(min = 1, max = 100))]
    pub(in crate::config) fault_percent: u32,
    /// First ejection; each further one lasts twice as long.
    #[schemars(range(min = 1, max = 86_400))]
    pub(in crate::config) eject_s: u64,
    /// Longest ejection.
    #[schemars(range(min = 1, max = 86_400))]
    pub(in crate::config) eject_max_s: u64,
    /// A credential that the upstream refused.
    #[schemars(range(min = 1, max = 86_400))]
    pub(in crate::config) refused_s: u64,
    /// The longest `Retry-After` of a 429 for which a credential is left alone.
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
