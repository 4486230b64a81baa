//! Follow-ups after a restart, after a kill, on another replica, and while Redis is away.

use std::{fs, time::Duration};

use tidegate::{
    affinity::WAIT,
    config::{self, SharedLimits, WhenRedisIsAway},
};
use tokio::time::Instant;

use super::*;
use crate::support::{
    database::until,
    process::{Process, tidegate},
    redis::RedisServer,
};

/// How many follow-ups go to the other replica.
const TIMES: usize = 1000;

/// No request may take longer, however busy the machine is.
const GENEROUS: Duration = Duration::from_millis(400);

/// An upstream that behaves as providers do: it keeps responses for the account that made them and refuses follow-ups
/// from other accounts.
fn keeping() -> impl FnMut(&Request) -> Vec<Step> + Clone + Send {
    let mut made = 0;
    move |request| {
        let account = request.header("authorization").unwrap().trim_start_matches("Bearer sk-").to_owned();
        let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
        if body["previous_response_id"].as_str().is_some_and(|id| !id.contains(&account)) {
            return vec![Step::Send(json(
                "400 Bad Request",
                r#"{"error":{"message":"not mine","type":"x","param":null,"code":"not_mine"}}"#,
            ))];
        }
        made += 1;
        let id = format!("resp_{account}_{made}");
        let usage = r#"{"input_tokens":1,"output_tokens":1,"total_tokens":2}"#;
        let text = format!(r#"{{"id":"{id}","object":"response","status":"completed","usage":{usage}}}"#);
        vec![Step::Send(json("200 OK", &text))]
    }
}

fn id(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["id"].as_str().unwrap().to_owned()
}

fn follow(id: &str) -> String {
    format!(r#"{{"model":"smart","previous_response_id":"{id}"}}"#)
}

#[tokio::test]
async fn chains_continue_after_restarts() {
    let mut fleet = Fleet::answering(&[], |_| (), keeping()).await;
    let mut chains = Vec::new();
    for model in ["first", "second", "first", "second"] {
        for key in ["alice", "dave"] {
            chains.push((key, id(&fleet.create(key, &format!(r#"{{"model":"{model}"}}"#)).await)));
        }
    }
    let accounts = |chains: &[(&str, String)]| {
        chains.iter().map(|(_, id)| id.rsplit_once('_').unwrap().0.to_owned()).collect::<Vec<_>>()
    };
    let begun = accounts(&chains);
    for account in ["one-a", "one-b", "two-a", "two-b"] {
        assert!(begun.contains(&format!("resp_{account}")), "{begun:?}");
    }
    for turn in 0..4 {
        if turn == 2 {
            fleet.restart().await;
        }
        for (key, last) in &mut chains {
            *last = id(&fleet.create(key, &follow(last)).await);
        }
        assert_eq!(accounts(&chains), begun);
    }
}

impl Fleet {
    /// Ends the gateway gracefully and starts it with the same data.
    async fn restart(&mut self) {
        self.restart_with(|_| ()).await;
    }

    /// The same with other settings.
    pub(super) async fn restart_with(&mut self, change: impl FnOnce(&mut Config)) {
        let folder = std::mem::replace(&mut self.gateway.folder, TempDir::new().unwrap());
        let mut config = settings(&self.upstreams);
        change(&mut config);
        config.server.data_dir = folder.path().to_owned();
        self.gateway.stop();
        self.gateway.ended().await;
        self.gateway = Gateway::run(config, None, folder);
    }
}

/// The gateway writes ids to the store within 50 ms, so that a kill may lose younger ones. Follow-ups to a lost id are
/// refused as unknown and never reach a wrong account.
#[tokio::test]
async fn a_kill_loses_only_the_ids_of_the_last_moment() {
    const ROUNDS: usize = 6;
    let upstreams = [Upstream::scripted(keeping()).await, Upstream::scripted(keeping()).await];
    let folder = TempDir::new().unwrap();
    let mut text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\ndata_dir = {:?}\n",
        folder.path().join("data")
    );
    for (name, upstream) in ["one", "two"].into_iter().zip(&upstreams) {
        let variable = name.to_uppercase();
        write!(
            text,
            "[[upstreams]]\nname = \"{name}\"\nbase_url = \"{}\"\ncredentials = [{{ env = \"{variable}\" }}]\n\
             [[models]]\nname = \"{name}\"\ntargets = [{{ upstream = \"{name}\" }}]\n",
            upstream.base_url()
        )
        .unwrap();
    }
    text += "[[models]]\nname = \"smart\"\ntargets = [{ upstream = \"one\" }, { upstream = \"two\" }]\n";
    for key in ["alice", "bob"] {
        write!(text, "[[keys]]\nname = \"{key}\"\nsecret = {{ env = \"{}\" }}\n", key.to_uppercase()).unwrap();
    }
    fs::write(folder.path().join("tidegate.toml"), text).unwrap();
    let start = || {
        let mut command = tidegate(folder.path());
        command.args(["serve", "--config", "tidegate.toml"]);
        command.env("ONE", "sk-one").env("TWO", "sk-two");
        let mut process =
            Process::start(command.env("ALICE", "sk-alice-0123456789abcdef").env("BOB", "sk-bob-0123456789abcdef"));
        let address = process.ready();
        (process, address)
    };
    let ask = async |address, body: String| {
        let head = "POST /v1/responses HTTP/1.1\r\nhost: t\r\nauthorization: Bearer sk-alice-0123456789abcdef\r\nconnection: close\r\n";
        let mut client = Client::connect(address).await;
        client.send(format!("{head}content-length: {}\r\n\r\n{body}", body.len())).await;
        client.answer().await
    };
    let (mut old, mut young, mut lost) = (0, 0, 0);
    let mut before: Vec<String> = Vec::new();
    for round in 0..ROUNDS {
        let (mut process, address) = start();
        // Ids of earlier rounds: none is lost.
        for made in &before {
            let answer = ask(address, follow(made)).await;
            assert!(id(&answer).starts_with(made.rsplit_once('_').unwrap().0), "{answer:?}");
            old += 1;
        }
        let first = id(&ask(address, r#"{"model":"two"}"#.into()).await);
        // The first id is older than three batches when the kill comes, as the machine may be busy. The last id is 0 to
        // 100 ms old.
        tokio::time::sleep(Duration::from_millis(150)).await;
        let last = id(&ask(address, r#"{"model":"two"}"#.into()).await);
        tokio::time::sleep(Duration::from_millis(20 * round as u64)).await;
        process.signal("KILL");
        process.exit();
        let (mut process, address) = start();
        young += 1;
        let answer = ask(address, follow(&last)).await;
        if answer.status == 200 {
            assert!(id(&answer).starts_with("resp_two_"));
        } else {
            lost += 1;
            answer.assert_final(400, "previous_response_not_found", true);
        }
        before.push(first);
        process.signal("KILL");
        process.exit();
    }
    eprintln!(
        "{old} follow-ups to ids older than 150 ms: none lost; of {young} ids that were 0 to 100 ms old at the kill, {lost} lost"
    );
}

fn shares(config: &mut Config, redis: &RedisServer) {
    let at = config::RedisSettings::plain("127.0.0.1", redis.port);
    config.sharing = Some(SharedLimits { redis: at, replicas: 2, fail: WhenRedisIsAway::Share, patience: WAIT });
    config.affinity.shared = true;
}

async fn wait_for_store(gateway: &Gateway) {
    for fault in ["read", "write"] {
        gateway.metric_becomes(&format!("tidegate_affinity_fault{{fault=\"{fault}\"}}"), 0.0).await;
    }
}

/// A fleet, and a second gateway in front of the same upstreams.
async fn two(redis: &RedisServer) -> (Fleet, Gateway) {
    let fleet = Fleet::answering(&[], |config| shares(config, redis), keeping()).await;
    let mut config = settings(&fleet.upstreams);
    shares(&mut config, redis);
    let other = Gateway::start(config);
    wait_for_store(&fleet.gateway).await;
    wait_for_store(&other).await;
    (fleet, other)
}

#[tokio::test]
async fn a_response_of_one_replica_is_followed_up_at_the_other_at_once() {
    let redis = RedisServer::start();
    let (fleet, other) = two(&redis).await;
    let (mut late, mut unsure, mut took) = (0, 0, Vec::new());
    for time in 0..TIMES {
        let (here, there) = if time % 2 == 0 { (&fleet.gateway, &other) } else { (&other, &fleet.gateway) };
        let body = if time % 4 < 2 { r#"{"model":"first"}"# } else { r#"{"model":"second"}"# };
        let made = id(&call(here, "alice", "POST /v1/responses", Some(body)).await);
        let began = Instant::now();
        let mut answer = call(there, "alice", "POST /v1/responses", Some(&follow(&made))).await;
        took.push(began.elapsed());
        while answer.status != 200 {
            // On a busy machine a request may stop waiting for Redis: that is counted, and another try finds the id.
            match &*answer.json()["error"]["code"].as_str().unwrap().to_owned() {
                "affinity_unavailable" => unsure += 1,
                "previous_response_not_found" => late += 1,
                other => panic!("{other}: {answer:?}"),
            }
            answer = call(there, "alice", "POST /v1/responses", Some(&follow(&made))).await;
        }
        assert!(id(&answer).starts_with(made.rsplit_once('_').unwrap().0), "{made} {answer:?}");
    }
    took.sort_unstable();
    let in_vain = r#"tidegate_affinity_waits_total{result="timed_out"}"#;
    let in_vain = fleet.gateway.metric(in_vain).await + other.metric(in_vain).await;
    eprintln!(
        "{TIMES} follow-ups on the other replica: none lost; {late} came before Redis knew ({in_vain} waits in vain), {unsure} could not be \
         looked up in time; each took {:?} in the median, {:?} at most",
        took[TIMES / 2],
        took[TIMES - 1]
    );
    assert!(late == 0 || in_vain > 0.0);
    assert!(late + unsure < TIMES / 10);
}

#[tokio::test]
async fn without_redis_each_replica_follows_up_the_responses_that_it_knows() {
    let mut redis = RedisServer::start();
    let (fleet, other) = two(&redis).await;
    let before = id(&fleet.create("alice", r#"{"model":"second"}"#).await);
    redis.kill();
    let mut took = Vec::new();
    let mut timed = async |gateway: &Gateway, key: &str, body: &str| {
        let began = Instant::now();
        let answer = call(gateway, key, "POST /v1/responses", Some(body)).await;
        took.push(began.elapsed());
        answer
    };
    let mut last = before.clone();
    for _ in 0..10 {
        // A replica follows up its own responses, also those that it makes now.
        last = id(&timed(&fleet.gateway, "alice", &follow(&last)).await);
        // A request without references is served.
        id(&timed(&other, "alice", r#"{"model":"smart"}"#).await);
        // A replica that cannot know an id never says that the id does not exist. Another owner's id and an unknown id
        // get the same answer.
        let away = timed(&other, "alice", &follow(&before)).await;
        away.assert_final(503, "affinity_unavailable", false);
        assert_eq!(away.header("retry-after"), Some("1"));
        let never = timed(&fleet.gateway, "bob", &follow("resp_two-a_0")).await;
        assert_eq!(masked(&timed(&fleet.gateway, "bob", &follow(&before)).await), masked(&never));
        never.assert_final(503, "affinity_unavailable", false);
        let line = format!("GET /v1/responses/{before}");
        call(&other, "alice", &line, None).await.assert_final(503, "affinity_unavailable", false);
    }
    let all: Duration = took.iter().sum();
    let most = took.iter().max().unwrap();
    eprintln!("Redis is gone: {} requests in {all:?}, the slowest {most:?}", took.len());
    assert!(*most < GENEROUS, "{took:?}");
    redis.run();
    for gateway in [&fleet.gateway, &other] {
        wait_for_store(gateway).await;
        gateway.metric_becomes("tidegate_affinity_waiting", 0.0).await;
    }
    // Redis came back empty: the replica writes the ids in its memory again, and those that it made meanwhile.
    for made in [&before, &last] {
        until("the other replica knows the id", async || {
            let answer = call(&other, "alice", "POST /v1/responses", Some(&follow(made))).await;
            assert!(matches!(answer.status, 200 | 400 | 503), "{answer:?}");
            answer.status == 200
        })
        .await;
    }
}
