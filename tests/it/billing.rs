//! What requests cost, and budgets.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use tidegate::{
    config::{Config, Group, KeyLimits, ModelLimits, ModelPrice, Unpriced},
    domain::{
        clock::Clock,
        model_name::ModelPattern,
        money::{Budget, Currency, Exchange, UNIT, decimal},
        price::Price,
        spending::Spender,
    },
    store::sql::{Database, DatabaseLocation, FILE, GroupBy, UsageQuery, UsageTotal},
};
use tokio::sync::oneshot;

use crate::support::{
    client::{Answer, Client, request},
    database::until,
    gateway::{Gateway, config, model, upstream},
    soon,
    upstream::{RESPONSE, STREAM, Step, Upstream, chunk, json},
};

const BODY: &str = r#"{"model":"smart","input":"hi"}"#;

/// 1 CNY a request; 1, 0.5, 2 and 3 CNY for a million tokens of input, cached input, output and reasoning.
const PRICE: Price = Price {
    input: UNIT,
    cached: UNIT / 2,
    output: 2 * UNIT,
    reasoning: 3 * UNIT,
    per_call: UNIT,
    ..Price::free(Currency::Cny)
};

fn price(upstream: usize, price: Price) -> ModelPrice {
    ModelPrice { upstream, model: "real".into(), from: 0, price: price.into() }
}

fn budgets(texts: &[&str]) -> Vec<Budget> {
    texts.iter().map(|text| Budget::parse(text).unwrap()).collect()
}

/// One upstream whose model has a price, and a key with these budgets.
fn priced(base_url: &str, of_key: &[&str]) -> Config {
    let mut config = config(base_url);
    config.prices = vec![price(0, PRICE)];
    config.keys[0].budgets = budgets(of_key);
    config
}

async fn usage(gateway: &Gateway) -> Vec<UsageTotal> {
    let place = DatabaseLocation::Sqlite(gateway.folder.path().join(FILE));
    let Ok(mut database) = Database::open_to_read(&place).await else { return Vec::new() };
    database.usage(GroupBy::Key, 0, u64::MAX).await.unwrap_or_default()
}

async fn rows(gateway: &Gateway, count: u64) -> Vec<UsageTotal> {
    until("the rows", async || usage(gateway).await.iter().map(|total| total.requests).sum::<u64>() == count).await;
    usage(gateway).await
}

/// The cost of `RESPONSE`: 3 input tokens, one of them cached; 5 output tokens, two of them reasoning.
const COST: u64 = UNIT + (2 * UNIT + UNIT / 2 + 3 * 2 * UNIT + 2 * 3 * UNIT) / 1_000_000;

#[tokio::test]
async fn a_row_is_billed_with_its_price() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = Gateway::start(priced(&upstream.base_url(), &[]));
    assert_eq!(gateway.connect().await.create(BODY).await.status, 200);
    let rows = rows(&gateway, 1).await;
    assert_eq!((rows[0].cost, rows[0].unpriced, rows[0].estimated), ([COST, 0], 0, 0));
    // A request for a model without a price is counted in tokens.
    assert_eq!(gateway.connect().await.create(r#"{"model":"gpt-x"}"#).await.status, 200);
    let rows = self::rows(&gateway, 2).await;
    assert_eq!((rows[0].cost, rows[0].unpriced, rows[0].input), ([COST, 0], 1, 6));
}

/// Model names that lead to an upstream and have no price there.
const UNPRICED: [&str; 7] = ["gpt-x", "gpt-5.2 pro", "up/real2", "up/smart", "up/REALLY", "up/real-2026", "gpt-real"];

#[tokio::test]
async fn a_key_with_a_budget_may_not_use_a_model_without_a_price() {
    for of_group in [false, true] {
        let mut upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
        let mut config = priced(&upstream.base_url(), if of_group { &[] } else { &["100CNY/day"] });
        if of_group {
            let budgets = budgets(&["100CNY/day"]);
            config.groups =
                vec![Group { name: "team".into(), limits: KeyLimits::default(), budgets, warn_at: Default::default() }];
            config.keys[0].group = Some(0);
        }
        config.default_upstream = Some(0);
        let gateway = Gateway::start(config.clone());
        for name in UNPRICED {
            let answer = gateway.connect().await.create(format!(r#"{{"model":"{name}"}}"#)).await;
            answer.assert_final(400, "unpriced_model", true);
            assert_eq!(answer.param().as_deref(), Some("model"));
            let words = answer.message();
            assert!(words.contains(name) && words.contains("no price") && words.contains("[[prices]]"), "{words}");
        }
        // A request without a model has an unknown cost.
        gateway.connect().await.create(r#"{"input":"hi"}"#).await.assert_final(400, "unpriced_model", true);
        assert_eq!(upstream.untaken(), 0, "a request without a price reached the upstream");
        // A model with a price goes up, and an endpoint that costs nothing needs no price.
        assert_eq!(gateway.connect().await.create(BODY).await.status, 200);
        assert_eq!(gateway.connect().await.create(r#"{"model":"up/real"}"#).await.status, 200);
        let mut client = gateway.connect().await;
        let count = String::from_utf8(request("", br#"{"model":"gpt-x"}"#)).unwrap();
        client.send(count.replacen("/v1/responses", "/v1/responses/input_tokens", 1)).await;
        assert_eq!(client.answer().await.status, 200);
        // `/explain` tells the operator before a client gets the error.
        let explained = Client::connect(gateway.admin).await.get("/explain?key=tester&model=gpt-x").await;
        assert!(explained.text().contains("clients get 400 unpriced_model"), "{explained:?}");
        let explained = Client::connect(gateway.admin).await.get("/explain?key=tester&model=smart").await;
        assert!(!explained.text().contains("unpriced_model"), "{explained:?}");
        // The setting `unpriced = "allow"` admits such models.
        config.money.unpriced = Unpriced::Allow;
        let lenient = Gateway::start(config);
        assert_eq!(lenient.connect().await.create(r#"{"model":"gpt-x"}"#).await.status, 200);
    }
}

/// A name that only looks like a priced one, for example with letters of another script, matches a wildcard, and has no
/// price there.
#[tokio::test]
async fn a_name_that_only_looks_like_a_priced_one_has_no_price() {
    let mut upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let mut config = priced(&upstream.base_url(), &["100CNY/day"]);
    config.models = vec![model("real", &[(0, None)]), model("*", &[(0, None)])];
    let gateway = Gateway::start(config);
    assert_eq!(gateway.connect().await.create(r#"{"model":"real"}"#).await.status, 200);
    upstream.request().await;
    for name in ["r\u{435}al", "re\u{430}l", "re\u{3b1}l", "\u{433}eal", "rea\u{4cf}", "\u{ff52}eal", "rea\u{2170}"] {
        for body in [format!(r#"{{"model":"{name}"}}"#), format!(r#"{{"model":"up/{name}"}}"#)] {
            gateway.connect().await.create(&body).await.assert_final(400, "unpriced_model", true);
        }
    }
    // The upstream got nothing so far: its next request is one for a model with a price.
    let body = r#"{"model":"real","input":"next"}"#;
    assert_eq!(gateway.connect().await.create(body).await.status, 200);
    assert_eq!(upstream.request().await.body, body.as_bytes());
}

#[tokio::test]
async fn each_upstream_that_may_get_the_request_needs_a_price() {
    let (first, second) =
        (Upstream::fixed(json("200 OK", RESPONSE)).await, Upstream::fixed(json("200 OK", RESPONSE)).await);
    let mut config = priced(&first.base_url(), &["100CNY/day"]);
    config.upstreams.push(upstream("other", &second.base_url()));
    config.models = vec![model("smart", &[(0, Some("real")), (1, Some("real"))])];
    let gateway = Gateway::start(config.clone());
    gateway.connect().await.create(BODY).await.assert_final(400, "unpriced_model", true);
    // An upstream that the key may not use does not count, and 0 is a price.
    let mut only_first = config.clone();
    only_first.keys[0].upstreams = Some(vec![0]);
    let mut free = config;
    free.prices.push(price(1, Price { input: 0, cached: 0, output: 0, reasoning: 0, per_call: 0, ..PRICE }));
    for config in [only_first, free] {
        let gateway = Gateway::start(config);
        assert_eq!(gateway.connect().await.create(BODY).await.status, 200);
    }
}

#[tokio::test]
async fn a_request_is_billed_with_the_price_of_the_upstream_that_answered() {
    let dead = Upstream::fixed(json("503 Service Unavailable", "{}")).await;
    let alive = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let mut config = priced(&dead.base_url(), &[]);
    config.upstreams.push(upstream("other", &alive.base_url()));
    config.models = vec![model("smart", &[(0, Some("real")), (1, Some("real"))])];
    let dollars = Price { per_call: 7, ..Price::free(Currency::Usd) };
    config.prices.push(price(1, dollars));
    let gateway = Gateway::start(config);
    assert_eq!(gateway.connect().await.create(BODY).await.status, 200);
    assert_eq!(rows(&gateway, 1).await[0].cost, [0, 7]);
}

#[tokio::test]
async fn an_error_costs_nothing_and_a_client_that_leaves_is_charged() {
    let mut steps = vec![
        vec![Step::Send(json("400 Bad Request", r#"{"error":{"message":"no"}}"#))],
        vec![Step::Send([STREAM, &chunk(b"data: {}\n\n")].concat()), Step::UntilClosed(oneshot::channel().0)],
    ]
    .into_iter();
    let upstream = Upstream::scripted(move |_| steps.next().unwrap()).await;
    let gateway = Gateway::start(priced(&upstream.base_url(), &["100CNY/day"]));
    assert_eq!(gateway.connect().await.create(BODY).await.status, 400);
    assert_eq!(rows(&gateway, 1).await[0].cost, [0, 0]);
    let mut client = gateway.connect().await;
    client.post(BODY).await;
    client.head().await;
    drop(client);
    let rows = rows(&gateway, 2).await;
    // The estimate for a model that was never used is 2,000 tokens.
    assert!(rows[0].cost[0] >= UNIT + 2000 * 2 * UNIT / 1_000_000, "{rows:?}");
    assert_eq!((rows[0].estimated, rows[0].exact, rows[0].partial), (1, 1, 1));
}

#[tokio::test]
async fn an_implausible_token_count_is_replaced_by_an_estimate_and_later_rows_are_exact() {
    let absurd = RESPONSE.replace("\"output_tokens\":5", "\"output_tokens\":1000000000000000000");
    let mut answers = vec![absurd.clone(), absurd.clone(), absurd].into_iter();
    let upstream = Upstream::scripted(move |_| {
        vec![Step::Send(json("200 OK", &answers.next().unwrap_or_else(|| RESPONSE.to_owned())))]
    })
    .await;
    let gateway = Gateway::start(priced(&upstream.base_url(), &["10CNY/day"]));
    let mut client = gateway.connect().await;
    for number in 1..=3 {
        assert_eq!(client.create(BODY).await.status, 200);
        let rows = rows(&gateway, number).await;
        assert_eq!((rows[0].partial, rows[0].estimated, rows[0].output), (number, number, 0));
        // Charged are the input and the reasoning as the provider told them, and no text.
        let expected = UNIT + (2 * UNIT + UNIT / 2 + 6 * UNIT) / 1_000_000;
        assert_eq!(rows[0].cost[0], number * expected, "{rows:?}");
    }
    assert_eq!(client.create(BODY).await.status, 200);
    assert_eq!(rows(&gateway, 4).await[0].exact, 1);
}

#[tokio::test]
async fn the_bytes_of_an_answer_without_usage_are_charged_at_most_as_reserved() {
    // The answer is an image without usage.
    let image = format!(r#"{{"status":"completed","output":"{}"}}"#, "A".repeat(5_000_000));
    let upstream = Upstream::fixed(json("200 OK", &image)).await;
    let gateway = Gateway::start(priced(&upstream.base_url(), &[]));
    assert_eq!(gateway.connect().await.create(BODY).await.status, 200);
    let rows = rows(&gateway, 1).await;
    assert_eq!((rows[0].partial, rows[0].estimated), (1, 1));
    let (least, most) = (UNIT + 2000 * 2 * UNIT / 1_000_000, UNIT + 2100 * 2 * UNIT / 1_000_000);
    assert!((least..most).contains(&rows[0].cost[0]), "{rows:?}");
}

#[tokio::test]
async fn a_spent_budget_is_refused_with_amount_and_renewal() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = Gateway::start(priced(&upstream.base_url(), &["2.5CNY/day", "100CNY/total"]));
    let mut client = gateway.connect().await;
    for _ in 0..2 {
        assert_eq!(client.create(BODY).await.status, 200);
    }
    let mut served = 2;
    // The third request is admitted, because something is left and no request is in progress. Nothing is left after it.
    let refused = loop {
        let answer = client.create(BODY).await;
        if answer.status != 200 {
            break answer;
        }
        served += 1;
    };
    assert_eq!(served, 3);
    refused.assert_final(429, "insufficient_quota", true);
    assert_eq!((refused.header("retry-after"), refused.header("x-should-retry")), (None, Some("false")));
    let message = refused.message();
    let spent = format!(
        "{} CNY of the budget of 2.5 CNY/day of the key `tester` are spent. The budget renews on 20",
        decimal(3 * COST)
    );
    assert!(message.starts_with(&spent) && message.ends_with(" at 00:00 (UTC)."), "{message}");
    assert_eq!(gateway.metric(r#"tidegate_limited_total{limit="budgets",of="key"}"#).await, 1.0);
    let rows = rows(&gateway, 3).await;
    assert_eq!(rows[0].cost, [3 * COST, 0]);
}

#[tokio::test]
async fn the_error_of_a_spent_budget_follows_the_configuration() {
    // The budget renews in the configured time zone, Shanghai, as the message says.
    for (budget, renews) in [
        ("0.000001CNY/day", " at 00:00 (Asia/Shanghai). Contact: ops@example.com"),
        ("0.000001CNY/week", " at 00:00 (Asia/Shanghai). Contact: ops@example.com"),
        ("0.000001CNY/month", "-15 at 00:00 (Asia/Shanghai). Contact: ops@example.com"),
        ("0.000001CNY/total", " are spent. The budget does not renew. Contact: ops@example.com"),
    ] {
        for status in [402, 429] {
            let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
            let mut config = priced(&upstream.base_url(), &[budget]);
            config.keys[0].budgets[0] = config.keys[0].budgets[0].starting_on(15);
            config.money.time_zone = jiff::tz::TimeZone::get("Asia/Shanghai").unwrap();
            config.money.budget_status = http::StatusCode::from_u16(status).unwrap();
            config.server.contact = Some("ops@example.com".into());
            let gateway = Gateway::start(config);
            let mut client = gateway.connect().await;
            assert_eq!(client.create(BODY).await.status, 200);
            let refused = client.create(BODY).await;
            refused.assert_final(status, "insufficient_quota", true);
            assert_eq!((refused.header("retry-after"), refused.header("x-should-retry")), (None, Some("false")));
            let message = refused.message();
            assert!(message.starts_with(&decimal(COST)) && message.ends_with(renews), "{budget}: {message}");
        }
    }
}

#[tokio::test]
async fn a_budget_for_a_model_counts_that_model_alone_and_survives_a_restart() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let mut settings = priced(&upstream.base_url(), &["100CNY/total"]);
    settings.models.push(model("plain", &[(0, Some("real"))]));
    let (limits, budgets) = (KeyLimits { requests: Some(5), ..KeyLimits::default() }, budgets(&["2CNY/week"]));
    settings.keys[0].limits_by_model = vec![ModelLimits { model: ModelPattern("sm*".into()), limits, budgets }];
    let data = tempfile::tempdir().unwrap();
    settings.server.data_dir = data.path().to_owned();
    let mut gateway = Gateway::run(settings.clone(), None, data);
    let plain = BODY.replace("smart", "plain");
    let mut client = gateway.connect().await;
    for _ in 0..2 {
        assert_eq!(client.create(BODY).await.status, 200);
    }
    let refused = client.create(BODY).await;
    refused.assert_final(429, "insufficient_quota", true);
    assert!(
        refused.message().contains(" of the budget of 2 CNY/week of the key `tester` for the model `sm*` are spent.")
    );
    let left = |answer: &Answer| answer.header("x-ratelimit-limit-requests").map(str::to_owned);
    assert_eq!(left(&refused).as_deref(), Some("5"));
    let other = client.create(&plain).await;
    assert_eq!((other.status, left(&other)), (200, None));
    gateway.stop();
    gateway.ended().await;
    let folder = std::mem::replace(&mut gateway.folder, tempfile::tempdir().unwrap());
    let again = Gateway::run(settings, None, folder);
    let mut client = again.connect().await;
    client.create(BODY).await.assert_final(429, "insufficient_quota", true);
    assert_eq!(client.create(&plain).await.status, 200);
}

/// Seconds by which the clock of the next test is ahead.
static AHEAD: AtomicU64 = AtomicU64::new(0);

#[expect(clippy::disallowed_methods, reason = "a clock that this test moves")]
fn moved() -> SystemTime {
    SystemTime::now() + Duration::from_secs(AHEAD.load(Ordering::Relaxed))
}

/// Waits until the gateway drops the counters of windows that are long over. Its snapshot of the counters shows that.
async fn old_counters_dropped(gateway: &Gateway) {
    let copy = gateway.folder.path().join("budgets.json");
    let now = u64::try_from(Clock::from_fn(moved).since_epoch().as_millis()).unwrap();
    until("the counters in the snapshot", async || {
        let text = std::fs::read(&copy).unwrap_or_default();
        let counters: Vec<serde_json::Value> = serde_json::from_slice(&text).unwrap_or_default();
        !counters.is_empty() && counters.iter().all(|counter| counter["to"].as_u64().unwrap() + 86_400_000 > now)
    })
    .await;
}

#[tokio::test]
async fn a_clock_that_moves_ahead_and_back_allows_no_budget_twice() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = Gateway::start_at(Clock::from_fn(moved), priced(&upstream.base_url(), &["2CNY/day"]));
    let mut client = gateway.connect().await;
    for day in [0, 29, 400] {
        AHEAD.store(day * 86_400, Ordering::Relaxed);
        for _ in 0..2 {
            assert_eq!(client.create(BODY).await.status, 200, "day {day}");
        }
        client.create(BODY).await.assert_final(429, "insufficient_quota", true);
        old_counters_dropped(&gateway).await;
    }
    for day in [0, 29, 400, 0] {
        AHEAD.store(day * 86_400, Ordering::Relaxed);
        client.create(BODY).await.assert_final(429, "insufficient_quota", true);
        old_counters_dropped(&gateway).await;
    }
}

#[tokio::test]
async fn each_threshold_of_a_budget_is_counted_once() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let mut config = priced(&upstream.base_url(), &["4CNY/day"]);
    config.keys[0].warn_at = [UNIT / 10 * 5, UNIT / 10 * 8, UNIT].into();
    let gateway = Gateway::start(config);
    let mut client = gateway.connect().await;
    for warnings in [0, 1, 1, 3] {
        assert_eq!(client.create(BODY).await.status, 200);
        gateway.metric_becomes("tidegate_ledger_waiting", 0.0).await;
        gateway.metric_becomes("tidegate_budget_warnings_total", f64::from(warnings)).await;
    }
}

#[tokio::test]
async fn keys_of_a_group_share_a_budget_in_another_currency() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let mut config = priced(&upstream.base_url(), &[]);
    config.money.cny_per_usd = Some(7 * UNIT);
    config.groups = vec![Group {
        name: "team".into(),
        limits: KeyLimits::default(),
        budgets: budgets(&["0.5USD/month"]),
        warn_at: Default::default(),
    }];
    config.keys[0].group = Some(0);
    let gateway = Gateway::start(config);
    let mut client = gateway.connect().await;
    let mut served = 0;
    while client.create(BODY).await.status == 200 {
        served += 1;
    }
    // 3.5 CNY: three requests fit, and the fourth still finds something left.
    assert_eq!(served, 4);
    let message = client.create(BODY).await.message();
    assert!(message.contains(" USD of the budget of 0.5 USD/month of the group `team` are spent. "), "{message}");
}

#[tokio::test]
async fn the_spend_survives_a_restart() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let mut settings = priced(&upstream.base_url(), &["2CNY/total"]);
    let data = tempfile::tempdir().unwrap();
    settings.server.data_dir = data.path().to_owned();
    let mut gateway = Gateway::run(settings.clone(), None, data);
    let mut client = gateway.connect().await;
    for _ in 0..2 {
        assert_eq!(client.create(BODY).await.status, 200);
    }
    gateway.stop();
    gateway.ended().await;
    let folder = std::mem::replace(&mut gateway.folder, tempfile::tempdir().unwrap());
    let mut again = Gateway::run(settings.clone(), None, folder);
    assert_eq!(again.connect().await.create(BODY).await.status, 429);
    again.stop();
    again.ended().await;
    // Without the database, the snapshot of the counters on disk counts.
    let folder = std::mem::replace(&mut again.folder, tempfile::tempdir().unwrap());
    std::fs::remove_file(folder.path().join(FILE)).unwrap();
    std::fs::create_dir(folder.path().join(FILE)).unwrap();
    let without = Gateway::run(settings, None, folder);
    assert_eq!(without.connect().await.create(BODY).await.status, 429);
}

#[tokio::test]
async fn a_changed_exchange_rate_does_not_change_past_spend() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let mut settings = priced(&upstream.base_url(), &["100CNY/total"]);
    let dollars = Price { per_call: UNIT, ..Price::free(Currency::Usd) };
    settings.prices = vec![price(0, dollars)];
    let spent = async |gateway: &Gateway, expected: &str| {
        let mut shown = String::new();
        until("the spend", async || {
            shown = Client::connect(gateway.admin).await.get("/explain?key=tester&model=smart").await.text();
            shown.contains(expected)
        })
        .await;
    };
    let mut data = tempfile::tempdir().unwrap();
    // The spend in CNY after each request: 7; 7 + 8.1; 7 + 8.1 + 9.
    for (rate, number, expected) in [(70, 1, ", 7 spent"), (81, 2, ", 15.1 spent"), (90, 3, ", 24.1 spent")] {
        settings.server.data_dir = data.path().to_owned();
        settings.money.cny_per_usd = Some(rate * UNIT / 10);
        let mut gateway = Gateway::run(settings.clone(), None, data);
        assert_eq!(gateway.connect().await.create(BODY).await.status, 200);
        spent(&gateway, expected).await;
        rows(&gateway, number).await;
        gateway.stop();
        gateway.ended().await;
        data = std::mem::replace(&mut gateway.folder, tempfile::tempdir().unwrap());
    }
    // The ledger and the counters agree, whatever today's rate is.
    let mut database = Database::open_to_read(&DatabaseLocation::Sqlite(data.path().join(FILE))).await.unwrap();
    for rate in [None, Some(50 * UNIT)] {
        let exchange = Exchange { cny_per_usd: rate };
        let total = &database.usage_of(&UsageQuery { exchange, ..UsageQuery::default() }).await.unwrap()[0];
        assert_eq!((total.cost, total.in_all), ([0, 3 * UNIT], [24_100_000_000, 3 * UNIT]));
        let sums =
            database.spent_by_origin(Spender::Key, "tester", None, (0, u64::MAX), (Currency::Cny, exchange)).await;
        assert_eq!(sums.unwrap().into_values().collect::<Vec<_>>(), [24_100_000_000]);
    }
}

#[tokio::test]
async fn concurrent_requests_do_not_overspend_a_budget() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let mut config = priced(&upstream.base_url(), &["10CNY/total"]);
    // The cost of a request is known before: the price of a call.
    config.prices = vec![price(0, Price { input: 0, cached: 0, output: 0, reasoning: 0, ..PRICE })];
    config.server.workers = 2;
    let gateway = Gateway::start(config);
    let address = gateway.address;
    let asking = (0..200).map(|_| {
        tokio::spawn(async move {
            let mut client = Client::connect(address).await;
            client.create(BODY).await.status
        })
    });
    let asking: Vec<_> = asking.collect();
    let mut served = 0;
    for one in asking {
        served += u64::from(soon("an answer", one).await.unwrap() == 200);
    }
    assert_eq!(served, 10);
    assert_eq!(rows(&gateway, 10).await[0].cost, [10 * UNIT, 0]);
    let mut database =
        Database::open_to_read(&DatabaseLocation::Sqlite(gateway.folder.path().join(FILE))).await.unwrap();
    let spent = database.spent(Spender::Key, "tester", 0, u64::MAX).await.unwrap();
    assert_eq!(spent, [10 * UNIT, 0]);
}
