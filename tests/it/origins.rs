//! The affinity store: what every backend has to do (SQLite and a real Redis), what survives a restart, and what
//! happens while the store is unavailable.

use std::{
    fs,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tempfile::TempDir;
use tidegate::{
    affinity::{AffinityStoreThread, Recalled, WAIT},
    concurrent::affinity_status::AffinityStatus,
    config::{self, AffinitySettings, SharedLimits, WhenRedisIsAway},
    domain::{
        affinity::LookupResult,
        clock::Clock,
        origin::{Origin, Owner, Reference, ReferenceKind},
        random::RandomBytes,
    },
    store::origins::{EntryLifetime, FILE, OriginStore, OriginStoreLocation, StoreError, StoredOrigin},
};
use tokio::time::Instant;

use crate::support::{
    client::Client,
    database::until,
    gateway::{self, Gateway},
    redis::RedisServer,
    soon,
    upstream::{Upstream, json},
};

const DAY: u32 = 86_400;

fn at_redis(redis: &RedisServer) -> config::RedisSettings {
    config::RedisSettings::plain("127.0.0.1", redis.port)
}

/// Both backends, each empty, with the folder and the server that hold them.
async fn both_backends() -> (TempDir, RedisServer, [OriginStoreLocation; 2]) {
    let folder = tempfile::tempdir().unwrap();
    let redis = RedisServer::start();
    let places = [OriginStoreLocation::Sqlite(folder.path().join(FILE)), OriginStoreLocation::Redis(at_redis(&redis))];
    (folder, redis, places)
}

async fn open(place: &OriginStoreLocation) -> OriginStore {
    OriginStore::open(place, RandomBytes::system()).await.unwrap()
}

fn reference(number: u64) -> Reference {
    Reference::new(ReferenceKind::Response, format!("resp_{number}").as_bytes())
}

fn origin(account: u64, key: &str) -> Origin {
    Origin { account, owner: Owner::new(key, None) }
}

/// Thirty days, at a time far from Redis's own clock: only differences count.
fn at(now_s: u32) -> EntryLifetime {
    EntryLifetime { now_s, ttl_s: 30 * DAY }
}

fn now() -> Duration {
    Clock::system().since_epoch()
}

fn entry(origin: Origin, used_s: u32) -> StoredOrigin {
    StoredOrigin { origin, used_s }
}

#[tokio::test]
async fn an_id_stays_with_its_first_owner_and_account() {
    let (_folder, _redis, places) = both_backends().await;
    for place in places {
        let (mut one, mut other) = (open(&place).await, open(&place).await);
        assert_eq!(one.secret(), other.secret(), "{place}");
        let (r, s, a, b) = (reference(1), reference(2), origin(u64::MAX, "a"), origin(2, "b"));
        let start = 1_000 * DAY;
        assert_eq!(one.recall(&[], at(start)).await.unwrap(), [], "{place}");
        assert_eq!(one.learn(&[], at(start)).await.unwrap(), [], "{place}");
        assert_eq!(one.recall(&[r, r], at(start)).await.unwrap(), [None, None], "{place}");
        assert_eq!(one.learn(&[(r, entry(a, start))], at(start)).await.unwrap(), [None], "{place}");
        assert_eq!(
            other.recall(&[s, r, s, r], at(start)).await.unwrap()[1..],
            [Some(entry(a, start)), None, Some(entry(a, start))]
        );
        // Another owner, and the same owner with another account: neither takes the id over, and both learn its owner.
        let all = [(r, entry(b, start)), (s, entry(b, start)), (r, entry(origin(3, "a"), start))];
        let stays = other.learn(&all, at(start)).await.unwrap();
        assert_eq!(stays, [Some(entry(a, start)), None, Some(entry(a, start))], "{place}");
        // Only its owner extends the lifetime of an id, and a late report never shortens it.
        let later = start + 20 * DAY;
        assert_eq!(other.learn(&[(r, entry(a, later)), (r, entry(a, start))], at(later)).await.unwrap(), [None, None]);
        assert_eq!(one.learn(&[(s, entry(a, later))], at(later)).await.unwrap(), [Some(entry(b, start))], "{place}");
        assert_eq!(one.recall(&[r], at(later)).await.unwrap(), [Some(entry(a, later))], "{place}");
        let over = start + 31 * DAY;
        assert_eq!(one.recall(&[r, s], at(over)).await.unwrap(), [Some(entry(a, later)), None], "{place}");
        one.close().await;
        other.close().await;
    }
}

#[tokio::test]
async fn an_expired_id_can_get_a_new_owner() {
    let (_folder, redis, places) = both_backends().await;
    let (r, a, b) = (reference(1), origin(1, "a"), origin(2, "b"));
    for place in places {
        let mut store = open(&place).await;
        let short = |now_s| EntryLifetime { now_s, ttl_s: 2 };
        store.learn(&[(r, entry(a, 100))], short(100)).await.unwrap();
        if place.is_shared() {
            until("the id to expire in Redis", async || store.recall(&[r], short(100)).await.unwrap() == [None]).await;
            let names = redis.list("KEYS *");
            assert_eq!(names, ["tidegate:o:secret"]);
        }
        assert_eq!(store.learn(&[(r, entry(b, 102))], short(102)).await.unwrap(), [None], "{place}");
        assert_eq!(store.recall(&[r], short(102)).await.unwrap(), [Some(entry(b, 102))], "{place}");
        store.close().await;
    }
}

#[tokio::test]
async fn thousands_of_ids_are_stored_and_found() {
    let (_folder, redis, places) = both_backends().await;
    for place in places {
        let mut store = open(&place).await;
        let all: Vec<_> = (0..4096).map(|number| (reference(number), entry(origin(number, "a"), DAY))).collect();
        assert!(store.learn(&all, at(DAY)).await.unwrap().iter().all(Option::is_none));
        let named: Vec<_> = (0..8192).rev().map(reference).collect();
        let began = Instant::now();
        let found = store.recall(&named, at(DAY)).await.unwrap();
        eprintln!("{place}: 8192 ids are looked up in {:?}", began.elapsed());
        for (number, found) in (0..8192).rev().zip(found) {
            assert_eq!(found.map(|it| it.origin.account), (number < 4096).then_some(number), "{place}");
        }
        store.close().await;
    }
    let keys = redis.list("KEYS *");
    assert_eq!(keys.len(), 4097);
    let key = keys.iter().find(|key| !key.ends_with("secret")).unwrap();
    let number = |command: &str| redis.ask(&format!("{command} {key}"))[1..].parse::<u32>().unwrap();
    assert!(number("TTL") > 29 * DAY);
    let bytes = number("MEMORY USAGE");
    eprintln!("an id takes {bytes} bytes of Redis, beside its places in two tables");
    assert!(bytes < 200);
}

#[tokio::test]
async fn ids_leave_room_in_redis_for_limits() {
    let redis = RedisServer::start();
    let mut store = open(&OriginStoreLocation::Redis(at_redis(&redis))).await;
    let used = redis.list("INFO memory").iter().find_map(|line| line.strip_prefix("used_memory:")?.parse::<u64>().ok());
    assert_eq!(redis.ask(&format!("CONFIG SET maxmemory {}", used.unwrap() * 5 / 4)), "+OK");
    let row = [(reference(1), entry(origin(1, "a"), DAY))];
    assert!(matches!(store.learn(&row, at(DAY)).await, Err(StoreError::Full)));
    assert_eq!(redis.ask("SET limit 1"), "+OK");
    assert_eq!(store.recall(&[reference(1)], at(DAY)).await.unwrap(), [None]);
    assert_eq!(redis.ask("CONFIG SET maxmemory 1gb"), "+OK");
    assert_eq!(store.learn(&row, at(DAY)).await.unwrap(), [None]);
}

#[tokio::test]
async fn several_processes_may_open_an_empty_store_at_once() {
    let (_folder, _redis, places) = both_backends().await;
    for place in places {
        let open = async || open(&place).await;
        let (a, b, c, d) = tokio::join!(open(), open(), open(), open());
        for store in [&b, &c, &d] {
            assert_eq!(a.secret(), store.secret(), "{place}");
        }
    }
}

#[tokio::test]
async fn a_store_holds_no_id_in_clear_and_two_stores_hold_different_hashes() {
    let folder = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for name in ["one", "other"] {
        let path = folder.path().join(name);
        let mut store = open(&OriginStoreLocation::Sqlite(path.clone())).await;
        store.learn(&[(reference(1), entry(origin(1, "a"), DAY))], at(DAY)).await.unwrap();
        store.close().await;
        let bytes = fs::read(&path).unwrap();
        assert!(!bytes.windows(16).any(|part| part == reference(1).0));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        files.push(bytes);
    }
    assert_ne!(files[0], files[1]);
}

#[tokio::test]
async fn sqlite_drops_expired_ids_and_ids_beyond_the_maximum() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(&OriginStoreLocation::Sqlite(folder.path().join(FILE))).await;
    // The ids are one second apart.
    let all: Vec<_> = (0..5000_u32).map(|n| (reference(n.into()), entry(origin(1, "a"), 40 * DAY + n))).collect();
    store.learn(&all, at(40 * DAY)).await.unwrap();
    let there = async |store: &mut OriginStore, now_s| {
        let named: Vec<_> = all.iter().map(|(reference, _)| *reference).collect();
        let found = store.recall(&named, EntryLifetime { now_s, ttl_s: u32::MAX }).await.unwrap();
        found.iter().position(Option::is_some).map(|first| (first, found.iter().flatten().count()))
    };
    // The first 1500 have expired, and the next 500 are too many.
    let now_s = 70 * DAY + 1499;
    let mut rounds = 1;
    while store.sweep(at(now_s), 3000).await.unwrap() {
        rounds += 1;
    }
    assert_eq!((there(&mut store, now_s).await, rounds), (Some((1500, 3500)), 2));
    while store.sweep(at(now_s), 3000).await.unwrap() {}
    assert_eq!(there(&mut store, now_s).await, Some((2000, 3000)));
    assert!(!store.sweep(at(now_s), 3000).await.unwrap());
    store.close().await;
}

/// A replica's memory with its store.
struct Replica {
    keeping: AffinityStoreThread,
    condition: Arc<AffinityStatus>,
}

impl Replica {
    fn start(place: &OriginStoreLocation) -> Self {
        let settings = AffinitySettings {
            ttl: Duration::from_secs(u64::from(30 * DAY)),
            max_entries: 1_000_000,
            shared: place.is_shared(),
            unknown_ids: None,
        };
        let condition = Arc::<AffinityStatus>::default();
        let keeping = AffinityStoreThread::start(
            place.clone(),
            &settings,
            Clock::system(),
            RandomBytes::system(),
            Arc::clone(&condition),
        );
        Self { keeping: keeping.unwrap(), condition }
    }

    async fn recall(&self, reference: Reference, by: Origin) -> Recalled {
        let recalled = self.keeping.origins.recall_all(&[reference], by.owner, now()).await;
        assert_eq!(recalled.len(), 1);
        recalled[0]
    }

    /// The record of ids from a store that works. On a busy machine the store may be late now and then.
    async fn told(&self, references: &[Reference], by: Origin) -> Vec<Recalled> {
        let telling = async {
            loop {
                let recalled = self.keeping.origins.recall_all(references, by.owner, now()).await;
                if !recalled.iter().any(|it| matches!(it, Recalled::LookupFailed(_))) {
                    return recalled;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        soon("the records of the ids", telling).await
    }

    async fn tells(&self, reference: Reference, by: Origin) -> Recalled {
        self.told(&[reference], by).await[0]
    }

    /// Records an id and waits until the store has it. Returns whether it does, and the time that took.
    async fn learn(&self, reference: Reference, origin: Origin) -> (bool, Duration) {
        let began = Instant::now();
        let mark = self.keeping.origins.learn(&[reference], origin, now());
        (self.keeping.origins.shared(mark).await, began.elapsed())
    }

    async fn wait_for_store(&self) {
        until("the store's faults to clear", async || self.condition.faults().iter().all(|(_, fails)| !fails)).await;
    }

    async fn has_written(&self) {
        until("all is written", async || self.condition.waiting.load(Ordering::Relaxed) == 0).await;
    }

    fn counted(&self, found: LookupResult) -> u64 {
        self.condition.lookups().find(|(known, _)| *known == found).unwrap().1
    }
}

/// Nothing may take longer, however busy the machine is.
const GENEROUS: Duration = Duration::from_millis(400);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_are_known_at_once_and_after_a_restart() {
    let (_folder, _redis, places) = both_backends().await;
    let (a, b) = (origin(1, "a"), origin(2, "b"));
    for place in places {
        let replica = Replica::start(&place);
        let all: Vec<_> = (0..1000).map(reference).collect();
        let _ = replica.keeping.origins.learn(&all, a, now());
        assert_eq!(replica.recall(reference(7), a).await, Recalled::Own(a), "{place}");
        assert_eq!(replica.condition.store_lookups.load(Ordering::Relaxed), 0, "memory must answer without the store");
        assert_eq!(replica.tells(reference(7), b).await, Recalled::Foreign(a), "{place}");
        let asked = replica.condition.store_lookups.load(Ordering::Relaxed);
        assert!(asked >= 1, "a store lookup keeps the duration the same for every owner");
        assert_eq!(replica.tells(reference(1000), b).await, Recalled::Unknown, "{place}");
        assert!(replica.condition.store_lookups.load(Ordering::Relaxed) > asked);
        replica.keeping.end();

        let replica = Replica::start(&place);
        assert_eq!(replica.condition.entries.load(Ordering::Relaxed), 0);
        let mut expected = vec![Recalled::Own(a); 1000];
        expected.push(Recalled::Unknown);
        let named: Vec<_> = (0..=1000).map(reference).collect();
        assert!(replica.told(&named, a).await == expected, "{place}");
        let (asked, own) =
            (replica.condition.store_lookups.load(Ordering::Relaxed), replica.counted(LookupResult::Own));
        assert_eq!(replica.condition.entries.load(Ordering::Relaxed), 1000);
        assert!(replica.keeping.origins.recall_all(&named[..1000], a.owner, now()).await == expected[..1000]);
        assert_eq!(
            replica.condition.store_lookups.load(Ordering::Relaxed),
            asked,
            "memory must answer without the store"
        );
        assert_eq!((replica.counted(LookupResult::Own), replica.counted(LookupResult::Unknown)), (own + 1000, 1));
        assert_eq!(replica.tells(reference(7), b).await, Recalled::Foreign(a), "{place}");
        // Another owner cannot take the id over.
        let _ = replica.learn(reference(7), b).await;
        assert_eq!(replica.tells(reference(7), b).await, Recalled::Foreign(a), "{place}");
        assert_eq!(replica.counted(LookupResult::Foreign), 2);
        replica.keeping.end();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_that_is_only_in_the_store_keeps_its_owner() {
    let (_folder, _redis, places) = both_backends().await;
    let (a, b) = (origin(1, "a"), origin(2, "b"));
    for place in places {
        let before = Replica::start(&place);
        let _ = before.learn(reference(1), a).await;
        before.keeping.end();
        // Memory does not know the id and records it for another owner: the store decides.
        let replica = Replica::start(&place);
        let _ = replica.learn(reference(1), b).await;
        replica.has_written().await;
        assert_eq!(replica.tells(reference(1), a).await, Recalled::Own(a), "{place}");
        assert_eq!(replica.tells(reference(1), b).await, Recalled::Foreign(a), "{place}");
        assert_eq!(replica.condition.foreign.load(Ordering::Relaxed), 1, "{place}");
        replica.keeping.end();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_loses_only_the_ids_of_the_last_moment() {
    let folder = tempfile::tempdir().unwrap();
    let place = OriginStoreLocation::Sqlite(folder.path().join(FILE));
    let replica = Replica::start(&place);
    let _ = replica.keeping.origins.learn(&[reference(1)], origin(1, "a"), now());
    let began = Instant::now();
    replica.has_written().await;
    eprintln!("in the file after {:?}", began.elapsed());
    // Another process finds the id while this one still runs and has closed nothing.
    let life = EntryLifetime { now_s: u32::try_from(now().as_secs()).unwrap(), ttl_s: 30 * DAY };
    let found = open(&place).await.recall(&[reference(1)], life).await.unwrap();
    assert_eq!(found[0].unwrap().origin, origin(1, "a"));
    replica.keeping.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_know_each_others_ids_at_once() {
    let redis = RedisServer::start();
    let place = OriginStoreLocation::Redis(at_redis(&redis));
    let (one, other) = (Replica::start(&place), Replica::start(&place));
    let a = origin(1, "a");
    let (mut waited, mut asked, mut unsure) = (Vec::new(), Vec::new(), 0);
    for number in 0..1000 {
        let (from, to) = if number % 2 == 0 { (&one, &other) } else { (&other, &one) };
        let (known, took) = from.learn(reference(number), a).await;
        let began = Instant::now();
        let recalled = to.recall(reference(number), a).await;
        // A late store is reported as such. An id that is reported as known is known.
        match recalled {
            Recalled::Own(found) => assert_eq!(found, a),
            Recalled::LookupFailed(None) => unsure += 1,
            other => assert!(!known && other == Recalled::Unknown, "{number}: {other:?}"),
        }
        unsure += usize::from(!known);
        waited.push(took);
        asked.push(began.elapsed());
        assert!(took < GENEROUS && began.elapsed() < GENEROUS);
    }
    eprintln!("{unsure} of 1000 took longer than {WAIT:?}");
    assert!(unsure < 100, "{unsure}");
    for number in 0..1000 {
        for replica in [&one, &other] {
            until("all ids to be known", async || replica.recall(reference(number), a).await == Recalled::Own(a)).await;
        }
    }
    waited.sort_unstable();
    asked.sort_unstable();
    eprintln!("learned until shared: median {:?}, longest {:?}", waited[500], waited[999]);
    eprintln!("asked there: median {:?}, longest {:?}", asked[500], asked[999]);
    one.keeping.end();
    other.keeping.end();
}

/// Memory while Redis is away: the time of a request, and the answers.
async fn assert_works_without_redis(replica: &Replica, known: Origin) {
    let began = Instant::now();
    assert_eq!(replica.recall(reference(9999), known).await, Recalled::LookupFailed(None));
    let first = began.elapsed();
    let (shared, learned) = replica.learn(reference(100), known).await;
    assert!(!shared);
    eprintln!("the first waits {first:?} to ask and {learned:?} to be known");
    assert!(first < GENEROUS && learned < GENEROUS, "{first:?} {learned:?}");
    until("the fault to be noticed", async || replica.condition.faults().iter().all(|(_, fails)| *fails)).await;
    let began = Instant::now();
    for number in 101..200 {
        let (shared, _) = replica.learn(reference(number), known).await;
        assert!(!shared);
        assert_eq!(
            replica.recall(reference(number), known).await,
            Recalled::Own(known),
            "memory must answer without the store"
        );
        assert_eq!(replica.recall(reference(number + 10_000), known).await, Recalled::LookupFailed(None));
    }
    eprintln!("99 more of each: {:?}", began.elapsed());
    assert!(began.elapsed() < GENEROUS, "{:?}", began.elapsed());
    // For another owner, the id looks like one that the replica cannot know.
    assert_eq!(replica.recall(reference(150), origin(2, "b")).await, Recalled::LookupFailed(Some(known)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_survive_a_redis_that_hangs() {
    let redis = RedisServer::start();
    let place = OriginStoreLocation::Redis(at_redis(&redis));
    let (one, other) = (Replica::start(&place), Replica::start(&place));
    let a = origin(1, "a");
    let _ = one.learn(reference(1), a).await;
    one.wait_for_store().await;
    one.has_written().await;
    redis.pause();
    assert_works_without_redis(&one, a).await;
    redis.go_on();
    one.wait_for_store().await;
    one.has_written().await;
    for number in (1..2).chain(100..200) {
        assert_eq!(other.tells(reference(number), a).await, Recalled::Own(a), "{number}");
    }
    assert_eq!(one.tells(reference(9999), a).await, Recalled::Unknown);
    one.keeping.end();
    other.keeping.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_the_queue_of_ids_is_bounded() {
    let redis = RedisServer::start();
    let place = OriginStoreLocation::Redis(at_redis(&redis));
    let replica = Replica::start(&place);
    let a = origin(1, "a");
    redis.pause();
    let all: Vec<_> = (0..150_000).map(reference).collect();
    for part in all.chunks(1000) {
        let _ = replica.keeping.origins.learn(part, a, now());
    }
    let dropped = replica.condition.dropped.load(Ordering::Relaxed);
    assert!((40_000..50_001).contains(&dropped), "{dropped}");
    redis.go_on();
    let fresh = Replica::start(&place);
    until("all ids to be known", async || fresh.told(&all[149_000..], a).await == [Recalled::Own(a); 1000]).await;
    replica.keeping.end();
    fresh.keeping.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_are_written_again_after_redis_was_killed_and_came_back_empty() {
    let mut redis = RedisServer::start();
    let place = OriginStoreLocation::Redis(at_redis(&redis));
    let replica = Replica::start(&place);
    let a = origin(1, "a");
    let _ = replica.learn(reference(1), a).await;
    replica.wait_for_store().await;
    replica.has_written().await;
    redis.kill();
    assert_works_without_redis(&replica, a).await;
    redis.run();
    replica.wait_for_store().await;
    // The replica writes all ids of its memory again, also older ones.
    let fresh = Replica::start(&place);
    for number in (1..2).chain(100..200) {
        until("the id to be in Redis again", async || fresh.recall(reference(number), a).await == Recalled::Own(a))
            .await;
    }
    replica.keeping.end();
    fresh.keeping.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_are_written_again_after_redis_was_emptied() {
    let redis = RedisServer::start();
    let place = OriginStoreLocation::Redis(at_redis(&redis));
    let (one, other) = (Replica::start(&place), Replica::start(&place));
    let a = origin(1, "a");
    let all: Vec<_> = (0..5000).map(reference).collect();
    let _ = one.keeping.origins.learn(&all, a, now());
    one.has_written().await;
    assert_eq!(redis.ask("FLUSHALL"), "+OK");
    // Each replica notices by itself, whatever it does next. A replica that cannot know an id never says that the id
    // does not exist.
    until("the ids to be known again", async || {
        let mut recalled = Vec::new();
        // In portions that a slow machine looks up within the 40 ms that a request waits.
        for portion in all.chunks(250) {
            recalled.extend(other.keeping.origins.recall_all(portion, a.owner, now()).await);
        }
        let _ = one.learn(reference(5000), a).await;
        recalled.iter().all(|recalled| *recalled == Recalled::Own(a))
    })
    .await;
    one.wait_for_store().await;
    other.wait_for_store().await;
    let _ = other.learn(reference(6000), a).await;
    other.has_written().await;
    assert_eq!(one.tells(reference(6000), a).await, Recalled::Own(a), "both replicas use the same secret");
    one.keeping.end();
    other.keeping.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_are_kept_in_memory_while_redis_refuses_writes() {
    let redis = RedisServer::start();
    let place = OriginStoreLocation::Redis(at_redis(&redis));
    let (one, other) = (Replica::start(&place), Replica::start(&place));
    let a = origin(1, "a");
    let _ = one.learn(reference(1), a).await;
    one.has_written().await;
    one.wait_for_store().await;
    let ways = [("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"), ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE")];
    for (number, (away, back)) in (10..).zip(ways) {
        assert_eq!(redis.ask(away), "+OK");
        let (shared, took) = one.learn(reference(number), a).await;
        assert!(!shared && took < GENEROUS, "{away:?}: {took:?}");
        assert_eq!(other.tells(reference(1), a).await, Recalled::Own(a), "{away:?}: Redis can still be read");
        assert_eq!(other.tells(reference(number), a).await, Recalled::Unknown);
        let (shared, took) = one.learn(reference(number + 100), a).await;
        assert!(!shared && took < GENEROUS, "{away:?}: {took:?}");
        assert_eq!(redis.ask(back), "+OK");
        one.wait_for_store().await;
        one.has_written().await;
        assert_eq!(other.tells(reference(number), a).await, Recalled::Own(a), "{away:?}");
    }
    one.keeping.end();
    other.keeping.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_starts_without_redis_serves_from_memory() {
    let mut redis = RedisServer::start();
    let place = OriginStoreLocation::Redis(at_redis(&redis));
    redis.kill();
    let replica = Replica::start(&place);
    let a = origin(1, "a");
    assert_works_without_redis(&replica, a).await;
    redis.run();
    replica.wait_for_store().await;
    replica.has_written().await;
    assert_eq!(replica.tells(reference(1), a).await, Recalled::Unknown);
    replica.keeping.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_with_a_broken_store_file_serves_from_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE);
    fs::write(&path, [7; 10_000]).unwrap();
    let replica = Replica::start(&OriginStoreLocation::Sqlite(path.clone()));
    let a = origin(1, "a");
    let _ = replica.learn(reference(1), a).await;
    assert_eq!(replica.recall(reference(1), a).await, Recalled::Own(a));
    until("the fault to be noticed", async || replica.condition.faults().iter().all(|(_, fails)| *fails)).await;
    assert_eq!(replica.recall(reference(2), a).await, Recalled::LookupFailed(None));
    // An operator moves the broken file away.
    fs::remove_file(&path).unwrap();
    replica.wait_for_store().await;
    replica.has_written().await;
    assert_eq!(replica.tells(reference(2), a).await, Recalled::Unknown);
    let began = Instant::now();
    replica.keeping.end();
    assert!(began.elapsed() < Duration::from_secs(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_without_redis_takes_less_than_three_seconds() {
    let mut redis = RedisServer::start();
    let replica = Replica::start(&OriginStoreLocation::Redis(at_redis(&redis)));
    redis.kill();
    let _ = replica.learn(reference(1), origin(1, "a")).await;
    let began = Instant::now();
    replica.keeping.end();
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_shows_the_state_of_its_affinity_store() {
    let mut redis = RedisServer::start();
    let upstream = Upstream::fixed(json("200 OK", "{}")).await;
    let mut settings = gateway::config(&upstream.base_url());
    settings.sharing =
        Some(SharedLimits { redis: at_redis(&redis), replicas: 2, fail: WhenRedisIsAway::Share, patience: WAIT });
    settings.affinity.shared = true;
    redis.kill();
    let gateway = Gateway::start(settings);
    gateway.metric_becomes(r#"tidegate_affinity_fault{fault="read"}"#, 1.0).await;
    gateway.metric_becomes(r#"tidegate_affinity_fault{fault="write"}"#, 1.0).await;
    let mut operator = Client::connect(gateway.admin).await;
    let ready = soon("readiness", operator.get("/readyz")).await;
    let faults = ready.json()["affinity"]["faults"].clone();
    assert_eq!((ready.status, faults), (200, serde_json::json!(["read", "write"])));
    redis.run();
    gateway.metric_becomes(r#"tidegate_affinity_fault{fault="read"}"#, 0.0).await;
    gateway.metric_becomes(r#"tidegate_affinity_fault{fault="write"}"#, 0.0).await;
    for name in [
        "tidegate_affinity_entries",
        "tidegate_affinity_waiting",
        "tidegate_affinity_learned_total",
        "tidegate_affinity_foreign_total",
        "tidegate_affinity_skipped_total",
        "tidegate_affinity_store_lookups_total",
        "tidegate_affinity_dropped_total",
        r#"tidegate_affinity_lookups_total{result="own"}"#,
        r#"tidegate_affinity_lookups_total{result="cannot_tell"}"#,
    ] {
        assert_eq!(gateway.metric(name).await, 0.0, "{name}");
    }
}
