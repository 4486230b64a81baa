//! Affinity's memory: where state came from, and whose it is.
//!
//! One for all workers. What is learned is in memory at once, and in the store a moment later (`keeping`), so that it
//! survives a restart and other replicas can know it. What memory does not hold is asked of the store, for at most
//! [`WAIT`], or [`WAIT_FOR_FILE`]: a store that is slow or away is not asked again before it answered by itself in time.

mod decide;
mod keeping;
mod lookups;
mod memory;
mod met;

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
    config,
    domain::{
        affinity::{AffinityStatus, LookupResult},
        origin::{Origin, Owner, Reference},
    },
    store::origins::{EntryLifetime, StoredOrigin},
};

use self::{
    lookups::Lookups,
    memory::{LearnResult, OriginTable},
    met::{Met, Rare},
};

pub use decide::{Decision, LookedUpReference, ReferenceRole, decide};
pub use keeping::AffinityStoreThread;

/// The longest that a request waits for a store that is shared. The promise is 50 ms: the rest is for timers and for a machine
/// that is busy.
pub const WAIT: Duration = Duration::from_millis(40);

/// The same for the file of this process. It does not go away as a server does: a disk that syncs or a machine that is busy (all
/// of memory has to be looked up after a restart) answers late, and a request whose state cannot be told fails or goes astray.
pub const WAIT_FOR_FILE: Duration = Duration::from_secs(1);

/// References that wait for a store that is away: at 48 bytes each, 5 MiB. Those beyond it are in memory only, from which all
/// is written once the store is back.
const WAITING: usize = 100_000;

/// For each entry that memory may hold, the store may hold so many.
const ROWS: u64 = 10;

/// The most memory that all of it comes to, in bytes, with so many entries.
pub fn most_bytes(entries: usize) -> u64 {
    memory::most_bytes(entries) + (WAITING * size_of::<(Reference, StoredOrigin)>()) as u64
}

/// The memory.
#[derive(Debug)]
pub struct AffinityMemory {
    memory: OriginTable,
    met: Met,
    ttl_s: AtomicU32,
    /// Rows of the store.
    most_rows: AtomicU64,
    /// Whether others may learn what is learned here.
    is_shared: bool,
    lookups: Lookups,
    waiting: WriteQueue,
    condition: Arc<AffinityStatus>,
}

/// What is known of a reference that somebody named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recalled {
    /// It came from there, and is his who named it, or of his group.
    Own(Origin),
    /// It came from there, and is somebody else's. Only `encrypted_content` may use it.
    Foreign(Origin),
    /// Nobody learned it, or too long ago.
    Unknown,
    /// The store could not be asked. What memory tells of it all the same is somebody else's: to whom named it, that must look
    /// like everything else that cannot be told.
    CannotTell(Option<Origin>),
}

impl Recalled {
    /// Where it came from, whosever it is: for `encrypted_content`, which is bound to its account and not to a key.
    pub fn anyones(self) -> Option<Origin> {
        match self {
            Self::Own(origin) | Self::Foreign(origin) | Self::CannotTell(Some(origin)) => Some(origin),
            Self::Unknown | Self::CannotTell(None) => None,
        }
    }

    /// What is known of a reference that `by` named.
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
            Self::CannotTell(_) => LookupResult::CannotTell,
        }
    }
}

/// Something that an answer teaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lesson {
    /// What was named.
    pub reference: Reference,
    /// The provider made it, and the answer holds nothing of a caller's.
    pub is_made: bool,
    /// Its text does not tell its kind.
    pub is_opaque: bool,
}

/// How much was learned up to here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "with a shared store, what is new is waited for before anybody hears of it: Origins::shared"]
pub struct LearnedCount(u64);

/// What waits to be written to the store.
#[derive(Debug)]
struct WriteQueue {
    rows: Mutex<Rows>,
    came: Notify,
    written: watch::Sender<WriteProgress>,
}

/// How far the store is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct WriteProgress {
    /// How much was written of what came.
    count: u64,
    /// It is slow or away: nobody waits for the rest.
    fails: bool,
}

#[derive(Debug, Default)]
struct Rows {
    rows: VecDeque<(Reference, StoredOrigin)>,
    /// How many came in all.
    came: u64,
}

fn ttl_s(ttl: Duration) -> u32 {
    u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX)
}

impl AffinityMemory {
    /// An empty one.
    fn new(settings: &config::AffinitySettings, shared: bool, condition: Arc<AffinityStatus>) -> Self {
        Self {
            memory: OriginTable::new(settings.max_entries, Arc::clone(&condition)),
            met: Met::default(),
            ttl_s: AtomicU32::new(ttl_s(settings.ttl)),
            most_rows: AtomicU64::new(settings.max_entries as u64 * ROWS),
            is_shared: shared,
            lookups: Lookups::default(),
            waiting: WriteQueue { rows: Mutex::default(), came: Notify::new(), written: watch::Sender::default() },
            condition,
        }
    }

    /// Takes over settings that may change while it runs.
    pub fn configure(&self, settings: &config::AffinitySettings) {
        self.memory.set_most(settings.max_entries);
        self.ttl_s.store(ttl_s(settings.ttl), Ordering::Relaxed);
        self.most_rows.store(settings.max_entries as u64 * ROWS, Ordering::Relaxed);
    }

    fn life(&self, now: Duration) -> EntryLifetime {
        EntryLifetime { now_s: ttl_s(now), ttl_s: self.ttl_s.load(Ordering::Relaxed) }
    }

    /// Remembers where references came from, `now` being the time since 1970-01-01 UTC. Never waits: who asks for them next
    /// in this process finds them. Where one is somebody else's, or of another account, it stays so.
    pub fn learn(&self, references: &[Reference], origin: Origin, now: Duration) -> LearnedCount {
        let lesson = |reference: &Reference| Lesson { reference: *reference, is_made: false, is_opaque: false };
        self.learn_each(&references.iter().map(lesson).collect::<Vec<_>>(), origin, now)
    }

    /// The same of what an answer teaches. An account may give the same id to several owners, as a relay does that keeps answers, or
    /// one whose ids are constant: each of them may use what he got. The first one keeps it, the others are remembered beside him.
    pub fn learn_each(&self, lessons: &[Lesson], origin: Origin, now: Duration) -> LearnedCount {
        let life = self.life(now);
        let (mut rows, mut new, mut taken) = (Vec::new(), 0, 0);
        for lesson in lessons {
            let learned = self.memory.learn(lesson.reference, origin, life);
            if lesson.is_opaque {
                self.meet(Rare::Opaque, life, &mut rows);
            }
            let (reference, learned) = match learned {
                LearnResult::Shared if lesson.is_made => {
                    taken += 1;
                    self.meet(Rare::Shared, life, &mut rows);
                    let beside = lesson.reference.for_owner(origin.owner);
                    (beside, self.memory.learn(beside, origin, life))
                }
                learned => (lesson.reference, learned),
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
        self.condition.learned.fetch_add(new, Ordering::Relaxed);
        self.condition.foreign.fetch_add(taken, Ordering::Relaxed);
        let mark = self.waiting.push(rows, &self.condition);
        // Nobody waits for what others know already.
        if new > 0 { mark } else { LearnedCount(0) }
    }

    /// Something rare was met: that is remembered as long as what it is about.
    fn meet(&self, rare: Rare, life: EntryLifetime, rows: &mut Vec<(Reference, StoredOrigin)>) {
        self.met.note(rare);
        if let LearnResult::New(entry) | LearnResult::Renewed(entry) =
            self.memory.learn(rare.mark(), Rare::ORIGIN, life)
        {
            rows.push((rare.mark(), entry));
        }
    }

    /// Whether upstreams give ids whose text does not tell their kind, so that requests have to be searched for such texts.
    pub fn has_opaque(&self) -> bool {
        self.met.has(Rare::Opaque)
    }

    /// Counts references of an answer that had too many to learn them all.
    pub fn overlook(&self, references: u64) {
        self.condition.skipped.fetch_add(references, Ordering::Relaxed);
    }

    /// What is known of references that `by` named, each in its place. Memory tells of his own at once; for everything else
    /// the store is asked, also where memory knows that it is somebody else's, so that nobody can tell by the time it took.
    pub async fn recall_all(&self, references: &[Reference], by: Owner, now: Duration) -> Vec<Recalled> {
        let mut recalled = Vec::with_capacity(references.len());
        let mut asked = Vec::new();
        let remembered = self.remembered(references, by, now);
        for (place, (reference, origin)) in references.iter().zip(remembered).enumerate() {
            recalled.push(match origin {
                Some(origin) if origin.owner.shares_with(by) => Recalled::Own(origin),
                others => {
                    asked.push((place, *reference));
                    asked.extend(self.beside(*reference, by).map(|beside| (place, beside)));
                    Recalled::CannotTell(others)
                }
            });
        }
        if !asked.is_empty() {
            self.condition.store_lookups.fetch_add(asked.len() as u64, Ordering::Relaxed);
            let answers = self.ask(asked.iter().map(|(_, reference)| *reference).collect(), by).await;
            for ((place, reference), stored) in asked.into_iter().zip(answers.into_iter().flatten()) {
                let is_beside = references.get(place) != Some(&reference);
                match recalled.get_mut(place) {
                    // What stands beside another owner's says nothing where it is not there.
                    Some(_) if is_beside && stored.is_none() => {}
                    Some(recalled) => *recalled = self.judge(reference, *recalled, stored, by),
                    None => {}
                }
            }
        }
        self.count(&recalled);
        recalled
    }

    /// What memory alone tells of references, each in its place: for those on which so little depends that no request waits for the
    /// store.
    pub fn recall_here(&self, references: &[Reference], by: Owner, now: Duration) -> Vec<Recalled> {
        let remembered = self.remembered(references, by, now).into_iter();
        let recalled: Vec<_> = remembered.map(|origin| Recalled::of(origin, by)).collect();
        self.count(&recalled);
        recalled
    }

    /// What memory knows, whosever it is, each in its place. What is used again is written down when it is time for that.
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
        let is_his = |origin: &Origin| origin.owner.shares_with(by);
        let either = |reference: &Reference| {
            let first = recall(*reference);
            match self.beside(*reference, by).filter(|_| !first.as_ref().is_some_and(is_his)) {
                Some(beside) => recall(beside).filter(is_his).or(first),
                None => first,
            }
        };
        let origins = references.iter().map(either).collect();
        let _ = self.waiting.push(renewed, &self.condition);
        origins
    }

    /// Where it is remembered that `by` got the id of a reference which is another owner's, too.
    fn beside(&self, reference: Reference, by: Owner) -> Option<Reference> {
        self.met.has(Rare::Shared).then(|| reference.for_owner(by))
    }

    fn count(&self, recalled: &[Recalled]) {
        for found in LookupResult::ALL {
            let count = recalled.iter().filter(|recalled| recalled.found() == found).count();
            self.condition.count(found, count as u64);
        }
    }

    /// What is known of a reference after the store was asked.
    fn judge(&self, reference: Reference, known: Recalled, stored: Option<StoredOrigin>, by: Owner) -> Recalled {
        // What is somebody else's stays out of memory, as what nobody knows does: the same work for both, so that the time which it
        // takes tells nothing. The store is asked for it every time in any case.
        if let Some(entry) = stored.filter(|entry| entry.origin.owner.shares_with(by)) {
            self.memory.take(reference, entry);
        }
        // What is in memory only was not written yet.
        Recalled::of(stored.map(|entry| entry.origin).or_else(|| known.anyones()), by)
    }

    /// Whether the store is slow or away for everybody, so that it is not asked.
    pub fn is_down(&self) -> bool {
        self.condition.read_fails.load(Ordering::Relaxed)
    }

    /// The longest that a request waits for the store.
    fn patience(&self) -> Duration {
        if self.is_shared { WAIT } else { WAIT_FOR_FILE }
    }

    /// What the store knows of references; none where it cannot be asked.
    async fn ask(&self, references: Vec<Reference>, by: Owner) -> Option<Vec<Option<StoredOrigin>>> {
        if self.condition.read_fails.load(Ordering::Relaxed) {
            return None;
        }
        let answer = self.lookups.ask(by.key, references)?;
        timeout(self.patience(), answer).await.ok()?.ok()
    }

    /// Whether anybody has to wait before he tells others of what was learned up to `mark`: [`AffinityMemory::shared`].
    pub fn is_waited_for(&self, mark: LearnedCount) -> bool {
        self.is_shared && mark != LearnedCount(0) && !self.condition.write_fails.load(Ordering::Relaxed)
    }

    /// Waits until what was learned up to `mark` can be known by everybody who shares the store, but no longer than [`WAIT`],
    /// and not at all where nobody does or the store is slow. Returned is whether it can.
    pub async fn shared(&self, mark: LearnedCount) -> bool {
        if !self.is_shared || mark == LearnedCount(0) {
            return true;
        }
        let mut written = self.waiting.written.subscribe();
        let waited = timeout(WAIT, written.wait_for(|written| written.fails || written.count >= mark.0)).await;
        let known = waited.is_ok_and(|written| written.is_ok_and(|written| written.count >= mark.0));
        self.condition.waited(known);
        known
    }
}

impl WriteQueue {
    fn push(&self, rows: Vec<(Reference, StoredOrigin)>, condition: &AffinityStatus) -> LearnedCount {
        if rows.is_empty() {
            return LearnedCount(0);
        }
        let mut waiting = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.rows.len() + rows.len() > WAITING {
            condition.dropped.fetch_add(rows.len() as u64, Ordering::Relaxed);
            return LearnedCount(u64::MAX);
        }
        waiting.came += rows.len() as u64;
        condition.waiting.fetch_add(rows.len() as u64, Ordering::Relaxed);
        waiting.rows.extend(rows);
        let mark = LearnedCount(waiting.came);
        drop(waiting);
        self.came.notify_one();
        mark
    }

    /// Takes the first ones, which are to be written.
    fn first(&self, most: usize) -> Vec<(Reference, StoredOrigin)> {
        let mut waiting = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let count = waiting.rows.len().min(most);
        waiting.rows.drain(..count).collect()
    }

    /// So many are written.
    fn is_written(&self, count: usize, condition: &AffinityStatus) {
        condition.waiting.fetch_sub(count as u64, Ordering::Relaxed);
        self.written.send_modify(|written| written.count += count as u64);
    }

    fn fails(&self, fails: bool) {
        self.written.send_if_modified(|written| std::mem::replace(&mut written.fails, fails) != fails);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::origin::Kind;

    #[tokio::test(start_paused = true)]
    async fn a_file_that_is_late_is_waited_for_and_a_server_is_not() {
        for (shared, expected) in [(false, LookupResult::Own), (true, LookupResult::CannotTell)] {
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
            let named = [Reference::new(Kind::Response, b"resp_1")];
            let (recalled, ()) = tokio::join!(origins.recall_all(&named, owner, Duration::from_secs(2)), store);
            assert_eq!(recalled[0].found(), expected);
        }
    }
}
