//! Two replicas share a budget over a Redis that is emptied, and a ledger that has rows only after they are stored. The
//! test performs the work of the replicas' workers itself, in random order.

use std::{cell::RefCell, sync::Arc};

use proptest::prelude::*;
use tidegate::{
    budgets::{Counter, LedgerSums},
    store::redis::{LimitItem, Link, Operation, SharedBudget},
};
use tokio::runtime::Runtime;

use super::redis_script::{is_spent, link, send, settle, unique_name};
use crate::support::redis::RedisServer;

struct TwoReplicas<'a> {
    there: &'a RedisLinks,
    both: [Replica; 2],
    name: String,
    limit: u64,
    /// The stored rows' cost of each replica, and the number of readings.
    ledger: [u64; 2],
    read: u64,
    requests: u64,
}

struct RedisLinks {
    runtime: Runtime,
    server: RedisServer,
    links: [RefCell<Link>; 2],
}

#[derive(Default)]
struct Replica {
    counter: Arc<Counter>,
    under_way: Vec<(String, u64)>,
    /// The cost of rows that are not stored yet.
    rows: u64,
    away: bool,
    /// The other replica's spend, according to the last reading of the ledger.
    shown: u64,
}

impl Replica {
    fn reserved(&self) -> u64 {
        self.under_way.iter().map(|(_, cost)| cost).sum()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Take {
        who: usize,
        cost: u64,
    },
    /// The real cost in tenths of the reservation.
    Settle {
        who: usize,
        nth: usize,
        tenths: u64,
    },
    Store {
        who: usize,
    },
    Read {
        who: usize,
    },
    Empty,
    Back {
        who: usize,
    },
}

impl<'a> TwoReplicas<'a> {
    fn new(there: &'a RedisLinks, limit: u64) -> Self {
        let both = [Replica::default(), Replica::default()];
        Self { there, both, name: unique_name(), limit, ledger: [0; 2], read: 0, requests: 0 }
    }

    /// A replica's knowledge of the budget.
    fn budget(&self, who: usize) -> SharedBudget {
        SharedBudget { name: self.name.clone(), until: None, spend: Arc::<Counter>::clone(&self.both[who].counter) }
    }

    /// Requests this much of the budget, and checks the promise, whoever decides.
    fn take(&mut self, who: usize, cost: u64) -> Result<(), TestCaseError> {
        self.requests += 1;
        let (holder, limit) = (format!("{}-{}", self.name, self.requests), self.limit);
        let (budget, replica) = (self.budget(who), &self.both[who]);
        let taken = if replica.away {
            replica.counter.reserve(limit, cost, 2).is_ok()
        } else if replica.counter.spent() >= limit {
            false
        } else {
            let items = vec![LimitItem::Spend { budget, limit, cost }];
            let mut link = self.there.links[who].borrow_mut();
            let asked = send(&mut link, None, Operation::Take, &holder, items);
            let taken = self.there.runtime.block_on(asked).exceeded.is_none();
            if taken {
                replica.counter.reserve_anyway(cost);
            }
            taken
        };
        if taken {
            self.both[who].under_way.push((holder, cost));
            let other = &self.both[1 - who];
            // While both replicas use Redis, Redis knows everything. Otherwise the other replica's spend since the last
            // reading is unknown.
            let all_known = self.both.iter().all(|replica| !replica.away);
            let unknown = self.spent_by(1 - who) + other.reserved() - self.both[who].shown;
            let bound = limit + cost + if all_known { 0 } else { unknown };
            prop_assert!(self.committed() <= bound, "{} of {}, {} at most", self.committed(), limit, bound);
        }
        Ok(())
    }

    fn settle(&mut self, who: usize, nth: usize, tenths: u64) {
        let replica = &mut self.both[who];
        if replica.under_way.is_empty() {
            return;
        }
        let (holder, cost) = replica.under_way.remove(nth % replica.under_way.len());
        let really = cost * tenths / 10;
        replica.counter.settle(cost, really);
        replica.rows += really;
        if !replica.away {
            self.report_spend(who, &holder, cost);
        }
    }

    /// Reports the replica's spend, and releases the reservation of this request.
    fn report_spend(&self, who: usize, holder: &str, reserved: u64) {
        let mut link = self.there.links[who].borrow_mut();
        self.there.runtime.block_on(settle(&mut link, None, holder, self.budget(who), reserved));
    }

    fn store(&mut self, who: usize) {
        let rows = std::mem::take(&mut self.both[who].rows);
        self.ledger[who] += rows;
        self.both[who].counter.row_stored(rows);
    }

    fn read(&mut self, who: usize) {
        self.read += 1;
        let others = [(["a", "b"][1 - who].into(), self.ledger[1 - who])].into();
        let replica = &mut self.both[who];
        let sums = LedgerSums { own: self.ledger[who], others, read_at: self.read };
        replica.counter.ledger_shows(sums, replica.counter.stored());
        replica.shown = self.ledger[1 - who];
    }

    /// Each replica notices it with its next request to Redis.
    fn empty(&mut self) {
        assert_eq!(self.there.server.ask("FLUSHALL"), "+OK");
        self.both.iter_mut().for_each(|replica| replica.away = true);
    }

    /// A replica reports its spend and its reservations, and uses Redis again, whatever the other one does.
    fn back(&mut self, who: usize) {
        if !std::mem::take(&mut self.both[who].away) {
            return;
        }
        self.there.links[who].borrow_mut().forget();
        self.report_spend(who, "", 0);
        let mut link = self.there.links[who].borrow_mut();
        for (holder, cost) in &self.both[who].under_way {
            let items = vec![LimitItem::Spend { budget: self.budget(who), limit: self.limit, cost: *cost }];
            self.there.runtime.block_on(send(&mut link, None, Operation::Renew, holder, items));
        }
    }

    fn spent_by(&self, who: usize) -> u64 {
        self.both[who].rows + self.ledger[who]
    }

    /// The spend and the reservations.
    fn committed(&self) -> u64 {
        [0, 1].map(|who| self.spent_by(who) + self.both[who].reserved()).into_iter().sum()
    }
}

fn step() -> impl Strategy<Value = Step> {
    let who = 0_usize..2;
    prop_oneof![
        8 => (who.clone(), 1_u64..20).prop_map(|(who, cost)| Step::Take { who, cost }),
        5 => (who.clone(), any::<usize>(), 0_u64..15).prop_map(|(who, nth, tenths)| Step::Settle { who, nth, tenths }),
        2 => who.clone().prop_map(|who| Step::Store { who }),
        1 => who.clone().prop_map(|who| Step::Read { who }),
        1 => Just(Step::Empty),
        2 => who.prop_map(|who| Step::Back { who }),
    ]
}

#[test]
fn two_replicas_overspend_at_most_by_the_others_spend_since_the_last_reading() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let server = RedisServer::start();
    let links = runtime.block_on(async { [link(&server, "a").await, link(&server, "b").await] }).map(RefCell::new);
    let there = RedisLinks { runtime, server, links };
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(100));
    let kept = |(limit, steps): (u64, Vec<Step>)| {
        let mut two = TwoReplicas::new(&there, limit);
        for step in steps {
            match step {
                Step::Take { who, cost } => two.take(who, cost)?,
                Step::Settle { who, nth, tenths } => two.settle(who, nth, tenths),
                Step::Store { who } => two.store(who),
                Step::Read { who } => two.read(who),
                Step::Empty => two.empty(),
                Step::Back { who } => two.back(who),
            }
        }
        // After both use Redis again, Redis counts each unit of the spend once.
        for who in [0, 1] {
            two.back(who);
            while !two.both[who].under_way.is_empty() {
                two.settle(who, 0, 10);
            }
        }
        let spent = two.committed();
        prop_assert!(there.runtime.block_on(is_spent(&there.server, &two.name, spent)), "{}", spent);
        Ok(())
    };
    runner.run(&(50_u64..400, prop::collection::vec(step(), 1..200)), kept).unwrap();
}
