//! What Redis is told, and what it answers, as a replica sees it.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use tidegate::{
    config,
    domain::spending::{OwnSpend, RemoteSpend},
    store::redis::{Command, LimitItem, Link, Operation, SharedBudget, SpendSource, TakeResult},
};

use crate::support::redis::RedisServer;

const SECOND: u64 = 1_000_000;
/// When the clock of these tests begins for Redis.
const BEGAN: u64 = 1_760_000_000 * SECOND;

/// Names that no two tests share.
static NAMES: AtomicU32 = AtomicU32::new(0);

/// A connection of the replica with a data folder of this name.
pub(super) async fn link(server: &RedisServer, origin: &str) -> Link {
    let place = config::RedisSettings::plain("127.0.0.1", server.port);
    Link::at(&place, &origin.into()).await.unwrap()
}

pub(super) fn unique_name() -> String {
    format!("tidegate:test:{}", NAMES.fetch_add(1, Ordering::Relaxed))
}

/// What a replica knows of a budget.
struct Known(OwnSpend, RemoteSpend);

impl SpendSource for Known {
    fn own(&self) -> OwnSpend {
        self.0
    }

    fn others(&self) -> RemoteSpend {
        self.1.clone()
    }
}

/// A budget of which the replica itself has spent `total`, based on a reading of the ledger at `read_at`.
fn budget(name: &str, total: u64, read_at: u64) -> SharedBudget {
    let spend = Known(OwnSpend { total, read_at }, RemoteSpend::default());
    SharedBudget { name: name.into(), until: None, spend: Arc::new(spend) }
}

/// A budget with the spend of others in the ledger.
fn beside(name: &str, total: u64, others: &[(&str, u64)]) -> SharedBudget {
    let by_origin: Vec<(Arc<str>, u64)> = others.iter().map(|(origin, spent)| (Arc::from(*origin), *spent)).collect();
    let others = RemoteSpend { read_at: total + others[0].1, by_origin: by_origin.into() };
    SharedBudget { name: name.into(), until: None, spend: Arc::new(Known(OwnSpend { total, read_at: 0 }, others)) }
}

/// One command, with the time of the test or the clock of the server.
pub(super) async fn send(
    link: &mut Link,
    now: Option<u64>,
    operation: Operation,
    request: &str,
    items: Vec<LimitItem>,
) -> TakeResult {
    let now = now.map(|now| BEGAN + now);
    let answers = link.send(now, "", &[Command::new(operation, request.to_owned(), items)]).await.unwrap();
    answers.into_iter().next().unwrap().unwrap()
}

/// How Redis answers a request that needs this of a budget: 0 = the budget is spent, else the microseconds to wait; none = granted.
async fn asks(
    link: &mut Link,
    now: u64,
    request: &str,
    budget: SharedBudget,
    (limit, cost): (u64, u64),
) -> Option<u64> {
    let items = vec![LimitItem::Spend { budget, limit, cost }];
    send(link, Some(now), Operation::Take, request, items).await.exceeded.map(|(_, wait)| wait)
}

/// Gives back what a request reserved of a budget, and tells the spend.
pub(super) async fn settle(link: &mut Link, now: Option<u64>, request: &str, budget: SharedBudget, cost: u64) {
    send(link, now, Operation::Give, request, vec![LimitItem::Spend { budget, limit: 0, cost }]).await;
}

/// Whether exactly this is spent: a larger budget has something left, and a budget of this size has not.
pub(super) async fn is_spent(server: &RedisServer, name: &str, spent: u64) -> bool {
    let mut other = link(server, "asks").await;
    let left = asks(&mut other, 0, "asks", budget(name, 0, 0), (spent + 1, 0)).await != Some(0);
    let spent = asks(&mut other, 0, "asks", budget(name, 0, 0), (spent, 0)).await == Some(0);
    settle(&mut other, None, "asks", budget(name, 0, 0), 0).await;
    left && spent
}

#[tokio::test]
async fn a_spend_that_is_told_late_or_again_or_by_others_counts_once() {
    let server = RedisServer::start();
    let (mut here, mut other, name) = (link(&server, "here").await, link(&server, "other").await, unique_name());
    assert_eq!(asks(&mut here, 0, "first", budget(&name, 0, 0), (100, 50)).await, None);
    // Its reservation ends, and it is settled late, three times.
    assert_eq!(asks(&mut here, 120 * SECOND, "second", budget(&name, 0, 0), (100, 100)).await, None);
    for (request, reserved) in [("second", 100), ("first", 50), ("first", 50), ("first", 50)] {
        settle(&mut here, Some(120 * SECOND), request, budget(&name, 50, 0), reserved).await;
    }
    assert!(is_spent(&server, &name, 50).await);
    // Another replica has read in the ledger less than this replica spent, or more; and the spend of a replica that is gone.
    for (of_here, spent) in [(30, 1070), (50, 1070), (55, 1075), (50, 1075)] {
        settle(&mut other, None, "", beside(&name, 20, &[("here", of_here), ("gone", 1000)]), 0).await;
        assert!(is_spent(&server, &name, spent).await, "{of_here}");
    }
    // The replica itself knows best, once it has read the ledger again.
    asks(&mut here, 0, "third", budget(&name, 40, 7), (2000, 0)).await;
    assert!(is_spent(&server, &name, 1060).await);
    asks(&mut here, 0, "third", budget(&name, 90, 6), (2000, 0)).await;
    assert!(is_spent(&server, &name, 1110).await, "a later total that is higher");
}

/// A place and a budget of 10.
fn held(name: &str, spent: u64) -> Vec<LimitItem> {
    let place = LimitItem::Place { key: format!("{name}:place"), limit: 1 };
    vec![place, LimitItem::Spend { budget: budget(name, spent, 0), limit: 10, cost: 10 }]
}

/// Which of the two another request cannot have.
async fn lacks(link: &mut Link, now: u64, name: &str) -> Vec<usize> {
    let mut lacks = Vec::new();
    for (nth, item) in held(name, 0).into_iter().enumerate() {
        let answer = send(link, Some(now), Operation::Take, "other", vec![item]).await;
        match answer.exceeded {
            Some(_) => lacks.push(nth),
            None => {
                send(link, Some(now), Operation::Give, "other", held(name, 0)).await;
            }
        }
    }
    lacks
}

#[tokio::test]
async fn a_reservation_that_is_neither_given_back_nor_renewed_ends() {
    let server = RedisServer::start();
    let (mut link, name) = (link(&server, "here").await, unique_name());
    let takes = async |link: &mut Link, now: u64, request: &str| {
        send(link, Some(now), Operation::Take, request, held(&name, 0)).await.exceeded.is_none()
    };
    assert!(takes(&mut link, 0, "gone").await);
    assert_eq!(lacks(&mut link, 59 * SECOND, &name).await, [0, 1]);
    let mut now = 61 * SECOND;
    assert_eq!(lacks(&mut link, now, &name).await, [0; 0]);
    // With renewals it stays, and it is given back once, however often that is told.
    assert!(takes(&mut link, now, "lives").await);
    for _ in 0..5 {
        now += 50 * SECOND;
        send(&mut link, Some(now), Operation::Renew, "lives", held(&name, 0)).await;
        assert_eq!(lacks(&mut link, now, &name).await, [0, 1]);
    }
    for _ in 0..3 {
        send(&mut link, Some(now), Operation::Give, "lives", held(&name, 4)).await;
    }
    assert!(takes(&mut link, now, "next").await, "6 are left, and a request alone is admitted");
    assert!(is_spent(&server, &name, 4).await);
}

#[tokio::test]
async fn reservations_are_told_again_after_redis_was_emptied() {
    let server = RedisServer::start();
    let (mut link, name) = (link(&server, "here").await, unique_name());
    send(&mut link, Some(0), Operation::Take, "lives", held(&name, 0)).await;
    assert_eq!(server.ask("FLUSHALL"), "+OK");
    for _ in 0..2 {
        send(&mut link, Some(0), Operation::Renew, "lives", held(&name, 2)).await;
    }
    assert_eq!(lacks(&mut link, 0, &name).await, [0, 1]);
    // 2 are spent, and 10 reserved once.
    assert_eq!(asks(&mut link, 0, "other", budget(&name, 0, 0), (20, 9)).await, Some(SECOND));
    assert_eq!(asks(&mut link, 0, "other", budget(&name, 0, 0), (20, 8)).await, None);
}

#[tokio::test]
async fn in_another_epoch_redis_decides_nothing() {
    let server = RedisServer::start();
    let (mut link, name) = (link(&server, "here").await, unique_name());
    let mut take = async |request: &str| {
        let command = Command::new(Operation::Take, request.to_owned(), held(&name, 0));
        link.send(None, "first", &[command]).await.unwrap().remove(0)
    };
    assert!(take("one").await.is_some_and(|answer| answer.exceeded.is_none()));
    assert_eq!(server.ask("FLUSHALL"), "+OK");
    assert_eq!(take("two").await, None);
    assert_eq!(server.list("KEYS *"), [""; 0]);
}
