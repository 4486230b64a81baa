//! What the matrix does not show: which of several answers a client gets, how requests are sent again, and clients that
//! leave in between.

use std::time::Duration;

use async_compression::{Level, tokio::bufread::GzipEncoder};
use tidegate::config::{Config, FailoverOn};
use tokio::{io::AsyncReadExt, sync::oneshot, time::Instant};

use crate::support::{
    client::{Answer, Client},
    gateway::{Gateway, KEY, config, credential, model, upstream},
    soon,
    upstream::{LAST_CHUNK, RESPONSE, STREAM, Step, Upstream, chunk, json},
};

const BODY: &str = r#"{"model":"many","input":"hi"}"#;
const EVENT: &[u8] = b"data: {\"type\":\"response.output_text.delta\",\"delta\":\"x\"}\n\n";

/// A gateway whose model `many` leads to all these upstreams, in order.
fn in_front_of(upstreams: &[&Upstream], change: impl FnOnce(&mut Config)) -> Gateway {
    let urls: Vec<_> = upstreams.iter().map(|upstream| upstream.base_url()).collect();
    in_front_of_urls(&urls, change)
}

fn in_front_of_urls(urls: &[String], change: impl FnOnce(&mut Config)) -> Gateway {
    let mut config = config(&urls[0]);
    config.upstreams = (0..).zip(urls).map(|(nth, url)| upstream(&format!("up{nth}"), url)).collect();
    let targets: Vec<_> = (0..urls.len()).map(|nth| (nth, None)).collect();
    config.models = vec![model("many", &targets)];
    change(&mut config);
    Gateway::start(config)
}

fn failing(status: &str, headers: &str, text: &str) -> Vec<u8> {
    let body = format!(r#"{{"error":{{"message":"{text}","type":"t","param":null,"code":"c"}}}}"#);
    String::from_utf8(json(status, &body)).unwrap().replacen("\r\n", &format!("\r\n{headers}"), 1).into()
}

/// The client's answer when each of these upstreams is tried once and answers like this.
async fn answer_after_trying(answers: &[Vec<u8>]) -> Answer {
    let mut upstreams = Vec::new();
    for answer in answers {
        upstreams.push(Upstream::fixed(answer.clone()).await);
    }
    let gateway =
        in_front_of(&upstreams.iter().collect::<Vec<_>>(), |config| config.retries.max_attempts = answers.len());
    let answer = gateway.connect().await.create(BODY).await;
    for upstream in &mut upstreams {
        assert_eq!(upstream.untaken(), 1);
    }
    answer
}

#[tokio::test]
async fn the_most_useful_error_reaches_the_client_when_all_candidates_fail() {
    let limited = |headers, text| failing("429 Too Many Requests", headers, text);
    let down = |text| failing("503 Service Unavailable", "retry-after: 1\r\n", text);
    let refused = || failing("401 Unauthorized", "", "bad key");
    let spent = || {
        let body = r#"{"error":{"message":"spent","type":"t","param":null,"code":"insufficient_quota"}}"#;
        let answer = String::from_utf8(json("429 Too Many Requests", body)).unwrap();
        answer.replacen("\r\n", "\r\nretry-after: 1\r\n", 1).into()
    };
    let portal = || b"HTTP/1.1 302 Found\r\nlocation: http://example.com/\r\ncontent-length: 0\r\n\r\n".to_vec();
    let nonsense = || b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 2\r\n\r\nhi".to_vec();
    let seven = || limited("retry-after: 7\r\n", "seven");
    let three = || limited("retry-after: 3\r\n", "three");
    for (what, answers, status, text) in [
        ("the soonest limit", vec![seven(), three(), down("down")], 429, "three"),
        ("the soonest limit, first", vec![three(), seven(), down("down")], 429, "three"),
        ("a limit before what follows", vec![down("down"), seven(), refused()], 429, "seven"),
        ("milliseconds", vec![three(), limited("retry-after-ms: 2900\r\nretry-after: 9\r\n", "ms")], 429, "ms"),
        ("a limit without a time is like others", vec![limited("", "none"), down("last")], 503, "last"),
        ("a limit before money that is spent", vec![seven(), spent()], 429, "seven"),
        ("money that is spent is like others", vec![spent(), down("last")], 503, "last"),
        ("the last of two", vec![down("first"), failing("500 Oops", "", "last")], 500, "last"),
        ("theirs before ours", vec![down("theirs"), refused()], 503, "theirs"),
        ("theirs before ours, last", vec![refused(), portal(), down("theirs")], 503, "theirs"),
        ("our last", vec![portal(), refused()], 502, "upstream_auth"),
        ("our last, too", vec![refused(), nonsense()], 502, "upstream_bad_answer"),
    ] {
        let answer = answer_after_trying(&answers).await;
        assert_eq!(answer.status, status, "{what}: {answer:?}");
        assert!(answer.text().contains(text), "{what}: {answer:?}");
        assert!(!answer.text().contains("bad key"), "{what}: {answer:?}");
    }
}

/// The answer is unchanged also when it is longer than the part that the gateway reads before a failover.
#[tokio::test]
async fn a_long_error_answer_reaches_the_client_whole() {
    let long = failing("503 Service Unavailable", "x-request-id: theirs\r\n", &"long ".repeat(60_000));
    let body = long.windows(4).position(|window| window == b"\r\n\r\n").map(|end| long[end + 4..].to_vec()).unwrap();
    let answer = answer_after_trying(&[long, failing("401 Unauthorized", "", "bad key")]).await;
    assert_eq!((answer.status, answer.whole), (503, true));
    assert_eq!(answer.header("x-request-id"), Some("theirs"));
    assert!(answer.body == body, "{} of {} bytes", answer.body.len(), body.len());
}

/// An error answer that breaks may still be the best one: the client sees the break.
#[tokio::test]
async fn an_error_answer_that_breaks_breaks_for_the_client() {
    let mut first = Upstream::scripted(|_| {
        let head =
            b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{\"er";
        vec![Step::Send(head.to_vec()), Step::Close]
    })
    .await;
    let second = Upstream::fixed(failing("401 Unauthorized", "", "bad key")).await;
    let gateway = in_front_of(&[&first, &second], |config| config.retries.max_attempts = 2);
    let answer = gateway.connect().await.create(BODY).await;
    assert_eq!((answer.status, answer.whole), (503, false), "{answer:?}");
    assert_eq!(answer.body, b"{\"er");
    assert_eq!(first.untaken(), 1);
}

/// An error answer that never ends does not delay the failover.
#[tokio::test]
async fn an_error_answer_that_stalls_does_not_delay_the_failover() {
    let first = Upstream::scripted(|_| {
        let head = b"HTTP/1.1 500 Oops\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{";
        vec![Step::Send(head.to_vec()), Step::UntilClosed(oneshot::channel().0)]
    })
    .await;
    let second = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = in_front_of(&[&first, &second], |_| {});
    let answer = soon("the other's answer", async { gateway.connect().await.create(BODY).await }).await;
    assert_eq!((answer.status, answer.body), (200, RESPONSE.into()));
}

#[tokio::test]
async fn an_absurd_retry_after_of_an_upstream_does_no_harm() {
    for headers in [
        "retry-after: 10000000000000000000\r\n",
        "retry-after: 99999999999999999999999999\r\n",
        "retry-after: 1e300\r\n",
        "retry-after: -1\r\n",
        "retry-after: inf\r\n",
        "retry-after: NaN\r\n",
        "retry-after: soon\r\n",
        "retry-after: Fri, 31 Dec 9999 23:59:59 GMT\r\n",
        "retry-after: Mon, 01 Jan 1990 00:00:00 GMT\r\n",
        "retry-after-ms: 18446744073709551615000\r\n",
        "retry-after-ms: -5\r\n",
    ] {
        for status in ["503 Service Unavailable", "429 Too Many Requests"] {
            let bad = Upstream::fixed(failing(status, headers, "later")).await;
            let good = Upstream::fixed(json("200 OK", RESPONSE)).await;
            let gateway = in_front_of(&[&bad, &good], |config| config.retries.retry_after_max = Duration::ZERO);
            assert_eq!(gateway.connect().await.create(BODY).await.status, 200, "{status} {headers}");
            let gateway = in_front_of(&[&bad], |config| config.retries.retry_after_max = Duration::ZERO);
            let answer = gateway.connect().await.create(BODY).await;
            assert_eq!(answer.status, status[..3].parse::<u16>().unwrap(), "{headers}: {answer:?}");
            assert_eq!(gateway.metric("tidegate_problems_total").await, 0.0, "{headers}");
        }
    }
}

/// With attempts left over, every candidate that may be retried is retried.
#[tokio::test]
async fn retries_are_spread_over_all_candidates_that_may_be_retried() {
    let down = failing("503 Service Unavailable", "", "down");
    let mut one = Upstream::fixed(down.clone()).await;
    let mut other = Upstream::fixed(down).await;
    let gateway = in_front_of(&[&one, &other], |config| config.retries.max_attempts = 6);
    assert_eq!(gateway.connect().await.create(BODY).await.status, 503);
    let counts = (one.untaken(), other.untaken());
    assert_eq!(counts.0 + counts.1, 6);
    assert!(counts.0.min(counts.1) >= 2, "{counts:?}");
}

#[tokio::test]
async fn the_retry_budget_counts_the_retries_that_were_made() {
    let one = Upstream::fixed(failing("503 Service Unavailable", "", "down")).await;
    let gateway = in_front_of(&[&one], |_| {});
    for _ in 0..4 {
        assert_eq!(gateway.connect().await.create(BODY).await.status, 503);
    }
    assert_eq!(gateway.metric("tidegate_retries_total{upstream=\"up0\"}").await, 3.0);
    assert!(gateway.metric("tidegate_retries_denied_total{upstream=\"up0\"}").await >= 2.0);
}

/// The limit also holds for a second credential of the upstream.
#[tokio::test]
async fn a_retry_after_beyond_the_configured_maximum_is_not_waited_for() {
    for (longest, asked) in [(Duration::ZERO, 1), (Duration::from_secs(1), 2)] {
        let mut one = Upstream::fixed(failing("503 Service Unavailable", "retry-after: 1\r\n", "down")).await;
        let gateway = in_front_of(&[&one], |config| {
            config.retries.retry_after_max = longest;
            config.retries.max_attempts = 2;
            config.upstreams[0].credentials = vec![credential("a", "sk-a"), credential("b", "sk-b")];
        });
        assert_eq!(gateway.connect().await.create(BODY).await.status, 503);
        assert_eq!(one.taken().len(), asked, "{longest:?}");
    }
}

/// A retry that finds no free slot is not made, and takes nothing from the retry budget.
#[tokio::test]
async fn the_retry_budget_does_not_count_retries_without_a_free_slot() {
    let mut one = Upstream::scripted(|request| match request.header("authorization") {
        Some("Bearer sk-down") => vec![Step::Send(failing("503 Service Unavailable", "", "down"))],
        _ => vec![Step::Send([STREAM, &chunk(EVENT)].concat()), Step::UntilClosed(oneshot::channel().0)],
    })
    .await;
    let gateway = in_front_of(&[&one], |config| {
        let names = ["down", "full1", "full2", "full3"];
        config.upstreams[0].credentials = names.iter().map(|name| credential(name, &format!("sk-{name}"))).collect();
        for credential in &mut config.upstreams[0].credentials[1..] {
            credential.max_in_flight = Some(1);
        }
    });
    // Streams fill all credentials but the one that is down: a request that meets that one goes on to a free one.
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut client = gateway.connect().await;
        client.post(BODY).await;
        assert_eq!(client.head().await.status, 200);
        streams.push(client);
    }
    let used = gateway.metric("tidegate_retries_total{upstream=\"up0\"}").await;
    one.taken();
    assert_eq!(gateway.connect().await.create(BODY).await.status, 503);
    let made = one.taken().len();
    // Two more attempts, as far as the three retries that are always allowed reach.
    assert_eq!(made as f64, 1.0 + (3.0 - used).min(2.0), "{used} used before");
}

/// Each upstream gets the whole body with the name of its own model, however the client sent the body.
#[tokio::test]
async fn chunked_and_encoded_bodies_are_sent_again_whole() {
    let text = "é😀 \\u00e9 ".repeat(40_000);
    let plain = format!(r#"{{"input":"{text}","model":"many","n":1}}"#);
    let mut coded = Vec::new();
    GzipEncoder::with_quality(plain.as_bytes(), Level::Fastest).read_to_end(&mut coded).await.unwrap();
    let chunked = |body: &[u8]| {
        let mut bytes: Vec<u8> = body.chunks(7001).flat_map(chunk).collect();
        bytes.extend(LAST_CHUNK);
        bytes
    };
    let sized = |body: &[u8]| (format!("content-length: {}\r\n", body.len()), body.to_vec());
    let cases = [
        sized(plain.as_bytes()),
        ("transfer-encoding: chunked\r\n".to_owned(), chunked(plain.as_bytes())),
        (format!("content-encoding: gzip\r\n{}", sized(&coded).0), coded.clone()),
        ("content-encoding: gzip\r\ntransfer-encoding: chunked\r\n".to_owned(), chunked(&coded)),
    ];
    for (headers, body) in cases {
        let down = failing("503 Service Unavailable", "", "down");
        let mut upstreams = [Upstream::fixed(down.clone()).await, Upstream::fixed(down).await];
        let mut last = Upstream::fixed(json("200 OK", RESPONSE)).await;
        let gateway = in_front_of(&[&upstreams[0], &upstreams[1], &last], |config| {
            config.models = vec![model("many", &[(0, Some("a")), (1, None), (2, Some("a-much-longer-name \"é"))])];
        });
        let mut client = gateway.connect().await;
        let head = format!(
            "POST /v1/responses?x=%20y HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {KEY}\r\ncontent-type: application/json\r\n{headers}\r\n"
        );
        client.send([head.as_bytes(), &body].concat()).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, &*answer.body), (200, RESPONSE.as_bytes()), "{headers}");
        let [first, second] = &mut upstreams;
        for (upstream, name) in [(first, "\"a\""), (second, "\"many\""), (&mut last, r#""a-much-longer-name \"é""#)] {
            let request = upstream.request().await;
            let wanted = plain.replace("\"many\"", name);
            assert!(request.body == wanted.as_bytes(), "{headers}: another body with {name}");
            assert_eq!(request.line, "POST /up/responses?x=%20y HTTP/1.1");
            assert_eq!(request.header("content-length"), Some(&*wanted.len().to_string()));
            assert_eq!(request.header("content-encoding"), None);
            assert_eq!(upstream.untaken(), 0);
        }
    }
}

/// An upstream that answers before it has read the request, and reads no further.
#[tokio::test]
async fn an_error_in_the_middle_of_a_large_body_causes_a_failover() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/up", listener.local_addr().unwrap());
    let hasty = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.read_exact(&mut [0; 100]).await.unwrap();
            let answer = failing("503 Service Unavailable", "connection: close\r\n", "hasty");
            tokio::io::AsyncWriteExt::write_all(&mut stream, &answer).await.unwrap();
            held.push(stream);
        }
    });
    let mut good = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = in_front_of_urls(&[url, good.base_url()], |config| config.server.max_body_bytes = 64 * 1024 * 1024);
    let body = format!(r#"{{"model":"many","input":"{}"}}"#, "x".repeat(16 * 1024 * 1024));
    let answer = gateway.connect().await.create(&body).await;
    assert_eq!((answer.status, &*answer.body), (200, RESPONSE.as_bytes()));
    assert!(good.request().await.body == body.as_bytes());
    hasty.abort();
}

async fn client_is_gone(gateway: &Gateway, upstream: &str) {
    let metric = format!("tidegate_requests_total{{upstream=\"{upstream}\",end=\"client_gone\"}}");
    gateway.metric_becomes(&metric, 1.0).await;
    assert_eq!(gateway.metric("tidegate_requests_in_flight").await, 0.0);
}

#[tokio::test]
async fn a_client_that_leaves_in_the_pause_before_a_retry_causes_no_further_attempt() {
    for headers in ["retry-after: 2\r\n", "retry-after-ms: 1999\r\n"] {
        let mut limited = Upstream::fixed(failing("429 Too Many Requests", headers, "later")).await;
        let gateway = in_front_of(&[&limited], |_| {});
        let mut client = gateway.connect().await;
        client.post(BODY).await;
        limited.request().await;
        drop(client);
        client_is_gone(&gateway, "up0").await;
        assert_eq!(limited.untaken(), 0);
        assert_eq!(gateway.metric("tidegate_retries_total{upstream=\"up0\"}").await, 0.0);
    }
}

#[tokio::test]
async fn a_client_that_leaves_while_a_head_is_held_back_cancels_the_call() {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let mut first = Upstream::scripted(move |_| {
        let (closed, is_closed) = oneshot::channel();
        tell.send(is_closed).unwrap();
        vec![Step::Send(STREAM.to_vec()), Step::UntilClosed(closed)]
    })
    .await;
    let mut second = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = in_front_of(&[&first, &second], |config| {
        config.upstreams[0].failover_on = FailoverOn { empty: true, ..FailoverOn::default() };
    });
    let mut client = gateway.connect().await;
    client.post(BODY).await;
    first.request().await;
    let closed = told.recv().await.unwrap();
    drop(client);
    soon("the held call to be cancelled", closed).await.unwrap();
    client_is_gone(&gateway, "up0").await;
    assert_eq!(second.untaken(), 0);
}

/// A head that was held back goes out with the first byte of its body, long before the second is over.
#[tokio::test]
async fn a_held_head_goes_out_with_the_first_byte_of_its_body() {
    let (go, mut gone) = (std::sync::Mutex::new(Vec::new()), Vec::new());
    for _ in 0..2 {
        let (tell, told) = oneshot::channel();
        go.lock().unwrap().push(told);
        gone.push(tell);
    }
    let first = Upstream::scripted(move |_| {
        let mut waits = std::mem::take(&mut *go.lock().unwrap()).into_iter();
        vec![
            Step::Send(STREAM.to_vec()),
            Step::Wait(waits.next().unwrap()),
            Step::Send(chunk(EVENT)),
            Step::Wait(waits.next().unwrap()),
            Step::Send([chunk(EVENT), LAST_CHUNK.to_vec()].concat()),
        ]
    })
    .await;
    let mut second = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = in_front_of(&[&first, &second], |config| config.upstreams[0].failover_on.empty = true);
    let mut client = gateway.connect().await;
    let began = Instant::now();
    client.post(BODY).await;
    gone.remove(0).send(()).unwrap();
    let mut answer = client.head().await;
    answer.body = client.chunk().await.unwrap();
    eprintln!("a held head and its first event after {:?}", began.elapsed());
    gone.remove(0).send(()).unwrap();
    client.body(&mut answer).await;
    assert_eq!((answer.status, answer.whole, answer.body), (200, true, EVENT.repeat(2)));
    assert_eq!(second.untaken(), 0);
}

/// Health states and concurrency limits never block the only healthy candidate, however many requests run at once.
#[tokio::test]
async fn many_concurrent_requests_get_one_answer_each() {
    let bad = Upstream::fixed(failing("503 Service Unavailable", "", "down")).await;
    let good = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = in_front_of(&[&bad, &good], |config| {
        config.upstreams[0].credentials = vec![credential("a", "sk-a"), credential("b", "sk-b")];
    });
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let address = gateway.address;
        running.spawn(async move {
            let mut client = Client::connect(address).await;
            for _ in 0..10 {
                let answer = client.create(BODY).await;
                assert_eq!((answer.status, &*answer.body), (200, RESPONSE.as_bytes()), "{answer:?}");
            }
            assert!(client.take().is_empty());
        });
    }
    while let Some(done) = running.join_next().await {
        done.unwrap();
    }
    let completed = "tidegate_requests_total{upstream=\"up1\",end=\"completed\"}";
    gateway.metric_becomes(completed, 500.0).await;
}

/// Also with one credential or none: the metric is the operator's only sign that the upstream is ejected.
#[tokio::test]
async fn an_upstream_whose_credentials_are_all_ejected_is_shown_as_ejected() {
    for credentials in [0, 1] {
        let first = Upstream::fixed(failing("503 Service Unavailable", "", "down")).await;
        let second = Upstream::fixed(json("200 OK", RESPONSE)).await;
        let gateway = in_front_of(&[&first, &second], |config| config.upstreams[0].credentials.truncate(credentials));
        for _ in 0..5 {
            assert_eq!(gateway.connect().await.create(BODY).await.status, 200);
        }
        assert_eq!(gateway.metric(r#"tidegate_in_service{upstream="up0",credential=""}"#).await, 0.0, "{credentials}");
        assert_eq!(gateway.metric(r#"tidegate_in_service{upstream="up1",credential=""}"#).await, 1.0);
        let ready = Client::connect(gateway.admin).await.get("/readyz").await.json();
        assert_eq!(
            (&ready["upstreams"][0]["state"], &ready["upstreams"][1]["state"]),
            (&"out".into(), &"in_service".into())
        );
    }
}

/// A retry that finds its slot taken waits in the queue, as a first attempt does.
#[tokio::test]
async fn a_retry_waits_in_the_queue_for_a_free_slot() {
    let (first, first_gate) = oneshot::channel();
    let (second, second_gate) = oneshot::channel();
    let mut scripts = vec![
        vec![Step::Send(json("200 OK", RESPONSE))],
        vec![Step::Wait(second_gate), Step::Send(json("200 OK", RESPONSE))],
        vec![Step::Wait(first_gate), Step::Send(failing("503 Service Unavailable", "", "down"))],
    ];
    let mut only = Upstream::scripted(move |_| scripts.pop().unwrap()).await;
    let gateway = in_front_of(&[&only], |config| {
        config.upstreams[0].max_in_flight = Some(1);
        config.timeouts.queue = Duration::from_secs(10);
    });
    let (mut one, mut other) = (gateway.connect().await, gateway.connect().await);
    one.post(BODY).await;
    gateway.metric_becomes(r#"tidegate_upstream_requests_in_flight{upstream="up0",credential=""}"#, 1.0).await;
    other.post(BODY).await;
    let queued = r#"tidegate_upstream_requests_queued{upstream="up0"}"#;
    gateway.metric_becomes(queued, 1.0).await;
    first.send(()).unwrap();
    // The other request takes the slot, and the failed one waits for it.
    for _ in 0..2 {
        only.request().await;
    }
    gateway.metric_becomes(queued, 1.0).await;
    second.send(()).unwrap();
    assert_eq!((other.answer().await.status, one.answer().await.status), (200, 200));
}

/// A full upstream is better than none: the request waits for it when no other candidate is left.
#[tokio::test]
async fn a_request_waits_for_a_full_upstream_when_no_other_candidate_is_left() {
    let (go, gate) = oneshot::channel();
    let mut first = Some(gate);
    let mut down = Upstream::fixed(failing("503 Service Unavailable", "x-should-retry: false\r\n", "down")).await;
    let full = Upstream::scripted(move |_| {
        let wait = first.take().map(Step::Wait);
        wait.into_iter().chain([Step::Send(json("200 OK", RESPONSE))]).collect()
    })
    .await;
    let gateway = in_front_of(&[&down, &full], |config| {
        config.upstreams[1].max_in_flight = Some(1);
        config.timeouts.queue = Duration::from_secs(10);
    });
    let mut holds = gateway.connect().await;
    holds.post(BODY).await;
    gateway.metric_becomes(r#"tidegate_upstream_requests_in_flight{upstream="up1",credential=""}"#, 1.0).await;
    let mut waits = gateway.connect().await;
    waits.post(BODY).await;
    gateway.metric_becomes(r#"tidegate_upstream_requests_queued{upstream="up1"}"#, 1.0).await;
    go.send(()).unwrap();
    assert_eq!((holds.answer().await.status, waits.answer().await.status), (200, 200));
    assert_eq!(down.taken().len(), 2);
    assert_eq!(gateway.metric("tidegate_failovers_total{upstream=\"up1\"}").await, 2.0);
}

/// The retry budget limits retries that add load to a struggling upstream. Another credential in place of a refused one
/// adds none.
#[tokio::test]
async fn a_pool_of_refused_credentials_is_searched_for_a_valid_one() {
    let mut one = Upstream::scripted(|request| match request.header("authorization") {
        Some("Bearer sk-7") => vec![Step::Send(json("200 OK", RESPONSE))],
        _ => vec![Step::Send(failing("401 Unauthorized", "", "bad key"))],
    })
    .await;
    let gateway = in_front_of(&[&one], |config| {
        config.retries.max_attempts = 10;
        config.upstreams[0].credentials =
            (0..8).map(|nth| credential(&format!("k{nth}"), &format!("sk-{nth}"))).collect();
    });
    assert_eq!(gateway.connect().await.create(BODY).await.status, 200);
    assert_eq!(one.taken().len(), 8);
}

/// With a Retry-After, clients would wait for money.
#[tokio::test]
async fn an_upstream_error_about_spent_money_reaches_the_client_without_retry_after() {
    let body = r#"{"error":{"message":"spent","type":"t","param":null,"code":"insufficient_quota"}}"#;
    let answer = String::from_utf8(json("429 Too Many Requests", body)).unwrap();
    let upstream = Upstream::fixed(answer.replacen("\r\n", "\r\nretry-after: 7\r\nretry-after-ms: 7000\r\n", 1)).await;
    let gateway = in_front_of(&[&upstream], |_| {});
    let answer = gateway.connect().await.create(BODY).await;
    assert_eq!((answer.status, answer.body.as_slice()), (429, body.as_bytes()));
    assert_eq!((answer.header("retry-after"), answer.header("retry-after-ms")), (None, None));
}
