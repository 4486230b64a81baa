//! Every deadline of a client connection, with real sockets.

use std::time::Duration;

use tidegate::config::Config;
use tokio::time::Instant;

use crate::support::{
    client::request,
    gateway::{Gateway, config},
    upstream::{LAST_CHUNK, RESPONSE, STREAM, Step, Upstream, chunk, json},
};

const BODY: &str = r#"{"model":"smart","input":"hi"}"#;

/// The value of the deadline under test. The other deadlines keep their defaults of many seconds, so that none of them
/// can fire first.
const SHORT: Duration = Duration::from_millis(300);

async fn with(change: impl FnOnce(&mut Config)) -> (Upstream, Gateway) {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let mut config = config(&upstream.base_url());
    change(&mut config);
    let gateway = Gateway::start(config);
    (upstream, gateway)
}

async fn assert_deadline_counted(gateway: &Gateway, deadline: &str) {
    gateway.metric_becomes(&format!("tidegate_connections_cut_total{{deadline=\"{deadline}\"}}"), 1.0).await;
}

#[tokio::test]
async fn a_connection_that_sends_nothing_is_closed() {
    let (_upstream, gateway) = with(|config| config.timeouts.first_byte = SHORT).await;
    let began = Instant::now();
    assert!(gateway.connect().await.closed().await, "the connection closes without an answer");
    assert!(began.elapsed() >= SHORT);
    assert_deadline_counted(&gateway, "first_byte").await;
}

#[tokio::test]
async fn an_incomplete_request_head_is_answered_and_closed() {
    for beginning in ["P", "POST /v1/responses HTTP/1.1\r\nhost: t\r\nx-a: ", "PRI * HT"] {
        let (_upstream, gateway) = with(|config| config.timeouts.head = SHORT).await;
        let mut client = gateway.connect().await;
        client.send(beginning).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.whole), (408, true), "{beginning:?}");
        assert_eq!(answer.json()["error"]["code"], "request_timeout");
        assert!(client.closed().await);
        assert_deadline_counted(&gateway, "head").await;
    }
}

#[tokio::test]
async fn a_request_head_that_arrives_byte_by_byte_is_cut_at_the_deadline() {
    let (_upstream, gateway) = with(|config| config.timeouts.head = SHORT).await;
    let mut client = gateway.connect().await;
    let drip = tokio::spawn(async move {
        client.send("GET /v1/models HTTP/1.1\r\nx-a: ").await;
        // Many single bytes, each well within the deadline: only their sum exceeds it.
        for _ in 0..1000 {
            tokio::select! {
                answer = client.head() => return answer.status,
                () = tokio::time::sleep(SHORT / 20) => {}
            }
            client.send("b").await;
        }
        0
    });
    assert_eq!(drip.await.unwrap(), 408);
    assert_deadline_counted(&gateway, "head").await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_a_second_head_has_its_own_deadline() {
    let (_upstream, gateway) = with(|config| config.timeouts.keep_alive_idle = SHORT).await;
    let mut client = gateway.connect().await;
    assert_eq!(client.create(BODY).await.status, 200);
    assert!(client.closed().await);
    assert_deadline_counted(&gateway, "keep_alive_idle").await;

    let (_upstream, gateway) = with(|config| config.timeouts.head = SHORT).await;
    let mut client = gateway.connect().await;
    assert_eq!(client.create(BODY).await.status, 200);
    client.send("GET /").await;
    assert_eq!(client.answer().await.status, 408);
    assert_deadline_counted(&gateway, "head").await;
}

#[tokio::test]
async fn the_idle_deadline_may_be_longer_than_the_head_deadline() {
    let (_upstream, gateway) = with(|config| {
        config.timeouts.head = SHORT;
        config.timeouts.first_byte = SHORT;
    })
    .await;
    let mut client = gateway.connect().await;
    assert_eq!(client.create(BODY).await.status, 200);
    // The test has to wait: it is about a pause.
    tokio::time::sleep(SHORT * 2).await;
    assert_eq!(client.create(BODY).await.status, 200);
}

#[tokio::test]
async fn a_stream_may_last_longer_than_every_deadline_of_the_connection() {
    let (go, gate) = tokio::sync::oneshot::channel();
    let mut gate = Some(gate);
    let upstream = Upstream::scripted(move |_| {
        let done = chunk(b"data: {\"type\":\"response.completed\"}\n\n");
        vec![
            Step::Send(STREAM.to_vec()),
            Step::Wait(gate.take().unwrap()),
            Step::Send(done),
            Step::Send(b"0\r\n\r\n".to_vec()),
        ]
    })
    .await;
    let mut config = config(&upstream.base_url());
    let timeouts = &mut config.timeouts;
    for deadline in
        [&mut timeouts.first_byte, &mut timeouts.head, &mut timeouts.keep_alive_idle, &mut timeouts.write_stall]
    {
        *deadline = SHORT;
    }
    let gateway = Gateway::start(config);
    let mut client = gateway.connect().await;
    client.post(BODY).await;
    let mut answer = client.head().await;
    tokio::time::sleep(SHORT * 3).await;
    go.send(()).unwrap();
    client.body(&mut answer).await;
    assert!(answer.whole && answer.body.ends_with(b"}\n\n"), "{answer:?}");
}

#[tokio::test]
async fn a_body_that_stops_is_answered_and_nothing_goes_up() {
    for change in [(|config: &mut Config| config.timeouts.body_idle = SHORT) as fn(&mut Config), |config| {
        config.timeouts.body_total = SHORT
    }] {
        let (mut upstream, gateway) = with(change).await;
        let mut client = gateway.connect().await;
        let whole = request("", BODY.as_bytes());
        client.send(&whole[..whole.len() - 3]).await;
        let answer = client.answer().await;
        answer.assert_problem(408, "request_timeout");
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(client.closed().await);
        assert_eq!(upstream.untaken(), 0);
    }
}

#[tokio::test]
async fn a_body_that_arrives_too_slowly_is_answered() {
    let (mut upstream, gateway) = with(|config| {
        config.timeouts.body_idle = SHORT;
        config.timeouts.body_min_rate = 1024;
    })
    .await;
    let mut client = gateway.connect().await;
    client.send(request("", &[b' '; 4096]).split_last_chunk::<4096>().unwrap().0).await;
    let answer = loop {
        tokio::select! {
            answer = client.head() => break answer,
            () = tokio::time::sleep(SHORT / 10) => client.send(" ").await,
        }
    };
    assert_eq!(answer.status, 408);
    assert_eq!(upstream.untaken(), 0);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_and_its_call_is_cancelled() {
    let (told, closed) = tokio::sync::oneshot::channel();
    let mut told = Some(told);
    let upstream = Upstream::scripted(move |_| {
        // More than all buffers on the way hold.
        let mut steps = vec![Step::Send(STREAM.to_vec())];
        steps.extend((0..512).map(|_| Step::Send(chunk(&[b'x'; 64 * 1024]))));
        // When the gateway cuts the call, sending fails and this sender is dropped.
        steps.push(Step::UntilClosed(told.take().unwrap()));
        steps
    })
    .await;
    let mut config = config(&upstream.base_url());
    config.timeouts.write_stall = SHORT;
    let gateway = Gateway::start(config);
    let mut client = gateway.connect().await;
    client.post(BODY).await;
    assert!(crate::support::soon("the call to be cut", closed).await.is_err(), "the gateway read everything");
    assert_deadline_counted(&gateway, "write_stall").await;
    gateway.metric_becomes("tidegate_requests_total{upstream=\"up\",end=\"client_stalled\"}", 1.0).await;
    // Other clients are served.
    assert_eq!(gateway.connect().await.get("/v1/models").await.status, 200);
}

#[tokio::test]
async fn a_client_that_reads_slowly_but_steadily_is_served_to_the_end() {
    let upstream = Upstream::scripted(move |_| {
        let mut steps = vec![Step::Send(STREAM.to_vec())];
        steps.extend((0..96).map(|_| Step::Send(chunk(&[b'x'; 64 * 1024]))));
        steps.push(Step::Send(LAST_CHUNK.to_vec()));
        steps
    })
    .await;
    let gateway = Gateway::with(&upstream.base_url(), |config| config.timeouts.write_stall = SHORT * 3);
    let mut client = gateway.connect().await;
    client.post(BODY).await;
    let mut answer = client.head().await;
    // One piece takes a small part of the deadline. A third of the kernel's buffer takes longer than the deadline.
    let began = Instant::now();
    let mut len = 0;
    while let Some(data) = crate::support::soon("a piece", client.chunk()).await {
        if data.is_empty() {
            answer.whole = true;
            break;
        }
        len += data.len();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(answer.whole, "cut after {len} bytes");
    assert!(began.elapsed() > SHORT * 6);
}

#[tokio::test]
async fn every_connection_slot_is_used_whichever_listener_the_kernel_chooses() {
    let (_upstream, gateway) = with(|config| {
        config.server.workers = 4;
        config.server.max_connections = 4;
    })
    .await;
    for _ in 0..10 {
        // Four at once: mostly, two or more of them reach the same listener.
        let mut clients = Vec::new();
        for _ in 0..4 {
            let mut client = gateway.connect().await;
            assert_eq!(client.get("/v1/models").await.status, 200);
            clients.push(client);
        }
        drop(clients);
        gateway.metric_becomes("tidegate_connections ", 0.0).await;
    }
}
