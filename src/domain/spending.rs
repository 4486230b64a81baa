//! Names of budgets, and their spend as replicas tell it.

use std::sync::Arc;

use super::{
    model_name::ModelPattern,
    money::{Currency, Window},
};

/// Who has a budget or limit: a key or a group. The names are fixed: metric label, messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Spender {
    /// A key.
    Key,
    /// All keys of a group together.
    Group,
}

impl Spender {
    /// The fixed name of who has a budget or limit: `key` or `group`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Group => "group",
        }
    }
}

/// A span of time, such as one budget month, in milliseconds since 1970-01-01 UTC. The end is not part of the span.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Span {
    /// The first moment of the span.
    pub from: u64,
    /// The first moment after the span.
    pub to: u64,
}

/// Identifies one budget in one of its windows: who has the budget, for which models, and which day, week or month.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BudgetKey {
    /// Whether a key or a group has the budget.
    pub spender: Spender,
    /// The name of that key or group.
    pub name: Arc<str>,
    /// The models of the budget; none = all.
    pub model: Option<ModelPattern>,
    /// The currency of the budget.
    pub currency: Currency,
    /// The kind of window of the budget.
    pub window: Window,
    /// The one day, week or month.
    pub span: Span,
}

/// How much this process and earlier processes of the same data folder spent of a budget, in nano-units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnSpend {
    /// The amount spent.
    pub total: u64,
    /// When the ledger was read for this amount, in milliseconds since 1970-01-01 UTC; 0 = never. The amount of a later reading
    /// replaces the amount of an earlier reading, even if it is lower: a row may cost less in the end.
    pub read_at: u64,
}

/// How much other data folders (other replicas) spent of a budget, as the ledger shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemoteSpend {
    /// When the ledger first showed this spend, in milliseconds since 1970-01-01 UTC; 0 = never.
    pub read_at: u64,
    /// The name of each data folder, and its spend in nano-units.
    pub by_origin: Arc<[(Arc<str>, u64)]>,
}

/// Reports that the spend of a budget reached a threshold of `warn_at`. Reported once for each window and threshold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThresholdReached {
    /// The budget and its window.
    pub budget: BudgetKey,
    /// The threshold, in billionths of the budget.
    pub threshold: u64,
    /// The budget, in nano-units of its currency.
    pub limit: u64,
    /// The spend, in nano-units.
    pub spent: u64,
}
