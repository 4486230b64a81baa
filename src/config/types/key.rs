//! Keys of clients, groups of them, and how much they may ask for.

use std::sync::Arc;

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
