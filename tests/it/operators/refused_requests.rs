//! Refused requests: what the client gets, and what the log says.

use serde_json::Value;

use super::*;
use crate::support::{
    client::Client,
    gateway::{Gateway, KEY, config, key, model, upstream},
    tls::TestCertificate,
    upstream::{RESPONSE, Step, Upstream, json},
};

async fn ask(client: &mut Client, line: &str, key: &str) -> crate::support::client::Answer {
    client.ask(line, &format!("authorization: Bearer {key}\r\ncontent-length: 0\r\n")).await
}

#[tokio::test]
async fn a_wrong_base_url_is_explained_in_the_error() {
    let mut upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = Gateway::before(&upstream.base_url());
    let mut client = gateway.connect().await;
    for base in ["/v1/responses", "/v1/v1", "/openai/v1", "/openai", "/v1/chat/completions", "/api/openai/v1"] {
        for line in
            ["POST /responses", "POST /chat/completions", "POST /embeddings", "GET /models", "POST /conversations"]
        {
            let (method, endpoint) = line.split_once(' ').unwrap();
            let answer = ask(&mut client, &format!("{method} {base}{endpoint}"), KEY).await;
            assert!([404, 405].contains(&answer.status), "{base}{endpoint}: {answer:?}");
            assert!(answer.message().contains("set base_url to …/v1"), "{base}{endpoint}: {answer:?}");
        }
    }
    // Requests that are served with such a base URL, and requests that are wrong in another way.
    for line in ["GET /v1/models", "GET /models", "GET /v1/responses/resp_1"] {
        assert_eq!(ask(&mut client, line, KEY).await.status, 200, "{line}");
    }
    for line in ["GET /v1/responses", "GET /v1/chat/completions", "POST /v1/files", "GET /"] {
        let answer = ask(&mut client, line, KEY).await;
        assert!(!answer.message().contains("base_url"), "{line} {answer:?}");
    }
    upstream.request().await;
    upstream.assert_untouched(&gateway, "a base URL that is wrong").await;
}

#[tokio::test]
async fn the_error_for_an_unknown_url_lists_only_endpoints_that_are_served() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = Gateway::with(&upstream.base_url(), |config| {
        config.upstreams[0].surface = vec![tidegate::domain::endpoint::Surface::Chat];
    });
    let message = ask(&mut gateway.connect().await, "POST /v1/files", KEY).await.message();
    assert!(message.contains("POST /v1/chat/completions") && message.contains("GET /v1/models"), "{message}");
    for other in ["responses", "embeddings", "conversations", "{"] {
        assert!(!message.contains(other), "{message}");
    }
    let whole = Gateway::before(&upstream.base_url());
    let message = ask(&mut whole.connect().await, "POST /v1/files", KEY).await.message();
    for endpoint in
        ["POST /v1/responses,", "POST /v1/conversations,", "POST /v1/images/generations,", "POST /v1/audio/speech,"]
    {
        assert!(message.contains(endpoint), "{message}");
    }
}

/// The log line of the next request.
fn line(process: &mut Process) -> Value {
    serde_json::from_str(&process.line(|line| line.contains("tidegate::request"))).unwrap()
}

#[tokio::test]
async fn the_log_says_which_key_was_refused_and_why() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let keys = "[[keys]]\nname = \"old\"\nsecret = { env = \"OLD_KEY\" }\nexpires = \"2020-01-01\"\n\
                [[keys]]\nname = \"far\"\nsecret = { env = \"FAR_KEY\" }\nip = [\"192.0.2.0/24\"]\n";
    for client_ip in [true, false] {
        let more = format!("trusted_proxies = [\"127.0.0.0/8\"]\n[log]\nclient_ip = {client_ip}");
        let folder = folder(&format!("{}{keys}", text(&upstream.base_url(), &more)));
        let (disabled, _) = command(folder.path(), &["keys", "create", "--name", "off"]).unwrap();
        command(folder.path(), &["keys", "disable", "off"]).unwrap();
        let mut process = Process::start(tidegate(folder.path()).args(["serve", "--config", "tidegate.toml"]).envs([
            ("UP_KEY", UP_KEY),
            ("A_KEY", super::KEY),
            ("OLD_KEY", "sk-old-0123456789abcdef"),
            ("FAR_KEY", "sk-far-0123456789abcdef"),
        ]));
        let mut client = Client::connect(process.ready()).await;
        let unknown = "sk-proj-somebody-elses-secret-0123456789";
        let from = "x-forwarded-for: 203.0.113.9\r\n";
        for (key, reason, name, begins) in [
            (unknown, "unknown", None, Some("sk-pro…")),
            ("short-secret", "unknown", None, Some("sho…")),
            (&*disabled, "disabled", Some("off"), None),
            ("sk-old-0123456789abcdef", "expired", Some("old"), None),
            ("sk-far-0123456789abcdef", "network", Some("far"), None),
            ("", "no_key", None, None),
        ] {
            let auth = if key.is_empty() { String::new() } else { format!("authorization: Bearer {key}\r\n") };
            let answer = client.ask("GET /v1/models?secret-query", &format!("{auth}{from}")).await;
            answer.assert_final(401, "invalid_api_key", true);
            let line = line(&mut process);
            assert_eq!(line["reason"], reason, "{line}");
            assert_eq!((line["key"].as_str(), line["key_begins"].as_str()), (name, begins), "{line}");
            assert_eq!(line["client"].as_str(), client_ip.then_some("203.0.113.9"), "{line}");
        }
        // Unknown URLs and methods, with a valid and with an unknown key.
        let long = format!("/v1/{}", "x".repeat(400));
        for (method, path, key, name, status) in [
            ("POST", "/v1/files", super::KEY, Some("a"), 404),
            ("POST", "/v1/files", unknown, None, 404),
            ("DELETE", "/v1/responses", super::KEY, Some("a"), 405),
            ("PUT", "/v1/models", super::KEY, Some("a"), 405),
            ("POST", "/v1/responses/responses", super::KEY, Some("a"), 404),
            ("GET", &long, super::KEY, Some("a"), 404),
        ] {
            let asked = format!("{method} {path}?key=secret-query");
            let auth = format!("authorization: Bearer {key}\r\n{from}content-length: 0\r\n");
            assert_eq!(client.ask(&asked, &auth).await.status, status, "{asked}");
            let line = line(&mut process);
            assert_eq!(line["method"], method, "{line}");
            assert_eq!(line["path"], path[..path.len().min(200)], "{line}");
            assert_eq!(line["key"].as_str(), name, "{line}");
            assert_eq!(line["key_begins"].as_str(), name.is_none().then_some("sk-pro…"), "{line}");
            assert_eq!(line["client"].as_str(), client_ip.then_some("203.0.113.9"), "{line}");
        }
        // The line of a served request says nothing about its client.
        client.ask("GET /v1/models", &format!("authorization: Bearer {}\r\n{from}", super::KEY)).await;
        let served = line(&mut process);
        assert!(served.get("client").is_none() && served.get("path").is_none(), "{served}");
        process.signal("INT");
        process.exit();
        let log = process.everything();
        for secret in [unknown, "short-secret", "secret-query", super::KEY] {
            assert!(!log.contains(secret), "{secret} in\n{log}");
        }
    }
}

#[tokio::test]
async fn every_error_answer_names_the_source_of_the_error() {
    for (status, body, wanted, source) in [
        ("200 OK", RESPONSE, 200, None),
        ("400 Bad Request", r#"{"error":{"message":"no","code":"bad"}}"#, 400, Some("upstream")),
        (
            "429 Too Many Requests",
            r#"{"error":{"message":"You exceeded your current quota","code":"insufficient_quota"}}"#,
            429,
            Some("upstream"),
        ),
        ("401 Unauthorized", r#"{"error":{"message":"Incorrect API key"}}"#, 502, Some("upstream")),
        ("402 Payment Required", r#"{"error":{"message":"balance"}}"#, 502, Some("upstream")),
        ("500 Internal Server Error", "{}", 500, Some("upstream")),
        ("302 Found", "", 502, Some("upstream")),
    ] {
        let script = format!(
            "HTTP/1.1 {status}\r\nx-tidegate-error-source: gateway\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let upstream = Upstream::scripted(move |_| vec![Step::Send(script.clone().into())]).await;
        let gateway = Gateway::with(&upstream.base_url(), |config| config.retries.percent = 0);
        let answer = gateway.post("", r#"{"model":"smart"}"#).await;
        assert_eq!((answer.status, answer.header("x-tidegate-error-source")), (wanted, source), "{status} {answer:?}");
    }
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = Gateway::with(&upstream.base_url(), |config| config.keys[0].limits.requests = Some(1));
    for (head, body, status, source) in [
        ("", r#"{"model":"none"}"#, 404, "gateway"),
        ("", r#"{"model":"smart"}"#, 429, "gateway"),
        ("authorization: Bearer x\r\n", r#"{"model":"smart"}"#, 400, "gateway"),
    ] {
        let answer = gateway.post(head, body).await;
        assert_eq!((answer.status, answer.header("x-tidegate-error-source")), (status, Some(source)), "{answer:?}");
    }
    let mut client = gateway.connect().await;
    client.send("nonsense\r\n\r\n").await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.header("x-tidegate-error-source")), (400, Some("gateway")), "{answer:?}");
    let nobody = Gateway::with("http://127.0.0.1:1/v1", |config| config.retries.percent = 0);
    let answer = nobody.post("", r#"{"model":"smart"}"#).await;
    assert_eq!((answer.status, answer.header("x-tidegate-error-source")), (502, Some("upstream")), "{answer:?}");
}

#[tokio::test]
async fn models_behind_wildcards_are_listed_as_far_as_the_key_may_use_them() {
    let list = r#"{"object":"list","data":[{"id":"gpt-a"},{"id":"gpt-b"},{"id":"claude-c"},{"id":"odd name"}]}"#;
    let mut one = Upstream::scripted(move |request| {
        let body = if request.line.starts_with("GET /up/models ") { list } else { RESPONSE };
        vec![Step::Send(json("200 OK", body))]
    })
    .await;
    let two = Upstream::scripted(move |request| {
        let listed = request.line.starts_with("GET /up/models ");
        vec![Step::Send(if listed { json("404 Not Found", "{}") } else { json("200 OK", RESPONSE) })]
    })
    .await;
    let mut config = config(&one.base_url());
    config.upstreams.push(upstream("two", &two.base_url()));
    config.models =
        vec![model("gpt-*", &[(0, None)]), model("o*", &[(1, None)]), model("renamed-*", &[(0, Some("x"))])];
    let mut limited = key("limited", "sk-limited");
    limited.models = Some(vec!["gpt-b*".into(), "o*".into()]);
    let mut elsewhere = key("elsewhere", "sk-elsewhere");
    elsewhere.upstreams = Some(vec![1]);
    config.keys.extend([limited, elsewhere]);
    let gateway = Gateway::start(config.clone());
    let mut client = gateway.connect().await;
    let mut ids = async |key: &str| {
        let answer = ask(&mut client, "GET /v1/models", key).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let list = answer.json();
        let entry = &list["data"][0];
        assert!(entry.is_null() || entry["object"] == "model", "{list}");
        list["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|model| model["id"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(KEY).await, ["gpt-a", "gpt-b"]);
    assert_eq!(ids("sk-limited").await, ["gpt-b"]);
    assert!(ids("sk-elsewhere").await.is_empty());
    assert_eq!(one.untaken(), 1, "the upstream's list is fetched once in five minutes");
    // Models of earlier successful requests are listed where the upstream lists nothing.
    for (model, status) in [("o3", 200), ("gpt-b-2", 200)] {
        assert_eq!(gateway.post("", format!(r#"{{"model":"{model}"}}"#)).await.status, status);
    }
    assert_eq!(ids(KEY).await, ["gpt-a", "gpt-b", "gpt-b-2", "o3"]);
    assert_eq!(ids("sk-limited").await, ["gpt-b", "gpt-b-2", "o3"]);
    assert_eq!(ids("sk-elsewhere").await, ["o3"]);

    // If the configuration names models, the list has only these.
    config.models.push(model("smart", &[(0, None)]));
    let gateway = Gateway::start(config);
    let answer = ask(&mut gateway.connect().await, "GET /v1/models", KEY).await;
    assert_eq!(answer.json()["data"].as_array().unwrap().len(), 1, "{answer:?}");
}

#[tokio::test]
async fn plain_http_on_a_tls_port_is_explained_in_the_error() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let made = TestCertificate::new();
    let gateway = Gateway::with(&upstream.base_url(), |config| config.server.tls = made.identity());
    for text in [
        "GET / HTTP/1.1\r\nhost: t\r\n\r\n",
        "POST /v1/responses HTTP/1.1\r\nhost: t\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut client = gateway.connect().await;
        client.send(text).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 400, "{answer:?}");
        assert!(
            answer.message().contains("This port speaks TLS") && answer.message().contains("https://"),
            "{answer:?}"
        );
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(client.closed().await);
    }
    assert_eq!(made.connect(&gateway).await.create(r#"{"model":"smart"}"#).await.status, 200);
}

#[tokio::test]
async fn an_upstream_that_answers_only_404_is_reported_once_in_the_log() {
    for (path, body, told) in [
        ("/up", r#"{"error":{"message":"Invalid URL (POST /responses)","type":"invalid_request_error"}}"#, 1),
        ("/up", "<html>nothing here</html>", 1),
        ("/up/v1", r#"{"error":{"message":"Invalid URL"}}"#, 0),
        ("/up", r#"{"error":{"message":"The model `x` does not exist","code":"model_not_found"}}"#, 0),
    ] {
        let media = if body.starts_with('<') { "text/html" } else { "application/json" };
        let answer = crate::support::upstream::answer("404 Not Found", media, body.as_bytes());
        let upstream = Upstream::fixed(answer).await;
        let base_url = upstream.base_url().replace("/up", path);
        let folder = folder(&text(&base_url, ""));
        let mut process = serve(folder.path());
        let address = process.ready();
        for _ in 0..3 {
            let body = r#"{"model":"smart"}"#;
            let mut client = Client::connect(address).await;
            let head = format!("authorization: Bearer {}\r\ncontent-length: {}\r\n", super::KEY, body.len());
            client.send(format!("POST /v1/responses HTTP/1.1\r\nhost: t\r\n{head}\r\n{body}")).await;
            assert_eq!(client.answer().await.status, 404);
            line(&mut process);
        }
        process.signal("INT");
        process.exit();
        let log = process.everything();
        assert_eq!(log.matches("does not end in /v1").count(), told, "{path} {body}\n{log}");
    }
}

#[test]
fn quotes_around_a_secret_are_reported() {
    for (value, told) in [
        ("\"sk-upstream-secret-0123\"", true),
        ("'sk-upstream-secret-0123'", true),
        ("“sk-upstream-secret-0123”", true),
        ("\"sk-upstream-secret-0123", true),
        ("sk-upstream-\"secret-0123", false),
    ] {
        let folder = folder(&text("http://127.0.0.1:1/v1", ""));
        let output = run(tidegate(folder.path())
            .args(["check", "--config", "tidegate.toml"])
            .env("UP_KEY", value)
            .env("A_KEY", super::KEY));
        let text = output_text(&output);
        assert_eq!(text.contains("the variable UP_KEY has quotes around the secret"), told, "{value}: {text}");
        assert_eq!(output.status.success(), !told, "{text}");
        assert!(!told || text.contains("remove the quotes"), "{text}");
        assert!(!text.contains("sk-upstream"), "{text}");
        let file = super::text("http://127.0.0.1:1/v1", "").replace("env = \"UP_KEY\"", "file = \"up.key\"");
        std::fs::write(folder.path().join("tidegate.toml"), file).unwrap();
        std::fs::write(folder.path().join("up.key"), format!("{value}\n")).unwrap();
        let output = run(tidegate(folder.path()).args(["check", "--config", "tidegate.toml"]).env("A_KEY", super::KEY));
        assert_eq!(
            output_text(&output).contains("has quotes around the secret"),
            told,
            "{value}: {}",
            output_text(&output)
        );
    }
}
