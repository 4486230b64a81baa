//! Client keys as the store keeps them. The store holds the hash of a key, never the key itself.

use serde::{Deserialize, Serialize};

/// The longest name of a key, a group or an upstream, in bytes. Operators search ledger rows by these names, and a ledger row
/// holds no text over 512 bytes.
pub const MAX_NAME_BYTES: usize = 128;

/// One client key as the store keeps the key: its name, the hash of its secret, and what it may do. The secret itself is not
/// stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredKey {
    /// The name of the key in logs and in the ledger. Names are unique.
    pub name: String,
    /// The first characters of the key, by which people recognize the key.
    pub prefix: String,
    /// SHA-256 of the key, in hex.
    pub sha256: String,
    /// The secret before the last rotation.
    pub previous: Option<RotatedSecret>,
    /// Whether an operator disabled the key.
    pub disabled: bool,
    /// When the key was made, in milliseconds since 1970-01-01 UTC.
    pub created_ms: u64,
    /// What the key may do.
    pub settings: KeySettings,
}

/// The old secret of a client key whose secret was replaced. The old secret still works for a grace period.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotatedSecret {
    /// SHA-256 of the secret, in hex.
    pub sha256: String,
    /// When the secret stops working, in milliseconds since 1970-01-01 UTC.
    pub until_ms: u64,
}

/// What a client key may do: models, upstreams, limits and budgets. The fields have the names of the settings in `[[keys]]`. An
/// absent setting sets no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeySettings {
    /// Models that the key may request. A trailing `*` matches any rest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub models: Option<Vec<String>>,
    /// Names of the upstreams that the key may use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstreams: Option<Vec<String>>,
    /// Name of the key's group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Requests per minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rpm: Option<u32>,
    /// Tokens per minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tpm: Option<u32>,
    /// Requests in progress at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_in_flight: Option<usize>,
    /// Budgets, such as `50CNY/month`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub budgets: Vec<String>,
    /// Day of the month on which each budget month begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub starts_on: Option<u8>,
    /// Limits that apply to some models only, such as `gpt-5* rpm=10 budget=5CNY/day`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<String>,
    /// Networks from which clients may use the key, such as `10.0.0.0/8`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<String>,
    /// When the key expires, in milliseconds since 1970-01-01 UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
    /// `cancel` or `drain`: what Tidegate does with the upstream's answer when the client leaves. None = the cost of the answer
    /// decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_client_gone: Option<String>,
    /// Whether Tidegate asks the upstream for the usage of the key's chat streams (`include_usage`).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub require_usage: bool,
    /// Whether this is the key of the first start, which works only while the store has no other key.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub interim: bool,
}
