//! Two processes that share a budget over a Redis that forgets, and a ledger that knows rows only once they are stored.

use super::*;

/// What both have, and may overspend by what is under way.
struct Two<'a> {
    there: &'a There,
    /// Their data folders' names, and what each knows.
    both: [One; 2],
    name: String,
    limit: u64,
    /// Rows that are stored, of each.
    ledger: [u64; 2],
    asked: u64,
    /// How often Redis forgot, and whether the ledger showed what was spent before the last time.
    outage: u64,
    shown: bool,
    /// What was let in by who did not know what the other spent.
    unsure: u64,
}

struct One {
    link: Link,
    subject: Subject,
    under_way: Vec<Taken>,
    /// What rows cost that are not stored yet.
    rows: u64,
    away: bool,
    caught_up: bool,
}

#[derive(Clone, Debug)]
enum Step {
    Take {
        who: usize,
        cost: u64,
    },
    /// What it really costs: so many tenths of what was reserved.
    Settle {
        who: usize,
        nth: usize,
        tenths: u64,
    },
    Store {
        who: usize,
    },
    Read,
    Forget,
    CatchUp {
        who: usize,
    },
}

impl<'a> Two<'a> {
    fn new(there: &'a There, limit: u64) -> Self {
        let name = format!("t{}", TURN.fetch_add(1, Ordering::Relaxed));
        let one = |origin: &str| {
            let shares = vec![share(Spender::Key, &name, Wanted { budget: Some(limit), ..NOTHING })];
            let windows = Arc::new(Windows::new(jiff::tz::TimeZone::UTC));
            One {
                link: there.runtime.block_on(there.server_link(origin)),
                subject: Subject { shares, upstreams: Arc::default(), spending: Arc::default(), windows },
                under_way: Vec::new(),
                rows: 0,
                away: false,
                caught_up: false,
            }
        };
        let both = [one("a"), one("b")];
        let mut two = Self { there, both, name, limit, ledger: [0; 2], asked: 0, outage: 0, shown: false, unsure: 0 };
        two.read();
        two
    }

    fn counter(&self, who: usize) -> Arc<Counter> {
        let of = &self.both[who].subject;
        of.shares[0].budgets[0].counter(&of.shares[0], of, 0).1
    }

    fn purse(&self, who: usize) -> Purse {
        let share = &self.both[who].subject.shares[0];
        let (span, counter) = share.budgets[0].counter(share, &self.both[who].subject, 0);
        shared::purse(share, &share.budgets[0].budget, &span, &counter)
    }

    fn take(&mut self, who: usize, cost: u64) {
        let items = self.both[who].subject.second(Scope::ALL, 0, &[cost, cost], 0);
        let holder = format!("{}-{}", self.name, TURN.fetch_add(1, Ordering::Relaxed));
        let (counter, of) = (self.counter(who), &mut self.both[who]);
        let taken = if of.away {
            let alone = Alone { replicas: 2, outage: self.outage, late: false };
            let taken = memory::take(&of.subject.shares, &items, 0, alone).is_ok();
            self.unsure += if taken && !self.shown { cost } else { 0 };
            taken
        } else if counter.spent() >= self.limit {
            false
        } else {
            let (mut asked, _) = shared::question(&of.subject, Scope::ALL, &items);
            let told: Vec<_> = asked.iter().flat_map(told).collect();
            asked.extend(told);
            let answer = self.there.runtime.block_on(of.link.take(None, None, &holder, &asked)).unwrap();
            let taken = answer.lacking.is_none();
            if taken {
                counter.hold(cost);
            }
            taken
        };
        if taken {
            of.under_way.push(Taken { holder, items, at: 0 });
        }
    }

    fn settle(&mut self, who: usize, nth: usize, tenths: u64) {
        let (purse, of) = (self.purse(who), &mut self.both[who]);
        if of.under_way.is_empty() {
            return;
        }
        let taken = of.under_way.remove(nth % of.under_way.len());
        let What::Spend { counter, cost, .. } = &taken.items[0].what else { panic!() };
        let really = cost * tenths / 10;
        counter.settle(*cost, really);
        of.rows += really;
        if !of.away || of.caught_up {
            let given = [Given::Spend { purse }];
            self.there.runtime.block_on(of.link.give(None, [(&*taken.holder, &given[..])].into_iter())).unwrap();
        }
    }

    fn store(&mut self, who: usize) {
        let rows = std::mem::take(&mut self.both[who].rows);
        self.ledger[who] += rows;
        self.counter(who).is_stored(rows);
    }

    /// As the ledger is asked once rows had time to get there.
    fn read(&mut self) {
        self.asked += 1;
        for who in 0..2 {
            self.store(who);
        }
        self.shown = true;
        for (who, other) in [(0, "b"), (1, "a")] {
            let counter = self.counter(who);
            let others = [(other.into(), self.ledger[1 - who])].into();
            let sums = Sums { own: self.ledger[who], others, asked: self.asked, wish: self.outage };
            counter.is_told(sums, counter.stored());
        }
    }

    fn forget(&mut self) {
        assert_eq!(self.there.server.ask("FLUSHALL"), "+OK");
        self.outage += 1;
        self.shown = false;
        for of in &mut self.both {
            (of.away, of.caught_up) = (true, false);
        }
    }

    /// As the thread does; when both did, Redis is asked again.
    fn catch_up(&mut self, who: usize) {
        let (purse, of) = (self.purse(who), &mut self.both[who]);
        if !of.away {
            return;
        }
        let held = |taken: &Taken| {
            let items = taken.items.iter().filter_map(|item| shared::asked(&of.subject, item)).collect();
            (taken.holder.clone(), items)
        };
        let held: Vec<(String, Vec<redis::Item>)> = of.under_way.iter().map(held).collect();
        let (_, others) = purse.counter.others();
        let tell = |(origin, spent): &(Arc<str>, u64)| {
            Given::Told(Told { purse: purse.clone(), origin: Arc::clone(origin), spent: *spent })
        };
        let mut given: Vec<Given> = others.iter().map(tell).collect();
        given.push(Given::Spend { purse: purse.clone() });
        self.there.runtime.block_on(of.link.renew(None, &held)).unwrap();
        self.there.runtime.block_on(of.link.give(None, [("", &*given)].into_iter())).unwrap();
        of.caught_up = true;
        if self.both.iter().all(|of| of.caught_up) {
            self.both.iter_mut().for_each(|of| of.away = false);
        }
    }

    /// What was spent, and what is set aside.
    fn committed(&self) -> u64 {
        let cost = |taken: &Taken| match &taken.items[0].what {
            What::Spend { cost, .. } => *cost,
            _ => 0,
        };
        let of = |of: &One| of.under_way.iter().map(cost).sum::<u64>();
        self.spent() + self.both.iter().map(of).sum::<u64>()
    }

    /// What was really spent.
    fn spent(&self) -> u64 {
        self.both.iter().map(|of| of.rows).sum::<u64>() + self.ledger.iter().sum::<u64>()
    }
}

fn step() -> impl Strategy<Value = Step> {
    let who = 0_usize..2;
    prop_oneof![
        8 => (who.clone(), 1_u64..20).prop_map(|(who, cost)| Step::Take { who, cost }),
        5 => (who.clone(), any::<usize>(), 0_u64..15).prop_map(|(who, nth, tenths)| Step::Settle { who, nth, tenths }),
        2 => who.clone().prop_map(|who| Step::Store { who }),
        1 => Just(Step::Read),
        1 => Just(Step::Forget),
        1 => who.prop_map(|who| Step::CatchUp { who }),
    ]
}

#[test]
fn what_two_spend_is_bounded_whatever_redis_forgets() {
    let there = There::start();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(100));
    let kept = |(limit, steps): (u64, Vec<Step>)| {
        let mut two = Two::new(&there, limit);
        // What requests cost beyond their reservations, and the most that one reserved: a first one always fits.
        let (mut beyond, mut largest) = (0, 0);
        for step in steps {
            match step {
                Step::Take { who, cost } => {
                    two.take(who, cost);
                    largest = largest.max(cost);
                }
                Step::Settle { who, nth, tenths } => {
                    let before = two.committed();
                    two.settle(who, nth, tenths);
                    beyond += two.committed().saturating_sub(before);
                }
                Step::Store { who } => two.store(who),
                Step::Read => two.read(),
                Step::Forget => two.forget(),
                Step::CatchUp { who } => two.catch_up(who),
            }
            let bound = limit + beyond + two.unsure + 2 * largest;
            prop_assert!(two.committed() <= bound, "{} of {limit}, {bound} at most", two.committed());
        }
        // Once both said it, Redis knows what was spent, each unit of it once.
        for who in [0, 1] {
            two.catch_up(who);
        }
        for who in [0, 1] {
            while !two.both[who].under_way.is_empty() {
                two.settle(who, 0, 10);
            }
            two.take(who, 0);
        }
        let there = there.server.list(&format!("HGET {} spent", two.purse(0).key));
        let there: u64 = there.first().map_or(0, |spent| spent.parse().unwrap());
        prop_assert_eq!(there, two.spent());
        Ok(())
    };
    runner.run(&(50_u64..400, prop::collection::vec(step(), 1..200)), kept).unwrap();
}
