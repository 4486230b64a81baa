//! Keys of clients, groups of them, and how much they may ask for.

use std::sync::Arc;

use ipnet::IpNet;

use crate::domain::money::Budget;

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
    /// Networks that it may come from; empty = any.
    pub ips: Vec<IpNet>,
    /// From when on it is refused: milliseconds since 1970-01-01 UTC.
    pub expires: Option<u64>,
    /// What becomes of the call upstream when the client leaves before its end.
    pub on_client_gone: OnClientGone,
    /// Chat streams have to tell their tokens: `stream_options.include_usage` is added where the client left it out.
    pub require_usage: bool,
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
            ips: Vec::new(),
            expires: None,
            on_client_gone: OnClientGone::Cancel,
            require_usage: false,
            kept: Kept::File,
        }
    }
}

/// `on_client_gone`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnClientGone {
    /// It is cancelled.
    #[default]
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
