//! Headers of a request that decide how its body is read: they have one meaning for the gateway and for every upstream.

use tidegate::domain::endpoint::{Endpoint, RequestBodyKind};

use crate::support::{
    client::Answer,
    gateway::{Gateway, KEY, config, credential, key, model, upstream},
    upstream::{RESPONSE, Upstream, json},
};

/// An upstream that reads this body as a form finds another model in it, and the response of another tenant.
const SMUGGLED: &str = r#"{"model":"smart","input":"&model=dear&previous_response_id=resp_VICTIM&z="}"#;

/// The JSON endpoints, each with a path and with a body that it accepts.
fn with_json() -> impl Iterator<Item = (Endpoint, String, &'static str)> {
    let all = Endpoint::ALL.into_iter().filter(|endpoint| endpoint.request_body() != RequestBodyKind::Nothing);
    all.map(|endpoint| {
        let body = if endpoint.request_body() == RequestBodyKind::Model { SMUGGLED } else { r#"{"metadata":{}}"# };
        (endpoint, endpoint.path().replace("{id}", "conv_1"), body)
    })
}

async fn post(gateway: &Gateway, path: &str, headers: &str, body: &str) -> Answer {
    let mut client = gateway.connect().await;
    let length = body.len();
    let auth = format!("authorization: Bearer {KEY}\r\n");
    client
        .send(format!("POST /v1{path} HTTP/1.1\r\nhost: t\r\n{auth}{headers}content-length: {length}\r\n\r\n{body}"))
        .await;
    client.answer().await
}

#[tokio::test]
async fn json_is_accepted_under_all_its_media_types_and_goes_up_as_application_json() {
    let mut upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = Gateway::before(&upstream.base_url());
    for (endpoint, path, body) in with_json() {
        for header in [
            "",
            "content-type:\r\n",
            "content-type: application/json\r\n",
            "Content-Type: Application/JSON\r\n",
            "content-type: application/json;charset=utf-8\r\n",
            "content-type: application/json; charset=UTF-8\r\n",
            "content-type: application/json ; CharSet=\"utf-8\"\r\n",
            "content-type: application/json; charset=\"UT\\F-8\"\r\n",
            "content-type: application/json;charset=utf8\r\n",
            "content-type: application/json;\r\n",
            "content-type: application/json;;charset=utf-8;\r\n",
            "content-type: application/json; odata=verbose\r\n",
            "content-type: application/json; profile=\"a,b;charset=utf-7\"; charset=utf-8\r\n",
            "content-type: application/vnd.api+json; version=1\r\n",
            "content-type: text/json\r\n",
            "content-type: application/vnd.api+json\r\n",
            // The parameter has no meaning for JSON, and does not go up.
            "content-type: application/json;boundary=x\r\n",
        ] {
            let answer = post(&gateway, &path, header, body).await;
            assert_eq!(answer.status, 200, "{endpoint:?} {header} {answer:?}");
            let seen = upstream.request().await;
            let types: Vec<_> = seen.headers.iter().filter(|(name, _)| name == "content-type").collect();
            assert_eq!(types.len(), 1, "{endpoint:?} {header}");
            assert_eq!(seen.header("content-type"), Some("application/json"), "{endpoint:?} {header}");
        }
    }
}

#[tokio::test]
async fn other_media_types_are_415_and_never_go_up() {
    let mut upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = Gateway::before(&upstream.base_url());
    for (endpoint, path, body) in with_json() {
        for media in [
            "application/x-www-form-urlencoded",
            "Application/X-WWW-Form-Urlencoded; charset=utf-8",
            "application/x-www-form-urlencoded; x=application/json",
            "multipart/form-data; boundary=x",
            "multipart/related+json",
            "text/plain",
            "text/plain; charset=utf-8",
            "text/html",
            "application/octet-stream",
            "application/xml",
            "application/jsonx",
            "application/json-seq",
            "application/x-ndjson",
            "application/json/x",
            "application/json x",
            "application/+json",
            "application/",
            "/json",
            "json",
            "*/*",
            ";charset=utf-8",
            "application/json; charset=utf-7",
            "application/json; charset=\"utf-7\"",
            "application/json; charset*=utf-7''x",
            "application/json; charset*=utf-8''utf-7",
            "application/json; charset*0=utf-; charset*1=7",
            "application/json; Charset*0*=utf-7''x",
            "application/json; charset *=utf-7''x",
            "application/json; charset=\"UTF\\-7\"",
            "application/json; charset=utf-16",
            "application/json; charset=iso-8859-1",
            "application/json; charset=",
            "application/json; charset=utf-8; charset=utf-7",
            "application/json;profile=\"x\\\";charset=utf-8\";CHARSET=utf-7",
            "application/json; profile=\"open",
            "application/json\u{e9}",
        ] {
            let answer = post(&gateway, &path, &format!("content-type: {media}\r\n"), body).await;
            answer.assert_final(415, "unsupported_media_type", true);
            assert!(answer.message().contains("Content-Type: application/json"), "{endpoint:?} {media} {answer:?}");
        }
    }
    // The error comes before the body, and after the check of the key.
    for (auth, status) in [(KEY, 415), ("sk-of-nobody-at-all", 401)] {
        let mut client = gateway.connect().await;
        let auth = format!("authorization: Bearer {auth}\r\ncontent-type: text/plain\r\n");
        let rest = "expect: 100-continue\r\ncontent-length: 500000\r\n";
        client.send(format!("POST /v1/responses HTTP/1.1\r\nhost: t\r\n{auth}{rest}\r\n")).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.header("connection")), (status, Some("close")), "{answer:?}");
    }
    upstream.assert_untouched(&gateway, "a form").await;
}

#[tokio::test]
async fn a_request_without_a_body_needs_no_media_type_and_the_clients_never_goes_up() {
    let mut upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = Gateway::before(&upstream.base_url());
    let mut client = gateway.connect().await;
    for endpoint in Endpoint::ALL.into_iter().filter(|endpoint| endpoint.request_body() != RequestBodyKind::Model) {
        let path = endpoint.path().replace("{id}", "conv_1").replace("{item}", "msg_1");
        for (header, wanted) in [
            ("", None),
            ("content-type: application/json\r\n", Some("application/json")),
            ("content-type: application/x-www-form-urlencoded\r\n", Some("application/json")),
            ("content-type: application/json; charset=utf-7\r\n", Some("application/json")),
        ] {
            let auth = format!("authorization: Bearer {KEY}\r\n{header}");
            let line = format!("{} /v1{path}", endpoint.method());
            let answer = client.ask(&line, &format!("{auth}content-length: 0\r\n")).await;
            assert_eq!(answer.status, 200, "{endpoint:?} {header} {answer:?}");
            assert_eq!(upstream.request().await.header("content-type"), wanted, "{endpoint:?} {header}");
        }
    }
}

#[tokio::test]
async fn a_repeated_header_with_a_single_meaning_is_400() {
    let mut upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = Gateway::before(&upstream.base_url());
    for headers in [
        "content-type: application/json\r\ncontent-type: application/json\r\n",
        "content-type: application/json\r\ncontent-type: application/x-www-form-urlencoded\r\n",
        "content-type: text/plain\r\nContent-Type: application/json\r\n",
        "content-type:\r\ncontent-type: application/json\r\n",
        "content-type: application/json, application/json\r\n",
        "content-type: application/json,text/plain\r\n",
        "content-type: application/json; charset=utf-8, application/x-www-form-urlencoded\r\n",
        "content-type: text/plain, application/json\r\n",
        "content-type: , application/json\r\n",
        "content-encoding: identity\r\ncontent-encoding: identity\r\n",
        "content-encoding: gzip\r\ncontent-encoding: br\r\n",
        "content-encoding:\r\nContent-Encoding: gzip\r\n",
        "idempotency-key: a\r\nidempotency-key: a\r\n",
        "authorization: Bearer sk-of-nobody-at-all\r\n",
        "Authorization: Basic eDp5\r\n",
    ] {
        let answer = post(&gateway, "/responses", headers, SMUGGLED).await;
        answer.assert_final(400, "repeated_header", true);
        assert!(!answer.text().contains(KEY), "{answer:?}");
    }
    let two = format!("authorization: Bearer {KEY}\r\nauthorization: Bearer {KEY}\r\n");
    let joined = format!("authorization: Bearer {KEY}, Bearer {KEY}\r\n");
    let mixed = format!("authorization: Bearer {KEY},basic eDp5\r\n");
    for headers in [two, joined, mixed] {
        for line in ["GET /v1/models", "GET /v1/responses/resp_1", "DELETE /v1/responses/resp_1"] {
            let answer = gateway.connect().await.ask(line, &headers).await;
            answer.assert_final(400, "repeated_header", true);
            assert!(!answer.text().contains(KEY), "{answer:?}");
        }
    }
    let twice = format!("authorization: Bearer {KEY}\r\ncontent-type: a/b\r\ncontent-type: a/b\r\n");
    let answer = gateway.connect().await.ask("GET /v1/responses/resp_1", &twice).await;
    answer.assert_final(400, "repeated_header", true);
    upstream.assert_untouched(&gateway, "a request with a repeated header").await;
}

/// A lenient upstream would read the model from the query: its price and the key's models would be unchecked.
#[tokio::test]
async fn a_model_in_the_query_is_400() {
    let mut upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = Gateway::before(&upstream.base_url());
    for (endpoint, path, body) in with_json() {
        for query in [
            "model=dear",
            "model=smart",
            "a=b&model=dear",
            "model",
            "MODEL=dear",
            "Model[]=dear",
            "model%5B0%5D=dear",
            "%6dodel=dear",
            "%256Dodel=dear",
            "+model+=dear",
            "a=b;model=dear",
        ] {
            let answer = post(&gateway, &format!("{path}?{query}"), "content-type: application/json\r\n", body).await;
            if endpoint.request_body() == RequestBodyKind::Model {
                answer.assert_final(400, "invalid_query", true);
                assert_eq!(answer.param().as_deref(), Some("model"), "{endpoint:?} {query}");
            } else {
                assert_eq!(answer.status, 200, "{endpoint:?} {query} {answer:?}");
                upstream.request().await;
            }
        }
    }
    upstream.assert_untouched(&gateway, "a model in the query").await;
    for query in ["api-version=2026-01-01", "models=x", "x=model", "x[model]=y"] {
        assert_eq!(post(&gateway, &format!("/responses?{query}"), "", SMUGGLED).await.status, 200, "{query}");
    }
}

/// The `Idempotency-Key` that arrives upstream for this value, for a client key and a model.
async fn upstream_idempotency_key(
    gateway: &Gateway,
    seen: &mut Upstream,
    secret: &str,
    model: &str,
    value: &str,
) -> Option<String> {
    let mut client = gateway.connect().await;
    let body = format!(r#"{{"model":"{model}"}}"#);
    let headers = format!("authorization: Bearer {secret}\r\nidempotency-key: {value}\r\n");
    let length = body.len();
    client
        .send(format!("POST /v1/responses HTTP/1.1\r\nhost: t\r\n{headers}content-length: {length}\r\n\r\n{body}"))
        .await;
    assert_eq!(client.answer().await.status, 200);
    seen.request().await.header("idempotency-key").map(str::to_owned)
}

#[tokio::test]
async fn an_idempotency_key_is_separate_for_each_tenant_account_and_value() {
    let mut seen = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let mut config = config(&seen.base_url());
    config.keys.push(key("other", "sk-other-client-key"));
    let mut second = upstream("second", &seen.base_url());
    second.credentials = vec![credential("SECOND", "sk-second-upstream-secret")];
    config.upstreams.push(second);
    config.models.push(model("second", &[(1, None)]));
    let gateway = Gateway::start(config.clone());
    let mine = upstream_idempotency_key(&gateway, &mut seen, KEY, "smart", "i-1").await.unwrap();
    let hex = mine.strip_prefix("tg-").unwrap_or_else(|| panic!("{mine}"));
    assert!(hex.len() == 32 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()), "{mine}");
    // A retry gets the same value, also at another replica or after a restart.
    assert_eq!(upstream_idempotency_key(&gateway, &mut seen, KEY, "smart", "i-1").await.as_ref(), Some(&mine));
    let again = Gateway::start(config);
    assert_eq!(upstream_idempotency_key(&again, &mut seen, KEY, "smart", "i-1").await.as_ref(), Some(&mine));
    // Another value, another tenant and another account get different values.
    let mut all = vec![mine.clone()];
    for (secret, model, value) in [
        (KEY, "smart", "i-2"),
        ("sk-other-client-key", "smart", "i-1"),
        ("sk-other-client-key", "smart", mine.as_str()),
        (KEY, "second", "i-1"),
        (KEY, "smart", &"x".repeat(4000)),
    ] {
        all.push(upstream_idempotency_key(&gateway, &mut seen, secret, model, value).await.unwrap());
    }
    assert!(all.iter().all(|one| one.len() == mine.len()), "{all:?}");
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 6, "{all:?}");
    // An empty value is not sent.
    assert_eq!(upstream_idempotency_key(&gateway, &mut seen, KEY, "smart", "").await, None);
}

#[tokio::test]
async fn a_model_name_that_servers_may_read_differently_is_400() {
    let mut upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = Gateway::before(&upstream.base_url());
    let odd = [
        " gpt-4o",
        "gpt-4o ",
        "\tgpt-4o",
        "gpt-4o\n",
        "gpt-4o\u{a0}",
        "\u{3000}gpt-4o",
        "gpt-4o\u{2003}",
        "gpt-4o\u{85}",
        "gpt-4o\u{2028}",
        "gpt-\u{0}4o",
        "gpt-\u{7f}4o",
        "gpt-\u{9f}4o",
        "gpt-4o\u{200b}",
        "gpt\u{200c}-4o",
        "gpt\u{200d}-4o",
        "\u{200e}gpt-4o",
        "gpt-4o\u{200f}",
        "\u{feff}gpt-4o",
        "gpt-4o\u{2060}",
        "gpt-\u{2061}4o",
        "gpt-\u{2064}4o",
        "gpt-\u{202e}4o",
        "gpt-\u{202a}4o",
        "gpt-\u{2066}4o",
        "gpt-\u{2069}4o",
        "gpt-\u{206f}4o",
        "gpt-\u{ad}4o",
        "gpt-\u{61c}4o",
        "gpt-\u{180e}4o",
        "gpt-\u{fe0f}4o",
        "gpt-\u{e0041}4o",
        "gpt-\u{fff9}4o",
        "gpt-\u{115f}4o",
        "gpt-\u{3164}4o",
        "gpt-\u{34f}4o",
        "gpt-\u{e0100}4o",
        "gpt-\u{1d173}4o",
        " ",
        "\u{200b}",
    ];
    for name in odd {
        let body = serde_json::json!({ "model": name }).to_string();
        let escaped: String = name.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
        for body in [body, format!(r#"{{"model":"{escaped}"}}"#)] {
            let answer = gateway.connect().await.create(&body).await;
            assert_eq!(answer.status, 400, "{name:?} {answer:?}");
            answer.assert_final(400, "invalid_model", true);
            assert_eq!(answer.param().as_deref(), Some("model"));
        }
    }
    upstream.assert_untouched(&gateway, "an odd model name").await;
    for name in ["gpt-4o", "gpt-4o mini", "gpt-模型", "gpt-é", "gpt-4o:free", "gpt-@cf/meta"] {
        let body = serde_json::json!({ "model": name }).to_string();
        assert_eq!(gateway.connect().await.create(&body).await.status, 200, "{name}");
    }
}
