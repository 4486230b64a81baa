//! `[[keys]]` and `[[groups]]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::money::Decimal;

/// `secret` or `sha256`, one of them.
#[derive(Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["name"]))]
pub(in crate::config) struct Key {
    /// Its name in logs.
    #[schemars(example = &"team-a")]
    pub(in crate::config) name: Option<String>,
    /// Where the secret is found.
    #[schemars(extend("examples" = [{ "env": "TEAM_A_KEY" }]))]
    pub(in crate::config) secret: Option<Secret>,
    /// SHA-256 of the secret, 64 hex digits.
    pub(in crate::config) sha256: Option<String>,
    /// Models it may ask for; a trailing `*` matches any rest; absent = all.
    #[schemars(extend("examples" = [["smart", "gpt-*"]]))]
    pub(in crate::config) models: Option<Vec<String>>,
    /// Upstreams it may use; absent = all.
    #[schemars(extend("examples" = [["dmxapi"]]))]
    pub(in crate::config) upstreams: Option<Vec<String>>,
    /// Name of its group: its limits are shared by all keys of the group, beside those of the key.
    #[schemars(example = &"research")]
    pub(in crate::config) group: Option<String>,
    /// Requests per minute; absent = as many as come.
    #[schemars(range(min = 1, max = 1_000_000), example = 60)]
    pub(in crate::config) rpm: Option<u32>,
    /// Tokens per minute, input and output together.
    #[schemars(range(min = 1, max = 1_000_000_000), example = 200_000)]
    pub(in crate::config) tpm: Option<u32>,
    /// Requests under way at once.
    #[schemars(range(min = 1, max = 1_000_000), example = 10)]
    pub(in crate::config) max_in_flight: Option<usize>,
    /// What it may cost: an amount, a currency, and a day, a week, a month or in total.
    #[schemars(extend("examples" = [["50CNY/month"]]))]
    pub(in crate::config) budgets: Vec<String>,
    /// Day of the month on which the months of its budgets begin; absent = the first.
    #[schemars(range(min = 1, max = 28), example = 15)]
    pub(in crate::config) starts_on: Option<u8>,
    /// Parts of its budgets at which the log warns; absent = those of `[money]`.
    #[schemars(extend("examples" = [[0.5, 0.8, 1]]))]
    pub(in crate::config) warn_at: Option<Vec<Decimal>>,
    /// Limits and budgets for the key's use of one model or pattern, beside those of the key.
    pub(in crate::config) limits: Vec<KeyLimits>,
    /// Networks that it may come from; absent = any.
    #[schemars(extend("examples" = [["10.0.0.0/8"]]))]
    pub(in crate::config) ip: Vec<String>,
    /// When it ends: the first day without it, or a moment; absent = never.
    #[schemars(example = &"2026-12-31")]
    pub(in crate::config) expires: Option<String>,
    /// What becomes of the call upstream when the client leaves before its end; absent = streams are cancelled, and other answers
    /// are read to their end where the key or its group has a budget.
    #[schemars(extend("examples" = ["drain"]))]
    pub(in crate::config) on_client_gone: Option<OnClientGone>,
    /// Chat streams have to tell their tokens: `stream_options.include_usage` is added where the client left it out.
    pub(in crate::config) require_usage: bool,
}

#[derive(Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["name"]))]
pub(in crate::config) struct Group {
    /// Its name.
    #[schemars(example = &"research")]
    pub(in crate::config) name: Option<String>,
    /// Requests per minute of all its keys together; absent = as many as come.
    #[schemars(range(min = 1, max = 1_000_000), example = 600)]
    pub(in crate::config) rpm: Option<u32>,
    /// Tokens per minute, input and output together.
    #[schemars(range(min = 1, max = 1_000_000_000), example = 2_000_000)]
    pub(in crate::config) tpm: Option<u32>,
    /// Requests under way at once.
    #[schemars(range(min = 1, max = 1_000_000), example = 100)]
    pub(in crate::config) max_in_flight: Option<usize>,
    /// What all its keys together may cost.
    #[schemars(extend("examples" = [["500CNY/month"]]))]
    pub(in crate::config) budgets: Vec<String>,
    /// Day of the month on which the months of its budgets begin; absent = the first.
    #[schemars(range(min = 1, max = 28), example = 15)]
    pub(in crate::config) starts_on: Option<u8>,
    /// Parts of its budgets at which the log warns; absent = those of `[money]`.
    #[schemars(extend("examples" = [[0.5, 0.8, 1]]))]
    pub(in crate::config) warn_at: Option<Vec<Decimal>>,
}

/// `[[keys.limits]]`: at least one limit or budget.
#[derive(Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["model"]))]
pub(in crate::config) struct KeyLimits {
    /// Model as asked, also as `upstream/model`; a trailing `*` matches any rest.
    #[schemars(example = &"gpt-5*")]
    pub(in crate::config) model: Option<String>,
    /// Requests per minute.
    #[schemars(range(min = 1, max = 1_000_000), example = 10)]
    pub(in crate::config) rpm: Option<u32>,
    /// Tokens per minute, input and output together.
    #[schemars(range(min = 1, max = 1_000_000_000), example = 50_000)]
    pub(in crate::config) tpm: Option<u32>,
    /// Requests under way at once.
    #[schemars(range(min = 1, max = 1_000_000), example = 2)]
    pub(in crate::config) max_in_flight: Option<usize>,
    /// What the key's use of the model may cost.
    #[schemars(extend("examples" = [["5CNY/day"]]))]
    pub(in crate::config) budgets: Vec<String>,
}

#[derive(Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum OnClientGone {
    Cancel,
    Drain,
}

/// `env` or `file`, one of them.
#[derive(Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Secret {
    /// Environment variable that holds it.
    #[schemars(example = &"TEAM_A_KEY")]
    pub(in crate::config) env: Option<String>,
    /// File that holds it.
    #[schemars(example = &"/run/secrets/team-a")]
    pub(in crate::config) file: Option<String>,
    /// Whether it may be missing.
    pub(in crate::config) optional: bool,
}
