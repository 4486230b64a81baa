//! Errors: Tidegate's own in OpenAI's shape, a provider's unchanged, and no part of a credential in either.

use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::oneshot};

use crate::support::{
    client::{Answer, request},
    gateway::{Gateway, KEY, UPSTREAM_KEY, config, key},
    soon,
    upstream::{LAST_CHUNK, RESPONSE, Step, Upstream, answer, chunk, json as json_answer},
};
use tidegate::config::{ErrorRule, FaultOwner};

const BODY: &str = r#"{"model":"smart"}"#;

/// A request head without credentials.
fn post(headers: &str, body: &str) -> String {
    let length = body.len();
    format!("POST /v1/responses HTTP/1.1\r\nhost: t\r\n{headers}content-length: {length}\r\n\r\n{body}")
}

/// An error in the words of a provider.
fn error(message: &str, code: Value) -> String {
    json!({ "error": { "message": message, "type": "some_error", "param": null, "code": code } }).to_string()
}

/// After a fault of an upstream, the client's connection still works, and so does the gateway.
async fn still_serves(gateway: &Gateway) {
    assert_eq!(gateway.connect().await.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn clients_without_a_valid_key_get_401_that_repeats_nothing() {
    let mut upstream = Upstream::fixed(json_answer("200 OK", RESPONSE)).await;
    let gateway = Gateway::before(&upstream.base_url());
    let short = &KEY[..KEY.len() - 1];
    let cases = [
        String::new(),
        "authorization:\r\n".into(),
        "authorization: Bearer\r\n".into(),
        "authorization: Bearer \r\n".into(),
        format!("authorization: {KEY}\r\n"),
        format!("authorization: Basic {KEY}\r\n"),
        format!("authorization: Bearer{KEY}\r\n"),
        format!("authorization: Bearer {short}\r\n"),
        format!("authorization: Bearer {KEY}x\r\n"),
        format!("authorization: Bearer {KEY},\r\n"),
        format!("authorization: Bearer \"{KEY}\"\r\n"),
        format!("authorization: Bearer Bearer {KEY}\r\n"),
        format!("authorization: Bearer {KEY} {KEY}\r\n"),
        format!("authorization: Bearer {}\r\n", KEY.to_uppercase()),
        format!("authorization: Bearer {UPSTREAM_KEY}\r\n"),
        format!("x-api-key: {KEY}\r\n"),
        format!("api-key: {KEY}\r\n"),
        format!("cookie: authorization=Bearer {KEY}\r\n"),
        "authorization: Bearer \u{e9}\u{1f600}\r\n".into(),
    ];
    for headers in &cases {
        let mut client = gateway.connect().await;
        client.send(post(headers, BODY)).await;
        let refused = client.answer().await;
        let mut client = gateway.connect().await;
        let answers =
            [refused, client.ask("GET /v1/models", headers).await, client.ask("GET /v1/models/smart", headers).await];
        for answer in answers {
            assert_eq!(answer.status, 401, "{headers}: {answer:?}");
            answer.assert_final(401, "invalid_api_key", true);
            assert_eq!(answer.json()["error"]["type"], "invalid_request_error");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
            // LiteLLM recognizes a wrong key by these words, which are OpenAI's.
            let has_key = headers.to_ascii_lowercase().starts_with("authorization: bearer ")
                && headers.trim_end().len() > "authorization: bearer".len();
            let words = if has_key { "Incorrect API key provided" } else { "You didn't provide an API key" };
            assert!(answer.message().starts_with(words), "{headers}: {answer:?}");
            // Neither the key nor a part of it, such as OpenAI's masked form.
            for part in [KEY, short, &KEY[..8], &KEY[KEY.len() - 6..], UPSTREAM_KEY, "wrong-key"] {
                assert!(!answer.text().contains(part), "{headers}: {answer:?}");
            }
        }
    }
    upstream.assert_untouched(&gateway, "a stranger's request").await;

    let mut client = gateway.connect().await;
    for scheme in ["bearer", "BEARER", "bEaReR", "Bearer "] {
        client.send(post(&format!("authorization: {scheme} {KEY}\r\n"), BODY)).await;
        assert_eq!(client.answer().await.status, 200, "{scheme}");
    }
}

#[tokio::test]
async fn a_client_without_a_valid_key_is_refused_before_the_body() {
    let upstream = Upstream::fixed(json_answer("200 OK", RESPONSE)).await;
    let gateway = Gateway::before(&upstream.base_url());
    // A client that waits for 100 gets none, and a large body need not arrive.
    for headers in [
        "content-length: 500000\r\nexpect: 100-continue\r\n",
        "content-length: 500000\r\n",
        "transfer-encoding: chunked\r\n",
    ] {
        let mut client = gateway.connect().await;
        client.send(format!("POST /v1/responses HTTP/1.1\r\nhost: t\r\n{headers}\r\n")).await;
        let answer = client.answer().await;
        answer.assert_final(401, "invalid_api_key", true);
        assert_eq!(answer.header("connection"), Some("close"), "{headers}: {answer:?}");
        assert!(client.closed().await);
    }
}

#[tokio::test]
async fn an_error_before_the_body_says_whether_the_connection_stays_open() {
    let upstream = Upstream::fixed(json_answer("200 OK", RESPONSE)).await;
    let gateway = Gateway::before(&upstream.base_url());
    let auth = format!("authorization: Bearer {KEY}\r\n");
    // Many clients send the head and the body separately: the answer may leave before the body arrives.
    for (line, headers, code) in [
        ("POST /v1/responses", "authorization: Bearer wrong\r\n", "invalid_api_key"),
        ("POST /v1/files", &auth, "unknown_url"),
        ("POST /v1/models", &auth, "method_not_allowed"),
        ("PUT /v1/responses", &auth, "method_not_allowed"),
    ] {
        let mut client = gateway.connect().await;
        let refused = client.ask(line, &format!("{headers}content-length: 17\r\n")).await;
        assert_eq!(refused.json()["error"]["code"], code, "{line}");
        assert_eq!(refused.header("connection"), Some("close"), "{line}: {refused:?}");
        client.send(BODY).await;
        assert!(client.closed().await);
        // Without a body, the connection stays open.
        let mut client = gateway.connect().await;
        let refused = client.ask(line, &format!("{headers}content-length: 0\r\n")).await;
        assert_eq!(refused.header("connection"), None, "{line}: {refused:?}");
        assert_eq!(client.create(BODY).await.status, 200);
    }
}

#[tokio::test]
async fn an_unknown_url_is_404_and_never_a_redirect() {
    let mut upstream = Upstream::fixed(json_answer("200 OK", RESPONSE)).await;
    let gateway = Gateway::before(&upstream.base_url());
    let mut client = gateway.connect().await;
    for path in [
        "/",
        "/v1",
        "/v1/",
        "/v1/responses/",
        "/responses/",
        "//v1/responses",
        "/v1//responses",
        "/v1/./responses",
        "/v1/x/../responses",
        "/V1/responses",
        "/v1/Responses",
        "/v1/responses%2F",
        "/v1/%72esponses",
        "/v1/models/",
        "/models/",
        "/v1/files",
        "/v1/responses/resp_1/files",
        "/v2/responses",
        "/up/responses",
        "/v1/responses;x",
        "/metrics",
        "/admin",
        "/v1/secret-path-Q7",
    ] {
        for method in ["GET", "POST", "DELETE"] {
            let auth = format!("authorization: Bearer {KEY}\r\ncontent-length: 0\r\n");
            let answer = client.ask(&format!("{method} {path}"), &auth).await;
            assert_eq!(answer.status, 404, "{method} {path}: {answer:?}");
            answer.assert_final(404, "unknown_url", true);
            assert_eq!(answer.header("location"), None, "{path}");
            assert!(!answer.text().contains("secret-path-Q7"), "{answer:?}");
        }
    }
    // The same without a valid key, and with a query.
    client.ask("GET /nothing?x=1", "").await.assert_final(404, "unknown_url", true);
    upstream.assert_untouched(&gateway, "an unknown URL").await;
}

#[tokio::test]
async fn another_method_is_405_with_allow() {
    let mut upstream = Upstream::fixed(json_answer("200 OK", RESPONSE)).await;
    let gateway = Gateway::before(&upstream.base_url());
    let mut client = gateway.connect().await;
    let cases = [
        (&["/v1/responses", "/responses"][..], &["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"][..], "POST"),
        (
            &["/v1/models", "/models", "/v1/models/smart", "/models/a/b"],
            &["POST", "PUT", "DELETE", "OPTIONS"],
            "GET, HEAD",
        ),
    ];
    for (paths, methods, allow) in cases {
        for (path, method) in paths.iter().flat_map(|path| methods.iter().map(move |method| (path, method))) {
            let answer = client.ask(&format!("{method} {path}"), "content-length: 0\r\n").await;
            assert_eq!(answer.status, 405, "{method} {path}: {answer:?}");
            answer.assert_final(405, "method_not_allowed", true);
            assert_eq!(answer.all("allow"), [allow], "{method} {path}: {answer:?}");
        }
    }
    upstream.assert_untouched(&gateway, "another method").await;
}

#[tokio::test]
async fn a_head_request_without_a_key_is_answered_at_once() {
    let upstream = Upstream::fixed(json_answer("200 OK", RESPONSE)).await;
    let gateway = Gateway::before(&upstream.base_url());
    let mut client = gateway.connect().await;
    for (path, status) in
        [("/v1/responses", 405), ("/responses", 405), ("/v1/models", 401), ("/v1/models/smart", 401), ("/x", 404)]
    {
        client.send(format!("HEAD {path} HTTP/1.1\r\nhost: t\r\n\r\n")).await;
        let answer = client.head().await;
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/json"), "{path}: {answer:?}");
        assert!(answer.header("x-tidegate-request-id").is_some(), "{path}: {answer:?}");
    }
    // No body was sent: the next answer begins where the last head ended.
    assert_eq!(client.get("/v1/models").await.status, 200);
}

#[tokio::test]
async fn a_websocket_upgrade_is_426() {
    let mut upstream = Upstream::fixed(json_answer("200 OK", RESPONSE)).await;
    let gateway = Gateway::before(&upstream.base_url());
    let auth = format!("authorization: Bearer {KEY}\r\n");
    for (path, auth, token) in [
        ("/v1/responses", &*auth, "websocket"),
        ("/responses", &auth, "WebSocket"),
        ("/v1/responses?x=1", "", "websocket"),
    ] {
        let mut client = gateway.connect().await;
        let headers = format!(
            "{auth}connection: Upgrade\r\nupgrade: {token}\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nopenai-beta: responses_websockets=2026-02-06\r\n"
        );
        let answer = client.ask(&format!("GET {path}"), &headers).await;
        answer.assert_final(426, "websocket_unsupported", true);
        assert!(answer.whole);
        assert!(client.closed().await);
    }
    // Only on that path.
    let mut client = gateway.connect().await;
    let upgrade = format!("{auth}connection: upgrade\r\nupgrade: websocket\r\n");
    assert_eq!(client.ask("GET /v1/models", &upgrade).await.status, 200);
    let upgrade = format!("{auth}connection: upgrade\r\nupgrade: h2c\r\n");
    assert_eq!(gateway.connect().await.ask("GET /v1/responses", &upgrade).await.status, 405);
    upstream.assert_untouched(&gateway, "a WebSocket upgrade").await;
}

/// An answer without the parts that differ between requests.
fn stripped(answer: &Answer, model: &str) -> (u16, Vec<(String, String)>, String) {
    let varies = ["date", "x-request-id", "x-tidegate-request-id"];
    let headers = answer.headers.iter().filter(|(name, _)| !varies.contains(&&**name)).cloned().collect();
    let body = String::from_utf8(answer.body.clone()).unwrap();
    assert!(body.contains(model), "{body}");
    (answer.status, headers, body.replace(model, "M"))
}

#[tokio::test]
async fn a_forbidden_model_gets_the_answer_for_an_unknown_model() {
    let mut upstream = Upstream::fixed(json_answer("200 OK", RESPONSE)).await;
    let mut config = config(&upstream.base_url());
    let mut by_model = key("by-model", "sk-by-model");
    by_model.models = Some(vec!["gpt-*".into()]);
    let mut by_upstream = key("by-upstream", "sk-by-upstream");
    by_upstream.upstreams = Some(Vec::new());
    config.keys.extend([by_model, by_upstream]);
    let gateway = Gateway::start(config);
    // The names have the same length, because `content-length` shows it.
    for (key, forbidden, unknown) in [
        ("sk-by-model", "smart", "trams"),
        ("sk-by-model", "up/gpt-5", "no/gpt-5"),
        ("sk-by-upstream", "smart", "trams"),
        ("sk-by-upstream", "gpt-5", "xpt-5"),
        ("sk-by-upstream", "up/x", "no/x"),
    ] {
        let mut client = gateway.connect().await;
        let auth = format!("authorization: Bearer {key}\r\n");
        let mut seen = Vec::new();
        for model in [forbidden, unknown] {
            client.send(post(&auth, &json!({ "model": model }).to_string())).await;
            let created = client.answer().await;
            created.assert_final(404, "model_not_found", true);
            assert_eq!(created.param().as_deref(), Some("model"));
            let got = client.ask(&format!("GET /v1/models/{model}"), &auth).await;
            got.assert_final(404, "model_not_found", true);
            seen.push((stripped(&created, model), stripped(&got, model)));
        }
        assert_eq!(seen[0], seen[1], "{key}");
    }
    upstream.assert_untouched(&gateway, "a forbidden model").await;
}

#[tokio::test]
async fn errors_of_a_provider_reach_the_client_unchanged() {
    let mut upstream = Upstream::scripted(|request| {
        let head = String::from_utf8_lossy(&request.body).into_owned();
        let number = head.split('"').nth(7).unwrap().parse::<usize>().unwrap();
        vec![Step::Send(errors().swap_remove(number).2)]
    })
    .await;
    let gateway = Gateway::before(&upstream.base_url());
    let mut client = gateway.connect().await;
    let mut limited = 0;
    for (number, (status, body, _)) in errors().into_iter().enumerate() {
        let answer = client.create(format!(r#"{{"model":"smart","n":"{number}"}}"#)).await;
        assert_eq!((answer.status, answer.whole), (status, true), "{answer:?}");
        assert_eq!(String::from_utf8_lossy(&answer.body), String::from_utf8_lossy(&body));
        let media = if status == 503 && body.starts_with(b"<") { "text/html" } else { "application/json" };
        assert_eq!(answer.header("content-type"), Some(media));
        assert_eq!(
            answer.header("x-should-retry"),
            None,
            "Tidegate sets this header only on its own errors: {answer:?}"
        );
        if body.starts_with(b"{\"error\":{\"code\":\"rate_limit") {
            limited += 1;
            for (name, value) in LIMITS {
                assert_eq!(answer.header(name), Some(*value), "{answer:?}");
            }
        }
        upstream.request().await;
    }
    assert_eq!(limited, 1);
    gateway
        .metric_becomes("tidegate_requests_total{upstream=\"up\",end=\"upstream_error\"}", errors().len() as f64)
        .await;
}

const LIMITS: &[(&str, &str)] = &[
    ("retry-after", "17"),
    ("retry-after-ms", "17123"),
    ("x-ratelimit-limit-requests", "60"),
    ("x-ratelimit-remaining-tokens", "0"),
    ("x-ratelimit-reset-tokens", "6m0s"),
];

/// Status, body and whole answer of errors that are not about the credential.
fn errors() -> Vec<(u16, Vec<u8>, Vec<u8>)> {
    let shaped =
        |status: u16, body: &str| (status, body.as_bytes().to_vec(), json_answer(&format!("{status} X"), body));
    let limits: String = LIMITS.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let (status, body, limited) = shaped(429, &error("slow down", json!("rate_limit_exceeded")));
    let limited = String::from_utf8(limited).unwrap().replacen("\r\n", &format!("\r\n{limits}"), 1).into_bytes();
    let page = b"<html>\xff<h1>503 Service Unavailable</h1></html>\n".to_vec();
    let html = answer("503 Service Unavailable", "text/html", &page);
    vec![
        shaped(400, &error("bad", json!("unknown_parameter"))),
        // A text of the client's, repeated.
        shaped(400, &error("'Incorrect API key provided' is not one of ['auto']", json!("invalid_value"))),
        shaped(404, &error("no such response", Value::Null)),
        shaped(409, "{ \"error\" : {\"message\":\"conflict\" , \"code\":1e400}}\n"),
        shaped(422, &error("unprocessable", json!(422))),
        (status, body, limited),
        shaped(429, &error("pay", json!("insufficient_quota"))),
        shaped(500, &error("oh", json!("server_error"))),
        shaped(500, ""),
        shaped(503, &error("busy", json!("server_is_overloaded"))),
        (503, page, html),
        shaped(413, "no json at all"),
        shaped(418, "{\"error\":\"a string\",\"trace_id\":\"x\"}"),
    ]
}

#[tokio::test]
async fn an_empty_answer_reaches_the_client() {
    for (status, media, end) in [
        ("500 X", "application/json", "upstream_error"),
        ("200 OK", "application/json", "response_failed"),
        ("200 OK", "text/event-stream", "incomplete"),
    ] {
        let upstream = Upstream::fixed(answer(status, media, b"")).await;
        let gateway = Gateway::before(&upstream.base_url());
        let answer = gateway.post("", BODY).await;
        assert_eq!((answer.status.to_string(), answer.body.len()), (status[..3].to_owned(), 0));
        gateway.metric_becomes(&format!("tidegate_requests_total{{upstream=\"up\",end=\"{end}\"}}"), 1.0).await;
    }
}

fn rule(status: u16, code: Option<String>, fault: FaultOwner) -> ErrorRule {
    ErrorRule { status: Some(status), code, kind: None, words: Vec::new(), fault }
}

#[tokio::test]
async fn an_error_about_the_credential_becomes_upstream_auth() {
    let masked = format!("{}***{}", &UPSTREAM_KEY[..8], &UPSTREAM_KEY[UPSTREAM_KEY.len() - 4..]);
    let message = format!("Incorrect API key provided: {masked} {UPSTREAM_KEY}. Canary Q7.");
    let body = |code: Value| error(&message, code);
    let json = "application/json";
    let cases = [
        ("401 Unauthorized", json, body(json!("invalid_api_key"))),
        ("401 Unauthorized", json, body(Value::Null)),
        ("401 Unauthorized", json, body(json!("model_not_found"))),
        ("401 Unauthorized", json, String::new()),
        ("401 Unauthorized", "text/html", format!("<h1>{message}</h1>")),
        ("401 Unauthorized", "text/event-stream", format!("data: {}\n\n", body(json!("invalid_api_key")))),
        ("402 Payment Required", json, body(json!("insufficient_balance"))),
        ("402 Payment Required", json, body(json!("model_price"))),
        ("403 Forbidden", json, body(Value::Null)),
        ("403 Forbidden", json, body(json!(403))),
        ("403 Forbidden", json, body(json!("used_up"))),
        ("403 Forbidden", json, body(json!("insufficient_user_quota"))),
        ("403 Forbidden", "text/plain", message.clone()),
        // The ways in which providers say in a 400 that the key is wrong.
        ("400 Bad Request", json, body(json!("invalid_api_key"))),
        ("400 Bad Request", json, body(Value::Null)),
        ("400 Bad Request", json, body(json!(400))),
        ("400 Bad Request", json, format!("[{}]", body(json!(400)))),
        ("400 Bad Request", json, json!({"code": "InvalidApiKey", "message": "Invalid API-key provided."}).to_string()),
        (
            "400 Bad Request",
            json,
            json!({"code": "Client specified an invalid argument", "error": message}).to_string(),
        ),
        ("400 Bad Request", json, json!({"message": "API key not valid. Please pass a valid API key."}).to_string()),
        ("400 Bad Request", "text/plain", "API key not valid".into()),
        // By the error rules of this upstream.
        ("400 Bad Request", json, body(json!("token_mismatched"))),
        ("451 X", json, body(json!("anything"))),
        ("200 OK", json, body(json!("anything"))),
    ];
    for (status, media, body) in cases {
        let head = format!(
            "x-request-id: up-1\r\nwww-authenticate: Bearer realm={UPSTREAM_KEY}\r\nx-ratelimit-limit-requests: Canary-Q7\r\n"
        );
        let bytes = answer(status, media, body.as_bytes());
        let at = bytes.windows(2).position(|window| window == b"\r\n").unwrap() + 2;
        let bytes = [&bytes[..at], head.as_bytes(), &bytes[at..]].concat();
        let mut upstream = Upstream::fixed(bytes).await;
        let gateway = Gateway::with(&upstream.base_url(), |config| {
            let rule = |status, code: Option<&str>| rule(status, code.map(Into::into), FaultOwner::Credential);
            config.upstreams[0].error_rules = vec![rule(400, Some("token_mismatched")), rule(451, None)];
        });
        let answer = gateway.post("", BODY).await;
        if status == "200 OK" {
            // A success is not searched.
            assert_eq!(answer.status, 200);
            continue;
        }
        assert_eq!(answer.status, 502, "{status} {body}: {answer:?}");
        answer.assert_final(502, "upstream_auth", true);
        assert_eq!(answer.json()["error"]["type"], "server_error");
        for part in ["Incorrect", "Q7", UPSTREAM_KEY, &masked, &UPSTREAM_KEY[..8], "***", "invalid_api_key", "used_up"]
        {
            assert!(!answer.text().contains(part), "{status} {body}: {answer:?}");
        }
        assert_eq!(answer.header("www-authenticate"), None);
        upstream.request().await;
        assert_eq!(upstream.untaken(), 0, "the request was sent twice");
        gateway.metric_becomes("tidegate_problems_total{code=\"upstream_auth\"}", 1.0).await;
    }
}

#[tokio::test]
async fn an_error_rule_can_attribute_a_403_to_the_request() {
    let body = error("you may not", json!("used_up"));
    let upstream = Upstream::fixed(json_answer("403 Forbidden", &body)).await;
    let gateway = Gateway::with(&upstream.base_url(), |config| {
        config.upstreams[0].error_rules = vec![rule(403, None, FaultOwner::Request)];
    });
    let answer = gateway.post("", BODY).await;
    assert_eq!((answer.status, &answer.body[..]), (403, body.as_bytes()));
}

#[tokio::test]
async fn an_error_that_breaks_while_the_gateway_classifies_it_breaks_for_the_client() {
    let head = "HTTP/1.1 403 Forbidden\r\ncontent-type: application/json\r\n";
    let chunked = [format!("{head}transfer-encoding: chunked\r\n\r\n").as_bytes(), &chunk(b"{\"error\":{")].concat();
    let sized = format!("{head}content-length: 500\r\n\r\n{{\"error\":{{").into_bytes();
    for answer in [chunked, sized] {
        let upstream = Upstream::scripted(move |_| vec![Step::Send(answer.clone()), Step::Close]).await;
        let gateway = Gateway::with(&upstream.base_url(), |config| {
            config.upstreams[0].error_rules = vec![rule(403, None, FaultOwner::Request)];
        });
        let answer = gateway.post("", BODY).await;
        assert_eq!((answer.status, &answer.body[..]), (403, &b"{\"error\":{"[..]));
        assert!(!answer.whole, "the break was hidden");
        gateway.metric_becomes("tidegate_requests_total{upstream=\"up\",end=\"upstream_broken\"}", 1.0).await;
    }
}

#[tokio::test]
async fn a_403_about_the_request_reaches_the_client_unchanged() {
    let padding = "p".repeat(200_000);
    for code in ["model_not_found", "unsupported_country_region_territory", "content_policy_violation"] {
        let small = error("not for you", json!(code));
        let large =
            format!("{{\"error\":{{\"code\":\"{code}\",\"message\":\"{padding}\",\"type\":\"x\",\"param\":null}}}}");
        for body in [&small, &large] {
            // With a length, in chunks, and in chunks that end at any byte.
            let mut chunked =
                b"HTTP/1.1 403 Forbidden\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
                    .to_vec();
            chunked.extend(body.as_bytes().chunks(7001).flat_map(chunk));
            chunked.extend(LAST_CHUNK);
            let closing =
                format!("HTTP/1.1 403 Forbidden\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n{body}");
            let ways = [
                vec![Step::Send(json_answer("403 Forbidden", body))],
                vec![Step::Send(chunked)],
                vec![Step::Send(closing.into_bytes()), Step::Close],
            ];
            let mut ways = ways.into_iter();
            let upstream = Upstream::scripted(move |_| ways.next().unwrap()).await;
            let gateway = Gateway::before(&upstream.base_url());
            let mut client = gateway.connect().await;
            for way in 0..3 {
                let answer = client.create(BODY).await;
                assert_eq!((answer.status, answer.whole), (403, true), "{code} {way}: {:?}", answer.headers);
                assert!(answer.body == body.as_bytes(), "{code} {way}: {} bytes", answer.body.len());
            }
        }
    }
}

/// The gateway reads 64 KiB to find what a 403 is about. Beyond that, the error counts as the request's.
#[tokio::test]
async fn a_403_with_its_reason_behind_64_kib_reaches_the_client_unchanged() {
    let padding = "p".repeat(200_000);
    for body in [
        format!("{{\"error\":{{\"message\":\"{padding}\",\"code\":\"invalid_api_key\"}}}}"),
        format!("{{\"error\":{{\"code\":\"no_access\"}}}} {padding}"),
        "{\"error\":{\"code\":\"used".into(),
    ] {
        let upstream = Upstream::fixed(json_answer("403 Forbidden", &body)).await;
        let gateway = Gateway::before(&upstream.base_url());
        let answer = gateway.post("", BODY).await;
        assert_eq!((answer.status, answer.body == body.as_bytes()), (403, true));
    }
}

#[tokio::test]
async fn a_redirect_or_an_html_page_of_an_upstream_becomes_502() {
    let elsewhere = Upstream::fixed(json_answer("200 OK", RESPONSE)).await;
    let location = format!("location: {}/responses\r\n", elsewhere.base_url());
    let mut elsewhere = elsewhere;
    for status in ["300 X", "301 X", "302 Found", "303 X", "304 X", "307 X", "308 X"] {
        let bytes =
            format!("HTTP/1.1 {status}\r\n{location}content-type: application/json\r\ncontent-length: 0\r\n\r\n");
        let upstream = Upstream::fixed(bytes).await;
        let gateway = Gateway::before(&upstream.base_url());
        let answer = gateway.post("", BODY).await;
        assert_eq!(answer.status, 502, "{status}: {answer:?}");
        answer.assert_final(502, "upstream_bad_answer", false);
        assert_eq!(answer.header("location"), None);
    }
    assert_eq!(elsewhere.untaken(), 0, "a redirect was followed");
    for media in ["text/html", "text/html; charset=utf-8", "Text/HTML"] {
        let upstream = Upstream::fixed(answer("200 OK", media, b"<title>Log in, Q7</title>")).await;
        let gateway = Gateway::before(&upstream.base_url());
        let answer = gateway.post("", BODY).await;
        answer.assert_final(502, "upstream_bad_answer", false);
        assert!(!answer.text().contains("Q7"), "{answer:?}");
    }
}

#[tokio::test]
async fn an_unreachable_upstream_is_502_without_its_address() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let gateway = Gateway::before(&format!("http://{address}/up"));
    let mut client = gateway.connect().await;
    let answer = client.create(BODY).await;
    answer.assert_final(502, "upstream_unreachable", false);
    assert!(!answer.text().contains(&address.port().to_string()), "{answer:?}");
    assert_eq!(client.create(BODY).await.status, 502, "the client's connection goes on");
    gateway.metric_becomes("tidegate_problems_total{code=\"upstream_unreachable\"}", 2.0).await;
    still_serves(&gateway).await;
}

#[tokio::test]
async fn an_upstream_that_answers_nothing_or_garbage_is_502() {
    let cases: [(&str, Vec<Step>); 8] = [
        ("closes", vec![Step::Close]),
        ("resets", vec![Step::Reset]),
        ("half a head", vec![Step::Send(b"HTTP/1.1 200 OK\r\ncontent-le".to_vec()), Step::Close]),
        ("garbage", vec![Step::Send(b"\x16\x03\x01 this is not HTTP at all\r\n\r\n".to_vec()), Step::Close]),
        ("SSH", vec![Step::Send(b"SSH-2.0-OpenSSH_9.9\r\n".to_vec()), Step::Close]),
        (
            "two lengths",
            vec![Step::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab".to_vec())],
        ),
        ("a bad status", vec![Step::Send(b"HTTP/1.1 2000 OK\r\ncontent-length: 0\r\n\r\n".to_vec()), Step::Close]),
        (
            "an endless head",
            vec![Step::Send([b"HTTP/1.1 200 OK\r\nx-a: ".to_vec(), vec![b'a'; 300_000]].concat()), Step::Close],
        ),
    ];
    for (what, steps) in cases {
        let mut steps = Some(steps);
        let mut upstream = Upstream::scripted(move |_| steps.take().unwrap_or_default()).await;
        let gateway = Gateway::before(&upstream.base_url());
        let answer = gateway.post("", BODY).await;
        assert_eq!(answer.status, 502, "{what}: {answer:?}");
        let code = answer.json()["error"]["code"].as_str().unwrap().to_owned();
        let ended = matches!(what, "closes" | "resets" | "half a head");
        let expected = if ended { "upstream_disconnected" } else { "upstream_bad_answer" };
        assert_eq!(code, expected, "{what}");
        answer.assert_final(502, &code, false);
        upstream.request().await;
        assert_eq!(upstream.untaken(), 0, "{what}: the request was sent twice");
        still_serves(&gateway).await;
    }
}

#[tokio::test]
async fn an_upstream_that_switches_protocols_is_502() {
    let bytes = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n".to_vec();
    let upstream = Upstream::scripted(move |_| vec![Step::Send(bytes.clone())]).await;
    let gateway = Gateway::before(&upstream.base_url());
    let answer = gateway.post("", BODY).await;
    assert_eq!(answer.status, 502, "{answer:?}");
}

#[tokio::test]
async fn informational_answers_of_an_upstream_are_skipped() {
    let bytes = [
        b"HTTP/1.1 103 Early Hints\r\nlink: <x>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n".to_vec(),
        json_answer("200 OK", RESPONSE),
    ];
    let upstream = Upstream::fixed(bytes.concat()).await;
    let gateway = Gateway::before(&upstream.base_url());
    let answer = gateway.post("", BODY).await;
    assert_eq!((answer.status, &answer.body[..]), (200, RESPONSE.as_bytes()));
    assert_eq!(answer.header("link"), None);
}

#[tokio::test]
async fn an_upstream_that_sends_no_head_in_time_is_504_and_its_call_is_cancelled() {
    let (told, gone) = oneshot::channel();
    let mut steps = Some(vec![Step::UntilClosed(told)]);
    let mut upstream = Upstream::scripted(move |_| steps.take().unwrap()).await;
    let gateway = Gateway::with(&upstream.base_url(), |config| {
        config.timeouts.upstream_head = std::time::Duration::from_millis(100);
    });
    gateway.post("", BODY).await.assert_final(504, "upstream_timeout", false);
    upstream.request().await;
    assert_eq!(upstream.untaken(), 0);
    soon("the end of the upstream call", gone).await.unwrap();
}

#[tokio::test]
async fn a_kept_connection_that_the_upstream_closed_is_not_used() {
    let (told, gone) = oneshot::channel();
    let mut first = Some(vec![Step::Send(json_answer("200 OK", RESPONSE)), Step::Finish(told)]);
    let mut upstream =
        Upstream::scripted(move |_| first.take().unwrap_or_else(|| vec![Step::Send(json_answer("200 OK", RESPONSE))]))
            .await;
    let gateway = Gateway::before(&upstream.base_url());
    let mut client = gateway.connect().await;
    assert_eq!(client.create(BODY).await.status, 200);
    assert_eq!(upstream.request().await.connection, 0);
    soon("the end of the kept connection", gone).await.unwrap();
    for _ in 0..2 {
        assert_eq!(client.create(BODY).await.status, 200);
        assert_eq!(upstream.request().await.connection, 1);
    }
    assert_eq!(upstream.untaken(), 0);
}

#[tokio::test]
async fn an_answer_that_arrives_before_the_whole_body_is_sent_reaches_the_client() {
    // The upstream refuses after it read the head, and then reads the rest.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = Gateway::with(&format!("http://{}/up", listener.local_addr().unwrap()), |config| {
        config.server.max_body_bytes = 64 * 1024 * 1024;
    });
    let refusal = error("too large for us", json!("request_too_large"));
    let bytes = json_answer("413 Content Too Large", &refusal);
    let serving = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buffer = vec![0; 1000];
        assert!(stream.read(&mut buffer).await.unwrap() > 0);
        stream.write_all(&bytes).await.unwrap();
        while matches!(stream.read(&mut buffer).await, Ok(len) if len > 0) {}
    });
    let body = format!(r#"{{"model":"smart","input":"{}"}}"#, "a".repeat(20 * 1024 * 1024));
    let answer = gateway.post("", body).await;
    assert_eq!((answer.status, String::from_utf8(answer.body).unwrap()), (413, refusal));
    serving.abort();
}

#[tokio::test]
async fn each_answer_has_a_request_id_and_keeps_the_id_of_the_upstream() {
    let with_id = String::from_utf8(json_answer("200 OK", RESPONSE)).unwrap();
    let with_id = with_id.replacen("\r\n", "\r\nx-request-id: upstream-7\r\nx-tidegate-request-id: req_forged\r\n", 1);
    let mut answers = vec![
        json_answer("400 Bad Request", &error("x", Value::Null)),
        json_answer("200 OK", RESPONSE),
        with_id.into_bytes(),
    ];
    let upstream = Upstream::scripted(move |_| vec![Step::Send(answers.pop().unwrap())]).await;
    let gateway = Gateway::before(&upstream.base_url());
    let mut client = gateway.connect().await;
    let mut ours = Vec::new();
    let mut take = |answer: &Answer| {
        let [id] = answer.all("x-tidegate-request-id")[..] else { panic!("{answer:?}") };
        let hex = id.strip_prefix("req_").unwrap_or_else(|| panic!("{answer:?}"));
        assert!(hex.len() == 32 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
        ours.push(id.to_owned());
        id.to_owned()
    };

    client
        .send(request("x-request-id: from-the-client\r\nx-tidegate-request-id: req_client\r\n", BODY.as_bytes()))
        .await;
    let answer = client.answer().await;
    assert_eq!(answer.all("x-request-id"), ["upstream-7"]);
    take(&answer);
    for status in [200, 400] {
        let answer = client.create(BODY).await;
        assert_eq!(answer.status, status);
        assert_eq!(answer.all("x-request-id"), [take(&answer)]);
    }
    for path in ["/v1/models", "/v1/models/smart", "/v1/models/nope", "/nope", "/v1/responses"] {
        let answer = client.get(path).await;
        assert_eq!(answer.all("x-request-id"), [take(&answer)], "{path}");
    }
    ours.sort();
    ours.dedup();
    assert_eq!(ours.len(), 8, "each request has its own");
}

#[tokio::test]
async fn a_refused_credential_is_reported_without_waiting_for_the_rest_of_the_answer() {
    for status in ["401 Unauthorized", "402 Payment Required"] {
        let head = format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{{");
        let upstream = Upstream::fixed(head).await;
        let gateway = Gateway::before(&upstream.base_url());
        let began = tokio::time::Instant::now();
        gateway.post("", r#"{"model":"smart"}"#).await.assert_final(502, "upstream_auth", true);
        // The gateway reads the body only for its code, which is not worth ten seconds.
        assert!(began.elapsed() < std::time::Duration::from_secs(5), "{status}: {:?}", began.elapsed());
    }
}
