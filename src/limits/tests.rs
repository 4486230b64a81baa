//! What limits do, whoever counts them: each test runs over memory and over a real Redis, with a clock of its own.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use proptest::prelude::*;
use tokio::{
    runtime::Runtime,
    time::{Duration, Instant},
};

use super::{
    Permit, Used,
    gcra::{Correction, MINUTE, Rate},
    memory::{self, Lacking},
    shared,
    subject::{Costs, Item, OneBudget, Scope, Share, Subject, What},
};
use crate::{
    config,
    domain::{
        model_name::ModelPattern,
        money::{Budget, Currency, Exchange, MOST, Money},
        spending::{Alone, Counter, Spender, Sums},
        usage::UsageEstimate,
        windows::Windows,
    },
    store::redis::{self, Given, Link, Purse, Told},
};

mod two;

#[path = "../../tests/it/support/redis.rs"]
#[expect(dead_code, reason = "what only others need")]
mod server;

use server::RedisServer;

const SECOND: u64 = 1_000_000;
/// When the clock of these tests begins for Redis.
const BEGAN: u64 = 1_760_000_000 * SECOND;

/// Names that no two tests share.
static TURN: AtomicU32 = AtomicU32::new(0);

/// A key and its group, their limits, and who counts them.
struct Bench<'a> {
    subject: Subject,
    redis: Option<(&'a Runtime, Link)>,
    now: u64,
    /// How often the ledger was asked.
    asked: u64,
    /// What is asked for.
    model: Option<&'static str>,
}

/// What was taken, until it is given back.
struct Taken {
    holder: String,
    items: Vec<Item>,
    at: u64,
}

#[derive(Clone, Copy, Default)]
struct Wanted {
    requests: Option<u32>,
    tokens: Option<u32>,
    at_once: Option<usize>,
    budget: Option<u64>,
}

fn share(whose: Spender, name: &str, wanted: Wanted) -> Share {
    let budget = |nano| {
        let text = format!("{}CNY/total", crate::domain::money::decimal(nano));
        OneBudget::new(Budget::parse(&text).unwrap(), &Arc::default())
    };
    Share {
        whose,
        name: name.into(),
        model: None,
        requests: wanted.requests.map(Rate::per_minute),
        tokens: wanted.tokens.map(Rate::per_minute),
        in_flight: wanted.at_once,
        budgets: wanted.budget.map(budget).into_iter().collect(),
        meter: Arc::default(),
    }
}

impl<'a> Bench<'a> {
    fn new(redis: Option<(&'a Runtime, Link)>, key: Wanted, group: Wanted) -> Self {
        let name = format!("k{}", TURN.fetch_add(1, Ordering::Relaxed));
        let shares = vec![share(Spender::Key, &name, key), share(Spender::Group, &name, group)];
        let windows = Arc::new(Windows::new(jiff::tz::TimeZone::UTC));
        Self {
            subject: Subject { shares, upstreams: Arc::default(), spending: Arc::default(), windows },
            redis,
            now: 0,
            asked: 0,
            model: None,
        }
    }

    fn scope(&self) -> Scope {
        self.subject.scope(self.model)
    }

    fn first(&mut self) -> Result<Taken, Lacking> {
        let items = self.subject.first();
        self.take(items)
    }

    fn second(&mut self, tokens: u64, cost: u64) -> Result<Taken, Lacking> {
        let costs: Costs = [cost, cost];
        let items = self.subject.second(self.scope(), tokens, &costs, 0);
        self.take(items)
    }

    fn take(&mut self, mut items: Vec<Item>) -> Result<Taken, Lacking> {
        let holder = format!("h{}", TURN.fetch_add(1, Ordering::Relaxed));
        let now = self.now;
        match &self.redis {
            None => memory::take(&self.subject.shares, &items, now, memory::UNSHARED)?,
            Some((runtime, link)) => {
                let (mut asked, _) = shared::question(&self.subject, self.scope(), &items);
                let told: Vec<_> = asked.iter().flat_map(told).collect();
                asked.extend(told);
                let answer = runtime.block_on(link.take(Some(BEGAN + now), None, &holder, &asked)).unwrap();
                if let Some((nth, wait)) = answer.lacking {
                    return Err(Lacking { nth, wait });
                }
                memory::count(&self.subject.shares, &mut items, now, 1);
            }
        }
        Ok(Taken { holder, items, at: now })
    }

    /// What is left of each rate: requests and tokens.
    fn left(&mut self) -> [Option<u64>; 2] {
        let quotas = match &self.redis {
            None => self.subject.quotas(self.scope(), self.now, 1),
            Some((runtime, link)) => {
                let (asked, rates) = shared::question(&self.subject, self.scope(), &[]);
                let answer = runtime.block_on(link.take(Some(BEGAN + self.now), None, "look", &asked)).unwrap();
                shared::learn(&self.subject, &rates, &answer.states, self.now);
                shared::quotas(&self.subject, self.scope(), self.now)
            }
        };
        [quotas.requests, quotas.tokens].map(|quota| quota.map(|quota| quota.remaining))
    }

    /// So many tokens were used, and it did cost so much.
    fn settle(&mut self, taken: &Taken, used: u64, really: u64) {
        for item in &taken.items {
            let share = &self.subject.shares[item.share];
            match &item.what {
                What::Place { .. } => share.meter.leave(),
                What::Rate { tokens: true, rate, cost, counted: None } => {
                    memory::settle(share.meter.state(true), *rate, self.now, taken.at, *cost, used);
                }
                What::Rate { .. } => {}
                What::Spend { counter, cost, .. } => counter.settle(*cost, really),
            }
        }
        self.give(taken, used);
    }

    /// As the thread does with what is settled.
    fn give(&mut self, taken: &Taken, used: u64) {
        let Some((runtime, link)) = &self.redis else { return };
        // Later than any moment of this test, so that no time passes by itself.
        let never = Instant::now() + Duration::from_secs(3600);
        let mut given = Vec::new();
        for item in &taken.items {
            let share = &self.subject.shares[item.share];
            match &item.what {
                What::Place { .. } => given.push(Given::Place { key: shared::place(share) }),
                What::Rate { tokens: false, .. } => {}
                What::Rate { tokens, rate, cost, .. } => {
                    let (more, back) = match rate.correction(taken.at, self.now, *cost, used) {
                        Correction::More(span) => (span, 0),
                        Correction::Back(span) => (0, span),
                    };
                    given.push(Given::Rate { key: shared::rate(share, *tokens), more, back, since: never });
                }
                What::Spend { counter, budget, span, .. } => {
                    given.push(Given::Spend { purse: shared::purse(share, budget, span, counter) });
                }
            }
        }
        let ended = [(&*taken.holder, &*given)];
        runtime.block_on(link.give(Some(BEGAN + self.now), ended.into_iter())).unwrap();
    }

    /// As the thread does for those that live.
    fn renew(&mut self, taken: &[Taken]) {
        if let Some((runtime, link)) = &self.redis {
            let held = |taken: &Taken| {
                let items = taken.items.iter().filter(|item| !matches!(item.what, What::Rate { .. }));
                let items = items.filter_map(|item| shared::asked(&self.subject, item)).collect();
                (taken.holder.clone(), items)
            };
            let held: Vec<_> = taken.iter().map(held).collect();
            runtime.block_on(link.renew(Some(BEGAN + self.now), &held)).unwrap();
        }
    }

    /// The counters of the budgets of this share.
    fn counters(&self, share: usize) -> Vec<Arc<Counter>> {
        let of = &self.subject.shares[share];
        of.budgets.iter().map(|one| one.counter(of, &self.subject, 0).1).collect()
    }

    /// What the ledger says of the budget of this share: what others spent, and that rows of this process, all of which are
    /// stored, did cost so much less.
    fn told(&mut self, share: usize, others: u64, less: u64) {
        self.asked += 1;
        for counter in self.counters(share) {
            counter.is_stored(u64::MAX);
            let (stored, own) = (counter.stored(), counter.mine().total.saturating_sub(less));
            let others = [("others".into(), others)].into();
            counter.is_told(Sums { own, others, asked: self.asked, wish: 0 }, stored);
        }
    }
}

/// As the thread tells what others spent.
fn told(item: &redis::Item) -> Vec<redis::Item> {
    let redis::Item::Spend { purse, .. } = item else { return Vec::new() };
    let (_, others) = purse.counter.others();
    let tell = |(origin, spent): &(Arc<str>, u64)| {
        redis::Item::Told(Told { purse: purse.clone(), origin: Arc::clone(origin), spent: *spent })
    };
    others.iter().map(tell).collect()
}

/// A Redis, and how it is reached.
struct There {
    runtime: Runtime,
    link: Link,
    server: RedisServer,
}

fn place(server: &RedisServer) -> config::RedisSettings {
    config::RedisSettings::plain("127.0.0.1", server.port)
}

impl There {
    fn start() -> Self {
        let server = RedisServer::start();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let link = runtime.block_on(Link::at(&place(&server), &"here".into())).unwrap();
        Self { runtime, link, server }
    }

    /// A connection of another one with this name.
    async fn server_link(&self, origin: &str) -> Link {
        Link::at(&place(&self.server), &origin.into()).await.unwrap()
    }

    fn bench(&self, key: Wanted, group: Wanted) -> Bench<'_> {
        Bench::new(Some((&self.runtime, self.link.clone())), key, group)
    }
}

/// Does the same over both.
fn over_both(key: Wanted, group: Wanted, test: impl Fn(Bench<'_>)) {
    test(Bench::new(None, key, group));
    let there = There::start();
    test(there.bench(key, group));
}

/// Adds limits for the use of a model; the upstream `up` is known.
fn of_model<'a>(mut bench: Bench<'a>, model: &str, wanted: Wanted) -> Bench<'a> {
    let name = Arc::clone(&bench.subject.shares[0].name);
    let model = Some(ModelPattern(model.into()));
    bench.subject.shares.push(Share { model, ..share(Spender::Key, &name, wanted) });
    bench.subject.upstreams = [Arc::from("up")].into();
    bench
}

#[test]
fn limits_of_a_model_hold_for_that_model_alone_and_beside_those_of_the_key() {
    let key = Wanted { tokens: Some(1000), budget: Some(100), ..Wanted::default() };
    let model = Wanted { requests: Some(2), tokens: Some(50), at_once: Some(1), budget: Some(30) };
    over_both(key, Wanted::default(), |bench| {
        let mut bench = of_model(bench, "gpt-5*", model);
        assert!(bench.first().is_ok(), "the model is not known yet");
        bench.model = Some("gpt-5-mini");
        assert_eq!(bench.left(), [Some(2), Some(50)]);
        let one = bench.second(10, 10).map_err(drop).unwrap();
        // The place of the model is taken; another model does not need it.
        assert_eq!(bench.second(0, 0).err(), Some(Lacking { nth: 0, wait: 0 }));
        bench.model = Some("other");
        assert_eq!(bench.left(), [None, Some(990)]);
        let other = bench.second(10, 10).map_err(drop).unwrap();
        bench.settle(&one, 20, 25);
        bench.settle(&other, 10, 15);
        // The second request of the minute, by way of the upstream; its money is a part of the key's as well.
        bench.model = Some("up/gpt-5-mini");
        let two = bench.second(0, 5).map_err(drop).unwrap();
        bench.settle(&two, 0, 5);
        assert_eq!([0, 2].map(|share| bench.counters(share)[0].spent()), [45, 30]);
        // Requests of the minute come before money that is spent.
        assert_eq!(bench.second(0, 0).err(), Some(Lacking { nth: 1, wait: MINUTE / 2 }));
        bench.now += MINUTE;
        assert_eq!(bench.second(0, 0).err().map(|lacking| (lacking.nth, lacking.wait)), Some((5, 0)));
        bench.model = None;
        assert_eq!(bench.second(0, 55).map(|taken| bench.settle(&taken, 0, 55)), Ok(()));
        assert_eq!([0, 2].map(|share| bench.counters(share)[0].spent()), [100, 30]);
    });
}

/// A budget is spent, or the rest of it set aside, where that is asked for first.
const SPENT: Lacking = Lacking { nth: 0, wait: 0 };
const RESERVED: Lacking = Lacking { nth: 0, wait: SECOND };

const NOTHING: Wanted = Wanted { requests: None, tokens: None, at_once: None, budget: None };

#[test]
fn requests_of_a_minute_come_back_one_by_one() {
    over_both(Wanted { requests: Some(60), ..NOTHING }, NOTHING, |mut bench| {
        for left in (0..60).rev() {
            bench.first().unwrap_or_else(|lacking| panic!("{lacking:?} with {left} left"));
            assert_eq!(bench.left(), [Some(left), None]);
        }
        assert_eq!(bench.first().err(), Some(Lacking { nth: 0, wait: SECOND }));
        bench.now = SECOND / 2;
        // Its turn is behind that of the first.
        assert_eq!(bench.first().err(), Some(Lacking { nth: 0, wait: SECOND / 2 * 3 }));
        bench.now = SECOND;
        bench.first().map(drop).unwrap();
        bench.now = 2 * MINUTE;
        assert_eq!(bench.left(), [Some(60), None]);
    });
}

#[test]
fn each_refused_request_has_a_turn_of_its_own() {
    over_both(Wanted { requests: Some(6), ..NOTHING }, Wanted { tokens: Some(60), ..NOTHING }, |mut bench| {
        let refused = |bench: &mut Bench<'_>| bench.first().err().map(|lacking| lacking.wait / SECOND);
        for _ in 0..6 {
            bench.first().map(drop).unwrap();
        }
        for turn in [10, 20, 30, 40, 50, 60, 60, 60] {
            assert_eq!(refused(&mut bench), Some(turn));
        }
        // Who comes at a turn is admitted, and turns are not set aside: nobody is refused for them.
        for turn in 1..=6 {
            bench.now = turn * 10 * SECOND;
            bench.first().map(drop).unwrap();
        }
        // Nobody refused before this one still has to come: it waits only for itself.
        assert_eq!(refused(&mut bench), Some(10));
        assert_eq!(refused(&mut bench), Some(20));
        bench.now += 40 * SECOND;
        for _ in 0..4 {
            bench.first().map(drop).unwrap();
        }
        assert_eq!(refused(&mut bench), Some(10), "turns that were told pass, whether anybody comes or not");
        // Tokens: each behind what the one before it needs.
        bench.second(60, 0).map(drop).unwrap();
        let tokens = |bench: &mut Bench<'_>, tokens| bench.second(tokens, 0).err().map(|lacking| lacking.wait / SECOND);
        assert_eq!(tokens(&mut bench, 10), Some(10));
        assert_eq!(tokens(&mut bench, 20), Some(30));
        assert_eq!(tokens(&mut bench, 15), Some(45));
        assert_eq!(tokens(&mut bench, 40), Some(60));
    });
}

#[test]
fn all_or_nothing_is_taken() {
    let group = Wanted { requests: Some(2), at_once: Some(5), ..NOTHING };
    over_both(Wanted { requests: Some(100), at_once: Some(9), ..NOTHING }, group, |mut bench| {
        let taken: Vec<_> = (0..2).map(|_| bench.first().map_err(|lacking| format!("{lacking:?}")).unwrap()).collect();
        // Two places and two rates; the group's rate is the last.
        assert_eq!(bench.first().err(), Some(Lacking { nth: 3, wait: 30 * SECOND }));
        for one in &taken {
            bench.settle(one, 0, 0);
        }
        bench.now = 3 * MINUTE;
        // Nothing of the refused ones is left: all places are free, and the key has what the group has.
        let again: Vec<_> = (0..2).map(|_| bench.first().map_err(|lacking| format!("{lacking:?}")).unwrap()).collect();
        assert_eq!((again.len(), bench.left()), (2, [Some(0), None]));
    });
}

#[test]
fn places_are_as_many_as_there_are() {
    over_both(Wanted { at_once: Some(2), ..NOTHING }, Wanted { at_once: Some(3), ..NOTHING }, |mut bench| {
        let first = bench.first().map_err(drop).unwrap();
        let second = bench.first().map_err(drop).unwrap();
        assert_eq!(bench.first().err(), Some(Lacking { nth: 0, wait: 0 }));
        bench.settle(&first, 0, 0);
        let third = bench.first().map_err(drop).unwrap();
        assert!(bench.first().is_err());
        bench.settle(&second, 0, 0);
        bench.settle(&third, 0, 0);
        for _ in 0..2 {
            bench.first().map(drop).unwrap();
        }
    });
}

#[test]
fn tokens_are_corrected_to_what_was_used() {
    over_both(Wanted { tokens: Some(100), ..NOTHING }, NOTHING, |mut bench| {
        let much = bench.second(100, 0).map_err(drop).unwrap();
        assert_eq!((bench.left(), bench.second(1, 0).err().map(|lacking| lacking.nth)), ([None, Some(0)], Some(0)));
        bench.settle(&much, 10, 0);
        assert_eq!(bench.left(), [None, Some(90)]);
        bench.now = MINUTE;
        let late = bench.second(100, 0).map_err(drop).unwrap();
        bench.now = 2 * MINUTE;
        // Time gave it back already.
        bench.settle(&late, 0, 0);
        assert_eq!(bench.left(), [None, Some(100)]);
        let small = bench.second(1, 0).map_err(drop).unwrap();
        bench.settle(&small, 131, 0);
        // A debt of half a minute beyond the whole one.
        assert_eq!(bench.second(1, 0).err(), Some(Lacking { nth: 0, wait: 31 * MINUTE / 100 + MINUTE / 100 }));
    });
}

#[test]
fn what_is_larger_than_the_limit_passes_alone() {
    over_both(Wanted { tokens: Some(1000), ..NOTHING }, NOTHING, |mut bench| {
        bench.second(5000, 0).map(drop).unwrap();
        assert_eq!(bench.second(5000, 0).err(), Some(Lacking { nth: 0, wait: 5 * MINUTE }));
        bench.now = 5 * MINUTE;
        bench.second(5000, 0).map(drop).unwrap();
    });
}

#[test]
fn a_budget_is_spent_to_its_last_nano_unit() {
    // More than a double holds.
    let limit = 9_007_199_254_740_993;
    over_both(Wanted { budget: Some(limit), ..NOTHING }, NOTHING, |mut bench| {
        let most = bench.second(0, limit - 1).map_err(drop).unwrap();
        let last = bench.second(0, 1).map_err(drop).unwrap();
        assert_eq!(bench.second(0, 1).err(), Some(RESERVED));
        bench.settle(&most, 0, limit - 2);
        bench.settle(&last, 0, 0);
        // A first one fits that finds anything left.
        let beyond = bench.second(0, 1000).map_err(drop).unwrap();
        assert!(bench.second(0, 1).is_err());
        bench.settle(&beyond, 0, 1);
        bench.second(0, 1).map(drop).unwrap();
        assert!(bench.second(0, 1).is_err());
    });
}

#[test]
fn money_is_carried_over_from_one_unit_to_the_next() {
    over_both(Wanted { budget: Some(2_000_000_000), ..NOTHING }, NOTHING, |mut bench| {
        let taken: Vec<_> = (0..3).map(|_| bench.second(0, 600_000_000).map_err(drop).unwrap()).collect();
        assert!(bench.second(0, 200_000_001).is_err());
        bench.settle(&taken[0], 0, 100_000_000);
        bench.settle(&taken[1], 0, 700_000_000);
        assert!(bench.second(0, 600_000_001).is_err());
        bench.second(0, 600_000_000).map(drop).unwrap();
    });
}

#[test]
fn what_others_spent_is_added_to_what_this_process_spent() {
    over_both(Wanted { budget: Some(100), ..NOTHING }, NOTHING, |mut bench| {
        let one = bench.second(0, 10).map_err(drop).unwrap();
        bench.told(0, 60, 0);
        let other = bench.second(0, 30).map_err(drop).unwrap();
        assert_eq!(bench.second(0, 1).err(), Some(RESERVED));
        bench.settle(&one, 0, 9);
        bench.settle(&other, 0, 29);
        bench.told(0, 61, 0);
        bench.second(0, 1).map(|taken| bench.settle(&taken, 0, 1)).map_err(drop).unwrap();
        assert_eq!(bench.second(0, 0).err(), Some(SPENT));
        bench.told(0, 70, 0);
        assert_eq!(bench.second(0, 0).err(), Some(SPENT));
    });
}

#[test]
fn what_did_cost_less_after_all_comes_back() {
    // In two parts, of which the second has to be borrowed from.
    const UNIT: u64 = 1_500_000_000;
    over_both(Wanted { budget: Some(100 * UNIT), ..NOTHING }, NOTHING, |mut bench| {
        let (one, other) = (bench.second(0, UNIT).map_err(drop).unwrap(), bench.second(0, UNIT).map_err(drop).unwrap());
        bench.settle(&one, 0, 80 * UNIT + 1);
        bench.settle(&other, 0, 20 * UNIT);
        assert_eq!(bench.second(0, 0).err(), Some(SPENT));
        bench.told(0, 0, UNIT + 1);
        let held = bench.second(0, UNIT).map_err(drop).unwrap();
        assert_eq!(bench.second(0, 1).err(), Some(RESERVED));
        bench.settle(&held, 0, UNIT);
        assert_eq!(bench.second(0, 0).err(), Some(SPENT));
        bench.told(0, 10 * UNIT, 60 * UNIT);
        let held = bench.second(0, 50 * UNIT).map_err(drop).unwrap();
        assert!(bench.second(0, 1).is_err());
        bench.settle(&held, 0, 0);
    });
}

#[test]
fn what_is_told_late_again_or_by_others_counts_once() {
    let there = There::start();
    let mut bench = there.bench(Wanted { budget: Some(100), ..NOTHING }, NOTHING);
    let first = bench.second(0, 50).map_err(drop).unwrap();
    // Its reservation is lost, and it is settled late, three times.
    bench.now = 2 * MINUTE;
    bench.second(0, 0).map(|taken| bench.settle(&taken, 0, 0)).map_err(drop).unwrap();
    bench.settle(&first, 0, 50);
    for _ in 0..2 {
        bench.give(&first, 0);
    }
    // Another replica, which has read in the ledger what this one spent, and knows less of it or more.
    let other = there.runtime.block_on(there.server_link("other"));
    let purse = {
        let of = &bench.subject.shares[0];
        let (span, counter) = of.budgets[0].counter(of, &bench.subject, 0);
        shared::purse(of, &of.budgets[0].budget, &span, &counter)
    };
    let counter = Arc::new(Counter::default());
    counter.settle(0, 20);
    let theirs = Purse { counter, ..purse.clone() };
    for (here, spent) in [(30, "1070"), (50, "1070"), (55, "1075"), (50, "1075")] {
        let given = [
            Given::Told(Told { purse: purse.clone(), origin: "here".into(), spent: here }),
            Given::Told(Told { purse: purse.clone(), origin: "gone".into(), spent: 1000 }),
            Given::Spend { purse: theirs.clone() },
        ];
        there.runtime.block_on(other.give(None, [("", &given[..])].into_iter())).unwrap();
        assert_eq!(there.server.list(&format!("HGET {} spent", purse.key)), [spent]);
    }
    // Who spent it knows best, once it asked the ledger again.
    bench.told(0, 0, 10);
    assert!(bench.second(0, 0).is_err());
    assert_eq!(there.server.list(&format!("HGET {} spent", purse.key)), ["1060"]);
}

#[test]
fn nothing_overflows() {
    let most =
        Wanted { requests: Some(u32::MAX), tokens: Some(1), at_once: Some(usize::MAX >> 12), budget: Some(MOST) };
    over_both(most, NOTHING, |mut bench| {
        bench.now = 10 * 365 * 24 * 60 * MINUTE;
        let first = bench.first().map_err(drop).unwrap();
        let second = bench.second(u64::MAX, u64::MAX).map_err(drop).unwrap();
        assert!(bench.second(u64::MAX, u64::MAX).is_err());
        bench.settle(&second, u64::MAX, u64::MAX);
        bench.settle(&first, 0, 0);
        // It is spent, once and for all.
        assert!(bench.second(0, 1).is_err() && bench.second(0, 0).is_err());
    });
}

#[test]
fn what_is_neither_settled_nor_renewed_comes_back() {
    let there = There::start();
    let mut bench = there.bench(Wanted { at_once: Some(1), budget: Some(10), ..NOTHING }, NOTHING);
    bench.first().map(drop).unwrap();
    bench.second(0, 10).map(drop).unwrap();
    bench.now = 59 * SECOND;
    assert!(bench.first().is_err() && bench.second(0, 1).is_err());
    bench.now = 61 * SECOND;
    let (first, second) = (bench.first().map_err(drop).unwrap(), bench.second(0, 10).map_err(drop).unwrap());
    // Renewed, they stay, and what is settled late is settled once.
    let held = [first, second];
    for _ in 0..5 {
        bench.now += 50 * SECOND;
        bench.renew(&held);
        assert!(bench.first().is_err() && bench.second(0, 1).is_err());
    }
    bench.settle(&held[0], 0, 0);
    bench.settle(&held[1], 0, 4);
    for _ in 0..3 {
        bench.give(&held[0], 0);
        bench.give(&held[1], 0);
    }
    bench.first().map(drop).unwrap();
    bench.second(0, 6).map(drop).unwrap();
    assert!(bench.second(0, 1).is_err());
}

#[test]
fn what_is_held_is_known_again_after_redis_was_emptied() {
    let there = There::start();
    let mut bench = there.bench(Wanted { at_once: Some(2), budget: Some(10), ..NOTHING }, NOTHING);
    let held = [bench.first().map_err(drop).unwrap(), bench.second(0, 7).map_err(drop).unwrap()];
    assert_eq!(there.server.ask("FLUSHALL"), "+OK");
    bench.told(0, 2, 0);
    bench.renew(&held);
    bench.renew(&held);
    let _second = bench.first().map_err(drop).unwrap();
    assert!(bench.first().is_err());
    // 2 are spent and 7 set aside.
    assert!(bench.second(0, 2).is_err());
    bench.second(0, 1).map(drop).unwrap();
}

#[test]
fn every_key_has_a_prefix_and_an_end() {
    let there = There::start();
    let all = Wanted { requests: Some(10), tokens: Some(10), at_once: Some(10), budget: Some(10) };
    let mut bench = there.bench(all, all);
    bench.subject.shares[0].name = "a:b c/ü%3A".into();
    let first = bench.first().map_err(drop).unwrap();
    let second = bench.second(1, 1).map_err(drop).unwrap();
    let ends = |count: usize| {
        let keys = there.server.list("KEYS *");
        assert_eq!(keys.len(), count, "{keys:?}");
        for key in &keys {
            let left = there.server.ask(&format!("PTTL {key}"));
            assert!(key.starts_with("tidegate:") && left.trim_start_matches(':').parse::<u64>().unwrap() > 0, "{key}");
        }
        keys
    };
    // Two rates, a place and a budget of two parts for each, and the probe's.
    let keys = ends(11);
    assert!(keys.iter().any(|key| key == "tidegate:rpm:key:a%3Ab%20c%2F%C3%BC%253A"), "{keys:?}");
    bench.settle(&first, 0, 0);
    bench.settle(&second, 3, 1);
    ends(7);
}

#[test]
fn alone_one_of_three_allows_its_part_and_counts_what_it_had() {
    let wanted = Wanted { requests: Some(90), at_once: Some(9), budget: Some(90), ..NOTHING };
    let bench = Bench::new(None, wanted, NOTHING);
    let shares = &bench.subject.shares;
    let alone = Alone { replicas: 3, outage: 1, late: true };
    let take = |items: &[Item], now| memory::take(shares, items, now, alone);
    let (mut first, mut second) = (bench.subject.first(), bench.subject.second(Scope::ALL, 0, &[10, 10], 0));
    // Two places, requests and thrice 10 come from Redis: one place and 28 requests are left, and nothing of the budget.
    for _ in 0..2 {
        memory::count(shares, &mut first, 0, 3);
    }
    for _ in 0..3 {
        memory::count(shares, &mut second, 0, 3);
    }
    take(&first, 0).unwrap();
    assert_eq!(take(&first, 0), Err(Lacking { nth: 0, wait: 0 }));
    assert_eq!(take(&second, 0), Err(RESERVED));
    for _ in 0..3 {
        shares[0].meter.leave();
    }
    for _ in 0..27 {
        take(&first, 0).unwrap();
        shares[0].meter.leave();
    }
    assert_eq!(take(&first, 0), Err(Lacking { nth: 1, wait: 2 * SECOND }));
    // However much it had, its part comes back within a minute.
    for _ in 0..60 {
        memory::count(shares, &mut first, 0, 3);
        shares[0].meter.leave();
    }
    take(&first, 2 * SECOND).unwrap();
    // What was under way did cost 30, all of its part.
    for item in &second {
        let What::Spend { counter, .. } = &item.what else { continue };
        for _ in 0..3 {
            counter.settle(10, 10);
        }
    }
    assert_eq!(take(&second, 0), Err(RESERVED));
    // The next time, of the 60 that are left it has a third.
    let again = |items: &[Item]| memory::take(shares, items, 0, Alone { outage: 2, ..alone });
    let third = bench.subject.second(Scope::ALL, 0, &[5, 5], 0);
    for _ in 0..4 {
        again(&third).unwrap();
        let What::Spend { counter, .. } = &third[0].what else { panic!() };
        counter.settle(5, 5);
    }
    assert_eq!(again(&third), Err(RESERVED));
}

#[test]
fn of_what_is_counted_for_a_share_no_more_is_given_back_than_was_counted() {
    let bench = Bench::new(None, Wanted { tokens: Some(300), ..NOTHING }, NOTHING);
    let share = &bench.subject.shares[0];
    let left = || bench.subject.quotas(Scope::ALL, 0, 3).tokens.unwrap().remaining;
    let take = |cost| {
        let mut items = bench.subject.second(Scope::ALL, cost, &[0, 0], 0);
        memory::count(&bench.subject.shares, &mut items, 0, 3);
        let What::Rate { counted, .. } = items[0].what else { panic!() };
        counted.unwrap()
    };
    // A share of 100 tokens a minute: 80 are in use, when 250 more come from Redis.
    let (first, second) = (take(80), take(250));
    assert_eq!((first, second, left()), (48 * SECOND, 12 * SECOND, 0));
    // None of those were used: the 80 are.
    memory::recount(share, true, second, 0, 0, 0);
    assert_eq!(left(), 20);
    // More than were taken, but no more than a minute's worth.
    memory::recount(share, true, first, 900 * SECOND, 0, 0);
    assert_eq!(left(), 0);
    memory::admit(share.meter.state(true), Rate::per_minute(100), MINUTE, 100).unwrap();
    // What time gave back is not given back again.
    let third = take(0);
    memory::recount(share, true, third + MINUTE, 0, 0, MINUTE);
    assert_eq!(share.meter.state(true).load(Ordering::Relaxed), 2 * MINUTE);
}

/// One step of a random sequence.
#[derive(Clone, Debug)]
enum Step {
    First,
    Second { tokens: u64, cost: u64 },
    Settle { nth: usize, used: u64, really: u64 },
    Told { share: usize, spent: u64 },
    Pause { micros: u64 },
}

impl Step {
    /// The same with so many times the money.
    fn dearer(self, times: u64) -> Self {
        match self {
            Self::Second { tokens, cost } => Self::Second { tokens, cost: cost * times },
            Self::Settle { nth, used, really } => Self::Settle { nth, used, really: really * times },
            Self::Told { share, spent } => Self::Told { share, spent: spent * times },
            other => other,
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::First),
        4 => (0_u64..60, 0_u64..40).prop_map(|(tokens, cost)| Step::Second { tokens, cost }),
        3 => (any::<usize>(), 0_u64..80, 0_u64..60).prop_map(|(nth, used, really)| Step::Settle { nth, used, really }),
        1 => (0_usize..2, 0_u64..40).prop_map(|(share, spent)| Step::Told { share, spent }),
        3 => (0_u64..20 * SECOND).prop_map(|micros| Step::Pause { micros }),
    ]
}

fn wanted() -> impl Strategy<Value = Wanted> {
    let one = (prop::option::of(1_u32..50), prop::option::of(1_u32..200), prop::option::of(1_usize..6));
    (one, prop::option::of(1_u64..300)).prop_map(|((requests, tokens, at_once), budget)| Wanted {
        requests,
        tokens,
        at_once,
        budget,
    })
}

impl std::fmt::Debug for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", (self.requests, self.tokens, self.at_once, self.budget))
    }
}

/// All decisions of a sequence, and how the rates stood after each step.
fn decisions(mut bench: Bench<'_>, steps: &[Step]) -> Vec<(Option<Lacking>, [Option<u64>; 2])> {
    let mut under_way = Vec::new();
    let mut others = [0; 2];
    let mut said = Vec::new();
    for step in steps {
        let lacking = match *step {
            Step::First => bench.first().map(|taken| under_way.push(taken)).err(),
            Step::Second { tokens, cost } => bench.second(tokens, cost).map(|taken| under_way.push(taken)).err(),
            Step::Settle { nth, used, really } => {
                if !under_way.is_empty() {
                    let taken = under_way.remove(nth % under_way.len());
                    bench.settle(&taken, used, really);
                }
                None
            }
            Step::Told { share, spent } => {
                // What others spent never gets less.
                others[share] += spent;
                bench.told(share, others[share], 0);
                None
            }
            Step::Pause { micros } => {
                bench.now += micros;
                bench.renew(&under_way);
                None
            }
        };
        said.push((lacking, bench.left()));
    }
    said
}

#[test]
fn memory_and_redis_decide_alike() {
    let there = There::start();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(150));
    // In nano-units, and in such amounts that most cross from one unit to the next.
    let times = prop_oneof![Just(1), Just(37_000_001)];
    let sequence = (wanted(), wanted(), prop::collection::vec(step(), 1..80), times);
    let alike = |(key, group, steps, times): (Wanted, Wanted, Vec<Step>, u64)| {
        let dearer = |wanted: Wanted| Wanted { budget: wanted.budget.map(|budget| budget * times), ..wanted };
        let (key, group) = (dearer(key), dearer(group));
        let steps: Vec<_> = steps.into_iter().map(|step| step.dearer(times)).collect();
        let here = decisions(Bench::new(None, key, group), &steps);
        let over_there = decisions(there.bench(key, group), &steps);
        prop_assert_eq!(here, over_there);
        Ok(())
    };
    runner.run(&sequence, alike).unwrap();
}

/// A batch that is refused in part: who comes back at the time that was told is admitted then.
fn comes_back(mut bench: Bench<'_>, batch: usize) -> Result<(), TestCaseError> {
    let mut waits: Vec<u64> = Vec::new();
    for _ in 0..batch {
        waits.extend(bench.first().err().map(|lacking| lacking.wait));
    }
    let began = bench.now;
    for wait in waits.into_iter().filter(|wait| *wait < MINUTE) {
        bench.now = began + wait;
        prop_assert!(bench.first().is_ok(), "refused again after {wait}");
    }
    Ok(())
}

#[test]
fn who_comes_back_at_its_turn_is_admitted() {
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(100));
    let comes = |(limit, batch): (u32, usize)| {
        comes_back(Bench::new(None, Wanted { requests: Some(limit), ..NOTHING }, NOTHING), batch)
    };
    runner.run(&(1_u32..40, 1_usize..120), comes).unwrap();
}

/// A pause, tokens, what it really costs, and whether one ends.
type Ask = (u64, u64, u64, bool);

/// In any stretch of time no more is admitted than a minute's worth and what comes back meanwhile, and to wait as long as one was
/// told is enough. Of a budget no more is spent than it is, and what those that were under way at once cost.
fn keeps_to_it(mut bench: Bench<'_>, limit: u32, budget: u64, asks: &[Ask]) -> Result<(), TestCaseError> {
    let mut admitted: Vec<(u64, u64)> = Vec::new();
    let (mut under_way, mut spent, mut most) = (Vec::new(), 0, 0);
    for &(pause, tokens, really, ends) in asks {
        bench.now += pause;
        let tokens = tokens.min(u64::from(limit));
        match bench.second(tokens, really / 2) {
            Ok(taken) => {
                admitted.push((bench.now, tokens));
                under_way.push((taken, tokens, really));
            }
            Err(Lacking { nth: 0, wait }) => {
                prop_assert!(wait > 0 && wait <= MINUTE, "{wait}");
            }
            Err(_) => {}
        }
        most = most.max(under_way.iter().map(|(_, _, really)| really).sum::<u64>());
        if ends && !under_way.is_empty() {
            let (taken, tokens, really) = under_way.remove(0);
            bench.settle(&taken, tokens, really);
            spent += really;
        }
        let held: Vec<Taken> = under_way
            .iter()
            .map(|(taken, ..)| Taken { holder: taken.holder.clone(), items: taken.items.clone(), at: taken.at })
            .collect();
        bench.renew(&held);
        prop_assert!(spent <= budget + most, "{spent} of {budget} and {most}");
        for (i, (from, _)) in admitted.iter().enumerate() {
            let sum: u64 = admitted.iter().skip(i).map(|(_, cost)| cost).sum();
            let allowed = u128::from(limit) + u128::from(bench.now - from) * u128::from(limit) / u128::from(MINUTE);
            prop_assert!(u128::from(sum) <= allowed + 1, "{sum} of {allowed} since {from}");
        }
    }
    Ok(())
}

fn keep_to_it<'a>(cases: u32, over: impl Fn(Wanted) -> Bench<'a>) {
    let asks = prop::collection::vec((0_u64..5 * SECOND, 1_u64..20, 0_u64..60, any::<bool>()), 1..60);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(cases));
    let kept = |(limit, budget, asks): (u32, u64, Vec<Ask>)| {
        let bench = over(Wanted { tokens: Some(limit), budget: Some(budget), ..NOTHING });
        keeps_to_it(bench, limit, budget, &asks)
    };
    runner.run(&(1_u32..300, 1_u64..2000, asks), kept).unwrap();
}

#[test]
fn no_window_admits_more_than_rate_and_burst_and_no_budget_is_overspent() {
    keep_to_it(200, |wanted| Bench::new(None, wanted, NOTHING));
    let there = There::start();
    keep_to_it(60, |wanted| there.bench(wanted, NOTHING));
}

/// What becomes of a request, with what it used and did cost.
#[derive(Clone, Copy, Debug)]
enum Ending {
    /// It was never sent.
    Dropped,
    Nothing,
    Tokens,
    Partly,
}

fn ending() -> impl Strategy<Value = (Ending, u64, u64)> {
    let what = prop_oneof![Just(Ending::Dropped), Just(Ending::Nothing), Just(Ending::Tokens), Just(Ending::Partly)];
    (what, 0..300_u64, 0..120_u64)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However permits end, each gives back all that it set aside, in its key's, its group's and its model's budget alike, and what is
    /// charged is what the requests did cost. All places are free again.
    #[test]
    fn permits_give_back_what_they_set_aside_and_charge_what_it_cost(
        requests in prop::collection::vec((0..3_usize, 0..200_u64, 0..200_u64, any::<bool>(), ending()), 1..60)
    ) {
        let (key, group) = (
            Wanted { tokens: Some(5000), at_once: Some(5), budget: Some(1000), ..Wanted::default() },
            Wanted { at_once: Some(4), budget: Some(3000), ..Wanted::default() },
        );
        let of_it = Wanted { requests: Some(500), tokens: Some(2000), at_once: Some(2), budget: Some(300) };
        let subject = Arc::new(of_model(Bench::new(None, key, group), "gpt-5*", of_it).subject);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let began = runtime.block_on(async { Instant::now() });
        let (mut under_way, mut charged) = (Vec::new(), [0_u64; 3]);
        let end = |(mut permit, is_of_model, (ending, used, cost)): (Permit, bool, (Ending, u64, u64)), charged: &mut [u64; 3]| {
            let (input, output) = (Some(used / 2), Some(used - used / 2));
            let money = Some(Money { nano: cost, currency: Currency::Cny });
            let used = match ending {
                Ending::Dropped => return,
                Ending::Nothing => return permit.settle(Used::Nothing, None, Exchange::default()),
                Ending::Tokens => Used::Tokens { input, output },
                Ending::Partly => Used::Partly { input: None, output, seen: used },
            };
            permit.settle(used, money, Exchange::default());
            // A second one changes nothing.
            permit.settle(used, money, Exchange::default());
            for (share, charged) in charged.iter_mut().enumerate() {
                *charged += if share < 2 || is_of_model { cost } else { 0 };
            }
        };
        for (model, tokens, cost, ends, ending) in requests {
            let model = [None, Some("up/gpt-5-mini"), Some("other")][model];
            let permit = runtime.block_on(async {
                let mut permit = Permit::admit(Some(Arc::clone(&subject)), None, began).await.ok()?;
                assert!(permit.asks_for(model));
                let estimate = UsageEstimate { input: tokens, output: 0 };
                permit.reserve(estimate, &[cost, cost], 0).await.ok().map(|()| permit)
            });
            if let Some(permit) = permit {
                under_way.push((permit, model == Some("up/gpt-5-mini"), ending));
            }
            if ends && !under_way.is_empty() {
                end(under_way.remove(0), &mut charged);
            }
        }
        under_way.into_iter().for_each(|one| end(one, &mut charged));
        for (share, charged) in subject.shares.iter().zip(charged) {
            let counter = share.budgets[0].counter(share, &subject, 0).1;
            prop_assert_eq!((counter.reserved(), counter.spent()), (0, charged), "{:?}", share.model);
            prop_assert_eq!(share.meter.under_way(), 0);
        }
    }
}
