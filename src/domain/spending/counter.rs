//! What is spent of one budget in one of its windows, as this process knows it.

use std::{
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::Notify;

use super::super::money::{MOST, UNIT};

/// Of its share of what was left when the ledger was read, one of several spends this part until it knows what others spent since.
const UNSURE: u64 = 10;

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
    /// The same of those of others.
    others: Others,
    of_others: u64,
    /// As of when that is so, as `asked`.
    changed: u64,
    /// When the ledger was asked, in milliseconds since 1970-01-01 UTC; 0 = never.
    asked: u64,
    /// The [`wish`](super::Spending::wish) after which it was asked.
    wish: u64,
    /// What requests of this process did cost, without those whose rows the ledger showed.
    recent: u64,
    /// Of that, what is in the ledger by now.
    stored: u64,
    reserved: u64,
    /// All that requests of this process did cost.
    added: u64,
    /// What was set aside without those who share it, and without knowing what they spent; and in which outage that was last. It
    /// counts until the ledger was read for that one.
    granted: u64,
    granted_in: u64,
    part: Option<Part>,
    /// The budget, in nano-units; 0 = not known.
    limit: u64,
    /// Its thresholds, in billionths of it.
    warn_at: Vec<u64>,
    /// The highest threshold that was told in this window.
    warned: u64,
}

/// Other data folders, and what the ledger says of the rows of each.
pub type Others = Arc<[(Arc<str>, u64)]>;

/// What the ledger says of a budget.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Rows of this data folder.
    pub own: u64,
    /// Rows of others.
    pub others: Others,
    /// When it was asked, in milliseconds since 1970-01-01 UTC.
    pub asked: u64,
    /// The last [`wish`](super::Spending::wish) before it was asked.
    pub wish: u64,
}

/// What this process spent, for those who add it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mine {
    /// In all: also what processes before it with the same data folder did.
    pub total: u64,
    /// When the ledger was asked: a later one replaces an earlier one, even where it is less. 0 = never.
    pub asked: u64,
}

/// How a process counts that cannot ask those who share a budget with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alone {
    /// How many share it.
    pub replicas: u32,
    /// Which time without them it is: also the wish after which the ledger shows what they spent before.
    pub outage: u64,
    /// The ledger had time enough to show it, and did not.
    pub late: bool,
}

/// What one of several may spend while they cannot ask each other.
#[derive(Debug)]
struct Part {
    outage: u64,
    sure: Sure,
    /// What all had spent when it was made.
    known: u64,
    /// What this one had.
    added: u64,
}

/// How well it is known what the others spent before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Sure {
    /// Nobody will know better soon.
    Enough,
    Yes,
}

/// Why nothing is set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Short {
    /// All of it is spent.
    Spent,
    /// What is left is set aside, or not for this one to spend.
    Reserved,
}

impl State {
    fn spent(&self) -> u64 {
        self.own.saturating_add(self.of_others).saturating_add(self.recent).min(MOST)
    }

    /// A first one always fits that finds anything left: a small budget shall not be blocked by a large estimate.
    fn fits(&self, spent: u64, limit: u64, cost: u64) -> bool {
        let after = spent.saturating_add(self.reserved).saturating_add(cost);
        spent < limit && (after <= limit || self.reserved == 0)
    }

    /// Whether it fits where it is not known what others spent. Here no first one has to: it is worth asking again in a moment.
    fn fits_unsure(&self, limit: u64, cost: u64, replicas: u64) -> bool {
        let spent = self.spent();
        let left = limit.saturating_sub(spent).saturating_sub(self.reserved) / replicas / UNSURE;
        self.fits(spent, limit, cost) && self.granted.saturating_add(cost) <= left
    }

    /// Whether it fits into the part of this one. That is made once and stays the same until more is known: one that grew with
    /// what others leave would be given out twice.
    fn fits_part(&mut self, limit: u64, cost: u64, replicas: u64, (outage, sure): (u64, Sure)) -> bool {
        let (known, added) = (self.spent(), self.added);
        let part = self.part.take().filter(|part| part.outage == outage && part.sure >= sure);
        let part = part.unwrap_or(Part { outage, sure, known, added });
        let (share, spent) = (limit.saturating_sub(part.known) / replicas, added.saturating_sub(part.added));
        self.part = Some(part);
        self.fits(spent, share, cost)
    }
}

impl Counter {
    /// What was spent, as far as this process knows; never more than was, but for rows that cost less after all.
    pub fn spent(&self) -> u64 {
        self.lock().spent()
    }

    /// What this process spent.
    pub fn mine(&self) -> Mine {
        let state = self.lock();
        Mine { total: state.own.saturating_add(state.recent).min(MOST), asked: state.asked }
    }

    /// What others spent, as the ledger says, and as of when it says so: 0 = it was not asked yet.
    pub fn others(&self) -> (u64, Others) {
        let state = self.lock();
        (state.changed, Arc::clone(&state.others))
    }

    /// What is set aside for requests under way.
    pub fn reserved(&self) -> u64 {
        self.lock().reserved
    }

    /// Sets `cost` aside, where it fits below `limit`. A first one always fits that finds anything left.
    ///
    /// # Errors
    /// When it does not fit.
    pub fn reserve(&self, limit: u64, cost: u64) -> Result<(), Short> {
        let mut state = self.lock();
        let spent = state.spent();
        if !state.fits(spent, limit, cost) {
            return Err(if spent < limit { Short::Reserved } else { Short::Spent });
        }
        state.reserved = state.reserved.saturating_add(cost);
        Ok(())
    }

    /// The same without those who share it: of what was left, this one's part.
    ///
    /// # Errors
    /// When it does not fit.
    pub fn reserve_alone(&self, limit: u64, cost: u64, alone: Alone) -> Result<(), Short> {
        let mut state = self.lock();
        if state.spent() >= limit {
            return Err(Short::Spent);
        }
        let Alone { replicas, outage, late } = alone;
        let replicas = u64::from(replicas.max(1));
        let fits = if state.wish >= outage {
            state.fits_part(limit, cost, replicas, (outage, Sure::Yes))
        } else if late {
            state.fits_part(limit, cost, replicas, (outage, Sure::Enough))
        } else {
            let fits = state.fits_unsure(limit, cost, replicas);
            if fits {
                (state.granted, state.granted_in) = (state.granted.saturating_add(cost), outage);
            }
            fits
        };
        if !fits {
            return Err(Short::Reserved);
        }
        state.reserved = state.reserved.saturating_add(cost);
        Ok(())
    }

    /// Sets `cost` aside, whether it fits or not: somebody else has looked.
    pub fn hold(&self, cost: u64) {
        let mut state = self.lock();
        state.reserved = state.reserved.saturating_add(cost);
    }

    /// Gives back what was set aside, and adds what it really cost.
    pub fn settle(&self, reserved: u64, cost: u64) {
        let mut state = self.lock();
        state.reserved = state.reserved.saturating_sub(reserved);
        state.recent = state.recent.saturating_add(cost).min(MOST);
        state.added = state.added.saturating_add(cost);
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

    /// The ledger was asked, and says this, with what was [`stored`](Self::stored) before. It may be less than before.
    pub fn is_told(&self, sums: Sums, stored: u64) {
        let mut state = self.lock();
        let Sums { own, others, asked, wish } = sums;
        let asked = asked.max(1);
        if state.asked == 0 || state.others != others {
            state.changed = asked;
        }
        state.of_others = others.iter().fold(0, |sum: u64, (_, one)| sum.saturating_add(*one));
        (state.own, state.others, state.asked, state.wish) = (own, others, asked, wish);
        state.recent = state.recent.saturating_sub(stored);
        state.stored = state.stored.saturating_sub(stored);
        if wish >= state.granted_in {
            state.granted = 0;
        }
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
        self.lock().asked > 0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sums(own: u64, others: u64, wish: u64) -> Sums {
        Sums { own, others: [("other".into(), others)].into(), asked: 1, wish }
    }

    #[test]
    fn a_small_budget_is_not_blocked_by_a_large_estimate() {
        let counter = Counter::default();
        assert_eq!(counter.reserve(10, 1000), Ok(()));
        assert_eq!(counter.reserve(10, 1), Err(Short::Reserved));
        counter.settle(1000, 9);
        assert_eq!(counter.reserve(10, 1000), Ok(()));
        counter.settle(1000, 1);
        assert_eq!((counter.spent(), counter.reserved()), (10, 0));
        assert_eq!(counter.reserve(10, 0), Err(Short::Spent));
    }

    #[test]
    fn what_the_ledger_shows_is_counted_once() {
        let counter = Counter::default();
        counter.believe(50, 10);
        counter.settle(0, 3);
        assert_eq!((counter.spent(), counter.known(), counter.mine()), (63, false, Mine { total: 53, asked: 0 }));
        counter.is_stored(3);
        counter.settle(0, 4);
        // The row of the second is stored while the ledger is asked: whether it is in the sum nobody knows, and it is not lost.
        let stored = counter.stored();
        counter.is_stored(4);
        counter.is_told(sums(43, 7, 0), stored);
        assert_eq!((counter.spent(), counter.known(), counter.mine()), (54, true, Mine { total: 47, asked: 1 }));
        counter.is_told(sums(47, 7, 0), counter.stored());
        assert_eq!((counter.spent(), counter.mine().total), (54, 47));
        // A row cost less after all.
        counter.is_told(sums(20, 7, 0), counter.stored());
        assert_eq!(counter.spent(), 27);
    }

    #[test]
    fn alone_it_has_a_part_that_does_not_grow_and_a_tenth_of_it_until_the_ledger_is_read() {
        let counter = Counter::default();
        counter.is_told(sums(0, 20, 0), 0);
        let alone = Alone { replicas: 2, outage: 1, late: false };
        let spend = |limit, alone| counter.reserve_alone(limit, 1, alone).map(|()| counter.settle(1, 1));
        // 80 are left, of which 40 are for this one: a tenth of it at first.
        let spent = |limit, alone| std::iter::from_fn(|| spend(limit, alone).ok()).count();
        assert_eq!(spent(100, alone), 3);
        assert_eq!(spend(100, alone), Err(Short::Reserved));
        // Neither when the ledger is read too early nor the next time does it begin anew.
        counter.is_told(sums(0, 21, 0), counter.stored());
        assert_eq!(spend(100, alone), Err(Short::Reserved));
        assert_eq!(spend(100, Alone { outage: 2, ..alone }), Err(Short::Reserved));
        // Others spent 30 more before: 47 are left.
        counter.is_stored(3);
        counter.is_told(sums(3, 50, 1), counter.stored());
        assert_eq!(spent(100, alone), 23);
        // However much the ledger shows now.
        counter.is_stored(23);
        counter.is_told(sums(26, 50, 1), counter.stored());
        assert_eq!(spend(100, alone), Err(Short::Reserved));
        // Whatever it is, what is known to be spent is.
        assert_eq!(spend(76, alone), Err(Short::Spent));
        let late = Alone { outage: 2, late: true, ..alone };
        assert_eq!(spent(100, Alone { late: false, ..late }), 1);
        assert_eq!(spent(100, late), 11);
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
                if counter.reserve(limit, estimate).is_ok() {
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
                let alone = Alone { replicas: 3, outage: cost % 3, late: cost % 2 == 0 };
                let _ = (counter.reserve(limit, reserved), counter.reserve_alone(limit, reserved, alone));
                counter.settle(reserved, cost);
                counter.is_stored(cost / 2);
                prop_assert!(counter.spent() <= MOST && counter.mine().total <= MOST);
                counter.is_told(sums(cost / 2, reserved / 2, cost % 3), counter.stored());
                prop_assert!(counter.spent() <= MOST && counter.mine().total <= MOST);
            }
        }
    }
}
