//! The spend of keys and groups: counters of budgets, which follow the rows of the ledger.

mod counter;
mod windows;

use std::{
    collections::HashMap,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

use tokio::{sync::Notify, time::timeout};

pub use counter::{BudgetRefusal, Counter, LedgerSums};
pub use windows::Windows;

use crate::domain::{
    money::Exchange,
    spending::{BudgetKey, Span, ThresholdReached},
};

/// The counters of all budgets of keys and groups. All workers share them, and a reload keeps them.
#[derive(Debug, Default)]
pub struct Spending {
    counters: Mutex<HashMap<BudgetKey, Arc<Counter>>>,
    exchange: Mutex<Exchange>,
    /// The latest end of a window whose counter was dropped, in milliseconds since 1970-01-01 UTC; 0 = none was.
    dropped: AtomicU64,
    /// Whether the last attempt to read the ledger succeeded.
    ledger: AtomicBool,
    /// Wakes requests and threads that wait for the ledger to be read.
    ledger_read: (Notify, Condvar),
    reached_thresholds: Mutex<Vec<mpsc::Sender<ThresholdReached>>>,
}

/// A counter is kept for a day after its window, in milliseconds: for requests that began in the window.
const KEPT: u64 = 86_400_000;

/// A request waits no longer than this for the ledger, which is read every 200 ms while a counter is not usable.
const READ_WITHIN: Duration = Duration::from_secs(1);

impl Spending {
    /// Returns the counter of a budget window, and makes a new counter if there is none. `since` = when this process began to use
    /// the budget, in milliseconds since 1970-01-01 UTC.
    pub fn counter(&self, budget: BudgetKey, since: u64) -> Arc<Counter> {
        let mut counters = self.lock();
        let Span { from, to } = budget.span;
        Arc::clone(counters.entry(budget).or_insert_with(|| {
            let counter = Counter::default();
            // The window began later, so that this process has counted all of its spend in it, and no counter of it was dropped.
            if since < from && to > self.dropped.load(Ordering::Acquire) {
                counter.start_at_zero();
            }
            Arc::new(counter)
        }))
    }

    /// Waits up to a second until the counter of a budget is usable. Returns whether requests may rely on the counter. Without
    /// the ledger they rely on the known spend, and nobody waits.
    pub async fn is_usable(&self, counter: &Counter) -> bool {
        let is_usable = || counter.is_usable() || !self.ledger.load(Ordering::Acquire);
        let wait = async {
            loop {
                let read = self.ledger_read.0.notified();
                if is_usable() {
                    return;
                }
                read.await;
            }
        };
        is_usable() || timeout(READ_WITHIN, wait).await.is_ok()
    }

    /// Blocks until the ledger was read for all of these budget counters, or `within` is over. Returns whether the ledger was read.
    pub fn wait_until_read(&self, counters: &[(BudgetKey, Arc<Counter>)], within: Duration) -> bool {
        let is_read = || counters.iter().all(|(_, counter)| counter.is_read());
        let waited = self.ledger_read.1.wait_timeout_while(self.lock(), within, |_| !is_read());
        drop(waited);
        is_read()
    }

    /// Records whether the last reading of the ledger for the budgets succeeded, and wakes everybody who waits for it.
    pub fn set_ledger_readable(&self, is_readable: bool) {
        self.ledger.store(is_readable, Ordering::Release);
        self.ledger_read.0.notify_waiters();
        // A thread that checks its counters holds the lock: it cannot miss this.
        drop(self.lock());
        self.ledger_read.1.notify_all();
    }

    /// Returns the counters of all budgets, and drops counters of windows that ended more than a day before `now`.
    pub fn current(&self, now: u64) -> Vec<(BudgetKey, Arc<Counter>)> {
        // Without the ledger the counter is the only knowledge of its window, and the clock may have been wrong.
        if self.ledger.load(Ordering::Acquire) {
            self.lock().retain(|budget, _| {
                let is_over = budget.span.to.saturating_add(KEPT) <= now;
                if is_over {
                    self.dropped.fetch_max(budget.span.to, Ordering::AcqRel);
                }
                !is_over
            });
        }
        self.all()
    }

    /// Returns a channel that receives every budget whose spend reaches a warning threshold, once for each window and threshold.
    pub fn subscribe(&self) -> mpsc::Receiver<ThresholdReached> {
        let (sender, receiver) = mpsc::channel();
        self.reached_thresholds.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        receiver
    }

    /// Returns the budgets whose spend reached a warning threshold since the last call. [Subscribers](Self::subscribe) receive them too.
    pub fn take_reached_thresholds(&self) -> Vec<ThresholdReached> {
        let mut all = Vec::new();
        for (budget, counter) in self.all() {
            let of_it = counter.take_reached_thresholds().into_iter();
            all.extend(of_it.map(|(threshold, limit, spent)| ThresholdReached {
                budget: budget.clone(),
                threshold,
                limit,
                spent,
            }));
        }
        if !all.is_empty() {
            let mut listeners = self.reached_thresholds.lock().unwrap_or_else(PoisonError::into_inner);
            listeners.retain(|listener| all.iter().all(|reached| listener.send(reached.clone()).is_ok()));
        }
        all
    }

    /// Returns the counters of all budgets, also of windows that are over.
    pub fn all(&self) -> Vec<(BudgetKey, Arc<Counter>)> {
        self.lock().iter().map(|(budget, counter)| (budget.clone(), Arc::clone(counter))).collect()
    }

    /// Sets the exchange rate by which spend is counted in a budget of the other currency.
    pub fn set_exchange(&self, exchange: Exchange) {
        *self.exchange.lock().unwrap_or_else(PoisonError::into_inner) = exchange;
    }

    /// The exchange rate by which spend is counted in a budget of the other currency.
    pub fn exchange(&self) -> Exchange {
        *self.exchange.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<BudgetKey, Arc<Counter>>> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{
        money::{Currency, UNIT, Window},
        spending::Spender,
    };

    const DAY: u64 = 86_400_000;

    fn budget(day: u64) -> BudgetKey {
        let span = Span { from: day * DAY, to: (day + 1) * DAY };
        let (name, model) = ("team".into(), None);
        BudgetKey { spender: Spender::Key, name, model, currency: Currency::Cny, window: Window::Day, span }
    }

    fn sums(own: u64) -> LedgerSums {
        LedgerSums { own, read_at: 1, ..LedgerSums::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_counter_is_read_from_the_ledger_before_requests_rely_on_it() {
        let spending = Spending::default();
        // The window begins while the process has the budget.
        let since = 90 * DAY;
        let today = spending.counter(budget(100), since);
        assert!(today.is_usable(), "nothing is spent in it yet");
        today.ledger_shows(sums(40), 0);
        spending.set_ledger_readable(true);
        // The clock is set ahead.
        let then = spending.counter(budget(129), since);
        assert!(then.is_usable() && spending.is_usable(&then).await);
        assert_eq!(spending.current(129 * DAY + 10).len(), 1, "today's counter is dropped");
        // The clock is set back.
        let again = spending.counter(budget(100), since);
        assert!(!again.is_usable(), "{again:?}");
        let (read, ()) = tokio::join!(spending.is_usable(&again), async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            again.ledger_shows(sums(40), 0);
            spending.set_ledger_readable(true);
        });
        assert!(read && again.is_usable());
        assert_eq!((again.spent(), again.reserve(40, 1, 1)), (40, Err(BudgetRefusal::Spent)));
        // A budget that came in the middle of its window: requests wait for a second. Without the ledger nobody waits, and no counter is
        // dropped.
        let slow = spending.counter(budget(110), 110 * DAY + 5);
        let began = tokio::time::Instant::now();
        assert!(!spending.is_usable(&slow).await && began.elapsed() == READ_WITHIN);
        spending.set_ledger_readable(false);
        assert!(spending.is_usable(&slow).await);
        assert_eq!(spending.current(200 * DAY).len(), 3);
    }

    #[test]
    fn a_window_has_one_warning_for_each_threshold() {
        let spending = Spending::default();
        let heard = spending.subscribe();
        drop(spending.subscribe());
        let counter = spending.counter(budget(1), 0);
        counter.set_thresholds(100, &[UNIT / 10 * 8, UNIT, UNIT / 2]);
        let percents = |spent: u64| {
            counter.settle(0, spent);
            let reached = spending.take_reached_thresholds();
            reached.iter().map(|reached| (reached.threshold / (UNIT / 100), reached.spent)).collect::<Vec<_>>()
        };
        assert_eq!(percents(49), []);
        assert_eq!(percents(1), [(50, 50)]);
        assert_eq!(percents(29), []);
        assert_eq!(percents(30), [(80, 109), (100, 109)]);
        assert_eq!(percents(500), []);
        assert_eq!(
            heard.try_iter().map(|reached| reached.threshold).collect::<Vec<_>>(),
            [UNIT / 2, UNIT / 10 * 8, UNIT]
        );
        // The next window, of which an earlier process has given a warning.
        let next = spending.counter(budget(2), 0);
        next.set_thresholds(100, &[UNIT / 10 * 8, UNIT]);
        next.restore(0, 0, UNIT / 10 * 8);
        next.settle(0, 100);
        assert_eq!(spending.take_reached_thresholds().len(), 1);
        assert_eq!(next.warned(), UNIT);
        // The budget grew, and shrank again.
        next.set_thresholds(1000, &[UNIT / 10 * 8, UNIT]);
        next.set_thresholds(10, &[UNIT / 10 * 8, UNIT]);
        assert_eq!(spending.take_reached_thresholds(), []);
    }

    proptest! {
        /// Whatever the steps of the spend are: a threshold is reported when it is reached, never before, and once.
        #[test]
        fn thresholds_are_reported_exactly_once(limit in 1..10_000_u64, parts in prop::collection::vec(1..=UNIT, 0..5), steps in prop::collection::vec(0..5_000_u64, 1..20)) {
            let spending = Spending::default();
            let counter = spending.counter(budget(1), 0);
            counter.set_thresholds(limit, &parts);
            let (mut reported, mut spent) = (Vec::new(), 0);
            for step in steps {
                counter.settle(0, step);
                spent += step;
                for reached in spending.take_reached_thresholds() {
                    prop_assert!(u128::from(reached.spent) * u128::from(UNIT) >= u128::from(reached.threshold) * u128::from(limit));
                    reported.push(reached.threshold);
                }
                let mut due: Vec<u64> =
                    parts.iter().copied().filter(|part| u128::from(spent) * u128::from(UNIT) >= u128::from(*part) * u128::from(limit)).collect();
                due.sort_unstable();
                prop_assert_eq!(&due, &reported);
            }
        }
    }
}
