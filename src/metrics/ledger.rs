//! Metrics of the ledger, updated from its status when Prometheus reads them.

use std::sync::atomic::Ordering;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use crate::{
    concurrent::ledger_status::LedgerStatus,
    domain::ledger::{PollOutcome, UsageState},
};

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
    /// Quarantined rows: the database refused them in full and in reduced form.
    quarantined: Counter,
    /// Pending background responses that this process polls.
    pending: Gauge,
    /// Polls of background responses, by result.
    polls: Family<PollLabels, Counter>,
    /// How often a budget reached one of its warning thresholds.
    warnings: Counter,
    /// Finished requests whose rows are not in the database yet.
    waiting: Gauge,
    /// Size of the journal, in bytes.
    journal: Gauge,
    /// 1 = the fault is present. With `journal` and `journal_full`, Tidegate refuses requests.
    faults: Family<FaultLabels, Gauge>,
}

impl LedgerCollector {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let (rows, faults) = (Family::<StateLabels, Counter>::default(), Family::<FaultLabels, Gauge>::default());
        let (quarantined, waiting, journal) = (Counter::default(), Gauge::default(), Gauge::default());
        let (pending, polls) = (Gauge::default(), Family::<PollLabels, Counter>::default());
        registry.register("ledger_pending", "Pending background responses that this process polls", pending.clone());
        registry.register("ledger_polls", "Polls of background responses", polls.clone());
        let warnings = Counter::default();
        registry.register("budget_warnings", "How often a budget reached a threshold of warn_at", warnings.clone());
        registry.register("ledger_rows", "Ledger rows written to the database", rows.clone());
        registry.register("ledger_rows_quarantined", "Ledger rows that the database refused", quarantined.clone());
        registry.register(
            "ledger_waiting",
            "Finished requests whose rows are not in the database yet",
            waiting.clone(),
        );
        registry.register_with_unit("ledger_journal", "Size of the journal", Unit::Bytes, journal.clone());
        registry.register("ledger_fault", "1 = this fault of the ledger is present", faults.clone());
        Self { rows, quarantined, pending, polls, warnings, waiting, journal, faults }
    }

    pub(super) fn update(&self, status: &LedgerStatus) {
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let rows = UsageState::ALL.iter().zip(&status.rows);
        // Open rows are not counted: each of them is replaced later.
        for (state, count) in rows.filter(|(state, _)| **state != UsageState::Open) {
            let counter = self.rows.get_or_create(&StateLabels { state: state.name() });
            counter.inner().store(count.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        self.quarantined.inner().store(status.quarantined_rows.load(Ordering::Relaxed), Ordering::Relaxed);
        self.pending.set(gauge(status.pending.load(Ordering::Relaxed)));
        for (result, count) in PollOutcome::ALL.iter().zip(&status.polls) {
            let counter = self.polls.get_or_create(&PollLabels { result: result.name() });
            counter.inner().store(count.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        self.warnings.inner().store(status.budget_warnings.load(Ordering::Relaxed), Ordering::Relaxed);
        self.waiting.set(gauge(status.waiting()));
        self.journal.set(gauge(status.journal_bytes.load(Ordering::Relaxed)));
        for (fault, fails) in status.faults() {
            self.faults.get_or_create(&FaultLabels { fault }).set(i64::from(fails));
        }
    }
}
