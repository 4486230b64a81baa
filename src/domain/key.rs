//! Keys of clients as the store keeps them: never the key itself.

use std::sync::atomic::{AtomicBool, AtomicU64};

use serde::{Deserialize, Serialize};

/// Bytes of the name of a key, a group or an upstream: rows of the ledger are found again by it, and hold no text over 512 bytes.
pub const MOST_OF_NAME: usize = 128;

/// One key of the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredKey {
    /// Its name in logs and in the ledger: no two have the same.
    pub name: String,
    /// The first characters of the key, by which people know it again.
    pub prefix: String,
    /// SHA-256 of the key, in hex.
    pub sha256: String,
    /// The key before the last rotation.
    pub previous: Option<RotatedSecret>,
    /// Whether it is refused for now.
    pub disabled: bool,
    /// When it was made: milliseconds since 1970-01-01 UTC.
    pub created_ms: u64,
    /// What it may do.
    pub settings: KeySettings,
}

/// A key that was rotated out and still works for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotatedSecret {
    /// SHA-256 of the key, in hex.
    pub sha256: String,
    /// Until when: milliseconds since 1970-01-01 UTC.
    pub until_ms: u64,
}

/// What a key may do, in the words of `[[keys]]` in the configuration; absent = not limited.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeySettings {
    /// Models it may ask for; a trailing `*` matches any rest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub models: Option<Vec<String>>,
    /// Names of upstreams it may use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstreams: Option<Vec<String>>,
    /// Name of its group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Requests per minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rpm: Option<u32>,
    /// Tokens per minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tpm: Option<u32>,
    /// Requests under way at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_in_flight: Option<usize>,
    /// Budgets, such as `50CNY/month`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub budgets: Vec<String>,
    /// Day of the month on which the months of its budgets begin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub starts_on: Option<u8>,
    /// Limits for the use of some models, such as `gpt-5* rpm=10 budget=5CNY/day`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<String>,
    /// Networks that it may come from, such as `10.0.0.0/8`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<String>,
    /// When it ends: milliseconds since 1970-01-01 UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
    /// `cancel` or `drain`: what happens upstream when the client leaves; none = by what the answer costs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_client_gone: Option<String>,
    /// Whether its chat streams have to tell their tokens.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub require_usage: bool,
    /// Whether it works only as long as there is no other key: that of the first start.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub interim: bool,
}

/// How the keys of the store stand: written by who reads them, read when somebody asks.
#[derive(Debug)]
pub struct StoredKeysStatus {
    /// They were never read: nobody can tell that a key is not known.
    pub unread: AtomicBool,
    /// They could not be read when it was tried last: those that were read before count.
    pub fails: AtomicBool,
    /// Goes up with every change.
    pub revision: AtomicU64,
    /// How many there are.
    pub stored: AtomicU64,
}

impl Default for StoredKeysStatus {
    fn default() -> Self {
        let (fails, revision, stored) = (AtomicBool::default(), AtomicU64::default(), AtomicU64::default());
        Self { unread: AtomicBool::new(true), fails, revision, stored }
    }
}
