//! What causes a failover, and whose fault an error answer is.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One entry of `failover_on` as written in the configuration file: a failure that causes a failover.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum FailoverOn {
    Disconnect,
    Timeout,
    Empty,
}

/// One entry of `error_rules` as written in the configuration file: says whose fault an error answer is. Names at least one of
/// `status`, `code`, `type` and `words`. A rule applies to answers that have all parts which the rule names.
#[derive(Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["fault"]))]
pub(in crate::config) struct ErrorRule {
    /// HTTP status. Absent: any error.
    #[schemars(range(min = 400, max = 599), example = 403)]
    pub(in crate::config) status: Option<u16>,
    /// `error.code`, or `code` at the top level. Absent: any.
    #[schemars(example = &"token_mismatched")]
    pub(in crate::config) code: Option<String>,
    /// `error.type`, or `type` at the top level. Absent: any.
    #[serde(rename = "type")]
    #[schemars(example = &"quota_error")]
    pub(in crate::config) kind: Option<String>,
    /// Texts; one of them is in the message, in any letter case. Absent: any message.
    #[schemars(extend("examples" = [["daily limit"]]))]
    pub(in crate::config) words: Option<Vec<String>>,
    /// `credential`, `balance`: the client gets 502 `upstream_auth`. `request`: the client gets the error. `model`:
    /// next target. `upstream`: next candidate, counts as a fault.
    #[schemars(example = &"credential")]
    pub(in crate::config) fault: Option<Fault>,
}

/// Who caused an error answer, as written in the configuration file (`fault` of an error rule).
#[derive(Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum Fault {
    Credential,
    Balance,
    Request,
    Model,
    Upstream,
}
