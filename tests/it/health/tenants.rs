//! Two tenants on shared accounts: faults that one tenant provokes take no account away from the other.

use std::time::Duration;

use serde_json::json;
use tidegate::config::Config;

use super::{before, credentials};
use crate::support::{
    client::Answer,
    gateway::{Gateway, key, model},
    upstream::{LAST_CHUNK, RESPONSE, Request, STREAM, Step, Upstream, answer, chunk, json as json_answer},
};

/// The keys of the victim and of the attacker.
const ALICE: &str = "sk-alice-client-key";
const MALLORY: &str = "sk-mallory-client-key";

/// A request that the upstream fails, and one that it answers well.
const EVIL: &str = r#"{"model":"many","input":"EVIL"}"#;
const GOOD: &str = r#"{"model":"many","input":"hi"}"#;
/// A request that refers to the response of [`GOOD`].
const FOLLOW_UP: &str = r#"{"model":"many","input":"go on","previous_response_id":"resp_1"}"#;

fn tenants(config: &mut Config) {
    config.keys = vec![key("alice", ALICE), key("mallory", MALLORY)];
}

async fn post(gateway: &Gateway, secret: &str, path: &str, body: &str) -> Answer {
    let mut client = gateway.connect().await;
    let length = body.len();
    client
        .send(format!(
            "POST {path} HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {secret}\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n\r\n{body}"
        ))
        .await;
    client.answer().await
}

async fn create(gateway: &Gateway, secret: &str, body: &str) -> Answer {
    post(gateway, secret, "/v1/responses", body).await
}

/// An upstream that answers requests that contain `EVIL` with these bytes, and all others well.
async fn provoked(evil: Vec<u8>) -> Upstream {
    Upstream::scripted(move |request| {
        let is_evil = holds(request, "EVIL");
        vec![Step::Send(if is_evil { evil.clone() } else { json_answer("200 OK", RESPONSE) })]
    })
    .await
}

fn holds(request: &Request, text: &str) -> bool {
    String::from_utf8_lossy(&request.body).contains(text)
}

async fn ejections(gateway: &Gateway) -> f64 {
    gateway.metric_sum("tidegate_ejections_total{").await
}

fn error(message: &str, kind: &str, code: &serde_json::Value) -> String {
    json!({"error": {"message": message, "type": kind, "param": null, "code": code}}).to_string()
}

/// Errors about the content of a request, not about the credential: status, content type, body.
fn refusals_of_content() -> Vec<(&'static str, &'static str, String)> {
    const JSON: &str = "application/json";
    let none = serde_json::Value::Null;
    let xai = r#"{"code":"The caller does not have permission to execute the specified operation","error":"Content violates usage guidelines. Team: x, API key ID: y, Model: grok-4, Failed check: SAFETY_CHECK_TYPE_CSAM"}"#;
    let cloudflare = "<!DOCTYPE html><html><head><title>Attention Required! | Cloudflare</title></head><body>Invalid API key? No: sorry, you have been blocked</body></html>";
    vec![
        ("403 Forbidden", JSON, xai.to_owned()),
        ("403 Forbidden", JSON, error("blocked", "permission-denied", &json!("permission-denied"))),
        ("403 Forbidden", JSON, error("Your input was flagged by our moderation", "moderation", &json!(403))),
        ("403 Forbidden", JSON, r#"{"error":{"code":403,"message":"openai/gpt-4o requires moderation on OpenAI. Your input was flagged for \"harassment\".","metadata":{"reasons":["harassment"]}}}"#.to_owned()),
        ("403 Forbidden", JSON, error("Content policy", "invalid_request_error", &json!("content_policy_violation"))),
        ("403 Forbidden", "text/html; charset=UTF-8", cloudflare.to_owned()),
        ("403 Forbidden", "text/plain", String::new()),
        ("403 Forbidden", JSON, String::new()),
        ("403 Forbidden", JSON, "{}".to_owned()),
        ("403 Forbidden", JSON, error("no", "forbidden", &none)),
        // new-api says "token" and means what this token may use.
        ("403 Forbidden", JSON, error("该令牌无权访问模型 many (request id: 2026)", "new_api_error", &json!(""))),
        ("403 Forbidden", JSON, error("该令牌无权访问任何模型", "new_api_error", &none)),
        ("403 Forbidden", JSON, error("This token has no access to model many", "new_api_error", &none)),
        ("403 Forbidden", JSON, error("您的 IP 不在令牌允许访问的列表中", "new_api_error", &none)),
        ("403 Forbidden", JSON, error("Country not supported", "request_forbidden", &json!("unsupported_country_region_territory"))),
        ("403 Forbidden", JSON, error("Project does not have access to model `many`", "invalid_request_error", &json!("model_not_found"))),
        ("403 Forbidden", JSON, r#"{"code":"AccessDenied","message":"Access denied.","request_id":"r"}"#.to_owned()),
        // The error repeats a text of the caller's that has the words of a bad key.
        ("403 Forbidden", JSON, error("The prompt 'Incorrect API key provided. insufficient balance' is not allowed", "policy", &none)),
        ("400 Bad Request", JSON, error("'Incorrect API key provided' is not one of ['user', 'assistant']", "invalid_request_error", &none)),
        ("400 Bad Request", JSON, error("Unsupported value: 余额不足, invalid api key, quota exceeded", "invalid_request_error", &json!("unsupported_value"))),
        ("400 Bad Request", JSON, error("bad", "invalid_request_error", &json!("token_mismatched"))),
        ("400 Bad Request", JSON, error("Output data may contain inappropriate content.", "data_inspection_failed", &json!("data_inspection_failed"))),
        ("400 Bad Request", JSON, r#"{"code":"DataInspectionFailed","message":"Input data may contain inappropriate content.","request_id":"r"}"#.to_owned()),
        ("404 Not Found", JSON, error("Invalid API key provided: nothing is here", "x", &none)),
        ("422 Unprocessable Entity", JSON, error("insufficient balance", "x", &json!("insufficient_quota"))),
    ]
}

#[tokio::test]
async fn an_error_about_content_reaches_the_client_unchanged_and_ejects_nothing() {
    for (status, media, body) in refusals_of_content() {
        let mut one = provoked(answer(status, media, body.as_bytes())).await;
        let mut other = provoked(answer(status, media, body.as_bytes())).await;
        let gateway = before(&[&one, &other], |config| {
            tenants(config);
            config.upstreams[0].credentials = credentials(&["a", "b"]);
        });
        assert_eq!(create(&gateway, ALICE, GOOD).await.status, 200);
        one.taken();
        for nth in 1..=6 {
            let refused = create(&gateway, MALLORY, EVIL).await;
            let leads_on =
                body.contains("model_not_found") || body.contains("模型") || body.contains("access to model");
            assert_eq!(refused.status, status[..3].parse::<u16>().unwrap(), "{status} {body}: {refused:?}");
            assert_eq!(refused.body, body.as_bytes(), "{status} {body}");
            let asked = (one.untaken(), other.untaken());
            assert_eq!(asked, (1, usize::from(leads_on)), "{status} {body}: {nth}");
        }
        let follow = create(&gateway, ALICE, FOLLOW_UP).await;
        assert_eq!(follow.status, 200, "{status} {body}: {follow:?}");
        assert_eq!(one.untaken(), 1, "{status} {body}: another candidate got the request");
        assert_eq!(ejections(&gateway).await, 0.0, "{status} {body}");
    }
}

/// Errors of relays for a model that they do not have: status and body.
fn no_such_model() -> Vec<(&'static str, String)> {
    let none = serde_json::Value::Null;
    let channel = "分组 default 下模型 made-up 无可用渠道（distributor） (request id: 2026)";
    vec![
        ("503 Service Unavailable", error(channel, "new_api_error", &json!("model_not_found"))),
        ("503 Service Unavailable", error("当前分组 default 下对于模型 made-up 无可用渠道", "one_api_error", &none)),
        (
            "503 Service Unavailable",
            error("No available channel for model made-up under group default", "new_api_error", &none),
        ),
        ("503 Service Unavailable", error("no healthy deployment", "x", &json!("model_not_available"))),
        (
            "500 Internal Server Error",
            error("The model `made-up` does not exist or you do not have access to it.", "server_error", &none),
        ),
        ("500 Internal Server Error", error("x", "x", &json!("ModelNotFound"))),
        ("500 Internal Server Error", r#"{"code":"InvalidModel","message":"x"}"#.to_owned()),
        ("502 Bad Gateway", error("x", "model_not_found", &none)),
        ("403 Forbidden", error("x", "invalid_request_error", &json!("model_not_found"))),
        ("404 Not Found", error("The model 'made-up' does not exist", "invalid_request_error", &none)),
        ("400 Bad Request", error("x", "invalid_request_error", &json!("model_not_found"))),
    ]
}

/// Requests for invented names, with many requests of another tenant between them.
#[tokio::test]
async fn requests_for_unknown_models_eject_nothing() {
    for (status, body) in no_such_model() {
        let bad = json_answer(status, &body);
        let script = move |request: &Request| {
            vec![Step::Send(if holds(request, "made-up") { bad.clone() } else { json_answer("200 OK", RESPONSE) })]
        };
        let mut upstreams = [Upstream::scripted(script.clone()).await, Upstream::scripted(script).await];
        let gateway = before(&[&upstreams[0], &upstreams[1]], |config| {
            tenants(config);
            config.models.push(model("*", &[(0, None), (1, None)]));
        });
        assert_eq!(create(&gateway, ALICE, GOOD).await.status, 200);
        for nth in 0..20 {
            let refused = create(&gateway, MALLORY, &format!(r#"{{"model":"made-up-{nth}","input":"x"}}"#)).await;
            assert_eq!((refused.status, &*refused.body), (status[..3].parse().unwrap(), body.as_bytes()), "{body}");
            if nth >= 5 {
                assert_eq!(create(&gateway, ALICE, FOLLOW_UP).await.status, 200, "{status} {body}: {nth}");
                assert_eq!(create(&gateway, ALICE, GOOD).await.status, 200, "{status} {body}: {nth}");
            }
        }
        // The first upstream served all of the victim's requests. Each invented name was tried once at each upstream.
        let [first, second] = &mut upstreams;
        assert_eq!((first.untaken(), second.untaken()), (1 + 20 + 2 * 15, 20), "{status} {body}");
        assert_eq!(ejections(&gateway).await, 0.0, "{status} {body}");
    }
}

#[tokio::test]
async fn a_model_that_one_target_does_not_have_fails_over_to_the_next_target() {
    for (status, body) in no_such_model() {
        let mut without = Upstream::fixed(json_answer(status, &body)).await;
        let mut with = Upstream::fixed(json_answer("200 OK", RESPONSE)).await;
        let gateway = before(&[&without, &with], |config| {
            tenants(config);
            // A second credential of the same target is no further target.
            config.upstreams[0].credentials = credentials(&["a", "b"]);
        });
        for _ in 0..10 {
            assert_eq!(create(&gateway, ALICE, GOOD).await.status, 200, "{status} {body}");
        }
        assert_eq!((without.untaken(), with.untaken()), (10, 10), "{status} {body}");
        assert_eq!(ejections(&gateway).await, 0.0, "{status} {body}");
    }
}

/// Faults of one model of an account do not affect its other models.
#[tokio::test]
async fn faults_of_one_model_leave_the_other_models_in_service() {
    for (status, headers) in
        [("500 Oops", ""), ("503 Busy", ""), ("429 Too Many Requests", "retry-after: 100\r\n"), ("429 Slow", "")]
    {
        let bad = super::bad(status, headers);
        let Some(Step::Send(bad)) = bad.into_iter().next() else { panic!() };
        let mut first = Upstream::scripted(move |request| {
            vec![Step::Send(if holds(request, "broken") { bad.clone() } else { json_answer("200 OK", RESPONSE) })]
        })
        .await;
        let mut second = Upstream::fixed(json_answer("200 OK", RESPONSE)).await;
        let gateway = before(&[&first, &second], |config| {
            tenants(config);
            config.upstreams[0].credentials = credentials(&["a", "b"]);
            config.models = vec![
                model("one", &[(0, Some("broken")), (1, None)]),
                model("two", &[(0, Some("works")), (1, None)]),
                model("three", &[(0, Some("works-too")), (1, None)]),
            ];
        });
        for _ in 0..12 {
            for secret in [ALICE, MALLORY] {
                assert_eq!(create(&gateway, secret, r#"{"model":"one"}"#).await.status, 200, "{status}");
            }
        }
        let broken = first.taken().len();
        assert!(broken < 24, "{status}: {broken} requests went to a model that fails");
        assert!(ejections(&gateway).await >= 1.0, "{status}");
        second.taken();
        for name in ["two", "three"] {
            for _ in 0..10 {
                let body = format!(r#"{{"model":"{name}"}}"#);
                assert_eq!(create(&gateway, ALICE, &body).await.status, 200, "{status}");
            }
        }
        assert_eq!((first.untaken(), second.untaken()), (20, 0), "{status}");
    }
}

/// Faults of several models eject the credential; faults of several credentials eject the upstream.
#[tokio::test]
async fn faults_of_several_models_eject_the_credential() {
    let mut first = Upstream::scripted(move |request| match super::key(request) {
        "a" => super::bad("500 Oops", ""),
        _ => super::good(),
    })
    .await;
    let second = Upstream::fixed(json_answer("200 OK", RESPONSE)).await;
    let gateway = before(&[&first, &second], |config| {
        tenants(config);
        config.upstreams[0].credentials = credentials(&["a", "b"]);
        config.models = ["one", "two", "three", "four"].map(|name| model(name, &[(0, None), (1, None)])).into();
    });
    for name in ["one", "two", "three"] {
        for _ in 0..12 {
            for secret in [ALICE, MALLORY] {
                let body = format!(r#"{{"model":"{name}"}}"#);
                assert_eq!(create(&gateway, secret, &body).await.status, 200);
            }
        }
    }
    let with_a = |requests: Vec<Request>| requests.iter().filter(|request| super::key(request) == "a").count();
    assert!((5..=15).contains(&with_a(first.taken())));
    for _ in 0..10 {
        assert_eq!(create(&gateway, ALICE, r#"{"model":"four"}"#).await.status, 200);
    }
    assert_eq!(with_a(first.taken()), 0, "the failing credential was used for a further model");
}

/// One way for an upstream to fail.
type Failure = Box<dyn Fn() -> Vec<Step> + Send>;

/// The faults of one key count once, whatever the faults are and however many.
#[tokio::test]
async fn faults_of_one_key_alone_eject_nothing_for_other_keys() {
    let broken = [STREAM, &chunk(b"data: {\"type\":\"response.created\"}\n\n")].concat();
    let bad = |status| super::bad(status, "");
    let ways: Vec<(&str, Failure)> = vec![
        ("500", Box::new(move || bad("500 Oops"))),
        ("503", Box::new(move || bad("503 Busy"))),
        ("408", Box::new(move || bad("408 Request Timeout"))),
        ("reset", Box::new(|| vec![Step::Reset])),
        ("broken", Box::new(move || vec![Step::Send(broken.clone()), Step::Close])),
        ("empty stream", Box::new(|| vec![Step::Send([STREAM, LAST_CHUNK].concat())])),
        (
            "302",
            Box::new(|| vec![Step::Send(b"HTTP/1.1 302 Found\r\ncontent-length: 0\r\nlocation: /\r\n\r\n".to_vec())]),
        ),
    ];
    for (name, way) in ways {
        let mut first =
            Upstream::scripted(move |request| if holds(request, "EVIL") { way() } else { super::good() }).await;
        let mut second = Upstream::fixed(json_answer("200 OK", RESPONSE)).await;
        let gateway = before(&[&first, &second], tenants);
        assert_eq!(create(&gateway, ALICE, GOOD).await.status, 200, "{name}");
        for nth in 0..40 {
            create(&gateway, MALLORY, EVIL).await;
            if nth % 10 == 9 {
                first.taken();
                assert_eq!(create(&gateway, ALICE, FOLLOW_UP).await.status, 200, "{name}");
                assert_eq!(create(&gateway, ALICE, GOOD).await.status, 200, "{name}");
                assert_eq!(first.untaken(), 2, "{name}: the first upstream got no request of the other key");
            }
        }
        second.taken();
        assert_eq!(ejections(&gateway).await, 0.0, "{name}");
    }
}

/// The other key is known and idle: only the key with the faults is sent to another upstream.
#[tokio::test]
async fn a_key_with_faults_of_its_own_is_sent_to_another_upstream_alone() {
    let mut first =
        Upstream::scripted(|request| if holds(request, "EVIL") { super::bad("500 Oops", "") } else { super::good() })
            .await;
    let second = Upstream::fixed(json_answer("200 OK", RESPONSE)).await;
    let gateway = before(&[&first, &second], tenants);
    assert_eq!(create(&gateway, ALICE, GOOD).await.status, 200);
    first.taken();
    for _ in 0..20 {
        assert_eq!(create(&gateway, MALLORY, EVIL).await.status, 200);
    }
    assert_eq!(first.untaken(), 5, "the faults in a row that eject the upstream for one key");
    assert_eq!(create(&gateway, ALICE, GOOD).await.status, 200);
    assert_eq!(first.untaken(), 1, "the first upstream got no request of the other key");
    assert_eq!(ejections(&gateway).await, 0.0);
}

/// A request that fails at every upstream counts as a fault of one upstream only.
#[tokio::test]
async fn a_request_that_fails_everywhere_ejects_at_most_one_upstream() {
    let bad = || super::bad("500 Oops", "");
    let mut upstreams = Vec::new();
    for _ in 0..3 {
        upstreams
            .push(Upstream::scripted(move |request| if holds(request, "EVIL") { bad() } else { super::good() }).await);
    }
    let gateway = before(&[&upstreams[0], &upstreams[1], &upstreams[2]], tenants);
    for _ in 0..5 {
        assert_eq!(create(&gateway, MALLORY, EVIL).await.status, 500);
    }
    for upstream in &mut upstreams {
        assert_eq!(upstream.untaken(), 5);
    }
    // Only one key sent requests, so that its faults count. The first of the three upstreams got them.
    assert_eq!(ejections(&gateway).await, 1.0);
    assert_eq!(create(&gateway, ALICE, GOOD).await.status, 200);
    assert_eq!((upstreams[0].untaken(), upstreams[1].untaken()), (0, 1));
}

/// A 402 may be about the cost of this request.
#[tokio::test]
async fn a_402_ejects_only_after_a_402_for_another_key_or_model() {
    let payment = || super::bad("402 Payment Required", "");
    for other in ["key", "model"] {
        let mut first = Upstream::scripted(move |_| payment()).await;
        let second = Upstream::fixed(json_answer("200 OK", RESPONSE)).await;
        let gateway = before(&[&first, &second], |config| {
            tenants(config);
            config.models.push(model("other", &[(0, None), (1, None)]));
        });
        for nth in 1..=5 {
            assert_eq!(create(&gateway, MALLORY, GOOD).await.status, 200);
            assert_eq!(first.untaken(), 1, "{other}: {nth}");
        }
        assert_eq!(ejections(&gateway).await, 0.0);
        let (secret, body) = if other == "key" { (ALICE, GOOD) } else { (MALLORY, r#"{"model":"other"}"#) };
        assert_eq!(create(&gateway, secret, body).await.status, 200);
        assert_eq!((first.untaken(), ejections(&gateway).await), (1, 1.0), "{other}");
        for secret in [ALICE, MALLORY] {
            assert_eq!(create(&gateway, secret, GOOD).await.status, 200);
        }
        assert_eq!(first.untaken(), 0, "{other}");
    }
}

/// State is requested from the account that holds it, as long as that account may answer.
#[tokio::test]
async fn a_pinned_request_is_the_probe_of_an_ejected_account() {
    for (status, headers) in [
        ("500 Oops", ""),
        ("429 Too Many Requests", "retry-after: 200\r\n"),
        ("402 Payment Required", ""),
        ("401 Unauthorized", ""),
    ] {
        let bad = super::bad(status, headers);
        let Some(Step::Send(bad)) = bad.into_iter().next() else { panic!() };
        let first = provoked(bad).await;
        let second = Upstream::fixed(json_answer("200 OK", RESPONSE)).await;
        let gateway = before(&[&first, &second], |config| {
            tenants(config);
            config.health.consecutive_faults = 1;
        });
        assert_eq!(create(&gateway, ALICE, GOOD).await.status, 200);
        // The attacker's key comes second for the 402, which needs two keys.
        for secret in [ALICE, MALLORY] {
            create(&gateway, secret, EVIL).await;
            let follow = create(&gateway, ALICE, FOLLOW_UP).await;
            assert_eq!(follow.status, 200, "{status}: {follow:?}");
        }
        // The account answered: it is in service, and comes first again.
        assert_eq!(create(&gateway, ALICE, GOOD).await.status, 200, "{status}");
    }
}

/// One 401 may be an error of the provider's. The second one counts.
#[tokio::test]
async fn a_credential_is_refused_for_certain_after_a_second_401() {
    let refused = super::SwitchableUpstream::new(None).await;
    let second = Upstream::fixed(json_answer("200 OK", RESPONSE)).await;
    let gateway = before(&[&refused.upstream, &second], |config| {
        tenants(config);
        config.health.refused = Duration::from_secs(600);
    });
    assert_eq!(create(&gateway, ALICE, GOOD).await.status, 200);
    refused.answer_with("", Some(("401 Unauthorized", "")));
    let follow = async || create(&gateway, ALICE, FOLLOW_UP).await;
    follow().await.assert_final(502, "upstream_auth", true);
    // Other requests fail over at once.
    assert_eq!(create(&gateway, MALLORY, GOOD).await.status, 200);
    assert_eq!(refused.seen(), 2);
    // The account of the state gets one more request, and answers: the first 401 no longer counts.
    refused.answer_with("", None);
    assert_eq!(follow().await.status, 200);
    refused.answer_with("", Some(("401 Unauthorized", "")));
    for _ in 0..2 {
        follow().await.assert_final(502, "upstream_auth", true);
    }
    assert_eq!(refused.seen(), 5);
    let unavailable = follow().await;
    unavailable.assert_final(503, "state_unavailable", false);
    let after: u64 = unavailable.header("retry-after").unwrap().parse().unwrap();
    assert!((500..=700).contains(&after), "{after}");
    assert_eq!(refused.seen(), 5);
}

/// Unusual ends of a success: name, head and body, and whether the end is a fault.
fn ends() -> Vec<(&'static str, Vec<u8>, bool)> {
    let whole = |media: &str, body: &str| answer("200 OK", media, body.as_bytes());
    let stream = |body: &str| [STREAM, &chunk(body.as_bytes()), LAST_CHUNK].concat();
    let delta = "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n";
    let chat = r#"{"id":"chatcmpl-1","object":"chat.completion","choices":[{"message":{"content":"x"}}]}"#;
    vec![
        ("a stream without [DONE]", stream(delta), false),
        ("the same without its last blank line", stream(delta.trim_end()), false),
        ("JSON labelled as a stream", whole("text/event-stream", chat), false),
        ("a stream labelled as JSON", whole("application/json", delta), false),
        ("a stream without a label", whole("text/plain", delta), false),
        ("an error in a stream", stream("data: {\"error\":{\"message\":\"m\",\"code\":\"c\"}}\n\n"), false),
        ("a stream without output", [STREAM, LAST_CHUNK].concat(), true),
        ("a stream of comments alone", stream(": keep-alive\n\n: keep-alive\n\n"), true),
    ]
}

#[tokio::test]
async fn a_clean_end_after_output_is_no_fault() {
    for path in ["/v1/chat/completions", "/v1/responses"] {
        for (name, bytes, is_fault) in ends() {
            let mut first = Upstream::fixed(bytes).await;
            let second = Upstream::fixed(json_answer("200 OK", RESPONSE)).await;
            let gateway = before(&[&first, &second], tenants);
            for _ in 0..8 {
                assert_eq!(post(&gateway, ALICE, path, r#"{"model":"many","stream":true}"#).await.status, 200);
            }
            gateway.metric_becomes("tidegate_requests_in_flight", 0.0).await;
            let wanted = if is_fault { (5, 1.0) } else { (8, 0.0) };
            assert_eq!((first.untaken(), ejections(&gateway).await), wanted, "{path}: {name}");
        }
    }
}
