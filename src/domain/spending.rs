//! What keys and groups have spent of their budgets: counters over the ledger's rows, which alone are the truth.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use super::money::{Currency, Exchange, MOST, Window};

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

/// One budget in one of its windows, in nano-units of its currency.
#[derive(Debug, Default)]
pub struct Counter {
    spent: AtomicU64,
    reserved: AtomicU64,
    told: AtomicU64,
    /// What others who count it have to be told of.
    less: AtomicU64,
    known: AtomicBool,
}

impl Counter {
    /// What was spent, as far as this process knows.
    pub fn spent(&self) -> u64 {
        self.spent.load(Ordering::Acquire)
    }

    /// What was spent, as the ledger said when it was asked last: by all replicas.
    pub fn told(&self) -> u64 {
        self.told.load(Ordering::Acquire)
    }

    /// What is set aside for requests under way.
    pub fn reserved(&self) -> u64 {
        self.reserved.load(Ordering::Acquire)
    }

    /// Sets `cost` aside, where it fits below `limit`. A first one always fits that finds anything left: a small budget shall
    /// not be blocked by a large estimate.
    pub fn reserve(&self, limit: u64, cost: u64) -> bool {
        let fits = |reserved: u64| {
            let spent = self.spent();
            let after = spent.saturating_add(reserved).saturating_add(cost);
            (after <= limit || (reserved == 0 && spent < limit)).then(|| reserved.saturating_add(cost))
        };
        self.reserved.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).is_ok()
    }

    /// Sets `cost` aside, whether it fits or not: somebody else has looked.
    pub fn hold(&self, cost: u64) {
        let more = |before: u64| Some(before.saturating_add(cost));
        let _ = self.reserved.fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
    }

    /// Gives back what was set aside, and adds what it really cost.
    pub fn settle(&self, reserved: u64, cost: u64) {
        // In this order: for a moment it counts twice, and never not at all.
        self.add(cost);
        self.release(reserved);
    }

    /// Gives back what was set aside.
    pub fn release(&self, reserved: u64) {
        let less = |before: u64| Some(before.saturating_sub(reserved));
        let _ = self.reserved.fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
    }

    /// Adds what something cost.
    pub fn add(&self, cost: u64) {
        let more = |before: u64| Some(before.saturating_add(cost).min(MOST));
        let _ = self.spent.fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
    }

    /// Takes away what something did not cost after all; at least `spent` stays, which the ledger says now.
    pub fn lower(&self, less: u64, spent: u64) {
        let lowered = |before: u64| Some(before.saturating_sub(less).max(spent.min(MOST)));
        let _ = self.spent.fetch_update(Ordering::AcqRel, Ordering::Acquire, lowered);
        self.is_told(spent);
    }

    /// The ledger was asked, and says this. It may be less than before.
    pub fn is_told(&self, spent: u64) {
        self.raise(spent);
        self.told.store(spent.min(MOST), Ordering::Release);
    }

    /// Whoever counts it as well counts so much too much.
    pub fn owe(&self, less: u64) {
        let more = |before: u64| Some(before.saturating_add(less));
        let _ = self.less.fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
    }

    /// What they have to be told of, once: it is lost where they do not hear it, as nobody may hear it twice.
    pub fn owed(&self) -> u64 {
        self.less.swap(0, Ordering::AcqRel)
    }

    /// The ledger was asked for it.
    pub fn is_known(&self) {
        self.known.store(true, Ordering::Release);
    }

    /// Whether the ledger was asked for it.
    pub fn known(&self) -> bool {
        self.known.load(Ordering::Acquire)
    }

    /// What was `believed` so far was really `spent`, as the ledger says. What this process added by itself stays.
    pub fn correct(&self, believed: u64, spent: u64) {
        let corrected = |before: u64| Some(before.saturating_sub(believed).saturating_add(spent).min(MOST));
        let _ = self.spent.fetch_update(Ordering::AcqRel, Ordering::Acquire, corrected);
        self.told.fetch_max(spent.min(MOST), Ordering::AcqRel);
    }

    /// At least so much was spent, as the ledger says: rows that others wrote, or a process before this one.
    pub fn raise(&self, spent: u64) {
        self.believe(spent);
        self.told.fetch_max(spent.min(MOST), Ordering::AcqRel);
    }

    /// At least so much was spent, as a process before this one believed. Not the ledger's word.
    pub fn believe(&self, spent: u64) {
        self.spent.fetch_max(spent.min(MOST), Ordering::AcqRel);
    }
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
        let mut counters = self.lock();
        counters.retain(|account, _| account.span.to.saturating_add(KEPT) > now);
        counters.iter().map(|(account, counter)| (account.clone(), Arc::clone(counter))).collect()
    }

    /// Whether the ledger was asked for all of them.
    pub fn all_known(&self) -> bool {
        self.lock().values().all(|counter| counter.known())
    }

    /// How currencies are exchanged from now on.
    pub fn exchange_by(&self, exchange: Exchange) {
        *self.exchange.lock().unwrap_or_else(PoisonError::into_inner) = exchange;
    }

    /// How currencies are exchanged.
    pub fn exchange(&self) -> Exchange {
        *self.exchange.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Account, Arc<Counter>>> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_small_budget_is_not_blocked_by_a_large_estimate() {
        let counter = Counter::default();
        assert!(counter.reserve(10, 1000));
        assert!(!counter.reserve(10, 1));
        counter.settle(1000, 9);
        assert!(counter.reserve(10, 1000));
        counter.settle(1000, 1);
        assert!(!counter.reserve(10, 0) || counter.spent() <= 10);
        assert_eq!((counter.spent(), counter.reserved()), (10, 0));
        assert!(!counter.reserve(10, 1));
    }

    #[test]
    fn what_a_process_believes_is_not_what_the_ledger_told() {
        let counter = Counter::default();
        counter.believe(50);
        counter.add(3);
        assert_eq!((counter.spent(), counter.told()), (53, 0));
        counter.correct(50, 40);
        assert_eq!((counter.spent(), counter.told()), (43, 40));
        counter.raise(60);
        assert_eq!((counter.spent(), counter.told()), (60, 60));
    }

    proptest! {
        /// However requests come and end, no more is spent than the budget and what those that were under way at once cost
        /// beyond their reservations, and nothing is left reserved.
        #[test]
        fn never_overspent_by_more_than_is_under_way(
            limit in 1..1000_u64,
            requests in prop::collection::vec((0..50_u64, 0..80_u64, any::<bool>()), 1..200),
        ) {
            let counter = Counter::default();
            let mut under_way: Vec<(u64, u64)> = Vec::new();
            let mut beyond = 0;
            for (estimate, cost, end) in requests {
                if counter.reserve(limit, estimate) {
                    under_way.push((estimate, cost));
                }
                let costs: u64 = under_way.iter().map(|(_, cost)| cost).sum();
                beyond = beyond.max(costs);
                if end && !under_way.is_empty() {
                    let (reserved, cost) = under_way.remove(0);
                    counter.settle(reserved, cost);
                }
                prop_assert!(counter.spent() <= limit + beyond, "{} of {limit} and {beyond}", counter.spent());
                prop_assert_eq!(counter.reserved(), under_way.iter().map(|(reserved, _)| reserved).sum::<u64>());
            }
            for (reserved, cost) in under_way {
                counter.settle(reserved, cost);
            }
            prop_assert_eq!(counter.reserved(), 0);
            prop_assert!(counter.spent() <= limit + beyond);
        }

        #[test]
        fn nothing_overflows_and_nothing_gets_negative(steps in prop::collection::vec((any::<u64>(), any::<u64>(), any::<u64>()), 1..50)) {
            let counter = Counter::default();
            for (limit, reserved, cost) in steps {
                let spent = counter.spent();
                counter.reserve(limit, reserved);
                counter.settle(reserved, cost);
                counter.raise(cost / 2);
                prop_assert!(counter.spent() >= spent && counter.spent() <= MOST);
            }
        }
    }
}
