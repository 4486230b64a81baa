//! An upstream that answers nothing but 503: what it sees of what is offered.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};

use super::{BODY, DOWN, Moody, before};
use crate::support::client::{Answer, Client};

const CLIENTS: usize = 10;

/// Each of some clients asks ten times a second, for so long. How many requests that were, and each answer looked at.
async fn offer(address: std::net::SocketAddr, time: Duration, check: fn(&Answer)) -> usize {
    let offered = Arc::new(AtomicUsize::new(0));
    let until = Instant::now() + time;
    let mut running = JoinSet::new();
    for _ in 0..CLIENTS {
        let offered = Arc::clone(&offered);
        running.spawn(async move {
            let mut client = Client::connect(address).await;
            let mut tick = interval(Duration::from_millis(100));
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while Instant::now() < until {
                tick.tick().await;
                offered.fetch_add(1, Ordering::Relaxed);
                check(&client.create(BODY).await);
            }
        });
    }
    while let Some(done) = running.join_next().await {
        done.unwrap();
    }
    offered.load(Ordering::Relaxed)
}

async fn alone(time: Duration) {
    let down = Moody::new(DOWN).await;
    let gateway = before(&[&down.upstream], |_| {});
    let began = Instant::now();
    let offered = offer(gateway.address, time, |answer| {
        assert_eq!(answer.status, 503);
        assert_eq!(answer.json()["error"]["message"], "m", "not the provider's own");
    })
    .await;
    let took = began.elapsed().as_secs_f64();
    let denied = gateway.metric("tidegate_retries_denied_total{upstream=\"up0\"}").await;
    eprintln!("alone: saw {} of {offered} offered in {took:.1} s; {denied} retries denied", down.seen());
    // A window of ten seconds may hold those that are always allowed once more at each of its ends.
    let always = 3.0 * ((took / 10.0).ceil() + 1.0) + 1.0;
    assert!(down.seen() >= offered);
    assert!(down.seen() as f64 <= offered as f64 * 1.2 + always, "{} of {offered}", down.seen());
}

async fn beside_a_healthy_one(time: Duration) {
    let (down, healthy) = (Moody::new(DOWN).await, Moody::new(None).await);
    let gateway = before(&[&down.upstream, &healthy.upstream], |_| {});
    let began = Instant::now();
    let offered = offer(gateway.address, time, |answer| assert_eq!(answer.status, 200, "{answer:?}")).await;
    let took = began.elapsed().as_secs_f64();
    eprintln!("beside a healthy one: saw {} of {offered} offered in {took:.1} s", down.seen());
    // Five, those that were under way when it went out, and one for each time that it may come back.
    let probes = (took / 27.0) as usize;
    assert!(down.seen() < 5 + CLIENTS + probes, "{} of {offered}", down.seen());
    assert_eq!(healthy.seen(), offered);
}

#[tokio::test]
async fn an_upstream_that_is_down_gets_little_more_than_is_offered() {
    alone(Duration::from_secs(3)).await;
}

#[tokio::test]
async fn an_upstream_that_is_down_is_left_alone_where_another_serves() {
    beside_a_healthy_one(Duration::from_secs(3)).await;
}

#[tokio::test]
#[ignore = "a minute; for the figures"]
async fn thirty_seconds_of_an_upstream_that_is_down() {
    alone(Duration::from_secs(30)).await;
    beside_a_healthy_one(Duration::from_secs(30)).await;
}
