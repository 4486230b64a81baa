//! The Lua script in Redis, as a replica uses it.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use tidegate::{
    config,
    domain::spending::{OwnSpend, RemoteSpend},
    store::redis::{Given, Item, Link, SharedBudget},
};

use crate::support::redis::RedisServer;

const SECOND: u64 = 1_000_000;
/// The start of these tests' clock in Redis.
const BEGAN: u64 = 1_760_000_000 * SECOND;

/// A number for names that no two tests share.
static NAMES: AtomicU32 = AtomicU32::new(0);

/// A connection of the replica whose data folder has this name.
pub(super) async fn link(server: &RedisServer, origin: &str) -> Link {
    let place = config::RedisSettings::plain("127.0.0.1", server.port);
    Link::at(&place, &origin.into()).await.unwrap()
}

pub(super) fn unique_name() -> String {
    format!("tidegate:test:{}", NAMES.fetch_add(1, Ordering::Relaxed))
}

/// A budget of which the replica itself spent this much, according to its last reading of the ledger.
pub(super) fn budget(name: &str, total: u64, read_at: u64) -> SharedBudget {
    SharedBudget { name: name.into(), until: None, own: OwnSpend { total, read_at }, remote: RemoteSpend::default() }
}

/// The same with the spend of others.
fn budget_with_others(name: &str, total: u64, others: &[(&str, u64)]) -> SharedBudget {
    let by_origin: Vec<(Arc<str>, u64)> = others.iter().map(|(origin, spent)| (Arc::from(*origin), *spent)).collect();
    SharedBudget { remote: RemoteSpend { read_at: 1, by_origin: by_origin.into() }, ..budget(name, total, 0) }
}

/// The answer to a request for this much of a budget: none = granted, 0 = the budget is spent, else the microseconds to
/// wait.
async fn reserve(link: &Link, now: u64, holder: &str, budget: SharedBudget, (limit, cost): (u64, u64)) -> Option<u64> {
    let answer = link.take(Some(BEGAN + now), None, holder, &[Item::Spend { budget, limit, cost }]).await.unwrap();
    answer.exceeded.map(|(_, wait)| wait)
}

/// Whether exactly this much is spent: a larger budget has something left, and one of this size does not.
pub(super) async fn is_spent(server: &RedisServer, name: &str, spent: u64) -> bool {
    let other = link(server, "who asks").await;
    let left = reserve(&other, 0, "asks", budget(name, 0, 0), (spent + 1, 0)).await != Some(0);
    let spent = reserve(&other, 0, "asks", budget(name, 0, 0), (spent, 0)).await == Some(0);
    let given = [Given::Spend { budget: budget(name, 0, 0) }];
    other.give(None, [("asks", &given[..])].into_iter()).await.unwrap();
    left && spent
}

#[tokio::test]
async fn a_total_that_arrives_late_repeatedly_or_from_others_counts_once() {
    let server = RedisServer::start();
    let (here, other, name) = (link(&server, "here").await, link(&server, "other").await, unique_name());
    assert_eq!(reserve(&here, 0, "first", budget(&name, 0, 0), (100, 50)).await, None);
    // The reservation expires, and the request is settled late, three times.
    assert_eq!(reserve(&here, 120 * SECOND, "second", budget(&name, 0, 0), (100, 100)).await, None);
    for holder in ["second", "first", "first", "first"] {
        let given = [Given::Spend { budget: budget(&name, 50, 0) }];
        here.give(Some(BEGAN + 120 * SECOND), [(holder, &given[..])].into_iter()).await.unwrap();
    }
    assert!(is_spent(&server, &name, 50).await);
    // Another replica reports what it read in the ledger: more or less of this replica's spend, and the spend of a lost
    // replica.
    for (of_here, spent) in [(30, 1070), (50, 1070), (55, 1075), (50, 1075)] {
        let told = [Given::Spend { budget: budget_with_others(&name, 20, &[("here", of_here), ("gone", 1000)]) }];
        other.give(None, [("", &told[..])].into_iter()).await.unwrap();
        assert!(is_spent(&server, &name, spent).await, "{of_here}");
    }
    // After it read the ledger again, the replica's own total counts.
    reserve(&here, 0, "third", budget(&name, 40, 7), (2000, 0)).await;
    assert!(is_spent(&server, &name, 1060).await);
    reserve(&here, 0, "third", budget(&name, 90, 6), (2000, 0)).await;
    assert!(is_spent(&server, &name, 1110).await, "the later and larger total counts");
}

/// A concurrency slot and a budget of 10.
fn slot_and_budget(name: &str, spent: u64) -> [Item; 2] {
    let place = Item::Place { key: format!("{name}:place"), limit: 1 };
    [place, Item::Spend { budget: budget(name, spent, 0), limit: 10, cost: 10 }]
}

/// The indices of those of the two that another request cannot get.
async fn unavailable(link: &Link, now: u64, name: &str) -> Vec<usize> {
    let mut lacks = Vec::new();
    for (nth, item) in slot_and_budget(name, 0).into_iter().enumerate() {
        let answer = link.take(Some(BEGAN + now), None, "other", std::slice::from_ref(&item)).await.unwrap();
        match answer.exceeded {
            Some(_) => lacks.push(nth),
            None => give(link, now, name, "other", 0).await,
        }
    }
    lacks
}

async fn give(link: &Link, now: u64, name: &str, holder: &str, spent: u64) {
    let given = [Given::Place { key: format!("{name}:place") }, Given::Spend { budget: budget(name, spent, 0) }];
    link.give(Some(BEGAN + now), [(holder, &given[..])].into_iter()).await.unwrap();
}

#[tokio::test]
async fn a_reservation_that_is_neither_released_nor_renewed_expires() {
    let server = RedisServer::start();
    let (link, name) = (link(&server, "here").await, unique_name());
    let takes = async |now: u64, holder: &str| {
        link.take(Some(BEGAN + now), None, holder, &slot_and_budget(&name, 0)).await.unwrap().exceeded.is_none()
    };
    assert!(takes(0, "gone").await);
    assert_eq!(unavailable(&link, 59 * SECOND, &name).await, [0, 1]);
    let mut now = 61 * SECOND;
    assert_eq!(unavailable(&link, now, &name).await, [0; 0]);
    // A renewed reservation stays. A late and repeated release counts once.
    assert!(takes(now, "lives").await);
    for _ in 0..5 {
        now += 50 * SECOND;
        link.renew(Some(BEGAN + now), &[("lives".into(), slot_and_budget(&name, 0).into())]).await.unwrap();
        assert_eq!(unavailable(&link, now, &name).await, [0, 1]);
    }
    for _ in 0..3 {
        give(&link, now, &name, "lives", 4).await;
    }
    assert!(takes(now, "next").await, "6 are left, and a first request fits");
    assert!(is_spent(&server, &name, 4).await);
}

#[tokio::test]
async fn renewed_reservations_are_restored_after_redis_was_emptied() {
    let server = RedisServer::start();
    let (link, name) = (link(&server, "here").await, unique_name());
    link.take(Some(BEGAN), None, "lives", &slot_and_budget(&name, 0)).await.unwrap();
    assert_eq!(server.ask("FLUSHALL"), "+OK");
    for _ in 0..2 {
        link.renew(Some(BEGAN), &[("lives".into(), slot_and_budget(&name, 2).into())]).await.unwrap();
    }
    assert_eq!(unavailable(&link, 0, &name).await, [0, 1]);
    // 2 are spent, and 10 are reserved once.
    assert_eq!(reserve(&link, 0, "other", budget(&name, 0, 0), (20, 9)).await, Some(SECOND));
    assert_eq!(reserve(&link, 0, "other", budget(&name, 0, 0), (20, 8)).await, None);
}

#[tokio::test]
async fn a_request_with_another_epoch_is_refused() {
    let server = RedisServer::start();
    let (link, name) = (link(&server, "here").await, unique_name());
    assert!(link.take(None, Some("first"), "one", &slot_and_budget(&name, 0)).await.is_ok());
    assert_eq!(server.ask("FLUSHALL"), "+OK");
    let refused = link.take(None, Some("first"), "two", &slot_and_budget(&name, 0)).await.unwrap_err();
    assert_eq!(refused.to_string(), "Redis was emptied");
    assert_eq!(server.list("KEYS *"), [""; 0]);
}
