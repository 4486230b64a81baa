//! `[alerts]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Secret;

/// The table `[alerts]` as written in the configuration file: the webhook that gets alerts.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Alerts {
    /// Webhook that gets alerts as JSON. Absent: none are sent.
    #[schemars(example = &"https://alerts.example.com/tidegate")]
    pub(in crate::config) url: Option<String>,
    /// Signs each alert with HMAC-SHA256.
    #[schemars(extend("examples" = [{ "env": "TIDEGATE_ALERT_SECRET" }]))]
    pub(in crate::config) secret: Option<Secret>,
    /// Share of an upstream's answers in the last 5 minutes that ended early, in percent, at which an alert is
    /// sent.
    #[schemars(range(min = 1, max = 100))]
    pub(in crate::config) truncated_percent: u64,
}

impl Default for Alerts {
    fn default() -> Self {
        Self { url: None, secret: None, truncated_percent: 5 }
    }
}
