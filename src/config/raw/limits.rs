//! `[limits]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Secret;

#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Limits {
    /// Redis or Valkey, in which replicas share limits and budgets: a host, a Unix socket (`unix:///run/redis.sock`), or Sentinels
    /// (`redis+sentinel://host1:26379,host2:26379/mymaster/0`); absent = this process counts alone.
    #[schemars(example = &"redis://redis.internal:6379/0")]
    pub(in crate::config) redis: Option<String>,
    /// Of Redis, or of the user in `redis`.
    #[schemars(extend("examples" = [{ "env": "TIDEGATE_REDIS_PASSWORD" }]))]
    pub(in crate::config) password: Option<Secret>,
    /// Of the Sentinels in `redis`, where they ask for one.
    #[schemars(extend("examples" = [{ "env": "TIDEGATE_SENTINEL_PASSWORD" }]))]
    pub(in crate::config) sentinel_password: Option<Secret>,
    /// PEM file of roots that are trusted for `rediss://` beside the system's.
    #[schemars(example = &"/etc/ssl/company-ca.pem")]
    pub(in crate::config) ca_file: Option<String>,
    /// How many replicas share them: while Redis is away, each allows this part.
    #[schemars(range(min = 1, max = 1000), example = 3)]
    pub(in crate::config) replicas: Option<u32>,
    /// While Redis is away: each replica allows its share, or keys with limits are refused.
    pub(in crate::config) fail: Fail,
}

impl Default for Limits {
    fn default() -> Self {
        Self { redis: None, password: None, sentinel_password: None, ca_file: None, replicas: None, fail: Fail::Share }
    }
}

#[derive(Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum Fail {
    Share,
    Closed,
}
