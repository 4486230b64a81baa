//! `[limits]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Secret;

/// The table `[limits]` as written in the configuration file: the Redis in which replicas share limits and budgets.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Limits {
    /// Redis or Valkey, in which replicas share limits and budgets: a host, a Unix socket (`unix:///run/redis.sock`), or Sentinels
    /// (`redis+sentinel://host1:26379,host2:26379/mymaster/0`). Absent: this process counts alone.
    #[schemars(example = &"redis://redis.internal:6379/0")]
    pub(in crate::config) redis: Option<String>,
    /// Password of Redis. The URL must not have it.
    #[schemars(extend("examples" = [{ "env": "TIDEGATE_REDIS_PASSWORD" }]))]
    pub(in crate::config) password: Option<Secret>,
    /// Password of the Sentinels in `redis`, if they need one.
    #[schemars(extend("examples" = [{ "env": "TIDEGATE_SENTINEL_PASSWORD" }]))]
    pub(in crate::config) sentinel_password: Option<Secret>,
    /// PEM file of further root certificates for TLS, beside those of the system.
    #[schemars(example = &"/etc/ssl/company-ca.pem")]
    pub(in crate::config) ca_file: Option<String>,
    /// Number of replicas. While Redis is away, each replica allows its share of every limit.
    #[schemars(range(min = 1, max = 1000), example = 3)]
    pub(in crate::config) replicas: Option<u32>,
    /// While Redis is away: `share` = each replica allows its share, `closed` = requests of limited keys get 503.
    pub(in crate::config) fail: Fail,
}

impl Default for Limits {
    fn default() -> Self {
        Self { redis: None, password: None, sentinel_password: None, ca_file: None, replicas: None, fail: Fail::Share }
    }
}

/// `fail` as written in the configuration file: what happens to limited keys while Redis is unavailable.
#[derive(Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum Fail {
    Share,
    Closed,
}
