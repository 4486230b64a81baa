//! HTTP/2, chosen by ALPN.

use std::{fs, future::poll_fn, pin::Pin, task::Poll, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    client::conn::http2::{Builder, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tempfile::TempDir;
use tidegate::config::{Config, OnClientGone};
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::Instant,
};
use tokio_rustls::client::TlsStream;

use crate::{
    reload::{TESTER, text},
    support::{
        client::Client,
        gateway::{Gateway, KEY, UPSTREAM_KEY, key},
        process::{Process, tidegate},
        say, soon,
        tls::TestCertificate,
        upstream::{LAST_CHUNK, RESPONSE, STREAM, Step, Upstream, chunk, json},
    },
};

const BODY: &str = r#"{"model":"smart","input":"hi","stream":true}"#;
const EVENT: &[u8] = b"data: {\"type\":\"response.output_text.delta\",\"delta\":\"x\"}\n\n";
const COMPLETED: &[u8] = b"data: {\"type\":\"response.completed\"}\n\n";
const SHORT: Duration = Duration::from_millis(300);
const GONE: &str = "tidegate_requests_total{upstream=\"up\",end=\"client_gone\"}";
const STALLED: &str = "tidegate_requests_total{upstream=\"up\",end=\"client_stalled\"}";
const IN_FLIGHT: &str = "tidegate_requests_in_flight";

/// A client's connection.
struct H2 {
    requests: SendRequest<Full<Bytes>>,
    connection: JoinHandle<hyper::Result<()>>,
}

impl Drop for H2 {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new());
    builder
}

fn post(body: &str) -> Request<Full<Bytes>> {
    Request::post("https://localhost/v1/responses")
        .header("authorization", format!("Bearer {KEY}"))
        .header("content-type", "application/json")
        .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
        .unwrap()
}

fn get(path: &str) -> Request<Full<Bytes>> {
    let uri = format!("https://localhost{path}");
    Request::get(uri).header("authorization", format!("Bearer {KEY}")).body(Full::default()).unwrap()
}

impl H2 {
    async fn with(gateway: &Gateway, made: &TestCertificate, builder: Builder<TokioExecutor>) -> Self {
        let stream = made.dial(gateway.address, &["h2", "http/1.1"]).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        Self::on(stream, builder).await
    }

    async fn on(stream: TlsStream<TcpStream>, builder: Builder<TokioExecutor>) -> Self {
        let (requests, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
        Self { requests, connection: tokio::spawn(connection) }
    }

    async fn connect(gateway: &Gateway, made: &TestCertificate) -> Self {
        Self::with(gateway, made, builder()).await
    }

    /// Sends a request. The caller awaits the answer later.
    fn ask(&self, request: Request<Full<Bytes>>) -> JoinHandle<hyper::Result<Response<Incoming>>> {
        let mut requests = self.requests.clone();
        tokio::spawn(async move {
            requests.ready().await?;
            requests.send_request(request).await
        })
    }

    async fn head(&self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        soon("the head of an answer", self.ask(request)).await.unwrap()
    }

    /// Sends a request and returns its whole answer.
    async fn whole(&self, request: Request<Full<Bytes>>) -> (u16, HeaderMap, Bytes) {
        let (head, body) = self.head(request).await.unwrap().into_parts();
        let body = soon("the body of an answer", body.collect()).await.unwrap();
        assert!(body.trailers().is_none());
        (head.status.as_u16(), head.headers, body.to_bytes())
    }

    /// Waits until the gateway ends the connection gracefully.
    async fn ended(&mut self) {
        soon("the end of the connection", &mut self.connection).await.unwrap().unwrap();
    }
}

/// A gateway with TLS, and its certificate.
fn gateway(upstream: &Upstream, change: impl FnOnce(&mut Config)) -> (Gateway, TestCertificate) {
    let made = TestCertificate::new();
    let gateway = Gateway::with(&upstream.base_url(), |config| {
        config.server.tls = made.identity();
        change(config);
    });
    (gateway, made)
}

/// An upstream that sends an event, and then nothing until its call is cancelled.
async fn patient() -> (Upstream, mpsc::UnboundedReceiver<oneshot::Receiver<()>>) {
    let (tell, closings) = mpsc::unbounded_channel();
    let upstream = Upstream::scripted(move |request| {
        let (told, closed) = oneshot::channel();
        tell.send(closed).unwrap();
        let first = if request.body.starts_with(b"{\"silent") { Vec::new() } else { [STREAM, &chunk(EVENT)].concat() };
        vec![Step::Send(first), Step::UntilClosed(told)]
    })
    .await;
    (upstream, closings)
}

/// The next bytes of a body. An empty frame ends a body and is skipped.
async fn next(body: &mut Incoming) -> Option<hyper::Result<Bytes>> {
    loop {
        match soon("a frame", body.frame()).await?.map(|frame| frame.into_data().unwrap()) {
            Ok(data) if data.is_empty() => {}
            other => return Some(other),
        }
    }
}

#[tokio::test]
async fn many_concurrent_streams_pass_byte_for_byte() {
    fn bytes(nth: usize) -> Vec<u8> {
        (0..(100_000 + nth * 7_000)).map(|n| u8::try_from((n * (nth + 3)) % 251).unwrap()).collect()
    }
    let upstream = Upstream::scripted(|request| {
        let text = String::from_utf8_lossy(&request.body);
        let nth = text.split('"').nth(7).unwrap().parse().unwrap();
        let mut steps = vec![Step::Send(STREAM.to_vec())];
        steps.extend(bytes(nth).chunks(100 + nth * 997).map(|piece| Step::Send(chunk(piece))));
        steps.push(Step::Send(LAST_CHUNK.to_vec()));
        steps
    })
    .await;
    let (gateway, made) = gateway(&upstream, |_| ());
    let client = H2::connect(&gateway, &made).await;
    // Until the server's settings arrive, the client only guesses the limit of streams.
    assert_eq!(client.whole(get("/healthz")).await.0, 200);
    for _ in 0..2 {
        // More than the limit of concurrent streams: the client queues the rest by itself.
        let asked = (0..48).map(|nth| {
            let answer = client.ask(post(&format!(r#"{{"model":"smart","input":"{nth}"}}"#)));
            tokio::spawn(async move {
                let body = answer.await.unwrap().unwrap().into_body().collect().await.unwrap();
                assert!(body.to_bytes() == bytes(nth), "stream {nth}");
            })
        });
        for asked in asked.collect::<Vec<_>>() {
            soon("a stream", asked).await.unwrap();
        }
    }
    assert_eq!(gateway.metric("tidegate_connections ").await, 1.0);
    gateway.metric_becomes("tidegate_requests_total{upstream=\"up\",end=\"incomplete\"}", 96.0).await;
}

#[tokio::test]
async fn answers_equal_those_over_http_1_without_connection_headers() {
    let upstream = Upstream::scripted(|request| {
        assert_eq!((request.header("connection"), request.header("te")), (None, None));
        let head = "HTTP/1.1 200 OK\r\nconnection: keep-alive, x-hop\r\nkeep-alive: timeout=5\r\nx-hop: 1\r\n\
                    content-type: application/json\r\ntransfer-encoding: chunked\r\ntrailer: x-late\r\n\r\n";
        let rest = [&chunk(RESPONSE.as_bytes())[..], b"0\r\nx-late: 1\r\n\r\n"].concat();
        vec![Step::Send(head.into()), Step::Send(rest)]
    })
    .await;
    let (gateway, made) = gateway(&upstream, |_| ());
    let client = H2::connect(&gateway, &made).await;
    let mut request = post(BODY);
    request.headers_mut().insert("te", "trailers".parse().unwrap());
    let (status, headers, body) = client.whole(request).await;
    assert_eq!((status, &*body), (200, RESPONSE.as_bytes()));
    for name in ["connection", "keep-alive", "x-hop", "transfer-encoding", "trailer"] {
        assert!(!headers.contains_key(name), "{name}");
    }
    assert!(headers.contains_key("x-tidegate-request-id"));
    // Tidegate's own answers, with a large request in between.
    assert_eq!(client.whole(get("/readyz")).await.0, 200);
    assert_eq!(client.whole(get("/v1/nothing")).await.0, 404);
    let large = format!(r#"{{"model":"smart","input":"{}"}}"#, "x".repeat(900_000));
    assert_eq!(client.whole(post(&large)).await.0, 200);
    // A too large body is refused before the gateway reads it. Other streams continue.
    let (status, headers, _) = client.whole(post(&format!("{large}{large}"))).await;
    assert_eq!((status, headers.contains_key("connection")), (413, false));
    assert_eq!(client.whole(post(BODY)).await.0, 200);
    // A head over the limit that the server announces.
    let mut request = post(BODY);
    request.headers_mut().insert("x-a", "x".repeat(20_000).parse().unwrap());
    let refused = client.head(request).await;
    assert!(refused.is_err() || refused.is_ok_and(|answer| answer.status() == 431));
    assert_eq!(client.whole(post(BODY)).await.0, 200);
    // CONNECT opens no tunnel.
    let connect = Request::connect("example.com:443").body(Full::default()).unwrap();
    assert!(client.head(connect).await.is_ok_and(|answer| answer.status().is_client_error()));
    assert_eq!(client.whole(post(BODY)).await.0, 200);
    assert_eq!(gateway.metric("tidegate_connections ").await, 1.0);
}

#[tokio::test]
async fn resetting_a_stream_cancels_only_the_call_of_that_stream() {
    let (upstream, mut closings) = patient().await;
    let (gateway, made) = gateway(&upstream, |_| ());
    let client = H2::connect(&gateway, &made).await;
    let mut stays = client.head(post(BODY)).await.unwrap().into_body();
    assert_eq!(next(&mut stays).await.unwrap().unwrap(), EVENT);
    let mut stays_open = closings.recv().await.unwrap();
    let mut best = [Duration::MAX; 3];
    let mut gone = 0.0;
    for nth in 0..9 {
        let how = nth % 3;
        // The client leaves inside the stream, before the head, and with the whole connection.
        let other = H2::connect(&gateway, &made).await;
        let asked = match how {
            0 => client.ask(post(BODY)),
            1 => client.ask(post(r#"{"silent":1,"model":"smart"}"#)),
            _ => other.ask(post(BODY)),
        };
        let closed = soon("the call", closings.recv()).await.unwrap();
        let left = if how == 1 {
            let left = Instant::now();
            asked.abort();
            left
        } else {
            let mut body = asked.await.unwrap().unwrap().into_body();
            assert_eq!(next(&mut body).await.unwrap().unwrap(), EVENT);
            let left = Instant::now();
            if how == 0 {
                drop(body);
            } else {
                drop(other);
            }
            left
        };
        soon("the upstream call to be cancelled", closed).await.unwrap();
        best[how] = best[how].min(left.elapsed());
        gone += 1.0;
        gateway.metric_becomes(GONE, gone).await;
    }
    eprintln!("cancelled after {best:?}");
    assert!(best.iter().all(|best| *best < Duration::from_millis(100)), "{best:?}");
    assert!(stays_open.try_recv().is_err(), "the wrong call was cancelled");
    assert_eq!(gateway.metric(IN_FLIGHT).await, 1.0);
}

#[tokio::test]
async fn a_stream_that_is_reset_is_drained_when_its_key_drains() {
    let (go, wait) = oneshot::channel();
    let (told, closed) = oneshot::channel();
    let usage =
        "data: {\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":3,\"output_tokens\":5}}}\n\n";
    let mut steps = Some(vec![
        Step::Send([STREAM, &chunk(EVENT)].concat()),
        Step::Wait(wait),
        Step::Send(chunk(usage.as_bytes())),
        Step::UntilClosed(told),
    ]);
    let upstream = Upstream::scripted(move |_| steps.take().unwrap()).await;
    let (gateway, made) = gateway(&upstream, |config| config.keys[0].on_client_gone = OnClientGone::Drain);
    let client = H2::connect(&gateway, &made).await;
    let mut body = client.head(post(BODY)).await.unwrap().into_body();
    assert_eq!(next(&mut body).await.unwrap().unwrap(), EVENT);
    drop(body);
    // The reset arrives before later frames of the same connection.
    assert_eq!(client.whole(get("/healthz")).await.0, 200);
    assert_eq!(gateway.metric(IN_FLIGHT).await, 1.0);
    go.send(()).unwrap();
    soon("the end of the call, which the upstream leaves open", closed).await.unwrap();
    gateway.metric_becomes(GONE, 1.0).await;
    assert_eq!(gateway.metric("tidegate_tokens_total{upstream=\"up\",kind=\"output\"}").await, 5.0);
}

#[tokio::test]
async fn a_break_of_the_upstream_resets_only_its_stream() {
    let upstream = Upstream::scripted(|request| {
        let first = Step::Send([STREAM, &chunk(EVENT)].concat());
        match request.body.starts_with(b"{\"break") {
            true => vec![first, Step::Reset],
            false => vec![first, Step::Send([&chunk(COMPLETED), LAST_CHUNK].concat())],
        }
    })
    .await;
    let (gateway, made) = gateway(&upstream, |_| ());
    let client = H2::connect(&gateway, &made).await;
    let mut body = client.head(post(r#"{"break":1,"model":"smart"}"#)).await.unwrap().into_body();
    assert_eq!(next(&mut body).await.unwrap().unwrap(), EVENT);
    next(&mut body).await.unwrap().unwrap_err();
    let whole = client.whole(post(BODY)).await;
    assert_eq!((whole.0, &*whole.2), (200, &*[EVENT, COMPLETED].concat()));
    gateway.metric_becomes("tidegate_requests_total{upstream=\"up\",end=\"upstream_broken\"}", 1.0).await;
}

/// An upstream that sends more than all buffers hold, or a small answer. The receiver learns when a call is cut.
async fn flooding() -> (Upstream, mpsc::UnboundedReceiver<oneshot::Receiver<()>>) {
    let (tell, closings) = mpsc::unbounded_channel();
    let upstream = Upstream::scripted(move |request| {
        if !request.body.starts_with(b"{\"flood") {
            return vec![Step::Send(json("200 OK", RESPONSE))];
        }
        let (told, closed) = oneshot::channel();
        tell.send(closed).unwrap();
        let mut steps = vec![Step::Send(STREAM.to_vec())];
        steps.extend((0..512).map(|_| Step::Send(chunk(&[b'x'; 64 * 1024]))));
        // When the gateway cuts the call, sending fails and this sender is dropped.
        steps.push(Step::UntilClosed(told));
        steps
    })
    .await;
    (upstream, closings)
}

const FLOOD: &str = r#"{"flood":1,"model":"smart"}"#;

#[tokio::test]
async fn a_stream_that_the_client_does_not_read_is_cut_and_others_continue() {
    let (upstream, mut closings) = flooding().await;
    let (gateway, made) = gateway(&upstream, |config| config.timeouts.write_stall = SHORT);
    let client = H2::connect(&gateway, &made).await;
    let mut unread = client.head(post(FLOOD)).await.unwrap().into_body();
    let mut closed = closings.recv().await.unwrap();
    // Requests on other streams are served meanwhile.
    let began = Instant::now();
    loop {
        assert_eq!(client.whole(post(BODY)).await.0, 200);
        match closed.try_recv() {
            Err(oneshot::error::TryRecvError::Empty) => {}
            cut => break assert!(cut.is_err(), "the gateway read everything"),
        }
        assert!(began.elapsed() < Duration::from_secs(20), "not cut");
    }
    assert!(began.elapsed() >= SHORT / 2, "{:?}", began.elapsed());
    gateway.metric_becomes(STALLED, 1.0).await;
    let reset = loop {
        match next(&mut unread).await {
            Some(Ok(_)) => {}
            other => break other,
        }
    };
    reset.unwrap().unwrap_err();
    assert_eq!(client.whole(post(BODY)).await.0, 200);
    assert_eq!(gateway.metric("tidegate_connections ").await, 1.0);
}

#[tokio::test]
async fn a_stream_with_a_window_of_zero_is_cut() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let (gateway, made) = gateway(&upstream, |config| config.timeouts.write_stall = SHORT);
    let mut narrow = builder();
    narrow.initial_stream_window_size(0);
    let client = H2::with(&gateway, &made, narrow).await;
    let mut body = client.head(post(BODY)).await.unwrap().into_body();
    next(&mut body).await.unwrap().unwrap_err();
    gateway.metric_becomes("tidegate_requests_total{upstream=\"up\",end=\"completed\"}", 1.0).await;
    // A model list is Tidegate's own answer, without an upstream.
    let mut body = client.head(get("/v1/models")).await.unwrap().into_body();
    next(&mut body).await.unwrap().unwrap_err();
}

#[tokio::test]
async fn a_stream_that_the_client_reads_slowly_is_served() {
    let upstream = Upstream::scripted(|_| {
        let mut steps = vec![Step::Send(STREAM.to_vec())];
        steps.extend((0..32).map(|_| Step::Send(chunk(&[b'x'; 16 * 1024]))));
        steps.push(Step::Send(LAST_CHUNK.to_vec()));
        steps
    })
    .await;
    let (gateway, made) = gateway(&upstream, |config| config.timeouts.write_stall = SHORT * 2);
    let mut narrow = builder();
    narrow.initial_stream_window_size(64 * 1024);
    let client = H2::with(&gateway, &made, narrow).await;
    let mut body = client.head(post(BODY)).await.unwrap().into_body();
    let (began, mut len) = (Instant::now(), 0);
    while let Some(data) = next(&mut body).await {
        len += data.unwrap().len();
        tokio::time::sleep(SHORT / 6).await;
    }
    assert_eq!(len, 512 * 1024);
    assert!(began.elapsed() > SHORT * 4, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_cut_with_all_its_streams() {
    let (upstream, mut closings) = flooding().await;
    let (gateway, made) = gateway(&upstream, |config| config.timeouts.write_stall = SHORT);
    let stream = made.dial(gateway.address, &["h2"]).await.unwrap();
    let mut wide = h2::client::Builder::new();
    wide.initial_window_size(16 << 20).initial_connection_window_size(64 << 20);
    let (mut requests, mut connection) = wide.handshake(stream).await.unwrap();
    let mut answers = Vec::new();
    for _ in 0..3 {
        let mut request = post(FLOOD).map(|_| ());
        request.headers_mut().remove("content-length");
        let (answer, mut body) = requests.send_request(request, false).unwrap();
        body.send_data(Bytes::from_static(FLOOD.as_bytes()), true).unwrap();
        answers.push(answer);
    }
    // The client reads until all requests are in progress, and then never again.
    for _ in 0..3 {
        tokio::select! {
            over = &mut connection => panic!("{over:?}"),
            _ = soon("a call", closings.recv()) => {}
        }
    }
    gateway.metric_becomes("tidegate_connections_cut_total{deadline=\"write_stall\"}", 1.0).await;
    gateway.metric_becomes(STALLED, 3.0).await;
    gateway.metric_becomes(IN_FLIGHT, 0.0).await;
    gateway.metric_becomes("tidegate_connections ", 0.0).await;
}

#[tokio::test]
async fn a_graceful_shutdown_lets_streams_finish_and_accepts_no_more() {
    let (go, gate) = oneshot::channel();
    let mut gate = Some(gate);
    let upstream = Upstream::scripted(move |_| {
        let rest = [&chunk(COMPLETED), LAST_CHUNK].concat();
        vec![Step::Send([STREAM, &chunk(EVENT)].concat()), Step::Wait(gate.take().unwrap()), Step::Send(rest)]
    })
    .await;
    let (mut gateway, made) = gateway(&upstream, |_| ());
    let mut idle = H2::connect(&gateway, &made).await;
    assert_eq!(idle.whole(get("/readyz")).await.0, 200);
    let mut busy = H2::connect(&gateway, &made).await;
    let mut body = busy.head(post(BODY)).await.unwrap().into_body();
    assert_eq!(next(&mut body).await.unwrap().unwrap(), EVENT);
    let began = Instant::now();
    gateway.drain();
    idle.ended().await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    go.send(()).unwrap();
    assert_eq!(next(&mut body).await.unwrap().unwrap(), COMPLETED);
    assert!(next(&mut body).await.is_none());
    busy.ended().await;
    gateway.ended().await;
    assert!(!gateway.handle.cut_requests());
}

#[tokio::test]
async fn before_the_drain_each_connection_ends_with_its_next_request() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let (mut gateway, made) = gateway(&upstream, |_| ());
    let mut client = H2::connect(&gateway, &made).await;
    assert_eq!(client.whole(post(BODY)).await.0, 200);
    gateway.announce_shutdown();
    let (status, headers, _) = client.whole(post(BODY)).await;
    assert_eq!((status, headers.get("connection")), (200, None));
    client.ended().await;
    // A client that connects again is served.
    let mut client = H2::connect(&gateway, &made).await;
    assert_eq!(client.whole(get("/readyz")).await.0, 503);
    client.ended().await;
    gateway.drain();
    gateway.ended().await;
}

#[tokio::test]
async fn a_stop_breaks_streams() {
    let (upstream, mut closings) = patient().await;
    let (mut gateway, made) = gateway(&upstream, |_| ());
    let client = H2::connect(&gateway, &made).await;
    let mut bodies = Vec::new();
    for _ in 0..3 {
        let mut body = client.head(post(BODY)).await.unwrap().into_body();
        assert_eq!(next(&mut body).await.unwrap().unwrap(), EVENT);
        bodies.push((body, closings.recv().await.unwrap()));
    }
    gateway.stop();
    for (mut body, closed) in bodies {
        next(&mut body).await.unwrap().unwrap_err();
        soon("the upstream call to be cancelled", closed).await.unwrap();
    }
    gateway.ended().await;
    assert!(gateway.handle.cut_requests());
}

#[tokio::test]
async fn a_process_logs_the_streams_that_it_cut() {
    let (upstream, mut closings) = patient().await;
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (cert, key, file) = (at("tls.crt"), at("tls.key"), at("tidegate.toml"));
    let made = TestCertificate::new();
    made.write(&cert, &key);
    let tls = format!("tls = {{ cert_file = {cert:?}, key_file = {key:?} }}\n[timeouts]\ndrain_timeout_s = 0");
    fs::write(&file, text(&tls, &[("up", &upstream.base_url())], TESTER)).unwrap();
    let mut command = tidegate(folder.path());
    command.args(["serve", "--config"]).arg(&file).env("UP_KEY", UPSTREAM_KEY).env("TESTER", KEY);
    let mut process = Process::start(&mut command);
    let stream = made.dial(process.ready(), &["h2"]).await.unwrap();
    let client = H2::on(stream, builder()).await;
    let mut body = client.head(post(BODY)).await.unwrap().into_body();
    assert_eq!(next(&mut body).await.unwrap().unwrap(), EVENT);
    process.signal("INT");
    soon("the upstream call to be cancelled", closings.recv().await.unwrap()).await.unwrap();
    process.line(|line| line.contains("\"end\":\"gateway_stop\""));
    assert_eq!(process.exit(), Some(1));
}

#[tokio::test]
async fn an_idle_connection_ends_gracefully() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let (gateway, made) = gateway(&upstream, |config| {
        config.timeouts.keep_alive_idle = SHORT;
        // This deadline does not apply after the first bytes.
        config.timeouts.first_byte = SHORT * 5;
    });
    for asks in [true, false] {
        let mut client = H2::connect(&gateway, &made).await;
        if asks {
            assert_eq!(client.whole(post(BODY)).await.0, 200);
        }
        let since = Instant::now();
        client.ended().await;
        assert!(since.elapsed() < SHORT * 5, "{:?}", since.elapsed());
    }
    gateway.metric_becomes("tidegate_connections_cut_total{deadline=\"keep_alive_idle\"}", 2.0).await;
    // A client that ignores GOAWAY is cut, also one that never sent its preface.
    let mut mute = made.dial(gateway.address, &["h2"]).await.unwrap();
    let mut heard = Vec::new();
    let _ = soon("the end", mute.read_to_end(&mut heard)).await;
    gateway.metric_becomes("tidegate_connections_cut_total{deadline=\"goaway\"}", 1.0).await;
}

#[tokio::test]
async fn additional_streams_of_a_connection_take_connection_slots_and_release_them() {
    let (upstream, mut closings) = patient().await;
    let (gateway, made) = gateway(&upstream, |config| config.server.max_connections = 3);
    let client = H2::connect(&gateway, &made).await;
    for _ in 0..3 {
        let mut bodies = Vec::new();
        for _ in 0..3 {
            let mut body = client.head(post(BODY)).await.unwrap().into_body();
            assert_eq!(next(&mut body).await.unwrap().unwrap(), EVENT);
            bodies.push((body, closings.recv().await.unwrap()));
        }
        let refused = client.head(post(BODY)).await.unwrap_err();
        let reason = std::error::Error::source(&refused).and_then(|error| error.downcast_ref::<h2::Error>());
        assert_eq!(reason.and_then(h2::Error::reason), Some(h2::Reason::REFUSED_STREAM), "{refused:?}");
        for (body, closed) in bodies {
            drop(body);
            soon("the upstream call to be cancelled", closed).await.unwrap();
        }
        gateway.metric_becomes(IN_FLIGHT, 0.0).await;
    }
    assert_eq!(gateway.metric("tidegate_streams_refused_total").await, 3.0);
    let (one, other) = (made.connect(&gateway).await, made.connect(&gateway).await);
    gateway.metric_becomes("tidegate_connections ", 3.0).await;
    drop((one, other));
}

#[tokio::test]
async fn thousands_of_resets_leave_no_slot_or_call_behind() {
    let (upstream, mut closings) = patient().await;
    let (gateway, made) = gateway(&upstream, |config| config.server.max_connections = 40);
    let mut reset = 0;
    while reset < 2000 {
        let mut client = H2::connect(&gateway, &made).await;
        // Until the gateway closes the connection of this client.
        while reset < 2000 {
            if poll_fn(|cx| client.requests.poll_ready(cx)).await.is_err() {
                break;
            }
            let mut asked = Box::pin(client.requests.send_request(post(BODY)));
            let polled = poll_fn(|cx| Poll::Ready(Pin::new(&mut asked).poll(cx))).await;
            // Some requests reach the gateway before the client gives up, some do not.
            if reset % 7 == 0 {
                tokio::task::yield_now().await;
            }
            drop((polled, asked));
            reset += 1;
        }
    }
    gateway.metric_becomes(IN_FLIGHT, 0.0).await;
    gateway.metric_becomes("tidegate_connections ", 0.0).await;
    while let Ok(closed) = closings.try_recv() {
        // The sender reports the end, or was dropped with a call that never began.
        let _ = soon("the upstream call to be cancelled", closed).await;
    }
    // Every slot is free again.
    let client = H2::connect(&gateway, &made).await;
    let mut bodies = Vec::new();
    for _ in 0..32 {
        bodies.push(client.head(post(BODY)).await.unwrap().into_body());
    }
    assert_eq!(gateway.metric("tidegate_panics_total").await, 0.0);
}

#[tokio::test]
async fn only_clients_that_offer_http_2_get_it() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let (gateway, made) = gateway(&upstream, |_| ());
    for alpn in [&["http/1.1"][..], &[]] {
        let stream = made.dial(gateway.address, alpn).await.unwrap();
        assert_eq!(Client::on(stream).create(BODY).await.status, 200);
    }
    // Over HTTP/1.1, the preface of HTTP/2 is an invalid request.
    let mut client = made.connect(&gateway).await;
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 400);
}

/// A gateway that refuses at once: for the key (401), the length (413), a limit (429), the path (404), and in the
/// middle of a body that is no JSON (400).
async fn refusing() -> (Upstream, Gateway, TestCertificate) {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let (gateway, made) = gateway(&upstream, |config| {
        let mut limited = key("limited", "sk-limited");
        limited.limits.requests = Some(1);
        config.keys.push(limited);
    });
    let mut first = made.connect(&gateway).await;
    first.send("GET /v1/responses/resp_1 HTTP/1.1\r\nhost: t\r\nauthorization: Bearer sk-limited\r\n\r\n").await;
    first.answer().await;
    (upstream, gateway, made)
}

/// Key, path, bytes of the body, and the expected status.
const REFUSED: [(&str, &str, usize, u16); 6] = [
    ("sk-nobody", "/v1/responses", 600_000, 401),
    ("sk-nobody", "/v1/responses", 3_000_000, 401),
    (KEY, "/v1/responses", 3_000_000, 413),
    ("sk-limited", "/v1/responses", 900_000, 429),
    (KEY, "/v1/nothing", 3_000_000, 404),
    (KEY, "/v1/responses", 900_000, 400),
];

/// Curl of Debian 12 (7.88) treats a reset behind an answer as a failure.
#[tokio::test]
async fn curl_receives_every_early_error() {
    const TRIES: usize = 10;
    if std::process::Command::new("curl").arg("--version").output().is_err() {
        return say("curl is not here: early refusals over HTTP/2 are not tried with it");
    }
    let (_upstream, gateway, made) = refusing().await;
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("ca.pem"), &made.cert_pem).unwrap();
    let mut failed = Vec::new();
    for (key, path, length, status) in REFUSED {
        let file = folder.path().join("body");
        fs::write(&file, vec![b'x'; length]).unwrap();
        for _ in 0..TRIES {
            let mut curl = std::process::Command::new("curl");
            curl.args([
                "--http2",
                "--silent",
                "--show-error",
                "--max-time",
                "10",
                "--write-out",
                "%{http_version} %{http_code}",
            ]);
            curl.arg("--cacert").arg(folder.path().join("ca.pem")).arg("--output").arg(folder.path().join("answer"));
            curl.args([
                "--header",
                &format!("authorization: Bearer {key}"),
                "--header",
                "content-type: application/json",
            ]);
            curl.arg("--data-binary").arg(format!("@{}", file.display()));
            let port = gateway.address.port();
            curl.arg(format!("https://localhost:{port}{path}"));
            let done = tokio::task::spawn_blocking(move || curl.output().unwrap()).await.unwrap();
            let (said, code) = (String::from_utf8_lossy(&done.stdout).into_owned(), done.status.code());
            let answer = fs::read_to_string(folder.path().join("answer")).unwrap_or_default();
            if code != Some(0) || said != format!("2 {status}") || !answer.contains("\"error\"") {
                failed.push(format!(
                    "{status} after {length} bytes: exit {code:?}, {said}, {:?}",
                    String::from_utf8_lossy(&done.stderr)
                ));
            }
        }
    }
    assert!(failed.is_empty(), "{} of {}: {failed:#?}", failed.len(), TRIES * REFUSED.len());
    gateway.metric_becomes("tidegate_connections ", 0.0).await;
}

/// Node's HTTP/2 client sends a body to its end, whatever the answer is.
#[tokio::test]
async fn node_receives_every_early_error() {
    if std::process::Command::new("node").arg("--version").output().is_err() {
        return say("Node.js is not here: early refusals over HTTP/2 are not tried with it");
    }
    let (_upstream, gateway, made) = refusing().await;
    let folder = TempDir::new().unwrap();
    let (ca, script) = (folder.path().join("ca.pem"), folder.path().join("ask.mjs"));
    fs::write(&ca, &made.cert_pem).unwrap();
    fs::write(
        &script,
        r#"import http2 from "node:http2";
import fs from "node:fs";
const [origin, ca, key, path, length] = process.argv.slice(2);
const session = http2.connect(origin, { ca: fs.readFileSync(ca) });
session.on("error", (error) => { console.log("session", error.code); process.exit(1); });
const stream = session.request({ ":method": "POST", ":path": path, authorization: `Bearer ${key}`, "content-length": length });
let status = 0, text = "";
stream.on("response", (headers) => { status = headers[":status"]; });
stream.on("data", (data) => { text += data; });
stream.on("error", (error) => { console.log("stream", error.code); process.exit(1); });
stream.on("close", () => { console.log(status, JSON.parse(text).error.code ? "whole" : "broken"); session.close(); });
stream.end(Buffer.alloc(Number(length), "x"));
"#,
    )
    .unwrap();
    for (key, path, length, status) in REFUSED {
        let mut node = std::process::Command::new("node");
        node.arg(&script).arg(format!("https://localhost:{}", gateway.address.port())).arg(&ca);
        node.args([key, path, &length.to_string()]);
        let done = soon("Node.js", tokio::task::spawn_blocking(move || node.output().unwrap())).await.unwrap();
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(
            done.status.success() && said == format!("{status} whole\n"),
            "{status}, {length} bytes: {said} {done:?}"
        );
    }
}

/// A client that continues to send after its answer is neither reset nor blocked, and its connection stays.
#[tokio::test]
async fn the_rest_of_a_refused_body_is_read_and_dropped() {
    let (_upstream, gateway, made) = refusing().await;
    let stream = made.dial(gateway.address, &["h2"]).await.unwrap();
    let (requests, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    for (key, path, length, status) in REFUSED {
        let request =
            Request::post(format!("https://localhost{path}")).header("authorization", format!("Bearer {key}"));
        let (answer, mut body) =
            requests.clone().ready().await.unwrap().send_request(request.body(()).unwrap(), false).unwrap();
        // From the first byte the gateway sees that the body is no JSON. The answer is complete before the client sends
        // the rest.
        body.send_data(Bytes::from_static(b"x"), false).unwrap();
        let mut answer = soon("a refusal", answer).await.unwrap();
        // Without a length, no body is too large from the start.
        assert_eq!(answer.status(), if status == 413 { 400 } else { status });
        while let Some(data) = soon("the answer", answer.body_mut().data()).await {
            let _ = answer.body_mut().flow_control().release_capacity(data.unwrap().len());
        }
        let mut left = length - 1;
        while left > 0 {
            body.reserve_capacity(left.min(64 * 1024));
            let room = soon("room", poll_fn(|cx| body.poll_capacity(cx))).await.unwrap().unwrap().min(left);
            left -= room;
            body.send_data(Bytes::from(vec![b'x'; room]), left == 0).unwrap();
        }
    }
    connection.abort();
    gateway.metric_becomes("tidegate_connections ", 0.0).await;
}

/// A client that stops in the middle of its body after the answer: the stream ends after a while, without an error.
#[tokio::test]
async fn a_refused_body_that_never_ends_has_its_stream_ended() {
    let (_upstream, gateway, made) = refusing().await;
    let stream = made.dial(gateway.address, &["h2"]).await.unwrap();
    let (requests, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::post("https://localhost/v1/responses").header("authorization", "Bearer sk-nobody");
    let mut requests = requests.ready().await.unwrap();
    let (answer, mut body) = requests.send_request(request.body(()).unwrap(), false).unwrap();
    body.send_data(Bytes::from_static(b"x"), false).unwrap();
    let answered = Instant::now();
    assert_eq!(soon("a refusal", answer).await.unwrap().status(), 401);
    let reason = soon("the end of the stream", poll_fn(|cx| body.poll_reset(cx))).await.unwrap();
    assert_eq!(reason, h2::Reason::NO_ERROR);
    assert!(answered.elapsed() > Duration::from_secs(1), "{:?}", answered.elapsed());
    connection.abort();
}
