//! The models that each key sees, the upstream that each model leads to, and the admin plane.

use serde_json::{Value, json};

use crate::support::{
    client::{Answer, Client},
    gateway::{Gateway, KEY, config, key, model, upstream},
    upstream::{RESPONSE, Upstream, json as json_answer},
};
use tidegate::config::{Config, IdleUpstream};

fn restrict(config: &mut Config, secret: &str, models: Option<&[&str]>, upstreams: Option<&[usize]>) {
    let mut key = key(secret, secret);
    key.models = models.map(|models| models.iter().map(|model| (*model).into()).collect());
    key.upstreams = upstreams.map(<[usize]>::to_vec);
    config.keys.push(key);
}

/// Two upstreams, an upstream without a credential, models of every kind, and keys of every kind.
async fn gateway_with_all_kinds() -> (Gateway, Upstream, Upstream) {
    let one = Upstream::fixed(json_answer("200 OK", RESPONSE)).await;
    let two = Upstream::fixed(json_answer("200 OK", RESPONSE)).await;
    let mut config = config(&one.base_url());
    config.upstreams.push(upstream("two", &two.base_url()));
    config.idle.push(IdleUpstream { name: "idle".into(), variables: vec!["IDLE_KEY".into()] });
    config.models = vec![
        model("zeta", &[(0, Some("real"))]),
        model("gpt-*", &[(0, None)]),
        model("gpt-5*", &[(1, None)]),
        model("gpt-5-pro", &[(0, Some("pro"))]),
        model("two/exact", &[(0, Some("exact"))]),
        model("openai/gpt-4o:x", &[(1, None)]),
        model("both", &[(0, Some("both-one")), (1, Some("both-two"))]),
        model("odd \"%\\é", &[(0, None)]),
        model("*", &[(1, None)]),
    ];
    restrict(&mut config, "sk-models", Some(&["zeta", "gpt-*", "two/*"]), None);
    restrict(&mut config, "sk-one", None, Some(&[0]));
    restrict(&mut config, "sk-two", None, Some(&[1]));
    restrict(&mut config, "sk-both", Some(&["both", "zeta"]), Some(&[1]));
    restrict(&mut config, "sk-nothing", Some(&[]), None);
    (Gateway::start(config), one, two)
}

async fn get(client: &mut Client, path: &str, key: &str) -> Answer {
    client.ask(&format!("GET {path}"), &format!("authorization: Bearer {key}\r\n")).await
}

const LISTED: [&str; 6] = ["zeta", "gpt-5-pro", "two/exact", "openai/gpt-4o:x", "both", "odd \"%\\é"];

fn ids(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.status, 200, "{answer:?}");
    let list = answer.json();
    list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn the_list_of_models_has_openais_shape() {
    let (gateway, ..) = gateway_with_all_kinds().await;
    let mut client = gateway.connect().await;
    let mut bodies = Vec::new();
    for path in ["/v1/models", "/models", "/v1/models?client_version=0.169.0", "/models?client_version=0.169.0"] {
        let answer = client.get(path).await;
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert!(answer.header("x-request-id").is_some_and(|id| id.starts_with("req_")), "{answer:?}");
        let list = answer.json();
        let mut names: Vec<_> = list.as_object().unwrap().keys().collect();
        names.sort();
        assert_eq!(names, ["data", "object"], "nothing of Codex's own catalogue");
        assert_eq!(list["object"], "list");
        for model in list["data"].as_array().unwrap() {
            let expected = json!({ "id": model["id"], "object": "model", "created": 0, "owned_by": "tidegate" });
            assert_eq!(*model, expected);
        }
        // The list has the order of the configuration, and never a wildcard.
        assert_eq!(ids(&answer), LISTED);
        bodies.push(answer.body);
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1);
    client.send(format!("HEAD /v1/models HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {KEY}\r\n\r\n")).await;
    let head = client.head().await;
    assert_eq!((head.status, head.header("content-type")), (200, Some("application/json")));
    assert_eq!(head.header("content-length"), Some(bodies[0].len().to_string().as_str()));
    assert_eq!(client.get("/models").await.status, 200);
}

#[tokio::test]
async fn each_key_sees_the_models_that_it_may_use() {
    let (gateway, ..) = gateway_with_all_kinds().await;
    let mut client = gateway.connect().await;
    for (key, expected) in [
        (KEY, &LISTED[..]),
        ("sk-models", &["zeta", "gpt-5-pro", "two/exact"]),
        ("sk-one", &["zeta", "gpt-5-pro", "two/exact", "both", "odd \"%\\é"]),
        ("sk-two", &["openai/gpt-4o:x", "both"]),
        ("sk-both", &["both"]),
        ("sk-nothing", &[]),
    ] {
        let answer = get(&mut client, "/v1/models", key).await;
        assert_eq!(ids(&answer), expected, "{key}");
        // Each listed model can be requested by its id. The other models cannot.
        for id in LISTED {
            let path: String = id.bytes().map(|byte| format!("%{byte:02X}")).collect();
            let one = get(&mut client, &format!("/v1/models/{path}"), key).await;
            if expected.contains(&id) {
                assert_eq!((one.status, &one.json()["id"]), (200, &Value::from(id)), "{key} {id}");
            } else {
                one.assert_final(404, "model_not_found", true);
            }
        }
    }
    for headers in ["", "authorization: Bearer sk-wrong\r\n"] {
        for path in ["/v1/models", "/models", "/v1/models/zeta", "/models/zeta", "/v1/models/nope"] {
            client.ask(&format!("GET {path}"), headers).await.assert_final(401, "invalid_api_key", true);
        }
    }
}

#[tokio::test]
async fn a_model_is_found_by_its_id() {
    let (gateway, ..) = gateway_with_all_kinds().await;
    let mut client = gateway.connect().await;
    for (path, id) in [
        ("/v1/models/zeta", "zeta"),
        ("/models/zeta", "zeta"),
        ("/v1/models/zeta?client_version=1", "zeta"),
        ("/v1/models/z%65ta", "zeta"),
        ("/v1/models/openai%2Fgpt-4o:x", "openai/gpt-4o:x"),
        ("/v1/models/openai%2fgpt-4o%3Ax", "openai/gpt-4o:x"),
        ("/v1/models/openai/gpt-4o:x", "openai/gpt-4o:x"),
        ("/models/openai/gpt-4o:x", "openai/gpt-4o:x"),
        // Models that no list shows.
        ("/v1/models/gpt-4.1", "gpt-4.1"),
        ("/v1/models/up/anything", "up/anything"),
        ("/v1/models/anything", "anything"),
        // The path is decoded once.
        ("/v1/models/a%252Fb", "a%2Fb"),
        ("/v1/models/a+b%20c", "a+b c"),
        ("/v1/models/gpt-%C3%A9", "gpt-é"),
    ] {
        let answer = client.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        assert_eq!(
            answer.json(),
            json!({ "id": id, "object": "model", "created": 0, "owned_by": "tidegate" }),
            "{path}"
        );
        assert_eq!(answer.header("content-type"), Some("application/json"));
    }
    for path in ["/v1/models/idle/x", "/models/idle%2Fx", "/v1/models/up%2F"] {
        client.get(path).await.assert_final(404, "model_not_found", true);
    }
    // Bytes that are no UTF-8 are no id.
    for path in ["/v1/models/%FF", "/models/gpt-%C3%28", "/v1/models/a%ED%A0%80"] {
        client.get(path).await.assert_final(404, "unknown_url", true);
    }
}

#[tokio::test]
async fn a_model_leads_to_the_expected_upstream_and_name_for_each_key() {
    let (gateway, mut one, mut two) = gateway_with_all_kinds().await;
    // The key, the requested model, and the upstream and name that the request arrives with.
    for (key, asked, place) in [
        // An exact name has priority over every wildcard and over `upstream/model`.
        (KEY, "zeta", Some((1, "real"))),
        (KEY, "gpt-5-pro", Some((1, "pro"))),
        (KEY, "two/exact", Some((1, "exact"))),
        (KEY, "openai/gpt-4o:x", Some((2, "openai/gpt-4o:x"))),
        (KEY, "odd \"%\\é", Some((1, "odd \"%\\é"))),
        // Next comes `upstream/model`.
        (KEY, "up/zeta", Some((1, "zeta"))),
        (KEY, "two/zeta", Some((2, "zeta"))),
        (KEY, "two/two/exact", Some((2, "two/exact"))),
        (KEY, "up/gpt-5", Some((1, "gpt-5"))),
        // An upstream without a credential keeps its name: no other route matches.
        (KEY, "idle/gpt-5", None),
        // Next comes the longest wildcard. Names are case-sensitive.
        (KEY, "gpt-5-mini", Some((2, "gpt-5-mini"))),
        (KEY, "gpt-5", Some((2, "gpt-5"))),
        (KEY, "gpt-4.1", Some((1, "gpt-4.1"))),
        (KEY, "gpt-", Some((1, "gpt-"))),
        (KEY, "gpt", Some((2, "gpt"))),
        (KEY, "ZETA", Some((2, "ZETA"))),
        (KEY, "UP/zeta", Some((2, "UP/zeta"))),
        (KEY, "*", Some((2, "*"))),
        (KEY, "gpt-*", Some((1, "gpt-*"))),
        // Several targets: the first one that the key may use.
        (KEY, "both", Some((1, "both-one"))),
        ("sk-one", "both", Some((1, "both-one"))),
        ("sk-two", "both", Some((2, "both-two"))),
        ("sk-both", "both", Some((2, "both-two"))),
        // A key with restricted upstreams does not fall through to the next wildcard.
        ("sk-one", "gpt-5-mini", None),
        ("sk-two", "gpt-4.1", None),
        ("sk-two", "zeta", None),
        ("sk-two", "up/zeta", None),
        ("sk-two", "two/zeta", Some((2, "zeta"))),
        ("sk-both", "zeta", None),
        // A restriction of models applies to the requested name.
        ("sk-models", "zeta", Some((1, "real"))),
        ("sk-models", "gpt-4.1", Some((1, "gpt-4.1"))),
        ("sk-models", "two/anything", Some((2, "anything"))),
        ("sk-models", "up/zeta", None),
        ("sk-models", "real", None),
        ("sk-models", "both", None),
        ("sk-nothing", "zeta", None),
    ] {
        let mut client = gateway.connect().await;
        let body = json!({ "model": asked }).to_string();
        let length = body.len();
        client
            .send(format!(
                "POST /v1/responses HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {key}\r\ncontent-length: {length}\r\n\r\n{body}"
            ))
            .await;
        let answer = client.answer().await;
        match place {
            Some((number, name)) => {
                assert_eq!(answer.status, 200, "{key} {asked}: {answer:?}");
                let upstream = if number == 1 { &mut one } else { &mut two };
                let arrived: Value = serde_json::from_slice(&upstream.request().await.body).unwrap();
                assert_eq!(arrived, json!({ "model": name }), "{key} {asked}");
            }
            None => answer.assert_final(404, "model_not_found", true),
        }
        assert_eq!((one.untaken(), two.untaken()), (0, 0), "{key} {asked}");
    }
}

#[tokio::test]
async fn the_admin_plane_serves_metrics_health_and_readiness() {
    let (gateway, _one, _two) = gateway_with_all_kinds().await;
    let mut client = gateway.connect().await;
    assert_eq!(client.create(r#"{"model":"zeta"}"#).await.status, 200);
    assert_eq!(client.create(r#"{"model":"idle/x"}"#).await.status, 404);
    gateway.metric_becomes("tidegate_requests_total{upstream=\"up\",end=\"completed\"}", 1.0).await;
    gateway.metric_becomes("tidegate_requests_total{upstream=\"\",end=\"refused\"}", 1.0).await;
    gateway.metric_becomes("tidegate_problems_total{code=\"model_not_found\"}", 1.0).await;
    for (kind, count) in [("input", 3.0), ("cached", 1.0), ("output", 5.0), ("reasoning", 2.0)] {
        let name = format!("tidegate_tokens_total{{upstream=\"up\",kind=\"{kind}\"}}");
        assert_eq!(gateway.metric(&name).await, count, "{kind}");
    }
    assert_eq!(gateway.metric("tidegate_first_byte_seconds_count{upstream=\"up\"}").await, 1.0);
    assert_eq!(gateway.metric("tidegate_requests_in_flight").await, 0.0);
    assert_eq!(gateway.metric("tidegate_connections ").await, 1.0);

    let mut admin = Client::connect(gateway.admin).await;
    let metrics = admin.get("/metrics").await;
    assert_eq!(metrics.status, 200);
    assert_eq!(metrics.header("content-type"), Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    assert!(metrics.body.ends_with(b"# EOF\n"));
    assert!(!metrics.text().contains("sk-") && !metrics.text().contains("zeta"), "{metrics:?}");
    let health = admin.get("/healthz").await;
    assert_eq!((health.status, health.body.len()), (200, 0));
    // The id of the answer is in the store now.
    gateway.metric_becomes("tidegate_affinity_waiting", 0.0).await;
    let ready = admin.get("/readyz").await;
    assert_eq!((ready.status, ready.header("content-type")), (200, Some("application/json")));
    let in_service = |name: &str| {
        json!({
            "name": name, "state": "in_service", "in_flight": 0, "queued": 0,
            "credentials": [{ "name": "UP_KEY", "state": "in_service", "in_flight": 0 }],
        })
    };
    let expected = json!({
        "ready": true, "draining": false, "last_reload_refused": false,
        "upstreams": [in_service("up"), in_service("two")], "upstreams_without_credential": ["idle"],
    });
    let mut ready = ready.json();
    let ledger = ready.as_object_mut().unwrap().remove("ledger").unwrap();
    let keys = ready.as_object_mut().unwrap().remove("keys").unwrap();
    assert_eq!(keys, json!({ "unread": false, "store_fails": false, "stored": 0, "revision": 0 }));
    let affinity = ready.as_object_mut().unwrap().remove("affinity").unwrap();
    assert_eq!(affinity, json!({ "faults": [], "waiting": 0 }));
    let limits = ready.as_object_mut().unwrap().remove("limits").unwrap();
    assert_eq!(limits, json!({ "shared": false, "redis_fails": false, "alone": 0 }));
    assert_eq!(ready, expected);
    assert_eq!(ledger["faults"], json!([]));
    assert!(ledger["journal_bytes"].as_u64() > Some(0) && ledger["waiting"].is_u64(), "{ledger}");
    // The admin plane does not serve the API.
    for path in ["/v1/models", "/models", "/v1/responses", "/"] {
        assert_eq!(admin.get(path).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn the_data_plane_serves_health_without_details_and_no_metrics() {
    let (gateway, ..) = gateway_with_all_kinds().await;
    let mut client = gateway.connect().await;
    for path in ["/healthz", "/readyz"] {
        for headers in ["".to_owned(), format!("authorization: Bearer {KEY}\r\n")] {
            let answer = client.ask(&format!("GET {path}"), &headers).await;
            assert_eq!((answer.status, answer.body.len()), (200, 0), "{path}: {answer:?}");
            assert_eq!(answer.header("content-type"), None, "{path}: {answer:?}");
        }
    }
    for path in
        ["/metrics", "/healthz/", "/readyz/", "/readyz/detail", "/v1/metrics", "/v1/healthz", "//metrics", "/%6Detrics"]
    {
        let answer = client.get(path).await;
        answer.assert_final(404, "unknown_url", true);
        assert!(!answer.text().contains("idle") && !answer.text().contains("tidegate_requests"), "{path}: {answer:?}");
    }
}

#[tokio::test]
async fn metrics_may_have_a_listener_of_their_own() {
    let upstream = Upstream::fixed(json_answer("200 OK", RESPONSE)).await;
    let gateway = Gateway::with(&upstream.base_url(), |config| {
        config.server.metrics_listen = Some("127.0.0.1:0".parse().unwrap());
    });
    let mut client = Client::connect(gateway.metrics.unwrap()).await;
    let metrics = client.get("/metrics").await;
    assert!(metrics.status == 200 && metrics.body.ends_with(b"# EOF\n"), "{metrics:?}");
    for path in ["/readyz", "/healthz", "/v1/models", "/", "/metrics/"] {
        assert_eq!(client.get(path).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn requests_for_the_list_of_models_are_counted() {
    let (gateway, ..) = gateway_with_all_kinds().await;
    let completed = r#"tidegate_requests_total{upstream="",end="completed"}"#;
    let refused = r#"tidegate_requests_total{upstream="",end="refused"}"#;
    let mut client = gateway.connect().await;
    assert_eq!(client.get("/v1/models").await.status, 200);
    assert_eq!(client.get("/v1/models/zeta").await.status, 200);
    assert_eq!(client.ask("GET /v1/models", "").await.status, 401);
    assert_eq!(gateway.metric(completed).await, 2.0);
    assert_eq!(gateway.metric(refused).await, 1.0);
    assert_eq!(gateway.metric("tidegate_requests_in_flight").await, 0.0);
}
