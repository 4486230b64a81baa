//! HTTP/1.1 over TLS has the same guarantees as without TLS.

use std::{fs, time::Duration};

use tempfile::TempDir;
use tidegate::config::Config;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    time::Instant,
};
use tokio_rustls::{client::TlsStream, rustls::version::TLS12};

use crate::{
    reload::{NEVER, OFTEN, OK, REFUSED, TESTER, text},
    support::{
        client::{Client, request},
        gateway::{Gateway, KEY, UPSTREAM_KEY},
        process::{Process, output_text, run, tidegate},
        soon,
        tls::TestCertificate,
        upstream::{LAST_CHUNK, RESPONSE, STREAM, Step, Upstream, chunk, json},
    },
};

const BODY: &str = r#"{"model":"smart","input":"hi","stream":true}"#;
const EVENT: &[u8] = b"data: {\"type\":\"response.output_text.delta\",\"delta\":\"x\"}\n\n";
const COMPLETED: &[u8] = b"data: {\"type\":\"response.completed\"}\n\n";
const SHORT: Duration = Duration::from_millis(300);

/// A gateway with TLS, and its certificate.
fn gateway(upstream: &Upstream, change: impl FnOnce(&mut Config)) -> (Gateway, TestCertificate) {
    let made = TestCertificate::new();
    let gateway = Gateway::with(&upstream.base_url(), |config| {
        config.server.tls = made.identity();
        change(config);
    });
    (gateway, made)
}

/// Whether the other side ended the connection with the closing message of TLS (`close_notify`).
async fn ended_with_close_notify(client: &mut Client<TlsStream<TcpStream>>) -> bool {
    let mut rest = Vec::new();
    soon("the end", client.stream.read_to_end(&mut rest)).await.is_ok()
}

async fn assert_deadline_counted(gateway: &Gateway, deadline: &str) {
    gateway.metric_becomes(&format!("tidegate_connections_cut_total{{deadline=\"{deadline}\"}}"), 1.0).await;
}

#[tokio::test]
async fn answers_and_streams_pass_byte_for_byte_on_one_connection() {
    let stream: Vec<u8> = (0..700_000_u32).flat_map(|n| n.to_be_bytes()).collect();
    let served = stream.clone();
    let upstream = Upstream::scripted(move |request| {
        if !request.body.ends_with(b"\"stream\":true}") {
            return vec![Step::Send(json("200 OK", RESPONSE))];
        }
        let mut steps = vec![Step::Send(STREAM.to_vec())];
        let sizes = [1, 7, 100, 1460, 16_384, 16_385, 70_000].into_iter().cycle();
        let mut rest = &served[..];
        for size in sizes {
            let (piece, tail) = rest.split_at(size.min(rest.len()));
            if piece.is_empty() {
                break;
            }
            steps.push(Step::Send(chunk(piece)));
            rest = tail;
        }
        steps.push(Step::Send(LAST_CHUNK.to_vec()));
        steps
    })
    .await;
    for made in [TestCertificate::new(), TestCertificate::for_versions(&[&TLS12])] {
        let gateway = Gateway::with(&upstream.base_url(), |config| config.server.tls = made.identity());
        let mut client = made.connect(&gateway).await;
        for _ in 0..3 {
            let answer = client.create(r#"{"model":"smart"}"#).await;
            assert_eq!((answer.status, &*answer.body), (200, RESPONSE.as_bytes()));
            let answer = client.create(BODY).await;
            assert!(answer.whole && answer.body == stream, "{} bytes", answer.body.len());
        }
        // A large request as well.
        let large = format!(r#"{{"model":"smart","input":"{}"}}"#, "x".repeat(900_000));
        assert_eq!(client.create(large).await.status, 200);
        assert_eq!(client.get("/readyz").await.status, 200);
        let chosen = made.dial(gateway.address, &["http/1.1"]).await.unwrap();
        assert_eq!(chosen.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        assert_eq!(gateway.metric("tidegate_tls_handshakes_failed_total").await, 0.0);
    }
}

#[tokio::test]
async fn a_client_that_leaves_cancels_the_upstream_call() {
    let (tell, mut closings) = tokio::sync::mpsc::unbounded_channel();
    let upstream = Upstream::scripted(move |_| {
        let (told, closed) = oneshot::channel();
        tell.send(closed).unwrap();
        vec![Step::Send([STREAM, &chunk(EVENT)].concat()), Step::UntilClosed(told)]
    })
    .await;
    let (gateway, made) = gateway(&upstream, |_| ());
    let mut best = Duration::MAX;
    // With bytes of a next request in the way, with close_notify, and without it.
    for (nth, how) in (1..).zip(["pipelined", "farewell", "drop", "drop", "drop"]) {
        let mut client = made.connect(&gateway).await;
        client.post(BODY).await;
        client.head().await;
        assert_eq!(soon("an event", client.chunk()).await.unwrap(), EVENT);
        if how == "pipelined" {
            client.send(request("", BODY.as_bytes())).await;
        }
        let closed = closings.recv().await.unwrap();
        client.stay().await;
        let left = Instant::now();
        if how == "farewell" {
            client.stream.shutdown().await.unwrap();
        }
        drop(client);
        soon("the upstream call to be cancelled", closed).await.unwrap();
        best = best.min(left.elapsed());
        gateway.metric_becomes("tidegate_requests_total{upstream=\"up\",end=\"client_gone\"}", nth.into()).await;
    }
    assert!(best < Duration::from_millis(100), "{best:?}");
}

#[tokio::test]
async fn a_break_ends_without_close_notify_and_a_clean_end_with_it() {
    let upstream = Upstream::scripted(|request| {
        let first = [STREAM, &chunk(EVENT)].concat();
        match &*request.body {
            b"{\"model\":\"gpt-break\"}" => vec![Step::Send(first), Step::Reset],
            _ => vec![Step::Send(first), Step::Send([&chunk(COMPLETED), LAST_CHUNK].concat()), Step::Close],
        }
    })
    .await;
    let (gateway, made) = gateway(&upstream, |_| ());
    let mut client = made.connect(&gateway).await;
    client.post(r#"{"model":"gpt-break"}"#).await;
    let mut answer = client.head().await;
    client.body(&mut answer).await;
    assert_eq!((answer.whole, &*answer.body), (false, EVENT));
    assert!(!ended_with_close_notify(&mut client).await, "a break with close_notify");

    let mut client = made.connect(&gateway).await;
    client.post_with("connection: close\r\n", r#"{"model":"gpt-whole"}"#).await;
    assert!(client.answer().await.whole);
    assert!(ended_with_close_notify(&mut client).await, "an end without close_notify");

    // A body that ends with its connection.
    for (model, whole) in [("gpt-break", false), ("gpt-whole", true)] {
        let mut client = made.connect(&gateway).await;
        let body = format!(r#"{{"model":"{model}"}}"#);
        let old = String::from_utf8(request("", body.as_bytes())).unwrap().replace("HTTP/1.1", "HTTP/1.0");
        client.send(old).await;
        assert_eq!(client.head().await.status, 200);
        assert_eq!(ended_with_close_notify(&mut client).await, whole, "{model}");
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_and_a_slow_one_is_served() {
    let flood = || {
        let mut steps = vec![Step::Send(STREAM.to_vec())];
        steps.extend((0..96).map(|_| Step::Send(chunk(&[b'x'; 64 * 1024]))));
        steps.push(Step::Send(LAST_CHUNK.to_vec()));
        steps
    };
    let upstream = Upstream::scripted(move |_| flood()).await;
    let (gateway, made) = gateway(&upstream, |config| config.timeouts.write_stall = SHORT * 3);
    let mut slow = made.connect(&gateway).await;
    slow.post(BODY).await;
    let mut stalled = made.connect(&gateway).await;
    stalled.post(BODY).await;
    let mut answer = slow.head().await;
    let began = Instant::now();
    while let Some(data) = soon("a piece", slow.chunk()).await {
        if data.is_empty() {
            answer.whole = true;
            break;
        }
        answer.body.extend(data);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(answer.whole, "cut after {} bytes", answer.body.len());
    assert!(began.elapsed() > SHORT * 6);
    assert_deadline_counted(&gateway, "write_stall").await;
    gateway.metric_becomes("tidegate_requests_total{upstream=\"up\",end=\"client_stalled\"}", 1.0).await;
    assert!(!ended_with_close_notify(&mut stalled).await);
}

#[tokio::test]
async fn a_handshake_has_a_deadline_and_failed_handshakes_are_counted() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let (gateway, made) = gateway(&upstream, |config| config.timeouts.first_byte = SHORT);
    let began = Instant::now();
    let mut silent = gateway.connect().await;
    assert!(silent.closed().await);
    assert!(began.elapsed() >= SHORT);
    assert_deadline_counted(&gateway, "tls_handshake").await;
    // The beginning of a record of 512 bytes.
    let mut half = gateway.connect().await;
    half.send(b"\x16\x03\x01\x02\x00\x01").await;
    assert!(half.closed().await);
    gateway.metric_becomes("tidegate_connections_cut_total{deadline=\"tls_handshake\"}", 2.0).await;
    // A connection without a byte is no failed handshake.
    drop(gateway.connect().await);
    gateway.metric_becomes("tidegate_connections ", 0.0).await;
    assert_eq!(gateway.metric("tidegate_tls_handshakes_failed_total").await, 0.0);

    let mut plain = gateway.connect().await;
    plain.send(request("", BODY.as_bytes())).await;
    soon("the connection to be closed", plain.closed()).await;
    assert!(plain.take().starts_with(b"HTTP/1.1 400 "), "the answer must say to use https");
    gateway.metric_becomes("tidegate_tls_handshakes_failed_total", 1.0).await;
    // A client that trusts no certificate of the gateway, and one without a common protocol.
    TestCertificate::new().dial(gateway.address, &[]).await.unwrap_err();
    gateway.metric_becomes("tidegate_tls_handshakes_failed_total", 2.0).await;
    made.dial(gateway.address, &["smtp"]).await.unwrap_err();
    gateway.metric_becomes("tidegate_tls_handshakes_failed_total", 3.0).await;

    // After the handshake, the deadline for the first byte applies.
    let mut silent = made.connect(&gateway).await;
    assert!(ended_with_close_notify(&mut silent).await);
    assert_deadline_counted(&gateway, "first_byte").await;
}

#[tokio::test]
async fn errors_of_the_connection_layer_are_sent_over_tls() {
    let mut upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let (gateway, made) = gateway(&upstream, |config| {
        config.timeouts.head = SHORT;
        config.timeouts.keep_alive_idle = SHORT;
    });
    let huge = format!("GET / HTTP/1.1\r\nhost: t\r\nx-a: {}\r\n\r\n", "x".repeat(70_000));
    for (sent, status, code) in [
        ("GET / HTTP/1.1\r\nhost: t\r\n x: folded\r\n\r\n", 400, "invalid_framing"),
        (&huge, 431, "head_too_large"),
        ("GET / HTTP/1.1\r\nhost: t\r\n", 408, "request_timeout"),
    ] {
        let mut client = made.connect(&gateway).await;
        client.send(sent).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.whole), (status, true), "{code}");
        assert_eq!(answer.json()["error"]["code"], code);
        assert!(ended_with_close_notify(&mut client).await, "{code}");
    }
    assert_eq!(upstream.untaken(), 0);
    let mut idle = made.connect(&gateway).await;
    assert_eq!(idle.create(BODY).await.status, 200);
    assert!(ended_with_close_notify(&mut idle).await);
    assert_deadline_counted(&gateway, "keep_alive_idle").await;
}

#[tokio::test]
async fn a_graceful_shutdown_ends_connections_with_close_notify_and_a_stop_cuts_them() {
    let (go, gate) = oneshot::channel();
    let mut gate = Some(gate);
    let upstream = Upstream::scripted(move |_| {
        let first = Step::Send([STREAM, &chunk(EVENT)].concat());
        match gate.take() {
            Some(gate) => vec![first, Step::Wait(gate), Step::Send([&chunk(COMPLETED), LAST_CHUNK].concat())],
            None => vec![first, Step::UntilClosed(oneshot::channel().0)],
        }
    })
    .await;
    let (mut gateway, made) = gateway(&upstream, |_| ());
    let mut busy = Vec::new();
    for _ in 0..2 {
        let mut client = made.connect(&gateway).await;
        client.post(BODY).await;
        let answer = client.head().await;
        assert_eq!(soon("an event", client.chunk()).await.unwrap(), EVENT);
        busy.push((client, answer));
    }
    let mut idle = made.connect(&gateway).await;
    assert_eq!(idle.get("/readyz").await.status, 200);
    // A connection in the middle of its handshake does not delay the shutdown.
    let _begun = gateway.connect().await;
    gateway.metric_becomes("tidegate_connections ", 4.0).await;
    gateway.drain();
    assert!(ended_with_close_notify(&mut idle).await);
    go.send(()).unwrap();
    let (client, answer) = &mut busy[0];
    client.body(answer).await;
    assert!(answer.whole && ended_with_close_notify(client).await);
    gateway.metric_becomes("tidegate_connections ", 1.0).await;
    gateway.stop();
    let (client, answer) = &mut busy[1];
    client.body(answer).await;
    assert!(!answer.whole && !ended_with_close_notify(client).await);
    gateway.ended().await;
    assert!(gateway.handle.cut_requests());
}

/// The settings of the certificate files in this folder.
fn setting(folder: &TempDir) -> String {
    let at = |name: &str| folder.path().join(name);
    let (cert, key, data) = (at("tls.crt"), at("tls.key"), at("data"));
    format!("data_dir = {data:?}\ntls = {{ cert_file = {cert:?}, key_file = {key:?} }}")
}

#[tokio::test]
async fn a_new_certificate_is_used_for_new_connections_and_half_a_pair_is_refused() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (cert, key, file) = (at("tls.crt"), at("tls.key"), at("tidegate.toml"));
    let (old, new) = (TestCertificate::new(), TestCertificate::new());
    old.write(&cert, &key);
    fs::write(&file, text(&setting(&folder), &[("up", &upstream.base_url())], TESTER)).unwrap();
    let gateway = Gateway::reading(folder, &file, OFTEN);
    let mut before = old.connect(&gateway).await;
    assert_eq!(before.create(BODY).await.status, 200);

    // The key file is replaced before the certificate file.
    fs::write(&key, &new.key_pem).unwrap();
    gateway.metric_becomes(REFUSED, 1.0).await;
    assert_eq!(old.connect(&gateway).await.create(BODY).await.status, 200);
    fs::write(&cert, &new.cert_pem).unwrap();
    gateway.metric_becomes(OK, 1.0).await;
    assert_eq!(new.connect(&gateway).await.create(BODY).await.status, 200);
    old.dial(gateway.address, &[]).await.unwrap_err();
    assert_eq!(before.create(BODY).await.status, 200, "on the existing connection");

    fs::write(&cert, "no certificate").unwrap();
    gateway.metric_becomes(REFUSED, 2.0).await;
    fs::remove_file(&key).unwrap();
    gateway.metric_becomes(REFUSED, 3.0).await;
    assert_eq!(new.connect(&gateway).await.create(BODY).await.status, 200);
}

#[tokio::test]
async fn a_reload_does_not_switch_tls_on() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let base = text("", &[("up", &upstream.base_url())], TESTER);
    let gateway = Gateway::of(&base, NEVER);
    let made = TestCertificate::new();
    let (cert, key) = (gateway.folder.path().join("tls.crt"), gateway.folder.path().join("tls.key"));
    made.write(&cert, &key);
    let tls = format!("[server]\ntls = {{ cert_file = {cert:?}, key_file = {key:?} }}\nmax_body_mib = 1");
    gateway.reload(&base.replacen("[server]", &tls, 1), OK).await;
    assert_eq!(gateway.post("", BODY).await.status, 200);
}

#[tokio::test]
async fn a_process_and_its_health_check_use_tls() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (cert, key, file) = (at("tls.crt"), at("tls.key"), at("tidegate.toml"));
    let (old, new) = (TestCertificate::new(), TestCertificate::new());
    old.write(&cert, &key);
    fs::write(&file, text(&setting(&folder), &[("up", &upstream.base_url())], TESTER)).unwrap();
    let with = |arguments: &[&str]| {
        let mut command = tidegate(folder.path());
        command.args(arguments).arg("--config").arg(&file).env("UP_KEY", UPSTREAM_KEY).env("TESTER", KEY);
        command
    };
    let checked = run(&mut with(&["check"]));
    assert!(output_text(&checked).contains("(data, TLS)"), "{}", output_text(&checked));
    let mut process = Process::start(&mut with(&["serve"]));
    let address = process.ready();
    let mut client = Client::on(old.dial(address, &[]).await.unwrap());
    assert_eq!(client.create(BODY).await.status, 200);
    let health = || run(with(&["healthcheck"]).env("TIDEGATE_LISTEN", address.to_string()));
    assert!(health().status.success(), "{}", output_text(&health()));
    new.write(&cert, &key);
    assert!(health().status.success(), "right after an exchange: {}", output_text(&health()));
    let line = process.logged("configuration reloaded");
    assert_eq!((&line["level"], &line["settings"]), (&"INFO".into(), &"certificate".into()));
    assert!(health().status.success());

    // The files are swapped: the text of the key must not be in the log.
    fs::write(&cert, &new.key_pem).unwrap();
    let line = process.logged("configuration refused");
    assert!(line["report"].as_str().unwrap().contains("`cert_file` holds no certificates"), "{line}");
    process.signal("INT");
    assert_eq!(process.exit(), Some(0));
    assert!(!health().status.success());
    let log = process.everything();
    for made in [&old, &new] {
        for secret in made.key_pem.lines().filter(|line| !line.starts_with('-')) {
            assert!(!log.contains(secret), "{log}");
        }
    }
}
