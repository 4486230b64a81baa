//! Graceful shutdown.

use std::{fs, net::SocketAddr, time::Duration};

use serde_json::Value;
use tempfile::TempDir;
use tokio::{net::TcpStream, sync::oneshot, time::Instant};

use crate::support::{
    client::{Answer, Client, request},
    gateway::{Gateway, KEY, UPSTREAM_KEY, config},
    process::{Process, tidegate},
    settings::smallest,
    soon,
    upstream::{LAST_CHUNK, RESPONSE, STREAM, Step, Upstream, chunk, json},
};

const BODY: &str = r#"{"model":"smart","input":"hi"}"#;
const COMPLETED: &[u8] = b"data: {\"type\":\"response.completed\"}\n\n";

#[tokio::test]
async fn an_idle_gateway_stops_at_once_although_connections_are_open() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let mut gateway = Gateway::before(&upstream.base_url());
    let mut used = gateway.connect().await;
    assert_eq!(used.create(BODY).await.status, 200);
    let mut silent = gateway.connect().await;
    gateway.metric_becomes("tidegate_connections ", 2.0).await;
    gateway.drain();
    gateway.ended().await;
    assert!(used.closed().await);
    assert!(silent.closed().await);
}

#[tokio::test]
async fn a_stream_in_progress_finishes_and_new_connections_are_refused() {
    let (go, gate) = oneshot::channel();
    let mut gate = Some(gate);
    let upstream = Upstream::scripted(move |_| {
        let rest = [chunk(COMPLETED), LAST_CHUNK.to_vec()].concat();
        vec![Step::Send(STREAM.to_vec()), Step::Wait(gate.take().unwrap()), Step::Send(rest)]
    })
    .await;
    let mut gateway = Gateway::before(&upstream.base_url());
    let mut client = gateway.connect().await;
    client.post(BODY).await;
    let mut answer = client.head().await;
    gateway.drain();
    soon("new connections to be refused", async {
        while TcpStream::connect(gateway.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // The admin plane stays available, so that operators can watch the drain.
    let ready = Client::connect(gateway.admin).await.get("/readyz").await;
    assert_eq!((ready.status, &ready.json()["draining"]), (503, &true.into()));
    go.send(()).unwrap();
    client.body(&mut answer).await;
    assert_eq!((answer.whole, &*answer.body), (true, COMPLETED));
    assert!(client.closed().await);
    gateway.ended().await;
}

/// A request whose head began before the drain is served, on a used connection and on a new one.
#[tokio::test]
async fn a_request_head_that_began_before_the_drain_is_served() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let mut gateway = Gateway::before(&upstream.base_url());
    let (mut new, mut used) = (gateway.connect().await, gateway.connect().await);
    assert_eq!(used.create(BODY).await.status, 200);
    let request = request("", BODY.as_bytes());
    let (begun, rest) = request.split_at(20);
    for client in [&mut new, &mut used] {
        client.send(begun).await;
    }
    // After later connections were accepted, served and closed, the gateway has read the beginnings.
    for _ in 0..3 {
        assert_eq!(gateway.post("", "{").await.status, 400);
    }
    gateway.drain();
    soon("new connections to be refused", async {
        while TcpStream::connect(gateway.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    for mut client in [new, used] {
        client.send(rest).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
        assert!(client.closed().await);
    }
    gateway.ended().await;
}

#[tokio::test]
async fn a_stop_cuts_a_stream_and_the_client_sees_the_break() {
    let (told, closed) = oneshot::channel();
    let mut told = Some(told);
    let upstream =
        Upstream::scripted(move |_| vec![Step::Send(STREAM.to_vec()), Step::UntilClosed(told.take().unwrap())]).await;
    let mut gateway = Gateway::before(&upstream.base_url());
    let mut client = gateway.connect().await;
    client.post(BODY).await;
    let mut answer = client.head().await;
    gateway.stop();
    client.body(&mut answer).await;
    assert!(!answer.whole);
    soon("the upstream call to be cancelled", closed).await.unwrap();
    gateway.ended().await;
}

#[tokio::test]
async fn connections_beyond_the_slots_wait_until_a_slot_becomes_free() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let mut config = config(&upstream.base_url());
    config.server.max_connections = 1;
    let gateway = Gateway::start(config);
    let mut first = gateway.connect().await;
    assert_eq!(first.create(BODY).await.status, 200);
    // The kernel accepts the second connection. The gateway serves it only after the first one is closed.
    let mut second = gateway.connect().await;
    second.post(BODY).await;
    assert_eq!(first.create(BODY).await.status, 200);
    assert_eq!(gateway.metric("tidegate_connections ").await, 1.0);
    assert_eq!(gateway.metric("tidegate_requests_total{upstream=\"up\",end=\"completed\"}").await, 2.0);
    drop(first);
    assert_eq!(second.answer().await.status, 200);
}

#[tokio::test]
async fn idle_clients_that_keep_their_side_open_do_not_delay_the_shutdown() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let mut gateway = Gateway::before(&upstream.base_url());
    let mut used = gateway.connect().await;
    assert_eq!(used.create(BODY).await.status, 200);
    let _silent = gateway.connect().await;
    gateway.metric_becomes("tidegate_connections ", 2.0).await;
    let since = Instant::now();
    gateway.drain();
    gateway.ended().await;
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
}

#[tokio::test]
async fn before_the_drain_readiness_fails_and_requests_are_served_on_connections_that_close() {
    let (go, gate) = oneshot::channel();
    let mut gate = Some(gate);
    let upstream = Upstream::scripted(move |request| match gate.take_if(|_| request.body.starts_with(b"{\"stream")) {
        Some(gate) => {
            let rest = [chunk(COMPLETED), LAST_CHUNK.to_vec()].concat();
            vec![Step::Send(STREAM.to_vec()), Step::Wait(gate), Step::Send(rest)]
        }
        None => vec![Step::Send(json("200 OK", RESPONSE))],
    })
    .await;
    let mut gateway = Gateway::before(&upstream.base_url());
    let mut streaming = gateway.connect().await;
    streaming.post(r#"{"stream":true,"model":"smart"}"#).await;
    let mut stream = streaming.head().await;
    let mut kept = gateway.connect().await;
    let answer = kept.create(BODY).await;
    assert_eq!((answer.status, answer.header("connection")), (200, None));

    gateway.announce_shutdown();
    for address in [gateway.address, gateway.admin] {
        assert_eq!(Client::connect(address).await.get("/readyz").await.status, 503);
    }
    let ready = Client::connect(gateway.admin).await.get("/readyz").await.json();
    assert_eq!((&ready["ready"], &ready["draining"]), (&false.into(), &true.into()));
    // Liveness stays, or the process would be killed.
    assert_eq!(gateway.connect().await.get("/healthz").await.status, 200);
    let new = gateway.connect().await;
    for mut client in [kept, new] {
        let answer = client.create(BODY).await;
        assert_eq!((answer.status, answer.header("connection")), (200, Some("close")), "{answer:?}");
        assert!(client.closed().await);
    }
    let refused = gateway.post("", "{").await;
    assert_eq!((refused.status, refused.all("connection")), (400, vec!["close"]));

    gateway.drain();
    go.send(()).unwrap();
    streaming.body(&mut stream).await;
    assert_eq!((stream.whole, &*stream.body), (true, COMPLETED));
    gateway.ended().await;
}

/// `tidegate serve` as a process of its own, with the address for clients and that of the admin plane.
fn serve(upstream: &Upstream, folder: &TempDir, delay: u32, limit: u32) -> (Process, SocketAddr, SocketAddr) {
    let file = folder.path().join("tidegate.toml");
    let timeouts = format!("[timeouts]\ndrain_delay_s = {delay}\ndrain_timeout_s = {limit}");
    let text = smallest(&upstream.base_url(), "", &timeouts);
    fs::write(&file, text).unwrap();
    let mut command = tidegate(folder.path());
    command.args(["serve", "--config"]).arg(&file).env("UP_KEY", UPSTREAM_KEY).env("A_KEY", KEY);
    let mut process = Process::start(&mut command);
    let ready = process.logged("ready");
    let address = |name: &str| ready[name].as_str().unwrap().parse().unwrap();
    (process, address("listen"), address("admin_listen"))
}

/// Opens a stream and reads its head.
async fn open(address: SocketAddr) -> (Client, Answer) {
    let mut client = Client::connect(address).await;
    client.post(BODY).await;
    let head = client.head().await;
    assert_eq!(head.status, 200);
    (client, head)
}

/// The `end` of each request of a process that has ended.
fn ends(process: Process) -> Vec<String> {
    let log = process.everything();
    let lines = log.lines().filter(|line| line.contains("tidegate::request"));
    lines.map(|line| serde_json::from_str::<Value>(line).unwrap()["end"].as_str().unwrap().to_owned()).collect()
}

/// So long that only a broken gateway waits for it.
const FOREVER: u32 = 3600;

#[tokio::test]
async fn sigterm_waits_for_the_delay_although_no_request_is_in_progress() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let folder = TempDir::new().unwrap();
    let (mut process, ..) = serve(&upstream, &folder, 1, FOREVER);
    let since = Instant::now();
    process.signal("TERM");
    assert_eq!(process.exit(), Some(0));
    assert!(since.elapsed() >= Duration::from_secs(1), "{:?}", since.elapsed());
}

#[tokio::test]
async fn sigterm_fails_readiness_and_requests_are_still_served() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let folder = TempDir::new().unwrap();
    let (mut process, address, admin) = serve(&upstream, &folder, FOREVER, FOREVER);
    let mut kept = Client::connect(address).await;
    assert_eq!(kept.create(BODY).await.header("connection"), None);
    process.signal("TERM");
    process.logged("shutdown started");
    assert_eq!(Client::connect(admin).await.get("/readyz").await.status, 503);
    let new = Client::connect(address).await;
    for mut client in [kept, new] {
        let answer = client.create(BODY).await;
        assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
        assert!(client.closed().await);
    }
    process.signal("INT");
    assert_eq!(process.exit(), Some(0));
    assert_eq!(ends(process), ["completed"; 3]);
}

#[tokio::test]
async fn sigint_skips_the_delay_and_a_second_signal_within_the_delay_stops_at_once() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let folder = TempDir::new().unwrap();
    let (mut process, ..) = serve(&upstream, &folder, FOREVER, FOREVER);
    process.signal("INT");
    assert_eq!(process.exit(), Some(0));
    for second in ["INT", "TERM"] {
        let (mut process, ..) = serve(&upstream, &folder, FOREVER, FOREVER);
        process.signal("TERM");
        process.logged("shutdown started");
        process.signal(second);
        // No request was in progress, so that none was cut.
        assert_eq!(process.exit(), Some(0), "{second}");
    }
}

#[tokio::test]
async fn a_second_signal_cuts_requests_in_progress() {
    let upstream =
        Upstream::scripted(move |_| vec![Step::Send(STREAM.to_vec()), Step::UntilClosed(oneshot::channel().0)]).await;
    let folder = TempDir::new().unwrap();
    // In the delay, and in the drain.
    for (first, said) in [("TERM", "shutdown started"), ("INT", "draining")] {
        let (mut process, address, _) = serve(&upstream, &folder, FOREVER, FOREVER);
        let (mut client, mut answer) = open(address).await;
        process.signal(first);
        process.logged(said);
        process.signal("TERM");
        soon("the stream to break", client.body(&mut answer)).await;
        assert!(!answer.whole);
        assert_eq!(process.exit(), Some(1));
        assert_eq!(ends(process), ["gateway_stop"]);
    }
}

#[tokio::test]
async fn streams_beyond_the_drain_timeout_are_cut_and_logged_as_such() {
    let upstream = Upstream::scripted(move |_| {
        vec![Step::Send([STREAM, &chunk(b"data: 1\n\n")].concat()), Step::UntilClosed(oneshot::channel().0)]
    })
    .await;
    let folder = TempDir::new().unwrap();
    let (mut process, address, _) = serve(&upstream, &folder, FOREVER, 1);
    let (mut client, mut answer) = open(address).await;
    process.signal("INT");
    soon("the stream to break", client.body(&mut answer)).await;
    assert_eq!((answer.whole, &answer.body[..]), (false, &b"data: 1\n\n"[..]));
    assert_eq!(process.exit(), Some(1));
    assert_eq!(ends(process), ["gateway_stop"]);
}

#[tokio::test]
async fn fifty_streams_survive_sigterm_whole() {
    let (go, gate) = tokio::sync::watch::channel(());
    let upstream = Upstream::scripted(move |_| {
        let mut gate = gate.clone();
        let (open, opened) = oneshot::channel();
        tokio::spawn(async move {
            let _ = gate.changed().await;
            let _ = open.send(());
        });
        let rest = [chunk(COMPLETED), LAST_CHUNK.to_vec()].concat();
        vec![Step::Send(STREAM.to_vec()), Step::Wait(opened), Step::Send(rest)]
    })
    .await;
    let folder = TempDir::new().unwrap();
    let (mut process, address, _) = serve(&upstream, &folder, 3, FOREVER);
    let mut streams = Vec::new();
    for _ in 0..45 {
        streams.push(open(address).await);
    }
    process.signal("TERM");
    process.logged("shutdown started");
    for _ in 0..5 {
        streams.push(open(address).await);
    }
    process.logged("draining");
    soon("new connections to be refused", async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    go.send(()).unwrap();
    for (client, answer) in &mut streams {
        soon("a stream to end", client.body(answer)).await;
        assert_eq!((answer.whole, &*answer.body), (true, COMPLETED));
    }
    assert_eq!(process.exit(), Some(0));
    assert_eq!(ends(process), vec!["completed"; 50]);
}
