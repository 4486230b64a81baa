//! An upstream repeats the credential of a request: the client, the log and the ledger get stars in its place.

use std::{collections::VecDeque, path::Path};

use async_compression::tokio::bufread::GzipEncoder;
use tokio::{io::AsyncReadExt, sync::oneshot};

use crate::support::{
    client::Answer,
    gateway::{Gateway, credential},
    process::{Process, tidegate},
    settings::smallest,
    soon,
    upstream::{LAST_CHUNK, RESPONSE, STREAM, Step, Upstream, answer, chunk, json},
};

const BODY: &str = r#"{"model":"smart"}"#;
const SECRET: &str = "xk-Q7fT2mZp9LrVb4NcWd8sHy3eKg6uJa1oXi5R";
const COUNTER: &str = r#"tidegate_upstream_echoed_credential_total{upstream="up"}"#;

/// The text as the client must see it: stars in place of every part of the secret that has 12 bytes or more.
fn starred(text: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for piece in SECRET.as_bytes().windows(12) {
        for at in 0..text.len().saturating_sub(11) {
            if text.as_bytes()[at..].starts_with(piece) {
                bytes[at..at + 12].fill(b'*');
            }
        }
    }
    String::from_utf8(bytes).unwrap()
}

fn holds_a_piece(bytes: &[u8]) -> bool {
    SECRET.as_bytes().windows(12).any(|piece| memchr::memmem::find(bytes, piece).is_some())
}

fn gateway(upstream: &Upstream) -> Gateway {
    Gateway::with(&upstream.base_url(), |config| {
        config.upstreams[0].credentials = vec![credential("UP_KEY", SECRET)];
        config.health.consecutive_faults = 10_000;
        config.health.fault_percent = 100;
        config.retries.max_attempts = 1;
    })
}

/// Texts that repeat the secret, as upstreams write them.
fn echoes() -> Vec<String> {
    vec![
        format!("the token {SECRET} cannot do that"),
        format!("Bearer {SECRET}"),
        format!("{SECRET}{SECRET}"),
        format!("begins with {}...", &SECRET[..12]),
        format!("{}...{}", &SECRET[..14], &SECRET[SECRET.len() - 12..]),
        format!("from its middle: {}", &SECRET[9..25]),
        format!("é{SECRET}é"),
        SECRET.to_owned(),
    ]
}

#[tokio::test]
async fn no_error_answer_repeats_the_credential() {
    let statuses = [
        "400 Bad Request",
        "404 Not Found",
        "405 Method Not Allowed",
        "409 Conflict",
        "413 Content Too Large",
        "422 Unprocessable Entity",
        "429 Too Many Requests",
        "500 Internal Server Error",
        "502 Bad Gateway",
        "503 Service Unavailable",
        "529 Overloaded",
    ];
    for status in statuses {
        for kind in ["application/json", "text/html", "text/plain", "application/problem+json", "image/png"] {
            if kind != "application/json" && !["400 Bad Request", "503 Service Unavailable"].contains(&status) {
                continue;
            }
            let texts: Vec<_> = echoes()
                .into_iter()
                .map(|echo| match kind {
                    "application/json" => {
                        format!(r#"{{"error":{{"message":"{echo}","type":"x","param":null,"code":null}}}}"#)
                    }
                    _ => format!("<html><body>{echo}</body></html>"),
                })
                .collect();
            let mut answers: VecDeque<_> = texts.iter().map(|text| answer(status, kind, text.as_bytes())).collect();
            let upstream = Upstream::scripted(move |_| vec![Step::Send(answers.pop_front().unwrap())]).await;
            for text in &texts {
                // Each case has a gateway of its own, because some statuses eject the credential for a while.
                let gateway = gateway(&upstream);
                let came = gateway.post("", BODY).await;
                assert_eq!(came.status.to_string(), status[..3], "{came:?}");
                assert!(came.whole, "{came:?}");
                assert_eq!(String::from_utf8(came.body).unwrap(), starred(text), "{status} {kind}");
                gateway.metric_becomes(COUNTER, 1.0).await;
                if status != "400 Bad Request" {
                    break;
                }
            }
        }
    }
}

/// An upstream that sends each text in these chunks. The gateway reads each chunk by itself.
async fn chunked(status: &str, kind: &str, texts: Vec<Vec<Vec<u8>>>) -> Upstream {
    let head = format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n");
    let mut texts = texts.into_iter();
    Upstream::scripted(move |_| {
        let chunks = texts.next().unwrap().into_iter().filter(|piece| !piece.is_empty()).map(|piece| chunk(&piece));
        let sent: Vec<_> = [head.clone().into_bytes()].into_iter().chain(chunks).chain([LAST_CHUNK.to_vec()]).collect();
        vec![Step::Send(sent.concat())]
    })
    .await
}

fn cut(text: &str, at: &[usize]) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    let mut from = 0;
    for end in at.iter().copied().chain([text.len()]) {
        pieces.push(text.as_bytes()[from..end].to_vec());
        from = end;
    }
    pieces
}

#[tokio::test]
async fn a_credential_that_is_split_over_two_writes_is_masked() {
    let error = format!(r#"{{"error":{{"message":"bad {SECRET} bad","type":"x","param":null,"code":null}}}}"#);
    let event = format!("data: {{\"type\":\"error\",\"message\":\"bad {SECRET} bad\"}}\n\n");
    for (status, kind, text) in [
        ("400 Bad Request", "application/json", &error),
        ("500 Internal Server Error", "text/plain", &error),
        ("200 OK", "application/json", &error),
        ("200 OK", "text/event-stream", &event),
    ] {
        let begin = text.find(SECRET).unwrap();
        let cuts: Vec<Vec<usize>> = (begin..=begin + SECRET.len())
            .map(|at| vec![at])
            .chain([5, 11, 13].map(|step| (begin..begin + SECRET.len()).step_by(step).collect()))
            .collect();
        let upstream = chunked(status, kind, cuts.iter().map(|at| cut(text, at)).collect()).await;
        let gateway = gateway(&upstream);
        for at in &cuts {
            let came = gateway.post("", BODY).await;
            assert!(came.whole, "{came:?}");
            assert_eq!(String::from_utf8_lossy(&came.body), starred(text), "{status} {kind} {at:?}");
        }
        gateway.metric_becomes(COUNTER, cuts.len() as f64).await;
    }
}

#[tokio::test]
async fn a_broken_error_answer_releases_the_bytes_that_were_held_back() {
    let text = format!("bad key {}", &SECRET[..11]);
    let head = format!("HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: 1000\r\n\r\n{text}");
    let upstream = Upstream::scripted(move |_| vec![Step::Send(head.clone().into_bytes()), Step::Close]).await;
    let came = gateway(&upstream).post("", BODY).await;
    assert!(!came.whole);
    assert_eq!(String::from_utf8(came.body).unwrap(), text, "eleven bytes are too few to be masked");
}

#[tokio::test]
async fn no_header_repeats_the_credential() {
    let names = [
        "x-request-id",
        "retry-after",
        "x-ratelimit-limit-requests",
        "x-ratelimit-anything",
        "x-codex-turn-state",
        "x-codex-primary-used-percent",
        "openai-version",
        "cf-ray",
        "cache-control",
        "x-models-etag",
    ];
    for status in ["200 OK", "400 Bad Request", "429 Too Many Requests", "500 Internal Server Error"] {
        let lines: String =
            names.iter().map(|name| format!("{name}: v {SECRET}\r\n{name}: {}\r\n", &SECRET[3..20])).collect();
        let whole = String::from_utf8(json(status, RESPONSE)).unwrap();
        let (first, rest) = whole.split_once("content-type: application/json\r\n").unwrap();
        let whole = format!("{first}content-type: application/json; key={SECRET}\r\n{lines}{rest}");
        let upstream = Upstream::fixed(whole).await;
        let gateway = gateway(&upstream);
        let came = gateway.post("", BODY).await;
        for name in names {
            assert_eq!(came.all(name), [format!("v {}", "*".repeat(SECRET.len())), "*".repeat(17)], "{status} {name}");
        }
        assert_eq!(came.header("content-type"), Some(&*format!("application/json; key={}", starred(SECRET))));
        assert_eq!(String::from_utf8_lossy(&came.body), RESPONSE);
        gateway.metric_becomes(COUNTER, 1.0).await;
    }
}

#[tokio::test]
async fn a_success_is_masked_for_the_whole_credential_anywhere_and_for_pieces_only_in_its_errors() {
    let output = format!(
        r#"{{"id":"resp_1","object":"response","status":"completed","error":null,"output":[{{"type":"message","content":[{{"type":"output_text","text":"is {SECRET} yours?"}}]}}],"usage":{{"input_tokens":3,"output_tokens":5}}}}"#
    );
    let chat = format!(r#"{{"id":"c","choices":[{{"message":{{"role":"assistant","content":"{SECRET}"}}}}]}}"#);
    let mixed = format!(
        r#"{{"id":"resp_1","output":[{{"text":"{SECRET}"}}],"error":{{"code":"x","message":"{SECRET}"}},"user":"{SECRET}"}}"#
    );
    let masked = [
        format!(r#"{{"error":{{"message":"{SECRET}","type":"x","param":null,"code":"{SECRET}"}}}}"#),
        format!(r#"{{"error":"{SECRET}"}}"#),
        format!(r#"{{"code":"InvalidParameter","message":"{SECRET}","request_id":"r"}}"#),
        format!(r#"{{"object":"error","message":"{SECRET}"}}"#),
        format!(r#"{{"success":false,"info":"{SECRET}"}}"#),
        format!(r#"{{"id":"resp_1","status":"failed","error":{{"code":"x","message":"{SECRET}"}},"output":[]}}"#),
        format!(r#"[{{"error":{{"message":"{SECRET}"}}}}]"#),
    ];
    let piece = &SECRET[..19];
    let pieces = format!(
        r#"{{"id":"resp_1","output":[{{"text":"{piece}"}}],"error":{{"message":"{piece}"}},"user":"{piece}"}}"#
    );
    let expected = pieces.replace(&format!(r#""message":"{piece}""#), &format!(r#""message":"{}""#, "*".repeat(19)));
    let last = format!(r#"{{"id":"resp_1","output":[1],"x":{{"message":"{SECRET}"}},"type":"error"}}"#);
    let long = format!(r#"{{"output":[1],"error":{{"trace":"{}","message":"{SECRET}"}}}}"#, "x".repeat(80_000));
    let escaped = format!(r#"{{"output":[{{"text":"\u0078k-\u{:04X}{}"}}]}}"#, b'Q', &SECRET[4..]);
    let stars = escaped.replace(&format!(r"\u0078k-\u{:04X}{}", b'Q', &SECRET[4..]), &"*".repeat(SECRET.len() + 10));
    let cases: Vec<(String, String)> = [(pieces, expected), (escaped, stars)]
        .into_iter()
        .chain(masked.into_iter().chain([output, chat, mixed, last, long]).map(|text| (text.clone(), starred(&text))))
        .collect();
    for (sent, expected) in cases {
        let kinds =
            ["application/json", "text/plain", "application/json; charset=utf-8", "application/octet-stream", ""];
        for kind in kinds {
            let upstream = Upstream::fixed(answer("200 OK", kind, sent.as_bytes())).await;
            let gateway = gateway(&upstream);
            let came = gateway.post("", BODY).await;
            assert_eq!((came.status, String::from_utf8(came.body).unwrap()), (200, expected.clone()), "{kind}");
            gateway.metric_becomes(COUNTER, f64::from(u8::from(sent != expected))).await;
        }
    }
}

/// The events of a stream, each with whether a piece of the credential in it is masked.
fn stream() -> Vec<(bool, String)> {
    let created = format!(
        "event: response.created\ndata: {{\"type\":\"response.created\",\"response\":{{\"id\":\"resp_1\",\"output\":[],\"user\":\"{SECRET}\"}}}}\n\n"
    );
    let delta = format!(
        "event: response.output_text.delta\ndata: {{\"type\":\"response.output_text.delta\",\"delta\":\"{SECRET}\"}}\n\n"
    );
    let quoting = "data: {\"type\":\"response.output_text.delta\",\"delta\":\"{\\\"error\\\":{\\\"message\\\":\\\"";
    let quoting = format!("{quoting}{SECRET}\\\"}}\"}}\n\n");
    let error = format!("event: error\ndata: {{\"code\":\"{SECRET}\",\"type\":\"error\"}}\n\n");
    let bare = format!("data: {{\"error\":{{\"message\":\"{SECRET}\"}}}}\n\n");
    let message = format!("data: {{\"message\":\"{SECRET}\",\"type\":\"error\"}}\r\n\r\n");
    let failed = format!(
        "data: {{\"type\":\"response.failed\",\"response\":{{\"error\":{{\"code\":\"x\",\"message\":\"{SECRET}\"}}}}}}\n\n"
    );
    vec![
        (true, format!(": {SECRET}\n\n")),
        (true, format!("data: error: {SECRET}\n\n")),
        (true, created),
        (false, delta.clone()),
        (false, quoting),
        (true, error),
        (false, delta.clone()),
        (true, bare),
        (false, delta.clone()),
        (true, message),
        (false, delta),
        (true, failed),
        (true, format!("data: {{\"type\":\"warning\",\"message\":\"{SECRET}\"}}\n\n")),
        (false, format!("data: {{\"code\":\"{SECRET}\"}}\nevent: error\n\n")),
        (false, format!("data: {{\"notice\":\"{SECRET}\"}}\n\n")),
    ]
}

#[tokio::test]
async fn a_stream_is_masked_for_the_whole_credential_anywhere_and_for_pieces_outside_of_output() {
    let piece = &SECRET[2..20];
    for (echo, whole) in [(SECRET, true), (piece, false)] {
        let events: Vec<_> =
            stream().into_iter().map(|(masked, text)| (masked || whole, text.replace(SECRET, echo))).collect();
        let text: String = events.iter().map(|(_, event)| event.as_str()).collect();
        let expected: String =
            events.iter().map(|(masked, event)| if *masked { starred(event) } else { event.clone() }).collect();
        let inside: Vec<usize> = text.match_indices(echo).map(|(at, _)| at + 7).collect();
        let ends: Vec<usize> = text.match_indices("\n\n").map(|(at, _)| at + 2).filter(|at| *at < text.len()).collect();
        let cuts =
            [vec![], inside, ends, (50..text.len()).step_by(50).collect(), (1..text.len()).step_by(13).collect()];
        for kind in ["text/event-stream", "application/octet-stream"] {
            let upstream = chunked("200 OK", kind, cuts.iter().map(|at| cut(&text, at)).collect()).await;
            let gateway = gateway(&upstream);
            for at in &cuts {
                let came = gateway.post("", BODY).await;
                assert_eq!(String::from_utf8_lossy(&came.body), expected, "{kind} {at:?}");
            }
            gateway.metric_becomes(COUNTER, 5.0).await;
        }
    }
}

/// The gateway holds back only bytes that may begin the whole credential, and only until the next bytes.
#[tokio::test]
async fn a_delta_waits_only_for_bytes_that_may_become_the_credential() {
    let begin = "data: {\"type\":\"response.output_text.delta\",\"delta\":\"a\"}\n\n";
    for (end, waits) in [(&SECRET[..20], 20), (&SECRET[1..21], 0)] {
        let half = format!("data: {{\"type\":\"response.output_text.delta\",\"delta\":\"{end}");
        let (go, wait) = oneshot::channel();
        let mut steps = Some(vec![
            Step::Send(STREAM.to_vec()),
            Step::Send(chunk(begin.as_bytes())),
            Step::Send(chunk(half.as_bytes())),
            Step::Wait(wait),
            Step::Send(chunk(b"\"}\n\n")),
            Step::Send(LAST_CHUNK.to_vec()),
        ]);
        let upstream = Upstream::scripted(move |_| steps.take().unwrap()).await;
        let gateway = gateway(&upstream);
        let mut client = gateway.connect().await;
        client.post(BODY).await;
        client.head().await;
        let mut came = Vec::new();
        let whole = format!("{begin}{half}");
        while came.len() < whole.len() - waits {
            came.extend(soon("the delta, before its event is over", client.chunk()).await.unwrap());
        }
        assert_eq!(String::from_utf8_lossy(&came), whole[..whole.len() - waits]);
        go.send(()).unwrap();
        while let Some(more) = soon("the rest", client.chunk()).await.filter(|more| !more.is_empty()) {
            came.extend(more);
        }
        assert_eq!(String::from_utf8(came).unwrap(), format!("{whole}\"}}\n\n"));
    }
}

async fn gzip(text: &str) -> Vec<u8> {
    let mut coded = Vec::new();
    GzipEncoder::new(text.as_bytes()).read_to_end(&mut coded).await.unwrap();
    coded
}

#[tokio::test]
async fn an_error_answer_that_cannot_be_decoded_is_withheld() {
    let body = gzip(&format!(r#"{{"error":{{"message":"{SECRET}"}}}}"#)).await;
    for status in ["400 Bad Request", "409 Conflict", "422 Unprocessable Entity", "500 Internal Server Error"] {
        for coding in ["gzip", "br", "x-unknown"] {
            let head = format!(
                "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-encoding: {coding}\r\nx-request-id: r-7\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            let upstream = Upstream::fixed([head.as_bytes(), &body].concat()).await;
            let came = gateway(&upstream).post("", BODY).await;
            assert_eq!(came.status.to_string(), status[..3]);
            assert_eq!((came.header("content-encoding"), came.header("x-request-id")), (None, Some("r-7")));
            assert_eq!(came.json()["error"]["code"], "upstream_bad_answer", "{came:?}");
            assert_eq!(came.header("content-type"), Some("application/json"));
        }
    }
    // A success passes unchanged if it does not repeat the credential.
    let body = gzip(RESPONSE).await;
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let upstream = Upstream::fixed([head.as_bytes(), &body].concat()).await;
    let came = gateway(&upstream).post("", BODY).await;
    assert_eq!((came.status, came.body), (200, body));
}

/// The gateway cannot mask a compressed body in place.
#[tokio::test]
async fn a_compressed_success_that_repeats_the_credential_is_refused() {
    let echo = RESPONSE.replace("resp_1", SECRET);
    let body = gzip(&echo).await;
    for (coding, kind) in [("gzip", "application/json"), ("x-gzip", "text/event-stream"), ("gzip", "")] {
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-encoding: {coding}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let upstream = Upstream::fixed([head.as_bytes(), &body].concat()).await;
        let gateway = gateway(&upstream);
        let came = gateway.post("", BODY).await;
        assert_eq!((came.status, came.json()["error"]["code"].as_str()), (502, Some("upstream_bad_answer")), "{kind}");
        assert_eq!(came.header("content-encoding"), None);
        gateway.metric_becomes(COUNTER, 1.0).await;
    }
    // If the gateway finds the credential after the head, the answer breaks off before the piece that completes the
    // credential. Whether the head names the coding does not matter.
    for names in ["content-encoding: gzip\r\n", ""] {
        let head = format!(
            "HTTP/1.1 200 OK\r\n{names}content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let (go, wait) = oneshot::channel();
        let (first, rest) = body.split_at(12);
        let mut steps =
            Some(vec![Step::Send([head.as_bytes(), first].concat()), Step::Wait(wait), Step::Send(rest.to_vec())]);
        let upstream = Upstream::scripted(move |_| steps.take().unwrap()).await;
        let gateway = gateway(&upstream);
        let mut client = gateway.connect().await;
        client.post(BODY).await;
        client.head().await;
        go.send(()).unwrap();
        let mut came = Vec::new();
        soon("the end", tokio::io::AsyncReadExt::read_to_end(&mut client.stream, &mut came)).await.ok();
        assert!(came.len() <= first.len(), "{}", came.len());
        gateway.metric_becomes(COUNTER, 1.0).await;
    }
}

#[tokio::test]
async fn the_kept_answer_of_a_failed_attempt_is_masked() {
    // Two candidates: the gateway keeps the first one's answer while it tries the second, which gives no better answer.
    let error = format!(r#"{{"error":{{"message":"{SECRET}","type":"x","param":null,"code":"{}"}}}}"#, &SECRET[3..30]);
    let first = Upstream::fixed(json("500 Internal Server Error", &error)).await;
    let second = Upstream::scripted(|_| vec![Step::Close]).await;
    let gateway = Gateway::with(&first.base_url(), |config| {
        config.upstreams[0].credentials = vec![credential("UP_KEY", SECRET)];
        config.upstreams.push(crate::support::gateway::upstream("other", &second.base_url()));
        config.models = vec![crate::support::gateway::model("smart", &[(0, Some("real")), (1, Some("real"))])];
    });
    let came = gateway.post("", BODY).await;
    assert_eq!((came.status, String::from_utf8(came.body).unwrap()), (500, starred(&error)));
    gateway.metric_becomes(COUNTER, 1.0).await;
}

#[tokio::test]
async fn a_short_credential_is_masked_only_as_a_whole() {
    let text = "the key abc-defg is not abc-def";
    let upstream = Upstream::fixed(answer("400 Bad Request", "text/plain", text.as_bytes())).await;
    let gateway = Gateway::with(&upstream.base_url(), |config| {
        config.upstreams[0].credentials = vec![credential("UP_KEY", "abc-defg")];
    });
    let came = gateway.post("", BODY).await;
    assert_eq!(String::from_utf8(came.body).unwrap(), "the key ******** is not abc-def");
}

#[tokio::test]
async fn a_secret_in_an_upstream_header_and_its_escaped_forms_are_masked() {
    let secret = "tok/ab+cd=ef0123456789ghijkl/mnop";
    let texts = [
        secret.to_owned(),
        "tok%2Fab%2Bcd%3Def0123456789ghijkl%2Fmnop".into(),
        r"tok\/ab+cd=ef0123456789ghijkl\/mnop".into(),
        r"\u0074ok\u002Fab+cd=ef0123456789ghijkl\/mnop".into(),
    ];
    for in_header in [false, true] {
        for text in &texts {
            let upstream = Upstream::fixed(answer("400 Bad Request", "text/plain", text.as_bytes())).await;
            let gateway = Gateway::with(&upstream.base_url(), |config| {
                let up = &mut config.upstreams[0];
                if in_header {
                    up.credentials.clear();
                    up.headers.insert("x-gate", format!("Token {secret}").parse().unwrap());
                } else {
                    up.credentials = vec![credential("UP_KEY", secret)];
                }
            });
            let came = gateway.post("", BODY).await;
            assert_eq!(String::from_utf8(came.body).unwrap(), "*".repeat(text.len()), "{text} {in_header}");
        }
    }
}

fn files(folder: &Path, found: &mut Vec<(String, Vec<u8>)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if let Ok(bytes) = std::fs::read(&path) {
            found.push((path.display().to_string(), bytes));
        }
    }
}

#[tokio::test]
async fn the_log_the_ledger_and_the_metrics_have_stars_in_place_of_the_credential() {
    let code = &SECRET[3..30];
    let escaped = format!("\\u0078{}", &SECRET[1..]);
    let with_id = |status: &str, body: &str| {
        let whole = String::from_utf8(json(status, body)).unwrap();
        whole.replacen("\r\n", &format!("\r\nx-request-id: {SECRET}\r\n"), 1).into_bytes()
    };
    let answers = [
        with_id("400 Bad Request", &format!(r#"{{"error":{{"message":"x","type":"{code}","code":"{escaped}"}}}}"#)),
        with_id("500 Internal Server Error", &format!(r#"{{"error":{{"message":"x","code":"{code}"}}}}"#)),
        with_id("200 OK", &RESPONSE.replace("resp_1", SECRET)),
        with_id("200 OK", &format!(r#"{{"output":[],"id":"{escaped}","object":"response","status":"completed"}}"#)),
        with_id("401 Unauthorized", &format!(r#"{{"error":{{"message":"x","code":"{code}"}}}}"#)),
    ];
    let count = answers.len();
    let mut answers = VecDeque::from(answers);
    let upstream = Upstream::scripted(move |_| vec![Step::Send(answers.pop_front().unwrap())]).await;
    let folder = tempfile::tempdir().unwrap();
    let tables = "[log]\nformat = \"json\"\n[routing]\nmax_attempts = 1";
    let text = smallest(&upstream.base_url(), "workers = 1", tables);
    std::fs::write(folder.path().join("tidegate.toml"), text).unwrap();
    let mut command = tidegate(folder.path());
    command.args(["serve", "--config", "tidegate.toml"]).env("UP_KEY", SECRET).env("A_KEY", "sk-a-client-of-this-test");
    let mut process = Process::start(&mut command);
    let address = process.ready();
    let mut told = Vec::new();
    for _ in 0..count {
        let mut client = crate::support::client::Client::connect(address).await;
        let head = format!(
            "POST /v1/responses HTTP/1.1\r\nhost: t\r\nauthorization: Bearer sk-a-client-of-this-test\r\n\
             connection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{BODY}",
            BODY.len()
        );
        client.send(head).await;
        let came: Answer = client.answer().await;
        told.push(came.text());
        process.line(|line| line.contains("tidegate::request"));
    }
    let metrics = crate::support::client::Client::connect(process.admin()).await.get("/metrics").await.text();
    assert!(metrics.contains(COUNTER), "{metrics}");
    let count_of = metrics.split_once(&format!("{COUNTER} ")).unwrap().1;
    assert!(count_of.starts_with(&count.to_string()), "{count_of:.20}");
    process.signal("TERM");
    process.exit();
    let log = process.everything();
    assert_eq!(log.matches("upstream_echoed_credential").count(), 1, "one line in a minute:\n{log}");
    assert!(log.lines().any(|line| line.contains("upstream_echoed_credential") && line.contains("ERROR")), "{log}");
    told.extend([metrics, log]);
    for text in told {
        assert!(!holds_a_piece(text.as_bytes()), "{text}");
    }
    let mut found = Vec::new();
    files(folder.path(), &mut found);
    assert!(found.iter().any(|(name, bytes)| name.contains("ledger.db") && !bytes.is_empty()));
    for (name, bytes) in found {
        assert!(!holds_a_piece(&bytes), "{name}");
    }
}
