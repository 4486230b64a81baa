//! `[[keys]]` and `[[groups]]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::money::Decimal;

/// One `[[keys]]` block as written in the configuration file: a client key. Has either `secret` or `sha256`.
#[derive(Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["name"]))]
pub(in crate::config) struct Key {
    /// Name in logs and in the ledger.
    #[schemars(example = &"team-a")]
    pub(in crate::config) name: Option<String>,
    /// The secret, 16 characters or more. Either `secret` or `sha256`.
    #[schemars(extend("examples" = [{ "env": "TEAM_A_KEY" }]))]
    pub(in crate::config) secret: Option<Secret>,
    /// SHA-256 of the secret, 64 hex digits.
    pub(in crate::config) sha256: Option<String>,
    /// Models that the key may ask for. A trailing `*` matches any rest. Absent: all.
    #[schemars(extend("examples" = [["smart", "gpt-*"]]))]
    pub(in crate::config) models: Option<Vec<String>>,
    /// Upstreams that the key may use. Absent: all.
    #[schemars(extend("examples" = [["dmxapi"]]))]
    pub(in crate::config) upstreams: Option<Vec<String>>,
    /// Name of its group.
    #[schemars(example = &"research")]
    pub(in crate::config) group: Option<String>,
    /// Requests per minute. Absent: no limit.
    #[schemars(range(min = 1, max = 1_000_000), example = 60)]
    pub(in crate::config) rpm: Option<u32>,
    /// Tokens per minute, input and output together.
    #[schemars(range(min = 1, max = 1_000_000_000), example = 200_000)]
    pub(in crate::config) tpm: Option<u32>,
    /// Requests at once.
    #[schemars(range(min = 1, max = 1_000_000), example = 10)]
    pub(in crate::config) max_in_flight: Option<usize>,
    /// Budgets, such as `50CNY/month`: `CNY` or `USD`; `day`, `week`, `month` or `total`, one of each.
    #[schemars(extend("examples" = [["50CNY/month"]]))]
    pub(in crate::config) budgets: Vec<String>,
    /// Day on which its monthly budgets begin. Absent: the first.
    #[schemars(range(min = 1, max = 28), example = 15)]
    pub(in crate::config) starts_on: Option<u8>,
    /// Fractions of a budget at which the log has a warning, such as 0.8. Absent: those of `[money]`.
    #[schemars(extend("examples" = [[0.5, 0.8, 1]]))]
    pub(in crate::config) warn_at: Option<Vec<Decimal>>,
    /// Limits and budgets for one model or pattern, in addition to those of the key.
    pub(in crate::config) limits: Vec<KeyLimits>,
    /// Networks that the key may come from. Absent: any.
    #[schemars(extend("examples" = [["10.0.0.0/8"]]))]
    pub(in crate::config) ip: Vec<String>,
    /// First day on which the key is refused, or a moment (`2026-12-31T18:00:00Z`). Absent: never.
    #[schemars(example = &"2026-12-31")]
    pub(in crate::config) expires: Option<String>,
    /// What happens to the upstream call when the client leaves.
    #[schemars(extend("examples" = ["drain"]))]
    pub(in crate::config) on_client_gone: Option<OnClientGone>,
    /// As in `[[models]]`, for this key.
    pub(in crate::config) require_usage: bool,
}

/// One `[[groups]]` block as written in the configuration file: keys that share limits and budgets.
#[derive(Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["name"]))]
pub(in crate::config) struct Group {
    /// Name of the group.
    #[schemars(example = &"research")]
    pub(in crate::config) name: Option<String>,
    /// Requests per minute of all its keys together.
    #[schemars(range(min = 1, max = 1_000_000), example = 600)]
    pub(in crate::config) rpm: Option<u32>,
    /// Tokens per minute of all its keys together.
    #[schemars(range(min = 1, max = 1_000_000_000), example = 2_000_000)]
    pub(in crate::config) tpm: Option<u32>,
    /// Requests at once of all its keys together.
    #[schemars(range(min = 1, max = 1_000_000), example = 100)]
    pub(in crate::config) max_in_flight: Option<usize>,
    /// Budgets of all its keys together.
    #[schemars(extend("examples" = [["500CNY/month"]]))]
    pub(in crate::config) budgets: Vec<String>,
    /// Day on which its monthly budgets begin. Absent: the first.
    #[schemars(range(min = 1, max = 28), example = 15)]
    pub(in crate::config) starts_on: Option<u8>,
    /// Fractions of a budget at which the log has a warning, such as 0.8. Absent: those of `[money]`.
    #[schemars(extend("examples" = [[0.5, 0.8, 1]]))]
    pub(in crate::config) warn_at: Option<Vec<Decimal>>,
}

/// One `[[keys.limits]]` block as written in the configuration file: at least one limit or budget of a key for a model.
#[derive(Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["model"]))]
pub(in crate::config) struct KeyLimits {
    /// Model that the client asks for; a trailing `*` matches any rest.
    #[schemars(example = &"gpt-5*")]
    pub(in crate::config) model: Option<String>,
    /// Requests per minute.
    #[schemars(range(min = 1, max = 1_000_000), example = 10)]
    pub(in crate::config) rpm: Option<u32>,
    /// Tokens per minute.
    #[schemars(range(min = 1, max = 1_000_000_000), example = 50_000)]
    pub(in crate::config) tpm: Option<u32>,
    /// Requests at once.
    #[schemars(range(min = 1, max = 1_000_000), example = 2)]
    pub(in crate::config) max_in_flight: Option<usize>,
    /// Budgets.
    #[schemars(extend("examples" = [["5CNY/day"]]))]
    pub(in crate::config) budgets: Vec<String>,
}

/// `on_client_gone` of a key as written in the configuration file: whether an answer is cancelled or drained after its client left.
#[derive(Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum OnClientGone {
    Cancel,
    Drain,
}

/// Where the configuration file says a secret is: in a variable (`env`) or in a file (`file`), one of them.
#[derive(Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Secret {
    /// Variable with the secret.
    #[schemars(example = &"TEAM_A_KEY")]
    pub(in crate::config) env: Option<String>,
    /// File with the secret.
    #[schemars(example = &"/run/secrets/team-a")]
    pub(in crate::config) file: Option<String>,
    /// Whether the secret may be missing.
    pub(in crate::config) optional: bool,
}
