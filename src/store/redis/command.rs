//! Commands to the script in Redis, and the names that limits and budgets have there.

use std::{fmt, sync::Arc};

use tokio::{sync::oneshot, time::Instant};

use crate::domain::{
    model_name::ModelPattern,
    spending::{BudgetKey, OwnSpend, RemoteSpend, Spender},
};

/// Redis deletes a budget this many milliseconds after its window: requests may last longer than the window, and clocks differ.
const KEPT: u64 = 86_400_000;

/// One thing that a request does to one limit or budget in Redis, for example takes a place or reserves money. The keys are names in
/// Redis.
#[derive(Clone, Debug)]
pub enum LimitItem {
    /// Uses a rate.
    Rate {
        /// The rate.
        key: String,
        /// Microseconds until the used part of the rate is free again.
        span: u64,
    },
    /// Corrects a rate to its real use. Part of [`Operation::Give`] only.
    Correct {
        /// The rate.
        key: String,
        /// Microseconds that were used beyond the reservation.
        more: u64,
        /// Microseconds that were not used. Time frees them too, so only the part that is still taken is given back.
        back: u64,
        /// When the real use was known.
        since: Instant,
    },
    /// Reads a rate.
    Look {
        /// The rate.
        key: String,
    },
    /// Takes a place among the requests in progress.
    Place {
        /// The limit.
        key: String,
        /// The number of places.
        limit: u64,
    },
    /// Reserves money of a budget.
    Spend {
        /// The budget.
        budget: SharedBudget,
        /// Its size, in nano-units.
        limit: u64,
        /// What the request will probably cost.
        cost: u64,
    },
}

impl LimitItem {
    pub(super) fn key(&self) -> &str {
        match self {
            Self::Rate { key, .. } | Self::Correct { key, .. } | Self::Look { key } | Self::Place { key, .. } => key,
            Self::Spend { budget, .. } => &budget.name,
        }
    }

    /// Whether the item is a reservation: it lasts until it is given back, or for [`HELD`](super::HELD) without renewal.
    pub(super) fn is_reservation(&self) -> bool {
        matches!(self, Self::Place { .. } | Self::Spend { .. })
    }
}

/// What the script in Redis does with the reservations of a request: takes, renews, or gives them back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Takes all of them or none.
    Take,
    /// Keeps the reservations for another minute, and makes missing ones again.
    Renew,
    /// Gives the reservations back. May be done several times, and late.
    Give,
}

/// One call of the script in Redis that decides on shared limits: an operation, and the limits of one request.
#[derive(Debug)]
pub struct Command {
    /// What Redis does.
    pub operation: Operation,
    /// The name of the request in Redis. Empty: the command only reports the spend of budgets.
    pub request: String,
    /// The items.
    pub items: Vec<LimitItem>,
    /// When the command was made.
    pub(super) since: Instant,
    /// Who waits for the answer.
    pub(super) answer: Option<oneshot::Sender<TakeResult>>,
}

impl Command {
    /// Makes a call of the limit script in Redis: an operation on these items of the request with this name.
    pub fn new(operation: Operation, request: String, items: Vec<LimitItem>) -> Self {
        Self { operation, request, items, since: Instant::now(), answer: None }
    }
}

/// What Redis answers when a request takes amounts from shared limits: all are taken, or one limit is exceeded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TakeResult {
    /// The index of the item that exceeds its limit, and the microseconds to wait for it. Redis took nothing then.
    pub exceeded: Option<(usize, u64)>,
    /// For each item: microseconds until the whole rate is free again, or the number of places taken.
    pub states: Vec<u64>,
}

/// Reports the spend of one budget for Redis: the spend of this process at this moment, and that of other data folders.
pub trait SpendSource: Send + Sync {
    /// The spend of this data folder.
    fn own(&self) -> OwnSpend;
    /// The spend of other data folders, as the ledger shows it.
    fn others(&self) -> RemoteSpend;
}

/// A budget that several replicas share in Redis: its name there, when Redis deletes it, and its spend.
#[derive(Clone)]
pub struct SharedBudget {
    /// Its name in Redis.
    pub name: String,
    /// When Redis deletes it, in milliseconds since 1970-01-01 UTC; none = never.
    pub until: Option<u64>,
    /// Its spend.
    pub spend: Arc<dyn SpendSource>,
}

impl SharedBudget {
    /// Makes the shared budget of a key or group for one window. The name in Redis is made from its owner, model, currency and window.
    pub fn new(key: &BudgetKey, spend: Arc<dyn SpendSource>) -> Self {
        let BudgetKey { spender, name: of, model, currency, window, span } = key;
        let (currency, window) = (currency.name(), window.name());
        let name = format!("{}:{currency}:{window}:{}", name("spending", *spender, of, model.as_ref()), span.from);
        let until = (span.to < u64::MAX).then(|| span.to.saturating_add(KEPT));
        Self { name, until, spend }
    }
}

impl fmt::Debug for SharedBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedBudget").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Returns a readable name in Redis for one limit of one key or group, or of one model of a key. No two limits have the same name. Other
/// characters than letters, digits, `-`, `.` and `_` are written as `%` and their code.
pub fn name(limit: &str, whose: Spender, name: &str, model: Option<&ModelPattern>) -> String {
    let plain = |text: &str| -> String {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        let written = |byte: u8| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
        text.bytes().map(written).collect()
    };
    // No other name continues like this: every `:` in a name is escaped.
    let model = model.map(|model| format!(":model:{}", plain(&model.0))).unwrap_or_default();
    format!("tidegate:{limit}:{}:{}{model}", whose.name(), plain(name))
}
