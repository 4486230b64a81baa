//! `[store]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Secret;

#[derive(Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Store {
    /// PostgreSQL, which several replicas can share; absent = SQLite in the data folder.
    #[schemars(example = &"postgres://tidegate@db.internal:5432/tidegate")]
    pub(in crate::config) url: Option<String>,
    /// Of the user in `url`.
    #[schemars(extend("examples" = [{ "env": "TIDEGATE_STORE_PASSWORD" }]))]
    pub(in crate::config) password: Option<Secret>,
    /// After so many days the ledger's rows are replaced by sums by day, which stay for ever; absent = rows stay.
    #[schemars(range(min = 1, max = 36_500), example = 400)]
    pub(in crate::config) keep_days: Option<u32>,
}
