//! Whether limits that replicas share can be counted together now.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How it stands: written by who asks Redis, read by every request and when somebody asks.
#[derive(Debug, Default)]
pub struct Condition {
    /// They are shared at all.
    pub shared: AtomicBool,
    /// Requests that were counted, or refused, without it.
    pub alone: AtomicU64,
    /// Goes up whenever Redis goes away, and when it is back: odd = it is away, slow, or takes nothing, and nobody waits for it.
    turns: AtomicU64,
    /// The last outage in which the ledger had time enough to show what was spent before.
    late: AtomicU64,
}

impl Condition {
    /// Whether Redis is worth asking.
    pub fn is_well(&self) -> bool {
        self.turns.load(Ordering::Acquire).is_multiple_of(2)
    }

    /// From now on nobody waits for it. Whether it was so already.
    pub fn fails(&self) -> bool {
        let goes = |turns: u64| turns.is_multiple_of(2).then_some(turns + 1);
        self.turns.fetch_update(Ordering::AcqRel, Ordering::Acquire, goes).is_err()
    }

    /// It is asked again.
    pub fn is_back(&self) {
        let comes = |turns: u64| (!turns.is_multiple_of(2)).then_some(turns + 1);
        let _ = self.turns.fetch_update(Ordering::AcqRel, Ordering::Acquire, comes);
    }

    /// How often it went away so far.
    pub fn outage(&self) -> u64 {
        self.turns.load(Ordering::Acquire).div_ceil(2)
    }

    /// In this outage the ledger had time enough.
    pub fn waited(&self, outage: u64) {
        self.late.fetch_max(outage, Ordering::AcqRel);
    }

    /// Whether it had in this one.
    pub fn is_late(&self, outage: u64) -> bool {
        self.late.load(Ordering::Acquire) >= outage
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outages_are_counted() {
        let condition = Condition::default();
        assert!(condition.is_well() && condition.outage() == 0);
        for outage in 1..4 {
            assert!(!condition.fails() && condition.fails());
            assert!(!condition.is_well() && condition.outage() == outage && !condition.is_late(outage));
            condition.waited(outage);
            assert!(condition.is_late(outage));
            condition.is_back();
            condition.is_back();
            assert!(condition.is_well() && condition.outage() == outage);
        }
    }
}
