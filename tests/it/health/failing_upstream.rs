//! An upstream that answers every request with 503: the share of the offered load that it sees.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tidegate::config::Config;
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};

use super::{BODY, DOWN, SwitchableUpstream, before};
use crate::support::client::{Answer, Client};

const CLIENTS: usize = 10;

/// Each client sends ten requests a second for `time`, and checks each answer. Returns the number of requests.
async fn offer_load(address: std::net::SocketAddr, time: Duration, check: fn(&Answer)) -> usize {
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

/// Ejects as the default settings do.
fn with_default_ejection(config: &mut Config) {
    (config.health.eject, config.health.eject_max) = (Duration::from_secs(30), Duration::from_secs(300));
}

async fn assert_load_without_alternative(time: Duration) {
    let down = SwitchableUpstream::new(DOWN).await;
    let gateway = before(&[&down.upstream], with_default_ejection);
    let began = Instant::now();
    let offered = offer_load(gateway.address, time, |answer| {
        assert_eq!(answer.status, 503);
        assert_eq!(answer.json()["error"]["message"], "m", "not the provider's own");
    })
    .await;
    let took = began.elapsed().as_secs_f64();
    let denied = gateway.metric("tidegate_retries_denied_total{upstream=\"up0\"}").await;
    eprintln!("alone: saw {} of {offered} offered in {took:.1} s; {denied} retries denied", down.seen());
    // A window of ten seconds may hold the always-allowed retries once more at each of its ends.
    let always = 3.0 * ((took / 10.0).ceil() + 1.0) + 1.0;
    assert!(down.seen() >= offered);
    assert!(down.seen() as f64 <= offered as f64 * 1.2 + always, "{} of {offered}", down.seen());
}

async fn assert_load_beside_a_healthy_upstream(time: Duration) {
    let (down, healthy) = (SwitchableUpstream::new(DOWN).await, SwitchableUpstream::new(None).await);
    let gateway = before(&[&down.upstream, &healthy.upstream], with_default_ejection);
    let began = Instant::now();
    let offered = offer_load(gateway.address, time, |answer| assert_eq!(answer.status, 200, "{answer:?}")).await;
    let took = began.elapsed().as_secs_f64();
    eprintln!("beside a healthy one: saw {} of {offered} offered in {took:.1} s", down.seen());
    // Five faults, the requests in progress at the ejection, and one probe for each time that the upstream may come
    // back.
    let probes = (took / 27.0) as usize;
    assert!(down.seen() < 5 + CLIENTS + probes, "{} of {offered}", down.seen());
    assert_eq!(healthy.seen(), offered);
}

#[tokio::test]
async fn an_only_upstream_that_is_down_gets_little_more_than_the_offered_load() {
    assert_load_without_alternative(Duration::from_secs(3)).await;
}

#[tokio::test]
async fn an_upstream_that_is_down_is_ejected_while_another_one_serves() {
    assert_load_beside_a_healthy_upstream(Duration::from_secs(3)).await;
}

#[tokio::test]
#[ignore = "a minute; for the figures"]
async fn thirty_seconds_of_load_on_an_upstream_that_is_down() {
    assert_load_without_alternative(Duration::from_secs(30)).await;
    assert_load_beside_a_healthy_upstream(Duration::from_secs(30)).await;
}
