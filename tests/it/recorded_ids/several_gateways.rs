//! Several gateways that share recorded ids through Redis.

use std::time::Duration;

use tidegate::{
    affinity::{Recalled, WAIT},
    config::{self, Config, SharedLimits, UnknownIds, WhenRedisIsAway},
    domain::origin::ReferenceKind,
};
use tokio::{sync::oneshot, time::Instant};

use super::{BODY, owner, recall};
use crate::support::{
    database::until,
    gateway::{Gateway, config, credential},
    redis::RedisServer,
    soon,
    upstream::{LAST_CHUNK, RESPONSE, STREAM, Step, Upstream, answer, chunk, json},
};

/// No request may take longer, however busy the machine is.
const GENEROUS: Duration = Duration::from_millis(400);

const KNOWN: &str = r#"tidegate_affinity_waits_total{result="known"}"#;
const IN_VAIN: &str = r#"tidegate_affinity_waits_total{result="timed_out"}"#;

fn start(upstream: &Upstream, redis: &RedisServer) -> Gateway {
    Gateway::start(settings(upstream, redis))
}

fn settings(upstream: &Upstream, redis: &RedisServer) -> Config {
    let mut config = config(&upstream.base_url());
    let at = config::RedisSettings::plain("127.0.0.1", redis.port);
    config.sharing = Some(SharedLimits { redis: at, replicas: 2, fail: WhenRedisIsAway::Share, patience: WAIT });
    config.affinity.shared = true;
    config.affinity.unknown_ids = Some(UnknownIds::Refuse);
    // Without affinity, every second request would go to the other account.
    config.upstreams[0].credentials = ["one", "two"].map(|name| credential(name, name)).into();
    config
}

/// A user of a shared Redis often has no permission for INFO, which shows the free memory.
#[tokio::test]
async fn a_redis_user_without_permission_for_info_shares_ids() {
    let redis = RedisServer::start();
    assert_eq!(redis.ask("ACL SETUSER app on >password ~* &* +@all -info"), "+OK");
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let [one, other] = [(); 2].map(|()| {
        let mut config = settings(&upstream, &redis);
        let sharing = config.sharing.as_mut().unwrap();
        (sharing.redis.user, sharing.redis.password) = (Some("app".into()), Some("password".into()));
        Gateway::start(config)
    });
    wait_for_store(&one).await;
    wait_for_store(&other).await;
    assert_eq!(one.connect().await.create(BODY).await.status, 200);
    until("the id at the other", async || is_known(&other, "resp_1").await).await;
    wait_for_store(&one).await;
}

fn event(number: usize) -> Vec<u8> {
    format!("data: {{\"type\":\"response.created\",\"response\":{{\"id\":\"resp_{number}\"}}}}\n\n").into_bytes()
}

async fn is_known(gateway: &Gateway, id: &str) -> bool {
    matches!(recall(gateway, (ReferenceKind::Response, id), owner("tester")).await, Recalled::Own(_))
}

async fn wait_for_store(gateway: &Gateway) {
    for fault in ["read", "write"] {
        gateway.metric_becomes(&format!("tidegate_affinity_fault{{fault=\"{fault}\"}}"), 0.0).await;
    }
}

/// The number behind `resp_` in a body.
fn named(body: &[u8]) -> Option<usize> {
    let text = str::from_utf8(body).unwrap();
    text.split_once("resp_").map(|(_, rest)| rest.split('"').next().unwrap().parse().unwrap())
}

#[tokio::test]
async fn a_response_of_one_gateway_is_followed_up_at_the_other_at_once() {
    const TIMES: usize = 1000;
    let redis = RedisServer::start();
    let mut number = 0;
    let mut upstream = Upstream::scripted(move |request| {
        if named(&request.body).is_some() {
            return vec![Step::Send(json("200 OK", r#"{"object":"response"}"#))];
        }
        number += 1;
        if number % 2 == 0 {
            return vec![Step::Send(json("200 OK", &RESPONSE.replace("resp_1", &format!("resp_{number}"))))];
        }
        vec![Step::Send([STREAM, &chunk(&event(number))].concat()), Step::Send(LAST_CHUNK.to_vec())]
    })
    .await;
    let (one, other) = (start(&upstream, &redis), start(&upstream, &redis));
    wait_for_store(&one).await;
    wait_for_store(&other).await;
    let (mut client, mut follower) = (one.connect().await, other.connect().await);
    let (mut waited, mut late, mut unsure) = (Vec::new(), 0, 0);
    for number in 1..=TIMES {
        let id = format!("resp_{number}");
        let began = Instant::now();
        client.post(BODY).await;
        let mut answer = client.head().await;
        if number % 2 == 0 {
            client.body(&mut answer).await;
            assert_eq!(answer.body, RESPONSE.replace("resp_1", &id).as_bytes());
        } else {
            assert_eq!(soon("the event", client.chunk()).await.unwrap(), event(number));
        }
        waited.push(began.elapsed());
        let made = upstream.request().await;
        let next = format!(r#"{{"model":"smart","previous_response_id":"{id}","input":"and?"}}"#);
        let followed = follower.create(next).await;
        match followed.status {
            200 => {
                let follows = upstream.request().await;
                assert_eq!(follows.header("authorization"), made.header("authorization"), "{id}: another account");
            }
            // On a busy machine a request may stop waiting for Redis, which is counted.
            400 => {
                followed.assert_problem(400, "previous_response_not_found");
                late += 1;
            }
            _ => {
                assert_eq!(followed.status, 503, "{followed:?}");
                unsure += 1;
            }
        }
        if number % 2 == 1 {
            client.body(&mut answer).await;
        }
    }
    waited.sort_unstable();
    let in_vain = one.metric(IN_VAIN).await;
    eprintln!(
        "{TIMES} answers: {late} were not known to the other, {in_vain} waits were in vain, {unsure} could not be looked up in \
         time; from request to answer: median {:?}, longest {:?}",
        waited[TIMES / 2],
        waited[TIMES - 1]
    );
    assert!(late == 0 || in_vain > 0.0, "no request waited");
    assert!(late + unsure < TIMES / 10);
    for number in 1..=TIMES {
        let id = format!("resp_{number}");
        let known = async || is_known(&other, &id).await;
        until("the other gateway to know every id", known).await;
    }
}

/// The gateway that made a response follows it up as before. The other one says that it cannot tell, never that the id
/// does not exist.
#[tokio::test]
async fn when_redis_stops_no_id_is_lost_and_no_request_waits() {
    const TIMES: usize = 200;
    let mut redis = RedisServer::start();
    let mut number = 0;
    let mut upstream = Upstream::scripted(move |request| {
        if named(&request.body).is_some() {
            return vec![Step::Send(json("200 OK", r#"{"object":"response"}"#))];
        }
        number += 1;
        vec![Step::Send(json("200 OK", &RESPONSE.replace("resp_1", &format!("resp_{number}"))))]
    })
    .await;
    let (one, other) = (start(&upstream, &redis), start(&upstream, &redis));
    wait_for_store(&one).await;
    wait_for_store(&other).await;
    let (mut client, mut follower) = (one.connect().await, other.connect().await);
    let (mut late, mut cannot_tell, mut took) = (0, 0, Vec::new());
    for number in 1..=TIMES {
        if number == TIMES / 2 + 1 {
            redis.stop();
        }
        let began = Instant::now();
        assert_eq!(client.create(BODY).await.status, 200);
        took.push(began.elapsed());
        let made = upstream.request().await;
        let next = format!(r#"{{"model":"smart","previous_response_id":"resp_{number}","input":"and?"}}"#);
        for (at_home, client) in [(true, &mut client), (false, &mut follower)] {
            let began = Instant::now();
            let followed = client.create(next.clone()).await;
            took.push(began.elapsed());
            if followed.status == 200 {
                assert_eq!(upstream.request().await.header("authorization"), made.header("authorization"), "{number}");
                assert!(at_home || number <= TIMES / 2, "{number}: the other gateway cannot know the id");
            } else {
                assert!(!at_home, "{number}: it is in memory");
                // On a busy machine a request may stop waiting for Redis.
                if number > TIMES / 2 || followed.status != 400 {
                    followed.assert_problem(503, "affinity_unavailable");
                }
                *(if number > TIMES / 2 { &mut cannot_tell } else { &mut late }) += 1;
            }
        }
    }
    let (before, meanwhile) = took.split_at_mut(TIMES / 2 * 3);
    before.sort_unstable();
    meanwhile.sort_unstable();
    eprintln!(
        "Redis stopped after {} of {TIMES} answers: {cannot_tell} follow-ups elsewhere got 503; a request took {:?} before and \
         {:?} meanwhile (median), {:?} and {:?} at most",
        TIMES / 2,
        before[before.len() / 2],
        meanwhile[meanwhile.len() / 2],
        before.last().unwrap(),
        meanwhile.last().unwrap(),
    );
    assert!(late < TIMES / 20, "{late} of {} were not known to the other while Redis was there", TIMES / 2);
    assert!(*meanwhile.last().unwrap() < GENEROUS, "{meanwhile:?}");
    // After Redis comes back empty, the gateway writes all ids again.
    redis.run();
    wait_for_store(&one).await;
    wait_for_store(&other).await;
    for number in 1..=TIMES {
        let id = format!("resp_{number}");
        until("the other gateway to know every id", async || is_known(&other, &id).await).await;
    }
}

#[tokio::test]
async fn without_redis_only_the_first_request_waits() {
    const EVENTS: usize = 20;
    let redis = RedisServer::start();
    let (mut gates, waits): (Vec<_>, Vec<_>) = (0..EVENTS).map(|_| oneshot::channel()).unzip();
    let mut waits = Some(waits);
    let upstream = Upstream::scripted(move |_| {
        let mut steps = vec![Step::Send(STREAM.to_vec())];
        match waits.take() {
            Some(waits) => {
                for (number, wait) in waits.into_iter().enumerate() {
                    steps.extend([Step::Wait(wait), Step::Send(chunk(&event(number)))]);
                }
            }
            None => steps.extend((100..120).map(|number| Step::Send(chunk(&event(number))))),
        }
        steps.push(Step::Send(LAST_CHUNK.to_vec()));
        steps
    })
    .await;
    let gateway = start(&upstream, &redis);
    wait_for_store(&gateway).await;
    let mut client = gateway.connect().await;
    client.post(BODY).await;
    let mut head = client.head().await;
    redis.pause();
    let mut took = Vec::new();
    for (number, gate) in gates.drain(..).enumerate() {
        let began = Instant::now();
        gate.send(()).unwrap();
        assert_eq!(soon("an event", client.chunk()).await.unwrap(), event(number));
        took.push(began.elapsed());
        // The gateway's own memory knows the id in any case.
        let id = format!("resp_{number}");
        assert!(is_known(&gateway, &id).await);
    }
    client.body(&mut head).await;
    assert!(head.whole);
    let rest: Duration = took[1..].iter().sum();
    eprintln!("Redis stands still: the first event came after {:?}, {} more after {rest:?}", took[0], EVENTS - 1);
    assert!(took[0] < GENEROUS && rest < GENEROUS, "{took:?}");
    assert!(took[0] >= WAIT / 2, "{took:?}");
    assert_eq!((gateway.metric(KNOWN).await, gateway.metric(IN_VAIN).await), (0.0, 1.0));

    gateway.metric_becomes(r#"tidegate_affinity_fault{fault="write"}"#, 1.0).await;
    let began = Instant::now();
    let answer = client.create(BODY).await;
    eprintln!("another answer with 20 ids: {:?}", began.elapsed());
    assert!(answer.whole && answer.body == (100..120).flat_map(event).collect::<Vec<_>>());
    assert_eq!(gateway.metric(IN_VAIN).await, 1.0, "no request waits for a store that is known to be unavailable");

    redis.go_on();
    wait_for_store(&gateway).await;
    gateway.metric_becomes("tidegate_affinity_waiting", 0.0).await;
    let other = start(&upstream, &redis);
    for number in (0..EVENTS).chain(100..120) {
        let id = format!("resp_{number}");
        let known = async || is_known(&other, &id).await;
        until("all ids to be known", known).await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_while_its_answer_waits_for_redis_is_settled() {
    let redis = RedisServer::start();
    let stream = [event(1), event(2)].concat();
    let upstream = Upstream::fixed(answer("200 OK", "text/event-stream", &stream)).await;
    let gateway = start(&upstream, &redis);
    wait_for_store(&gateway).await;
    redis.pause();
    let mut client = gateway.connect().await;
    client.post(BODY).await;
    client.head().await;
    drop(client);
    gateway.metric_becomes("tidegate_requests_in_flight", 0.0).await;
    let others = gateway.connect().await.create(BODY).await;
    assert!(others.whole && others.body == stream);
    assert!(is_known(&gateway, "resp_2").await);
}
