//! What the matrix does not show: which of several answers a client gets, what is sent again, and who leaves meanwhile.

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

/// A gateway whose model `many` leads to all of these, in order.
fn before(upstreams: &[&Upstream], change: impl FnOnce(&mut Config)) -> Gateway {
    let urls: Vec<_> = upstreams.iter().map(|upstream| upstream.base_url()).collect();
    before_urls(&urls, change)
}

fn before_urls(urls: &[String], change: impl FnOnce(&mut Config)) -> Gateway {
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

/// What a client gets of upstreams that each answer like this, all of them asked once.
async fn of(answers: &[Vec<u8>]) -> Answer {
    let mut upstreams = Vec::new();
    for answer in answers {
        upstreams.push(Upstream::fixed(answer.clone()).await);
    }
    let gateway = before(&upstreams.iter().collect::<Vec<_>>(), |config| config.retries.max_attempts = answers.len());
    let answer = gateway.connect().await.create(BODY).await;
    for upstream in &mut upstreams {
        assert_eq!(upstream.untaken(), 1);
    }
    answer
}

#[tokio::test]
async fn the_most_useful_answer_comes_down_when_all_fail() {
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
        let answer = of(&answers).await;
        assert_eq!(answer.status, status, "{what}: {answer:?}");
        assert!(answer.text().contains(text), "{what}: {answer:?}");
        assert!(!answer.text().contains("bad key"), "{what}: {answer:?}");
    }
}

/// Untouched also when it is longer than what is read of it before others are asked.
#[tokio::test]
async fn a_long_error_answer_comes_down_whole() {
    let long = failing("503 Service Unavailable", "x-request-id: theirs\r\n", &"long ".repeat(60_000));
    let body = long.windows(4).position(|window| window == b"\r\n\r\n").map(|end| long[end + 4..].to_vec()).unwrap();
    let answer = of(&[long, failing("401 Unauthorized", "", "bad key")]).await;
    assert_eq!((answer.status, answer.whole), (503, true));
    assert_eq!(answer.header("x-request-id"), Some("theirs"));
    assert!(answer.body == body, "{} of {} bytes", answer.body.len(), body.len());
}

/// An error answer that breaks is still the best there is: its client sees it break.
#[tokio::test]
async fn an_error_answer_that_breaks_does_not_end_well() {
    let mut first = Upstream::scripted(|_| {
        let head =
            b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{\"er";
        vec![Step::Send(head.to_vec()), Step::Close]
    })
    .await;
    let second = Upstream::fixed(failing("401 Unauthorized", "", "bad key")).await;
    let gateway = before(&[&first, &second], |config| config.retries.max_attempts = 2);
    let answer = gateway.connect().await.create(BODY).await;
    assert_eq!((answer.status, answer.whole), (503, false), "{answer:?}");
    assert_eq!(answer.body, b"{\"er");
    assert_eq!(first.untaken(), 1);
}

/// With an error answer that never ends, the next one is asked soon all the same.
#[tokio::test]
async fn an_error_answer_that_stalls_holds_nobody_up() {
    let first = Upstream::scripted(|_| {
        let head = b"HTTP/1.1 500 Oops\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{";
        vec![Step::Send(head.to_vec()), Step::UntilClosed(oneshot::channel().0)]
    })
    .await;
    let second = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = before(&[&first, &second], |_| {});
    let answer = soon("the other's answer", async { gateway.connect().await.create(BODY).await }).await;
    assert_eq!((answer.status, answer.body), (200, RESPONSE.into()));
}

#[tokio::test]
async fn a_retry_after_beyond_all_time_is_survived() {
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
            let gateway = before(&[&bad, &good], |config| config.retries.retry_after_max = Duration::ZERO);
            assert_eq!(gateway.connect().await.create(BODY).await.status, 200, "{status} {headers}");
            let gateway = before(&[&bad], |config| config.retries.retry_after_max = Duration::ZERO);
            let answer = gateway.connect().await.create(BODY).await;
            assert_eq!(answer.status, status[..3].parse::<u16>().unwrap(), "{headers}: {answer:?}");
            assert_eq!(gateway.metric("tidegate_problems_total").await, 0.0, "{headers}");
        }
    }
}

/// With attempts left over, all who may be asked again are, and nobody is forgotten.
#[tokio::test]
async fn every_candidate_that_may_be_asked_again_is() {
    let down = failing("503 Service Unavailable", "", "down");
    let mut one = Upstream::fixed(down.clone()).await;
    let mut other = Upstream::fixed(down).await;
    let gateway = before(&[&one, &other], |config| config.retries.max_attempts = 6);
    assert_eq!(gateway.connect().await.create(BODY).await.status, 503);
    let counts = (one.untaken(), other.untaken());
    assert_eq!(counts.0 + counts.1, 6);
    assert!(counts.0.min(counts.1) >= 2, "{counts:?}");
}

#[tokio::test]
async fn the_budget_is_spent_on_retries_that_are_made() {
    let one = Upstream::fixed(failing("503 Service Unavailable", "", "down")).await;
    let gateway = before(&[&one], |_| {});
    for _ in 0..4 {
        assert_eq!(gateway.connect().await.create(BODY).await.status, 503);
    }
    assert_eq!(gateway.metric("tidegate_retries_total{upstream=\"up0\"}").await, 3.0);
    assert!(gateway.metric("tidegate_retries_denied_total{upstream=\"up0\"}").await >= 2.0);
}

/// Not even for a second credential, where the operator wants no waiting.
#[tokio::test]
async fn a_pause_that_is_too_long_is_not_waited_for() {
    for (longest, asked) in [(Duration::ZERO, 1), (Duration::from_secs(1), 2)] {
        let mut one = Upstream::fixed(failing("503 Service Unavailable", "retry-after: 1\r\n", "down")).await;
        let gateway = before(&[&one], |config| {
            config.retries.retry_after_max = longest;
            config.retries.max_attempts = 2;
            config.upstreams[0].credentials = vec![credential("a", "sk-a"), credential("b", "sk-b")];
        });
        assert_eq!(gateway.connect().await.create(BODY).await.status, 503);
        assert_eq!(one.taken().len(), asked, "{longest:?}");
    }
}

/// A retry that finds no room is none, and costs the others nothing.
#[tokio::test]
async fn the_budget_is_not_spent_on_retries_that_find_no_room() {
    let mut one = Upstream::scripted(|request| match request.header("authorization") {
        Some("Bearer sk-down") => vec![Step::Send(failing("503 Service Unavailable", "", "down"))],
        _ => vec![Step::Send([STREAM, &chunk(EVENT)].concat()), Step::UntilClosed(oneshot::channel().0)],
    })
    .await;
    let gateway = before(&[&one], |config| {
        let names = ["down", "full1", "full2", "full3"];
        config.upstreams[0].credentials = names.iter().map(|name| credential(name, &format!("sk-{name}"))).collect();
        for credential in &mut config.upstreams[0].credentials[1..] {
            credential.max_in_flight = Some(1);
        }
    });
    // Streams until all but the one that is down are full: whoever meets that one goes on to a free one.
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

/// However a body comes, each upstream gets the whole of it, with the name of its own model.
#[tokio::test]
async fn bodies_in_chunks_and_coded_ones_are_sent_again_whole() {
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
        let gateway = before(&[&upstreams[0], &upstreams[1], &last], |config| {
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
async fn a_refusal_in_the_midst_of_a_large_body_leads_on() {
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
    let gateway = before_urls(&[url, good.base_url()], |config| config.server.max_body_bytes = 64 * 1024 * 1024);
    let body = format!(r#"{{"model":"many","input":"{}"}}"#, "x".repeat(16 * 1024 * 1024));
    let answer = gateway.connect().await.create(&body).await;
    assert_eq!((answer.status, &*answer.body), (200, RESPONSE.as_bytes()));
    assert!(good.request().await.body == body.as_bytes());
    hasty.abort();
}

async fn gone(gateway: &Gateway, upstream: &str) {
    let metric = format!("tidegate_requests_total{{upstream=\"{upstream}\",end=\"client_gone\"}}");
    gateway.metric_becomes(&metric, 1.0).await;
    assert_eq!(gateway.metric("tidegate_requests_in_flight").await, 0.0);
}

#[tokio::test]
async fn a_client_that_leaves_in_a_pause_is_not_asked_for_again() {
    for headers in ["retry-after: 2\r\n", "retry-after-ms: 1999\r\n"] {
        let mut limited = Upstream::fixed(failing("429 Too Many Requests", headers, "later")).await;
        let gateway = before(&[&limited], |_| {});
        let mut client = gateway.connect().await;
        client.post(BODY).await;
        limited.request().await;
        drop(client);
        gone(&gateway, "up0").await;
        assert_eq!(limited.untaken(), 0);
        assert_eq!(gateway.metric("tidegate_retries_total{upstream=\"up0\"}").await, 0.0);
    }
}

#[tokio::test]
async fn a_client_that_leaves_while_a_head_is_held_cancels_the_call() {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let mut first = Upstream::scripted(move |_| {
        let (closed, is_closed) = oneshot::channel();
        tell.send(is_closed).unwrap();
        vec![Step::Send(STREAM.to_vec()), Step::UntilClosed(closed)]
    })
    .await;
    let mut second = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = before(&[&first, &second], |config| {
        config.upstreams[0].failover_on = FailoverOn { empty: true, ..FailoverOn::default() };
    });
    let mut client = gateway.connect().await;
    client.post(BODY).await;
    first.request().await;
    let closed = told.recv().await.unwrap();
    drop(client);
    soon("the held call to be cancelled", closed).await.unwrap();
    gone(&gateway, "up0").await;
    assert_eq!(second.untaken(), 0);
}

/// A head that was held goes out with its first byte, long before the second is over, and the rest follows.
#[tokio::test]
async fn a_held_head_goes_out_with_its_first_byte() {
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
    let gateway = before(&[&first, &second], |config| config.upstreams[0].failover_on.empty = true);
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

/// Health and caps keep nobody from the only other way there is, however many ask at once.
#[tokio::test]
async fn many_at_once_get_one_answer_each() {
    let bad = Upstream::fixed(failing("503 Service Unavailable", "", "down")).await;
    let good = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = before(&[&bad, &good], |config| {
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

/// Also where it has one credential or none: nothing else tells an operator that it is passed by.
#[tokio::test]
async fn an_upstream_whose_credentials_are_all_out_is_shown_as_out() {
    for credentials in [0, 1] {
        let first = Upstream::fixed(failing("503 Service Unavailable", "", "down")).await;
        let second = Upstream::fixed(json("200 OK", RESPONSE)).await;
        let gateway = before(&[&first, &second], |config| config.upstreams[0].credentials.truncate(credentials));
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

/// Where the place is taken by the time of another attempt, it waits in line as a first one would.
#[tokio::test]
async fn a_retry_waits_for_a_place() {
    let (first, first_gate) = oneshot::channel();
    let (second, second_gate) = oneshot::channel();
    let mut scripts = vec![
        vec![Step::Send(json("200 OK", RESPONSE))],
        vec![Step::Wait(second_gate), Step::Send(json("200 OK", RESPONSE))],
        vec![Step::Wait(first_gate), Step::Send(failing("503 Service Unavailable", "", "down"))],
    ];
    let mut only = Upstream::scripted(move |_| scripts.pop().unwrap()).await;
    let gateway = before(&[&only], |config| {
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
    // The other one takes the place, and who failed stands in line for it.
    for _ in 0..2 {
        only.request().await;
    }
    gateway.metric_becomes(queued, 1.0).await;
    second.send(()).unwrap();
    assert_eq!((other.answer().await.status, one.answer().await.status), (200, 200));
}
