//! Limits and budgets, with the same expectations for memory and for Redis: each test runs over both, with a clock of
//! its own.

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
    concurrent::sharing_status::SharingStatus,
    config::{Group, KeyLimits, ModelLimits, RedisSettings, SharedLimits, WhenRedisIsAway},
    domain::{
        clock::{Clock, UnixMillis},
        model_name::ModelPattern,
        money::{Budget, Currency, Exchange, MOST, Money, decimal},
        spending::Spender,
        usage::UsageEstimate,
    },
    limits::{Identity, Limits, LimitsInRedis, Meters, Permit, Quotas, Refused, UsedTokens},
};
use tokio::{runtime::Runtime, time::Instant};

use crate::support::{
    LONG,
    gateway::{config, key},
    redis::RedisServer,
};

const SECOND: u64 = 1_000_000;
const MINUTE: u64 = 60 * SECOND;

/// The time in Redis, in microseconds since 1970-01-01 UTC. Tests over Redis run one after the other.
static NOW: AtomicU64 = AtomicU64::new(0);
static TURN: Mutex<()> = Mutex::new(());

/// A number for names that no two tests share.
static NAMES: AtomicU32 = AtomicU32::new(0);

fn redis_time() -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(NOW.load(Ordering::SeqCst))
}

/// A runtime whose time stands still until a test moves it.
struct PausedRuntime {
    /// While this blocks, the paused time does not run ahead to the next timer.
    _blocks: mpsc::Sender<()>,
    runtime: Runtime,
}

impl PausedRuntime {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let (blocks, blocked) = mpsc::channel::<()>();
        runtime.spawn_blocking(move || blocked.recv());
        // This time is ahead of the time of all other threads, so that no moment of the test lies far in the past for
        // them.
        runtime.block_on(tokio::time::advance(Duration::from_secs(3600)));
        Self { _blocks: blocks, runtime }
    }
}

/// A Redis whose time a test moves.
struct TestRedis {
    server: RedisServer,
    _turn: MutexGuard<'static, ()>,
}

impl TestRedis {
    fn start() -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        NOW.store(1_760_000_000 * SECOND, Ordering::SeqCst);
        Self { server: RedisServer::start(), _turn: turn }
    }
}

/// The limits and the budget of a key, a group, or a model.
#[derive(Clone, Copy, Debug, Default)]
struct Quota {
    requests: Option<u32>,
    tokens: Option<u32>,
    at_once: Option<usize>,
    budget: Option<u64>,
}

const UNLIMITED: Quota = Quota { requests: None, tokens: None, at_once: None, budget: None };

impl Quota {
    fn limits(self) -> KeyLimits {
        KeyLimits { requests: self.requests, tokens: self.tokens, in_flight: self.at_once }
    }

    fn budgets(self) -> Vec<Budget> {
        self.budget.iter().map(|nano| Budget::parse(&format!("{}CNY/total", decimal(*nano))).unwrap()).collect()
    }
}

/// All settings of a bench.
#[derive(Clone, Default)]
struct Settings {
    name: Option<String>,
    key: Quota,
    group: Quota,
    model: Option<(&'static str, Quota)>,
    replicas: u32,
}

/// A key and its group with their limits, counted in memory or in Redis.
struct Bench<'a> {
    time: &'a PausedRuntime,
    limits: Limits,
    spending: Arc<Spending>,
    shared: Option<(Arc<LimitsInRedis>, Arc<SharingStatus>)>,
    /// How often the ledger was read.
    read: u64,
    /// The model of the next request.
    model: Option<&'static str>,
}

/// The limit that refuses, its owner, and the wait in microseconds.
type Refusal = (&'static str, Spender, u64);

/// The budget is spent, or the rest of it is reserved.
const SPENT: Refusal = ("budgets", Spender::Key, 0);
const RESERVED: Refusal = ("budgets_reserved", Spender::Key, SECOND);

fn refusal(refused: Refused) -> Refusal {
    match refused {
        Refused::Limited(limited) => {
            (limited.kind.name(), limited.whose, u64::try_from(limited.after.as_micros()).unwrap())
        }
        Refused::Unknown => panic!("a decision without Redis"),
    }
}

impl<'a> Bench<'a> {
    fn new(time: &'a PausedRuntime, there: Option<&TestRedis>, settings: Settings) -> Self {
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

    /// Admits a request before its body is read.
    fn admit(&self) -> Result<Permit, Refusal> {
        self.time.runtime.block_on(self.limits.admit(0)).map_err(refusal)
    }

    /// Admits a request and reserves this many tokens and this cost.
    fn send(&self, tokens: u64, cost: u64) -> Result<Permit, Refusal> {
        let sent = async {
            let mut permit = self.limits.admit(0).await?;
            permit.apply_model_limits(self.model);
            permit.reserve(UsageEstimate { input: tokens, output: 0 }, &[cost, cost], UnixMillis(1)).await?;
            Ok(permit)
        };
        self.time.runtime.block_on(sent).map_err(refusal)
    }

    /// Moves time on, after Redis has all released reservations.
    fn pause(&self, micros: u64) {
        self.time.runtime.block_on(self.limits.admit(1)).map(drop).map_err(refusal).unwrap();
        if self.shared.is_some() {
            NOW.fetch_add(micros, Ordering::SeqCst);
        }
        self.pause_alone(micros);
    }

    /// The same without Redis.
    fn pause_alone(&self, micros: u64) {
        self.time.runtime.block_on(tokio::time::advance(Duration::from_micros(micros)));
    }

    /// The remaining requests and tokens of the rates.
    fn left(&self, permit: &Permit) -> [Option<u64>; 2] {
        self.time.runtime.block_on(async { left(permit.quotas()) })
    }

    /// The remaining tokens, as a request without tokens shows them.
    fn tokens_left(&self) -> Option<u64> {
        let permit = self.send(0, 0).unwrap();
        self.left(&permit)[1]
    }

    /// Settles a request with this many tokens and this cost.
    fn end(&self, mut permit: Permit, used: u64, cost: u64) {
        let _here = self.time.runtime.enter();
        let (used, cost) =
            (UsedTokens::Reported { input: Some(used), output: None }, Money { nano: cost, currency: Currency::Cny });
        permit.settle(used, Some(cost), Exchange::default());
    }

    /// Drops a request that was never sent.
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

    /// Reads the ledger: others spent `others` of a budget, and the stored rows of this process cost `less` less than
    /// before.
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

    /// Waits until Redis is available to requests, or is not.
    fn redis_is(&self, well: bool) {
        let (_, status) = self.shared.as_ref().unwrap();
        wait_until_shared(status, well);
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

/// Shares limits through a Redis, and waits for the connection.
fn share(there: &TestRedis, replicas: u32, spending: &Arc<Spending>) -> (Arc<LimitsInRedis>, Arc<SharingStatus>) {
    let status = Arc::<SharingStatus>::default();
    let redis = RedisSettings::plain("127.0.0.1", there.server.port);
    let fail = if replicas > 1 { WhenRedisIsAway::Share } else { WhenRedisIsAway::Closed };
    let sharing = SharedLimits { redis, replicas: replicas.max(1), fail, patience: LONG };
    let process = u64::from(NAMES.fetch_add(1, Ordering::Relaxed)).to_be_bytes();
    let identity = Identity { process, origin: "here".into(), redis_clock: Some(Clock::from_fn(redis_time)) };
    let shared = Arc::new(LimitsInRedis::start(&sharing, identity, Arc::clone(spending), Arc::clone(&status)).unwrap());
    wait_until_shared(&status, true);
    (shared, status)
}

/// Waits at most 20 s until Redis is available to requests, or is not. The time of the test stands still.
fn wait_until_shared(status: &SharingStatus, well: bool) {
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

/// Runs the test over memory and over Redis.
fn over_both(settings: Settings, test: impl Fn(Bench<'_>)) {
    let time = PausedRuntime::start();
    test(Bench::new(&time, None, settings.clone()));
    test(Bench::new(&time, Some(&TestRedis::start()), settings));
}

fn of_key(key: Quota) -> Settings {
    Settings { key, ..Settings::default() }
}

#[test]
fn limits_of_a_model_apply_to_that_model_alone_and_in_addition_to_those_of_the_key() {
    let key = Quota { tokens: Some(1000), budget: Some(100), ..UNLIMITED };
    let model = Quota { requests: Some(2), tokens: Some(50), at_once: Some(1), budget: Some(30) };
    over_both(Settings { model: Some(("gpt-5*", model)), ..of_key(key) }, |mut bench| {
        let spent = |bench: &Bench<'_>| [false, true].map(|of_model| bench.counter(Spender::Key, of_model).spent());
        assert!(bench.admit().is_ok(), "the model is unknown before the body is read");
        bench.model = Some("gpt-5-mini");
        let one = bench.send(10, 10).unwrap();
        assert_eq!(bench.left(&one), [Some(1), Some(40)]);
        // The model's concurrency slot is taken. Another model does not need it.
        assert_eq!(bench.send(0, 0).err(), Some(("max_in_flight", Spender::Key, 0)));
        bench.model = Some("other");
        let other = bench.send(10, 10).unwrap();
        assert_eq!(bench.left(&other), [None, Some(980)]);
        bench.end(one, 20, 25);
        bench.end(other, 10, 15);
        // The second request of the minute names the model by its upstream. Its cost also counts for the key.
        bench.model = Some("up/gpt-5-mini");
        let two = bench.send(0, 5).unwrap();
        bench.end(two, 0, 5);
        assert_eq!(spent(&bench), [45, 30]);
        // Only other models can use the rest of the key's budget.
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
fn requests_per_minute_become_free_one_by_one() {
    over_both(of_key(Quota { requests: Some(60), ..UNLIMITED }), |bench| {
        for left in (0..60).rev() {
            let permit = bench.admit().unwrap();
            assert_eq!(bench.left(&permit), [Some(left), None]);
        }
        assert_eq!(bench.admit().err(), Some(("rpm", Spender::Key, SECOND)));
        bench.pause(SECOND / 2);
        // The turn of this request comes after that of the first one.
        assert_eq!(bench.admit().err(), Some(("rpm", Spender::Key, SECOND / 2 * 3)));
        bench.pause(SECOND / 2);
        bench.admit().unwrap();
        bench.pause(2 * MINUTE);
        let permit = bench.admit().unwrap();
        assert_eq!(bench.left(&permit), [Some(59), None]);
    });
}

#[test]
fn each_refused_request_gets_a_turn_of_its_own() {
    over_both(of_key(Quota { requests: Some(6), ..UNLIMITED }), |bench| {
        let refused = || bench.admit().err().map(|(_, _, wait)| wait / SECOND);
        for _ in 0..6 {
            bench.admit().unwrap();
        }
        for turn in [10, 20, 30, 40, 50, 60, 60, 60] {
            assert_eq!(refused(), Some(turn));
        }
        // A request at its turn is admitted. A turn is no reservation: no request is refused because of another one's
        // turn.
        for _ in 1..=6 {
            bench.pause(10 * SECOND);
            bench.admit().unwrap();
        }
        // All earlier turns have passed, so that this request waits only for itself.
        assert_eq!(refused(), Some(10));
        assert_eq!(refused(), Some(20));
        bench.pause(40 * SECOND);
        for _ in 0..4 {
            bench.admit().unwrap();
        }
        assert_eq!(refused(), Some(10), "a turn passes whether its request comes or not");
    });
    over_both(of_key(Quota { tokens: Some(60), ..UNLIMITED }), |bench| {
        bench.send(60, 0).unwrap();
        // Each turn comes after the tokens that earlier requests need.
        for (tokens, turn) in [(10, 10), (20, 30), (15, 45), (40, 60)] {
            assert_eq!(bench.send(tokens, 0).err(), Some(("tpm", Spender::Key, turn * SECOND)));
        }
    });
}

#[test]
fn a_refused_request_takes_nothing_from_any_limit() {
    let group = Quota { requests: Some(2), at_once: Some(5), ..UNLIMITED };
    let key = Quota { requests: Some(100), at_once: Some(9), ..UNLIMITED };
    over_both(Settings { group, ..of_key(key) }, |bench| {
        let taken = [bench.admit().unwrap(), bench.admit().unwrap()];
        assert_eq!(bench.admit().err(), Some(("rpm", Spender::Group, 30 * SECOND)));
        taken.into_iter().for_each(|permit| bench.drop(permit));
        bench.pause(3 * MINUTE);
        // The refused request left nothing behind: all slots are free, and the key counts as many requests as the
        // group.
        let again = [bench.admit().unwrap(), bench.admit().unwrap()];
        assert_eq!(bench.left(&again[1]), [Some(0), None]);
    });
}

#[test]
fn concurrency_slots_are_limited_and_become_free_again() {
    let group = Quota { at_once: Some(3), ..UNLIMITED };
    over_both(Settings { group, ..of_key(Quota { at_once: Some(2), ..UNLIMITED }) }, |bench| {
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
fn reserved_tokens_are_corrected_to_the_real_use() {
    over_both(of_key(Quota { tokens: Some(100), ..UNLIMITED }), |bench| {
        let much = bench.send(100, 0).unwrap();
        assert_eq!(bench.left(&much), [None, Some(0)]);
        assert_eq!(bench.send(1, 0).err().map(|(kind, ..)| kind), Some("tpm"));
        bench.end(much, 10, 0);
        assert_eq!(bench.tokens_left(), Some(90));
        bench.pause(MINUTE);
        let late = bench.send(100, 0).unwrap();
        bench.pause(MINUTE);
        // Time has given the tokens back already.
        bench.end(late, 0, 0);
        assert_eq!(bench.tokens_left(), Some(100));
        let small = bench.send(1, 0).unwrap();
        bench.end(small, 131, 0);
        // A debt of 31 hundredths of a minute, and one hundredth for this request.
        assert_eq!(bench.send(1, 0).err(), Some(("tpm", Spender::Key, 31 * MINUTE / 100 + MINUTE / 100)));
    });
}

#[test]
fn a_request_larger_than_the_limit_passes_alone() {
    over_both(of_key(Quota { tokens: Some(1000), ..UNLIMITED }), |bench| {
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
    over_both(of_key(Quota { budget: Some(limit), ..UNLIMITED }), |bench| {
        let most = bench.send(0, limit - 1).unwrap();
        let last = bench.send(0, 1).unwrap();
        assert_eq!(bench.send(0, 1).err(), Some(RESERVED));
        bench.end(most, 0, limit - 2);
        bench.end(last, 0, 0);
        // A request is admitted when something is left and no other one is in progress.
        let beyond = bench.send(0, 1000).unwrap();
        assert!(bench.send(0, 1).is_err());
        bench.end(beyond, 0, 1);
        let _one = bench.send(0, 1).unwrap();
        assert!(bench.send(0, 1).is_err());
    });
}

#[test]
fn money_is_carried_over_between_units_and_nano_units() {
    over_both(of_key(Quota { budget: Some(2_000_000_000), ..UNLIMITED }), |bench| {
        let [one, two, _three] = [(), (), ()].map(|()| bench.send(0, 600_000_000).unwrap());
        assert!(bench.send(0, 200_000_001).is_err());
        bench.end(one, 0, 100_000_000);
        bench.end(two, 0, 700_000_000);
        assert!(bench.send(0, 600_000_001).is_err());
        bench.send(0, 600_000_000).map(|permit| bench.drop(permit)).unwrap();
    });
}

#[test]
fn the_spend_of_others_is_added_to_the_spend_of_this_process() {
    over_both(of_key(Quota { budget: Some(100), ..UNLIMITED }), |mut bench| {
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
fn a_later_correction_of_a_cost_is_given_back_to_the_budget() {
    // An amount with whole units and nano-units, so that a subtraction has to borrow.
    const UNIT: u64 = 1_500_000_000;
    over_both(of_key(Quota { budget: Some(100 * UNIT), ..UNLIMITED }), |mut bench| {
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
fn the_largest_limits_and_amounts_do_not_overflow() {
    let most = Quota { requests: Some(u32::MAX), tokens: Some(1), at_once: Some(usize::MAX >> 12), budget: Some(MOST) };
    over_both(of_key(most), |bench| {
        bench.pause(10 * 365 * 24 * 60 * MINUTE);
        let permit = bench.send(u64::MAX, u64::MAX).unwrap();
        assert!(bench.send(u64::MAX, u64::MAX).is_err());
        bench.end(permit, u64::MAX, u64::MAX);
        // The budget is spent for good.
        assert!(bench.send(0, 1).is_err() && bench.send(0, 0).is_err());
    });
}

#[test]
fn every_key_in_redis_has_a_prefix_and_an_expiry() {
    let (time, there) = (PausedRuntime::start(), TestRedis::start());
    let all = Quota { requests: Some(10), tokens: Some(10), at_once: Some(10), budget: Some(10) };
    let name = Some("a:b c/ü%3A".to_owned());
    let bench = Bench::new(&time, Some(&there), Settings { name, group: all, ..of_key(all) });
    let permit = bench.send(1, 1).unwrap();
    let keys = || there.server.list("KEYS *");
    let end = |key: &String| there.server.ask(&format!("PTTL {key}")).trim_start_matches(':').parse::<i64>().unwrap();
    // Two rates, a concurrency slot, and a budget with its reservations, for the key and for its group; and the epoch.
    assert_eq!(keys().len(), 11, "{:?}", keys());
    assert!(keys().iter().all(|key| key.starts_with("tidegate:") && end(key) > 0), "{:?}", keys());
    assert!(keys().contains(&"tidegate:rpm:key:a%3Ab%20c%2F%C3%BC%253A".to_owned()), "{:?}", keys());
    bench.end(permit, 3, 1);
    // After the request's reservations are released.
    bench.pause(0);
    assert_eq!(keys().iter().filter(|key| !key.contains(":key:other")).count(), 7, "{:?}", keys());
    assert!(keys().iter().all(|key| end(key) > 0), "{:?}", keys());
}

#[test]
fn without_redis_one_of_three_replicas_may_use_a_third_of_the_rest() {
    let (time, mut there) = (PausedRuntime::start(), TestRedis::start());
    let key = Quota { requests: Some(90), at_once: Some(9), budget: Some(90), ..UNLIMITED };
    let mut bench = Bench::new(&time, Some(&there), Settings { replicas: 3, ..of_key(key) });
    let held = [bench.send(0, 10).unwrap(), bench.send(0, 10).unwrap()];
    there.server.kill();
    bench.redis_is(false);
    // Two of the three slots and 20 of the 30 CNY are taken.
    let third = bench.send(0, 10).unwrap();
    assert_eq!(bench.send(0, 0).err(), Some(("max_in_flight", Spender::Key, 0)));
    bench.drop(third);
    // Three of this replica's 30 requests per minute are used.
    for _ in 0..27 {
        bench.admit().map(|permit| bench.drop(permit)).unwrap();
    }
    assert_eq!(bench.admit().err().map(|(kind, ..)| kind), Some("rpm"));
    bench.pause_alone(MINUTE);
    held.into_iter().for_each(|permit| bench.end(permit, 0, 10));
    let last = bench.send(0, 15).err();
    assert_eq!(last, None, "the first request that finds something left");
    let permit = bench.send(0, 10).unwrap();
    bench.end(permit, 0, 10);
    assert_eq!(bench.send(0, 0).err(), Some(RESERVED));
    // The ledger shows that others spent 30: of the remaining 30 CNY, this replica may spend 10.
    bench.ledger(Spender::Key, 30, 0);
    let permit = bench.send(0, 10).unwrap();
    bench.end(permit, 0, 10);
    assert_eq!(bench.send(0, 0).err(), Some(RESERVED));
    // Redis starts empty and gets all totals: 20 are left.
    there.server.run();
    bench.redis_is(true);
    let (_most, none) = (bench.send(0, 20).unwrap(), bench.send(0, 1).err());
    assert_eq!(none, Some(RESERVED));
}
