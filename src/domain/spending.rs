//! Names of budgets, and their spend as replicas tell it.

use std::sync::Arc;

use super::{
    model_name::ModelPattern,
    money::{Currency, Window},
};

/// The owner of a budget or limit. The names are fixed: metric label, messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Spender {
    /// A key.
    Key,
    /// All keys of a group together.
    Group,
}

impl Spender {
    /// Its fixed name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Group => "group",
        }
    }
}

/// A stretch of time, in milliseconds since 1970-01-01 UTC; the end is not in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Span {
    /// Its first moment.
    pub from: u64,
    /// The first one after it.
    pub to: u64,
}

/// Names a budget in one of its windows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BudgetKey {
    /// The owner.
    pub spender: Spender,
    /// The name of that key or group.
    pub name: Arc<str>,
    /// The models of the budget; none = all.
    pub model: Option<ModelPattern>,
    /// The currency of the budget.
    pub currency: Currency,
    /// The kind of window of the budget.
    pub window: Window,
    /// The day, week or month.
    pub span: Span,
}

/// The spend of a data folder, with that of earlier processes, in nano-units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnSpend {
    /// The amount.
    pub total: u64,
    /// When the ledger was read for it, in milliseconds since 1970-01-01 UTC; 0 = never. A later reading replaces an earlier one, even if
    /// the amount is lower: a row may cost less in the end.
    pub read_at: u64,
}

/// The spend of other data folders in the ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemoteSpend {
    /// When the ledger first showed this spend, in milliseconds since 1970-01-01 UTC; 0 = never.
    pub read_at: u64,
    /// The name of each data folder, and its spend in nano-units.
    pub by_origin: Arc<[(Arc<str>, u64)]>,
}

/// A budget reached a threshold of `warn_at`: reported once for each window and threshold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crossed {
    /// The budget and its window.
    pub budget: BudgetKey,
    /// The threshold, in billionths of the budget.
    pub threshold: u64,
    /// The budget, in nano-units of its currency.
    pub limit: u64,
    /// The spend, in nano-units.
    pub spent: u64,
}
