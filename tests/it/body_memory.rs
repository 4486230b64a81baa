//! How keys share the memory for request bodies (`max_body_memory_mib`).

use tidegate::config::Config;
use tokio::task::JoinSet;

use crate::support::{
    client::{Answer, Client},
    gateway::{Gateway, config, key},
    soon,
    upstream::{LAST_CHUNK, RESPONSE, Upstream, chunk, json},
};

const MIB: usize = 1024 * 1024;
const A: &str = "sk-key-a";
const B: &str = "sk-key-b";
const C: &str = "sk-key-c";

/// The metric of the memory that all bodies together hold.
const HELD: &str = "tidegate_body_memory_bytes ";

/// The step in which the gateway reserves memory for a body that has not arrived yet.
const STEP: usize = 64 * 1024;

fn with_keys(base_url: &str, keys: &[&str], change: impl FnOnce(&mut Config)) -> Gateway {
    let mut config = config(base_url);
    config.keys = keys.iter().map(|secret| key(secret, secret)).collect();
    change(&mut config);
    Gateway::start(config)
}

fn head(key: &str, headers: &str) -> Vec<u8> {
    format!("POST /v1/responses HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {key}\r\n{headers}\r\n").into_bytes()
}

/// The head of a request with a body of this length.
fn sized(key: &str, length: usize) -> Vec<u8> {
    head(key, &format!("content-length: {length}\r\n"))
}

fn body(length: usize) -> Vec<u8> {
    let (before, after) = (r#"{"model":"smart","input":""#, r#""}"#);
    [before.as_bytes(), &vec![b'a'; length - before.len() - after.len()], after.as_bytes()].concat()
}

/// Sends a whole request with `key` on a connection of its own.
async fn whole(gateway: &Gateway, key: &str, length: usize) -> Answer {
    let mut client = gateway.connect().await;
    client.send([sized(key, length), body(length)].concat()).await;
    client.answer().await
}

/// Sends the first bytes of a chunked body, which goes on.
async fn unfinished(gateway: &Gateway, key: &str, length: usize) -> Client {
    let mut client = gateway.connect().await;
    client.send(head(key, "transfer-encoding: chunked\r\n")).await;
    client.send(chunk(&body(length)[..length - 2])).await;
    client
}

/// Sends the rest of an unfinished body.
async fn finished(mut client: Client) -> Answer {
    client.send([&chunk(b"\"}"), LAST_CHUNK].concat()).await;
    client.answer().await
}

fn assert_overloaded(answer: &Answer) {
    answer.assert_final(503, "gateway_overloaded", false);
    assert_eq!(answer.all("retry-after"), ["1"], "{answer:?}");
}

#[tokio::test]
async fn slow_uploads_of_one_key_leave_memory_for_another_key() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = with_keys(&upstream.base_url(), &[A, B], |config| config.server.max_body_bytes = 64 * MIB as u64);
    // Each upload starts a body of 64 MiB; the memory for all bodies is 512 MiB.
    let mut slow = Vec::new();
    for _ in 0..8 {
        let mut client = gateway.connect().await;
        client.send([sized(A, 64 * MIB), body(64 * MIB)[..2048].to_vec()].concat()).await;
        slow.push(client);
    }
    gateway.metric_becomes(HELD, (8 * STEP) as f64).await;
    for nth in 0..45 {
        slow[nth % 8].send(&[b'a'; 2048]).await;
        let answer = whole(&gateway, B, 100).await;
        assert_eq!(answer.status, 200, "small request {nth}: {answer:?}");
    }
    // The other key can also send several large bodies at once.
    let mut large = JoinSet::new();
    for _ in 0..3 {
        let address = gateway.address;
        large.spawn(async move {
            let mut client = Client::connect(address).await;
            client.send([sized(B, 48 * MIB), body(48 * MIB)].concat()).await;
            client.answer().await.status
        });
    }
    assert_eq!(soon("large uploads", large.join_all()).await, [200; 3]);
    drop(slow);
    gateway.metric_becomes(HELD, 0.0).await;
}

#[tokio::test]
async fn a_key_may_hold_at_most_as_much_memory_as_it_leaves_free() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = with_keys(&upstream.base_url(), &[A, B, C], |config| config.server.max_body_memory = MIB as u64);
    // A holds half of the memory, as no other key holds anything.
    let one = unfinished(&gateway, A, MIB / 4).await;
    gateway.metric_becomes(HELD, (MIB / 4) as f64).await;
    let two = unfinished(&gateway, A, MIB / 4).await;
    gateway.metric_becomes(HELD, (MIB / 2) as f64).await;
    for length in [100, MIB / 4] {
        assert_overloaded(&whole(&gateway, A, length).await);
    }
    // B holds half of the rest, and C half of what remains. A small body always fits.
    let three = unfinished(&gateway, B, MIB / 8).await;
    gateway.metric_becomes(HELD, (5 * MIB / 8) as f64).await;
    let four = unfinished(&gateway, B, MIB / 8).await;
    gateway.metric_becomes(HELD, (6 * MIB / 8) as f64).await;
    assert_overloaded(&whole(&gateway, B, MIB / 8).await);
    assert_eq!(whole(&gateway, C, MIB / 8).await.status, 200);
    assert_eq!(whole(&gateway, C, 100).await.status, 200);
    // Uploads in progress continue.
    for client in [one, two, three, four] {
        assert_eq!(finished(client).await.status, 200);
    }
    gateway.metric_becomes(HELD, 0.0).await;
    assert_eq!(whole(&gateway, A, MIB / 4).await.status, 200);
}

#[tokio::test]
async fn the_only_body_of_a_key_may_take_all_free_memory() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = with_keys(&upstream.base_url(), &[A, B], |config| config.server.max_body_memory = MIB as u64);
    assert_eq!(whole(&gateway, A, MIB).await.status, 200);
    let other = unfinished(&gateway, B, MIB / 4).await;
    gateway.metric_becomes(HELD, (MIB / 4) as f64).await;
    assert_eq!(whole(&gateway, A, 3 * MIB / 4).await.status, 200);
    assert_overloaded(&whole(&gateway, A, 3 * MIB / 4 + 1).await);
    assert_eq!(finished(other).await.status, 200);
    // The same for a chunked body, whose length is not known before.
    assert_eq!(finished(unfinished(&gateway, A, MIB).await).await.status, 200);
    gateway.metric_becomes(HELD, 0.0).await;
}

#[tokio::test]
async fn the_only_configured_key_may_take_all_memory() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = with_keys(&upstream.base_url(), &[A], |config| config.server.max_body_memory = MIB as u64);
    let mut clients = Vec::new();
    for nth in 1..=4 {
        clients.push(unfinished(&gateway, A, MIB / 4).await);
        gateway.metric_becomes(HELD, (nth * MIB / 4) as f64).await;
    }
    assert_overloaded(&whole(&gateway, A, 100).await);
    for client in clients {
        assert_eq!(finished(client).await.status, 200);
    }
}

#[tokio::test]
async fn workers_count_the_memory_of_a_key_together() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = with_keys(&upstream.base_url(), &[A, B], |config| {
        config.server.max_body_memory = MIB as u64;
        config.server.workers = 2;
    });
    let clients = [unfinished(&gateway, A, MIB / 4).await, unfinished(&gateway, A, MIB / 4).await];
    gateway.metric_becomes(HELD, (MIB / 2) as f64).await;
    // The kernel chooses the worker of each connection.
    for _ in 0..8 {
        assert_overloaded(&whole(&gateway, A, 100).await);
        assert_eq!(whole(&gateway, B, 100).await.status, 200);
    }
    for client in clients {
        assert_eq!(finished(client).await.status, 200);
    }
    gateway.metric_becomes(HELD, 0.0).await;
}
