//! What this process remembers: one table for all workers, which never waits and holds a bounded number of references.
//!
//! Each shard has two generations. What is learned or used goes into the young one; when that is full, it becomes the old
//! one, and the old one is forgotten. So nothing is searched for what was used last, no table grows by more than a few
//! thousand entries at once (which would hold a worker up), and about the half that was used last stays. What is forgotten
//! here is still in the store.

use std::{
    collections::HashMap,
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::{
    domain::{
        affinity::AffinityStatus,
        origin::{Origin, Owner, Reference},
    },
    store::origins::{EntryLifetime, StoredOrigin},
};

/// So many that a generation of the default bound fits into a table of 1024 places without being half empty: 894 entries, of
/// the 896 that it takes before it doubles.
const SHARDS: usize = 559;

/// Of a place in a table of the standard library, with its control byte.
const PLACE: usize = size_of::<(Reference, StoredOrigin)>() + 1;

/// What came of learning a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LearnResult {
    /// It is new.
    New(StoredOrigin),
    /// It was known, and its time begins again.
    Renewed(StoredOrigin),
    /// It was known.
    Known,
    /// It is somebody else's, or of another account.
    Taken,
}

/// What is known of a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RememberedOrigin {
    pub(super) entry: StoredOrigin,
    /// Whether its time began again.
    pub(super) renewed: bool,
}

#[derive(Debug, Default)]
struct Shard {
    young: HashMap<Reference, StoredOrigin>,
    old: HashMap<Reference, StoredOrigin>,
}

/// All of it.
#[derive(Debug)]
pub(super) struct OriginTable {
    shards: Box<[Mutex<Shard>]>,
    /// Entries of a generation of a shard.
    most: AtomicUsize,
    condition: Arc<AffinityStatus>,
}

fn generation(most: usize) -> usize {
    most.div_ceil(2 * SHARDS).max(1)
}

/// The most memory that so many entries come to, in bytes: tables double when they are 7/8 full. The allocator keeps a part of
/// the smaller ones that they grew out of: 61 MiB were measured where the tables are 54 MiB.
pub(super) fn most_bytes(entries: usize) -> u64 {
    let places = (generation(entries) * 8).div_ceil(7).next_power_of_two();
    (2 * SHARDS * places * PLACE) as u64 / 6 * 7
}

impl OriginTable {
    /// For so many entries.
    pub(super) fn new(most: usize, condition: Arc<AffinityStatus>) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, most: AtomicUsize::new(generation(most)), condition }
    }

    /// Another bound, for what is learned from now on.
    pub(super) fn set_most(&self, most: usize) {
        self.most.store(generation(most), Ordering::Relaxed);
    }

    fn shard(&self, reference: Reference) -> MutexGuard<'_, Shard> {
        // References are hashes: any part of one is spread evenly.
        let number = u64::from_be_bytes(reference.0.first_chunk().copied().unwrap_or_default());
        let index = usize::try_from(number % SHARDS as u64).unwrap_or_default();
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, before: usize, after: usize) {
        let entries = &self.condition.entries;
        match after.checked_sub(before) {
            Some(more) => entries.fetch_add(more as u64, Ordering::Relaxed),
            None => entries.fetch_sub((before - after) as u64, Ordering::Relaxed),
        };
    }

    /// Changes a shard, and counts what it has.
    fn change<T>(&self, reference: Reference, change: impl FnOnce(&mut Shard, usize) -> T) -> T {
        let mut shard = self.shard(reference);
        let before = shard.len();
        let changed = change(&mut shard, self.most.load(Ordering::Relaxed));
        self.count(before, shard.len());
        changed
    }

    /// Remembers where a reference came from, unless that is known.
    pub(super) fn learn(&self, reference: Reference, origin: Origin, life: EntryLifetime) -> LearnResult {
        self.change(reference, |shard, most| {
            let Some(known) = shard.get(reference, life) else {
                let entry = StoredOrigin { origin, used_s: life.now_s };
                shard.put(reference, entry, most);
                return LearnResult::New(entry);
            };
            if known.origin.account != origin.account || !known.origin.owner.shares_with(origin.owner) {
                return LearnResult::Taken;
            }
            match shard.use_again(reference, known, life, most) {
                Some(entry) => LearnResult::Renewed(entry),
                None => LearnResult::Known,
            }
        })
    }

    /// What is known of a reference that `by` named. Its time begins again where it is his to use.
    pub(super) fn recall(&self, reference: Reference, by: Owner, life: EntryLifetime) -> Option<RememberedOrigin> {
        self.change(reference, |shard, most| {
            let known = shard.get(reference, life)?;
            let his = known.origin.owner.shares_with(by);
            let again = if his { shard.use_again(reference, known, life, most) } else { None };
            Some(RememberedOrigin { entry: again.unwrap_or(known), renewed: again.is_some() })
        })
    }

    /// Takes what the store says of a reference.
    pub(super) fn take(&self, reference: Reference, entry: StoredOrigin) {
        self.change(reference, |shard, most| {
            let known = shard.young.get(&reference).or_else(|| shard.old.get(&reference));
            let used_s = known.filter(|known| known.origin == entry.origin).map_or(0, |known| known.used_s);
            shard.put(reference, StoredOrigin { used_s: entry.used_s.max(used_s), ..entry }, most);
        });
    }

    /// All entries of one of the shards; none behind the last one.
    pub(super) fn all_of(&self, shard: usize) -> Option<Vec<(Reference, StoredOrigin)>> {
        let shard = self.shards.get(shard)?.lock().unwrap_or_else(PoisonError::into_inner);
        Some(shard.young.iter().chain(&shard.old).map(|(reference, entry)| (*reference, *entry)).collect())
    }
}

impl Shard {
    fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// What is remembered of a reference; what is not any more is forgotten.
    fn get(&mut self, reference: Reference, life: EntryLifetime) -> Option<StoredOrigin> {
        // Both are always looked at: what is there takes as long as what is not.
        let (young, old) = (self.young.get(&reference), self.old.get(&reference));
        let known = *young.or(old)?;
        if life.lasts(known.used_s) {
            return Some(known);
        }
        self.young.remove(&reference);
        self.old.remove(&reference);
        None
    }

    fn put(&mut self, reference: Reference, entry: StoredOrigin, most: usize) {
        self.old.remove(&reference);
        if self.young.len() >= most && !self.young.contains_key(&reference) {
            mem::swap(&mut self.old, &mut self.young);
            // Its memory is used again: nothing is freed and made anew under way.
            self.young.clear();
            self.young.shrink_to(most);
        }
        self.young.insert(reference, entry);
    }

    /// Makes it one of those that were used last. Its time begins again only when a part of it is over, so that what is
    /// used all day is written to the store once a day and not each time: then it is returned.
    fn use_again(
        &mut self,
        reference: Reference,
        known: StoredOrigin,
        life: EntryLifetime,
        most: usize,
    ) -> Option<StoredOrigin> {
        let due = life.now_s.saturating_sub(known.used_s) > life.ttl_s / 32;
        let entry = if due { StoredOrigin { used_s: life.now_s, ..known } } else { known };
        if due || self.old.contains_key(&reference) {
            self.put(reference, entry, most);
        }
        due.then_some(entry)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::origin::Kind;

    const DAY: u32 = 86_400;

    fn memory(most: usize) -> OriginTable {
        OriginTable::new(most, Arc::default())
    }

    fn reference(number: u64) -> Reference {
        Reference::new(Kind::Response, &number.to_be_bytes())
    }

    fn origin(account: u64, key: &str, group: Option<&str>) -> Origin {
        Origin { account, owner: Owner::new(key, group) }
    }

    fn at(now_s: u32) -> EntryLifetime {
        EntryLifetime { now_s, ttl_s: 30 * DAY }
    }

    #[test]
    fn the_first_one_keeps_it_while_it_lives() {
        let memory = memory(1000);
        let (r, a, b) = (reference(1), origin(1, "a", None), origin(1, "b", None));
        let entry = |origin, used_s| StoredOrigin { origin, used_s };
        assert_eq!(memory.recall(r, a.owner, at(100)), None);
        assert_eq!(memory.learn(r, a, at(100)), LearnResult::New(entry(a, 100)));
        assert_eq!(memory.learn(r, a, at(100 + DAY / 2)), LearnResult::Known);
        assert_eq!(memory.learn(r, b, at(101)), LearnResult::Taken);
        assert_eq!(memory.learn(r, origin(2, "a", None), at(101)), LearnResult::Taken, "another account");
        // Others name it as often as they like: it does not live longer for that.
        let later = 100 + 29 * DAY;
        assert_eq!(
            memory.recall(r, b.owner, at(later)),
            Some(RememberedOrigin { entry: entry(a, 100), renewed: false })
        );
        assert_eq!(
            memory.recall(r, a.owner, at(later)),
            Some(RememberedOrigin { entry: entry(a, later), renewed: true })
        );
        assert_eq!(
            memory.recall(r, a.owner, at(later)),
            Some(RememberedOrigin { entry: entry(a, later), renewed: false })
        );
        assert_eq!(memory.learn(r, a, at(later + DAY)), LearnResult::Renewed(entry(a, later + DAY)));
        let over = later + 31 * DAY;
        assert_eq!(memory.recall(r, a.owner, at(over)), None);
        assert_eq!(memory.learn(r, b, at(over)), LearnResult::New(entry(b, over)));
    }

    #[test]
    fn a_group_shares() {
        let memory = memory(1000);
        let (r, a, b) = (reference(1), origin(1, "a", Some("team")), origin(1, "b", Some("team")));
        memory.learn(r, a, at(100));
        assert_eq!(memory.learn(r, b, at(100)), LearnResult::Known);
        let used = memory.recall(r, b.owner, at(100 + 2 * DAY)).unwrap();
        assert_eq!((used.entry.origin, used.renewed), (a, true), "it stays the first one's");
    }

    #[test]
    fn what_the_store_says_counts() {
        let memory = memory(1000);
        let (r, a, b) = (reference(1), origin(1, "a", None), origin(2, "b", None));
        memory.learn(r, a, at(100));
        memory.take(r, StoredOrigin { origin: b, used_s: 50 });
        assert_eq!(memory.recall(r, a.owner, at(100)).unwrap().entry, StoredOrigin { origin: b, used_s: 50 });
        memory.take(r, StoredOrigin { origin: b, used_s: 40 });
        assert_eq!(memory.recall(r, a.owner, at(100)).unwrap().entry.used_s, 50, "it was used since");
    }

    #[test]
    fn a_shorter_time_holds_at_once() {
        let memory = memory(1000);
        memory.learn(reference(1), origin(1, "a", None), at(100));
        let short = EntryLifetime { now_s: 100 + DAY, ttl_s: DAY };
        assert_eq!(memory.recall(reference(1), Owner::new("a", None), short), None);
        assert_eq!(memory.condition.entries.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn it_is_bounded_and_what_was_used_last_stays() {
        let memory = memory(10_000);
        let a = origin(1, "a", None);
        for number in 0..100_000 {
            memory.learn(reference(number), a, at(100));
            if number % 1000 == 0 {
                assert!(memory.recall(reference(0), a.owner, at(100)).is_some(), "in use: {number}");
            }
        }
        let entries = memory.condition.entries.load(Ordering::Relaxed);
        let counted: usize = (0..).map_while(|shard| memory.all_of(shard)).map(|all| all.len()).sum();
        assert_eq!(entries, counted as u64);
        assert!(entries <= 2 * SHARDS as u64 * generation(10_000) as u64 && entries > 5_000, "{entries}");
        let last = (99_000..100_000).filter(|number| memory.recall(reference(*number), a.owner, at(100)).is_some());
        assert_eq!(last.count(), 1000);
        memory.set_most(1000);
        for number in 0..100_000 {
            memory.learn(reference(number), a, at(100));
        }
        assert!(memory.condition.entries.load(Ordering::Relaxed) <= 2 * SHARDS as u64);
    }

    #[test]
    fn the_default_fits_its_tables() {
        assert_eq!(PLACE, 49);
        assert_eq!(most_bytes(1_000_000), 2 * 559 * 1024 * 49 / 6 * 7);
    }

    proptest! {
        /// Nothing is ever told of a reference but what the first one to learn it said, whatever is forgotten.
        #[test]
        fn nobody_takes_what_is_somebody_elses(
            steps in proptest::collection::vec((0..40_u64, 0..3_u64, 0..2_u64), 1..500),
            most in 1..60_usize,
        ) {
            let memory = memory(most);
            let mut first: HashMap<u64, Origin> = HashMap::new();
            for (number, account, key) in steps {
                let origin = origin(account, ["a", "b"][key as usize], None);
                let known = memory.recall(reference(number), origin.owner, at(100)).map(|it| it.entry.origin);
                if known.is_some() {
                    prop_assert_eq!(known, first.get(&number).copied());
                }
                match memory.learn(reference(number), origin, at(100)) {
                    LearnResult::New(_) => {
                        prop_assert_eq!(known, None);
                        first.insert(number, origin);
                    }
                    LearnResult::Taken => prop_assert_ne!(known, Some(origin)),
                    _ => prop_assert_eq!(known, Some(origin)),
                }
            }
        }
    }
}
