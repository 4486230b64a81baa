//! What limits do, whoever counts them: each test runs over memory and over a real Redis, with a clock of its own.

mod random;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
        mpsc,
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tidegate::{
    budgets::{Counter, LedgerSums, Spending},
    config::{Group, KeyLimits, ModelLimits, RedisSettings, SharedLimits, WhenRedisIsAway},
    domain::{
        clock::{Clock, UnixMillis},
        model_name::ModelPattern,
        money::{Budget, Currency, Exchange, MOST, Money, decimal},
        sharing::SharingStatus,
        spending::Spender,
        usage::UsageEstimate,
    },
    limits::{Identity, Limits, Meters, Permit, Quotas, Refused, Shared, Used},
};
use tokio::{runtime::Runtime, time::Instant};

use crate::support::{
    LONG,
    gateway::{config, key},
    redis::RedisServer,
};

const SECOND: u64 = 1_000_000;
const MINUTE: u64 = 60 * SECOND;

/// The time in Redis, in microseconds since 1970-01-01 UTC. Tests over Redis take turns.
static NOW: AtomicU64 = AtomicU64::new(0);
static TURN: Mutex<()> = Mutex::new(());

/// Names that no two tests share.
static NAMES: AtomicU32 = AtomicU32::new(0);

fn moved() -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(NOW.load(Ordering::SeqCst))
}

/// A runtime whose time stands still until a test moves it.
struct Time {
    /// While something blocks, time does not run ahead to the next timer.
    _blocks: mpsc::Sender<()>,
    runtime: Runtime,
}

impl Time {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let (blocks, blocked) = mpsc::channel::<()>();
        runtime.spawn_blocking(move || blocked.recv());
        // Ahead of the time of all other threads, to which no moment of the test is ever long ago.
        runtime.block_on(tokio::time::advance(Duration::from_secs(3600)));
        Self { _blocks: blocks, runtime }
    }
}

/// A Redis whose time a test moves.
struct There {
    server: RedisServer,
    _turn: MutexGuard<'static, ()>,
}

impl There {
    fn start() -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        NOW.store(1_760_000_000 * SECOND, Ordering::SeqCst);
        Self { server: RedisServer::start(), _turn: turn }
    }
}

/// What is configured for a key, its group, or a model.
#[derive(Clone, Copy, Debug, Default)]
struct Wanted {
    requests: Option<u32>,
    tokens: Option<u32>,
    at_once: Option<usize>,
    budget: Option<u64>,
}

const NOTHING: Wanted = Wanted { requests: None, tokens: None, at_once: None, budget: None };

impl Wanted {
    fn limits(self) -> KeyLimits {
        KeyLimits { requests: self.requests, tokens: self.tokens, in_flight: self.at_once }
    }

    fn budgets(self) -> Vec<Budget> {
        self.budget.iter().map(|nano| Budget::parse(&format!("{}CNY/total", decimal(*nano))).unwrap()).collect()
    }
}

/// All that a bench is made of.
#[derive(Clone, Default)]
struct Settings {
    name: Option<String>,
    key: Wanted,
    group: Wanted,
    model: Option<(&'static str, Wanted)>,
    replicas: u32,
}

/// A key and its group, their limits, and who counts them.
struct Bench<'a> {
    time: &'a Time,
    limits: Limits,
    spending: Arc<Spending>,
    shared: Option<(Arc<Shared>, Arc<SharingStatus>)>,
    /// How often the ledger was read.
    read: u64,
    /// What is asked for.
    model: Option<&'static str>,
}

/// Which limit refuses, whose it is, and for how many microseconds.
type Refusal = (&'static str, Spender, u64);

/// A budget is spent, or the rest of it set aside.
const SPENT: Refusal = ("budgets", Spender::Key, 0);
const RESERVED: Refusal = ("budgets_reserved", Spender::Key, SECOND);

fn why(refused: Refused) -> Refusal {
    match refused {
        Refused::Limited(limited) => {
            (limited.kind.name(), limited.whose, u64::try_from(limited.after.as_micros()).unwrap())
        }
        Refused::Unknown => panic!("it was decided without Redis"),
    }
}

impl<'a> Bench<'a> {
    fn new(time: &'a Time, there: Option<&There>, settings: Settings) -> Self {
        let mut config = config("http://127.0.0.1:1");
        let name = settings.name.unwrap_or_else(|| format!("k{}", NAMES.fetch_add(1, Ordering::Relaxed)));
        let (limits, budgets) = (settings.group.limits(), settings.group.budgets());
        config.groups = vec![Group { name: name.as_str().into(), limits, budgets, warn_at: Arc::default() }];
        let of_key = &mut config.keys[0];
        (of_key.name, of_key.group) = (name.as_str().into(), Some(0));
        (of_key.limits, of_key.budgets) = (settings.key.limits(), settings.key.budgets());
        of_key.limits_by_model = settings
            .model
            .iter()
            .map(|(model, wanted)| ModelLimits {
                model: ModelPattern((*model).into()),
                limits: wanted.limits(),
                budgets: wanted.budgets(),
            })
            .collect();
        let mut other = key("other", "sk-other");
        other.limits.requests = Some(u32::MAX);
        config.keys.push(other);

        let spending = Arc::<Spending>::default();
        let shared = there.map(|there| share(there, settings.replicas, &spending));
        let mut meters = Meters::new(&config, None, &spending, time.runtime.block_on(async { Instant::now() }));
        if let Some((shared, _)) = &shared {
            meters.share(Arc::clone(shared));
        }
        Self { time, limits: Limits::new(&config, &meters), spending, shared, read: 0, model: None }
    }

    /// What comes before the body of a request is read.
    fn admit(&self) -> Result<Permit, Refusal> {
        self.time.runtime.block_on(self.limits.admit(0)).map_err(why)
    }

    /// A request that will use so many tokens and cost so much.
    fn send(&self, tokens: u64, cost: u64) -> Result<Permit, Refusal> {
        let sent = async {
            let mut permit = self.limits.admit(0).await?;
            permit.asks_for(self.model);
            permit.reserve(UsageEstimate { input: tokens, output: 0 }, &[cost, cost], UnixMillis(1)).await?;
            Ok(permit)
        };
        self.time.runtime.block_on(sent).map_err(why)
    }

    /// Moves time on, once Redis has all that was given back.
    fn pause(&self, micros: u64) {
        self.time.runtime.block_on(self.limits.admit(1)).map(drop).map_err(why).unwrap();
        if self.shared.is_some() {
            NOW.fetch_add(micros, Ordering::SeqCst);
        }
        self.pause_alone(micros);
    }

    /// The same without Redis.
    fn pause_alone(&self, micros: u64) {
        self.time.runtime.block_on(tokio::time::advance(Duration::from_micros(micros)));
    }

    /// What is left of each rate: requests and tokens.
    fn left(&self, permit: &Permit) -> [Option<u64>; 2] {
        self.time.runtime.block_on(async { left(permit.quotas()) })
    }

    /// What is left of tokens, as a request says that needs none.
    fn tokens_left(&self) -> Option<u64> {
        let permit = self.send(0, 0).unwrap();
        self.left(&permit)[1]
    }

    /// A request is over: it used so many tokens and did cost so much.
    fn end(&self, mut permit: Permit, used: u64, cost: u64) {
        let _here = self.time.runtime.enter();
        let (used, cost) =
            (Used::Tokens { input: Some(used), output: None }, Money { nano: cost, currency: Currency::Cny });
        permit.settle(used, Some(cost), Exchange::default());
    }

    /// A request was never sent.
    fn drop(&self, permit: Permit) {
        let _here = self.time.runtime.enter();
        drop(permit);
    }

    /// The counter of a budget.
    fn counter(&self, spender: Spender, of_model: bool) -> Arc<Counter> {
        let all = self.spending.all();
        let found = all.into_iter().find(|(key, _)| key.spender == spender && key.model.is_some() == of_model);
        found.map(|(_, counter)| counter).unwrap()
    }

    /// The ledger is read: others spent so much of a budget, and rows of this process, all of which are stored, did cost so much
    /// less.
    fn ledger(&mut self, spender: Spender, others: u64, less: u64) {
        self.read += 1;
        let Some((_, counter)) = self.spending.all().into_iter().find(|(key, _)| key.spender == spender) else {
            return;
        };
        counter.row_stored(u64::MAX);
        let (stored, own) = (counter.stored(), counter.own().total.saturating_sub(less));
        let others = [("others".into(), others)].into();
        counter.ledger_shows(LedgerSums { own, others, read_at: self.read }, stored);
    }

    /// Waits until requests ask Redis, or do not.
    fn redis_is(&self, well: bool) {
        let (_, status) = self.shared.as_ref().unwrap();
        becomes(status, well);
    }
}

impl Drop for Bench<'_> {
    fn drop(&mut self) {
        if let Some((shared, _)) = &self.shared {
            let _here = self.time.runtime.enter();
            shared.end();
        }
    }
}

/// Shares limits in a Redis, and waits for it.
fn share(there: &There, replicas: u32, spending: &Arc<Spending>) -> (Arc<Shared>, Arc<SharingStatus>) {
    let status = Arc::<SharingStatus>::default();
    let redis = RedisSettings::plain("127.0.0.1", there.server.port);
    let fail = if replicas > 1 { WhenRedisIsAway::Share } else { WhenRedisIsAway::Closed };
    let sharing = SharedLimits { redis, replicas: replicas.max(1), fail, patience: LONG };
    let process = u64::from(NAMES.fetch_add(1, Ordering::Relaxed)).to_be_bytes();
    let identity = Identity { process, origin: "here".into(), redis_clock: Some(Clock::from_fn(moved)) };
    let shared = Arc::new(Shared::start(&sharing, identity, Arc::clone(spending), Arc::clone(&status)).unwrap());
    becomes(&status, true);
    (shared, status)
}

/// Waits until requests ask Redis, or do not: 20 s at most. The time of the test stands still.
fn becomes(status: &SharingStatus, well: bool) {
    for _ in 0..20_000 {
        if status.is_well() == well {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("Redis is there: {}", !well);
}

fn left(quotas: Quotas) -> [Option<u64>; 2] {
    [quotas.requests, quotas.tokens].map(|quota| quota.map(|quota| quota.remaining))
}

/// Does the same over both.
fn over_both(settings: Settings, test: impl Fn(Bench<'_>)) {
    let time = Time::start();
    test(Bench::new(&time, None, settings.clone()));
    test(Bench::new(&time, Some(&There::start()), settings));
}

fn of_key(key: Wanted) -> Settings {
    Settings { key, ..Settings::default() }
}

#[test]
fn limits_of_a_model_hold_for_that_model_alone_and_beside_those_of_the_key() {
    let key = Wanted { tokens: Some(1000), budget: Some(100), ..NOTHING };
    let model = Wanted { requests: Some(2), tokens: Some(50), at_once: Some(1), budget: Some(30) };
    over_both(Settings { model: Some(("gpt-5*", model)), ..of_key(key) }, |mut bench| {
        let spent = |bench: &Bench<'_>| [false, true].map(|of_model| bench.counter(Spender::Key, of_model).spent());
        assert!(bench.admit().is_ok(), "the model is not known yet");
        bench.model = Some("gpt-5-mini");
        let one = bench.send(10, 10).unwrap();
        assert_eq!(bench.left(&one), [Some(1), Some(40)]);
        // The place of the model is taken; another model does not need it.
        assert_eq!(bench.send(0, 0).err(), Some(("max_in_flight", Spender::Key, 0)));
        bench.model = Some("other");
        let other = bench.send(10, 10).unwrap();
        assert_eq!(bench.left(&other), [None, Some(980)]);
        bench.end(one, 20, 25);
        bench.end(other, 10, 15);
        // The second request of the minute, by way of the upstream; its money is a part of the key's as well.
        bench.model = Some("up/gpt-5-mini");
        let two = bench.send(0, 5).unwrap();
        bench.end(two, 0, 5);
        assert_eq!(spent(&bench), [45, 30]);
        // What is left of the key's budget is nobody's but of other models.
        assert!(bench.send(0, 0).is_err());
        bench.pause(MINUTE);
        assert_eq!(bench.send(0, 0).err(), Some(SPENT));
        bench.model = None;
        let last = bench.send(0, 55).unwrap();
        bench.end(last, 0, 55);
        assert_eq!(spent(&bench), [100, 30]);
    });
}

#[test]
fn requests_of_a_minute_come_back_one_by_one() {
    over_both(of_key(Wanted { requests: Some(60), ..NOTHING }), |bench| {
        for left in (0..60).rev() {
            let permit = bench.admit().unwrap();
            assert_eq!(bench.left(&permit), [Some(left), None]);
        }
        assert_eq!(bench.admit().err(), Some(("rpm", Spender::Key, SECOND)));
        bench.pause(SECOND / 2);
        // Its turn is behind that of the first.
        assert_eq!(bench.admit().err(), Some(("rpm", Spender::Key, SECOND / 2 * 3)));
        bench.pause(SECOND / 2);
        bench.admit().unwrap();
        bench.pause(2 * MINUTE);
        let permit = bench.admit().unwrap();
        assert_eq!(bench.left(&permit), [Some(59), None]);
    });
}

#[test]
fn each_refused_request_has_a_turn_of_its_own() {
    over_both(of_key(Wanted { requests: Some(6), ..NOTHING }), |bench| {
        let refused = || bench.admit().err().map(|(_, _, wait)| wait / SECOND);
        for _ in 0..6 {
            bench.admit().unwrap();
        }
        for turn in [10, 20, 30, 40, 50, 60, 60, 60] {
            assert_eq!(refused(), Some(turn));
        }
        // Who comes at a turn is admitted, and turns are not set aside: nobody is refused for them.
        for _ in 1..=6 {
            bench.pause(10 * SECOND);
            bench.admit().unwrap();
        }
        // Nobody refused before this one still has to come: it waits only for itself.
        assert_eq!(refused(), Some(10));
        assert_eq!(refused(), Some(20));
        bench.pause(40 * SECOND);
        for _ in 0..4 {
            bench.admit().unwrap();
        }
        assert_eq!(refused(), Some(10), "turns that were told pass, whether anybody comes or not");
    });
    over_both(of_key(Wanted { tokens: Some(60), ..NOTHING }), |bench| {
        bench.send(60, 0).unwrap();
        // Each behind what the one before it needs.
        for (tokens, turn) in [(10, 10), (20, 30), (15, 45), (40, 60)] {
            assert_eq!(bench.send(tokens, 0).err(), Some(("tpm", Spender::Key, turn * SECOND)));
        }
    });
}

#[test]
fn all_or_nothing_is_taken() {
    let group = Wanted { requests: Some(2), at_once: Some(5), ..NOTHING };
    let key = Wanted { requests: Some(100), at_once: Some(9), ..NOTHING };
    over_both(Settings { group, ..of_key(key) }, |bench| {
        let taken = [bench.admit().unwrap(), bench.admit().unwrap()];
        assert_eq!(bench.admit().err(), Some(("rpm", Spender::Group, 30 * SECOND)));
        taken.into_iter().for_each(|permit| bench.drop(permit));
        bench.pause(3 * MINUTE);
        // Nothing of the refused one is left: all places are free, and the key has what the group has.
        let again = [bench.admit().unwrap(), bench.admit().unwrap()];
        assert_eq!(bench.left(&again[1]), [Some(0), None]);
    });
}

#[test]
fn places_are_as_many_as_there_are() {
    let group = Wanted { at_once: Some(3), ..NOTHING };
    over_both(Settings { group, ..of_key(Wanted { at_once: Some(2), ..NOTHING }) }, |bench| {
        let (first, second) = (bench.admit().unwrap(), bench.admit().unwrap());
        assert_eq!(bench.admit().err(), Some(("max_in_flight", Spender::Key, 0)));
        bench.drop(first);
        let third = bench.admit().unwrap();
        assert!(bench.admit().is_err());
        bench.drop(second);
        bench.drop(third);
        let _both = [bench.admit().unwrap(), bench.admit().unwrap()];
        assert!(bench.admit().is_err());
    });
}

#[test]
fn tokens_are_corrected_to_what_was_used() {
    over_both(of_key(Wanted { tokens: Some(100), ..NOTHING }), |bench| {
        let much = bench.send(100, 0).unwrap();
        assert_eq!(bench.left(&much), [None, Some(0)]);
        assert_eq!(bench.send(1, 0).err().map(|(kind, ..)| kind), Some("tpm"));
        bench.end(much, 10, 0);
        assert_eq!(bench.tokens_left(), Some(90));
        bench.pause(MINUTE);
        let late = bench.send(100, 0).unwrap();
        bench.pause(MINUTE);
        // Time gave it back already.
        bench.end(late, 0, 0);
        assert_eq!(bench.tokens_left(), Some(100));
        let small = bench.send(1, 0).unwrap();
        bench.end(small, 131, 0);
        // A debt of half a minute beyond the whole one.
        assert_eq!(bench.send(1, 0).err(), Some(("tpm", Spender::Key, 31 * MINUTE / 100 + MINUTE / 100)));
    });
}

#[test]
fn what_is_larger_than_the_limit_passes_alone() {
    over_both(of_key(Wanted { tokens: Some(1000), ..NOTHING }), |bench| {
        bench.send(5000, 0).unwrap();
        assert_eq!(bench.send(5000, 0).err(), Some(("tpm", Spender::Key, 5 * MINUTE)));
        bench.pause(5 * MINUTE);
        bench.send(5000, 0).unwrap();
    });
}

#[test]
fn a_budget_is_spent_to_its_last_nano_unit() {
    // Redis counts exactly up to 2^53, which is a little more.
    let limit = 9_007_199_254_740_000;
    over_both(of_key(Wanted { budget: Some(limit), ..NOTHING }), |bench| {
        let most = bench.send(0, limit - 1).unwrap();
        let last = bench.send(0, 1).unwrap();
        assert_eq!(bench.send(0, 1).err(), Some(RESERVED));
        bench.end(most, 0, limit - 2);
        bench.end(last, 0, 0);
        // A first one fits that finds anything left.
        let beyond = bench.send(0, 1000).unwrap();
        assert!(bench.send(0, 1).is_err());
        bench.end(beyond, 0, 1);
        let _one = bench.send(0, 1).unwrap();
        assert!(bench.send(0, 1).is_err());
    });
}

#[test]
fn money_is_carried_over_from_one_unit_to_the_next() {
    over_both(of_key(Wanted { budget: Some(2_000_000_000), ..NOTHING }), |bench| {
        let [one, two, _three] = [(), (), ()].map(|()| bench.send(0, 600_000_000).unwrap());
        assert!(bench.send(0, 200_000_001).is_err());
        bench.end(one, 0, 100_000_000);
        bench.end(two, 0, 700_000_000);
        assert!(bench.send(0, 600_000_001).is_err());
        bench.send(0, 600_000_000).map(|permit| bench.drop(permit)).unwrap();
    });
}

#[test]
fn what_others_spent_is_added_to_what_this_process_spent() {
    over_both(of_key(Wanted { budget: Some(100), ..NOTHING }), |mut bench| {
        let one = bench.send(0, 10).unwrap();
        bench.ledger(Spender::Key, 60, 0);
        let other = bench.send(0, 30).unwrap();
        assert_eq!(bench.send(0, 1).err(), Some(RESERVED));
        bench.end(one, 0, 9);
        bench.end(other, 0, 29);
        bench.ledger(Spender::Key, 61, 0);
        let last = bench.send(0, 1).unwrap();
        bench.end(last, 0, 1);
        assert_eq!(bench.send(0, 0).err(), Some(SPENT));
        bench.ledger(Spender::Key, 70, 0);
        assert_eq!(bench.send(0, 0).err(), Some(SPENT));
    });
}

#[test]
fn what_did_cost_less_after_all_comes_back() {
    // In two parts, of which the second has to be borrowed from.
    const UNIT: u64 = 1_500_000_000;
    over_both(of_key(Wanted { budget: Some(100 * UNIT), ..NOTHING }), |mut bench| {
        let (one, other) = (bench.send(0, UNIT).unwrap(), bench.send(0, UNIT).unwrap());
        bench.end(one, 0, 80 * UNIT + 1);
        bench.end(other, 0, 20 * UNIT);
        assert_eq!(bench.send(0, 0).err(), Some(SPENT));
        bench.ledger(Spender::Key, 0, UNIT + 1);
        let held = bench.send(0, UNIT).unwrap();
        assert_eq!(bench.send(0, 1).err(), Some(RESERVED));
        bench.end(held, 0, UNIT);
        assert_eq!(bench.send(0, 0).err(), Some(SPENT));
        bench.ledger(Spender::Key, 10 * UNIT, 60 * UNIT);
        let held = bench.send(0, 50 * UNIT).unwrap();
        assert!(bench.send(0, 1).is_err());
        bench.drop(held);
    });
}

#[test]
fn nothing_overflows() {
    let most =
        Wanted { requests: Some(u32::MAX), tokens: Some(1), at_once: Some(usize::MAX >> 12), budget: Some(MOST) };
    over_both(of_key(most), |bench| {
        bench.pause(10 * 365 * 24 * 60 * MINUTE);
        let permit = bench.send(u64::MAX, u64::MAX).unwrap();
        assert!(bench.send(u64::MAX, u64::MAX).is_err());
        bench.end(permit, u64::MAX, u64::MAX);
        // It is spent, once and for all.
        assert!(bench.send(0, 1).is_err() && bench.send(0, 0).is_err());
    });
}

#[test]
fn every_key_in_redis_has_a_prefix_and_an_end() {
    let (time, there) = (Time::start(), There::start());
    let all = Wanted { requests: Some(10), tokens: Some(10), at_once: Some(10), budget: Some(10) };
    let name = Some("a:b c/ü%3A".to_owned());
    let bench = Bench::new(&time, Some(&there), Settings { name, group: all, ..of_key(all) });
    let permit = bench.send(1, 1).unwrap();
    let keys = || there.server.list("KEYS *");
    let end = |key: &String| there.server.ask(&format!("PTTL {key}")).trim_start_matches(':').parse::<i64>().unwrap();
    // Two rates, a place, and a budget with what is held of it, each of the key and of its group; and the epoch.
    assert_eq!(keys().len(), 11, "{:?}", keys());
    assert!(keys().iter().all(|key| key.starts_with("tidegate:") && end(key) > 0), "{:?}", keys());
    assert!(keys().contains(&"tidegate:rpm:key:a%3Ab%20c%2F%C3%BC%253A".to_owned()), "{:?}", keys());
    bench.end(permit, 3, 1);
    // Behind what the request gives back.
    bench.pause(0);
    assert_eq!(keys().iter().filter(|key| !key.contains(":key:other")).count(), 7, "{:?}", keys());
    assert!(keys().iter().all(|key| end(key) > 0), "{:?}", keys());
}

#[test]
fn without_redis_one_of_three_has_a_third_of_what_was_left() {
    let (time, mut there) = (Time::start(), There::start());
    let key = Wanted { requests: Some(90), at_once: Some(9), budget: Some(90), ..NOTHING };
    let mut bench = Bench::new(&time, Some(&there), Settings { replicas: 3, ..of_key(key) });
    let held = [bench.send(0, 10).unwrap(), bench.send(0, 10).unwrap()];
    there.server.kill();
    bench.redis_is(false);
    // Of three places two are taken, and of 30 CNY 20.
    let third = bench.send(0, 10).unwrap();
    assert_eq!(bench.send(0, 0).err(), Some(("max_in_flight", Spender::Key, 0)));
    bench.drop(third);
    // Three of its 30 requests of a minute are used.
    for _ in 0..27 {
        bench.admit().map(|permit| bench.drop(permit)).unwrap();
    }
    assert_eq!(bench.admit().err().map(|(kind, ..)| kind), Some("rpm"));
    bench.pause_alone(MINUTE);
    held.into_iter().for_each(|permit| bench.end(permit, 0, 10));
    let last = bench.send(0, 15).err();
    assert_eq!(last, None, "the first that finds anything left");
    let permit = bench.send(0, 10).unwrap();
    bench.end(permit, 0, 10);
    assert_eq!(bench.send(0, 0).err(), Some(RESERVED));
    // The ledger shows that others spent 30: of the 30 that are left this one has 10.
    bench.ledger(Spender::Key, 30, 0);
    let permit = bench.send(0, 10).unwrap();
    bench.end(permit, 0, 10);
    assert_eq!(bench.send(0, 0).err(), Some(RESERVED));
    // Redis begins empty, and is told all of it: 20 are left.
    there.server.run();
    bench.redis_is(true);
    let (_most, none) = (bench.send(0, 20).unwrap(), bench.send(0, 1).err());
    assert_eq!(none, Some(RESERVED));
}
