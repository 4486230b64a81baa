//! How the ledger stands: brought up to date when the metrics are read.

use std::sync::atomic::Ordering;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use crate::domain::ledger::{LedgerStatus, PollOutcome, UsageState};

/// `state`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

/// `fault` (`journal`, `journal_full`, `journal_sync`, `database`, `rows`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FaultLabels {
    fault: &'static str,
}

/// `result` (`over`, `under_way`, `gone`, `failed`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PollLabels {
    result: &'static str,
}

#[derive(Debug)]
pub(super) struct LedgerCollector {
    /// Rows that this process wrote to the database.
    rows: Family<StateLabels, Counter>,
    /// Rows that the database took in no form.
    aside: Counter,
    /// Rows of responses in the background that are not over.
    pending: Gauge,
    /// Calls that were made for them.
    polls: Family<PollLabels, Counter>,
    /// Thresholds that budgets reached.
    warnings: Counter,
    /// Requests that are over and not in the database yet.
    waiting: Gauge,
    /// What the journal holds.
    journal: Gauge,
    /// 1 = it does not work: with `journal` and `journal_full`, requests are refused.
    faults: Family<FaultLabels, Gauge>,
}

impl LedgerCollector {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let (rows, faults) = (Family::<StateLabels, Counter>::default(), Family::<FaultLabels, Gauge>::default());
        let (aside, waiting, journal) = (Counter::default(), Gauge::default(), Gauge::default());
        let (pending, polls) = (Gauge::default(), Family::<PollLabels, Counter>::default());
        registry.register("ledger_pending", "Responses in the background that this process asks for", pending.clone());
        registry.register("ledger_polls", "Calls made for responses in the background", polls.clone());
        let warnings = Counter::default();
        registry.register("budget_warnings", "Thresholds of warn_at that budgets reached", warnings.clone());
        registry.register("ledger_rows", "Rows of the ledger written to the database", rows.clone());
        registry.register("ledger_rows_put_aside", "Rows that the database took in no form", aside.clone());
        registry.register("ledger_waiting", "Requests that are over and not in the database yet", waiting.clone());
        registry.register_with_unit("ledger_journal", "Size of the ledger's journal", Unit::Bytes, journal.clone());
        registry.register("ledger_fault", "1 = a part of the ledger does not work", faults.clone());
        Self { rows, aside, pending, polls, warnings, waiting, journal, faults }
    }

    pub(super) fn show(&self, condition: &LedgerStatus) {
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let rows = UsageState::ALL.iter().zip(&condition.rows);
        // Those that are open are not rows for anybody yet.
        for (state, count) in rows.filter(|(state, _)| **state != UsageState::Open) {
            let shown = self.rows.get_or_create(&StateLabels { state: state.name() });
            shown.inner().store(count.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        self.aside.inner().store(condition.put_aside.load(Ordering::Relaxed), Ordering::Relaxed);
        self.pending.set(gauge(condition.pending.load(Ordering::Relaxed)));
        for (polled, count) in PollOutcome::ALL.iter().zip(&condition.polls) {
            let shown = self.polls.get_or_create(&PollLabels { result: polled.name() });
            shown.inner().store(count.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        self.warnings.inner().store(condition.budget_warnings.load(Ordering::Relaxed), Ordering::Relaxed);
        self.waiting.set(gauge(condition.waiting()));
        self.journal.set(gauge(condition.journal_bytes.load(Ordering::Relaxed)));
        for (fault, fails) in condition.faults() {
            self.faults.get_or_create(&FaultLabels { fault }).set(i64::from(fails));
        }
    }
}
