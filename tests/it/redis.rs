//! Limits that several gateways share, with Redis available and unavailable.

mod addresses;
mod data_loss;

use std::time::Duration;

use serde_json::Value;
use tidegate::{
    config::{Config, KeyLimits, ModelLimits, ModelPrice, RedisSettings, SharedLimits, WhenRedisIsAway},
    domain::{
        model_name::ModelPattern,
        money::{Budget, Currency, UNIT},
        price::Price,
    },
};
use tokio::{sync::oneshot, time::Instant};

use crate::support::{
    LONG,
    client::{Answer, Client},
    database::until,
    gateway::{Gateway, KEY, config, key},
    process::{Process, tidegate},
    redis::{RedisServer, free_port},
    soon,
    upstream::{LAST_CHUNK, RESPONSE, STREAM, Step, Upstream, chunk, json},
};

const BODY: &str = r#"{"model":"smart"}"#;

const FAULT: &str = "tidegate_limits_fault";
const ALONE: &str = "tidegate_limits_alone_total";

/// The default time that a request waits for Redis.
const PATIENCE: Duration = Duration::from_millis(40);

/// Limits that are never reached, but have to be checked for each request.
const PLENTY: KeyLimits = KeyLimits { requests: Some(1_000_000), tokens: Some(u32::MAX), in_flight: Some(10_000) };

fn settings(upstream: &Upstream, redis: &RedisServer, limits: KeyLimits) -> Config {
    let mut config = config(&upstream.base_url());
    let redis = RedisSettings::plain("127.0.0.1", redis.port);
    config.sharing = Some(SharedLimits { redis, replicas: 2, fail: WhenRedisIsAway::Share, patience: LONG });
    config.keys[0].limits = limits;
    config.keys.push(key("free", "sk-free"));
    config
}

async fn answering() -> Upstream {
    Upstream::fixed(json("200 OK", RESPONSE)).await
}

async fn create(gateway: &Gateway, key: &str) -> Answer {
    let mut client = gateway.connect().await;
    let (length, auth) = (BODY.len(), format!("authorization: Bearer {key}"));
    client
        .send(format!("POST /v1/responses HTTP/1.1\r\nhost: t\r\n{auth}\r\ncontent-length: {length}\r\n\r\n{BODY}"))
        .await;
    client.answer().await
}

/// Sends concurrent requests to the gateways in turn, and returns the number of admitted ones.
async fn at_once(gateways: &[&Gateway], count: usize) -> usize {
    let mut clients = Vec::new();
    for number in 0..count {
        clients.push(gateways[number % gateways.len()].connect().await);
    }
    let asking = clients.into_iter().map(|mut client| tokio::spawn(async move { client.create(BODY).await.status }));
    let mut passed = 0;
    for one in asking.collect::<Vec<_>>() {
        let status = soon("an answer", one).await.unwrap();
        assert!(status == 200 || status == 429, "{status}");
        passed += usize::from(status == 200);
    }
    passed
}

async fn fault(gateway: &Gateway, value: f64) {
    gateway.metric_becomes(FAULT, value).await;
}

async fn readiness(gateway: &Gateway) -> (u16, Value) {
    let answer = Client::connect(gateway.admin).await.get("/readyz").await;
    (answer.status, answer.json()["limits"].clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_of_a_model_are_shared() {
    let (redis, mut upstream) = (RedisServer::start(), answering().await);
    let mut settings = settings(&upstream, &redis, PLENTY);
    // A request costs 1 CNY.
    let price = Price { per_call: UNIT, ..Price::free(Currency::Cny) };
    settings.prices = vec![ModelPrice { upstream: 0, model: "*".into(), from: 0, price: price.into() }];
    let budgets = vec![Budget::parse("3CNY/week").unwrap()];
    let limits = KeyLimits { in_flight: Some(1), ..KeyLimits::default() };
    settings.keys[0].limits_by_model = vec![ModelLimits { model: ModelPattern("sm*".into()), limits, budgets }];
    let (one, other) = (Gateway::start(settings.clone()), Gateway::start(settings));
    for gateway in [&one, &other, &one] {
        let answer = create(gateway, KEY).await;
        assert_eq!((answer.status, answer.header("x-ratelimit-limit-requests")), (200, Some("1000000")));
        // The slot is released in the background.
        gateway.metric_becomes("tidegate_requests_in_flight", 0.0).await;
        until("a free place", async || redis.list("KEYS tidegate:at_once:key:tester:model:*").is_empty()).await;
    }
    for gateway in [&one, &other] {
        let refused = create(gateway, KEY).await;
        refused.assert_final(429, "insufficient_quota", true);
        assert!(
            refused
                .message()
                .contains(" of the budget of 3 CNY/week of the key `tester` for the model `sm*` are spent.")
        );
        let mut client = gateway.connect().await;
        assert_eq!(client.create(r#"{"model":"gpt-x"}"#).await.status, 200, "another model");
    }
    assert_eq!(upstream.taken().len(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_per_minute_are_shared() {
    let (redis, upstream) = (RedisServer::start(), answering().await);
    let limits = KeyLimits { requests: Some(10), ..KeyLimits::default() };
    let (one, other) =
        (Gateway::start(settings(&upstream, &redis, limits)), Gateway::start(settings(&upstream, &redis, limits)));
    let began = Instant::now();
    let passed = at_once(&[&one, &other], 100).await;
    let back = usize::try_from(began.elapsed().as_secs() / 6).unwrap();
    assert!((10..=11 + back).contains(&passed), "{passed}");
    // After all turns of the next minute are taken, a certain refusal does not ask Redis.
    let asked = || redis.list("INFO commandstats").into_iter().find(|line| line.starts_with("cmdstat_evalsha:"));
    let before = asked().unwrap();
    let mut refused = create(&other, KEY).await;
    for _ in 0..20 {
        refused = create(&other, KEY).await;
    }
    if refused.status == 429 && began.elapsed() < Duration::from_secs(5) {
        assert_eq!(asked().unwrap(), before);
        assert_eq!(refused.header("x-ratelimit-limit-requests"), Some("10"));
        assert_eq!(refused.header("x-ratelimit-remaining-requests"), Some("0"));
        let after: u64 = refused.header("retry-after").unwrap().parse().unwrap();
        assert!((55..=60).contains(&after), "{after}");
    }
    assert_eq!(readiness(&one).await, (200, serde_json::json!({"shared": true, "redis_fails": false, "alone": 0})));
    assert_eq!(one.metric("tidegate_limits_shared").await, 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_remaining_quota_is_the_same_at_each_gateway() {
    let (redis, upstream) = (RedisServer::start(), answering().await);
    let limits = KeyLimits { requests: Some(100), tokens: Some(10_000), ..KeyLimits::default() };
    let (one, other) =
        (Gateway::start(settings(&upstream, &redis, limits)), Gateway::start(settings(&upstream, &redis, limits)));
    for (gateway, left) in [(&one, "99"), (&other, "98"), (&one, "97"), (&other, "96")] {
        let answer = gateway.connect().await.create(BODY).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("x-ratelimit-limit-tokens"), Some("10000"));
        assert_eq!(answer.header("x-ratelimit-remaining-requests"), Some(left));
        gateway.metric_becomes("tidegate_requests_in_flight", 0.0).await;
    }
    // Of 2,000 reserved tokens, each request used 8.
    until("the tokens", async || {
        let mut client = one.connect().await;
        let answer = client.create(r#"{"model":1}"#).await;
        let left: u64 = answer.header("x-ratelimit-remaining-tokens").unwrap().parse().unwrap();
        assert_eq!(answer.status, 400);
        left >= 9960
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrency_slots_are_shared_and_released_at_the_end_of_a_request_and_of_a_gateway() {
    let redis = RedisServer::start();
    let (go, wait) = oneshot::channel();
    let mut first = Some(wait);
    let upstream = Upstream::scripted(move |_| match first.take() {
        Some(wait) => vec![
            Step::Send([STREAM, &chunk(b"data: {}\n\n")].concat()),
            Step::Wait(wait),
            Step::Send(LAST_CHUNK.to_vec()),
        ],
        None => vec![Step::Send([STREAM, &chunk(b"data: {}\n\n")].concat()), Step::UntilClosed(oneshot::channel().0)],
    })
    .await;
    let limits = KeyLimits { in_flight: Some(1), ..KeyLimits::default() };
    let mut one = Gateway::start(settings(&upstream, &redis, limits));
    let other = Gateway::start(settings(&upstream, &redis, limits));
    let mut streaming = one.connect().await;
    streaming.post(BODY).await;
    let mut streamed = streaming.head().await;
    assert_eq!(streamed.status, 200);
    let refused = other.connect().await.create(BODY).await;
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("1")));
    go.send(()).unwrap();
    streaming.body(&mut streamed).await;
    // The slot is released in the background.
    let mut second = None;
    until("the place", async || {
        let mut client = one.connect().await;
        client.post(BODY).await;
        let head = client.head().await;
        second = Some(client);
        head.status == 200
    })
    .await;
    assert_eq!(other.connect().await.create(BODY).await.status, 429);
    // A gateway that stops releases the slots of the requests that it cuts.
    one.stop();
    one.ended().await;
    let mut client = other.connect().await;
    client.post(BODY).await;
    assert_eq!(client.head().await.status, 200);
}

/// 1 CNY a request.
fn priced(mut config: Config, budget: &str) -> Config {
    let free = Price { per_call: UNIT, ..Price::free(Currency::Cny) };
    config.prices = vec![ModelPrice { upstream: 0, model: "real".into(), from: 0, price: free.into() }];
    config.keys[0].budgets = vec![Budget::parse(budget).unwrap()];
    config
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_is_shared_and_not_overspent() {
    let (redis, upstream) = (RedisServer::start(), answering().await);
    let start = || Gateway::start(priced(settings(&upstream, &redis, KeyLimits::default()), "10CNY/total"));
    let (one, other) = (start(), start());
    let passed = at_once(&[&one, &other], 200).await;
    // Redis lets no more pass. On a machine so slow that Redis takes a second, a gateway decides without Redis.
    let alone = (one.metric(ALONE).await + other.metric(ALONE).await) as usize;
    assert!((10..=10 + alone).contains(&passed), "{passed} passed, {alone} decided without Redis");
    // The last requests are settled in the background.
    let mut client = one.connect().await;
    until("the end of the budget", async || client.create(BODY).await.text().contains("insufficient_quota")).await;
    client.create(BODY).await.assert_final(429, "insufficient_quota", true);
}

/// In memory and in Redis.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reserved_budget_is_refused_for_a_moment_and_released() {
    for shared in [false, true] {
        let redis = RedisServer::start();
        let (go, wait) = oneshot::channel();
        let mut first = Some(wait);
        let upstream = Upstream::scripted(move |_| match first.take() {
            Some(wait) => vec![
                Step::Send([STREAM, &chunk(b"data: {}\n\n")].concat()),
                Step::Wait(wait),
                Step::Send(LAST_CHUNK.to_vec()),
            ],
            None => vec![Step::Send(json("200 OK", RESPONSE))],
        })
        .await;
        let mut config = priced(settings(&upstream, &redis, KeyLimits::default()), "1.5CNY/total");
        if !shared {
            config.sharing = None;
        }
        let gateway = Gateway::start(config);
        let mut streaming = gateway.connect().await;
        streaming.post(BODY).await;
        let mut streamed = streaming.head().await;
        let mut client = gateway.connect().await;
        let refused = client.create(BODY).await;
        refused.assert_final(429, "rate_limit_exceeded", false);
        assert_eq!(refused.header("retry-after"), Some("1"));
        assert_eq!(
            refused.message(),
            "Requests in progress have reserved the rest of the budget of 1.5 CNY/total of the key `tester`. \
             Please try again in a moment."
        );
        assert_eq!(gateway.metric(r#"tidegate_limited_total{limit="budgets_reserved",of="key"}"#).await, 1.0);
        go.send(()).unwrap();
        streaming.body(&mut streamed).await;
        // The request is settled in the background.
        until("the reservation to be released", async || client.create(BODY).await.status == 200).await;
        until("the end", async || client.create(BODY).await.text().contains("insufficient_quota")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_spend_of_a_budget_is_restored_after_redis_was_emptied() {
    let (redis, upstream) = (RedisServer::start(), answering().await);
    let gateway = Gateway::start(priced(settings(&upstream, &redis, KeyLimits::default()), "3CNY/total"));
    let mut client = gateway.connect().await;
    for _ in 0..3 {
        assert_eq!(client.create(BODY).await.status, 200);
    }
    client.create(BODY).await.assert_final(429, "insufficient_quota", true);
    for _ in 0..2 {
        assert_eq!(redis.ask("FLUSHALL"), "+OK");
        client.create(BODY).await.assert_final(429, "insufficient_quota", true);
    }
}

/// Sends `count` requests one after the other, and checks that all are served.
async fn ask(gateway: &Gateway, count: usize) {
    let mut client = gateway.connect().await;
    for number in 0..count {
        let answer = client.create(BODY).await;
        assert_eq!(answer.status, 200, "request {number}: {answer:?}");
    }
}

/// A request that waits for a silent Redis takes this long in `assert_survives_outage`, where no configured wait ends it
/// before.
const SILENCE: Duration = Duration::from_secs(1);

/// Checks that this many requests did not each wait for Redis. The bound is far above the time that a slow machine
/// needs for them.
fn did_not_wait(began: Instant, requests: u32) {
    let took = began.elapsed();
    assert!(took < SILENCE * requests / 2, "{requests} requests took {took:?}");
}

/// Waits until a gateway with `fail = "closed"` serves requests. On a busy machine Redis may be late now and then.
async fn serves_again(closed: &Gateway) {
    until("an answer", async || closed.connect().await.create(BODY).await.status == 200).await;
}

/// Requests before, during and after an outage of Redis. None fails, and only the first may wait for Redis. `closed`
/// refuses requests of limited keys during the outage, and serves others.
async fn assert_survives_outage(away: impl Fn(&mut RedisServer), back: impl Fn(&mut RedisServer)) {
    let (mut redis, upstream) = (RedisServer::start(), answering().await);
    let mut settings = priced(settings(&upstream, &redis, PLENTY), "1000000CNY/day");
    let open = Gateway::start(settings.clone());
    settings.sharing.as_mut().unwrap().fail = WhenRedisIsAway::Closed;
    let closed = Gateway::start(settings);
    ask(&open, 50).await;
    serves_again(&closed).await;
    let alone = open.metric(ALONE).await;
    away(&mut redis);
    let began = Instant::now();
    ask(&open, 101).await;
    did_not_wait(began, 101);
    fault(&open, 1.0).await;
    assert!(open.metric(ALONE).await >= alone + 100.0);
    let (status, limits) = readiness(&open).await;
    assert_eq!((status, &limits["redis_fails"]), (200, &true.into()), "{limits}");

    // The gateway may have to notice the outage first.
    until("the refusal", async || closed.connect().await.create(BODY).await.status == 503).await;
    let began = Instant::now();
    for _ in 0..20 {
        let refused = closed.connect().await.create(BODY).await;
        refused.assert_final(503, "limits_unavailable", false);
        assert_eq!(refused.header("retry-after"), Some("1"));
    }
    did_not_wait(began, 20);
    assert_eq!(create(&closed, "sk-free").await.status, 200);

    back(&mut redis);
    for gateway in [&open, &closed] {
        fault(gateway, 0.0).await;
    }
    serves_again(&closed).await;
    until("20 requests in a row that ask Redis", async || {
        let alone = open.metric(ALONE).await;
        ask(&open, 20).await;
        open.metric(ALONE).await == alone
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_served_while_redis_is_stopped() {
    assert_survives_outage(RedisServer::stop, RedisServer::run).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_served_while_redis_is_killed() {
    assert_survives_outage(RedisServer::kill, RedisServer::run).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_served_while_redis_hangs() {
    assert_survives_outage(|redis| redis.pause(), |redis| redis.go_on()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_served_while_redis_is_full() {
    let full = |redis: &mut RedisServer| {
        assert_eq!(redis.ask("CONFIG SET maxmemory 1mb maxmemory-policy noeviction"), "+OK");
        assert_eq!(
            redis.ask(&format!("SET filler {}", "x".repeat(60_000))),
            "-OOM command not allowed when used memory > 'maxmemory'."
        );
    };
    let room = |redis: &mut RedisServer| assert_eq!(redis.ask("CONFIG SET maxmemory 0"), "+OK");
    assert_survives_outage(full, room).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_served_while_redis_is_read_only() {
    // Redis becomes the replica of a master that does not exist.
    let replica = |redis: &mut RedisServer| assert_eq!(redis.ask("REPLICAOF 127.0.0.1 1"), "+OK");
    let master = |redis: &mut RedisServer| assert_eq!(redis.ask("REPLICAOF NO ONE"), "+OK");
    assert_survives_outage(replica, master).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_survive_a_redis_that_loses_its_data_scripts_and_connections() {
    let (redis, upstream) = (RedisServer::start(), answering().await);
    let gateway = Gateway::start(settings(&upstream, &redis, PLENTY));
    for command in ["FLUSHALL", "SCRIPT FLUSH", "FLUSHALL", "CLIENT KILL TYPE normal"] {
        redis.ask(command);
        ask(&gateway, 20).await;
        fault(&gateway, 0.0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_each_gateway_allows_its_share() {
    let (mut redis, upstream) = (RedisServer::start(), answering().await);
    let limits = KeyLimits { requests: Some(20), ..KeyLimits::default() };
    let start = || Gateway::start(settings(&upstream, &redis, limits));
    let (one, other) = (start(), start());
    // Each gateway may admit one more request every six seconds.
    let began = Instant::now();
    // `one` took 4 of its share of 10. `other` knows that 15 of all 20 were left, of which it may use 7.
    ask(&one, 4).await;
    ask(&other, 1).await;
    redis.stop();
    // A gateway without requests also notices the outage.
    for gateway in [&one, &other] {
        fault(gateway, 1.0).await;
    }
    let (of_one, of_other) = (at_once(&[&one], 40).await, at_once(&[&other], 40).await);
    let back = usize::try_from(began.elapsed().as_secs() / 6).unwrap();
    assert!((6..=7 + back).contains(&of_one), "{of_one}");
    assert!((7..=8 + back).contains(&of_other), "{of_other}");
    let refused = other.connect().await.create(BODY).await;
    if refused.status == 429 {
        assert_eq!(refused.header("x-ratelimit-limit-requests"), Some("10"), "its share");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrency_slots_are_restored_after_redis_was_away() {
    let mut redis = RedisServer::start();
    let upstream = Upstream::scripted(|_| {
        vec![Step::Send([STREAM, &chunk(b"data: {}\n\n")].concat()), Step::UntilClosed(oneshot::channel().0)]
    })
    .await;
    let limits = KeyLimits { in_flight: Some(4), ..KeyLimits::default() };
    let start = || Gateway::start(settings(&upstream, &redis, limits));
    let (one, other) = (start(), start());
    let mut held = Vec::new();
    let hold = async |held: &mut Vec<Client>| {
        let mut client = one.connect().await;
        client.post(BODY).await;
        assert_eq!(client.head().await.status, 200);
        held.push(client);
    };
    hold(&mut held).await;
    redis.stop();
    for gateway in [&one, &other] {
        fault(gateway, 1.0).await;
    }
    hold(&mut held).await;
    redis.run();
    for gateway in [&one, &other] {
        fault(gateway, 0.0).await;
    }
    // Two of four slots are taken, and two are left.
    until("the slots in Redis", async || redis.ask("ZCARD tidegate:at_once:key:tester") == ":2").await;
    hold(&mut held).await;
    hold(&mut held).await;
    assert_eq!(other.connect().await.create(BODY).await.status, 429);
    drop(held);
    until("the places", async || redis.ask("ZCARD tidegate:at_once:key:tester") == ":0").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_starts_and_stops_while_redis_is_unavailable() {
    let (mut redis, upstream) = (RedisServer::start(), answering().await);
    redis.stop();
    let gateway = Gateway::start(settings(&upstream, &redis, PLENTY));
    ask(&gateway, 20).await;
    fault(&gateway, 1.0).await;
    redis.run();
    fault(&gateway, 0.0).await;
    ask(&gateway, 20).await;
    // The shutdown does not wait for a Redis that hangs.
    redis.pause();
    let mut gateway = gateway;
    ask(&gateway, 5).await;
    gateway.stop();
    gateway.ended().await;
    redis.go_on();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_with_a_password_is_used() {
    let (mut redis, upstream) = (RedisServer::start(), answering().await);
    redis.stop();
    let mut with = settings(&upstream, &redis, PLENTY);
    let mut wrong = with.clone();
    with.sharing.as_mut().unwrap().redis.password = Some("sk-canary-of-redis".into());
    wrong.sharing.as_mut().unwrap().redis.password = Some("sk-canary-of-another".into());
    // Without a password, this Redis answers only PING.
    let settings = ["--user default on +ping +quit nopass", "--user me on ~tidegate:* +@all >sk-canary-of-redis"];
    redis.run_with(&settings.map(|setting| setting.split(' ')).into_iter().flatten().collect::<Vec<_>>());
    for config in [&mut with, &mut wrong] {
        config.sharing.as_mut().unwrap().redis.user = Some("me".into());
    }
    let (with, wrong) = (Gateway::start(with), Gateway::start(wrong));
    ask(&with, 20).await;
    assert_eq!(with.metric(ALONE).await, 0.0);
    ask(&wrong, 20).await;
    fault(&wrong, 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_over_tls_is_used_and_the_log_reports_an_outage_once() {
    let (mut redis, upstream) = (RedisServer::start(), answering().await);
    redis.stop();
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(at("crt"), made.cert.pem()).unwrap();
    std::fs::write(at("key"), made.signing_key.serialize_pem()).unwrap();
    let port = free_port();
    let (crt, key, tls) = (at("crt"), at("key"), port.to_string());
    let with_tls = [
        "--tls-port",
        &tls,
        "--tls-cert-file",
        &crt,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &crt,
        "--tls-auth-clients",
        "no",
        "--user",
        "me",
        "on",
        "~tidegate:*",
        "+@all",
        ">sk-canary-of-redis",
    ];
    redis.run_with(&with_tls);
    let text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\ndata_dir = \"data\"\n\
         [limits]\nredis = \"rediss://me@localhost:{port}/0\"\npassword = {{ env = \"REDIS_PASSWORD\" }}\nreplicas = 2\n\
         [[upstreams]]\nname = \"up\"\nbase_url = \"{}\"\n[[models]]\nname = \"smart\"\ntargets = [{{ upstream = \"up\" }}]\n\
         [[keys]]\nname = \"tester\"\nsecret = {{ env = \"KEY\" }}\nrpm = 1000\n",
        upstream.base_url()
    );
    std::fs::write(at("tidegate.toml"), text).unwrap();
    let mut command = tidegate(folder.path());
    command.args(["serve", "--config", "tidegate.toml"]).env("KEY", KEY).env("SSL_CERT_FILE", at("crt"));
    let mut process = Process::start(command.env("REDIS_PASSWORD", "sk-canary-of-redis"));
    let (address, admin) = (process.ready(), process.admin());
    let limits = async || Client::connect(admin).await.get("/readyz").await.json()["limits"].clone();
    until("Redis over TLS", async || limits().await["redis_fails"] == false).await;
    let mut client = Client::connect(address).await;
    assert_eq!(client.create(BODY).await.status, 200);
    assert_eq!(redis.ask("EXISTS tidegate:rpm:key:tester"), ":1");
    redis.stop();
    for _ in 0..50 {
        assert_eq!(client.create(BODY).await.status, 200);
    }
    process.logged("Redis is unavailable");
    redis.run_with(&with_tls);
    assert!(process.logged("Redis is available again")["seconds"].as_f64().unwrap() > 0.0);
    process.signal("INT");
    assert_eq!(process.exit(), Some(0));
    let everything = process.everything();
    assert_eq!(everything.matches("Redis is unavailable").count(), 1, "{everything}");
    assert!(!everything.contains("canary"), "{everything}");
}
