//! `require_usage`: chat streams have to report their tokens.

use crate::support::{
    client::Client,
    gateway::{Gateway, KEY, config},
    upstream::{LAST_CHUNK, RESPONSE, STREAM, Step, Upstream, chunk, json},
};

/// A stream of a provider that was asked for its usage.
const TOLD: &str = "data: {\"id\":\"c\",\"choices\":[{\"delta\":{\"content\":\"hi\"},\"finish_reason\":\"stop\"}]}\n\n\
                    data: {\"id\":\"c\",\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":1}}\n\ndata: [DONE]\n\n";

async fn ask(client: &mut Client, path: &str, body: &str) -> Vec<u8> {
    let head =
        format!("POST {path} HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {KEY}\r\ncontent-type: application/json\r\n");
    client.send(format!("{head}content-length: {}\r\n\r\n{body}", body.len())).await;
    let answer = client.answer().await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body
}

#[tokio::test]
async fn a_streaming_chat_asks_for_its_usage_where_usage_is_required() {
    const CHAT: &str = "/v1/chat/completions";
    for (of_key, of_model) in [(true, false), (false, true), (false, false)] {
        let mut upstream = Upstream::scripted(|request| {
            let is_chat = request.line.contains("completions");
            let stream = [STREAM, &chunk(TOLD.as_bytes()), LAST_CHUNK].concat();
            vec![Step::Send(if is_chat { stream } else { json("200 OK", RESPONSE) })]
        })
        .await;
        let mut config = config(&upstream.base_url());
        (config.keys[0].require_usage, config.models[0].require_usage) = (of_key, of_model);
        let gateway = Gateway::start(config);
        let mut client = gateway.connect().await;
        for (path, sent, expected) in [
            (
                CHAT,
                r#"{"model":"smart","stream":true,"messages":[]}"#,
                r#"{"model":"real","stream":true,"stream_options":{"include_usage":true},"messages":[]}"#,
            ),
            (
                CHAT,
                r#"{"messages":[{"stream":true}], "stream" : true , "model":"smart"}"#,
                r#"{"messages":[{"stream":true}], "stream" : true,"stream_options":{"include_usage":true} , "model":"real"}"#,
            ),
            (
                CHAT,
                r#"{"model":"smart","stream":true,"stream_options":{ "include_obfuscation":false}}"#,
                r#"{"model":"real","stream":true,"stream_options":{"include_usage":true, "include_obfuscation":false}}"#,
            ),
            (
                CHAT,
                r#"{"stream_options":{ },"model":"smart","stream":true}"#,
                r#"{"stream_options":{"include_usage":true },"model":"real","stream":true}"#,
            ),
            (
                CHAT,
                r#"{"model":"smart","stream":true,"stream_options":{"include_usage":false,"a":[1]}}"#,
                r#"{"model":"real","stream":true,"stream_options":{"include_usage":true,"a":[1]}}"#,
            ),
            (
                CHAT,
                r#"{"model":"smart","stream":true,"stream_options":null}"#,
                r#"{"model":"real","stream":true,"stream_options":{"include_usage":true}}"#,
            ),
            (
                "/v1/completions",
                r#"{"model":"smart","prompt":"a","stream":true}"#,
                r#"{"model":"real","prompt":"a","stream":true,"stream_options":{"include_usage":true}}"#,
            ),
            // Requests that need no addition.
            (
                CHAT,
                r#"{"model":"smart","stream":true,"stream_options":{"include_usage":true}}"#,
                r#"{"model":"real","stream":true,"stream_options":{"include_usage":true}}"#,
            ),
            (CHAT, r#"{"model":"smart","stream":false}"#, r#"{"model":"real","stream":false}"#),
            (CHAT, r#"{"model":"smart"}"#, r#"{"model":"real"}"#),
            (
                CHAT,
                r#"{"model":"smart","stream":true,"stream_options":"x"}"#,
                r#"{"model":"real","stream":true,"stream_options":"x"}"#,
            ),
            ("/v1/responses", r#"{"model":"smart","stream":true}"#, r#"{"model":"real","stream":true}"#),
        ] {
            let body = ask(&mut client, path, sent).await;
            let up = String::from_utf8(upstream.request().await.body).unwrap();
            let as_it_came = sent.replace("smart", "real");
            assert_eq!(up, if of_key || of_model { expected } else { &as_it_came }, "{sent}");
            // The client gets what the provider sent, including the chunk with the usage.
            if path != "/v1/responses" {
                assert_eq!(String::from_utf8(body).unwrap(), TOLD);
            }
        }
    }
}
