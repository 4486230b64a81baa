//! What is spent of one budget in one of its windows, as this process knows it.

use std::{
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::Notify;

use crate::domain::{
    money::{MOST, UNIT},
    spending::{OwnSpend, RemoteSpend},
};

/// One budget in one of its windows, in nano-units of its currency.
///
/// It is exact about what this process spent: the ledger's rows, and what its own requests did cost that the ledger did not
/// show yet. What others spent it knows from the ledger alone.
#[derive(Debug, Default)]
pub struct Counter {
    state: Mutex<State>,
    /// Whether it may be counted by: the ledger or a copy of it was read, or the window began with nothing spent.
    counts: AtomicBool,
    /// Somebody waits for that.
    read: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// What the ledger says of the rows of this data folder.
    own: u64,
    /// The same of those of other data folders.
    others: RemoteSpend,
    of_others: u64,
    /// When the ledger was read, in milliseconds since 1970-01-01 UTC; 0 = never.
    read_at: u64,
    /// What requests of this process did cost, without those whose rows the ledger showed.
    recent: u64,
    /// Of that, what is in the ledger by now.
    stored: u64,
    reserved: u64,
    /// The budget, in nano-units; 0 = not known.
    limit: u64,
    /// Its thresholds, in billionths of it.
    warn_at: Vec<u64>,
    /// The highest threshold that was told in this window.
    warned: u64,
}

/// What the ledger says of a budget.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LedgerSums {
    /// Rows of this data folder.
    pub own: u64,
    /// Other data folders, and the rows of each.
    pub others: Arc<[(Arc<str>, u64)]>,
    /// When the ledger was read, in milliseconds since 1970-01-01 UTC.
    pub read_at: u64,
}

/// Why nothing is set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Short {
    /// All of the budget is spent.
    Spent,
    /// What is left is set aside, or for other replicas to spend.
    Reserved,
}

impl State {
    fn in_ledger(&self) -> u64 {
        self.own.saturating_add(self.of_others).min(MOST)
    }

    fn spent(&self) -> u64 {
        self.in_ledger().saturating_add(self.recent).min(MOST)
    }
}

impl Counter {
    /// What was spent, as far as this process knows; never more than was, but for rows that cost less after all.
    pub fn spent(&self) -> u64 {
        self.lock().spent()
    }

    /// What this data folder spent.
    pub fn own(&self) -> OwnSpend {
        let state = self.lock();
        OwnSpend { total: state.own.saturating_add(state.recent).min(MOST), read_at: state.read_at }
    }

    /// What other data folders spent, as the ledger says.
    pub fn others(&self) -> RemoteSpend {
        self.lock().others.clone()
    }

    /// What is set aside for requests under way.
    pub fn reserved(&self) -> u64 {
        self.lock().reserved
    }

    /// Sets `cost` aside, where it fits into what this one of `replicas` may spend: its part of what the ledger, as last read, leaves
    /// of `limit`. A first request always fits where anything is left, so that a large estimate does not block a small budget.
    ///
    /// # Errors
    /// When it does not fit.
    pub fn reserve(&self, limit: u64, cost: u64, replicas: u32) -> Result<(), Short> {
        let mut state = self.lock();
        let part = limit.saturating_sub(state.in_ledger()) / u64::from(replicas.max(1));
        let after = state.recent.saturating_add(state.reserved).saturating_add(cost);
        if state.recent >= part || (after > part && state.reserved > 0) {
            return Err(if state.spent() >= limit { Short::Spent } else { Short::Reserved });
        }
        state.reserved = state.reserved.saturating_add(cost);
        Ok(())
    }

    /// Sets `cost` aside, whether it fits or not: Redis has decided.
    pub fn hold(&self, cost: u64) {
        let mut state = self.lock();
        state.reserved = state.reserved.saturating_add(cost);
    }

    /// Gives back what was set aside, and adds what it really cost.
    pub fn settle(&self, reserved: u64, cost: u64) {
        let mut state = self.lock();
        state.reserved = state.reserved.saturating_sub(reserved);
        state.recent = state.recent.saturating_add(cost).min(MOST);
    }

    /// Gives back what was set aside.
    pub fn release(&self, reserved: u64) {
        self.settle(reserved, 0);
    }

    /// The row of something that was [settled](Self::settle) here is in the ledger.
    pub fn is_stored(&self, cost: u64) {
        let mut state = self.lock();
        state.stored = state.stored.saturating_add(cost).min(state.recent);
    }

    /// How much is in the ledger that it did not show yet: to be asked before it is asked for its sums, and told with them.
    pub fn stored(&self) -> u64 {
        self.lock().stored
    }

    /// The ledger was read, and says this, with what was [`stored`](Self::stored) before. It may be less than before.
    pub fn is_told(&self, sums: LedgerSums, stored: u64) {
        let mut state = self.lock();
        let LedgerSums { own, others, read_at } = sums;
        let read_at = read_at.max(1);
        if state.read_at == 0 || state.others.by_origin != others {
            state.of_others = others.iter().fold(0, |sum: u64, (_, one)| sum.saturating_add(*one));
            state.others = RemoteSpend { read_at, by_origin: others };
        }
        (state.own, state.read_at) = (own, read_at);
        state.recent = state.recent.saturating_sub(stored);
        state.stored = state.stored.saturating_sub(stored);
        drop(state);
        self.begin_to_count();
    }

    /// So much was spent, by this data folder and by others, as a process before this one believed: until the ledger is asked.
    pub fn believe(&self, own: u64, others: u64) {
        let mut state = self.lock();
        (state.own, state.of_others) = (own, others);
        drop(state);
        self.begin_to_count();
    }

    /// Nothing was spent in the window without this counter.
    pub(super) fn begin_at_nothing(&self) {
        self.begin_to_count();
    }

    fn begin_to_count(&self) {
        self.counts.store(true, Ordering::Release);
        self.read.notify_waiters();
    }

    /// Whether what it says is what the ledger said, or a copy of it; a counter that was dropped and made again knows nothing.
    pub fn counts(&self) -> bool {
        self.counts.load(Ordering::Acquire)
    }

    /// Waits for that.
    pub(super) async fn until_it_counts(&self) {
        let mut read = pin!(self.read.notified());
        read.as_mut().enable();
        if !self.counts() {
            read.await;
        }
    }

    /// What it is held against: a budget of `limit` nano-units, with thresholds in billionths of it.
    pub fn watch(&self, limit: u64, warn_at: &[u64]) {
        let mut state = self.lock();
        (state.limit, state.warn_at) = (limit, warn_at.to_vec());
    }

    /// The highest threshold that was told in this window, as a process before this one left it.
    pub fn was_warned(&self, threshold: u64) {
        let mut state = self.lock();
        state.warned = state.warned.max(threshold);
    }

    /// The same as it is now.
    pub fn warned(&self) -> u64 {
        self.lock().warned
    }

    /// The thresholds that were reached since this was asked last, each with the budget and what was spent.
    pub(super) fn crossed(&self) -> Vec<(u64, u64, u64)> {
        let mut state = self.lock();
        let (limit, spent, warned) = (state.limit, state.spent(), state.warned);
        let reached =
            |threshold: u64| u128::from(spent) * u128::from(UNIT) >= u128::from(limit) * u128::from(threshold);
        let mut new: Vec<u64> =
            state.warn_at.iter().copied().filter(|threshold| *threshold > warned && reached(*threshold)).collect();
        new.sort_unstable();
        state.warned = new.last().copied().unwrap_or(warned);
        new.into_iter().map(|threshold| (threshold, limit, spent)).collect()
    }

    /// Whether the ledger was asked for it.
    pub fn known(&self) -> bool {
        self.lock().read_at > 0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sums(own: u64, others: u64) -> LedgerSums {
        LedgerSums { own, others: [("other".into(), others)].into(), read_at: 1 }
    }

    #[test]
    fn a_small_budget_is_not_blocked_by_a_large_estimate() {
        let counter = Counter::default();
        assert_eq!(counter.reserve(10, 1000, 1), Ok(()));
        assert_eq!(counter.reserve(10, 1, 1), Err(Short::Reserved));
        counter.settle(1000, 9);
        assert_eq!(counter.reserve(10, 1000, 1), Ok(()));
        counter.settle(1000, 1);
        assert_eq!((counter.spent(), counter.reserved()), (10, 0));
        assert_eq!(counter.reserve(10, 0, 1), Err(Short::Spent));
    }

    #[test]
    fn what_the_ledger_shows_is_counted_once() {
        let counter = Counter::default();
        counter.believe(50, 10);
        counter.settle(0, 3);
        assert_eq!((counter.spent(), counter.known(), counter.own()), (63, false, OwnSpend { total: 53, read_at: 0 }));
        counter.is_stored(3);
        counter.settle(0, 4);
        // The row of the second is stored while the ledger is asked: whether it is in the sum nobody knows, and it is not lost.
        let stored = counter.stored();
        counter.is_stored(4);
        counter.is_told(sums(43, 7), stored);
        assert_eq!((counter.spent(), counter.known(), counter.own()), (54, true, OwnSpend { total: 47, read_at: 1 }));
        counter.is_told(sums(47, 7), counter.stored());
        assert_eq!((counter.spent(), counter.own().total), (54, 47));
        // A row cost less after all.
        counter.is_told(sums(20, 7), counter.stored());
        assert_eq!(counter.spent(), 27);
    }

    #[test]
    fn one_of_several_spends_its_part_of_what_the_ledger_left() {
        let counter = Counter::default();
        counter.is_told(sums(0, 20), 0);
        let spent = |limit| {
            let spend = || counter.reserve(limit, 1, 2).map(|()| counter.settle(1, 1));
            std::iter::from_fn(|| spend().ok()).count()
        };
        // 80 are left, of which 40 are for this one, with what it spent before it was alone.
        counter.hold(10);
        counter.settle(10, 10);
        assert_eq!((spent(100), counter.reserve(100, 1, 2)), (30, Err(Short::Reserved)));
        // Others spent 10 more meanwhile: of the 30 that are left, 15 are for this one.
        counter.is_stored(40);
        counter.is_told(sums(40, 30), counter.stored());
        assert_eq!(spent(100), 15);
        // Without a ledger nothing changes.
        assert_eq!(counter.reserve(100, 0, 2), Err(Short::Reserved));
        // What is known to be spent is.
        assert_eq!(counter.reserve(85, 0, 2), Err(Short::Spent));
        // One request at a time is let in while anything of the part is left.
        assert_eq!((counter.reserve(102, 50, 2), counter.reserve(102, 1, 2)), (Ok(()), Err(Short::Reserved)));
    }

    proptest! {
        /// All replicas that read the same ledger and hear nothing more spend what it left, and nothing beyond but what their
        /// last requests cost more than was left for them.
        #[test]
        fn parts_are_no_more_than_the_whole(
            (limit, in_ledger, replicas) in (1..2000_u64, 0..2000_u64, 1..6_u32),
            costs in prop::collection::vec((0..6_usize, 1..40_u64), 1..300),
        ) {
            let all: Vec<Counter> = (0..replicas).map(|_| Counter::default()).collect();
            all.iter().for_each(|counter| counter.is_told(sums(0, in_ledger), 0));
            let (mut spent, mut dearest) = (in_ledger, 0);
            for (nth, cost) in costs {
                let counter = &all[nth % all.len()];
                if counter.reserve(limit, cost, replicas).is_ok() {
                    counter.settle(cost, cost);
                    (spent, dearest) = (spent + cost, dearest.max(cost));
                    prop_assert!(spent <= limit + u64::from(replicas) * dearest, "{spent} of {limit}");
                }
            }
        }

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
                if counter.reserve(limit, estimate, 1).is_ok() {
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
                let _ = (counter.reserve(limit, reserved, 1), counter.reserve(limit, reserved, 3));
                counter.settle(reserved, cost);
                counter.is_stored(cost / 2);
                prop_assert!(counter.spent() <= MOST && counter.own().total <= MOST);
                counter.is_told(sums(cost / 2, reserved / 2), counter.stored());
                prop_assert!(counter.spent() <= MOST && counter.own().total <= MOST);
            }
        }
    }
}
