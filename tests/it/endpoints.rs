//! Every relayed endpoint: the bytes in both directions, and the upstreams that get the request.

mod ledger;
mod metering;
mod without_model;

use std::time::Duration;

use http::Method;
use tidegate::domain::endpoint::{AnswerShape, Endpoint, RequestBodyKind, Surface};

use crate::support::{
    client::{Answer, Client},
    gateway::{Gateway, KEY, config, key, model, upstream},
    soon,
    upstream::{LAST_CHUNK, RESPONSE, Request, STREAM, Step, Upstream, answer, chunk, json},
};

/// An id with every character that an id may have.
const ID: &str = "resp_AZaz09._~:-";

/// A query as unusual as clients send them.
const QUERY: &str = "stream=true&starting_after=7&include%5B%5D=a&include%5B%5D=b&beta=true&&x=%zz";

const NAMED: &str = r#" { "n" : 1.10, "x":{"model":"smart"} , "model" : "smart","text":"\ud83d" } "#;
const NAMELESS: &str = r#" {"model":"smart","model":1, "metadata" : {"a":"b"},"items":[{"id":"msg_1"}]} "#;

/// The path of an endpoint with ids in it.
fn path(endpoint: Endpoint, id: &str) -> String {
    endpoint.path().replace("{id}", id).replace("{item}", "msg_2")
}

/// The body that a client sends to the endpoint.
fn body(endpoint: Endpoint) -> &'static str {
    match endpoint.request_body() {
        RequestBodyKind::Model => NAMED,
        RequestBodyKind::Json => NAMELESS,
        RequestBodyKind::Nothing => "",
    }
}

/// Sends a request with the test key and reads the whole answer.
async fn ask(client: &mut Client, method: &Method, target: &str, headers: &str, body: &str) -> Answer {
    let auth = format!("authorization: Bearer {KEY}\r\n");
    let length = if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
    client.send(format!("{method} {target} HTTP/1.1\r\nhost: t\r\n{auth}{headers}{length}\r\n{body}")).await;
    client.answer().await
}

/// Sends a request again if the store of ids did not answer in time, which happens on a busy machine. Then nothing went
/// up, and the connection stays open.
async fn call(client: &mut Client, endpoint: Endpoint) -> Answer {
    let target = format!("/v1{}", path(endpoint, ID));
    let answering = async {
        loop {
            let answer =
                ask(client, &endpoint.method(), &target, "content-type: application/json\r\n", body(endpoint)).await;
            if answer.status != 503 || answer.json()["error"]["code"] != "affinity_unavailable" {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon("an answer", answering).await
}

fn with_ids() -> impl Iterator<Item = Endpoint> {
    Endpoint::ALL.into_iter().filter(|endpoint| endpoint.has_ids())
}

/// An answer of the kind that the endpoint gives, in an unusual format.
fn unusual_answer(endpoint: Endpoint) -> (&'static str, Vec<u8>) {
    match endpoint.shape() {
        AnswerShape::Media if endpoint == Endpoint::CreateSpeech => {
            ("audio/mpeg", (0..=255).cycle().take(4096).collect())
        }
        _ => ("application/json; charset=utf-8", br#"{ "id":"x\u00e9" ,"usage" : {"total_tokens":1e0}}  "#.to_vec()),
    }
}

#[tokio::test]
async fn every_endpoint_passes_requests_and_answers_unchanged() {
    for endpoint in Endpoint::ALL {
        let (media, bytes) = unusual_answer(endpoint);
        let mut upstream = Upstream::fixed(answer("200 OK", media, &bytes)).await;
        let gateway = Gateway::before(&upstream.base_url());
        let mut client = gateway.connect().await;
        for (base, query) in [("/v1", ""), ("", ""), ("/v1", "?"), ("/v1", &format!("?{QUERY}")[..])] {
            let path = path(endpoint, ID);
            let headers = "content-type: application/json\r\nopenai-beta: responses_multi_agent=v1\r\n";
            let target = format!("{base}{path}{query}");
            let got = ask(&mut client, &endpoint.method(), &target, headers, body(endpoint)).await;
            assert_eq!((got.status, got.whole, &got.body), (200, true, &bytes), "{endpoint:?} {got:?}");
            assert_eq!(got.header("content-type"), Some(media), "{endpoint:?}");
            let seen = upstream.request().await;
            assert_eq!(seen.line, format!("{} /up{path}{query} HTTP/1.1", endpoint.method()));
            let sent = String::from_utf8(seen.body.clone()).unwrap();
            let renamed = body(endpoint).replace(r#""model" : "smart""#, r#""model" : "real""#);
            assert_eq!(sent, if endpoint.request_body() == RequestBodyKind::Model { &renamed } else { body(endpoint) });
            assert_eq!(seen.header("content-type"), Some("application/json"), "{endpoint:?}");
            assert_eq!(seen.header("openai-beta"), Some("responses_multi_agent=v1"), "{endpoint:?}");
            assert_eq!(seen.header("transfer-encoding"), None, "{endpoint:?}");
            let length = (endpoint.method() == Method::POST).then(|| sent.len().to_string());
            assert_eq!(seen.header("content-length"), length.as_deref(), "{endpoint:?}");
        }
        let done = "tidegate_requests_total{upstream=\"up\",end=\"completed\"}";
        gateway.metric_becomes(done, 4.0).await;
    }
}

#[tokio::test]
async fn a_malformed_id_is_404_and_never_goes_up() {
    let mut upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = Gateway::before(&upstream.base_url());
    let mut client = gateway.connect().await;
    let (longest, too_long) = ("x".repeat(256), "x".repeat(257));
    let good = ask(&mut client, &Method::GET, &format!("/v1/responses/{longest}"), "", "").await;
    assert_eq!((good.status, upstream.request().await.line.len()), (200, 256 + "GET /up/responses/ HTTP/1.1".len()));
    let unknown = ask(&mut client, &Method::GET, "/v1/responses/%", "", "").await;
    unknown.assert_final(404, "unknown_id", true);
    for endpoint in with_ids() {
        for id in [
            ".",
            "..",
            "%2e%2e",
            "%2E",
            "resp%5F1",
            "resp_1%00",
            "resp_1%2F..",
            "%ff",
            "%zz",
            "a;b",
            "a+b",
            "a@b",
            "a,b",
            "a=b",
            "a*b",
            "a(b)",
            "a!b",
            "a$b",
            "a'b",
            "a|b",
            "{id}",
            &too_long,
        ] {
            let target = format!("/v1{}", path(endpoint, id));
            let refused = ask(&mut client, &endpoint.method(), &target, "", body(endpoint)).await;
            refused.assert_final(404, "unknown_id", true);
            assert_eq!(refused.body, unknown.body, "{target}");
            if !body(endpoint).is_empty() {
                // The gateway does not read the body of a request that it refuses by its head.
                assert_eq!(refused.header("connection"), Some("close"), "{target}");
                client = gateway.connect().await;
            }
        }
        // The second id of a path.
        if endpoint.path().contains("{item}") {
            let target = "/v1/conversations/conv_1/items/%2e%2e";
            ask(&mut client, &endpoint.method(), target, "", "").await.assert_final(404, "unknown_id", true);
        }
        // An empty id, or a slash in an id or at its end, makes another path, which is unknown.
        for id in ["", "a/b", "a/../b"] {
            let target = format!("/v1{}", path(endpoint, id));
            let refused = ask(&mut client, &endpoint.method(), &target, "content-length: 0\r\n", "").await;
            assert!(matches!(refused.status, 404 | 405), "{target} {refused:?}");
        }
        let target = format!("/v1{}/", path(endpoint, ID));
        ask(&mut client, &endpoint.method(), &target, "", "").await.assert_final(404, "unknown_url", true);
        // A path with other characters than ASCII is invalid.
        let target = format!("/v1{}", path(endpoint, "résp"));
        let mut odd = gateway.connect().await;
        let refused = ask(&mut odd, &endpoint.method(), &target, "content-length: 0\r\n", "").await;
        assert!(matches!(refused.status, 400 | 404), "{refused:?}");
        // Without a valid key, the answer says nothing about ids.
        let line = format!("{} /v1{}", endpoint.method(), path(endpoint, "%2e%2e"));
        gateway.connect().await.ask(&line, "content-length: 0\r\n").await.assert_problem(401, "invalid_api_key");
    }
    upstream.assert_untouched(&gateway, "what is no id").await;
}

#[tokio::test]
async fn a_body_without_a_meaning_for_its_endpoint_is_ignored_and_not_sent_upstream() {
    let mut upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = Gateway::before(&upstream.base_url());
    let mut client = gateway.connect().await;
    for endpoint in Endpoint::ALL.into_iter().filter(|endpoint| endpoint.request_body() == RequestBodyKind::Nothing) {
        let json = "content-type: application/json\r\n";
        for (headers, sent) in [
            ("", String::new()),
            ("content-length: 0\r\n", String::new()),
            ("transfer-encoding: chunked\r\n", "0\r\n\r\n".to_owned()),
            ("transfer-encoding: chunked\r\n", "3\r\n{no\r\n0\r\n\r\n".to_owned()),
            ("content-length: 7\r\n", "{\"a\":1}".to_owned()),
            ("content-length: 7\r\ncontent-encoding: unheard-of\r\n", "garbage".to_owned()),
            ("content-length: 60000\r\n", "x".repeat(60_000)),
        ] {
            let target = path(endpoint, ID);
            let auth = format!("authorization: Bearer {KEY}\r\n{json}{headers}");
            let line = format!("{} {target} HTTP/1.1\r\nhost: t\r\n{auth}\r\n{sent}", endpoint.method());
            client.send(line).await;
            // All requests use the same connection.
            let got = client.answer().await;
            assert_eq!((got.status, got.header("connection")), (200, None), "{endpoint:?} {headers} {got:?}");
            let seen = upstream.request().await;
            assert_eq!((&*seen.line, seen.body.len()), (&*format!("{} /up{target} HTTP/1.1", endpoint.method()), 0));
            assert_eq!((seen.connection, seen.header("transfer-encoding")), (0, None), "{endpoint:?} {headers}");
        }
        let mut other = gateway.connect().await;
        let target = path(endpoint, ID);
        let auth = format!("authorization: Bearer {KEY}\r\n");
        other
            .send(format!(
                "{} {target} HTTP/1.1\r\nhost: t\r\n{auth}content-length: 1000000\r\n\r\n",
                endpoint.method()
            ))
            .await;
        other.send("x".repeat(100_000)).await;
        let refused = other.answer().await;
        refused.assert_final(413, "request_too_large", true);
        assert_eq!(refused.header("connection"), Some("close"));
        let mut other = gateway.connect().await;
        other
            .send(format!(
                "{} {target} HTTP/1.1\r\nhost: t\r\n{auth}transfer-encoding: chunked\r\n\r\nzz\r\n",
                endpoint.method()
            ))
            .await;
        other.answer().await.assert_problem(400, "invalid_framing");
    }
    upstream.assert_untouched(&gateway, "a body that nobody wants").await;
}

#[tokio::test]
async fn a_body_without_a_model_has_to_be_one_object_or_empty() {
    let mut upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = Gateway::before(&upstream.base_url());
    for endpoint in Endpoint::ALL.into_iter().filter(|endpoint| endpoint.request_body() == RequestBodyKind::Json) {
        let target = path(endpoint, ID);
        for bad in ["[]", "{", "null", "{} {}", "\u{feff}{}", " ", "{\"a\":NaN}"] {
            let mut client = gateway.connect().await;
            ask(&mut client, &Method::POST, &target, "", bad).await.assert_problem(400, "invalid_json");
        }
        let mut client = gateway.connect().await;
        let got = ask(&mut client, &Method::POST, &target, "content-length: 0\r\n", "").await;
        assert_eq!((got.status, upstream.request().await.header("content-length")), (200, Some("0")), "{endpoint:?}");
    }
    upstream.assert_untouched(&gateway, "what is no object").await;
}

#[tokio::test]
async fn each_path_accepts_its_own_methods_only() {
    let mut upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = Gateway::before(&upstream.base_url());
    for endpoint in Endpoint::ALL {
        let target = path(endpoint, ID);
        let same = Endpoint::ALL.into_iter().filter(|other| other.path() == endpoint.path());
        let allowed: Vec<_> = same.map(|other| other.method()).collect();
        let allow = allowed.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"] {
            if allowed.iter().any(|one| one == method) {
                continue;
            }
            let mut client = gateway.connect().await;
            let method = method.parse::<Method>().unwrap();
            client.send(format!("{method} /v1{target} HTTP/1.1\r\nhost: t\r\ncontent-length: 0\r\n\r\n")).await;
            let head = client.head().await;
            assert_eq!((head.status, head.all("allow")), (405, vec![&*allow]), "{method} {target} {head:?}");
        }
    }
    // Lists of everything in an account are not available to any key.
    let mut client = gateway.connect().await;
    for (path, status) in [
        ("/v1/responses", 405),
        ("/v1/conversations", 405),
        ("/v1/chat/completions", 405),
        ("/v1/chat/completions/chatcmpl_1", 404),
        ("/v1/files", 404),
        ("/v1/files/file_1", 404),
        ("/v1/vector_stores", 404),
        ("/v1/batches", 404),
        ("/v1/responses/resp_1/output", 404),
    ] {
        assert_eq!(client.get(path).await.status, status, "{path}");
    }
    upstream.assert_untouched(&gateway, "another method").await;
}

#[tokio::test]
async fn a_resumed_stream_passes_unchanged() {
    let rest =
        b"event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"sequence_number\":8}\n\n\
        event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"id\":\"resp_1\"}}\n\n";
    for (events, broken, end) in [
        (&rest[..], false, "completed"),
        // A resume behind the last event has no further event.
        (b"", false, "completed"),
        (&rest[..60], false, "incomplete"),
        (&rest[..60], true, "upstream_broken"),
    ] {
        let mut stream = STREAM.to_vec();
        events.chunks(7).for_each(|piece| stream.extend(chunk(piece)));
        let stream = if broken { stream } else { [&stream, LAST_CHUNK].concat() };
        let upstream = Upstream::scripted(move |_| vec![Step::Send(stream.clone()), Step::Close]).await;
        let gateway = Gateway::before(&upstream.base_url());
        let mut client = gateway.connect().await;
        let got = client.get("/v1/responses/resp_1?stream=true&starting_after=7").await;
        assert_eq!((got.status, &got.body[..], got.whole), (200, events, !broken), "{end}");
        assert_eq!(got.header("x-accel-buffering"), Some("no"));
        gateway.metric_becomes(&format!("tidegate_requests_total{{upstream=\"up\",end=\"{end}\"}}"), 1.0).await;
    }
}

#[tokio::test]
async fn reading_a_failed_response_counts_as_completed() {
    for status in ["failed", "incomplete", "cancelled", "queued"] {
        let upstream = Upstream::fixed(json("200 OK", &format!(r#"{{"id":"resp_1","status":"{status}"}}"#))).await;
        let gateway = Gateway::before(&upstream.base_url());
        assert_eq!(gateway.connect().await.get("/v1/responses/resp_1").await.status, 200);
        gateway.metric_becomes("tidegate_requests_total{upstream=\"up\",end=\"completed\"}", 1.0).await;
    }
}

/// Two upstreams behind `smart`.
async fn pair(first: Vec<u8>, second: Vec<u8>) -> (Upstream, Upstream, tidegate::config::Config) {
    let (first, second) = (Upstream::fixed(first).await, Upstream::fixed(second).await);
    let mut config = config(&first.base_url());
    config.upstreams.push(upstream("second", &second.base_url()));
    config.models[0] = model("smart", &[(0, Some("real")), (1, Some("other"))]);
    (first, second, config)
}

#[tokio::test]
async fn only_upstreams_with_the_endpoint_get_the_request() {
    let (mut first, mut second, mut config) = pair(json("200 OK", RESPONSE), json("200 OK", RESPONSE)).await;
    config.upstreams[0].surface = vec![Surface::Responses, Surface::Chat];
    config.upstreams[1].surface = vec![Surface::Responses, Surface::Embeddings];
    config.upstreams[1].max_body_bytes = Some(1000);
    config.keys.push(key("second only", "sk-second-only"));
    config.keys[1].upstreams = Some(vec![1]);
    let gateway = Gateway::start(config);
    let mut client = gateway.connect().await;
    for (endpoint, asked) in [
        (Endpoint::CreateResponse, Some(true)),
        (Endpoint::CreateChatCompletion, Some(true)),
        (Endpoint::CreateEmbedding, Some(false)),
        (Endpoint::CreateModeration, None),
        (Endpoint::GenerateImage, None),
        (Endpoint::CreateConversation, None),
        (Endpoint::DeleteConversation, None),
    ] {
        let got = call(&mut client, endpoint).await;
        match asked {
            Some(true) => assert!(first.request().await.line.contains(endpoint.path())),
            Some(false) => assert!(second.request().await.line.contains(endpoint.path())),
            None => {
                got.assert_final(404, "unsupported_endpoint", true);
                let named = format!("{} /v1{}", endpoint.method(), endpoint.path());
                assert!(got.message().contains(&named), "{got:?}");
            }
        }
        assert_eq!(got.status == 200, asked.is_some(), "{endpoint:?} {got:?}");
    }
    // Only the upstreams that the key may use count.
    let body = NAMED;
    let chat = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: t\r\nauthorization: Bearer sk-second-only\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    client.send(chat).await;
    client.answer().await.assert_final(404, "unsupported_endpoint", true);
    // A body that is too large for the only upstream with the endpoint is too large.
    let large = format!(r#"{{"model":"smart","input":"{}"}}"#, "x".repeat(1000));
    let refused = ask(&mut client, &Method::POST, "/v1/embeddings", "", &large).await;
    refused.assert_problem(413, "upstream_request_too_large");
    assert_eq!((first.untaken(), second.untaken()), (0, 0));

    let explained = async |query: &str| {
        let got = Client::connect(gateway.admin).await.get(&format!("/explain?key=tester&model=smart{query}")).await;
        (got.status, String::from_utf8(got.body).unwrap())
    };
    let (status, text) = explained("&surface=embeddings").await;
    assert_eq!(status, 200);
    assert!(text.contains("  1. second, credential UP_KEY, model other"), "{text}");
    assert!(
        text.contains("-  up, credential UP_KEY, model real\n       the upstream does not have this part of the API"),
        "{text}"
    );
    assert!(explained("").await.1.contains("  1. up, credential UP_KEY, model real"));
    let (_, unserved) = explained("&surface=moderations").await;
    assert!(
        unserved.contains("\nno candidate serves this request: clients get 404 unsupported_endpoint\n"),
        "{unserved}"
    );
    assert_eq!(explained("&surface=files").await.0, 400);
}

#[tokio::test]
async fn an_upstream_without_the_url_is_skipped_and_an_html_page_is_never_passed() {
    let page = |status, media| answer(status, media, b"<html>404 page not found</html>");
    for missing in [
        page("404 Not Found", "text/html"),
        page("404 Not Found", "text/plain"),
        page("405 Method Not Allowed", "text/html"),
        page("501 Not Implemented", "text/plain"),
        b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_vec(),
    ] {
        let (mut first, mut second, mut config) = pair(missing, json("200 OK", RESPONSE)).await;
        config.default_upstream = Some(0);
        let gateway = Gateway::start(config);
        for endpoint in [Endpoint::CreateEmbedding, Endpoint::CreateResponse] {
            let got = call(&mut gateway.connect().await, endpoint).await;
            assert_eq!((got.status, &got.body[..]), (200, RESPONSE.as_bytes()), "{got:?}");
            first.request().await;
            second.request().await;
        }
        // State that lives at this upstream is requested from no other.
        for endpoint in with_ids() {
            let got = call(&mut gateway.connect().await, endpoint).await;
            got.assert_final(404, "unsupported_endpoint", true);
            assert!(got.message().contains(endpoint.path()) && !got.text().contains("html"), "{got:?}");
            first.request().await;
        }
        assert_eq!((first.untaken(), second.untaken()), (0, 0));
        // The upstream stays in service.
        assert_eq!(gateway.metric("tidegate_in_service{upstream=\"up\",").await, 1.0);
    }
}

#[tokio::test]
async fn an_apis_error_about_an_id_passes_unchanged() {
    let error = r#" {"error":{"message":"Response with id 'x' not found.","code":null}} "#;
    for (status, media) in [
        (404, "application/json"),
        (404, "text/plain"),
        (405, "application/json"),
        (400, "text/plain"),
        (409, "text/html"),
    ] {
        let upstream = Upstream::fixed(answer(&format!("{status} Error"), media, error.as_bytes())).await;
        let gateway = Gateway::before(&upstream.base_url());
        for endpoint in with_ids() {
            let got = call(&mut gateway.connect().await, endpoint).await;
            assert_eq!((got.status, &got.body[..]), (status, error.as_bytes()), "{endpoint:?} {got:?}");
            assert_eq!(got.header("content-type"), Some(media));
        }
    }
}

/// An upstream that gives these answers in order, and then good ones.
async fn one_after_the_other(answers: Vec<Vec<Step>>) -> Upstream {
    let mut answers = answers.into_iter();
    let script = move |_: &Request| answers.next().unwrap_or_else(|| vec![Step::Send(json("200 OK", RESPONSE))]);
    Upstream::scripted(script).await
}
