//! How the memory of origins stands: brought up to date when the metrics are read.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::domain::affinity::AffinityStatus;

/// `result` (`own`, `foreign`, `unknown`, `cannot_tell`; of waits: `known`, `in_vain`).
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
    taken: Counter,
    overlooked: Counter,
    asked: Counter,
    dropped: Counter,
    recalled: Family<ResultLabels, Counter>,
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
        let (recalled, faults) = (Family::<ResultLabels, Counter>::default(), Family::<FaultLabels, Gauge>::default());
        let waits = Family::<ResultLabels, Counter>::default();
        let help = "Pieces of answers that were held back until other replicas could know the ids in them";
        registry.register("affinity_waits", help, waits.clone());
        registry.register("affinity_recalled", "Ids that requests named, by what is known of them", recalled.clone());
        registry.register("affinity_fault", "1 = the store of ids cannot be used in time", faults.clone());
        Self {
            entries: gauge(registry, "affinity_entries", "Ids in memory"),
            waiting: gauge(registry, "affinity_waiting", "Ids that wait to be written to the store"),
            learned: counter(registry, "affinity_learned", "Ids that were new in answers"),
            taken: counter(registry, "affinity_taken", "Ids in answers that were somebody else's already"),
            overlooked: counter(
                registry,
                "affinity_overlooked",
                "Ids that were not learned, as one answer had over 4,096",
            ),
            asked: counter(registry, "affinity_asked", "Ids that the store was asked for"),
            dropped: counter(registry, "affinity_dropped", "Ids that are in memory only, as too many waited"),
            recalled,
            waits,
            faults,
        }
    }

    pub(super) fn show(&self, condition: &AffinityStatus) {
        let number = |number: &AtomicU64| number.load(Ordering::Relaxed);
        for (gauge, value) in [(&self.entries, &condition.entries), (&self.waiting, &condition.waiting)] {
            gauge.set(i64::try_from(number(value)).unwrap_or(i64::MAX));
        }
        for (counter, value) in [
            (&self.learned, &condition.learned),
            (&self.taken, &condition.taken),
            (&self.overlooked, &condition.overlooked),
            (&self.asked, &condition.asked),
            (&self.dropped, &condition.dropped),
        ] {
            counter.inner().store(number(value), Ordering::Relaxed);
        }
        for (found, count) in condition.recalled() {
            let shown = self.recalled.get_or_create(&ResultLabels { result: found.name() });
            shown.inner().store(count, Ordering::Relaxed);
        }
        for (result, count) in condition.waits() {
            self.waits.get_or_create(&ResultLabels { result }).inner().store(count, Ordering::Relaxed);
        }
        for (fault, fails) in condition.faults() {
            self.faults.get_or_create(&FaultLabels { fault }).set(i64::from(fails));
        }
    }
}
