//! Connections to upstreams that end at the wrong moment: idle ones that the upstream closed, and answers that arrive
//! before the upstream has read the request.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tempfile::TempDir;
use tidegate::{
    config::{self, Config, Source},
    domain::{money::UNIT, spending::Spender},
    store::sql::{Database, DatabaseLocation, FILE, GroupBy, UsageTotal},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use crate::support::{
    client::Answer,
    database::until,
    gateway::{Gateway, KEY, config},
    settings::smallest,
    tls::TestCertificate,
    upstream::{RESPONSE, Step, Upstream, json},
};

const ROUNDS: usize = 200;

const BODY: &str = r#"{"model":"smart","input":"hi"}"#;

/// One upstream without retries that bills 1 CNY a call.
fn priced(base_url: &str) -> Config {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("tidegate.toml");
    let price = "[[prices]]\nupstream = \"up\"\nmodel = \"smart\"\ncurrency = \"CNY\"\nper_call = 1";
    let tables = format!("[log]\nlevel = \"off\"\n[routing]\nmax_attempts = 1\n{price}");
    let text = smallest(base_url, "workers = 1", &tables);
    std::fs::write(&file, text).unwrap();
    let env = |name: &str| match name {
        "UP_KEY" => Some("sk-test-upstream-secret".into()),
        "A_KEY" => Some(KEY.into()),
        _ => None,
    };
    config::load(&Source::File(file), &env).unwrap_or_else(|report| panic!("{report}")).config
}

/// The number of ledger rows, of rows with exact usage, and the total cost.
async fn rows(gateway: &Gateway) -> (u64, u64, u64) {
    let place = DatabaseLocation::Sqlite(gateway.folder.path().join(FILE));
    let Ok(mut database) = Database::open_to_read(&place).await else { return (0, 0, 0) };
    let Ok(totals) = database.usage(GroupBy::Key, 0, u64::MAX).await else { return (0, 0, 0) };
    let spent = database.spent(Spender::Key, "a", 0, u64::MAX).await.unwrap_or_default();
    let count = |rows: fn(&UsageTotal) -> u64| totals.iter().map(rows).sum();
    (count(|total| total.requests), count(|total| total.exact), spent.iter().sum())
}

/// What an upstream does with a connection after an answer.
#[derive(Clone, Copy, Debug)]
enum AfterAnswer {
    /// Closes the connection when the next request arrives.
    Closes,
    /// Resets the connection when the next request arrives.
    Resets,
    /// Closes the connection at once: the next request may be on its way, or not.
    ClosesAtOnce,
    /// Resets the connection at once.
    ResetsAtOnce,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_on_an_idle_connection_that_the_upstream_closed_is_sent_again_once_and_charged_once() {
    for does in [AfterAnswer::Closes, AfterAnswer::Resets, AfterAnswer::ClosesAtOnce, AfterAnswer::ResetsAtOnce] {
        let mut answered = HashSet::new();
        let upstream = Upstream::scripted(move |request| {
            let first = answered.insert(request.connection);
            let answer = Step::Send(json("200 OK", RESPONSE));
            match does {
                AfterAnswer::ClosesAtOnce => vec![answer, Step::Close],
                AfterAnswer::ResetsAtOnce => vec![answer, Step::Reset],
                _ if first => vec![answer],
                AfterAnswer::Closes => vec![Step::Close],
                AfterAnswer::Resets => vec![Step::Reset],
            }
        })
        .await;
        let gateway = Gateway::start(priced(&upstream.base_url()));
        let mut client = gateway.connect().await;
        for round in 0..ROUNDS {
            let answer = client.create(BODY).await;
            assert_eq!(answer.status, 200, "{does:?} {round}: {answer:?}");
        }
        let expected = (ROUNDS as u64, ROUNDS as u64, ROUNDS as u64 * UNIT);
        until("the rows", async || rows(&gateway).await.0 == ROUNDS as u64).await;
        assert_eq!(rows(&gateway).await, expected, "{does:?}");
        assert_eq!(gateway.metric_sum("tidegate_upstream_ejections_total").await, 0.0, "{does:?}");
    }
}

#[tokio::test]
async fn a_request_that_the_upstream_may_have_processed_is_not_sent_again() {
    type Steps = fn() -> Vec<Step>;
    let cases: [(&str, Steps, usize); 4] = [
        // A part of an answer arrived on a connection that had answered before.
        ("half a head", || vec![Step::Send(b"HTTP/1.1 2".to_vec()), Step::Close], 1),
        ("half a head, reset", || vec![Step::Send(b"HTTP/1.1 200 OK\r\n".to_vec()), Step::Reset], 1),
        // Nothing arrived, and nothing on the fresh connection either: Tidegate gives up.
        ("closes each", || vec![Step::Close], 2),
        ("resets each", || vec![Step::Reset], 2),
    ];
    for (what, steps, requests) in cases {
        let mut answers = 0;
        let mut upstream = Upstream::scripted(move |_| {
            answers += 1;
            if answers == 1 { vec![Step::Send(json("200 OK", RESPONSE))] } else { steps() }
        })
        .await;
        let gateway = Gateway::start(priced(&upstream.base_url()));
        let mut client = gateway.connect().await;
        assert_eq!(client.create(BODY).await.status, 200);
        client.create(BODY).await.assert_problem(502, "upstream_disconnected");
        assert_eq!(upstream.untaken(), 1 + requests, "{what}");
    }
    // A fresh connection that closes without an answer: the upstream may process the request that it received.
    for step in [Step::Close, Step::Reset] {
        let mut step = Some(step);
        let mut upstream = Upstream::scripted(move |_| step.take().into_iter().collect()).await;
        let gateway = Gateway::start(priced(&upstream.base_url()));
        gateway.connect().await.create(BODY).await.assert_problem(502, "upstream_disconnected");
        assert_eq!(upstream.untaken(), 1);
    }
}

/// If the fresh connection cannot be made, no model has worked.
#[tokio::test]
async fn a_request_that_is_lost_on_an_idle_connection_is_free_when_the_upstream_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}/up", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        drop(listener);
        read(&mut stream).await;
        stream.write_all(&json("200 OK", RESPONSE)).await.unwrap();
        read(&mut stream).await;
    });
    let gateway = Gateway::start(priced(&base_url));
    let mut client = gateway.connect().await;
    assert_eq!(client.create(BODY).await.status, 200);
    client.create(BODY).await.assert_problem(502, "upstream_unreachable");
    until("two rows", async || rows(&gateway).await.0 == 2).await;
    assert_eq!(rows(&gateway).await, (2, 2, UNIT));
}

async fn read(stream: &mut TcpStream) -> usize {
    let mut some = vec![0; 64 * 1024];
    stream.read(&mut some).await.unwrap_or(0)
}

/// An upstream that answers as soon as the head of a request arrives, reads nothing more, and closes. The rest of the
/// request then meets a reset.
async fn answering_early(answer: Vec<u8>, tls: Option<TlsAcceptor>) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let base_url = match tls {
        None => format!("http://{address}/up"),
        Some(_) => format!("https://localhost:{}/up", address.port()),
    };
    let count = Arc::new(AtomicUsize::new(0));
    let requests = Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            requests.fetch_add(1, Ordering::Relaxed);
            // Otherwise the system holds the answer back until the tickets of the handshake are acknowledged, and the
            // reset drops it.
            stream.set_nodelay(true).unwrap();
            let (answer, tls) = (answer.clone(), tls.clone());
            tokio::spawn(async move {
                match tls {
                    None => answer_early(stream, &answer).await,
                    Some(tls) => answer_early(tls.accept(stream).await.unwrap(), &answer).await,
                }
            });
        }
    });
    (base_url, count)
}

async fn answer_early(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &[u8]) {
    let mut head = [0; 1024];
    let _ = stream.read(&mut head).await;
    let _ = stream.write_all(answer).await;
    // The TLS stream buffers what was written until a flush.
    let _ = stream.flush().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_before_the_end_of_the_body_reaches_the_client_despite_a_reset() {
    assert_answer_despite_reset(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_over_tls_before_the_end_of_the_body_reaches_the_client_despite_a_reset() {
    assert_answer_despite_reset(Some(TestCertificate::new())).await;
}

async fn assert_answer_despite_reset(tls: Option<TestCertificate>) {
    let body = format!(r#"{{"model":"smart","input":"{}"}}"#, "x".repeat(900_000));
    let error = r#"{"error":{"message":"too large","type":"invalid_request_error","param":null,"code":"too_large"}}"#;
    type Expected = fn(&Answer);
    let cases: [(&str, &str, Expected); 3] = [
        ("413 Payload Too Large", "", |answer| {
            assert_eq!(
                (answer.status, answer.json()["error"]["code"].clone()),
                (413, "too_large".into()),
                "{answer:?}"
            );
        }),
        ("413 Payload Too Large", "connection: close\r\n", |answer| assert_eq!(answer.status, 413, "{answer:?}")),
        // A 401 is about Tidegate's credential and becomes `upstream_auth`, not a broken connection.
        ("401 Unauthorized", "", |answer| answer.assert_problem(502, "upstream_auth")),
    ];
    for (status, header, expected) in cases {
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{header}content-length: {}\r\n\r\n{error}",
            error.len()
        );
        let (base_url, requests) =
            answering_early(head.into_bytes(), tls.as_ref().map(TestCertificate::acceptor)).await;
        let mut config = config(&base_url);
        config.retries.max_attempts = 1;
        config.upstreams[0].ca_pem = tls.as_ref().map(|made| made.cert_pem.as_bytes().into());
        let gateway = Gateway::start(config);
        for _ in 0..ROUNDS {
            let answer = gateway.connect().await.create(&body).await;
            expected(&answer);
        }
        assert_eq!(requests.load(Ordering::Relaxed), ROUNDS, "{status}: each request was sent once");
    }
}
