//! The usage that the relayed endpoints report, and its ledger rows.

use tidegate::{
    config::ModelPrice,
    domain::{
        money::{Currency, UNIT},
        price::Price,
    },
    store::sql::{GroupBy, UsageTotal},
};
use tokio::sync::oneshot;

use super::{ledger::usage, *};
use crate::support::database::until;

/// The sums of the only key, once this many rows are stored.
async fn total(gateway: &Gateway, rows: u64) -> UsageTotal {
    until("the rows", async || usage(gateway, GroupBy::Key).await.iter().any(|total| total.requests == rows)).await;
    usage(gateway, GroupBy::Key).await.remove(0)
}

fn stream(events: &str) -> Vec<u8> {
    [STREAM, &chunk(events.as_bytes()), LAST_CHUNK].concat()
}

const DONE: &str = "data: [DONE]\n\n";

#[tokio::test]
async fn the_usage_of_each_endpoint_is_read() {
    let chat =
        r#"{"id":"chatcmpl_1","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":12,"total_tokens":21}}"#;
    let text = r#"{"id":"chatcmpl_1","choices":[{"index":1,"delta":{"content":"x"}}],"usage":null}"#;
    // Relays of the new-api family write both names, one of them with zeros.
    let both = |old: [u64; 2], new: [u64; 2]| {
        format!(
            r#"{{"data":[],"usage":{{"prompt_tokens":{},"completion_tokens":{},"input_tokens":{},"output_tokens":{}}}}}"#,
            old[0], old[1], new[0], new[1]
        )
    };
    let speech = "data: {\"type\":\"speech.audio.delta\",\"audio\":\"AAAA\"}\n\n\
        data: {\"type\":\"speech.audio.done\",\"usage\":{\"input_tokens\":9,\"output_tokens\":12,\"total_tokens\":21}}\n\n";
    let image = "event: image_generation.completed\ndata: {\"type\":\"image_generation.completed\",\"b64_json\":\"AAAA\",\
        \"usage\":{\"input_tokens\":9,\"output_tokens\":12}}\n\n";
    let vectors = r#"{"data":[{"embedding":"AACAPw=="}],"usage":{"prompt_tokens":9,"total_tokens":9}}"#;
    for (endpoint, answer, output) in [
        (Endpoint::CreateChatCompletion, json("200 OK", chat), 12),
        (Endpoint::CreateChatCompletion, json("200 OK", &both([9, 12], [0, 0])), 12),
        (Endpoint::CreateChatCompletion, stream(&format!("data: {text}\n\ndata: {chat}\n\n{DONE}")), 12),
        (Endpoint::CreateCompletion, stream(&format!("data: {text}\n\ndata: {chat}\n\n{DONE}")), 12),
        (Endpoint::CreateEmbedding, json("200 OK", vectors), 0),
        (Endpoint::GenerateImage, json("200 OK", &both([0, 0], [9, 12])), 12),
        (Endpoint::GenerateImage, stream(image), 12),
        (Endpoint::CreateSpeech, stream(speech), 12),
    ] {
        let text = String::from_utf8_lossy(&answer).into_owned();
        let upstream = Upstream::fixed(answer).await;
        let gateway = Gateway::before(&upstream.base_url());
        let got = call(&mut gateway.connect().await, endpoint).await;
        assert_eq!((got.status, got.whole), (200, true), "{endpoint:?}");
        let total = total(&gateway, 1).await;
        assert_eq!((total.exact, total.input, total.output), (1, 9, output), "{endpoint:?} {text}");
        gateway.metric_becomes("tidegate_requests_total{upstream=\"up\",end=\"completed\"}", 1.0).await;
    }
}

#[tokio::test]
async fn a_stream_with_running_usage_that_is_left_is_partial() {
    let so_far = "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":1}}\n\n";
    let upstream = Upstream::scripted(move |_| {
        vec![Step::Send([STREAM, &chunk(so_far.as_bytes())].concat()), Step::UntilClosed(oneshot::channel().0)]
    })
    .await;
    let gateway = Gateway::before(&upstream.base_url());
    let mut client = gateway.connect().await;
    let auth = format!("authorization: Bearer {KEY}\r\ncontent-length: {}\r\n", NAMED.len());
    client.send(format!("POST /v1/chat/completions HTTP/1.1\r\nhost: t\r\n{auth}\r\n{NAMED}")).await;
    client.head().await;
    client.chunk().await.unwrap();
    drop(client);
    let total = total(&gateway, 1).await;
    assert_eq!((total.exact, total.partial, total.input, total.output), (0, 1, 9, 1), "{total:?}");
}

/// 1 CNY a request, and nothing for tokens.
const PER_CALL: Price = Price { per_call: UNIT, ..Price::free(Currency::Cny) };

#[tokio::test]
async fn a_cost_per_call_is_known_without_tokens() {
    let upstream = Upstream::fixed(answer("200 OK", "audio/mpeg", b"sound")).await;
    let mut config = config(&upstream.base_url());
    config.prices = vec![ModelPrice { upstream: 0, model: "real".into(), from: 0, price: PER_CALL.into() }];
    let gateway = Gateway::start(config);
    assert_eq!(call(&mut gateway.connect().await, Endpoint::CreateSpeech).await.status, 200);
    let total = total(&gateway, 1).await;
    assert_eq!((total.cost, total.partial, total.estimated), ([UNIT, 0], 1, 0), "{total:?}");
}

#[tokio::test]
async fn an_endpoint_without_output_reserves_none_and_does_not_affect_the_estimate_of_others() {
    let vectors = r#"{"data":[],"usage":{"prompt_tokens":9,"total_tokens":9}}"#;
    let upstream = Upstream::scripted(move |request| {
        let moderation = request.line.contains("moderations");
        vec![Step::Send(json("200 OK", if moderation { r#"{"results":[]}"# } else { vectors }))]
    })
    .await;
    let mut config = config(&upstream.base_url());
    config.keys[0].limits.tokens = Some(10_000);
    let gateway = Gateway::start(config);
    let mut client = gateway.connect().await;
    let left = |got: &Answer| got.header("x-ratelimit-remaining-tokens").unwrap().parse::<u64>().unwrap();
    // A moderation reports no usage: its input counts as estimated.
    let got = call(&mut client, Endpoint::CreateModeration).await;
    assert!(left(&got) > 9_900, "{got:?}");
    for _ in 0..50 {
        assert_eq!(call(&mut client, Endpoint::CreateEmbedding).await.status, 200);
    }
    // A chat with the same model reserves as much output as before.
    let got = call(&mut client, Endpoint::CreateChatCompletion).await;
    assert!(left(&got) < 8_000, "{got:?}");
}
