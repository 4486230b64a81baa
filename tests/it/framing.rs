//! Requests whose head or body could be read in two ways are refused before any part of the gateway acts on one
//! reading. Unusual but valid requests pass.

use crate::support::{
    client::{Answer, Client, request},
    gateway::{Gateway, KEY},
    upstream::{RESPONSE, Step, Upstream, json},
};

const BODY: &str = r#"{"model":"smart","input":"hi"}"#;

/// A request that would go up if the gateway read the bytes in another way.
const SMUGGLED: &str = "POST /v1/responses HTTP/1.1\r\nhost: t\r\nauthorization: Bearer sk-test-client-key\r\n\
    content-length: 17\r\n\r\n{\"model\":\"smart\"}";

/// `POST /v1/responses` with these header lines, which include Host, and this body.
fn post(headers: &str, body: &str) -> String {
    format!("POST /v1/responses HTTP/1.1\r\n{headers}authorization: Bearer {KEY}\r\n\r\n{body}")
}

/// The same with a Host line and a chunked body.
fn chunked(body: &str) -> String {
    post("host: t\r\ntransfer-encoding: chunked\r\n", body)
}

/// Checks an error of the connection layer, which gives no request id.
#[track_caller]
fn assert_refused(answer: &Answer, status: u16, code: &str, what: &str) {
    assert_eq!((answer.status, answer.whole), (status, true), "{what}: {answer:?}");
    let error = &answer.json()["error"];
    assert_eq!(error.as_object().unwrap().len(), 4, "{what}: {answer:?}");
    assert_eq!((&error["type"], &error["code"]), (&"invalid_request_error".into(), &code.into()), "{what}: {answer:?}");
    assert!(error["param"].is_null() && error["message"].as_str().is_some_and(|message| !message.is_empty()));
    assert_eq!(answer.header("content-type"), Some("application/json"), "{what}");
    assert_eq!(answer.header("connection"), Some("close"), "{what}");
    assert_eq!(answer.header("x-should-retry"), Some("false"), "{what}");
}

async fn upstream() -> Upstream {
    Upstream::fixed(json("200 OK", RESPONSE)).await
}

/// Heads with headers that contradict each other or themselves, with the reason.
fn contradictory() -> Vec<(&'static str, Vec<String>)> {
    let sized = |headers: &str| post(&format!("host: t\r\n{headers}"), BODY);
    vec![
        (
            "host",
            vec![
                post("content-length: 30\r\n", BODY),
                "GET /v1/models HTTP/1.1\r\n\r\n".into(),
                sized("host: t\r\ncontent-length: 30\r\n"),
                sized("content-length: 30\r\nHost: u\r\n"),
                post("host: a b\r\ncontent-length: 30\r\n", BODY),
                post("host: a, b\r\ncontent-length: 30\r\n", BODY),
                post("host: a,b\r\ncontent-length: 30\r\n", BODY),
                post("host: a/?\r\ncontent-length: 30\r\n", BODY),
                post("host: user@a\r\ncontent-length: 30\r\n", BODY),
                "GET /v1/models HTTP/1.0\r\nhost: a\r\nhost: a\r\n\r\n".into(),
            ],
        ),
        (
            "two_lengths",
            vec![
                sized("content-length: 30\r\ntransfer-encoding: chunked\r\n"),
                sized("transfer-encoding: chunked\r\ncontent-length: 5\r\n"),
                post("host: t\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n", &format!("0\r\n\r\n{SMUGGLED}")),
            ],
        ),
        (
            "transfer_encoding",
            vec![
                sized("transfer-encoding: gzip, chunked\r\n"),
                sized("transfer-encoding: chunked, chunked\r\n"),
                sized("transfer-encoding: chunked, identity\r\n"),
                sized("transfer-encoding: identity\r\n"),
                sized("transfer-encoding: gzip\r\n"),
                sized("transfer-encoding:\r\n"),
                sized("transfer-encoding: \"chunked\"\r\n"),
                sized("transfer-encoding: xchunked\r\n"),
                sized("transfer-encoding: chunkedx\r\n"),
                sized("transfer-encoding: chunked;q=1\r\n"),
                sized("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n"),
                sized("transfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n"),
                sized("transfer-encoding: chunked\r\nTransfer-Encoding: x\r\n"),
                sized("transfer-encoding: \x0bchunked\r\n"),
                format!(
                    "POST /v1/responses HTTP/1.0\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}"
                ),
            ],
        ),
        (
            "content_length",
            vec![
                sized("content-length: 30\r\ncontent-length: 30\r\n"),
                sized("content-length: 30\r\ncontent-length: 31\r\n"),
                sized("content-length: 30, 30\r\n"),
                sized("content-length: +30\r\n"),
                sized("content-length: -1\r\n"),
                sized("content-length: 0x1e\r\n"),
                sized("content-length: 3 0\r\n"),
                sized("content-length: 30.0\r\n"),
                sized("content-length: \r\n"),
                sized("content-length: 99999999999999999999\r\n"),
            ],
        ),
    ]
}

/// Heads that cannot be parsed, with the reason.
fn unreadable() -> Vec<(&'static str, Vec<String>)> {
    let sized = |headers: &str| post(&format!("host: t\r\n{headers}"), BODY);
    let get = |rest: &str| format!("GET /v1/models HTTP/1.1{rest}");
    let line = |line: &str| format!("{line}\r\nhost: t\r\nauthorization: Bearer {KEY}\r\n\r\n");
    vec![
        (
            "line_ending",
            vec![
                "GET /v1/models HTTP/1.1\nhost: t\r\n\r\n".into(),
                "GET /v1/models HTTP/1.1\r\nhost: t\n\r\n".into(),
                "GET /v1/models HTTP/1.1\r\nhost: t\r\n\n".into(),
                "GET /v1/models HTTP/1.1\nhost: t\n\n".into(),
                "\nGET /v1/models HTTP/1.1\r\nhost: t\r\n\r\n".into(),
                sized("x-a: b\rcontent-length: 30\r\n"),
                sized("x-a: b\r\rcontent-length: 30\r\n"),
                sized("x-a: b\ncontent-length: 30\r\n"),
                "GET /v1/models HTTP/1.1\rhost: t\r\r".into(),
                get("\r\nhost: t\r\n\rX"),
            ],
        ),
        (
            "folding",
            vec![
                sized("x-a: b\r\n content-length: 30\r\n"),
                sized("x-a: b\r\n\tc\r\ncontent-length: 30\r\n"),
                get("\r\n host: t\r\n\r\n"),
            ],
        ),
        (
            "header",
            vec![
                sized("x-a: b\0c\r\n"),
                sized("x-\0a: b\r\n"),
                sized("x-a: \x7f\r\n"),
                sized("x-a: \x1b[0m\r\n"),
                sized("content-length : 30\r\n"),
                sized("content-length\t: 30\r\n"),
                sized("transfer-encoding : chunked\r\n"),
                sized("x-a\r\n"),
                sized(": b\r\n"),
                sized("x a: b\r\n"),
                sized("x-é: b\r\n"),
                sized("x(a): b\r\n"),
            ],
        ),
        (
            "request_line",
            vec![
                line("GET /v1/models"),
                line("GET  /v1/models HTTP/1.1"),
                line("GET /v1/models  HTTP/1.1"),
                line("GET /v1/models HTTP/1.1 "),
                line(" GET /v1/models HTTP/1.1"),
                line("GET\t/v1/models HTTP/1.1"),
                line("GET /v1/models HTTP/2.0"),
                line("GET /v1/models HTTP/1.2"),
                line("GET /v1/models http/1.1"),
                line("GET /v1/models HTTP/1.10"),
                line("GET /v1/models#x HTTP/1.1"),
                line("GET /v1/mod\u{e9}ls HTTP/1.1"),
                line("G@T /v1/models HTTP/1.1"),
                line("GET v1/models HTTP/1.1"),
                "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(),
                "\x16\x03\x01\x02\x00\x01\x00\x01\u{fc}\x03\x03".into(),
            ],
        ),
    ]
}

#[tokio::test]
async fn a_malformed_head_is_answered_and_never_goes_up() {
    let mut upstream = upstream().await;
    let gateway = Gateway::before(&upstream.base_url());
    for (reason, probes) in contradictory().into_iter().chain(unreadable()) {
        let count = probes.len();
        for probe in probes {
            // The head arrives at once with a second request behind it, or byte by byte.
            for slowly in [false, true] {
                let mut client = gateway.connect().await;
                if slowly {
                    drip(&mut client, probe.as_bytes()).await;
                } else {
                    client.send(format!("{probe}{SMUGGLED}")).await;
                }
                assert_refused(&client.answer().await, 400, "invalid_framing", &probe);
                assert!(client.closed().await, "{probe}");
            }
        }
        let name = format!("tidegate_requests_malformed_total{{reason=\"{reason}\"}}");
        gateway.metric_becomes(&name, (2 * count) as f64).await;
    }
    upstream.assert_untouched(&gateway, "a malformed head").await;
}

/// Sends one byte at a time, and stops when the other side refuses one.
async fn drip(client: &mut Client, bytes: &[u8]) {
    use tokio::io::AsyncWriteExt;
    for byte in bytes {
        if client.stream.write_all(&[*byte]).await.is_err() {
            return;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_too_large_head_is_answered() {
    let mut upstream = upstream().await;
    let gateway = Gateway::before(&upstream.base_url());
    let large = "a".repeat(64 * 1024);
    let many = "x-a: b\r\n".repeat(100);
    for probe in [
        post(&format!("host: t\r\ncontent-length: 30\r\nx-a: {large}\r\n"), BODY),
        post(&format!("host: t\r\ncontent-length: 30\r\n{large}: b\r\n"), BODY),
        post(&format!("host: t\r\ncontent-length: 30\r\n{many}"), BODY),
        format!("GET /v1/models?{large} HTTP/1.1\r\nhost: t\r\n\r\n"),
        format!("GET http://t/{large} HTTP/1.1\r\nhost: t\r\n\r\n"),
        "\r\n".repeat(33 * 1024),
        // This head does not end. The answer comes all the same.
        format!("GET /v1/models HTTP/1.1\r\nx-a: {large}"),
    ] {
        let mut client = gateway.connect().await;
        client.send(&probe).await;
        assert_refused(&client.answer().await, 431, "head_too_large", &probe[..60]);
        assert!(client.closed().await);
    }
    gateway.metric_becomes("tidegate_requests_malformed_total{reason=\"head_too_large\"}", 7.0).await;
    upstream.assert_untouched(&gateway, "a head that is too large").await;
    // The largest head that passes.
    let head = format!("GET /v1/models HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {KEY}\r\nx-a: \r\n\r\n");
    let filler = "a".repeat(64 * 1024 - head.len());
    let mut client = gateway.connect().await;
    client.send(head.replace("x-a: ", &format!("x-a: {filler}"))).await;
    assert_eq!(client.answer().await.status, 200);
}

#[tokio::test]
async fn malformed_chunks_are_answered_and_nothing_goes_up() {
    let mut upstream = upstream().await;
    let gateway = Gateway::before(&upstream.base_url());
    let whole = format!("1e\r\n{BODY}\r\n");
    let probes = [
        "zz\r\n".into(),
        "\r\n".into(),
        ";a\r\n".into(),
        " 1e\r\n".into(),
        "1e \r\n".into(),
        "0x1e\r\n".into(),
        "-1\r\n".into(),
        "+1e\r\n".into(),
        "1_0\r\n".into(),
        "11111111111111111\r\n".into(),
        format!("1e\n{BODY}\r\n0\r\n\r\n"),
        format!("1e\r{BODY}\r\n0\r\n\r\n"),
        format!("1e;a\nb\r\n{BODY}\r\n0\r\n\r\n"),
        format!("1e;a\rb\r\n{BODY}\r\n0\r\n\r\n"),
        format!("1e;a\0b\r\n{BODY}\r\n0\r\n\r\n"),
        format!("1e;{}\r\n{BODY}\r\n0\r\n\r\n", "a".repeat(5000)),
        format!("1e\r\n{BODY}\n0\r\n\r\n"),
        format!("1e\r\n{BODY}\r0\r\n\r\n"),
        format!("1e\r\n{BODY}0\r\n\r\n"),
        format!("1d\r\n{BODY}\r\n0\r\n\r\n"),
        format!("1f\r\n{BODY}\r\n0\r\n\r\n"),
        format!("{whole}0\n\r\n"),
        format!("{whole}0\r\n\n"),
        format!("{whole}0\r\n\rX"),
        format!("{whole}0\r\nx-a: b\n\r\n"),
        format!("{whole}0\r\nx-a\r\n\r\n"),
        format!("{whole}0\r\n x-a: b\r\n\r\n"),
        format!("{whole}0\r\nx-a: \0\r\n\r\n"),
        format!("{whole}0\r\nhost: t\r\n\r\n"),
        format!("{whole}0\r\ncontent-length: 30\r\n\r\n"),
        format!("{whole}0\r\ntransfer-encoding: chunked\r\n\r\n"),
        format!("{whole}0\r\nx-a: {}\r\n\r\n", "b".repeat(9000)),
        format!("{whole}0\r\n{SMUGGLED}"),
    ];
    let count = probes.len();
    for probe in probes {
        for slowly in [false, true] {
            let mut client = gateway.connect().await;
            if slowly {
                drip(&mut client, chunked(&probe).as_bytes()).await;
            } else {
                client.send(format!("{}{SMUGGLED}", chunked(&probe))).await;
            }
            let answer = client.answer().await;
            // The head was valid, so the request has an id.
            answer.assert_final(400, "invalid_framing", true);
            assert_eq!(answer.header("connection"), Some("close"), "{probe}");
            assert!(client.closed().await, "{probe}");
        }
    }
    let count = (2 * count) as f64;
    gateway.metric_becomes("tidegate_problems_total{code=\"invalid_framing\"}", count).await;
    gateway.metric_becomes("tidegate_requests_total{upstream=\"\",end=\"refused\"}", count).await;
    gateway.metric_becomes("tidegate_requests_malformed_total{reason=\"chunk\"}", count).await;
    upstream.assert_untouched(&gateway, "a body of malformed chunks").await;
}

#[tokio::test]
async fn malformed_chunks_of_an_encoded_body_are_reported_as_a_framing_error() {
    let mut upstream = upstream().await;
    let gateway = Gateway::before(&upstream.base_url());
    let mut client = gateway.connect().await;
    let headers = "host: t\r\ncontent-encoding: gzip\r\ntransfer-encoding: chunked\r\n";
    client.send(post(headers, "1\r\n\x1f\r\nzz\r\n")).await;
    client.answer().await.assert_final(400, "invalid_framing", true);
    assert!(client.closed().await);
    upstream.assert_untouched(&gateway, "a body of malformed chunks").await;
}

#[tokio::test]
async fn a_malformed_body_of_a_request_without_body_ends_the_connection() {
    let upstream = upstream().await;
    let gateway = Gateway::before(&upstream.base_url());
    let mut client = gateway.connect().await;
    let head = "GET /v1/models HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n";
    client.send(format!("{head}\r\nzz\r\n{SMUGGLED}")).await;
    client.answer().await.assert_problem(401, "invalid_api_key");
    assert!(client.closed().await);
}

#[tokio::test]
async fn the_error_for_a_malformed_head_waits_for_earlier_answers() {
    let (go, gate) = tokio::sync::oneshot::channel();
    let mut gate = Some(gate);
    let mut upstream = Upstream::scripted(move |_| match gate.take() {
        // The gateway read the malformed head long before the first answer.
        Some(gate) => vec![Step::Wait(gate), Step::Send(json("200 OK", RESPONSE))],
        None => vec![Step::Send(json("200 OK", RESPONSE))],
    })
    .await;
    let gateway = Gateway::before(&upstream.base_url());
    let mut client = gateway.connect().await;
    let good = request("", BODY.as_bytes());
    let bad = format!("GET /v1/models HTTP/1.1\r\n\r\n{SMUGGLED}");
    client.send([&good[..], &good, bad.as_bytes()].concat()).await;
    upstream.request().await;
    // The order of the answers shows that the error did not overtake them.
    go.send(()).unwrap();
    for _ in 0..2 {
        let answer = client.answer().await;
        assert_eq!((answer.status, &answer.body[..]), (200, RESPONSE.as_bytes()));
    }
    assert_refused(&client.answer().await, 400, "invalid_framing", "the third");
    assert!(client.closed().await);
    upstream.request().await;
    upstream.assert_untouched(&gateway, "a request behind a malformed one").await;
}

#[tokio::test]
async fn a_malformed_head_behind_a_stream_does_not_affect_the_stream() {
    use crate::support::upstream::{LAST_CHUNK, STREAM, chunk};
    let event = b"data: {\"type\":\"response.completed\"}\n\n";
    let (go, gate) = tokio::sync::oneshot::channel();
    let mut steps = Some(vec![
        Step::Send([STREAM, &chunk(event)].concat()),
        Step::Wait(gate),
        Step::Send([&chunk(event)[..], LAST_CHUNK].concat()),
    ]);
    let upstream = Upstream::scripted(move |_| steps.take().unwrap()).await;
    let gateway = Gateway::before(&upstream.base_url());
    let mut client = gateway.connect().await;
    client.post(BODY).await;
    let mut answer = client.head().await;
    assert_eq!(client.chunk().await.unwrap(), event);
    client.send("nonsense\n\n").await;
    go.send(()).unwrap();
    client.body(&mut answer).await;
    assert_eq!((answer.whole, &answer.body[..]), (true, &event[..]));
    assert_refused(&client.answer().await, 400, "invalid_framing", "nonsense");
    assert!(client.closed().await);
}

#[tokio::test]
async fn a_malformed_head_after_an_answer_is_answered() {
    let upstream = upstream().await;
    let gateway = Gateway::before(&upstream.base_url());
    let mut client = gateway.connect().await;
    assert_eq!(client.create(BODY).await.status, 200);
    client.send("GET / HTTP/1.1\r\n").await;
    client.send("host: t\n\n").await;
    assert_refused(&client.answer().await, 400, "invalid_framing", "the second");
    assert!(client.closed().await);
}

#[tokio::test]
async fn bytes_after_the_last_request_of_a_connection_are_ignored() {
    let upstream = upstream().await;
    let gateway = Gateway::before(&upstream.base_url());
    let mut client = gateway.connect().await;
    let mut bytes = request("connection: close\r\n", BODY.as_bytes());
    bytes.extend(b"nonsense\n\n");
    client.send(bytes).await;
    assert_eq!(client.answer().await.status, 200);
    assert!(client.closed().await);
}

#[tokio::test]
async fn a_client_that_leaves_behind_a_malformed_head_still_cancels_the_call() {
    let (told, closed) = tokio::sync::oneshot::channel();
    let mut told = Some(told);
    let mut upstream = Upstream::scripted(move |_| vec![Step::UntilClosed(told.take().unwrap())]).await;
    let gateway = Gateway::before(&upstream.base_url());
    let mut client = gateway.connect().await;
    client.send([&request("", BODY.as_bytes())[..], b"nonsense\n\n"].concat()).await;
    upstream.request().await;
    drop(client);
    crate::support::soon("the upstream call to be cancelled", closed).await.unwrap();
}

#[tokio::test]
async fn unusual_but_valid_requests_pass() {
    let mut upstream = upstream().await;
    let gateway = Gateway::before(&upstream.base_url());
    let sized = |headers: &str| post(&format!("{headers}content-length: 30\r\n"), BODY);
    let mut client = gateway.connect().await;
    for probe in [
        sized("host: t\r\n"),
        sized("HOST: t\r\n"),
        sized("Host:t:8080\r\n"),
        sized("host: \t t \t\r\n"),
        sized("host: [::1]:80\r\n"),
        sized("host:\r\n"),
        sized("host: t\r\nx-a:\r\nx-b: \t\r\n"),
        sized("host: t\r\nx-a: \u{e9}\u{20ac}\tb\r\n"),
        sized("host: t\r\nx-a: Transfer-Encoding: gzip\r\n"),
        sized("host: t\r\nx_a.b!#$%&'*+-^`|~1: b\r\n"),
        format!("\r\n\r\n{}", sized("host: t\r\n")),
        post("host: t\r\nContent-Length:030 \r\n", BODY),
        chunked(&format!("1e\r\n{BODY}\r\n0\r\n\r\n")),
        chunked(&format!("001E;a=b;c=\"d\"\r\n{BODY}\r\n000;e\r\nx-sum: 1\r\nx-b:\r\n\r\n")),
        chunked(&format!("1\r\n{}\r\n1D\r\n{}\r\n0\r\n\r\n", &BODY[..1], &BODY[1..])),
        post("host: t\r\nTransfer-Encoding: \tChunked \r\n", &format!("1e\r\n{BODY}\r\n0\r\n\r\n")),
        sized("host: t\r\n").replace("/v1/responses", "http://t/v1/responses"),
    ] {
        for slowly in [false, true] {
            if slowly {
                drip(&mut client, probe.as_bytes()).await;
            } else {
                client.send(&probe).await;
            }
            let answer = client.answer().await;
            assert_eq!((answer.status, answer.header("connection")), (200, None), "{probe}: {answer:?}");
            assert_eq!(upstream.request().await.body, BODY.replace("smart", "real").as_bytes(), "{probe}");
        }
    }
    // All on one connection; and many requests in one write.
    let both = [chunked(&format!("1e\r\n{BODY}\r\n0\r\nx-a: b\r\n\r\n")), sized("host: t\r\n")].concat().repeat(10);
    client.send(&both).await;
    for _ in 0..20 {
        assert_eq!(client.answer().await.status, 200);
        upstream.request().await;
    }
    // Valid HTTP that Tidegate does not serve.
    for line in ["CONNECT t:443", "OPTIONS *", "get /v1/models"] {
        let mut client = gateway.connect().await;
        let answer = client.ask(line, &format!("authorization: Bearer {KEY}\r\n")).await;
        assert!(matches!(answer.status, 404 | 405), "{line}: {answer:?}");
    }
    assert_eq!(gateway.metric("tidegate_requests_malformed_total").await, 0.0);
}

#[tokio::test]
async fn a_client_that_expects_100_continue_gets_it_before_the_body() {
    let mut upstream = upstream().await;
    let gateway = Gateway::before(&upstream.base_url());
    let mut client = gateway.connect().await;
    for body in [BODY.to_owned(), format!("1e\r\n{BODY}\r\n0\r\n\r\n")] {
        let framing = if body == BODY { "content-length: 30" } else { "transfer-encoding: chunked" };
        client.send(post(&format!("host: t\r\nexpect: 100-continue\r\n{framing}\r\n"), "")).await;
        assert_eq!(client.head().await.status, 100);
        client.send(&body).await;
        assert_eq!(client.answer().await.status, 200);
        assert_eq!(upstream.request().await.body, BODY.replace("smart", "real").as_bytes());
    }
}
