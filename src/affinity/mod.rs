//! The affinity memory: the account and the owner of each reference.
//!
//! All workers share one memory. A new reference is in memory at once and in the store a moment later (`persistence`), for restarts
//! and for other replicas. Memory asks the store for missing references, for at most [`WAIT`] or [`WAIT_FOR_FILE`]. A slow or
//! failed store gets no lookups until it answers a test in time.

mod decide;
mod lookups;
mod memory;
mod persistence;
mod rare_events;

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::timeout,
};

use crate::{
    concurrent::affinity_status::AffinityStatus,
    config,
    domain::{
        affinity::LookupResult,
        origin::{Origin, Owner, Reference},
    },
    store::origins::{EntryLifetime, StoredOrigin},
};

use self::{
    lookups::Lookups,
    memory::{LearnResult, OriginTable},
    rare_events::{RareEvent, RareEvents},
};

pub use decide::{Decision, LookedUpReference, ReferenceRole, decide};
pub use persistence::AffinityStoreThread;

/// The longest wait of a request for an affinity store that replicas share. The promise is 50 ms; the rest is for timers and load.
pub const WAIT: Duration = Duration::from_millis(40);

/// The longest wait of a request for an affinity store in a file, which does not fail like a server. The file answers late while
/// a disk syncs or the machine is busy: after a restart, every reference needs a lookup. A request without that answer fails or
/// reaches the wrong account.
pub const WAIT_FOR_FILE: Duration = Duration::from_secs(1);

/// The most references that wait for a failed store: 5 MiB at 48 bytes each. Further references are only in memory. When the
/// store works again, all of memory is written.
const MAX_WAITING: usize = 100_000;

/// The rows of the store, as a multiple of the entries in memory.
const ROWS_PER_ENTRY: u64 = 10;

/// Returns the most memory, in bytes, that the affinity memory uses with so many entries.
pub fn most_bytes(entries: usize) -> u64 {
    memory::most_bytes(entries) + (MAX_WAITING * size_of::<(Reference, StoredOrigin)>()) as u64
}

/// The affinity memory of this process: remembers the account and the owner of each id that an answer gave to a client.
#[derive(Debug)]
pub struct AffinityMemory {
    memory: OriginTable,
    rare_events: RareEvents,
    ttl_s: AtomicU32,
    /// The most rows of the store.
    max_rows: AtomicU64,
    /// Whether other replicas read the same store.
    is_shared: bool,
    lookups: Lookups,
    waiting: WriteQueue,
    status: Arc<AffinityStatus>,
}

/// What the affinity memory knows about an id in a request: its account and owner, or why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recalled {
    /// The reference belongs to the caller or to the caller's group.
    Own(Origin),
    /// The reference belongs to another owner. Only `encrypted_content` may use it.
    Foreign(Origin),
    /// The reference was never seen, or its entry expired.
    Unknown,
    /// The store could not be read. An origin from memory belongs to another owner here. The caller must see no difference to
    /// any other failed lookup.
    LookupFailed(Option<Origin>),
}

impl Recalled {
    /// Returns account and owner of an id, whoever owns it: `encrypted_content` is bound to its account and not to a key.
    pub fn origin_of_any_owner(self) -> Option<Origin> {
        match self {
            Self::Own(origin) | Self::Foreign(origin) | Self::LookupFailed(Some(origin)) => Some(origin),
            Self::Unknown | Self::LookupFailed(None) => None,
        }
    }

    /// Returns the result for a reference that `by` named.
    fn of(origin: Option<Origin>, by: Owner) -> Self {
        match origin {
            Some(origin) if origin.owner.shares_with(by) => Self::Own(origin),
            Some(origin) => Self::Foreign(origin),
            None => Self::Unknown,
        }
    }

    fn found(self) -> LookupResult {
        match self {
            Self::Own(_) => LookupResult::Own,
            Self::Foreign(_) => LookupResult::Foreign,
            Self::Unknown => LookupResult::Unknown,
            Self::LookupFailed(_) => LookupResult::LookupFailed,
        }
    }
}

/// An id that an answer reveals, as the affinity memory learns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LearnedReference {
    /// The reference.
    pub reference: Reference,
    /// Whether the provider created the object, and the answer contains nothing of a caller.
    pub is_made: bool,
    /// Whether the text of the id does not reveal its kind.
    pub is_opaque: bool,
}

/// How many new ids were queued for the affinity store so far. An answer waits until its ids up to this number are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "with a shared store, what is new is waited for before anybody hears of it: Origins::shared"]
pub struct LearnedCount(u64);

/// The queue of entries for the store.
#[derive(Debug)]
struct WriteQueue {
    rows: Mutex<Rows>,
    arrived: Notify,
    written: watch::Sender<WriteProgress>,
}

/// The progress of writing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct WriteProgress {
    /// How many entries were written in total.
    count: u64,
    /// Whether the store is slow or fails, so that no answer waits.
    fails: bool,
}

#[derive(Debug, Default)]
struct Rows {
    rows: VecDeque<(Reference, StoredOrigin)>,
    /// How many entries were queued in total.
    arrived: u64,
}

fn ttl_s(ttl: Duration) -> u32 {
    u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX)
}

impl AffinityMemory {
    /// Creates an empty memory.
    fn new(settings: &config::AffinitySettings, shared: bool, status: Arc<AffinityStatus>) -> Self {
        Self {
            memory: OriginTable::new(settings.max_entries, Arc::clone(&status)),
            rare_events: RareEvents::default(),
            ttl_s: AtomicU32::new(ttl_s(settings.ttl)),
            max_rows: AtomicU64::new(settings.max_entries as u64 * ROWS_PER_ENTRY),
            is_shared: shared,
            lookups: Lookups::default(),
            waiting: WriteQueue { rows: Mutex::default(), arrived: Notify::new(), written: watch::Sender::default() },
            status,
        }
    }

    /// Applies changed `[affinity]` settings of a reload to the affinity memory.
    pub fn configure(&self, settings: &config::AffinitySettings) {
        self.memory.set_max_entries(settings.max_entries);
        self.ttl_s.store(ttl_s(settings.ttl), Ordering::Relaxed);
        self.max_rows.store(settings.max_entries as u64 * ROWS_PER_ENTRY, Ordering::Relaxed);
    }

    fn life(&self, now: Duration) -> EntryLifetime {
        EntryLifetime { now_s: ttl_s(now), ttl_s: self.ttl_s.load(Ordering::Relaxed) }
    }

    /// Remembers the account and the owner of these ids, and never waits. `now` = the time since 1970-01-01 UTC. The next lookup
    /// in this process finds them. An id of another owner or of another account keeps its origin.
    pub fn learn(&self, references: &[Reference], origin: Origin, now: Duration) -> LearnedCount {
        let learned =
            |reference: &Reference| LearnedReference { reference: *reference, is_made: false, is_opaque: false };
        self.learn_answer(&references.iter().map(learned).collect::<Vec<_>>(), origin, now)
    }

    /// Remembers the ids of an answer. An account may give the same id to several owners, as a relay with a cache or with
    /// constant ids does. Each of these owners may use the id. The first owner keeps the entry; the others get an entry of their
    /// own beside it.
    pub fn learn_answer(&self, learned_references: &[LearnedReference], origin: Origin, now: Duration) -> LearnedCount {
        let life = self.life(now);
        let (mut rows, mut new, mut taken) = (Vec::new(), 0, 0);
        for learned_reference in learned_references {
            let learned = self.memory.learn(learned_reference.reference, origin, life);
            if learned_reference.is_opaque {
                self.record_rare_event(RareEvent::Opaque, life, &mut rows);
            }
            let (reference, learned) = match learned {
                LearnResult::Shared if learned_reference.is_made => {
                    taken += 1;
                    self.record_rare_event(RareEvent::Shared, life, &mut rows);
                    let owner_reference = learned_reference.reference.for_owner(origin.owner);
                    (owner_reference, self.memory.learn(owner_reference, origin, life))
                }
                learned => (learned_reference.reference, learned),
            };
            match learned {
                LearnResult::New(entry) => {
                    new += 1;
                    rows.push((reference, entry));
                }
                LearnResult::Renewed(entry) => rows.push((reference, entry)),
                LearnResult::Known => {}
                LearnResult::Shared | LearnResult::Taken => taken += 1,
            }
        }
        self.status.learned.fetch_add(new, Ordering::Relaxed);
        self.status.foreign.fetch_add(taken, Ordering::Relaxed);
        let mark = self.waiting.push(rows, &self.status);
        // Other replicas know these references already, so no answer waits.
        if new > 0 { mark } else { LearnedCount(0) }
    }

    /// Notes a rare event, and stores it for as long as the reference that caused it.
    fn record_rare_event(&self, rare: RareEvent, life: EntryLifetime, rows: &mut Vec<(Reference, StoredOrigin)>) {
        self.rare_events.record(rare);
        if let LearnResult::New(entry) | LearnResult::Renewed(entry) =
            self.memory.learn(rare.mark(), RareEvent::ORIGIN, life)
        {
            rows.push((rare.mark(), entry));
        }
    }

    /// Whether upstreams give ids whose text does not show their kind, such as UUIDs. Then requests must be searched for such texts.
    pub fn has_opaque(&self) -> bool {
        self.rare_events.has_happened(RareEvent::Opaque)
    }

    /// Counts ids of an answer that were not remembered, because the answer had too many.
    pub fn count_skipped(&self, references: u64) {
        self.status.skipped.fetch_add(references, Ordering::Relaxed);
    }

    /// Looks up the ids that a request of `by` names, and keeps their order. Memory answers at once for ids of `by`. The store
    /// gets a lookup for all others, also for known ids of another owner, so that the time reveals nothing.
    pub async fn recall_all(&self, references: &[Reference], by: Owner, now: Duration) -> Vec<Recalled> {
        let mut recalled = Vec::with_capacity(references.len());
        let mut asked = Vec::new();
        let remembered = self.remembered(references, by, now);
        for (index, (reference, origin)) in references.iter().zip(remembered).enumerate() {
            recalled.push(match origin {
                Some(origin) if origin.owner.shares_with(by) => Recalled::Own(origin),
                others => {
                    asked.push((index, *reference));
                    asked.extend(self.owner_reference(*reference, by).map(|owner_reference| (index, owner_reference)));
                    Recalled::LookupFailed(others)
                }
            });
        }
        if !asked.is_empty() {
            self.status.store_lookups.fetch_add(asked.len() as u64, Ordering::Relaxed);
            let answers = self.ask(asked.iter().map(|(_, reference)| *reference).collect(), by).await;
            for ((index, reference), stored) in asked.into_iter().zip(answers.into_iter().flatten()) {
                let is_owner_reference = references.get(index) != Some(&reference);
                match recalled.get_mut(index) {
                    // A missing entry beside another owner's entry changes nothing.
                    Some(_) if is_owner_reference && stored.is_none() => {}
                    Some(recalled) => *recalled = self.combine(reference, *recalled, stored, by),
                    None => {}
                }
            }
        }
        self.count(&recalled);
        recalled
    }

    /// Looks up ids of a request in memory alone, and keeps their order. For ids that matter too little to wait for the store.
    pub fn recall_from_memory(&self, references: &[Reference], by: Owner, now: Duration) -> Vec<Recalled> {
        let remembered = self.remembered(references, by, now).into_iter();
        let recalled: Vec<_> = remembered.map(|origin| Recalled::of(origin, by)).collect();
        self.count(&recalled);
        recalled
    }

    /// Returns the origins in memory, of any owner, in the order of the references. Queues renewed entries for the store.
    fn remembered(&self, references: &[Reference], by: Owner, now: Duration) -> Vec<Option<Origin>> {
        let life = self.life(now);
        let mut renewed = Vec::new();
        let mut recall = |reference: Reference| {
            let known = self.memory.recall(reference, by, life)?;
            if known.renewed {
                renewed.push((reference, known.entry));
            }
            Some(known.entry.origin)
        };
        let may_use = |origin: &Origin| origin.owner.shares_with(by);
        let either = |reference: &Reference| {
            let first = recall(*reference);
            match self.owner_reference(*reference, by).filter(|_| !first.as_ref().is_some_and(may_use)) {
                Some(owner_reference) => recall(owner_reference).filter(may_use).or(first),
                None => first,
            }
        };
        let origins = references.iter().map(either).collect();
        let _ = self.waiting.push(renewed, &self.status);
        origins
    }

    /// Returns the reference of the entry for `by` beside another owner's entry, if such entries may exist.
    fn owner_reference(&self, reference: Reference, by: Owner) -> Option<Reference> {
        self.rare_events.has_happened(RareEvent::Shared).then(|| reference.for_owner(by))
    }

    fn count(&self, recalled: &[Recalled]) {
        for found in LookupResult::ALL {
            let count = recalled.iter().filter(|recalled| recalled.found() == found).count();
            self.status.count(found, count as u64);
        }
    }

    /// Returns the result after the store answered.
    fn combine(&self, reference: Reference, known: Recalled, stored: Option<StoredOrigin>, by: Owner) -> Recalled {
        // Neither entries of other owners nor unknown references are stored in memory. Equal work takes equal time, which
        // reveals nothing. The store gets a lookup for such a reference every time anyway.
        if let Some(entry) = stored.filter(|entry| entry.origin.owner.shares_with(by)) {
            self.memory.take(reference, entry);
        }
        // An entry that is only in memory was not written yet.
        Recalled::of(stored.map(|entry| entry.origin).or_else(|| known.origin_of_any_owner()), by)
    }

    /// Whether the affinity store is slow or fails for all requests, and gets no lookups.
    pub fn is_down(&self) -> bool {
        self.status.read_fails.load(Ordering::Relaxed)
    }

    /// Returns the longest time that a request waits for the store.
    fn max_wait(&self) -> Duration {
        if self.is_shared { WAIT } else { WAIT_FOR_FILE }
    }

    /// Looks up references in the store. `None` = the store cannot be read.
    async fn ask(&self, references: Vec<Reference>, by: Owner) -> Option<Vec<Option<StoredOrigin>>> {
        if self.status.read_fails.load(Ordering::Relaxed) {
            return None;
        }
        let answer = self.lookups.ask(by.key, references)?;
        timeout(self.max_wait(), answer).await.ok()?.ok()
    }

    /// Whether an answer must wait before the client gets its new ids, up to `mark`: [`AffinityMemory::shared`].
    pub fn must_wait_for(&self, mark: LearnedCount) -> bool {
        self.is_shared && mark != LearnedCount(0) && !self.status.write_fails.load(Ordering::Relaxed)
    }

    /// Waits until all replicas can know the new ids of an answer, up to `mark`, at most [`WAIT`]. Does not wait for an unshared
    /// or slow store. Returns whether the replicas can know them.
    pub async fn shared(&self, mark: LearnedCount) -> bool {
        if !self.is_shared || mark == LearnedCount(0) {
            return true;
        }
        let mut written = self.waiting.written.subscribe();
        let waited = timeout(WAIT, written.wait_for(|written| written.fails || written.count >= mark.0)).await;
        let known = waited.is_ok_and(|written| written.is_ok_and(|written| written.count >= mark.0));
        self.status.waited(known);
        known
    }
}

impl WriteQueue {
    fn push(&self, rows: Vec<(Reference, StoredOrigin)>, status: &AffinityStatus) -> LearnedCount {
        if rows.is_empty() {
            return LearnedCount(0);
        }
        let mut waiting = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.rows.len() + rows.len() > MAX_WAITING {
            status.dropped.fetch_add(rows.len() as u64, Ordering::Relaxed);
            return LearnedCount(u64::MAX);
        }
        waiting.arrived += rows.len() as u64;
        status.waiting.fetch_add(rows.len() as u64, Ordering::Relaxed);
        waiting.rows.extend(rows);
        let mark = LearnedCount(waiting.arrived);
        drop(waiting);
        self.arrived.notify_one();
        mark
    }

    /// Takes the first entries, for writing.
    fn first(&self, most: usize) -> Vec<(Reference, StoredOrigin)> {
        let mut waiting = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let count = waiting.rows.len().min(most);
        waiting.rows.drain(..count).collect()
    }

    /// Counts written entries.
    fn is_written(&self, count: usize, status: &AffinityStatus) {
        status.waiting.fetch_sub(count as u64, Ordering::Relaxed);
        self.written.send_modify(|written| written.count += count as u64);
    }

    fn fails(&self, fails: bool) {
        self.written.send_if_modified(|written| std::mem::replace(&mut written.fails, fails) != fails);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::origin::ReferenceKind;

    #[tokio::test(start_paused = true)]
    async fn a_slow_file_is_waited_for_and_a_slow_server_is_not() {
        for (shared, expected) in [(false, LookupResult::Own), (true, LookupResult::LookupFailed)] {
            let settings =
                config::AffinitySettings { ttl: Duration::from_secs(60), max_entries: 10, shared, unknown_ids: None };
            let origins = AffinityMemory::new(&settings, shared, Arc::default());
            let owner = Owner::new("a", None);
            let store = async {
                let batch = origins.lookups.next(10).await;
                tokio::time::sleep(WAIT * 10).await;
                let entry = StoredOrigin { origin: Origin { account: 1, owner }, used_s: 1 };
                origins.lookups.answer(batch, vec![Some(entry)]);
            };
            let named = [Reference::new(ReferenceKind::Response, b"resp_1")];
            let (recalled, ()) = tokio::join!(origins.recall_all(&named, owner, Duration::from_secs(2)), store);
            assert_eq!(recalled[0].found(), expected);
        }
    }
}
