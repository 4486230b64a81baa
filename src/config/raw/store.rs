//! `[store]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Secret;

/// The table `[store]` as written in the configuration file: the database for keys and ledger.
#[derive(Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Store {
    /// PostgreSQL, which several replicas can share. Several servers:
    /// `postgres://tidegate@db1:5432,db2:5432/tidegate`. Absent: SQLite in the data folder.
    #[schemars(example = &"postgres://tidegate@db.internal:5432/tidegate")]
    pub(in crate::config) url: Option<String>,
    /// Password of the user in `url`. The URL must not have it.
    #[schemars(extend("examples" = [{ "env": "TIDEGATE_STORE_PASSWORD" }]))]
    pub(in crate::config) password: Option<Secret>,
    /// Days after which daily sums replace ledger rows. Absent: all rows stay.
    #[schemars(range(min = 1, max = 36_500), example = 400)]
    pub(in crate::config) keep_days: Option<u32>,
}
