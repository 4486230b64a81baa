//! The limits of a key and its group.

mod memory_and_redis;
mod redis_script;
mod two_replicas;

use std::time::Duration;

use serde_json::{Value, json};
use tidegate::config::{Config, Group, KeyLimits};
use tokio::sync::oneshot;

use crate::support::{
    client::{Answer, Client},
    gateway::{Gateway, KEY, config, key},
    upstream::{LAST_CHUNK, RESPONSE, STREAM, Step, Upstream, chunk, json as json_answer},
};

const BODY: &str = r#"{"model":"smart"}"#;

fn limits(requests: Option<u32>, tokens: Option<u32>, in_flight: Option<usize>) -> KeyLimits {
    KeyLimits { requests, tokens, in_flight }
}

async fn gateway(upstream: &Upstream, change: impl FnOnce(&mut Config)) -> Gateway {
    let mut config = config(&upstream.base_url());
    config.server.workers = 2;
    change(&mut config);
    Gateway::start(config)
}

async fn create(gateway: &Gateway, key: &str) -> Answer {
    let mut client = gateway.connect().await;
    let (length, auth) = (BODY.len(), format!("authorization: Bearer {key}"));
    client
        .send(format!("POST /v1/responses HTTP/1.1\r\nhost: t\r\n{auth}\r\ncontent-length: {length}\r\n\r\n{BODY}"))
        .await;
    client.answer().await
}

/// Checks the error of a limit: its type, its text, and its Retry-After.
#[track_caller]
fn assert_limited(answer: &Answer, kind: &str, says: &str, seconds: std::ops::RangeInclusive<u64>) {
    assert_eq!(answer.status, 429, "{answer:?}");
    let error = &answer.json()["error"];
    assert_eq!(
        (&error["type"], &error["code"], &error["param"]),
        (&json!(kind), &json!("rate_limit_exceeded"), &Value::Null)
    );
    assert!(error["message"].as_str().unwrap().contains(says), "{error}");
    let after = answer.header("retry-after").unwrap().parse().unwrap();
    assert!(seconds.contains(&after), "{answer:?}");
    assert_eq!(answer.header("x-should-retry"), None, "it may heal");
}

#[tokio::test]
async fn requests_per_minute_are_counted_over_all_workers_and_reported_in_headers() {
    let mut upstream = Upstream::fixed(json_answer("200 OK", RESPONSE)).await;
    let gateway = gateway(&upstream, |config| {
        config.keys[0].limits = limits(Some(3), None, None);
        config.keys.push(key("other", "sk-other"));
    })
    .await;
    for left in ["2", "1", "0"] {
        let answer = create(&gateway, KEY).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("x-ratelimit-limit-requests"), Some("3"));
        assert_eq!(answer.header("x-ratelimit-remaining-requests"), Some(left));
        let reset = answer.header("x-ratelimit-reset-requests").unwrap();
        assert!(reset.ends_with('s'), "{reset}");
        assert_eq!(answer.header("x-ratelimit-limit-tokens"), None);
    }
    let refused = create(&gateway, KEY).await;
    assert_limited(&refused, "requests", "for the key `tester`: 3 requests per minute. Please try again in ", 10..=20);
    assert_eq!(refused.header("x-ratelimit-remaining-requests"), Some("0"));
    assert!(!refused.text().contains(KEY));
    // Other keys are not limited, and a request that needs no provider takes nothing.
    assert_eq!(create(&gateway, "sk-other").await.status, 200);
    assert_eq!(gateway.connect().await.get("/v1/models").await.status, 200);
    assert_eq!(gateway.metric("tidegate_limited_total{limit=\"rpm\",of=\"key\"}").await, 1.0);
    for _ in 0..4 {
        upstream.request().await;
    }
    assert_eq!(upstream.untaken(), 0, "a refused request reached the upstream");
}

#[tokio::test]
async fn concurrent_requests_count_until_the_last_byte_of_their_answers() {
    let (go, wait) = oneshot::channel();
    let mut first = Some(wait);
    let upstream = Upstream::scripted(move |_| match first.take() {
        Some(wait) => vec![
            Step::Send([STREAM, &chunk(b"data: {}\n\n")].concat()),
            Step::Wait(wait),
            Step::Send(LAST_CHUNK.to_vec()),
        ],
        None => vec![Step::Send(json_answer("200 OK", RESPONSE))],
    })
    .await;
    let gateway = gateway(&upstream, |config| config.keys[0].limits = limits(None, None, Some(1))).await;
    let mut streaming = gateway.connect().await;
    streaming.post(BODY).await;
    let mut streamed = streaming.head().await;
    assert_eq!(streamed.status, 200);
    let refused = create(&gateway, KEY).await;
    assert_limited(&refused, "requests", "The limit of requests in progress for the key `tester` is 1, ", 1..=1);
    assert_eq!(refused.header("x-ratelimit-limit-requests"), None);

    go.send(()).unwrap();
    streaming.body(&mut streamed).await;
    assert!(streamed.whole);
    gateway.metric_becomes("tidegate_requests_in_flight", 0.0).await;
    assert_eq!(create(&gateway, KEY).await.status, 200);
    // A client that leaves releases its slot, and so does a refused request.
    for _ in 0..3 {
        gateway.post("", "{").await.assert_final(400, "invalid_json", true);
    }
    assert_eq!(create(&gateway, KEY).await.status, 200);
}

#[tokio::test]
async fn a_client_that_leaves_releases_its_concurrency_slot() {
    let (gone, left) = oneshot::channel();
    let mut first = Some(gone);
    let upstream = Upstream::scripted(move |_| match first.take() {
        Some(gone) => vec![Step::Send(STREAM.to_vec()), Step::UntilClosed(gone)],
        None => vec![Step::Send(json_answer("200 OK", RESPONSE))],
    })
    .await;
    let gateway = gateway(&upstream, |config| config.keys[0].limits = limits(None, None, Some(1))).await;
    let mut streaming = gateway.connect().await;
    streaming.post(BODY).await;
    streaming.head().await;
    drop(streaming);
    crate::support::soon("the cancelled call", left).await.unwrap();
    gateway.metric_becomes("tidegate_requests_in_flight", 0.0).await;
    assert_eq!(create(&gateway, KEY).await.status, 200);
}

#[tokio::test]
async fn tokens_are_reserved_by_estimate_and_settled_by_real_use() {
    let answer = json_answer("200 OK", RESPONSE);
    let answer = String::from_utf8(answer).unwrap().replace(
        "content-length",
        "x-ratelimit-remaining-tokens: 77\r\nx-ratelimit-limit-project-tokens: 5\r\ncontent-length",
    );
    let upstream = Upstream::fixed(answer).await;
    let gateway = gateway(&upstream, |config| {
        config.keys[0].limits = limits(None, Some(3000), None);
        config.keys.push(key("free", "sk-free"));
    })
    .await;
    // The reservation for an unknown model is 2,000 tokens and the body. The head goes out before the real use is
    // known.
    let first = create(&gateway, KEY).await;
    assert_eq!((first.status, first.header("x-ratelimit-limit-tokens")), (200, Some("3000")));
    let left: u64 = first.header("x-ratelimit-remaining-tokens").unwrap().parse().unwrap();
    assert!((990..=1000).contains(&left), "{first:?}");
    assert_eq!(
        first.header("x-ratelimit-limit-project-tokens"),
        None,
        "the client must not see the limits of the operator's account"
    );
    gateway.metric_becomes("tidegate_requests_in_flight", 0.0).await;
    // The request used 8 tokens, and the rest came back: a second request fits. It would not fit into 995 tokens.
    let second = create(&gateway, KEY).await;
    assert_eq!(second.status, 200, "{second:?}");
    // For a key without limits, the upstream's own numbers pass.
    let free = create(&gateway, "sk-free").await;
    assert_eq!(free.header("x-ratelimit-remaining-tokens"), Some("77"));
    assert_eq!(free.header("x-ratelimit-limit-project-tokens"), Some("5"));
}

/// An image that a model made, without usage.
const IMAGE: &str = r#"{"output":[{"type":"image_generation_call","result":"aGk="}]}"#;

#[tokio::test]
async fn an_answer_without_usage_counts_as_reserved_and_a_failed_one_counts_nothing() {
    let text = "word ".repeat(2000);
    let text = format!(r#"{{"output":[{{"type":"message","content":[{{"type":"output_text","text":"{text}"}}]}}]}}"#);
    for (step, again) in [
        // An image without usage.
        (Step::Send(json_answer("200 OK", IMAGE)), 429),
        // Text of 2,500 tokens.
        (Step::Send(json_answer("200 OK", &text)), 429),
        // No output, with a part of the usage or none.
        (Step::Send(json_answer("200 OK", "{}")), 200),
        (Step::Send(json_answer("200 OK", r#"{"usage":{"total_tokens":20}}"#)), 200),
        (Step::Send(json_answer("200 OK", r#"{"usage":{"input_tokens":9}}"#)), 200),
        (Step::Send(json_answer("200 OK", r#"{"usage":{"input_tokens":9,"output_tokens":100000001}}"#)), 200),
        (Step::Send(json_answer("400 Bad Request", r#"{"error":{"message":"no"}}"#)), 200),
        // Not a byte of an answer arrived.
        (Step::Close, 200),
        (Step::Reset, 200),
    ] {
        let mut first = Some(step);
        let upstream = Upstream::scripted(move |_| {
            vec![first.take().unwrap_or_else(|| Step::Send(json_answer("200 OK", RESPONSE)))]
        })
        .await;
        let gateway = gateway(&upstream, |config| {
            config.keys[0].limits = limits(None, Some(3000), None);
            config.retries.max_attempts = 1;
        })
        .await;
        create(&gateway, KEY).await;
        gateway.metric_becomes("tidegate_requests_in_flight", 0.0).await;
        let second = create(&gateway, KEY).await;
        assert_eq!(second.status, again, "{second:?}");
        if again == 429 {
            assert_limited(&second, "tokens", "for the key `tester`: 3000 tokens per minute", 15..=60);
        }
    }
}

#[tokio::test]
async fn partial_usage_above_the_reservation_counts() {
    for usage in [r#"{"total_tokens":9000}"#, r#"{"input_tokens":9000}"#, r#"{"output_tokens":9000}"#] {
        let upstream = Upstream::fixed(json_answer("200 OK", &format!(r#"{{"usage":{usage}}}"#))).await;
        let gateway = gateway(&upstream, |config| config.keys[0].limits = limits(None, Some(10_000), None)).await;
        assert_eq!(create(&gateway, KEY).await.status, 200);
        gateway.metric_becomes("tidegate_requests_in_flight", 0.0).await;
        let second = create(&gateway, KEY).await;
        assert_limited(&second, "tokens", "for the key `tester`: 10000 tokens per minute", 1..=60);
    }
}

#[tokio::test]
async fn a_group_shares_its_limits_and_a_refused_request_takes_nothing_of_the_key() {
    let upstream = Upstream::fixed(json_answer("200 OK", RESPONSE)).await;
    let gateway = gateway(&upstream, |config| {
        config.groups = vec![Group {
            name: "team".into(),
            limits: limits(Some(2), None, None),
            budgets: Vec::new(),
            warn_at: Default::default(),
        }];
        let mut second = key("second", "sk-second");
        second.group = Some(0);
        config.keys[0].group = Some(0);
        config.keys[0].limits = limits(Some(100), None, None);
        config.keys.push(second);
    })
    .await;
    assert_eq!(create(&gateway, KEY).await.status, 200);
    assert_eq!(create(&gateway, "sk-second").await.status, 200);
    for key in ["sk-second", KEY] {
        assert_limited(
            &create(&gateway, key).await,
            "requests",
            "for the group `team`: 2 requests per minute",
            20..=60,
        );
    }
    assert_eq!(gateway.metric("tidegate_limited_total{limit=\"rpm\",of=\"group\"}").await, 2.0);
}

#[tokio::test]
async fn ten_of_a_hundred_concurrent_requests_pass_a_limit_of_ten() {
    let upstream = Upstream::fixed(json_answer("200 OK", RESPONSE)).await;
    let gateway = gateway(&upstream, |config| config.keys[0].limits = limits(Some(10), None, None)).await;
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..100 {
        clients.push(gateway.connect().await);
    }
    let asking = clients.into_iter().map(|mut client| tokio::spawn(async move { client.create(BODY).await.status }));
    let mut passed = 0;
    for asked in asking.collect::<Vec<_>>() {
        passed += u32::from(asked.await.unwrap() == 200);
    }
    // One request becomes free every six seconds.
    assert!((10..=12).contains(&passed), "{passed}");
    tokio::time::timeout(Duration::from_secs(20), gateway.metric_becomes("tidegate_requests_in_flight", 0.0))
        .await
        .unwrap();
}

/// The values of Retry-After of this many concurrent requests, which are all refused.
async fn refused_at_once(gateway: &Gateway, count: usize) -> Vec<u64> {
    let asking = (0..count).map(|_| {
        let address = gateway.address;
        tokio::spawn(async move {
            let answer = Client::connect(address).await.create(BODY).await;
            assert_eq!(answer.status, 429, "{answer:?}");
            let after: u64 = answer.header("retry-after").unwrap().parse().unwrap();
            // The text of the error says the same as the header.
            let words = answer.message();
            let told = words.split("try again in ").nth(1).unwrap_or_else(|| panic!("{words}"));
            assert!(
                told.starts_with(&format!("{}", after - 1)) || told.starts_with(&format!("{after}s")) || after == 60,
                "{words}"
            );
            after
        })
    });
    let mut after = Vec::new();
    for asked in asking.collect::<Vec<_>>() {
        after.push(asked.await.unwrap());
    }
    after.sort_unstable();
    after
}

#[tokio::test]
async fn each_refused_request_gets_a_retry_after_of_its_own() {
    let upstream = Upstream::fixed(json_answer("200 OK", RESPONSE)).await;
    let gateway = gateway(&upstream, |config| {
        config.keys[0].limits = limits(Some(6), None, None);
        let mut other = key("other", "sk-other");
        other.limits = limits(Some(6), None, None);
        config.keys.push(other);
    })
    .await;
    for _ in 0..6 {
        assert_eq!(create(&gateway, KEY).await.status, 200);
        assert_eq!(create(&gateway, "sk-other").await.status, 200);
    }
    // One request becomes free every ten seconds.
    let after = refused_at_once(&gateway, 3).await;
    for (after, turn) in after.iter().zip([10, 20, 30]) {
        assert!((turn - 3..=turn).contains(after), "{after} for the turn at {turn}");
    }
    // Retry-After is never more than a minute, however many requests come: SDKs would not wait longer.
    let after = refused_at_once(&gateway, 20).await;
    assert!(after.windows(2).all(|pair| pair[0] <= pair[1]) && after[0] > 30, "{after:?}");
    assert_eq!(after.last(), Some(&60), "{after:?}");
    // The turns of one key do not affect other keys.
    let other = create(&gateway, "sk-other").await;
    assert_limited(&other, "requests", "for the key `other`: 6 requests per minute", 5..=10);
}

#[tokio::test]
async fn each_request_that_is_refused_for_tokens_gets_a_retry_after_of_its_own() {
    // The use of the first request is unknown, so that its reservation counts: about 2,000 of 3,000 tokens.
    let upstream = Upstream::fixed(json_answer("200 OK", IMAGE)).await;
    let gateway = gateway(&upstream, |config| config.keys[0].limits = limits(None, Some(3000), None)).await;
    assert_eq!(create(&gateway, KEY).await.status, 200);
    gateway.metric_becomes("tidegate_requests_in_flight", 0.0).await;
    let after = refused_at_once(&gateway, 2).await;
    assert!((17..=21).contains(&after[0]), "{after:?}");
    assert_eq!(after[1], 60, "the next 2,000 tokens need 40 s");
}

/// Sends requests of a key, one after the other, and checks that all are served.
async fn assert_all_served(gateway: &Gateway, key: &str, count: usize) {
    for number in 0..count {
        let answer = create(gateway, key).await;
        assert_eq!(answer.status, 200, "request {number} of {key}: {answer:?}");
    }
    gateway.metric_becomes("tidegate_requests_in_flight", 0.0).await;
}

#[tokio::test]
async fn long_answers_of_other_keys_do_not_raise_a_keys_token_estimate() {
    let long = r#"{"id":"resp_1","usage":{"input_tokens":5,"output_tokens":60000,"total_tokens":60005}}"#;
    let short = r#"{"id":"resp_1","usage":{"input_tokens":5,"output_tokens":10,"total_tokens":15}}"#;
    for talkers in [1, 4] {
        let mut left = talkers * 40;
        let upstream = Upstream::scripted(move |_| {
            let answer = if left > 0 { long } else { short };
            left = usize::saturating_sub(left, 1);
            vec![Step::Send(json_answer("200 OK", answer))]
        })
        .await;
        let gateway = gateway(&upstream, |config| {
            config.keys.extend((0..talkers).map(|number| key(&format!("a{number}"), &format!("sk-talker-{number}"))));
            config.keys[0].limits = limits(None, Some(20_000), None);
        })
        .await;
        for number in 0..talkers {
            assert_all_served(&gateway, &format!("sk-talker-{number}"), 40).await;
        }
        assert_all_served(&gateway, KEY, 40).await;
    }
}
