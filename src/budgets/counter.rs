//! The spend of one budget in one of its windows, as this process knows it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::domain::{
    money::{MOST, UNIT},
    spending::{OwnSpend, RemoteSpend},
};

/// Counts the spend of one budget in one of its windows (day, week or month), in nano-units of the currency.
///
/// The counter is exact about the spend of this process: rows in the ledger, and requests whose rows the ledger did not show yet.
/// It knows the spend of other data folders from the ledger alone.
#[derive(Debug, Default)]
pub struct Counter(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The spend of this data folder in the ledger, as last read.
    own: u64,
    /// The spend of each other data folder in the ledger, and of all of them.
    others: RemoteSpend,
    of_others: u64,
    /// When the ledger was read, in milliseconds since 1970-01-01 UTC; 0 = never.
    read_at: u64,
    /// Whether requests may rely on the counter: it was read from the ledger or from a copy of it, or its window began with the counter.
    is_usable: bool,
    /// The cost of requests of this process since the ledger was read.
    recent: u64,
    /// The part of `recent` that is in the ledger by now.
    stored: u64,
    /// The reservations of requests in progress.
    reserved: u64,
    /// The budget, in nano-units; 0 = not known.
    limit: u64,
    /// The thresholds of `warn_at`, in billionths of the budget.
    warn_at: Vec<u64>,
    /// The highest threshold of which a warning was given in this window.
    warned: u64,
}

/// The spend of one budget window as the ledger shows it: of this data folder, and of each other one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LedgerSums {
    /// The rows of this data folder.
    pub own: u64,
    /// The name of each other data folder, and the sum of its rows.
    pub others: Arc<[(Arc<str>, u64)]>,
    /// When the ledger was read, in milliseconds since 1970-01-01 UTC.
    pub read_at: u64,
}

/// Why a budget has no room for the cost of a request: spent, or reserved by requests in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BudgetRefusal {
    /// The budget is spent.
    Spent,
    /// Requests in progress have reserved the rest, or other replicas may spend it.
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
    /// The spend of a budget window that this process knows of, in nano-units. It is never above the real spend, except while the
    /// ledger has a row that costs less in the end.
    pub fn spent(&self) -> u64 {
        self.lock().spent()
    }

    /// How much this data folder (this process and earlier ones) spent in the budget window.
    pub fn own(&self) -> OwnSpend {
        let state = self.lock();
        OwnSpend { total: state.own.saturating_add(state.recent).min(MOST), read_at: state.read_at }
    }

    /// How much other data folders (other replicas) spent in the budget window, as the ledger shows it.
    pub fn others(&self) -> RemoteSpend {
        self.lock().others.clone()
    }

    /// How much of the budget the requests in progress have reserved, in nano-units.
    pub fn reserved(&self) -> u64 {
        self.lock().reserved
    }

    /// Reserves the estimated cost of a request, if it fits into this replica's part of the budget: (`limit` - spend in the
    /// ledger, as last read) / `replicas`. A request without others in progress fits while anything is left of the part: a high
    /// estimate must not block a small budget.
    ///
    /// # Errors
    /// When `cost` does not fit.
    pub fn reserve(&self, limit: u64, cost: u64, replicas: u32) -> Result<(), BudgetRefusal> {
        let mut state = self.lock();
        let part = limit.saturating_sub(state.in_ledger()) / u64::from(replicas.max(1));
        let after = state.recent.saturating_add(state.reserved).saturating_add(cost);
        if state.recent >= part || (after > part && state.reserved > 0) {
            return Err(if state.spent() >= limit { BudgetRefusal::Spent } else { BudgetRefusal::Reserved });
        }
        state.reserved = state.reserved.saturating_add(cost);
        Ok(())
    }

    /// Reserves the estimated cost of a request even if the budget has no room, because Redis granted it.
    pub fn reserve_anyway(&self, cost: u64) {
        let mut state = self.lock();
        state.reserved = state.reserved.saturating_add(cost);
    }

    /// Replaces the reservation of a finished request in its budget by the real cost.
    pub fn settle(&self, reserved: u64, cost: u64) {
        let mut state = self.lock();
        state.reserved = state.reserved.saturating_sub(reserved);
        state.recent = state.recent.saturating_add(cost).min(MOST);
    }

    /// Gives the reservation of a request back to the budget, because the request was not sent.
    pub fn release(&self, reserved: u64) {
        self.settle(reserved, 0);
    }

    /// Records that the ledger has the row of a [settled](Self::settle) request, so that the next reading of the ledger shows its cost.
    pub fn row_stored(&self, cost: u64) {
        let mut state = self.lock();
        state.stored = state.stored.saturating_add(cost).min(state.recent);
    }

    /// The cost of rows that the ledger has since its last reading. Ask for this cost before the ledger is read, and pass it on
    /// with the sums that the reading shows.
    pub fn stored(&self) -> u64 {
        self.lock().stored
    }

    /// Takes over the spend of the budget window that the ledger shows. `stored` is what [`stored`](Self::stored) returned before
    /// the ledger was read. The spend may become less.
    pub fn ledger_shows(&self, sums: LedgerSums, stored: u64) {
        let mut state = self.lock();
        let LedgerSums { own, others, read_at } = sums;
        let read_at = read_at.max(1);
        if state.read_at == 0 || state.others.by_origin != others {
            state.of_others = others.iter().fold(0, |sum: u64, (_, one)| sum.saturating_add(*one));
            state.others = RemoteSpend { read_at, by_origin: others };
        }
        (state.own, state.read_at, state.is_usable) = (own, read_at, true);
        state.recent = state.recent.saturating_sub(stored);
        state.stored = state.stored.saturating_sub(stored);
    }

    /// Takes over the spend of the budget window from the copy in the data folder, until the ledger is read. An earlier process
    /// left the copy: the spend of this data folder and of others, and the highest threshold of which a warning was given.
    pub fn restore(&self, own: u64, others: u64, warned: u64) {
        let mut state = self.lock();
        (state.own, state.of_others, state.is_usable) = (own, others, true);
        state.warned = state.warned.max(warned);
    }

    /// Makes the counter usable with a spend of zero, because its budget window begins now.
    pub(super) fn start_at_zero(&self) {
        self.lock().is_usable = true;
    }

    /// Whether requests may rely on this budget counter: its spend was read from the ledger or a copy, or began at zero.
    pub fn is_usable(&self) -> bool {
        self.lock().is_usable
    }

    /// Whether the ledger was read for this budget counter at least once.
    pub fn is_read(&self) -> bool {
        self.lock().read_at > 0
    }

    /// Sets the size of the budget in nano-units, and the thresholds of `warn_at` in billionths of the budget.
    pub fn set_thresholds(&self, limit: u64, warn_at: &[u64]) {
        let mut state = self.lock();
        (state.limit, state.warn_at) = (limit, warn_at.to_vec());
    }

    /// The highest threshold of the budget of which a warning was given in this window, in billionths of the budget.
    pub fn warned(&self) -> u64 {
        self.lock().warned
    }

    /// Returns the thresholds that the spend of the budget reached since the last call, each with the size of the budget and the spend.
    pub(super) fn take_reached_thresholds(&self) -> Vec<(u64, u64, u64)> {
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

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        assert_eq!(counter.reserve(10, 1, 1), Err(BudgetRefusal::Reserved));
        counter.settle(1000, 9);
        assert_eq!(counter.reserve(10, 1000, 1), Ok(()));
        counter.settle(1000, 1);
        assert_eq!((counter.spent(), counter.reserved()), (10, 0));
        assert_eq!(counter.reserve(10, 0, 1), Err(BudgetRefusal::Spent));
    }

    #[test]
    fn the_ledger_shows_each_row_once() {
        let counter = Counter::default();
        counter.restore(50, 10, 0);
        counter.settle(0, 3);
        assert_eq!(
            (counter.spent(), counter.is_read(), counter.own()),
            (63, false, OwnSpend { total: 53, read_at: 0 })
        );
        counter.row_stored(3);
        counter.settle(0, 4);
        // The second row is stored while the ledger is read. The sums may lack it, so that it stays in the counter.
        let stored = counter.stored();
        counter.row_stored(4);
        counter.ledger_shows(sums(43, 7), stored);
        assert_eq!((counter.spent(), counter.is_read(), counter.own()), (54, true, OwnSpend { total: 47, read_at: 1 }));
        counter.ledger_shows(sums(47, 7), counter.stored());
        assert_eq!((counter.spent(), counter.own().total), (54, 47));
        // A row cost less in the end.
        counter.ledger_shows(sums(20, 7), counter.stored());
        assert_eq!(counter.spent(), 27);
    }

    #[test]
    fn a_replica_spends_its_part_of_the_rest_in_the_ledger() {
        let counter = Counter::default();
        counter.ledger_shows(sums(0, 20), 0);
        let spent = |limit| {
            let spend = || counter.reserve(limit, 1, 2).map(|()| counter.settle(1, 1));
            std::iter::from_fn(|| spend().ok()).count()
        };
        // 80 are left, and 40 of them are the part of this replica. It has spent 10 of its part with Redis.
        counter.reserve_anyway(10);
        counter.settle(10, 10);
        assert_eq!((spent(100), counter.reserve(100, 1, 2)), (30, Err(BudgetRefusal::Reserved)));
        // Others spent 10 more. 30 are left, and 15 of them are the part of this replica.
        counter.row_stored(40);
        counter.ledger_shows(sums(40, 30), counter.stored());
        assert_eq!(spent(100), 15);
        // Until the ledger is read again, nothing is left.
        assert_eq!(counter.reserve(100, 0, 2), Err(BudgetRefusal::Reserved));
        // A smaller budget is spent.
        assert_eq!(counter.reserve(85, 0, 2), Err(BudgetRefusal::Spent));
        // One request at a time is admitted while anything is left of the part.
        assert_eq!((counter.reserve(102, 50, 2), counter.reserve(102, 1, 2)), (Ok(()), Err(BudgetRefusal::Reserved)));
    }

    proptest! {
        /// Replicas that read the same ledger once spend no more than the rest, and the last request of each.
        #[test]
        fn all_parts_are_no_more_than_the_rest(
            (limit, in_ledger, replicas) in (1..2000_u64, 0..2000_u64, 1..6_u32),
            costs in prop::collection::vec((0..6_usize, 1..40_u64), 1..300),
        ) {
            let all: Vec<Counter> = (0..replicas).map(|_| Counter::default()).collect();
            all.iter().for_each(|counter| counter.ledger_shows(sums(0, in_ledger), 0));
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

        /// In any order of requests, the spend exceeds the budget by no more than the cost of the requests that were in progress at once. No
        /// reservation is left in the end.
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
                counter.row_stored(cost / 2);
                prop_assert!(counter.spent() <= MOST && counter.own().total <= MOST);
                counter.ledger_shows(sums(cost / 2, reserved / 2), counter.stored());
                prop_assert!(counter.spent() <= MOST && counter.own().total <= MOST);
            }
        }
    }
}
