//! A key with very many lookups does not delay other keys, and the duration of a lookup reveals nothing.

use std::sync::{Arc, atomic::Ordering};

use tidegate::{
    affinity::{AffinityStoreThread, Recalled},
    concurrent::{affinity_status::AffinityStatus, random_source::RandomSource},
    config::AffinitySettings,
};
use tokio::time::Instant;

use super::*;

const REQUESTS: usize = 128;

/// The most ids that one request may refer to. Each of alice's requests has this many.
const MOST: usize = 1000;

#[tokio::test]
async fn a_key_with_many_lookups_does_not_delay_other_keys() {
    let ids: Vec<String> = (0..15).map(|number| format!("resp_of_bob_{number}")).collect();
    let known: Vec<Known<'_>> =
        ids.iter().map(|id| (ReferenceKind::Response, &**id, "one", "one-a", "bob", None)).collect();
    let fleet = Arc::new(Fleet::start(&known, |config| config.server.max_body_bytes = 16 * 1024 * 1024).await);
    let alice: Vec<_> = (0..REQUESTS)
        .map(|number| {
            let fleet = Arc::clone(&fleet);
            let ids = (0..MOST).map(|id| format!(r#"{{"type":"item_reference","id":"item_{number}_{id}"}}"#));
            let body = format!(r#"{{"model":"smart","input":[{}]}}"#, ids.collect::<Vec<_>>().join(","));
            tokio::spawn(async move { call(&fleet.gateway, "alice", "POST /v1/responses", Some(&body)).await.status })
        })
        .collect();
    // The lookups have begun: the store gets queries.
    while fleet.gateway.metric("tidegate_affinity_store_lookups_total").await < MOST as f64 {
        tokio::task::yield_now().await;
    }
    let mut bob = Vec::new();
    for id in &ids {
        let began = Instant::now();
        let body = format!(r#"{{"model":"smart","previous_response_id":"{id}"}}"#);
        let status = call(&fleet.gateway, "bob", "POST /v1/responses", Some(&body)).await.status;
        bob.push((status, began.elapsed()));
    }
    let mut statuses: Vec<u16> = Vec::new();
    for request in alice {
        statuses.push(request.await.unwrap());
    }
    let told = statuses.iter().filter(|status| **status == 404).count();
    eprintln!("alice: {told} of {REQUESTS} were told in time; bob: {bob:?}");
    assert_eq!(bob.iter().filter(|(status, _)| *status == 200).count(), bob.len(), "{bob:?}");
    assert!(statuses.iter().all(|status| [404, 503].contains(status)), "{statuses:?}");
}

fn memory() -> AffinitySettings {
    AffinitySettings { ttl: Duration::from_secs(30 * 86_400), max_entries: 1_000_000, shared: false, unknown_ids: None }
}

/// Bob's ids are in the store and not in memory. Alice looks up more ids than the store finds while a request waits.
#[tokio::test]
async fn the_store_alternates_between_keys() {
    let folder = TempDir::new().unwrap();
    let place = OriginStoreLocation::Sqlite(folder.path().join(tidegate::store::origins::FILE));
    let name =
        |kind: &str, number: usize| Reference::new(ReferenceKind::Response, format!("{kind}_{number}").as_bytes());
    let (alice, bob) = (Owner::new("alice", None), Owner::new("bob", None));
    let now = Clock::system().since_epoch();
    let now_s = u32::try_from(now.as_secs()).unwrap();
    let rows: Vec<_> = (0..15)
        .map(|number| (name("bob", number), StoredOrigin { origin: Origin { account: 1, owner: bob }, used_s: now_s }))
        .collect();
    let mut store = OriginStore::open(&place, RandomBytes::system()).await.unwrap();
    store.learn(&rows, EntryLifetime { now_s, ttl_s: 30 * 86_400 }).await.unwrap();
    store.close().await;
    let keeping =
        AffinityStoreThread::start(place, &memory(), Clock::system(), RandomBytes::system(), Arc::default()).unwrap();
    let asking: Vec<_> = (0..REQUESTS)
        .map(|request| {
            let (origins, references) = (
                Arc::clone(&keeping.origins),
                (0..8192).map(|number| name("nobody", request * 8192 + number)).collect::<Vec<_>>(),
            );
            tokio::spawn(async move { origins.recall_all(&references, alice, now).await })
        })
        .collect();
    // Alice's lookups start before bob's.
    tokio::task::yield_now().await;
    let mut found = Vec::new();
    for (reference, _) in &rows {
        let began = Instant::now();
        let recalled = keeping.origins.recall_all(&[*reference], bob, now).await;
        found.push((matches!(recalled[0], Recalled::Own(_)), began.elapsed()));
    }
    let mut told = 0;
    for asked in asking {
        told += usize::from(matches!(asked.await.unwrap()[0], Recalled::Unknown));
    }
    crate::support::say(&format!("alice: {told} of {REQUESTS} were told in time; bob: {found:?}"));
    assert!(found.iter().all(|(own, _)| *own), "{found:?}");
    assert!(told > 0, "some of alice's lookups are answered in time");
    keeping.end();
}

/// Welch's t statistic of two samples.
fn welch(one: &[f64], other: &[f64]) -> f64 {
    let mean = |of: &[f64]| of.iter().sum::<f64>() / of.len() as f64;
    let spread = |of: &[f64]| {
        let mean = mean(of);
        of.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (of.len() - 1) as f64 / of.len() as f64
    };
    (mean(one) - mean(other)) / (spread(one) + spread(other)).sqrt()
}

/// Prints and returns the means in microseconds, and t: of all samples, and of those below the 90th percentile of both
/// together. An attacker would cut off the slowest samples in the same way, because they show what the machine did
/// meanwhile.
fn compare(what: &str, pairs: usize, foreign: &[f64], unknown: &[f64]) -> f64 {
    let mut all = [foreign, unknown].concat();
    all.sort_by(f64::total_cmp);
    let limit = all[all.len() * 9 / 10];
    let below = |of: &[f64]| of.iter().copied().filter(|value| *value <= limit).collect::<Vec<_>>();
    let (cut_foreign, cut_unknown) = (below(foreign), below(unknown));
    let mean = |of: &[f64]| of.iter().sum::<f64>() / of.len() as f64;
    let (t, cut) = (welch(foreign, unknown), welch(&cut_foreign, &cut_unknown));
    crate::support::say(&format!(
        "{what}, {pairs} pairs: somebody else's {:.2} us, unknown {:.2} us, t = {t:.2}; below the 90th hundredth {:.2}, {:.2}, t = {cut:.2}",
        mean(foreign),
        mean(unknown),
        mean(&cut_foreign),
        mean(&cut_unknown)
    ));
    t.abs().max(cut.abs())
}

/// Pairs of one measurement.
const PAIRS: usize = 20_000;

#[tokio::test]
#[ignore = "a measurement: it wants a machine that does nothing else"]
async fn the_time_of_a_lookup_reveals_nothing() {
    for in_memory in [false, true] {
        let folder = TempDir::new().unwrap();
        let place = OriginStoreLocation::Sqlite(folder.path().join(tidegate::store::origins::FILE));
        let (alice, bob) = (Owner::new("alice", None), Owner::new("bob", None));
        let name = |kind: &str, number: usize| {
            Reference::new(ReferenceKind::Response, format!("resp_{kind}_{number}").as_bytes())
        };
        let now = Clock::system().since_epoch();
        let now_s = u32::try_from(now.as_secs()).unwrap();
        let entry = StoredOrigin { origin: Origin { account: 1, owner: alice }, used_s: now_s };
        let mut store = OriginStore::open(&place, RandomBytes::system()).await.unwrap();
        let rows: Vec<_> = (0..20_000).map(|number| (name("alice", number), entry)).collect();
        store.learn(&rows, EntryLifetime { now_s, ttl_s: 30 * 86_400 }).await.unwrap();
        store.close().await;
        let condition = Arc::new(AffinityStatus::default());
        let keeping = AffinityStoreThread::start(
            place,
            &memory(),
            Clock::system(),
            RandomBytes::system(),
            Arc::clone(&condition),
        )
        .unwrap();
        let origins = &keeping.origins;
        if in_memory {
            let _ = origins.learn(&rows.iter().map(|row| row.0).collect::<Vec<_>>(), entry.origin, now);
            while condition.waiting.load(Ordering::Relaxed) > 0 {
                tokio::task::yield_now().await;
            }
        }
        let random = RandomSource::seeded(7);
        let (mut foreign, mut unknown) = (Vec::new(), Vec::new());
        for pair in 0..PAIRS {
            let first = random.draw() < 0.5;
            for theirs in [first, !first] {
                let reference = [name(if theirs { "alice" } else { "nobody" }, pair)];
                let began = Instant::now();
                let recalled = origins.recall_all(&reference, bob, now).await;
                let took = began.elapsed().as_secs_f64() * 1e6;
                assert_eq!(matches!(recalled[0], Recalled::Foreign(_)), theirs, "{recalled:?}");
                if theirs { foreign.push(took) } else { unknown.push(took) }
            }
        }
        let t = compare(if in_memory { "in memory too" } else { "in the store" }, PAIRS, &foreign, &unknown);
        keeping.end();
        assert!(t < 4.5, "t = {t}");
    }
}

#[tokio::test]
#[ignore = "a measurement: it wants a machine that does nothing else"]
async fn the_time_of_an_answer_reveals_nothing() {
    let ids: Vec<String> = (0..1000).map(|number| format!("resp_alice_{number:06}")).collect();
    let known: Vec<Known<'_>> =
        ids.iter().map(|id| (ReferenceKind::Response, &**id, "one", "one-a", "alice", None)).collect();
    let fleet = Fleet::start(&known, |_| ()).await;
    let mut client = Client::connect(fleet.gateway.address).await;
    let random = RandomSource::seeded(7);
    let (mut foreign, mut unknown) = (Vec::new(), Vec::new());
    for pair in 0..PAIRS {
        let first = random.draw() < 0.5;
        for theirs in [first, !first] {
            let whose = if theirs { "alice" } else { "nobod" };
            let body = format!(r#"{{"model":"smart","previous_response_id":"resp_{whose}_{:06}"}}"#, pair % 1000);
            let request = format!(
                "POST /v1/responses HTTP/1.1\r\nhost: t\r\nauthorization: Bearer sk-bob\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            let began = Instant::now();
            client.send(request).await;
            let status = client.answer().await.status;
            let took = began.elapsed().as_secs_f64() * 1e6;
            if status != 503 {
                assert_eq!(status, 400);
                if theirs { foreign.push(took) } else { unknown.push(took) }
            }
        }
    }
    let t = compare("over a socket", PAIRS, &foreign, &unknown);
    assert!(t < 4.5, "t = {t}");
}
