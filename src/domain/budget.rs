//! A number of bytes that many may hold together, and what one of them holds of it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// Whoever does not know how much it will hold takes this much at a time: other threads take from the same number.
const STEP: u64 = 64 * 1024;

/// Nothing fits until a limit is set.
#[derive(Clone, Debug, Default)]
pub struct Budget(Arc<Own>);

/// What [`Budget::apart`] makes anew: each reservation counts a reference to it.
#[derive(Debug, Default)]
struct Own {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    held: AtomicU64,
    limit: AtomicU64,
}

impl Budget {
    /// The same budget behind a reference count of its own, for another thread to write to.
    #[must_use]
    pub fn apart(&self) -> Self {
        Self(Arc::new(Own { shared: Arc::clone(&self.0.shared) }))
    }

    /// From now on this much may be held. What is held already stays.
    pub fn set_limit(&self, bytes: u64) {
        self.0.shared.limit.store(bytes, Ordering::Relaxed);
    }

    /// How much may be held.
    pub fn limit(&self) -> u64 {
        self.0.shared.limit.load(Ordering::Relaxed)
    }

    /// How much is held.
    pub fn held(&self) -> u64 {
        self.0.shared.held.load(Ordering::Relaxed)
    }

    /// Holds nothing of it yet.
    pub fn nothing(&self) -> Reservation {
        Reservation { budget: self.clone(), bytes: 0 }
    }

    /// Never more than the limit, not even for a moment: one that is refused must not cause the refusal of another.
    fn take(&self, bytes: u64) -> bool {
        let limit = self.limit();
        let more = |held: u64| held.checked_add(bytes).filter(|held| *held <= limit);
        self.0.shared.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }
}

/// What one holds of a [`Budget`]; given back when it is dropped.
#[derive(Debug)]
pub struct Reservation {
    budget: Budget,
    bytes: u64,
}

impl Reservation {
    /// How much it is.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Holds exactly `bytes`, if there are so many. Otherwise it stays as it is.
    #[must_use]
    pub fn set(&mut self, bytes: u64) -> bool {
        if bytes > self.bytes {
            if !self.budget.take(bytes - self.bytes) {
                return false;
            }
        } else if bytes < self.bytes {
            self.budget.0.shared.held.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        }
        self.bytes = bytes;
        true
    }

    /// Holds at least `bytes`, and some more where there is enough. Otherwise it stays as it is.
    #[must_use]
    pub fn cover(&mut self, bytes: u64) -> bool {
        bytes <= self.bytes
            || bytes.checked_next_multiple_of(STEP).is_some_and(|ahead| self.set(ahead))
            || self.set(bytes)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let _ = self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(limit: u64) -> Budget {
        let budget = Budget::default();
        budget.set_limit(limit);
        budget
    }

    #[test]
    fn what_is_taken_is_given_back() {
        let budget = budget(100);
        let (mut one, mut two) = (budget.nothing(), budget.apart().nothing());
        assert!(one.set(60) && !two.set(41) && two.set(40));
        assert_eq!((budget.held(), one.bytes(), two.bytes()), (100, 60, 40));
        assert!(!one.set(61) && one.set(10) && two.set(90));
        drop(two);
        assert_eq!(budget.held(), 10);
        drop(one);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn a_limit_may_change_under_what_is_held() {
        let budget = budget(100);
        let mut one = budget.nothing();
        assert!(one.set(80));
        budget.set_limit(50);
        assert!(!budget.nothing().set(1) && !one.set(81) && one.set(70));
        budget.set_limit(71);
        assert!(one.set(71));
        assert!(!Budget::default().nothing().set(1) && Budget::default().nothing().set(0));
        assert!(!budget.nothing().set(u64::MAX));
    }

    #[test]
    fn steps_are_taken_while_there_is_enough_and_single_bytes_at_the_end() {
        let budget = budget(STEP + 10);
        let mut one = budget.nothing();
        assert!(one.cover(0) && one.bytes() == 0);
        assert!(one.cover(1) && one.bytes() == STEP);
        assert!(one.cover(STEP) && one.bytes() == STEP);
        assert!(one.cover(STEP + 3) && one.bytes() == STEP + 3);
        assert!(!one.cover(STEP + 11) && one.bytes() == STEP + 3);
        assert!(one.cover(STEP + 10) && budget.held() == STEP + 10);
    }

    #[test]
    fn threads_never_hold_more_than_there_is() {
        let budget = budget(1000);
        std::thread::scope(|scope| {
            for thread in 1..=4 {
                let budget = budget.apart();
                scope.spawn(move || {
                    for _ in 0..10_000 {
                        let mut one = budget.nothing();
                        let _ = one.set(thread * 100) && one.set(thread * 200);
                        assert!(budget.held() <= 1000);
                    }
                });
            }
        });
        assert_eq!(budget.held(), 0);
    }
}
