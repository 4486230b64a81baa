//! `[alerts]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Secret;

#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Alerts {
    /// Where alerts are posted as JSON; absent = none are.
    #[schemars(example = &"https://alerts.example.com/tidegate")]
    pub(in crate::config) url: Option<String>,
    /// Signs each of them with HMAC-SHA256.
    #[schemars(extend("examples" = [{ "env": "TIDEGATE_ALERT_SECRET" }]))]
    pub(in crate::config) secret: Option<Secret>,
    /// Answers of an upstream that end before their end, in percent of those of the last 5 minutes, from which on one is sent.
    #[schemars(range(min = 1, max = 100))]
    pub(in crate::config) truncated_percent: u64,
}

impl Default for Alerts {
    fn default() -> Self {
        Self { url: None, secret: None, truncated_percent: 5 }
    }
}
