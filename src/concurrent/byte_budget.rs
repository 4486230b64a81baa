//! The memory budget of request bodies: a number of bytes that the keys share, and the reservations of single bodies.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// Step in bytes by which the memory reservation of a request body grows. A smaller step would write more often to a number that
/// all threads share. A larger step would let a body reserve memory long before its bytes arrive.
pub const STEP: u64 = 64 * 1024;

/// A budget of memory, in bytes, that the request bodies of all keys share. Without a limit, the budget grants nothing.
#[derive(Clone, Debug, Default)]
pub struct ByteBudget(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    held: AtomicU64,
    limit: AtomicU64,
}

impl ByteBudget {
    /// Sets how many bytes of the memory budget may be reserved in all. Existing reservations stay.
    pub fn set_limit(&self, bytes: u64) {
        self.0.limit.store(bytes, Ordering::Relaxed);
    }

    /// How many bytes of the memory budget may be reserved in all.
    pub fn limit(&self) -> u64 {
        self.0.limit.load(Ordering::Relaxed)
    }

    /// How many bytes of the memory budget are reserved now.
    pub fn held(&self) -> u64 {
        self.0.held.load(Ordering::Relaxed)
    }

    /// Returns the right of one holder, such as a key, to reserve bytes of the memory budget. Each call makes a reference count
    /// of its own, for one thread to write to: every reservation counts a reference. Without `others` there is a single holder,
    /// which may take everything.
    pub fn share(&self, others: Option<&ByteHolder>) -> ByteShare {
        ByteShare(Arc::new(Parts { budget: self.clone(), holder: others.cloned() }))
    }
}

/// One of several holders (such as a key) that reserve bytes of a memory budget, with the bytes that it holds. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct ByteHolder(Arc<AtomicU64>);

/// The right of one holder, such as a key, to reserve bytes of a [`ByteBudget`].
///
/// Where there are several holders, one may hold at most as much as it leaves free: half of what the others do not hold. So a new
/// holder always finds room. The only reservation of a holder is exempt, so that the largest one fits if nothing else is held.
/// Two threads that take for one holder at the same moment may pass its bound by one step each; the limit of the budget is never
/// passed.
#[derive(Clone, Debug)]
pub struct ByteShare(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    budget: ByteBudget,
    holder: Option<ByteHolder>,
}

impl ByteShare {
    /// Returns an empty reservation in the memory budget, which can grow.
    pub fn nothing(&self) -> ByteReservation {
        ByteReservation { share: self.clone(), bytes: 0 }
    }

    /// How many bytes of the memory budget all holders together may reserve.
    pub fn limit(&self) -> u64 {
        self.0.budget.limit()
    }

    /// Whether the memory budget would grant this holder a new reservation of so many bytes now.
    pub fn has_room(&self, bytes: u64) -> bool {
        self.grants(self.0.budget.held(), 0, bytes).is_some()
    }

    /// The bytes that are held in all if a reservation of `own` bytes gets `more`. None if the reservation must not get them.
    fn grants(&self, held: u64, own: u64, more: u64) -> Option<u64> {
        let limit = self.limit();
        let held = held.checked_add(more).filter(|held| *held <= limit)?;
        let Some(ByteHolder(holder)) = &self.0.holder else { return Some(held) };
        let holds = holder.load(Ordering::Relaxed);
        let is_only = holds <= own;
        (is_only || holds.saturating_add(more) <= limit - held).then_some(held)
    }

    /// Takes `more` bytes, and never exceeds the limit, not even for a moment: a refused body must not cause the refusal of another.
    fn take(&self, own: u64, more: u64) -> bool {
        let Parts { budget, holder } = &*self.0;
        let grants = |held| self.grants(held, own, more);
        let taken = budget.0.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grants).is_ok();
        if taken && let Some(ByteHolder(holder)) = holder {
            holder.fetch_add(more, Ordering::Relaxed);
        }
        taken
    }

    fn give_back(&self, bytes: u64) {
        let Parts { budget, holder } = &*self.0;
        budget.0.held.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(ByteHolder(holder)) = holder {
            holder.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

/// Bytes of a [`ByteBudget`] that one request body has reserved. The drop gives them back.
#[derive(Debug)]
pub struct ByteReservation {
    share: ByteShare,
    bytes: u64,
}

impl ByteReservation {
    /// How many bytes this reservation in the memory budget holds.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Changes this memory reservation to exactly `bytes`. Returns false and changes nothing if the budget has too few bytes.
    #[must_use]
    pub fn set(&mut self, bytes: u64) -> bool {
        if bytes > self.bytes {
            if !self.share.take(self.bytes, bytes - self.bytes) {
                return false;
            }
        } else if bytes < self.bytes {
            self.share.give_back(self.bytes - bytes);
        }
        self.bytes = bytes;
        true
    }

    /// Grows this memory reservation to at least `bytes`, and to a whole [`STEP`] if there is room, but not above `most`. Returns
    /// false and changes nothing if the budget has too few bytes.
    #[must_use]
    pub fn cover(&mut self, bytes: u64, most: u64) -> bool {
        if bytes <= self.bytes {
            return true;
        }
        let step = bytes.checked_next_multiple_of(STEP).unwrap_or(bytes);
        self.set(step.min(most).max(bytes)) || self.set(bytes)
    }
}

impl Drop for ByteReservation {
    fn drop(&mut self) {
        let _ = self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(limit: u64) -> ByteBudget {
        let budget = ByteBudget::default();
        budget.set_limit(limit);
        budget
    }

    #[test]
    fn what_is_taken_is_given_back() {
        let budget = budget(100);
        let (mut one, mut two) = (budget.share(None).nothing(), budget.share(None).nothing());
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
        let share = budget.share(None);
        let mut one = share.nothing();
        assert!(one.set(80));
        budget.set_limit(50);
        assert!(!share.nothing().set(1) && !one.set(81) && one.set(70));
        budget.set_limit(71);
        assert!(one.set(71));
        let none = ByteBudget::default().share(None);
        assert!(!none.nothing().set(1) && none.nothing().set(0));
        assert!(!share.nothing().set(u64::MAX));
    }

    #[test]
    fn steps_are_taken_while_there_is_enough_and_single_bytes_at_the_end() {
        let budget = budget(STEP + 10);
        let mut one = budget.share(None).nothing();
        let most = u64::MAX;
        assert!(one.cover(0, most) && one.bytes() == 0);
        assert!(one.cover(1, 100) && one.bytes() == 100);
        assert!(one.cover(101, most) && one.bytes() == STEP);
        assert!(one.cover(STEP, most) && one.bytes() == STEP);
        assert!(one.cover(STEP + 3, most) && one.bytes() == STEP + 3);
        assert!(!one.cover(STEP + 11, most) && one.bytes() == STEP + 3);
        assert!(one.cover(STEP + 10, most) && budget.held() == STEP + 10);
    }

    #[test]
    fn one_of_several_holders_leaves_as_much_free_as_it_holds() {
        let budget = budget(100);
        let holders = [ByteHolder::default(), ByteHolder::default(), ByteHolder::default()];
        let [one, two, three] = holders.each_ref().map(|holder| budget.share(Some(holder)));
        // A single reservation may be everything, in one step or in several.
        let mut only = one.nothing();
        assert!(one.has_room(100) && only.set(70) && only.set(100) && !two.has_room(1));
        assert!(only.set(30) && two.has_room(70) && !two.has_room(71));
        // Beside it the same holder gets less: 30 + 20 are as much as what is left.
        let mut beside = one.nothing();
        assert!(!one.has_room(21) && !beside.set(21) && beside.set(20) && !only.set(31) && only.set(30));
        // The reference count is another, the holder is the same.
        assert!(!budget.share(Some(&holders[0])).nothing().set(1));
        // The second holder's first reservation is free, then half of the rest is the bound.
        let (mut first, mut second) = (two.nothing(), two.nothing());
        assert!(first.set(20) && second.set(5) && !second.set(6) && three.has_room(25) && !three.has_room(26));
        drop((beside, first, second));
        assert!(only.set(100));
        drop(only);
        assert!(budget.held() == 0 && holders.iter().all(|holder| holder.0.load(Ordering::Relaxed) == 0));
    }

    #[test]
    fn threads_never_hold_more_than_there_is() {
        let budget = budget(1000);
        let holders = [ByteHolder::default(), ByteHolder::default()];
        std::thread::scope(|scope| {
            for thread in 1..=4 {
                let share = budget.share(Some(&holders[thread % 2]));
                let budget = &budget;
                let bytes = thread as u64 * 100;
                scope.spawn(move || {
                    for _ in 0..10_000 {
                        let mut one = share.nothing();
                        let _ = one.set(bytes) && one.set(2 * bytes);
                        assert!(budget.held() <= 1000);
                    }
                });
            }
        });
        assert_eq!(budget.held(), 0);
        assert!(holders.iter().all(|holder| holder.0.load(Ordering::Relaxed) == 0));
    }
}
