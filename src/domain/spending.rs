//! What keys and groups have spent of their budgets: counters over the ledger's rows, which alone are the truth.

mod counter;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

pub use counter::{Alone, Counter, Mine, Others, Short, Sums};

use super::money::{Currency, Exchange, Window};

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

/// Names a counter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Account {
    /// Whose.
    pub spender: Spender,
    /// The name of that key or group.
    pub name: Arc<str>,
    /// Of its budget.
    pub currency: Currency,
    /// Of its budget.
    pub window: Window,
    /// Which day or month.
    pub span: Span,
}

/// All counters of a process. One for all workers, and they live through reloads.
#[derive(Debug, Default)]
pub struct Spending {
    counters: Mutex<HashMap<Account, Arc<Counter>>>,
    exchange: Mutex<Exchange>,
    wish: AtomicU64,
}

/// A counter of a window that is over is kept for requests that began in it, this much longer.
const KEPT: u64 = 86_400_000;

impl Spending {
    /// The counter of this account, made where it is missing.
    pub fn counter(&self, account: Account) -> Arc<Counter> {
        Arc::clone(self.lock().entry(account).or_default())
    }

    /// All of them, without those that are long over at `now`.
    pub fn accounts(&self, now: u64) -> Vec<(Account, Arc<Counter>)> {
        self.lock().retain(|account, _| account.span.to.saturating_add(KEPT) > now);
        self.all()
    }

    /// All of them.
    pub fn all(&self) -> Vec<(Account, Arc<Counter>)> {
        self.lock().iter().map(|(account, counter)| (account.clone(), Arc::clone(counter))).collect()
    }

    /// How currencies are exchanged from now on.
    pub fn exchange_by(&self, exchange: Exchange) {
        *self.exchange.lock().unwrap_or_else(PoisonError::into_inner) = exchange;
    }

    /// How currencies are exchanged.
    pub fn exchange(&self) -> Exchange {
        *self.exchange.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the ledger's sums are wanted at once, once: by somebody with this number, which only goes up.
    pub fn wants(&self, number: u64) {
        self.wish.fetch_max(number, Ordering::AcqRel);
    }

    /// The number of who wanted them last.
    pub fn wish(&self) -> u64 {
        self.wish.load(Ordering::Acquire)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Account, Arc<Counter>>> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
