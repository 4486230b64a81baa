//! Metrics of the affinity memory, updated from its status when Prometheus reads them.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::concurrent::affinity_status::AffinityStatus;

/// `result` (`own`, `foreign`, `unknown`, `cannot_tell`; for waits: `known`, `timed_out`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

/// `fault` (`read`, `write`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FaultLabels {
    fault: &'static str,
}

#[derive(Debug)]
pub(super) struct AffinityCollector {
    entries: Gauge,
    waiting: Gauge,
    learned: Counter,
    foreign: Counter,
    skipped: Counter,
    store_lookups: Counter,
    dropped: Counter,
    lookups: Family<ResultLabels, Counter>,
    waits: Family<ResultLabels, Counter>,
    faults: Family<FaultLabels, Gauge>,
}

impl AffinityCollector {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let gauge = |registry: &mut Registry, name: &str, help: &str| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let counter = |registry: &mut Registry, name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let (lookups, faults) = (Family::<ResultLabels, Counter>::default(), Family::<FaultLabels, Gauge>::default());
        let waits = Family::<ResultLabels, Counter>::default();
        let help = "Parts of answers held back until other replicas could know the ids in them";
        registry.register("affinity_waits", help, waits.clone());
        registry.register("affinity_lookups", "Ids that requests named, by the result of the lookup", lookups.clone());
        registry.register(
            "affinity_fault",
            "1 = reads or writes of the affinity store fail or are slow",
            faults.clone(),
        );
        Self {
            entries: gauge(registry, "affinity_entries", "Ids in memory"),
            waiting: gauge(registry, "affinity_waiting", "Ids that wait to be written to the store"),
            learned: counter(registry, "affinity_learned", "Ids that were new in answers"),
            foreign: counter(registry, "affinity_foreign", "Ids in answers that another owner already had"),
            skipped: counter(registry, "affinity_skipped", "Ids not learned because one answer had over 4,096"),
            store_lookups: counter(registry, "affinity_store_lookups", "Ids looked up in the store"),
            dropped: counter(registry, "affinity_dropped", "Ids in memory only, because too many waited for the store"),
            lookups,
            waits,
            faults,
        }
    }

    pub(super) fn update(&self, status: &AffinityStatus) {
        let number = |number: &AtomicU64| number.load(Ordering::Relaxed);
        for (gauge, value) in [(&self.entries, &status.entries), (&self.waiting, &status.waiting)] {
            gauge.set(i64::try_from(number(value)).unwrap_or(i64::MAX));
        }
        for (counter, value) in [
            (&self.learned, &status.learned),
            (&self.foreign, &status.foreign),
            (&self.skipped, &status.skipped),
            (&self.store_lookups, &status.store_lookups),
            (&self.dropped, &status.dropped),
        ] {
            counter.inner().store(number(value), Ordering::Relaxed);
        }
        for (result, count) in status.lookups() {
            let counter = self.lookups.get_or_create(&ResultLabels { result: result.name() });
            counter.inner().store(count, Ordering::Relaxed);
        }
        for (result, count) in status.waits() {
            self.waits.get_or_create(&ResultLabels { result }).inner().store(count, Ordering::Relaxed);
        }
        for (fault, fails) in status.faults() {
            self.faults.get_or_create(&FaultLabels { fault }).set(i64::from(fails));
        }
    }
}
