//! The memory of this process: one table for all workers, which never waits and contains a bounded number of references.
//!
//! Each shard has two generations. A new or used entry goes into the young generation. A full young generation becomes the old
//! one, and the previous old one is dropped. Eviction therefore searches nothing, and about the most recently used half stays.
//! No table grows by more than a few thousand entries at once, which would delay a worker. The store still has each evicted
//! entry.

use std::{
    collections::HashMap,
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::{
    concurrent::affinity_status::AffinityStatus,
    domain::origin::{Origin, Owner, Reference},
    store::origins::{EntryLifetime, StoredOrigin},
};

/// With this number, a generation of the default bound has 894 entries. Such a generation fills a table of 1024 slots well: the
/// table doubles only after 896 entries.
const SHARDS: usize = 559;

/// Bytes of one slot in a table of the standard library, with its control byte.
const SLOT_BYTES: usize = size_of::<(Reference, StoredOrigin)>() + 1;

/// What the table of known ids did with an id from an answer: new, renewed, known, or of another owner or account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LearnResult {
    /// The reference was unknown.
    New(StoredOrigin),
    /// The reference was known, and its lifetime starts again.
    Renewed(StoredOrigin),
    /// The reference was known.
    Known,
    /// The reference belongs to another owner, in the same account.
    Shared,
    /// The reference belongs to another account.
    Taken,
}

/// The account and the owner that memory has for an id, and whether the lifetime of this entry started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RememberedOrigin {
    pub(super) entry: StoredOrigin,
    /// Whether its lifetime started again.
    pub(super) renewed: bool,
}

#[derive(Debug, Default)]
struct Shard {
    young: HashMap<Reference, StoredOrigin>,
    old: HashMap<Reference, StoredOrigin>,
}

/// The table in memory with the account and the owner of each known id.
#[derive(Debug)]
pub(super) struct OriginTable {
    shards: Box<[Mutex<Shard>]>,
    /// The most entries of one generation of a shard.
    most: AtomicUsize,
    status: Arc<AffinityStatus>,
}

fn generation(most: usize) -> usize {
    most.div_ceil(2 * SHARDS).max(1)
}

/// Returns the most memory that the table of known ids uses for so many entries, in bytes. Tables double when they are 7/8 full.
/// The allocator keeps a part of the smaller tables from before: 61 MiB were measured where the tables are 54 MiB.
pub(super) fn most_bytes(entries: usize) -> u64 {
    let places = (generation(entries) * 8).div_ceil(7).next_power_of_two();
    (2 * SHARDS * places * SLOT_BYTES) as u64 / 6 * 7
}

impl OriginTable {
    /// Creates a table of known ids for at most so many entries.
    pub(super) fn new(most: usize, status: Arc<AffinityStatus>) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, most: AtomicUsize::new(generation(most)), status }
    }

    /// Changes the most entries of the table of known ids, for entries that are learned from now on.
    pub(super) fn set_max_entries(&self, most: usize) {
        self.most.store(generation(most), Ordering::Relaxed);
    }

    fn shard(&self, reference: Reference) -> MutexGuard<'_, Shard> {
        // References are hashes, so any part of a reference is evenly distributed.
        let number = u64::from_be_bytes(reference.0.first_chunk().copied().unwrap_or_default());
        let index = usize::try_from(number % SHARDS as u64).unwrap_or_default();
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, before: usize, after: usize) {
        let entries = &self.status.entries;
        match after.checked_sub(before) {
            Some(more) => entries.fetch_add(more as u64, Ordering::Relaxed),
            None => entries.fetch_sub((before - after) as u64, Ordering::Relaxed),
        };
    }

    /// Changes a shard, and updates the number of entries.
    fn change<T>(&self, reference: Reference, change: impl FnOnce(&mut Shard, usize) -> T) -> T {
        let mut shard = self.shard(reference);
        let before = shard.len();
        let changed = change(&mut shard, self.most.load(Ordering::Relaxed));
        self.count(before, shard.len());
        changed
    }

    /// Stores the account and the owner of an id in memory, unless the id is known. Returns what happened.
    pub(super) fn learn(&self, reference: Reference, origin: Origin, life: EntryLifetime) -> LearnResult {
        self.change(reference, |shard, most| {
            let Some(known) = shard.get(reference, life) else {
                let entry = StoredOrigin { origin, used_s: life.now_s };
                shard.put(reference, entry, most);
                return LearnResult::New(entry);
            };
            if known.origin.account != origin.account {
                return LearnResult::Taken;
            }
            if !known.origin.owner.shares_with(origin.owner) {
                return LearnResult::Shared;
            }
            match shard.use_again(reference, known, life, most) {
                Some(entry) => LearnResult::Renewed(entry),
                None => LearnResult::Known,
            }
        })
    }

    /// Returns the account and the owner that memory has for an id. The lifetime of the entry starts again if `by` may use the id.
    pub(super) fn recall(&self, reference: Reference, by: Owner, life: EntryLifetime) -> Option<RememberedOrigin> {
        self.change(reference, |shard, most| {
            let known = shard.get(reference, life)?;
            let may_use = known.origin.owner.shares_with(by);
            let again = if may_use { shard.use_again(reference, known, life, most) } else { None };
            Some(RememberedOrigin { entry: again.unwrap_or(known), renewed: again.is_some() })
        })
    }

    /// Puts an entry that the affinity store returned into the table in memory.
    pub(super) fn take(&self, reference: Reference, entry: StoredOrigin) {
        self.change(reference, |shard, most| {
            let known = shard.young.get(&reference).or_else(|| shard.old.get(&reference));
            let used_s = known.filter(|known| known.origin == entry.origin).map_or(0, |known| known.used_s);
            shard.put(reference, StoredOrigin { used_s: entry.used_s.max(used_s), ..entry }, most);
        });
    }

    /// Returns all entries in one shard of the table of known ids. `None` = no such shard.
    pub(super) fn all_of(&self, shard: usize) -> Option<Vec<(Reference, StoredOrigin)>> {
        let shard = self.shards.get(shard)?.lock().unwrap_or_else(PoisonError::into_inner);
        Some(shard.young.iter().chain(&shard.old).map(|(reference, entry)| (*reference, *entry)).collect())
    }
}

impl Shard {
    fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// Returns the entry of a reference, and removes an expired entry.
    fn get(&mut self, reference: Reference, life: EntryLifetime) -> Option<StoredOrigin> {
        // Always searches both generations, so that the time reveals nothing about the reference.
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
            // The table is used again, without freeing and allocating.
            self.young.clear();
            self.young.shrink_to(most);
        }
        self.young.insert(reference, entry);
    }

    /// Moves an entry into the young generation. Its lifetime starts again, and the entry is returned, only after 1/32 of the
    /// lifetime. An entry that is used all day is therefore written to the store about once a day.
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
    use crate::domain::origin::ReferenceKind;

    const DAY: u32 = 86_400;

    fn memory(most: usize) -> OriginTable {
        OriginTable::new(most, Arc::default())
    }

    fn reference(number: u64) -> Reference {
        Reference::new(ReferenceKind::Response, &number.to_be_bytes())
    }

    fn origin(account: u64, key: &str, group: Option<&str>) -> Origin {
        Origin { account, owner: Owner::new(key, group) }
    }

    fn at(now_s: u32) -> EntryLifetime {
        EntryLifetime { now_s, ttl_s: 30 * DAY }
    }

    #[test]
    fn the_first_owner_keeps_a_reference_until_it_expires() {
        let memory = memory(1000);
        let (r, a, b) = (reference(1), origin(1, "a", None), origin(1, "b", None));
        let entry = |origin, used_s| StoredOrigin { origin, used_s };
        assert_eq!(memory.recall(r, a.owner, at(100)), None);
        assert_eq!(memory.learn(r, a, at(100)), LearnResult::New(entry(a, 100)));
        assert_eq!(memory.learn(r, a, at(100 + DAY / 2)), LearnResult::Known);
        assert_eq!(memory.learn(r, b, at(101)), LearnResult::Shared);
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
    fn keys_of_a_group_share_references() {
        let memory = memory(1000);
        let (r, a, b) = (reference(1), origin(1, "a", Some("team")), origin(1, "b", Some("team")));
        memory.learn(r, a, at(100));
        assert_eq!(memory.learn(r, b, at(100)), LearnResult::Known);
        let used = memory.recall(r, b.owner, at(100 + 2 * DAY)).unwrap();
        assert_eq!((used.entry.origin, used.renewed), (a, true), "it stays the first one's");
    }

    #[test]
    fn the_entry_of_the_store_replaces_the_one_in_memory() {
        let memory = memory(1000);
        let (r, a, b) = (reference(1), origin(1, "a", None), origin(2, "b", None));
        memory.learn(r, a, at(100));
        memory.take(r, StoredOrigin { origin: b, used_s: 50 });
        assert_eq!(memory.recall(r, a.owner, at(100)).unwrap().entry, StoredOrigin { origin: b, used_s: 50 });
        memory.take(r, StoredOrigin { origin: b, used_s: 40 });
        assert_eq!(memory.recall(r, a.owner, at(100)).unwrap().entry.used_s, 50, "it was used since");
    }

    #[test]
    fn a_shorter_lifetime_applies_at_once() {
        let memory = memory(1000);
        memory.learn(reference(1), origin(1, "a", None), at(100));
        let short = EntryLifetime { now_s: 100 + DAY, ttl_s: DAY };
        assert_eq!(memory.recall(reference(1), Owner::new("a", None), short), None);
        assert_eq!(memory.status.entries.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn the_memory_is_bounded_and_keeps_recently_used_entries() {
        let memory = memory(10_000);
        let a = origin(1, "a", None);
        for number in 0..100_000 {
            memory.learn(reference(number), a, at(100));
            if number % 1000 == 0 {
                assert!(memory.recall(reference(0), a.owner, at(100)).is_some(), "in use: {number}");
            }
        }
        let entries = memory.status.entries.load(Ordering::Relaxed);
        let counted: usize = (0..).map_while(|shard| memory.all_of(shard)).map(|all| all.len()).sum();
        assert_eq!(entries, counted as u64);
        assert!(entries <= 2 * SHARDS as u64 * generation(10_000) as u64 && entries > 5_000, "{entries}");
        let last = (99_000..100_000).filter(|number| memory.recall(reference(*number), a.owner, at(100)).is_some());
        assert_eq!(last.count(), 1000);
        memory.set_max_entries(1000);
        for number in 0..100_000 {
            memory.learn(reference(number), a, at(100));
        }
        assert!(memory.status.entries.load(Ordering::Relaxed) <= 2 * SHARDS as u64);
    }

    #[test]
    fn the_default_bound_fits_the_hash_tables() {
        assert_eq!(SLOT_BYTES, 49);
        assert_eq!(most_bytes(1_000_000), 2 * 559 * 1024 * 49 / 6 * 7);
    }

    proptest! {
        /// Nothing is ever told of a reference but what the first one to learn it said, whatever is forgotten.
        #[test]
        fn no_owner_takes_over_a_reference_of_another_owner(
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
                    LearnResult::Shared | LearnResult::Taken => prop_assert_ne!(known, Some(origin)),
                    _ => prop_assert_eq!(known, Some(origin)),
                }
            }
        }
    }
}
