//! What keys and groups have spent of their budgets: counters over the ledger's rows, which alone are the truth.

mod counter;
mod windows;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

use tokio::time::timeout;

pub use counter::{Counter, LedgerSums, Short};
pub use windows::Windows;

use crate::domain::{
    money::Exchange,
    spending::{BudgetKey, Crossed, Span},
};

/// All counters of a process. One for all workers, and they live through reloads.
#[derive(Debug, Default)]
pub struct Spending {
    counters: Mutex<HashMap<BudgetKey, Arc<Counter>>>,
    exchange: Mutex<Exchange>,
    /// The latest end of a window whose counter was dropped, in milliseconds since 1970-01-01 UTC; 0 = none was.
    dropped: AtomicU64,
    /// Whether the ledger can be read: it was when that was tried last.
    ledger: AtomicBool,
    crossings: Mutex<Vec<mpsc::Sender<Crossed>>>,
}

/// A counter of a window that is over is kept for requests that began in it, this much longer.
const KEPT: u64 = 86_400_000;

/// A request waits no longer than this for the ledger to be read, which happens every 200 ms where something is not known.
const READ_WITHIN: Duration = Duration::from_secs(1);

impl Spending {
    /// The counter of a budget, made where it is missing. `since` = from when on this process counts by the budget, in
    /// milliseconds since 1970-01-01 UTC.
    pub fn counter(&self, budget: BudgetKey, since: u64) -> Arc<Counter> {
        let mut counters = self.lock();
        let Span { from, to } = budget.span;
        Arc::clone(counters.entry(budget).or_insert_with(|| {
            let counter = Counter::default();
            // What this process spends in a window that began later goes through this counter, and it is the first one.
            if since < from && to > self.dropped.load(Ordering::Acquire) {
                counter.begin_at_nothing();
            }
            Arc::new(counter)
        }))
    }

    /// Waits until the counter holds what the ledger says; whether it does. Nobody waits where the ledger cannot be read: then what is
    /// known counts, as it does after a start without the database.
    pub async fn is_read(&self, counter: &Counter) -> bool {
        counter.counts()
            || !self.ledger.load(Ordering::Acquire)
            || timeout(READ_WITHIN, counter.until_it_counts()).await.is_ok()
            || !self.ledger.load(Ordering::Acquire)
    }

    /// Whether the ledger could be read when that was tried last.
    pub fn ledger_answers(&self, answers: bool) {
        self.ledger.store(answers, Ordering::Release);
    }

    /// All counters. Those of windows that are long over at `now` are dropped.
    pub fn current(&self, now: u64) -> Vec<(BudgetKey, Arc<Counter>)> {
        // Where the ledger cannot be read, a counter is all that is known of its window: the clock may have been wrong.
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

    /// Every budget that reaches a threshold from now on is sent here, once for each window and threshold.
    pub fn subscribe(&self) -> mpsc::Receiver<Crossed> {
        let (sender, receiver) = mpsc::channel();
        self.crossings.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        receiver
    }

    /// The budgets that have reached a threshold since this was asked last. They are sent to who [subscribed](Self::subscribe).
    pub fn crossed(&self) -> Vec<Crossed> {
        let mut all = Vec::new();
        for (budget, counter) in self.all() {
            let of_it = counter.crossed().into_iter();
            all.extend(of_it.map(|(threshold, limit, spent)| Crossed {
                budget: budget.clone(),
                threshold,
                limit,
                spent,
            }));
        }
        if !all.is_empty() {
            let mut listeners = self.crossings.lock().unwrap_or_else(PoisonError::into_inner);
            // One that is gone hears nothing any more.
            listeners.retain(|listener| all.iter().all(|crossed| listener.send(crossed.clone()).is_ok()));
        }
        all
    }

    /// All counters.
    pub fn all(&self) -> Vec<(BudgetKey, Arc<Counter>)> {
        self.lock().iter().map(|(budget, counter)| (budget.clone(), Arc::clone(counter))).collect()
    }

    /// How currencies are exchanged from now on.
    pub fn exchange_by(&self, exchange: Exchange) {
        *self.exchange.lock().unwrap_or_else(PoisonError::into_inner) = exchange;
    }

    /// How currencies are exchanged.
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
    async fn a_counter_that_was_dropped_is_read_from_the_ledger_before_it_counts() {
        let spending = Spending::default();
        // The budget was there when the window began.
        let since = 90 * DAY;
        let today = spending.counter(budget(100), since);
        assert!(today.counts(), "nothing was spent in it yet");
        today.is_told(sums(40), 0);
        spending.ledger_answers(true);
        // The clock is set ahead.
        let then = spending.counter(budget(129), since);
        assert!(then.counts() && spending.is_read(&then).await);
        assert_eq!(spending.current(129 * DAY + 10).len(), 1, "today's counter is dropped");
        // The clock is set back.
        let again = spending.counter(budget(100), since);
        assert!(!again.counts(), "{again:?}");
        let (read, ()) = tokio::join!(spending.is_read(&again), async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            again.is_told(sums(40), 0);
        });
        assert!(read && again.counts());
        assert_eq!((again.spent(), again.reserve(40, 1, 1)), (40, Err(Short::Spent)));
        // A ledger that does not say it in time refuses; without a ledger what is known counts, and nothing is dropped.
        // One of a budget that came in the middle of its window.
        let slow = spending.counter(budget(110), 110 * DAY + 5);
        let began = tokio::time::Instant::now();
        assert!(!spending.is_read(&slow).await && began.elapsed() == READ_WITHIN);
        spending.ledger_answers(false);
        assert!(spending.is_read(&slow).await);
        assert_eq!(spending.current(200 * DAY).len(), 3);
    }

    #[test]
    fn each_threshold_is_told_once_in_a_window() {
        let spending = Spending::default();
        let heard = spending.subscribe();
        drop(spending.subscribe());
        let counter = spending.counter(budget(1), 0);
        counter.watch(100, &[UNIT / 10 * 8, UNIT, UNIT / 2]);
        let percents = |spent: u64| {
            counter.settle(0, spent);
            let crossed = spending.crossed();
            crossed.iter().map(|crossed| (crossed.threshold / (UNIT / 100), crossed.spent)).collect::<Vec<_>>()
        };
        assert_eq!(percents(49), []);
        assert_eq!(percents(1), [(50, 50)]);
        assert_eq!(percents(29), []);
        assert_eq!(percents(30), [(80, 109), (100, 109)]);
        assert_eq!(percents(500), []);
        assert_eq!(
            heard.try_iter().map(|crossed| crossed.threshold).collect::<Vec<_>>(),
            [UNIT / 2, UNIT / 10 * 8, UNIT]
        );
        // Another window, and one whose warnings a process before this one told.
        let next = spending.counter(budget(2), 0);
        next.watch(100, &[UNIT / 10 * 8, UNIT]);
        next.was_warned(UNIT / 10 * 8);
        next.settle(0, 100);
        assert_eq!(spending.crossed().len(), 1);
        assert_eq!(next.warned(), UNIT);
        // The budget grew, and shrank again.
        next.watch(1000, &[UNIT / 10 * 8, UNIT]);
        next.watch(10, &[UNIT / 10 * 8, UNIT]);
        assert_eq!(spending.crossed(), []);
    }

    proptest! {
        /// Whatever is spent in which steps: a threshold is told when it is reached, never before, and once.
        #[test]
        fn thresholds_are_told_exactly_once(limit in 1..10_000_u64, parts in prop::collection::vec(1..=UNIT, 0..5), steps in prop::collection::vec(0..5_000_u64, 1..20)) {
            let spending = Spending::default();
            let counter = spending.counter(budget(1), 0);
            counter.watch(limit, &parts);
            let (mut told, mut spent) = (Vec::new(), 0);
            for step in steps {
                counter.settle(0, step);
                spent += step;
                for crossed in spending.crossed() {
                    prop_assert!(u128::from(crossed.spent) * u128::from(UNIT) >= u128::from(crossed.threshold) * u128::from(limit));
                    told.push(crossed.threshold);
                }
                let mut due: Vec<u64> =
                    parts.iter().copied().filter(|part| u128::from(spent) * u128::from(UNIT) >= u128::from(*part) * u128::from(limit)).collect();
                due.sort_unstable();
                prop_assert_eq!(&due, &told);
            }
        }
    }
}
