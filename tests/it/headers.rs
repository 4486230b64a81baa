//! The headers that pass in each direction, as exact sets; and how requests share a connection.

use http::{HeaderName, HeaderValue};
use tokio::io::AsyncReadExt;

use crate::support::{
    client::{Client, request},
    gateway::{Gateway, KEY, UPSTREAM_KEY, credential},
    soon,
    upstream::{LAST_CHUNK, RESPONSE, STREAM, Step, Upstream, chunk, json},
};
use tidegate::config::Config;

const BODY: &str = r#"{"model":"gpt-5"}"#;

/// Request headers that go up to every upstream.
const UP: &[(&str, &str)] = &[
    ("accept", "text/event-stream"),
    ("accept-language", "*"),
    ("content-type", "application/json"),
    ("user-agent", "OpenAI/Python 3.54.0"),
    ("originator", "codex_exec"),
    ("version", "0.169.0"),
    ("openai-beta", "responses_multi_agent=v1"),
    ("openai-beta", "agents=v1"),
    ("x-client-request-id", "c-1"),
    ("idempotency-key", "i-1"),
    ("session-id", "s-1"),
    ("thread-id", "t-1"),
    ("x-openai-internal-codex-responses-lite", "1"),
    ("x-openai-subagent", "review"),
    ("x-oai-attestation", "a"),
    ("x-stainless-lang", "python"),
    ("x-stainless-retry-count", "0"),
    ("x-stainless-read-timeout", "600"),
    ("x-stainless-raw-response", "true"),
];

/// Request headers that go up where the upstream's settings allow them.
const CODEX: &[(&str, &str)] = &[
    ("x-codex-beta-features", "remote_compaction_v2"),
    ("x-codex-window-id", "w"),
    ("x-codex-turn-metadata", "{\"installation\":\"x\"}"),
];
const ORGANIZATION: &[(&str, &str)] = &[("openai-organization", "org-client"), ("openai-project", "proj-client")];
const TRACE: &[(&str, &str)] = &[("traceparent", "00-1-2-01"), ("tracestate", "a=b")];

/// Request headers that never go up.
const NEVER_UP: &[(&str, &str)] = &[
    ("proxy-authorization", "Basic eDp5"),
    ("cookie", "session=1"),
    ("api-key", "k"),
    ("x-api-key", "k"),
    ("x-goog-api-key", "k"),
    ("connection", "x-stainless-named, keep-alive"),
    ("x-stainless-named", "for this hop only"),
    ("keep-alive", "timeout=5"),
    ("te", "trailers"),
    ("trailer", "x-sum"),
    ("proxy-connection", "keep-alive"),
    ("forwarded", "for=1.2.3.4"),
    ("x-forwarded-for", "1.2.3.4"),
    ("x-forwarded-host", "evil.example"),
    ("x-forwarded-proto", "https"),
    ("x-real-ip", "1.2.3.4"),
    ("via", "1.1 x"),
    ("cf-connecting-ip", "1.2.3.4"),
    ("cf-ray", "r"),
    ("true-client-ip", "1.2.3.4"),
    ("origin", "https://app.example"),
    ("referer", "https://app.example/"),
    ("sec-fetch-mode", "cors"),
    ("accept-encoding", "gzip, deflate, zstd"),
    ("content-encoding", "identity"),
    ("content-md5", "x"),
    ("digest", "x"),
    ("content-digest", "x"),
    ("signature", "x"),
    ("x-request-id", "x"),
    ("x-tidegate-request-id", "x"),
    // A turn state that no known account issued.
    ("x-codex-turn-state", "state"),
    ("x-portkey-custom-host", "https://evil.example"),
    ("x-stainless", "no dash"),
    ("xx-codex-a", "x"),
    ("baggage", "x"),
    ("priority", "u=1"),
];

fn lines<'a>(headers: impl IntoIterator<Item = &'a (&'a str, &'a str)>) -> String {
    headers.into_iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect()
}

/// Sends every header of wire.md and returns those that arrive, sorted. The values of one name stay in order.
async fn arriving_headers(change: impl FnOnce(&mut Config)) -> Vec<(String, String)> {
    let mut upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let host = upstream.address.to_string();
    let gateway = Gateway::with(&upstream.base_url(), change);
    let all = [NEVER_UP, UP, CODEX, ORGANIZATION, TRACE].concat();
    let head = format!(
        "POST /v1/responses HTTP/1.1\r\nhost: gateway.example\r\nauthorization: Bearer {KEY}\r\n{}content-length: {}\r\n\r\n",
        lines(&all),
        BODY.len()
    );
    let mut client = gateway.connect().await;
    client.send([head, BODY.into()].concat()).await;
    let answer = client.answer().await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let mut headers = upstream.request().await.headers;
    // Only a hash of this value goes up: `request_head` tests the hash.
    let repeat = headers.iter_mut().find(|(name, _)| name == "idempotency-key").unwrap();
    assert!(repeat.1.starts_with("tg-") && repeat.1.len() == 35, "{repeat:?}");
    repeat.1 = "i-1".into();
    headers.sort_by(|a, b| a.0.cmp(&b.0));
    let at = headers.iter().position(|(name, _)| name == "host").unwrap();
    assert_eq!(headers.remove(at).1, host);
    headers
}

/// `parts` as they arrive, and the headers that every request has.
fn expected(parts: &[&[(&str, &str)]], auth: (&str, &str)) -> Vec<(String, String)> {
    let length = BODY.len().to_string();
    let own = [("accept-encoding", "identity"), ("content-length", &length), auth];
    let mut headers: Vec<_> =
        parts.concat().iter().chain(&own).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    headers.sort_by(|a, b| a.0.cmp(&b.0));
    headers
}

#[tokio::test]
async fn the_request_headers_that_go_up_are_a_fixed_list() {
    let bearer = format!("Bearer {UPSTREAM_KEY}");
    let auth = ("authorization", bearer.as_str());
    assert_eq!(arriving_headers(|_| {}).await, expected(&[UP, CODEX], auth));
    assert_eq!(arriving_headers(|config| config.upstreams[0].codex_headers = false).await, expected(&[UP], auth));
    assert_eq!(
        arriving_headers(|config| config.upstreams[0].organization_headers = true).await,
        expected(&[UP, CODEX, ORGANIZATION], auth)
    );
    assert_eq!(
        arriving_headers(|config| config.upstreams[0].trace_headers = true).await,
        expected(&[UP, CODEX, TRACE], auth)
    );
}

#[tokio::test]
async fn a_custom_credential_header_carries_the_bare_secret() {
    let headers =
        arriving_headers(|config| config.upstreams[0].auth_header = HeaderName::from_static("x-api-key")).await;
    assert_eq!(headers, expected(&[UP, CODEX], ("x-api-key", UPSTREAM_KEY)));
}

#[tokio::test]
async fn an_upstream_may_need_no_credential() {
    let mut headers = expected(&[UP, CODEX], ("authorization", ""));
    headers.retain(|(name, _)| name != "authorization");
    assert_eq!(arriving_headers(|config| config.upstreams[0].credentials.clear()).await, headers);
}

#[tokio::test]
async fn configured_headers_of_the_upstream_replace_the_clients() {
    let headers = arriving_headers(|config| {
        let set = &mut config.upstreams[0].headers;
        set.insert("x-team", HeaderValue::from_static("a"));
        set.insert("openai-beta", HeaderValue::from_static("ours=v1"));
        set.insert("user-agent", HeaderValue::from_static("ours"));
        set.insert("openai-organization", HeaderValue::from_static("org-ours"));
        set.append("x-many", HeaderValue::from_static("1"));
        set.append("x-many", HeaderValue::from_static("2"));
    })
    .await;
    let rest: Vec<_> = UP.iter().filter(|(name, _)| !matches!(*name, "openai-beta" | "user-agent")).copied().collect();
    let set = &[
        ("openai-beta", "ours=v1"),
        ("openai-organization", "org-ours"),
        ("user-agent", "ours"),
        ("x-many", "1"),
        ("x-many", "2"),
        ("x-team", "a"),
    ];
    let bearer = format!("Bearer {UPSTREAM_KEY}");
    assert_eq!(headers, expected(&[&rest, CODEX, set], ("authorization", &bearer)));
}

/// Response headers that reach the client.
const DOWN: &[(&str, &str)] = &[
    ("content-type", "application/json; charset=utf-8"),
    ("content-language", "en"),
    ("cache-control", "no-cache"),
    ("retry-after", "3"),
    ("retry-after-ms", "3000"),
    ("x-should-retry", "true"),
    ("x-request-id", "req-upstream"),
    ("cf-ray", "r-1"),
    ("openai-processing-ms", "12"),
    ("openai-version", "2020-10-01"),
    ("x-models-etag", "e"),
    ("x-reasoning-included", "true"),
    ("x-ratelimit-limit-requests", "60"),
    ("x-ratelimit-remaining-requests", "59"),
    ("x-ratelimit-reset-requests", "12ms"),
    ("x-ratelimit-limit-tokens", "1000"),
    ("x-ratelimit-remaining-tokens", "999"),
    ("x-ratelimit-reset-tokens", "6m0s"),
    ("x-codex-turn-state", "one"),
    ("x-codex-turn-state", "two"),
    ("x-codex-primary-used-percent", "7"),
];

/// Response headers that never reach the client.
const NEVER_DOWN: &[(&str, &str)] = &[
    ("set-cookie", "__cf_bm=1"),
    ("set-cookie", "_cfuvid=2"),
    ("openai-model", "gpt-5-other"),
    ("openai-organization", "org-operator"),
    ("openai-project", "proj-operator"),
    ("location", "https://elsewhere.example"),
    ("server", "cloudflare"),
    ("connection", "x-ratelimit-named, keep-alive"),
    ("x-ratelimit-named", "for this hop only"),
    ("keep-alive", "timeout=5"),
    ("proxy-authenticate", "Basic"),
    ("proxy-connection", "keep-alive"),
    ("trailer", "x-sum"),
    ("upgrade", "h2c"),
    ("via", "1.1 x"),
    ("alt-svc", "h3=\":443\""),
    ("strict-transport-security", "max-age=1"),
    ("access-control-allow-origin", "*"),
    ("access-control-expose-headers", "*"),
    ("www-authenticate", "Bearer"),
    ("x-tidegate-request-id", "req_forged"),
    ("x-goog-api-key", UPSTREAM_KEY),
    ("authorization", UPSTREAM_KEY),
    ("x-powered-by", "x"),
    ("x-openai-authorization-error", "x"),
    ("x-error-json", "x"),
    ("etag", "x"),
    ("content-disposition", "attachment"),
    ("refresh", "0; url=https://elsewhere.example"),
    ("nel", "x"),
    ("x-accel-redirect", "/internal"),
    ("x-sendfile", "/etc/passwd"),
];

#[tokio::test]
async fn the_response_headers_that_reach_the_client_are_a_fixed_list() {
    let stream_body = b"data: {\"type\":\"response.completed\",\"response\":{\"id\":\"resp_1\"}}\n\n";
    for (status, streamed) in [("200 OK", false), ("200 OK", true), ("400 Bad Request", false), ("500 X", false)] {
        let all: Vec<_> = [NEVER_DOWN, DOWN].concat();
        let mut sent = lines(&all);
        let mut end = RESPONSE.as_bytes().to_vec();
        if streamed {
            sent = sent.replace("application/json", "text/event-stream");
            sent.push_str("transfer-encoding: chunked\r\n");
            end = [&chunk(stream_body), LAST_CHUNK].concat();
        } else {
            sent.push_str(&format!("content-length: {}\r\n", RESPONSE.len()));
        }
        let date = "Thu, 01 Jan 1970 00:00:00 GMT";
        let head = format!("HTTP/1.1 {status}\r\ndate: {date}\r\n{sent}\r\n");
        let upstream = Upstream::fixed([head.as_bytes(), &end].concat()).await;
        let gateway = Gateway::before(&upstream.base_url());
        let mut client = gateway.connect().await;
        let answer = client.create(BODY).await;
        assert_eq!((answer.status.to_string().as_str(), answer.whole), (&status[..3], true), "{answer:?}");
        let mut headers = answer.headers.clone();
        headers.sort_by(|a, b| a.0.cmp(&b.0));
        let mut own = |name: &str| {
            let at =
                headers.iter().position(|(given, _)| given == name).unwrap_or_else(|| panic!("{name}: {answer:?}"));
            headers.remove(at).1
        };
        assert_ne!(own("date"), date);
        assert_ne!(own("x-tidegate-request-id"), "req_forged");
        if !status.starts_with("200") {
            assert_eq!(own("x-tidegate-error-source"), "upstream");
        }
        if streamed {
            assert_eq!(own("transfer-encoding"), "chunked");
            assert_eq!(own("x-accel-buffering"), "no");
            assert_eq!(answer.body, stream_body);
        } else {
            assert_eq!(own("content-length"), RESPONSE.len().to_string());
            assert_eq!(answer.body, RESPONSE.as_bytes());
        }
        let mut expected: Vec<_> = DOWN.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        if streamed {
            expected[0].1 = "text/event-stream; charset=utf-8".into();
        }
        expected.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(headers, expected);
        assert!(!answer.text().contains(UPSTREAM_KEY));
        // The upstream's `Connection` header does not affect the client's connection.
        assert_eq!(client.get("/v1/models").await.status, 200);
    }
}

#[tokio::test]
async fn an_encoding_that_the_upstream_used_unasked_passes_unchanged() {
    let bytes: Vec<u8> = (0..=255).collect();
    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\ncontent-length: 256\r\n\r\n";
    let upstream = Upstream::fixed([head.as_bytes(), &bytes].concat()).await;
    let gateway = Gateway::before(&upstream.base_url());
    let answer = gateway.post("", BODY).await;
    assert_eq!((answer.status, answer.header("content-encoding")), (200, Some("gzip")));
    assert_eq!(answer.body, bytes);
}

#[tokio::test]
async fn queries_go_up_byte_for_byte() {
    let mut upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    for base in ["/up", "/v1", "/openai", "/a/b%20c"] {
        let gateway = Gateway::before(&format!("http://{}{base}", upstream.address));
        let mut client = gateway.connect().await;
        for path in ["/v1/responses", "/responses"] {
            for query in [
                "",
                "?",
                "?include%5B%5D=a&&x=%zz",
                "?beta=true",
                "?a=b?c=d&=&",
                "?path=/../..//x&u=http://evil.example/",
                "?q=%E2%82%AC+%20;'{}|\\^`[]",
                "?%00%0d%0aX:1",
            ] {
                let bytes = request("", BODY.as_bytes());
                let line = format!("POST {path}{query} HTTP/1.1");
                let rest = &bytes["POST /v1/responses HTTP/1.1".len()..];
                client.send([line.as_bytes(), rest].concat()).await;
                let answer = client.answer().await;
                assert_eq!(answer.status, 200, "{query}: {answer:?}");
                assert_eq!(upstream.request().await.line, format!("POST {base}/responses{query} HTTP/1.1"));
            }
        }
    }
}

#[tokio::test]
async fn host_and_absolute_urls_of_a_client_do_not_change_the_upstream() {
    let mut upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = Gateway::before(&upstream.base_url());
    let host = upstream.address.to_string();
    for (target, given) in [
        ("http://evil.example/v1/responses", "evil.example"),
        ("/v1/responses", "evil.example"),
        ("/v1/responses", "127.0.0.1:1"),
        ("/v1/responses", ""),
    ] {
        let mut client = gateway.connect().await;
        let length = BODY.len();
        client
            .send(format!(
                "POST {target} HTTP/1.1\r\nhost: {given}\r\nauthorization: Bearer {KEY}\r\ncontent-length: {length}\r\n\r\n{BODY}"
            ))
            .await;
        assert_eq!(client.answer().await.status, 200, "{target} {given}");
        let request = upstream.request().await;
        assert_eq!(request.line, "POST /up/responses HTTP/1.1");
        assert_eq!(request.header("host"), Some(host.as_str()));
    }
}

#[tokio::test]
async fn the_credentials_of_an_upstream_are_used_round_robin() {
    let mut upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = Gateway::with(&upstream.base_url(), |config| {
        config.upstreams[0].credentials = ["one", "two", "three"].map(|name| credential(name, name)).to_vec();
    });
    let mut client = gateway.connect().await;
    let mut seen = Vec::new();
    for _ in 0..7 {
        assert_eq!(client.create(BODY).await.status, 200);
        seen.push(upstream.request().await.header("authorization").unwrap().to_owned());
    }
    let turn = ["Bearer one", "Bearer two", "Bearer three"];
    assert_eq!(seen, turn.iter().cycle().take(7).copied().collect::<Vec<_>>());
}

#[tokio::test]
async fn one_connection_serves_many_requests() {
    let mut upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = Gateway::before(&upstream.base_url());
    let mut client = gateway.connect().await;
    for turn in 0..100 {
        let body = format!(r#"{{"model":"smart","n":{turn}}}"#);
        let answer = client.create(&body).await;
        assert_eq!((answer.status, answer.header("connection")), (200, None));
        let request = upstream.request().await;
        // The upstream's connection is kept as well.
        assert_eq!(request.connection, 0);
        assert_eq!(request.body, body.replace("smart", "real").as_bytes());
    }
    // A client that wants to close says so.
    client.post_with("connection: close\r\n", BODY).await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    assert!(client.closed().await);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let mut upstream = Upstream::scripted(|request| {
        let body = String::from_utf8_lossy(&request.body).into_owned();
        vec![Step::Send(json("200 OK", &body))]
    })
    .await;
    let gateway = Gateway::before(&upstream.base_url());
    let mut client = gateway.connect().await;
    let body = |turn: usize| format!(r#"{{"model":"gpt-{turn}","input":"{}"}}"#, "x".repeat(turn * 100));
    let mut bytes = Vec::new();
    for turn in 0..20 {
        bytes.extend(request("", body(turn).as_bytes()));
        bytes.extend(
            format!("GET /v1/models/m{turn} HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {KEY}\r\n\r\n").bytes(),
        );
    }
    client.send(bytes).await;
    for turn in 0..20 {
        let answer = client.answer().await;
        assert_eq!((answer.status, String::from_utf8(answer.body).unwrap()), (200, body(turn)));
        assert_eq!(upstream.request().await.body, body(turn).as_bytes());
        let answer = client.answer().await;
        answer.assert_final(404, "model_not_found", true);
        assert!(answer.message().contains(&format!("`m{turn}`")), "{answer:?}");
    }
    // No further bytes arrived.
    client.post_with("connection: close\r\n", BODY).await;
    assert_eq!(client.answer().await.body, BODY.as_bytes());
    assert!(client.closed().await);
}

/// Sends `POST /v1/responses` in HTTP/1.0.
async fn post_http_1_0(client: &mut Client, headers: &str) {
    let length = BODY.len();
    client
        .send(format!(
            "POST /v1/responses HTTP/1.0\r\n{headers}authorization: Bearer {KEY}\r\ncontent-length: {length}\r\n\r\n{BODY}"
        ))
        .await;
}

#[tokio::test]
async fn an_http_1_0_client_is_served() {
    let mut upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = Gateway::before(&upstream.base_url());
    let mut client = gateway.connect().await;
    post_http_1_0(&mut client, "").await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.whole, &answer.body[..]), (200, true, RESPONSE.as_bytes()));
    assert!(client.closed().await);
    assert_eq!(upstream.request().await.line, "POST /up/responses HTTP/1.1");

    let mut client = gateway.connect().await;
    for _ in 0..3 {
        post_http_1_0(&mut client, "connection: keep-alive\r\n").await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.header("connection")), (200, Some("keep-alive")), "{answer:?}");
    }
}

#[tokio::test]
async fn a_stream_to_an_http_1_0_client_ends_with_its_connection() {
    let event = b"data: {\"type\":\"response.completed\",\"response\":{\"id\":\"resp_1\"}}\n\n";
    let upstream = Upstream::fixed([STREAM, &chunk(event), LAST_CHUNK].concat()).await;
    let gateway = Gateway::before(&upstream.base_url());
    for headers in ["", "connection: keep-alive\r\n"] {
        let mut client = gateway.connect().await;
        post_http_1_0(&mut client, headers).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.header("transfer-encoding")), (200, None));
        // The body has no chunk sizes among the events.
        assert_eq!(answer.body, event);
    }
}

#[tokio::test]
async fn a_broken_stream_resets_the_connection_of_an_http_1_0_client() {
    let event = b"data: {}\n\n";
    let (go, gate) = tokio::sync::oneshot::channel();
    let mut steps = Some(vec![Step::Send([STREAM, &chunk(event)].concat()), Step::Wait(gate), Step::Close]);
    let upstream = Upstream::scripted(move |_| steps.take().unwrap()).await;
    let gateway = Gateway::before(&upstream.base_url());
    let mut client = gateway.connect().await;
    post_http_1_0(&mut client, "").await;
    client.head().await;
    // The bytes that arrived with the head are in the client's buffer already.
    let mut got = client.take();
    while got.len() < event.len() {
        soon("the event", client.stream.read_buf(&mut got)).await.unwrap();
    }
    assert_eq!(got, event);
    go.send(()).unwrap();
    // A connection that is closed normally would look like the end of the stream.
    let error = soon("the break", client.stream.read(&mut [0])).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}
