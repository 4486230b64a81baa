//! `on_client_gone = "drain"`: after a client left, Tidegate reads the answer on, within bounds, so that the ledger row
//! is exact.

use std::{sync::Arc, time::Duration};

use tidegate::{
    config::{Config, Group, KeyLimits, ModelLimits, ModelPrice, OnClientGone},
    domain::{
        model_name::ModelPattern,
        money::{Budget, Currency, UNIT},
        price::Price,
    },
    store::sql::{Cell, Database, DatabaseLocation, FILE, SqlRow},
};
use tokio::{
    sync::oneshot::{self, Receiver, Sender},
    time::Instant,
};

use crate::support::{
    database::until,
    gateway::{Gateway, KEY, UPSTREAM_KEY, config, credential, model, upstream},
    soon,
    upstream::{LAST_CHUNK, RESPONSE, STREAM, Step, Upstream, chunk, json},
};

const BODY: &str = r#"{"model":"smart","input":"hi","stream":true}"#;
const EVENT: &[u8] = b"data: {\"type\":\"response.output_text.delta\",\"delta\":\"x\"}\n\n";
const GONE: &str = "tidegate_requests_total{upstream=\"up\",end=\"client_gone\"}";

/// The last event of a stream, with the usage of [`RESPONSE`].
fn completed() -> Vec<u8> {
    format!("data: {{\"type\":\"response.completed\",\"response\":{RESPONSE}}}\n\n").into_bytes()
}

/// A millionth of a CNY for each output token, and nothing else.
const PRICE: Price = Price { output: UNIT, reasoning: UNIT, ..Price::free(Currency::Cny) };

fn draining(base_url: &str) -> Config {
    let mut config = config(base_url);
    config.keys[0].on_client_gone = OnClientGone::Drain;
    config.prices = vec![ModelPrice { upstream: 0, model: "real".into(), from: 0, price: PRICE.into() }];
    config
}

/// An upstream that answers once with these steps, a sender that lets it go on, and a receiver for the end of its call.
async fn upstream_that(
    steps: impl FnOnce(Receiver<()>, Sender<()>) -> Vec<Step>,
) -> (Upstream, Sender<()>, Receiver<()>) {
    let ((go, wait), (told, closed)) = (oneshot::channel(), oneshot::channel());
    let mut steps = Some(steps(wait, told));
    let upstream = Upstream::scripted(move |_| steps.take().unwrap_or_default()).await;
    (upstream, go, closed)
}

async fn rows(gateway: &Gateway, count: usize) -> Vec<SqlRow> {
    let place = DatabaseLocation::Sqlite(gateway.folder.path().join(FILE));
    let read = async || {
        let Ok(mut database) = Database::open_to_read(&place).await else { return Vec::new() };
        database.page(0, u64::MAX, None).await.unwrap_or_default()
    };
    until("the rows", async || read().await.len() == count).await;
    read().await
}

fn text(text: &str) -> Cell {
    Cell::Text(text.into())
}

/// The one row holds the exact usage of the whole answer.
async fn assert_exact(gateway: &Gateway, end: &str, status: Cell) {
    let rows = rows(gateway, 1).await;
    let cell = |name| rows[0].cell(name).clone();
    assert_eq!([cell("state"), cell("end"), cell("status")], [text("exact"), text(end), status], "{rows:?}");
    assert_eq!([cell("input_tokens"), cell("output_tokens")], [Cell::Count(3), Cell::Count(5)]);
    assert_eq!([cell("cost"), cell("estimated")], [Cell::Amount(5 * UNIT / 1_000_000), Cell::Flag(false)]);
    assert_eq!(cell("response_id"), text("resp_1"));
    gateway.metric_becomes("tidegate_requests_in_flight", 0.0).await;
}

async fn assert_estimated(gateway: &Gateway, state: &str) {
    let rows = rows(gateway, 1).await;
    let cell = |name| rows[0].cell(name).clone();
    assert_eq!([cell("state"), cell("end")], [text(state), text("client_gone")], "{rows:?}");
    assert_eq!([cell("estimated"), cell("output_tokens")], [Cell::Flag(true), Cell::None]);
    gateway.metric_becomes("tidegate_requests_in_flight", 0.0).await;
}

/// Sends a request, reads the head of its answer, and leaves.
async fn leave_inside(gateway: &Gateway) {
    let mut client = gateway.connect().await;
    client.post(BODY).await;
    client.head().await;
}

/// Sends a request and leaves once the request is at the upstream.
async fn leave_before(gateway: &Gateway, upstream: &mut Upstream) {
    let mut client = gateway.connect().await;
    client.post(BODY).await;
    upstream.request().await;
}

/// Waits until the gateway has seen that its client left: no connection is left.
async fn client_is_gone(gateway: &Gateway) {
    gateway.metric_becomes("tidegate_connections ", 0.0).await;
}

#[tokio::test]
async fn a_stream_is_drained_to_its_last_event() {
    let (upstream, go, closed) = upstream_that(|wait, told| {
        let (first, last) = ([STREAM, &chunk(EVENT)].concat(), chunk(&completed()));
        vec![Step::Send(first), Step::Wait(wait), Step::Send(last), Step::UntilClosed(told)]
    })
    .await;
    let gateway = Gateway::start(draining(&upstream.base_url()));
    leave_inside(&gateway).await;
    client_is_gone(&gateway).await;
    assert_eq!(gateway.metric("tidegate_requests_in_flight").await, 1.0);
    go.send(()).unwrap();
    soon("the end of the call, which the upstream leaves open", closed).await.unwrap();
    assert_exact(&gateway, "client_gone", Cell::Count(200)).await;
}

#[tokio::test]
async fn a_json_answer_is_drained_to_its_end() {
    let (upstream, go, _) = upstream_that(|wait, _| {
        let whole = json("200 OK", RESPONSE);
        let (one, two) = whole.split_at(whole.len() - 40);
        vec![Step::Send(one.to_vec()), Step::Wait(wait), Step::Send(two.to_vec())]
    })
    .await;
    let gateway = Gateway::start(draining(&upstream.base_url()));
    leave_inside(&gateway).await;
    client_is_gone(&gateway).await;
    go.send(()).unwrap();
    assert_exact(&gateway, "client_gone", Cell::Count(200)).await;
}

#[tokio::test]
async fn an_answer_that_has_not_begun_is_waited_for_and_drained() {
    for stream in [false, true] {
        let (mut upstream, go, _) = upstream_that(|wait, _| {
            let streamed = [STREAM, &chunk(EVENT), &chunk(&completed()), LAST_CHUNK].concat();
            vec![Step::Wait(wait), Step::Send(if stream { streamed } else { json("200 OK", RESPONSE) })]
        })
        .await;
        let gateway = Gateway::start(draining(&upstream.base_url()));
        leave_before(&gateway, &mut upstream).await;
        client_is_gone(&gateway).await;
        go.send(()).unwrap();
        assert_exact(&gateway, "client_gone", Cell::None).await;
    }
}

/// A kind of request: its path, its body, and whether the answer is a stream. The answer has 3 input tokens and 5
/// output tokens.
const KINDS: [(&str, &str, bool); 4] = [
    ("/v1/responses", r#"{"model":"smart","input":"hi"}"#, false),
    ("/v1/chat/completions", r#"{"model":"smart","messages":[],"stream":false}"#, false),
    ("/v1/responses", r#"{"model":"smart","stream":true}"#, true),
    ("/v1/chat/completions", r#"{"stream":true,"model":"smart"}"#, true),
];

/// For a key without a setting of `on_client_gone`.
#[tokio::test]
async fn by_default_an_answer_that_is_no_stream_is_drained_where_a_budget_applies() {
    let chat = r#"{"id":"resp_1","object":"chat.completion","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":5,"total_tokens":8}}"#;
    for (path, body, stream) in KINDS {
        // The budget is the key's, the group's, or the model's; then one of another model, no budget, and an explicit
        // `cancel`.
        for (who, reads_on) in
            [("key", true), ("group", true), ("model", true), ("other", false), ("none", false), ("cancel", false)]
        {
            for inside in [false, true] {
                let whole = json("200 OK", if path.contains("chat") { chat } else { RESPONSE });
                let (one, two) = whole.split_at(whole.len() - 40);
                let head = if stream { [STREAM, &chunk(EVENT)].concat() } else { one.to_vec() };
                let rest = if inside { two.to_vec() } else { whole.clone() };
                let (mut upstream, go, closed) = upstream_that(|wait, told| {
                    let first = if inside { head } else { Vec::new() };
                    match reads_on && !stream {
                        true => vec![Step::Send(first), Step::Wait(wait), Step::Send(rest)],
                        false => vec![Step::Send(first), Step::UntilClosed(told)],
                    }
                })
                .await;
                let mut config = draining(&upstream.base_url());
                let key = &mut config.keys[0];
                key.on_client_gone = if who == "cancel" { OnClientGone::Cancel } else { OnClientGone::ByCost };
                let budgets = vec![Budget::parse("100CNY/week").unwrap()];
                let of_model = |model: &str| ModelLimits {
                    model: ModelPattern(model.into()),
                    limits: KeyLimits::default(),
                    budgets: budgets.clone(),
                };
                match who {
                    "key" | "cancel" => key.budgets = budgets,
                    "model" => key.limits_by_model = vec![of_model("sm*")],
                    "other" => key.limits_by_model = vec![of_model("gpt*")],
                    "group" => {
                        key.group = Some(0);
                        let (name, limits, warn_at) = ("team".into(), KeyLimits::default(), Arc::default());
                        config.groups = vec![Group { name, limits, budgets, warn_at }];
                    }
                    _ => {}
                }
                let gateway = Gateway::start(config);
                let mut client = gateway.connect().await;
                let head = format!(
                    "POST {path} HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {KEY}\r\ncontent-type: application/json\r\n"
                );
                client.send(format!("{head}content-length: {}\r\n\r\n{body}", body.len())).await;
                if inside {
                    client.head().await;
                } else {
                    upstream.request().await;
                }
                drop(client);
                let left = Instant::now();
                let what = format!("{path} {body} {who} {inside}");
                if reads_on && !stream {
                    client_is_gone(&gateway).await;
                    assert_eq!(gateway.metric("tidegate_requests_in_flight").await, 1.0, "{what}");
                    go.send(()).unwrap();
                    assert_exact(&gateway, "client_gone", if inside { Cell::Count(200) } else { Cell::None }).await;
                } else {
                    soon(&what, closed).await.unwrap();
                    assert!(left.elapsed() < Duration::from_secs(1), "{what}: {:?}", left.elapsed());
                    let rows = rows(&gateway, 1).await;
                    assert_eq!(rows[0].cell("end"), &text("client_gone"), "{what}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_stalled_client_is_cut_and_the_rest_of_its_answer_is_drained() {
    let upstream = Upstream::scripted(|_| {
        // Events without text: the usage of the last event says five tokens.
        let filler = chunk(&b"data: {\"type\":\"response.in_progress\",\"response\":{}}\n\n".repeat(1000));
        vec![Step::Send([STREAM, &filler.repeat(200), &chunk(&completed()), LAST_CHUNK].concat())]
    })
    .await;
    let mut config = draining(&upstream.base_url());
    config.timeouts.write_stall = Duration::from_millis(300);
    config.server.client_gone_drain = u64::MAX;
    let gateway = Gateway::start(config);
    let mut client = gateway.connect().await;
    client.post(BODY).await;
    assert_exact(&gateway, "client_stalled", Cell::Count(200)).await;
    drop(client);
}

#[tokio::test]
async fn an_error_after_the_client_left_costs_nothing() {
    let (mut upstream, go, _) =
        upstream_that(|wait, _| vec![Step::Wait(wait), Step::Send(json("400 Bad Request", "{}"))]).await;
    let gateway = Gateway::start(draining(&upstream.base_url()));
    leave_before(&gateway, &mut upstream).await;
    client_is_gone(&gateway).await;
    go.send(()).unwrap();
    let rows = rows(&gateway, 1).await;
    assert_eq!([rows[0].cell("state"), rows[0].cell("cost")], [&text("exact"), &Cell::Amount(0)], "{rows:?}");
}

#[tokio::test]
async fn a_drain_is_bounded_in_bytes() {
    let upstream = Upstream::scripted(|_| {
        let flood = Step::Flood(chunk(&[EVENT; 100].concat()), Box::new(|| {}));
        vec![Step::Send(STREAM.to_vec()), flood]
    })
    .await;
    let mut config = draining(&upstream.base_url());
    config.server.client_gone_drain = 1024 * 1024;
    let gateway = Gateway::start(config);
    leave_inside(&gateway).await;
    assert_estimated(&gateway, "partial").await;
}

#[tokio::test]
async fn a_drain_is_bounded_in_time() {
    for before in [false, true] {
        let (mut upstream, _go, closed) = upstream_that(|_, told| {
            let first = if before { Vec::new() } else { [STREAM, &chunk(EVENT)].concat() };
            vec![Step::Send(first), Step::UntilClosed(told)]
        })
        .await;
        let mut config = draining(&upstream.base_url());
        config.timeouts.client_gone_drain = Duration::from_millis(200);
        let gateway = Gateway::start(config);
        if before {
            leave_before(&gateway, &mut upstream).await;
        } else {
            leave_inside(&gateway).await;
        }
        soon("the end of the call", closed).await.unwrap();
        assert_estimated(&gateway, if before { "unknown" } else { "partial" }).await;
    }
}

#[tokio::test]
async fn a_drain_keeps_its_concurrency_slots_until_its_end() {
    let (mut upstream, go, _) =
        upstream_that(|wait, _| vec![Step::Wait(wait), Step::Send(json("200 OK", RESPONSE))]).await;
    let mut config = draining(&upstream.base_url());
    config.keys[0].limits = KeyLimits { in_flight: Some(1), ..KeyLimits::default() };
    config.upstreams[0].max_in_flight = Some(1);
    let gateway = Gateway::start(config);
    leave_before(&gateway, &mut upstream).await;
    client_is_gone(&gateway).await;
    gateway.connect().await.create(BODY).await.assert_problem(429, "rate_limit_exceeded");
    go.send(()).unwrap();
    assert_exact(&gateway, "client_gone", Cell::None).await;
}

#[tokio::test]
async fn a_queued_request_is_cancelled_when_its_client_leaves() {
    let (mut upstream, go, _) =
        upstream_that(|wait, _| vec![Step::Wait(wait), Step::Send(json("200 OK", RESPONSE))]).await;
    let mut config = draining(&upstream.base_url());
    config.upstreams[0].max_in_flight = Some(1);
    config.timeouts.queue = Duration::from_secs(60);
    let gateway = Gateway::start(config);
    let mut first = gateway.connect().await;
    first.post(BODY).await;
    upstream.request().await;
    let mut second = gateway.connect().await;
    second.post(BODY).await;
    gateway.metric_becomes("tidegate_requests_in_flight", 2.0).await;
    drop(second);
    gateway.metric_becomes("tidegate_requests_in_flight", 1.0).await;
    go.send(()).unwrap();
    assert_eq!(first.answer().await.status, 200);
    assert_eq!((upstream.untaken(), rows(&gateway, 1).await.len()), (0, 1));
}

#[tokio::test]
async fn no_failover_happens_after_the_client_left() {
    let (mut broken, go, _) = upstream_that(|wait, _| vec![Step::Wait(wait), Step::Close]).await;
    let mut other = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let mut config = draining(&broken.base_url());
    config.upstreams[0].failover_on.disconnect = true;
    config.upstreams.push(upstream("other", &other.base_url()));
    config.models = vec![model("smart", &[(0, Some("real")), (1, Some("real"))])];
    config.upstreams[1].credentials = vec![credential("OTHER", UPSTREAM_KEY)];
    let gateway = Gateway::start(config);
    leave_before(&gateway, &mut broken).await;
    client_is_gone(&gateway).await;
    go.send(()).unwrap();
    gateway.metric_becomes(GONE, 1.0).await;
    assert_eq!(other.untaken(), 0);
    // Not a byte of an answer arrived.
    let rows = rows(&gateway, 1).await;
    let cell = |name| rows[0].cell(name).clone();
    assert_eq!([cell("state"), cell("end")], [text("exact"), text("client_gone")], "{rows:?}");
    assert_eq!(cell("cost"), Cell::Amount(0));
}

#[tokio::test]
async fn at_most_a_quarter_of_the_connections_drain_at_once() {
    let mut closings = Vec::new();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let mut upstream = Upstream::scripted(move |_| {
        let (closes, closed) = oneshot::channel();
        tell.send(closed).unwrap();
        vec![Step::UntilClosed(closes)]
    })
    .await;
    let mut config = draining(&upstream.base_url());
    config.server.max_connections = 8;
    let gateway = Gateway::start(config);
    for _ in 0..3 {
        leave_before(&gateway, &mut upstream).await;
        client_is_gone(&gateway).await;
        closings.push(told.recv().await.unwrap());
    }
    soon("the end of the third call", closings.pop().unwrap()).await.unwrap();
    gateway.metric_becomes("tidegate_requests_in_flight", 2.0).await;
    assert!(closings.iter_mut().all(|closed| closed.try_recv().is_err()));
}

#[tokio::test]
async fn a_graceful_shutdown_waits_for_a_drain_and_a_stop_settles_it() {
    for stop in [false, true] {
        let (upstream, go, _) = upstream_that(|wait, _| {
            let (first, last) = ([STREAM, &chunk(EVENT)].concat(), [chunk(&completed()), LAST_CHUNK.to_vec()].concat());
            vec![Step::Send(first), Step::Wait(wait), Step::Send(last)]
        })
        .await;
        let mut gateway = Gateway::start(draining(&upstream.base_url()));
        leave_inside(&gateway).await;
        client_is_gone(&gateway).await;
        gateway.drain();
        assert_eq!(gateway.metric("tidegate_requests_in_flight").await, 1.0);
        if stop {
            gateway.stop();
        } else {
            go.send(()).unwrap();
        }
        gateway.ended().await;
        let rows = rows(&gateway, 1).await;
        let state = if stop { "partial" } else { "exact" };
        assert_eq!([rows[0].cell("state"), rows[0].cell("end")], [&text(state), &text("client_gone")], "{rows:?}");
        assert!(!gateway.handle.cut_requests(), "no client was cut off");
    }
}
