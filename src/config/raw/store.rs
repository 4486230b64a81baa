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
}
