//! Keys of clients, groups of them, and how much they may ask for.

use std::sync::Arc;

use ipnet::IpNet;

use crate::domain::{model_name::ModelPattern, money::Budget};

/// `[[keys]]`: one client key.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    /// Its name in logs.
    pub name: Arc<str>,
    /// SHA-256 of its secret; the secret itself is not kept.
    pub sha256: [u8; 32],
    /// Model patterns it may ask for; none = all.
    pub models: Option<Vec<Arc<str>>>,
    /// Indices into `Config::upstreams` it may use (idle ones left out); none = all.
    pub upstreams: Option<Vec<usize>>,
    /// Index into `Config::groups`.
    pub group: Option<usize>,
    /// How much it may ask for.
    pub limits: Limits,
    /// What it may cost, one for each window at most.
    pub budgets: Vec<Budget>,
    /// Parts of its budgets at which the log warns, in billionths.
    pub warn_at: Arc<[u64]>,
    /// How much it may ask for of some models, beside all that.
    pub limits_by_model: Vec<ModelLimits>,
    /// Networks that it may come from; empty = any.
    pub ips: Vec<IpNet>,
    /// From when on it is refused: milliseconds since 1970-01-01 UTC.
    pub expires: Option<u64>,
    /// What becomes of the call upstream when the client leaves before its end.
    pub on_client_gone: OnClientGone,
    /// Where it is kept, and what only keys of the store have.
    pub kept: Kept,
}

impl Key {
    /// One that may use everything.
    pub fn unrestricted(name: &str, sha256: [u8; 32]) -> Self {
        Self {
            name: name.into(),
            sha256,
            models: None,
            upstreams: None,
            group: None,
            limits: Limits::default(),
            budgets: Vec::new(),
            warn_at: Arc::default(),
            limits_by_model: Vec::new(),
            ips: Vec::new(),
            expires: None,
            on_client_gone: OnClientGone::ByCost,
            kept: Kept::File,
        }
    }
}

/// `on_client_gone`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnClientGone {
    /// Absent: a stream is cancelled. An answer that is no stream is read to its end where the key or its group has a
    /// budget, as the provider bills all of it in any case.
    #[default]
    ByCost,
    /// It is cancelled.
    Cancel,
    /// It is read to its end, within bounds, to know what it cost.
    Drain,
}

/// Where a key is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Kept {
    /// In the configuration.
    #[default]
    File,
    /// In the store.
    Store {
        /// The one before the last rotation, as SHA-256, and until when it works.
        previous: Option<([u8; 32], u64)>,
        /// Why it is refused for now, if it is.
        refused: Option<&'static str>,
    },
}

/// `[[groups]]`: keys that share limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: Arc<str>,
    /// How much its keys may ask for together.
    pub limits: Limits,
    /// What they may cost together, one for each window at most.
    pub budgets: Vec<Budget>,
    /// Parts of its budgets at which the log warns, in billionths.
    pub warn_at: Arc<[u64]>,
}

/// `[[keys.limits]]`: how much a key may ask for of one model or pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelLimits {
    /// Which models.
    pub model: ModelPattern,
    /// How much.
    pub limits: Limits,
    /// What they may cost, one for each window at most.
    pub budgets: Vec<Budget>,
}

/// How much a key or a group may ask for; none = as much as it likes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Requests per minute.
    pub requests: Option<u32>,
    /// Tokens per minute, input and output together.
    pub tokens: Option<u32>,
    /// Requests under way at once.
    pub in_flight: Option<usize>,
}
