//! Whose budgets there are, and what is said of them.

use std::sync::Arc;

use super::{
    model_name::ModelPattern,
    money::{Currency, Window},
};

/// Whose budget or limit it is. The names are fixed: metric label, messages.
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
    /// Whose.
    pub spender: Spender,
    /// The name of that key or group.
    pub name: Arc<str>,
    /// The models that it is for; none = all.
    pub model: Option<ModelPattern>,
    /// Of the budget.
    pub currency: Currency,
    /// Of the budget.
    pub window: Window,
    /// Which day, week or month.
    pub span: Span,
}

/// What a data folder spent of a budget in all, also by processes before this one, in nano-units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnSpend {
    /// The amount.
    pub total: u64,
    /// When the ledger was read that this is based on, in milliseconds since 1970-01-01 UTC; 0 = never. A later reading replaces an
    /// earlier one, even where the amount is less: a row may cost less after all.
    pub read_at: u64,
}

/// What other data folders spent of a budget, as the ledger says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemoteSpend {
    /// When the ledger was read that said so first, in milliseconds since 1970-01-01 UTC; 0 = never.
    pub read_at: u64,
    /// The name of each data folder, and its nano-units.
    pub by_origin: Arc<[(Arc<str>, u64)]>,
}

/// A budget has reached a threshold of `warn_at`: told once for each window and threshold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crossed {
    /// Which budget, in which window.
    pub budget: BudgetKey,
    /// The threshold, in billionths of the budget.
    pub threshold: u64,
    /// The budget, in nano-units of its currency.
    pub limit: u64,
    /// What was spent, in the same.
    pub spent: u64,
}
