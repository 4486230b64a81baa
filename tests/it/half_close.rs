//! Clients that close their sending side after their request (`shutdown(SHUT_WR)`, as `nc -N` does) and wait for the
//! answer.

use std::time::Duration;

use tidegate::config::OnClientGone;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    time::Instant,
};
use tokio_rustls::rustls::version::{TLS12, TLS13};

use crate::support::{
    client::{Client, request},
    gateway::{Gateway, KEY},
    soon,
    tls::TestCertificate,
    upstream::{LAST_CHUNK, RESPONSE, STREAM, Step, Upstream, chunk, json},
};

const BODY: &str = r#"{"model":"smart","input":"hi","stream":true}"#;
const EVENT: &[u8] = b"data: {\"type\":\"response.output_text.delta\",\"delta\":\"x\"}\n\n";
const COMPLETED: &[u8] = b"data: {\"type\":\"response.completed\",\"response\":{\"id\":\"resp_1\"}}\n\n";
const GONE: &str = "tidegate_requests_total{upstream=\"up\",end=\"client_gone\"}";

/// The upstream's pause before an answer: far longer than the 20 ms within which a FIN belongs to its request.
const THINKS: Duration = Duration::from_millis(120);

/// An upstream that answers after `THINKS`. A stream has two events with a pause between them.
async fn slow_upstream() -> Upstream {
    Upstream::scripted(|request| {
        let after = |steps: &mut Vec<Step>, bytes: Vec<u8>| {
            let (go, wait) = oneshot::channel();
            tokio::spawn(async move {
                tokio::time::sleep(THINKS).await;
                let _ = go.send(());
            });
            steps.extend([Step::Wait(wait), Step::Send(bytes)]);
        };
        let mut steps = Vec::new();
        if request.body.windows(8).any(|window| window == b"\"stream\"") {
            steps.push(Step::Send([STREAM, &chunk(EVENT)].concat()));
            after(&mut steps, [&chunk(COMPLETED), LAST_CHUNK].concat());
        } else {
            after(&mut steps, json("200 OK", RESPONSE));
        }
        steps
    })
    .await
}

fn chunked(body: &str) -> Vec<u8> {
    let head = format!(
        "POST /v1/responses HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {KEY}\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    [head.as_bytes(), &chunk(body.as_bytes()), LAST_CHUNK].concat()
}

fn http_1_0(body: &str) -> Vec<u8> {
    String::from_utf8(request("", body.as_bytes())).unwrap().replacen("HTTP/1.1", "HTTP/1.0", 1).into_bytes()
}

fn large() -> String {
    format!(r#"{{"model":"smart","input":"{}"}}"#, "a".repeat(900_000))
}

/// What a client sends before it half-closes, and the number of whole answers that it gets.
fn requests() -> Vec<(&'static str, Vec<u8>, usize)> {
    let small = r#"{"model":"smart"}"#;
    let get =
        |path: &str| format!("GET {path} HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {KEY}\r\n\r\n").into_bytes();
    let two = [request("", small.as_bytes()), request("", BODY.as_bytes())].concat();
    let three = [get("/v1/models"), request("", small.as_bytes()), get("/healthz")].concat();
    vec![
        ("a small body", request("", small.as_bytes()), 1),
        ("a stream", request("", BODY.as_bytes()), 1),
        ("a large body", request("", large().as_bytes()), 1),
        (
            "a body of 100 KB",
            request("", format!(r#"{{"model":"smart","input":"{}"}}"#, "a".repeat(100_000)).as_bytes()),
            1,
        ),
        ("chunks", chunked(BODY), 1),
        ("HTTP/1.0", http_1_0(small), 1),
        ("Connection: close", request("connection: close\r\n", small.as_bytes()), 1),
        ("no body", get("/v1/models"), 1),
        ("two requests", two, 2),
        ("three requests", three, 3),
        (
            "a request and a half",
            [request("", small.as_bytes()), request("", BODY.as_bytes())[..40].to_vec()].concat(),
            1,
        ),
    ]
}

/// Sends `bytes`, closes the sending side, reads that many whole answers, and expects the end of the connection.
async fn assert_answers_after_half_close<S: AsyncRead + AsyncWrite + Unpin>(
    mut client: Client<S>,
    what: &str,
    bytes: &[u8],
    answers: usize,
) {
    client.send(bytes).await;
    client.stream.shutdown().await.unwrap();
    for nth in 0..answers {
        let answer = client.answer().await;
        assert!(answer.status == 200 && answer.whole, "{what}, answer {nth}: {answer:?}");
        if answer.header("content-type").is_some_and(|media| media.starts_with("text/event-stream")) {
            assert_eq!(answer.body, [EVENT, COMPLETED].concat(), "{what}");
        }
    }
    assert!(client.closed().await || what == "a request and a half", "{what}");
}

#[tokio::test]
async fn a_half_closed_client_gets_its_answers() {
    let upstream = slow_upstream().await;
    let gateway = Gateway::before(&upstream.base_url());
    for (what, bytes, answers) in requests() {
        assert_answers_after_half_close(gateway.connect().await, what, &bytes, answers).await;
    }
    assert_eq!(gateway.metric(GONE).await, 0.0);
    gateway.metric_becomes("tidegate_connections ", 0.0).await;
    gateway.metric_becomes("tidegate_requests_in_flight", 0.0).await;
}

#[tokio::test]
async fn a_half_closed_client_over_tls_gets_its_answers() {
    let upstream = slow_upstream().await;
    for version in [&TLS12, &TLS13] {
        let made = TestCertificate::for_versions(&[version]);
        let gateway = Gateway::with(&upstream.base_url(), |config| config.server.tls = made.identity());
        for (what, bytes, answers) in requests() {
            assert_answers_after_half_close(made.connect(&gateway).await, what, &bytes, answers).await;
        }
        assert_eq!(gateway.metric(GONE).await, 0.0);
        gateway.metric_becomes("tidegate_connections ", 0.0).await;
    }
}

#[tokio::test]
async fn a_client_that_half_closes_a_used_connection_gets_its_answers() {
    let upstream = slow_upstream().await;
    let gateway = Gateway::before(&upstream.base_url());
    for (what, bytes, answers) in requests() {
        let mut client = gateway.connect().await;
        assert_eq!(client.create(r#"{"model":"smart"}"#).await.status, 200);
        tokio::time::sleep(THINKS / 2).await;
        assert_answers_after_half_close(client, what, &bytes, answers).await;
    }
    assert_eq!(gateway.metric(GONE).await, 0.0);
}

/// Sends a second request together with the FIN while the first answer is in progress. Both requests are answered
/// whole.
async fn assert_second_request_with_fin_is_answered<S: AsyncRead + AsyncWrite + Unpin>(
    mut client: Client<S>,
    what: &str,
    second: &[u8],
) {
    client.post(BODY).await;
    client.head().await;
    assert_eq!(soon("an event", client.chunk()).await.unwrap(), EVENT, "{what}");
    // Far longer than the time within which a FIN belongs to the first request.
    tokio::time::sleep(THINKS / 2).await;
    client.send(second).await;
    client.stream.shutdown().await.unwrap();
    assert_eq!(soon("the last event", client.chunk()).await.unwrap(), COMPLETED, "{what}");
    assert_eq!(soon("the end of the answer", client.chunk()).await, Some(Vec::new()), "{what}");
    let answer = client.answer().await;
    assert!(answer.status == 200 && answer.whole && answer.body == RESPONSE.as_bytes(), "{what}: {answer:?}");
    assert!(client.closed().await, "{what}");
}

#[tokio::test]
async fn a_request_that_arrives_with_the_fin_during_an_answer_is_answered() {
    let upstream = slow_upstream().await;
    let gateway = Gateway::before(&upstream.base_url());
    let small = request("", br#"{"model":"smart"}"#);
    let body = format!(r#"{{"model":"smart","input":"{}"}}"#, "a".repeat(100_000));
    for (what, second) in [("small", small.clone()), ("large", request("", body.as_bytes()))] {
        assert_second_request_with_fin_is_answered(gateway.connect().await, what, &second).await;
    }
    assert_eq!(gateway.metric(GONE).await, 0.0);
    for version in [&TLS12, &TLS13] {
        let made = TestCertificate::for_versions(&[version]);
        let gateway = Gateway::with(&upstream.base_url(), |config| config.server.tls = made.identity());
        assert_second_request_with_fin_is_answered(made.connect(&gateway).await, "TLS", &small).await;
        assert_eq!(gateway.metric(GONE).await, 0.0);
    }
}

#[tokio::test]
async fn a_fin_a_few_milliseconds_after_the_request_belongs_to_the_request() {
    let upstream = slow_upstream().await;
    let gateway = Gateway::before(&upstream.base_url());
    let mut timely = 0;
    for _ in 0..20 {
        let mut client = gateway.connect().await;
        client.post(r#"{"model":"smart","input":"hi"}"#).await;
        let sent = Instant::now();
        tokio::time::sleep(Duration::from_millis(5)).await;
        client.stream.shutdown().await.unwrap();
        // On a busy machine the pause may have been longer.
        if sent.elapsed() < Duration::from_millis(10) {
            let answer = client.answer().await;
            assert!(answer.whole && answer.body == RESPONSE.as_bytes(), "{answer:?}");
            timely += 1;
        }
        if timely == 3 {
            return;
        }
    }
    assert!(timely > 0, "the machine is too slow for this test");
}

/// The same when a part of the answer leaves before the FIN, and the rest follows after a pause.
#[tokio::test]
async fn a_fin_after_a_part_of_the_answer_belongs_to_the_request() {
    let upstream = slow_upstream().await;
    let gateway = Gateway::before(&upstream.base_url());
    let mut timely = 0;
    for _ in 0..20 {
        let mut client = gateway.connect().await;
        let sent = Instant::now();
        client.post(BODY).await;
        client.head().await;
        assert_eq!(soon("an event", client.chunk()).await.unwrap(), EVENT);
        client.stream.shutdown().await.unwrap();
        // On a busy machine the first event may have come later.
        if sent.elapsed() < Duration::from_millis(15) {
            assert_eq!(soon("the last event", client.chunk()).await.unwrap(), COMPLETED);
            timely += 1;
        }
        if timely == 3 {
            return;
        }
    }
    assert!(timely > 0, "the machine is too slow for this test");
}

#[tokio::test]
async fn a_client_that_expects_100_continue_and_half_closes_gets_its_answer() {
    let upstream = slow_upstream().await;
    let gateway = Gateway::before(&upstream.base_url());
    let mut client = gateway.connect().await;
    client.send(&request("expect: 100-continue\r\n", BODY.as_bytes())).await;
    client.stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    soon("the end", client.stream.read_to_end(&mut answer)).await.unwrap();
    assert!(answer.ends_with(LAST_CHUNK), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn a_half_closed_client_that_refuses_bytes_counts_as_gone() {
    let (tell, mut closings) = tokio::sync::mpsc::unbounded_channel();
    let mut upstream = Upstream::scripted(move |request| {
        let ((told, closed), (go, wait)) = (oneshot::channel(), oneshot::channel());
        tell.send((go, closed)).unwrap();
        let mut steps = vec![Step::Send([STREAM, &chunk(EVENT)].concat())];
        if request.body.ends_with(b"\"speak\"}") {
            steps.extend([Step::Wait(wait), Step::Send(chunk(EVENT))]);
        }
        steps.push(Step::UntilClosed(told));
        steps
    })
    .await;
    let gateway = Gateway::before(&upstream.base_url());
    for (nth, resets) in [(1.0, true), (2.0, false)] {
        let mut client = gateway.connect().await;
        let then = if resets { "silence" } else { "speak" };
        client.post(format!(r#"{{"model":"smart","stream":true,"then":"{then}"}}"#)).await;
        client.stream.shutdown().await.unwrap();
        upstream.request().await;
        client.head().await;
        assert_eq!(soon("an event", client.chunk()).await.unwrap(), EVENT);
        let (go, closed) = soon("the call", closings.recv()).await.unwrap();
        let left = Instant::now();
        if resets {
            // The kernel reports the reset by itself, even if nothing is written.
            client.stream.set_zero_linger().unwrap();
            drop(client);
        } else {
            // A close after a half-close shows nothing on the wire. The first byte that the client's kernel refuses
            // shows it.
            drop(client);
            go.send(()).unwrap();
        }
        soon("the upstream call to be cancelled", closed).await.unwrap();
        eprintln!("cancelled after {:?} (reset: {resets})", left.elapsed());
        gateway.metric_becomes(GONE, nth).await;
        gateway.metric_becomes("tidegate_connections ", 0.0).await;
    }
}

#[tokio::test]
#[ignore = "takes more than a minute: for so long the kernel of a client that is gone answers probes"]
async fn a_client_that_closed_right_after_its_request_is_detected_without_a_write() {
    let (told, closed) = oneshot::channel();
    let mut told = Some(told);
    let mut upstream = Upstream::scripted(move |_| vec![Step::UntilClosed(told.take().unwrap())]).await;
    let gateway = Gateway::before(&upstream.base_url());
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream.write_all(&request("", BODY.as_bytes())).await.unwrap();
    drop(stream);
    upstream.request().await;
    let left = Instant::now();
    tokio::time::timeout(Duration::from_secs(120), closed).await.unwrap().unwrap();
    eprintln!("cancelled after {:?}", left.elapsed());
    gateway.metric_becomes(GONE, 1.0).await;
}

#[tokio::test]
async fn a_half_closed_client_that_does_not_read_is_cut() {
    let (told, stalled) = oneshot::channel();
    let mut told = Some(told);
    let upstream = Upstream::scripted(move |_| {
        let told = told.take().unwrap();
        let flood = Step::Flood(chunk(&[b'x'; 16 * 1024]), Box::new(move || told.send(()).unwrap()));
        vec![Step::Send(STREAM.to_vec()), flood]
    })
    .await;
    let gateway = Gateway::with(&upstream.base_url(), |config| config.timeouts.write_stall = Duration::from_secs(1));
    let mut client = gateway.connect().await;
    client.post(BODY).await;
    client.stream.shutdown().await.unwrap();
    soon("the flood to stall", stalled).await.unwrap();
    gateway.metric_becomes("tidegate_requests_total{upstream=\"up\",end=\"client_stalled\"}", 1.0).await;
    gateway.metric_becomes("tidegate_connections ", 0.0).await;
}

#[tokio::test]
async fn a_half_closed_client_with_half_a_request_counts_as_gone() {
    let mut upstream = slow_upstream().await;
    let gateway = Gateway::before(&upstream.base_url());
    let whole = request("", BODY.as_bytes());
    for (nth, cut) in [(1.0, whole.len() - 5), (2.0, whole.len() - BODY.len())] {
        let mut client = gateway.connect().await;
        client.send(&whole[..cut]).await;
        client.stream.shutdown().await.unwrap();
        soon("the end of the connection", client.closed()).await;
        gateway.metric_becomes("tidegate_requests_total{upstream=\"\",end=\"client_gone\"}", nth).await;
    }
    // Half a head is no request.
    let mut client = gateway.connect().await;
    client.send(&whole[..30]).await;
    client.stream.shutdown().await.unwrap();
    soon("the end of the connection", client.closed()).await;
    gateway.metric_becomes("tidegate_connections ", 0.0).await;
    assert_eq!(upstream.untaken(), 0);
}

#[tokio::test]
async fn a_half_closed_client_of_a_key_with_drain_is_served() {
    let upstream = slow_upstream().await;
    let gateway = Gateway::with(&upstream.base_url(), |config| config.keys[0].on_client_gone = OnClientGone::Drain);
    assert_answers_after_half_close(gateway.connect().await, "a stream", &request("", BODY.as_bytes()), 1).await;
    gateway.metric_becomes("tidegate_requests_total{upstream=\"up\",end=\"completed\"}", 1.0).await;
}

#[tokio::test]
async fn a_graceful_shutdown_waits_for_a_half_closed_client() {
    let mut upstream = slow_upstream().await;
    let mut gateway = Gateway::before(&upstream.base_url());
    let mut client = gateway.connect().await;
    client.post(r#"{"model":"smart"}"#).await;
    client.stream.shutdown().await.unwrap();
    upstream.request().await;
    gateway.drain();
    let answer = client.answer().await;
    assert!(answer.status == 200 && answer.whole, "{answer:?}");
    gateway.ended().await;
    assert!(!gateway.handle.cut_requests());
}

/// `nc -N` sends its input, half-closes, and prints the answer.
#[tokio::test]
async fn many_concurrent_half_closed_clients_get_their_answers() {
    let upstream = slow_upstream().await;
    let gateway = Gateway::with(&upstream.base_url(), |config| config.server.workers = 2);
    let asked = (0..100).map(|_| {
        let address = gateway.address;
        tokio::spawn(async move {
            let stream = TcpStream::connect(address).await.unwrap();
            assert_answers_after_half_close(Client::on(stream), "one of many", &request("", BODY.as_bytes()), 1).await;
        })
    });
    for asked in asked.collect::<Vec<_>>() {
        soon("an answer", asked).await.unwrap();
    }
    assert_eq!(gateway.metric(GONE).await, 0.0);
}
