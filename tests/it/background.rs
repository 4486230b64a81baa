//! Background responses: the request that made a response pays for it once, when a call by the id shows the usage.

mod polling;

use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use tidegate::{
    config::{Config, ModelPrice, RedisSettings, SharedLimits, Store, WhenRedisIsAway},
    domain::{
        money::{Budget, Currency, UNIT},
        price::Price,
    },
    store::sql::{Cell, Database, DatabaseLocation, FILE, GroupBy, UsageTotal},
};
use tokio::sync::oneshot;

use crate::support::{
    LONG,
    client::{Answer, Client},
    database::{Postgres, until},
    gateway::{Gateway, KEY, UPSTREAM_KEY, config},
    process::{Process, output_text, tidegate},
    redis::RedisServer,
    settings::smallest,
    soon,
    upstream::{LAST_CHUNK, STREAM, Step, Upstream, chunk, json},
};

const BODY: &str = r#"{"model":"smart","input":"hi","background":true}"#;
const STREAMED: &str = r#"{"model":"smart","input":"hi","background":true,"stream":true}"#;

/// 1 CNY for 1,000 tokens.
const PRICE: Price = Price {
    input: 1000 * UNIT,
    cached: 1000 * UNIT,
    output: 1000 * UNIT,
    reasoning: 1000 * UNIT,
    per_call: 0,
    ..Price::free(Currency::Cny)
};

const USAGE: &str = r#"{"input_tokens":3,"output_tokens":5,"total_tokens":8}"#;
/// The usage, and a further member of the response.
const SEARCHED: &str =
    r#"{"input_tokens":3,"output_tokens":5,"total_tokens":8},"tool_usage":{"web_search":{"num_requests":2}}"#;
const COST: u64 = 8 * UNIT / 1000;

/// What the provider answers about its response at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Queued,
    InProgress,
    Completed,
    /// Completed, with a web search that the configuration has no price for.
    Searched,
    Cancelled,
    /// The provider does not know the response.
    Missing,
    /// The provider does not answer a call by the id.
    Silent,
}

const ITEMS: &str = r#"{"object":"list","data":[{"id":"msg_1","type":"message","role":"assistant","status":"completed","content":[{"type":"output_text","text":"hi"}]}],"has_more":false}"#;

/// A provider whose background responses are in the stage that the test sets.
struct Provider {
    upstream: Upstream,
    stage: Arc<Mutex<Stage>>,
}

fn object(id: &str, stage: Stage) -> String {
    let (status, usage) = match stage {
        Stage::Queued => ("queued", "null"),
        Stage::InProgress => ("in_progress", "null"),
        Stage::Completed => ("completed", USAGE),
        Stage::Searched => ("completed", SEARCHED),
        Stage::Cancelled => ("cancelled", "null"),
        Stage::Missing | Stage::Silent => ("queued", "null"),
    };
    format!(r#"{{"id":"{id}","object":"response","status":"{status}","background":true,"usage":{usage}}}"#)
}

fn event(name: &str, id: &str, stage: Stage) -> Vec<u8> {
    chunk(format!("event: {name}\ndata: {{\"type\":\"{name}\",\"response\":{}}}\n\n", object(id, stage)).as_bytes())
}

impl Provider {
    async fn start() -> Self {
        let stage = Arc::new(Mutex::new(Stage::Queued));
        let (told, mut made) = (Arc::clone(&stage), 0);
        let upstream = Upstream::scripted(move |request| {
            let mut now = told.lock().unwrap();
            let target = request.line.split(' ').nth(1).unwrap();
            let (path, query) = target.split_once('?').unwrap_or((target, ""));
            if path.starts_with("/up/conversations/") {
                // OpenAI shows a background response in its conversation without its tokens.
                return vec![Step::Send(json("200 OK", ITEMS))];
            }
            let Some(id) = path.strip_prefix("/up/responses/") else {
                made += 1;
                let id = format!("resp_{made}");
                let stage = *now;
                if !String::from_utf8_lossy(&request.body).contains(r#""stream":true"#) {
                    return vec![Step::Send(json("200 OK", &object(&id, stage)))];
                }
                let begins = [STREAM, &event("response.created", &id, Stage::InProgress)].concat();
                return vec![Step::Send(begins), Step::UntilClosed(oneshot::channel().0)];
            };
            let id = id.strip_suffix("/cancel").inspect(|_| *now = Stage::Cancelled).unwrap_or(id);
            if *now == Stage::Silent {
                return vec![Step::UntilClosed(oneshot::channel().0)];
            }
            if id == "resp_gone" || *now == Stage::Missing {
                return vec![Step::Send(json("404 Not Found", &object(id, Stage::Completed)))];
            }
            if query.starts_with("stream=true") {
                let rest = event("response.completed", id, Stage::Completed);
                return vec![Step::Send([STREAM, &rest, LAST_CHUNK].concat())];
            }
            vec![Step::Send(json("200 OK", &object(id, *now)))]
        });
        Self { upstream: upstream.await, stage }
    }

    fn set_stage(&self, stage: Stage) {
        *self.stage.lock().unwrap() = stage;
    }

    /// A configuration with a price, and these budgets for the key.
    fn config(&self, budgets: &[&str]) -> Config {
        let mut config = config(&self.upstream.base_url());
        config.prices = vec![ModelPrice { upstream: 0, model: "real".into(), from: 0, price: PRICE.into() }];
        config.keys[0].budgets = budgets.iter().map(|text| Budget::parse(text).unwrap()).collect();
        config
    }
}

/// Sends a call by the id of a response.
async fn by_id(client: &mut Client, method: &str, rest: &str) -> Answer {
    let head = format!("{method} /v1/responses/{rest} HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {KEY}\r\n");
    client.send(format!("{head}content-length: 0\r\n\r\n")).await;
    client.answer().await
}

async fn poll(client: &mut Client, id: &str) -> Answer {
    by_id(client, "GET", id).await
}

fn sqlite(gateway: &Gateway) -> DatabaseLocation {
    DatabaseLocation::Sqlite(gateway.folder.path().join(FILE))
}

/// State, tokens, cost, and whether the cost is an estimate, of the rows of requests that cost something.
async fn rows(place: &DatabaseLocation) -> Vec<(String, Option<u64>, u64, bool)> {
    let Ok(mut database) = Database::open_to_read(place).await else { return Vec::new() };
    let page = database.page(0, u64::MAX, None).await.unwrap_or_default();
    database.close().await;
    let made = page.iter().filter(|row| *row.cell("endpoint") == Cell::Text("responses.create".into()));
    made.map(|row| {
        let Cell::Text(state) = row.cell("state") else { panic!("{row:?}") };
        let tokens = match (row.cell("input_tokens"), row.cell("output_tokens")) {
            (Cell::Count(input), Cell::Count(output)) => Some(input + output),
            (Cell::None, Cell::None) => None,
            other => panic!("{other:?}"),
        };
        let (Cell::Amount(cost), Cell::Flag(estimated)) = (row.cell("cost"), row.cell("estimated")) else {
            panic!("{row:?}")
        };
        (state.clone(), tokens, *cost, *estimated)
    })
    .collect()
}

async fn state_becomes(place: &DatabaseLocation, states: &[&str]) {
    until(&format!("{states:?}"), async || {
        rows(place).await.iter().map(|row| row.0.as_str()).eq(states.iter().copied())
    })
    .await;
}

/// The number of calls by id that have their row.
async fn calls(place: &DatabaseLocation) -> u64 {
    let Ok(mut database) = Database::open_to_read(place).await else { return 0 };
    let totals: Vec<UsageTotal> = database.usage(GroupBy::Endpoint, 0, u64::MAX).await.unwrap_or_default();
    let free = totals.iter().filter(|total| total.name.as_deref() != Some("responses.create"));
    free.inspect(|total| assert_eq!((total.exact, total.cost), (total.requests, [0, 0]), "{total:?}"))
        .map(|total| total.requests)
        .sum()
}

fn exact() -> (String, Option<u64>, u64, bool) {
    ("exact".into(), Some(8), COST, false)
}

#[tokio::test]
async fn a_background_response_is_pending_until_a_call_by_its_id_shows_the_tokens_and_is_charged_once() {
    let provider = Provider::start().await;
    let gateway = Gateway::start(provider.config(&[]));
    let (place, mut client) = (sqlite(&gateway), gateway.connect().await);
    assert_eq!(client.create(BODY).await.status, 200);
    state_becomes(&place, &["pending"]).await;
    let pending = rows(&place).await;
    // The estimate for a model that was never used is 2,000 tokens.
    assert!(pending[0].1.is_none() && pending[0].2 >= 2 * UNIT && pending[0].3, "{pending:?}");
    let table = tidegate_usage(&gateway);
    assert!(table.contains("  pending  ") && table.contains("  estimated  "), "{table}");

    provider.set_stage(Stage::InProgress);
    poll(&mut client, "resp_1").await;
    // Calls about another response, or with an error, change nothing.
    provider.set_stage(Stage::Completed);
    poll(&mut client, "resp_other").await;
    assert_eq!(poll(&mut client, "resp_gone").await.status, 404);
    until("three calls", async || calls(&place).await == 3).await;
    assert_eq!(rows(&place).await, pending);

    for _ in 0..3 {
        assert_eq!(poll(&mut client, "resp_1").await.status, 200);
    }
    state_becomes(&place, &["exact"]).await;
    until("six calls", async || calls(&place).await == 6).await;
    assert_eq!(rows(&place).await, [exact()]);
    gateway.metric_becomes("tidegate_ledger_rows_total{state=\"pending\"}", 1.0).await;
    // A response that is complete at once is charged at once.
    assert_eq!(client.create(BODY).await.status, 200);
    state_becomes(&place, &["exact", "exact"]).await;
    assert_eq!(rows(&place).await, [exact(), exact()]);
    assert!(!tidegate_usage(&gateway).contains("pending"));
}

/// The usage that a call by the id shows may hold a part without a price, as any answer may.
#[tokio::test]
async fn a_part_without_a_price_in_a_later_call_is_counted_and_logged() {
    let folder = TempDir::new().unwrap();
    let place = DatabaseLocation::Sqlite(folder.path().join("data").join(FILE));
    let provider = Provider::start().await;
    let mut process = serve(&folder, &provider.upstream.base_url(), "");
    let mut client = Client::connect(process.ready()).await;
    for _ in 0..2 {
        assert_eq!(client.create(BODY).await.status, 200);
    }
    state_becomes(&place, &["pending", "pending"]).await;
    provider.set_stage(Stage::Searched);
    for id in ["resp_1", "resp_2"] {
        assert_eq!(poll(&mut client, id).await.status, 200);
    }
    state_becomes(&place, &["unpriced_part", "unpriced_part"]).await;
    assert_eq!(rows(&place).await[0], ("unpriced_part".into(), Some(8), COST, true));
    let mut admin = Client::connect(process.admin()).await;
    until("the counter", async || {
        let metrics = admin.get("/metrics").await.text();
        metrics.contains("tidegate_unpriced_parts_total{upstream=\"up\",part=\"web_searches\"} 2")
    })
    .await;
    process.signal("INT");
    process.exit();
    let log = process.everything();
    let told: Vec<&str> = log.lines().filter(|line| line.contains("have a part without a price")).collect();
    assert!(
        matches!(&told[..], [line] if line.contains("\"model\":\"smart\"") && line.contains("per_web_search")),
        "one log line for the model: {told:?}"
    );
}

/// The output of `tidegate usage`.
fn tidegate_usage(gateway: &Gateway) -> String {
    let folder = TempDir::new().unwrap();
    let data = gateway.folder.path().display();
    let settings = format!(
        "[server]\ndata_dir = \"{data}\"\n[[upstreams]]\nname = \"up\"\nbase_url = \"http://127.0.0.1:1/v1\"\n\
         credentials = [{{ env = \"UP_KEY\" }}]\n"
    );
    std::fs::write(folder.path().join("tidegate.toml"), settings).unwrap();
    output_text(&tidegate(folder.path()).args(["--config", "tidegate.toml", "usage"]).output().unwrap())
}

#[tokio::test]
async fn a_background_stream_that_is_left_and_resumed_is_charged_to_the_request_that_began_it() {
    let provider = Provider::start().await;
    let gateway = Gateway::start(provider.config(&[]));
    let place = sqlite(&gateway);
    for (nth, body) in [STREAMED, &STREAMED.replace(r#""background":true,"#, "")].into_iter().enumerate() {
        let mut client = gateway.connect().await;
        client.post(body).await;
        client.head().await;
        assert!(client.chunk().await.is_some());
        drop(client);
        until("a row", async || rows(&place).await.len() == nth + 1).await;
    }
    // A stream that is not made in the background ends with its client.
    state_becomes(&place, &["pending", "partial"]).await;
    let mut client = gateway.connect().await;
    for id in ["resp_1", "resp_2"] {
        let resumed = by_id(&mut client, "GET", &format!("{id}?stream=true&starting_after=0")).await;
        assert!(resumed.whole && resumed.text().contains("response.completed"), "{resumed:?}");
    }
    state_becomes(&place, &["exact", "partial"]).await;
    assert_eq!(rows(&place).await[0], exact());
}

#[tokio::test]
async fn a_cancelled_background_response_without_usage_keeps_its_reservation_as_cost() {
    let provider = Provider::start().await;
    let gateway = Gateway::start(provider.config(&[]));
    let (place, mut client) = (sqlite(&gateway), gateway.connect().await);
    assert_eq!(client.create(BODY).await.status, 200);
    state_becomes(&place, &["pending"]).await;
    let pending = rows(&place).await;
    assert_eq!(by_id(&mut client, "POST", "resp_1/cancel").await.status, 200);
    state_becomes(&place, &["partial"]).await;
    assert_eq!(rows(&place).await[0].2, pending[0].2);
    // If the provider shows the usage later, the usage counts.
    provider.set_stage(Stage::Completed);
    poll(&mut client, "resp_1").await;
    state_becomes(&place, &["exact"]).await;
    assert_eq!(rows(&place).await, [exact()]);
}

#[tokio::test]
async fn a_budget_gets_the_difference_back_after_the_real_usage_is_known() {
    let provider = Provider::start().await;
    let config = provider.config(&["2.5CNY/day"]);
    assert_budget_gets_the_difference_back(&provider, config).await;
}

#[tokio::test]
async fn a_shared_budget_gets_the_difference_back_after_the_real_usage_is_in_the_ledger() {
    let (provider, redis) = (Provider::start().await, RedisServer::start());
    let mut config = provider.config(&["2.5CNY/day"]);
    let place = RedisSettings::plain("127.0.0.1", redis.port);
    config.sharing = Some(SharedLimits { redis: place, replicas: 2, fail: WhenRedisIsAway::Closed, patience: LONG });
    assert_budget_gets_the_difference_back(&provider, config).await;
}

async fn assert_budget_gets_the_difference_back(provider: &Provider, config: Config) {
    let gateway = Gateway::start(config);
    let (place, mut client) = (sqlite(&gateway), gateway.connect().await);
    assert_eq!(client.create(BODY).await.status, 200);
    // 2,000 tokens cost 2 CNY. The second request fits because the budget has something left.
    assert_eq!(client.create(BODY).await.status, 200);
    client.create(BODY).await.assert_final(429, "insufficient_quota", true);
    provider.set_stage(Stage::Completed);
    for id in ["resp_1", "resp_2"] {
        assert_eq!(poll(&mut client, id).await.status, 200);
    }
    state_becomes(&place, &["exact", "exact"]).await;
    until("a budget", async || client.create(BODY).await.status == 200).await;
    let mut served = 3;
    while served < 10 && client.create(BODY).await.status == 200 {
        served += 1;
    }
    assert_eq!(served, 10, "each costs 0.008 CNY now");
}

fn on(config: Config, postgres: &Postgres, user: &str) -> Gateway {
    let url = postgres.url().replace("tidegate@", &format!("{user}@")).into();
    Gateway::start(Config { store: Store::Postgres { url, password: None }, ..config })
}

#[tokio::test]
async fn another_replica_settles_the_row_also_when_its_call_comes_before_the_row() {
    let (provider, postgres) = (Provider::start().await, Postgres::start().await);
    let place = postgres.place();
    for user in ["one", "other"] {
        let role = format!("CREATE ROLE {user} LOGIN SUPERUSER");
        postgres.execute(role.leak()).await;
    }
    let budgets = ["1000000CNY/total"];
    let (mut one, mut other) =
        (on(provider.config(&budgets), &postgres, "one"), on(provider.config(&budgets), &postgres, "other"));
    let (mut client, mut elsewhere) = (one.connect().await, other.connect().await);
    assert_eq!(client.create(BODY).await.status, 200);
    state_becomes(&place, &["pending"]).await;
    provider.set_stage(Stage::Completed);
    poll(&mut elsewhere, "resp_1").await;
    state_becomes(&place, &["exact"]).await;

    // The replica that made the response cannot store its row before the call by the id is stored.
    postgres.execute("ALTER ROLE one NOLOGIN").await;
    postgres.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'one'").await;
    provider.set_stage(Stage::Queued);
    assert_eq!(client.create(BODY).await.status, 200);
    provider.set_stage(Stage::Completed);
    poll(&mut elsewhere, "resp_2").await;
    poll(&mut client, "resp_2").await;
    until("the call", async || calls(&place).await == 2).await;
    assert_eq!(rows(&place).await, [exact()]);
    postgres.execute("ALTER ROLE one LOGIN").await;
    state_becomes(&place, &["exact", "exact"]).await;
    assert_eq!(rows(&place).await, [exact(), exact()]);

    // Both replicas store at once, ten times: each row is settled, whichever comes first.
    for nth in 3..13 {
        provider.set_stage(Stage::Queued);
        assert_eq!(client.create(BODY).await.status, 200);
        provider.set_stage(Stage::Completed);
        poll(&mut elsewhere, &format!("resp_{nth}")).await;
    }
    state_becomes(&place, &["exact"; 12]).await;
    assert_eq!(rows(&place).await, vec![exact(); 12]);
    for gateway in [&mut one, &mut other] {
        gateway.stop();
        gateway.ended().await;
    }
    assert_eq!(calls(&place).await, 13);
}

/// Starts a gateway in a process of its own.
fn serve(folder: &TempDir, base_url: &str, store: &str) -> Process {
    let price = "[[prices]]\nupstream = \"up\"\nmodel = \"smart\"\ncurrency = \"CNY\"\ninput = 1000\noutput = 1000\n";
    let server = "data_dir = \"data\"\nworkers = 1";
    let settings = smallest(base_url, server, &format!("{store}{price}")) + "budgets = [\"1000000CNY/total\"]\n";
    std::fs::write(folder.path().join("tidegate.toml"), settings).unwrap();
    let mut command = tidegate(folder.path());
    command.args(["serve", "--config", "tidegate.toml"]).env("UP_KEY", UPSTREAM_KEY).env("A_KEY", KEY);
    Process::start(&mut command)
}

async fn assert_kills_lose_nothing(place: &DatabaseLocation, folder: &TempDir, store: &str) {
    let provider = Provider::start().await;
    let mut process = serve(folder, &provider.upstream.base_url(), store);
    let address = process.ready();
    assert_eq!(Client::connect(address).await.create(BODY).await.status, 200);
    state_becomes(place, &["pending"]).await;
    process.signal("KILL");
    process.exit();
    provider.set_stage(Stage::Completed);
    let mut process = serve(folder, &provider.upstream.base_url(), store);
    let address = process.ready();
    for _ in 0..2 {
        assert_eq!(poll(&mut Client::connect(address).await, "resp_1").await.status, 200);
    }
    state_becomes(place, &["exact"]).await;
    process.signal("KILL");
    process.exit();
    // The journal file that was read already is read again.
    let mut process = serve(folder, &provider.upstream.base_url(), store);
    process.ready();
    process.signal("INT");
    assert_eq!(soon("its end", tokio::task::spawn_blocking(move || process.exit())).await.unwrap(), Some(0));
    assert_eq!(rows(place).await, [exact()]);
    let copy = std::fs::read_to_string(folder.path().join("data/budgets.json")).unwrap();
    assert!(copy.contains(&format!("\"spent\":{COST},\"own\":{COST}}}")), "{copy}");
}

#[tokio::test]
async fn kills_between_the_response_and_the_call_lose_no_row() {
    let folder = TempDir::new().unwrap();
    assert_kills_lose_nothing(&DatabaseLocation::Sqlite(folder.path().join("data").join(FILE)), &folder, "").await;
    let (folder, postgres) = (TempDir::new().unwrap(), Postgres::start().await);
    assert_kills_lose_nothing(&postgres.place(), &folder, &format!("[store]\nurl = \"{}\"\n", postgres.url())).await;
}
