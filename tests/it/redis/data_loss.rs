//! Budgets over a Redis that loses its data or hangs: two gateways with one Redis and one PostgreSQL spend one budget once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tidegate::{
    config::{Config, KeyLimits, Store},
    domain::{money::UNIT, spending::Spender},
    store::sql::Database,
};
use tokio::sync::oneshot;

use super::{ALONE, BODY, FAULT, PATIENCE, answering, fault, priced, settings};
use crate::support::{
    LONG,
    client::Client,
    database::{Postgres, until},
    gateway::Gateway,
    redis::RedisServer,
    soon,
    upstream::{STREAM, Step, Upstream, chunk},
};

/// What the budget allows, at 1 CNY a request.
const ALL: usize = 20;

/// Two gateways over the same.
struct Two {
    _upstream: Upstream,
    redis: RedisServer,
    postgres: Postgres,
    gateways: [Gateway; 2],
    config: Config,
    served: usize,
}

impl Two {
    /// A busy machine does not make Redis look slow to these.
    async fn start(upstream: Upstream) -> Self {
        Self::with(upstream, "20CNY/total", LONG).await
    }

    async fn with(upstream: Upstream, budget: &str, patience: Duration) -> Self {
        let (redis, postgres) = (RedisServer::start(), Postgres::start().await);
        let mut config = priced(settings(&upstream, &redis, KeyLimits::default()), budget);
        config.store = Store::Postgres { url: postgres.url().into(), password: None };
        config.sharing.as_mut().unwrap().patience = patience;
        let gateways = [Gateway::start(config.clone()), Gateway::start(config.clone())];
        Self { _upstream: upstream, redis, postgres, gateways, config, served: 0 }
    }

    /// So many requests to one of them, one after the other, all of which are served: where a busy machine makes Redis slow, after
    /// some that are told to come again.
    async fn spend(&mut self, nth: usize, count: usize) {
        let mut client = self.gateways[nth].connect().await;
        let enough = self.served + count;
        until("what is spent", async || {
            let answer = client.create(BODY).await;
            match answer.status {
                200 => self.served += 1,
                _ => answer.assert_final(429, "rate_limit_exceeded", false),
            }
            self.served == enough
        })
        .await;
    }

    /// One request to each; returned is whether each says that the budget is spent.
    async fn ask(&mut self) -> bool {
        let mut refused = 0;
        for gateway in &self.gateways {
            let answer = gateway.connect().await.create(BODY).await;
            match answer.status {
                200 => self.served += 1,
                status => {
                    assert_eq!(status, 429, "{answer:?}");
                    refused += usize::from(answer.text().contains("insufficient_quota"));
                }
            }
        }
        refused == self.gateways.len()
    }

    /// Waits until each has read in the ledger that all of them spent so much.
    async fn all_read(&self, spent: usize) {
        let expected = format!(", {spent} spent");
        for gateway in &self.gateways {
            until("the ledger's sums", async || {
                let mut admin = Client::connect(gateway.admin).await;
                admin.get("/explain?key=tester&model=smart").await.text().contains(&expected)
            })
            .await;
        }
    }

    /// Stops PostgreSQL, once each gateway has read the ledger, which is empty. Until PostgreSQL goes on, the ledger shows no gateway
    /// anything of the spend of the other, however slow the machine is: the part of each is half of the budget.
    async fn stop_ledger(&self) {
        self.all_read(0).await;
        self.postgres.pause();
    }

    /// Both gateways spend the rest of the budget, with Redis. The ledger has a row for each request in the end. The last request of
    /// each gateway may exceed its part.
    async fn spend_all_once(self) {
        self.spend_all(2).await;
    }

    /// The same where `beyond` more requests may pass, because no gateway knew all of the spend.
    async fn spend_all(mut self, beyond: usize) {
        // Each gateway has to notice that Redis was emptied, and tells Redis its spend. Only then Redis knows all.
        self.ask().await;
        self.all(0.0).await;
        until("the end of the budget", async || self.ask().await).await;
        assert!((ALL..=ALL + beyond).contains(&self.served), "{}", self.served);
        self.postgres.go_on();
        let mut database = Database::open_to_read(&self.postgres.place()).await.unwrap();
        let spent =
            async |database: &mut Database| database.spent(Spender::Key, "tester", 0, u64::MAX).await.unwrap()[0];
        until("the rows", async || spent(&mut database).await == self.served as u64 * UNIT).await;
    }

    /// One that ends in order and begins again, with its data folder.
    async fn restart(&mut self, nth: usize) {
        let gateway = &mut self.gateways[nth];
        gateway.stop();
        gateway.ended().await;
        let folder = std::mem::replace(&mut gateway.folder, tempfile::tempdir().unwrap());
        let mut config = self.config.clone();
        config.server.data_dir = folder.path().to_owned();
        *gateway = Gateway::run(config, None, folder);
    }

    async fn all(&self, value: f64) {
        for gateway in &self.gateways {
            fault(gateway, value).await;
        }
    }

    /// How many requests the gateways admitted or refused without Redis.
    async fn decided_alone(&self) -> usize {
        let [one, other] = &self.gateways;
        (one.metric(ALONE).await + other.metric(ALONE).await) as usize
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_emptied_while_both_replicas_spend() {
    let mut two = Two::start(answering().await).await;
    for _ in 0..2 {
        two.spend(0, 3).await;
        two.spend(1, 3).await;
        assert_eq!(two.redis.ask("FLUSHALL"), "+OK");
        // Each gateway notices it with this request.
        two.ask().await;
        two.all(0.0).await;
    }
    two.spend_all_once().await;
}

/// One spends nearly all, which the other, who asked nobody yet, knows from the ledger alone when Redis is away.
async fn one_spends_and_the_other_asks(
    patience: Duration,
    away: impl Fn(&mut RedisServer),
    back: impl Fn(&mut RedisServer),
) {
    let mut two = Two::with(answering().await, "20CNY/total", patience).await;
    two.spend(0, ALL - 1).await;
    two.all_read(ALL - 1).await;
    away(&mut two.redis);
    until("the end of the budget", async || {
        let answer = two.gateways[1].connect().await.create(BODY).await;
        two.served += usize::from(answer.status == 200);
        answer.text().contains("insufficient_quota")
    })
    .await;
    back(&mut two.redis);
    two.all(0.0).await;
    two.spend_all_once().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_emptied_after_one_replica_spent_nearly_all() {
    let empty = |redis: &mut RedisServer| assert_eq!(redis.ask("FLUSHALL"), "+OK");
    Box::pin(one_spends_and_the_other_asks(LONG, empty, |_| {})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_killed_after_one_replica_spent_nearly_all() {
    Box::pin(one_spends_and_the_other_asks(LONG, RedisServer::kill, RedisServer::run)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_hangs_after_one_replica_spent_nearly_all() {
    Box::pin(one_spends_and_the_other_asks(PATIENCE, |redis| redis.pause(), |redis| redis.go_on())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_emptied_after_the_whole_budget_is_spent() {
    let mut two = Two::start(answering().await).await;
    two.spend(0, ALL / 2).await;
    two.spend(1, ALL / 2).await;
    two.all_read(ALL).await;
    for _ in 0..5 {
        assert_eq!(two.redis.ask("FLUSHALL"), "+OK");
        assert!(two.ask().await);
    }
    two.spend_all_once().await;
}

/// Without Redis, and with a ledger that shows nothing, a gateway that spent more than its part stops, and the other spends its part.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_killed_before_the_ledger_shows_the_spend_of_one_replica() {
    let mut two = Two::start(answering().await).await;
    two.stop_ledger().await;
    two.spend(0, ALL - 1).await;
    two.redis.kill();
    for _ in 0..ALL {
        two.ask().await;
    }
    let all = ALL - 1 + ALL / 2;
    assert_eq!(two.served, all);
    two.redis.run();
    // Redis knows the spend of both, and not one more request passes.
    two.spend_all(all - ALL).await;
}

/// The ledger shows a gateway its own rows before those of the other. Each reading gives it a part of the rest anew. In the end it has
/// spent no more than the budget less the spend that the ledger did show of the other: here nothing, at the worst.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_killed_while_the_ledger_is_read() {
    let mut two = Two::start(answering().await).await;
    two.spend(0, ALL - 1).await;
    two.redis.kill();
    for _ in 0..ALL {
        two.ask().await;
    }
    // Each spends the budget once, and its last request.
    assert!((ALL..=2 * (ALL + 1)).contains(&two.served), "{}", two.served);
    two.redis.run();
    two.spend_all(ALL + 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_hangs_while_both_replicas_spend() {
    let mut two = Two::with(answering().await, "20CNY/total", PATIENCE).await;
    two.stop_ledger().await;
    two.spend(0, 4).await;
    two.spend(1, 3).await;
    two.redis.pause();
    for _ in 0..10 {
        two.ask().await;
    }
    two.all(1.0).await;
    for _ in 0..10 {
        two.ask().await;
    }
    two.redis.go_on();
    // On a slow machine one gateway may spend its part without Redis, while the other asks Redis, which does not know of that yet.
    two.spend_all(ALL / 2 + 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_killed_and_comes_back_empty_while_both_replicas_spend() {
    let mut two = Two::start(answering().await).await;
    two.spend(0, 4).await;
    two.spend(1, 3).await;
    two.redis.kill();
    for _ in 0..5 {
        two.ask().await;
    }
    two.redis.run();
    two.spend_all_once().await;
}

/// Nothing of what was spent is in the ledger then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_emptied_while_the_ledger_is_unavailable() {
    let mut two = Two::start(answering().await).await;
    two.stop_ledger().await;
    two.spend(0, 7).await;
    two.spend(1, 6).await;
    assert_eq!(two.redis.ask("FLUSHALL"), "+OK");
    two.spend_all(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_emptied_while_requests_are_in_progress() {
    let (go, wait) = tokio::sync::watch::channel(false);
    let upstream = Upstream::scripted(move |_| {
        let (mut wait, (end, ended)) = (wait.clone(), oneshot::channel());
        tokio::spawn(async move {
            let _ = wait.wait_for(|go| *go).await;
            let _ = end.send(());
        });
        // Without any output the answer would be free.
        let output = b"data: {\"type\":\"response.output_text.delta\",\"delta\":\"x\"}\n\n";
        let begin = [STREAM, &chunk(output)].concat();
        vec![Step::Send(begin), Step::Wait(ended), Step::Send(crate::support::upstream::LAST_CHUNK.to_vec())]
    })
    .await;
    let mut two = Two::start(upstream).await;
    let mut held: Vec<(Client, _)> = Vec::new();
    for nth in [0, 1].repeat(ALL / 2 - 1) {
        let mut client = two.gateways[nth].connect().await;
        client.post(BODY).await;
        let head = client.head().await;
        assert_eq!(head.status, 200);
        held.push((client, head));
    }
    assert_eq!(two.redis.ask("FLUSHALL"), "+OK");
    go.send(true).unwrap();
    for (mut client, mut head) in held {
        client.body(&mut head).await;
        two.served += 1;
    }
    two.spend_all_once().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_replicas_start_with_an_empty_redis_and_read_the_spend_from_the_ledger() {
    let mut two = Two::start(answering().await).await;
    two.spend(0, 9).await;
    two.spend(1, 8).await;
    for gateway in &mut two.gateways {
        gateway.stop();
        gateway.ended().await;
    }
    assert_eq!(two.redis.ask("FLUSHALL"), "+OK");
    two.gateways = [Gateway::start(two.config.clone()), Gateway::start(two.config.clone())];
    two.all_read(17).await;
    two.spend_all_once().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_emptied_while_replicas_restart() {
    let mut two = Two::start(answering().await).await;
    two.spend(0, 5).await;
    two.spend(1, 5).await;
    two.restart(0).await;
    two.spend(0, 1).await;
    two.restart(1).await;
    assert_eq!(two.redis.ask("FLUSHALL"), "+OK");
    two.restart(0).await;
    two.spend_all_once().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_emptied_paused_and_killed_under_load() {
    const BUDGET: usize = 1500;
    const CLIENTS: usize = 16;
    let mut two = Two::with(answering().await, &format!("{BUDGET}CNY/total"), PATIENCE).await;
    let served = Arc::new(AtomicUsize::new(0));
    let asking: Vec<_> = (0..CLIENTS)
        .map(|nth| {
            let (address, served) = (two.gateways[nth % 2].address, Arc::clone(&served));
            tokio::spawn(async move {
                let mut client = Client::connect(address).await;
                loop {
                    let answer = client.create(BODY).await;
                    served.fetch_add(usize::from(answer.status == 200), Ordering::Relaxed);
                    assert!([200, 429].contains(&answer.status), "{answer:?}");
                    if answer.text().contains("insufficient_quota") {
                        break;
                    }
                    // No flood of what is refused for now.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            })
        })
        .collect();
    let most = async |count: usize| {
        until("some more", async || {
            served.load(Ordering::Relaxed) >= count || asking.iter().all(tokio::task::JoinHandle::is_finished)
        })
        .await;
    };
    for round in 1..=3 {
        most(round * 400 - 200).await;
        assert_eq!(two.redis.ask("FLUSHALL"), "+OK");
        most(round * 400 - 150).await;
        two.redis.pause();
        two.all(1.0).await;
        two.redis.go_on();
        two.all(0.0).await;
        most(round * 400).await;
        two.redis.kill();
        two.all(1.0).await;
        two.redis.run();
        two.all(0.0).await;
    }
    // From here on Redis knows all of the spend, but for that of requests which a slow machine decides without Redis.
    let alone = loop {
        let alone = two.decided_alone().await;
        if two.gateways[0].metric(FAULT).await + two.gateways[1].metric(FAULT).await == 0.0 {
            break alone;
        }
    };
    for one in asking {
        soon("the end of the budget", one).await.unwrap();
    }
    let (served, alone) = (served.load(Ordering::Relaxed), two.decided_alone().await - alone);
    eprintln!("{served} of {BUDGET}, {alone} decided without Redis after the last outage");
    // Each request in progress costs its estimate, so that nothing exceeds the budget but those of which Redis was not told yet.
    assert!((BUDGET..=BUDGET + CLIENTS + alone).contains(&served), "{served} of {BUDGET}, {alone} without Redis");
}
