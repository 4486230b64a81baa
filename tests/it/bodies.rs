//! Request bodies.

use std::pin::Pin;

use async_compression::{
    Level,
    tokio::bufread::{BrotliEncoder, GzipEncoder, ZlibEncoder, ZstdEncoder},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::oneshot,
};

use crate::support::{
    client::{Client, request},
    gateway::{Gateway, KEY, UPSTREAM_KEY, config, key, model, upstream},
    soon,
    upstream::{LAST_CHUNK, RESPONSE, Step, Upstream, chunk, json},
};

/// `max_body_mib` of the test gateway, in bytes.
const LIMIT: usize = 1024 * 1024;

/// The head of a request in chunks.
fn chunked(headers: &str) -> String {
    format!(
        "POST /v1/responses HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {KEY}\r\n{headers}transfer-encoding: chunked\r\n\r\n"
    )
}

/// Encodes `plain` in a content coding.
async fn coded(coding: &str, plain: &[u8]) -> Vec<u8> {
    let mut encoder: Pin<Box<dyn AsyncRead + Send + '_>> = match coding {
        "gzip" => Box::pin(GzipEncoder::with_quality(plain, Level::Fastest)),
        "deflate" => Box::pin(ZlibEncoder::with_quality(plain, Level::Fastest)),
        "br" => Box::pin(BrotliEncoder::with_quality(plain, Level::Fastest)),
        "zstd" => Box::pin(ZstdEncoder::with_quality(plain, Level::Fastest)),
        _ => panic!("{coding}"),
    };
    let mut coded = Vec::new();
    encoder.read_to_end(&mut coded).await.unwrap();
    coded
}

/// A body of `len` bytes whose model comes last.
fn sized(len: usize) -> Vec<u8> {
    let (before, after) = (r#"{"input":""#, r#"","model":"smart"}"#);
    // Every third byte differs from its neighbours, so that the body compresses only moderately.
    let mut state = 1u32;
    let text = (0..len - before.len() - after.len()).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        b'a' + (state >> 28) as u8
    });
    before.bytes().chain(text).chain(after.bytes()).collect()
}

fn renamed(body: &[u8]) -> Vec<u8> {
    let at = body.windows(7).rposition(|window| window == b"\"smart\"").unwrap();
    [&body[..at], b"\"real\"", &body[at + 7..]].concat()
}

#[tokio::test]
async fn only_the_value_of_the_model_changes() {
    let mut upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = Gateway::before(&upstream.base_url());
    let mut client = gateway.connect().await;
    let body = r#" { "n" : 1.10, "big":1e400, "tools":[{"model":"a"}],"text":"\"model\":\"x\"" , "model" : "smart","é":"\ud83d\ude00" } "#;
    let answer = client.create(body).await;
    assert_eq!((answer.status, answer.whole), (200, true));
    assert_eq!(answer.body, RESPONSE.as_bytes());
    let request = upstream.request().await;
    assert_eq!(request.line, "POST /up/responses HTTP/1.1");
    assert_eq!(String::from_utf8(request.body).unwrap(), body.replace("\"smart\"", "\"real\""));
    let bearer = format!("Bearer {UPSTREAM_KEY}");
    assert_eq!(request.headers.iter().find(|(name, _)| name == "authorization").unwrap().1, bearer);
    gateway.metric_becomes("tidegate_requests_total{upstream=\"up\",end=\"completed\"}", 1.0).await;
}

#[tokio::test]
async fn all_other_bytes_of_a_body_stay_the_same() {
    let mut upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = Gateway::before(&upstream.base_url());
    let mut client = gateway.connect().await;
    let digits = "9".repeat(400);
    // The text before the model's value, and the text after it.
    let around: &[(&[u8], &[u8])] = &[
        (b"{\"model\":", b"}"),
        (b"\t\r\n {\n\"model\"\t:\r", b" \n}\n\n"),
        (b"{\"a\":1,\"a\":2,\"Output\":3,\"output\":4,\"model\":", b"}"),
        (b"{\"n\":[1E+2,-0,0.10,1e400,123456789012345678901234567890],\"model\":", b",\"z\":-0.0e-0}"),
        (b"{\"tools\":[{\"type\":\"image_generation\",\"model\":\"smart\"}],\"metadata\":{\"model\":\"x\",\"MODEL\":1},\"model\":", b"}"),
        (b"{\"model\":", b",\"prompt\":{\"model\":null,\"model\":2},\"models\":[\"model\",\"smart\"]}"),
        (b"{\"text\":\"{\\\"model\\\":\\\"no\\\"}\",\"\\u006do\":\"\\/\\u00e9\\uD83D\\uDE00\",\"model\":", b"}"),
        (b"{\"surrogate\":\"\\ud800\",\"escape\":\"\\q\",\"control\":\"a\\nb\\u0001\",\"model\":", b"}"),
        (b"{\"\\u006dod\\u0065l\":", b"}"),
        ("{\"ключ\":\"значение 😀\",\"model\":".as_bytes(), "}\u{20}".as_bytes()),
        (b"{\"\":{\"\":[]},\"stream\":true,\"stream\":false,\"model\":", b",\"x\":null}"),
    ];
    let long = [(format!("{{\"n\":{digits},\"model\":").into_bytes(), b"}".to_vec())];
    let around = around.iter().map(|(before, after)| (before.to_vec(), after.to_vec())).chain(long);
    for (before, after) in around {
        for (asked, sent) in [
            (r#""smart""#, r#""real""#),
            (r#""sm\u0061rt""#, r#""real""#),
            (r#""gpt-5""#, r#""gpt-5""#),
            (r#""gpt\u002d5""#, r#""gpt\u002d5""#),
            (r#""up\/anything""#, r#""anything""#),
            (r#""up/\"q\" \\ é""#, r#""\"q\" \\ é""#),
        ] {
            let body = [&before, asked.as_bytes(), &after].concat();
            let answer = client.create(&body).await;
            assert_eq!(answer.status, 200, "{}: {answer:?}", String::from_utf8_lossy(&body));
            let expected = [&before, sent.as_bytes(), &after].concat();
            let request = upstream.request().await;
            assert_eq!(String::from_utf8_lossy(&request.body), String::from_utf8_lossy(&expected));
            assert_eq!(request.body, expected);
        }
    }
}

#[tokio::test]
async fn a_model_at_the_end_of_a_large_body_in_small_pieces_is_replaced() {
    let mut upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = Gateway::before(&upstream.base_url());
    let mut client = gateway.connect().await;
    let body = sized(LIMIT);
    let bytes = request("", &body);
    for piece in bytes.chunks(997) {
        client.send(piece).await;
    }
    assert_eq!(client.answer().await.status, 200);
    let request = upstream.request().await;
    assert!(request.body == renamed(&body), "{} bytes arrived", request.body.len());
    assert_eq!(request.header("content-length"), Some((LIMIT - 1).to_string().as_str()));
}

#[tokio::test]
async fn a_chunked_body_goes_up_with_its_length() {
    let mut upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = Gateway::before(&upstream.base_url());
    let mut client = gateway.connect().await;
    let body = br#"{"input":"in many chunks","model":"smart","x":[]}"#;
    client.send(chunked("trailer: x-sum\r\nx-stainless-lang: t\r\n")).await;
    for piece in body.chunks(3) {
        client.send(format!("{:x};ext=1\r\n", piece.len())).await;
        client.send([piece, b"\r\n"].concat()).await;
    }
    client.send("0\r\nx-sum: 1\r\nx-stainless-os: in a trailer\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 200);
    let request = upstream.request().await;
    assert_eq!(request.body, renamed(body));
    assert_eq!(request.header("content-length"), Some((body.len() - 1).to_string().as_str()));
    for name in ["transfer-encoding", "trailer", "x-sum", "x-stainless-os"] {
        assert_eq!(request.header(name), None, "{name}");
    }
    // The connection serves a further request.
    assert_eq!(client.create(body).await.status, 200);
}

#[tokio::test]
async fn a_model_value_that_cannot_be_used_is_refused() {
    let mut upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = Gateway::before(&upstream.base_url());
    let long = format!(r#"{{"model":"gpt-{}"}}"#, "x".repeat(253));
    let longer = format!(r#"{{"model":"gpt-{}"}}"#, "x".repeat(10_000));
    let cases: &[(&[u8], &str)] = &[
        (br#"{"model":"smart","model":"smart"}"#, "repeated_field"),
        (br#"{"model":"smart","input":1,"model":null}"#, "repeated_field"),
        (br#"{"model":"smart","\u006dodel":"gpt-x"}"#, "repeated_field"),
        (br#"{"mode\u006C":"smart","model":"gpt-x"}"#, "repeated_field"),
        (br#"{"model":"smart","Model":"gpt-x"}"#, "repeated_field"),
        (br#"{"MODEL":"gpt-x","model":"smart"}"#, "repeated_field"),
        (br#"{"mOdel":"smart"}"#, "repeated_field"),
        (br#"{"input":1,"\u004dodel":"smart"}"#, "repeated_field"),
        (br#"{"model":5}"#, "invalid_model"),
        (br#"{"model":true}"#, "invalid_model"),
        (br#"{"model":{}}"#, "invalid_model"),
        (br#"{"model":["smart"]}"#, "invalid_model"),
        (br#"{"model":""}"#, "invalid_model"),
        (br#"{"model":"gpt-\ud800"}"#, "invalid_model"),
        (br#"{"model":"gpt-\udc00\ud800"}"#, "invalid_model"),
        (b"{\"model\":\"gpt-\xff\"}", "invalid_model"),
        (b"{\"model\":\"gpt-\n\"}", "invalid_model"),
        (br#"{"model":"gpt-\x"}"#, "invalid_model"),
        (br#"{"model":"gpt-\u0000"}"#, "invalid_model"),
        (br#"{"model":"gpt-\n"}"#, "invalid_model"),
        (br#"{"model":"gpt-\u001b[2J"}"#, "invalid_model"),
        (br#"{"model":"gpt-\u007f"}"#, "invalid_model"),
        (br#"{"model":"gpt-\u0085"}"#, "invalid_model"),
        (long.as_bytes(), "invalid_model"),
        (longer.as_bytes(), "invalid_model"),
        (br#"{"input":"hi"}"#, "missing_required_parameter"),
        (br#"{"model":null}"#, "missing_required_parameter"),
        (br#"{}"#, "missing_required_parameter"),
        (br#"{"tools":[{"model":"smart"}]}"#, "missing_required_parameter"),
    ];
    for (body, code) in cases {
        let shown = String::from_utf8_lossy(body).chars().take(80).collect::<String>();
        let answer = gateway.post("", body).await;
        assert_eq!(answer.json()["error"]["code"], *code, "{shown}");
        answer.assert_final(400, code, true);
        assert_eq!(answer.param().as_deref(), Some("model"), "{shown}");
        assert!(!answer.text().contains("gpt-x"), "{shown} is repeated: {answer:?}");
    }
    upstream.assert_untouched(&gateway, "a refused model").await;

    // The longest name that passes.
    let longest = format!(r#"{{"model":"gpt-{}"}}"#, "x".repeat(252));
    assert_eq!(gateway.post("", &longest).await.status, 200);
    assert_eq!(upstream.request().await.body, longest.as_bytes());
}

#[tokio::test]
async fn a_body_that_is_not_one_json_object_is_refused() {
    let mut upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = Gateway::before(&upstream.base_url());
    let utf16: Vec<u8> = r#"{"model":"smart"}"#.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let cases: &[&[u8]] = &[
        b"",
        b" \r\n\t ",
        b"null",
        b"[]",
        br#"[{"model":"smart"}]"#,
        br#""smart""#,
        b"17",
        b"model=smart&input=hi",
        b"\xef\xbb\xbf{\"model\":\"smart\"}",
        b"\xff\xfe{\"model\":\"smart\"}",
        &utf16,
        br#"{"model":"smart"}x"#,
        br#"{"model":"smart"}{"model":"smart"}"#,
        b"{\"model\":\"smart\"}\0",
        br#"{"model":"smart"},"#,
        br#"{"model":"smart","n":NaN}"#,
        br#"{"model":"smart","n":-Infinity}"#,
        br#"{"model":"smart","n":01}"#,
        br#"{"model":"smart","n":+1}"#,
        br#"{"model":"smart","n":.5}"#,
        br#"{"model":"smart","n":1.}"#,
        br#"{"model":"smart","n":0x1}"#,
        br#"{"model":"smart","n":1e}"#,
        br#"{"model":"smart","n":tru}"#,
        br#"{"model":"smart","n":True}"#,
        br#"{"model":"smart","n":[1,]}"#,
        br#"{"model":"smart",}"#,
        br#"{"model":"smart""n":1}"#,
        br#"{"model" "smart"}"#,
        br#"{"model":"smart","n":[1}]"#,
        br#"{"model":"smart","n":}"#,
        br#"{model:"smart"}"#,
        br#"{'model':'smart'}"#,
        br#"{"model":"smart" /* a comment */}"#,
        b"{\"model\":\"smart\",\x0b\"n\":1}",
        b"{\"model\":\"smart\",\"\xff\":1}",
        b"{\"model\":\"smart\",\"x\n\":1}",
        b"{\"model\":\"smart\",\"input\":\"\xff\xc0\x80\"}",
        b"{\"model\":\"smart\",\"input\":\"a\nb\"}",
        b"{\"model\":\"smart\",\"input\":[{\"x\":[\"\x01\"]}]}",
        b"{\"model\":\"smart\",\"prompt_cache_key\":\"a\tb\"}",
        br#"{"model":"smart""#,
        br#"{"model":"smart","n":"abc"#,
        br#"{"model":"smart","n":[{"#,
        b"{",
    ];
    for body in cases {
        let shown = String::from_utf8_lossy(body);
        let answer = gateway.post("", body).await;
        assert_eq!(answer.status, 400, "{shown}: {answer:?}");
        answer.assert_final(400, "invalid_json", true);
        assert_eq!(answer.json()["error"]["param"], serde_json::Value::Null, "{shown}");
        assert_eq!(answer.json()["error"]["type"], "invalid_request_error", "{shown}");
        assert!(!answer.text().contains("smart"), "{shown} is repeated: {answer:?}");
    }
    upstream.assert_untouched(&gateway, "no JSON object").await;
}

#[tokio::test]
async fn deep_nesting_passes() {
    let mut upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = Gateway::before(&upstream.base_url());
    let (open, close) = ("[{\"a\":".repeat(50_000), "}]".repeat(50_000));
    let body = format!(r#"{{"input":{open}1{close},"model":"smart"}}"#);
    assert_eq!(gateway.post("", &body).await.status, 200);
    assert!(upstream.request().await.body == renamed(body.as_bytes()));
    // One closing bracket is missing.
    let body = body.replacen("}]", "}", 1);
    gateway.post("", &body).await.assert_final(400, "invalid_json", true);
}

#[tokio::test]
async fn an_error_answer_leaves_the_connection_usable() {
    let mut upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = Gateway::before(&upstream.base_url());
    let mut client = gateway.connect().await;
    for body in ["{}", "", "{", r#"{"model":"nope"}"#, r#"{"model":1}"#, "no json", r#"{"model":"smart","model":1}"#] {
        let answer = client.create(body).await;
        assert!(matches!(answer.status, 400 | 404), "{answer:?}");
        assert_eq!(answer.header("connection"), None, "{body}: {answer:?}");
    }
    assert_eq!(client.create(r#"{"model":"smart"}"#).await.status, 200);
    assert_eq!(upstream.request().await.body, br#"{"model":"real"}"#);
}

#[tokio::test]
async fn an_error_answer_in_the_middle_of_a_body_announces_the_end_of_the_connection() {
    let mut upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = Gateway::before(&upstream.base_url());
    let mut client = gateway.connect().await;
    let bytes = request("", &[b"[", sized(LIMIT - 1).as_slice()].concat());
    client.send(&bytes[..1000]).await;
    // The answer does not wait for the rest of the body, which could not make it valid.
    let answer = client.answer().await;
    answer.assert_final(400, "invalid_json", true);
    assert_eq!(answer.header("connection"), Some("close"), "{answer:?}");
    assert!(client.closed().await);
    upstream.assert_untouched(&gateway, "no JSON object").await;
}

#[tokio::test]
async fn a_body_with_a_too_large_length_is_refused_before_the_client_sends_it() {
    let mut upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = Gateway::before(&upstream.base_url());
    for coding in ["", "content-encoding: gzip\r\n"] {
        let mut client = gateway.connect().await;
        let length = LIMIT + 1;
        client
            .send(format!(
                "POST /v1/responses HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {KEY}\r\n{coding}\
                 content-length: {length}\r\nexpect: 100-continue\r\n\r\n"
            ))
            .await;
        // The first head is the answer: no 100 comes before it.
        let answer = client.answer().await;
        answer.assert_final(413, "request_too_large", true);
        assert!(answer.message().contains("1 MiB"), "{answer:?}");
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(client.closed().await);
    }
    upstream.assert_untouched(&gateway, "a body that is too large").await;
}

#[tokio::test]
async fn a_client_that_expects_100_continue_gets_it() {
    let mut upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = Gateway::before(&upstream.base_url());
    let mut client = gateway.connect().await;
    let bytes = request("expect: 100-continue\r\n", br#"{"model":"smart"}"#);
    let (head, body) = bytes.split_at(bytes.len() - 17);
    client.send(head).await;
    assert_eq!(client.head().await.status, 100);
    client.send(body).await;
    assert_eq!(client.answer().await.status, 200);
    let request = upstream.request().await;
    assert_eq!(request.body, br#"{"model":"real"}"#);
    assert_eq!(request.header("expect"), None);
}

#[tokio::test]
async fn a_client_that_still_sends_can_read_the_error_for_a_too_large_body() {
    let mut upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = Gateway::before(&upstream.base_url());
    let data = vec![b' '; 64 * 1024];
    // The body is far larger than both sockets' buffers: the gateway has to read all of it, or the client never gets to
    // read.
    let pieces = 1024 * 1024 * 32 / data.len();

    let mut client = gateway.connect().await;
    soon("sending in chunks", async {
        client.send(chunked("")).await;
        for _ in 0..pieces {
            client.send(chunk(&data)).await;
        }
    })
    .await;
    let answer = client.answer().await;
    answer.assert_final(413, "request_too_large", true);
    assert!(answer.whole && answer.header("connection") == Some("close"), "{answer:?}");

    let mut client = gateway.connect().await;
    soon("sending with a length", async {
        let length = pieces * data.len();
        client
            .send(format!(
                "POST /v1/responses HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {KEY}\r\ncontent-length: {length}\r\n\r\n"
            ))
            .await;
        for _ in 0..pieces {
            client.send(&data).await;
        }
    })
    .await;
    let answer = client.answer().await;
    answer.assert_final(413, "request_too_large", true);
    assert!(answer.whole);
    upstream.assert_untouched(&gateway, "a body that is too large").await;
}

#[tokio::test]
async fn the_limit_for_the_body_is_exact() {
    let mut upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = Gateway::before(&upstream.base_url());
    for (len, status) in [(LIMIT, 200), (LIMIT + 1, 413)] {
        let body = sized(len);
        assert_eq!(gateway.post("", &body).await.status, status, "{len} with a length");
        let mut client = gateway.connect().await;
        client.send(chunked("")).await;
        client.send([&chunk(&body)[..], b"0\r\n\r\n"].concat()).await;
        assert_eq!(client.answer().await.status, status, "{len} in chunks");
        for coding in ["gzip", "deflate", "br", "zstd"] {
            let coded = coded(coding, &body).await;
            assert!(coded.len() < LIMIT);
            let answer = gateway.post(&format!("content-encoding: {coding}\r\n"), &coded).await;
            assert_eq!(answer.status, status, "{len} in {coding}: {answer:?}");
            if status == 413 {
                answer.assert_final(413, "request_too_large", true);
            }
        }
        if status == 200 {
            for _ in 0..6 {
                assert!(upstream.request().await.body == renamed(&body));
            }
        }
    }
    upstream.assert_untouched(&gateway, "a body that is too large").await;
}

#[tokio::test]
async fn encoded_bodies_go_up_decoded() {
    let mut upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = Gateway::before(&upstream.base_url());
    let mut client = gateway.connect().await;
    let body = sized(100_000);
    for (header, coding) in [
        ("gzip", "gzip"),
        ("x-gzip", "gzip"),
        ("GZip", "gzip"),
        ("deflate", "deflate"),
        ("br", "br"),
        ("zstd", "zstd"),
        ("identity", ""),
        ("", ""),
    ] {
        let sent = if coding.is_empty() { body.clone() } else { coded(coding, &body).await };
        client.post_with(&format!("content-encoding: {header}\r\n"), &sent).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 200, "{header}: {answer:?}");
        let request = upstream.request().await;
        assert!(request.body == renamed(&body), "{header}");
        assert_eq!(request.header("content-length"), Some((body.len() - 1).to_string().as_str()), "{header}");
        assert_eq!(request.header("content-encoding"), None, "{header}");
        assert_eq!(request.header("transfer-encoding"), None, "{header}");
    }
}

#[tokio::test]
async fn encoded_bodies_may_have_several_members_and_arrive_in_pieces() {
    let mut upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = Gateway::before(&upstream.base_url());
    let mut client = gateway.connect().await;
    let body = sized(20_000);
    for coding in ["gzip", "zstd"] {
        // Several members or frames are one body, wherever the pieces end.
        let (one, two) = body.split_at(body.len() - 10);
        let sent = [coded(coding, one).await, coded(coding, b"").await, coded(coding, two).await].concat();
        client.post_with(&format!("content-encoding: {coding}\r\n"), &sent).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 200, "{coding}: {answer:?}");
        assert!(upstream.request().await.body == renamed(&body), "{coding}");
    }
    for coding in ["gzip", "deflate", "br", "zstd"] {
        client.send(chunked(&format!("content-encoding: {coding}\r\n"))).await;
        for piece in coded(coding, &body).await.chunks(500) {
            client.send(chunk(piece)).await;
        }
        client.send("0\r\n\r\n").await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 200, "{coding}: {answer:?}");
        assert!(upstream.request().await.body == renamed(&body), "{coding}");
    }
}

#[tokio::test]
async fn an_unknown_coding_is_refused_with_a_list_of_the_known_ones() {
    let mut upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = Gateway::before(&upstream.base_url());
    let body = br#"{"model":"smart"}"#;
    for headers in [
        "content-encoding: compress\r\n",
        "content-encoding: snappy\r\n",
        "content-encoding: gzip, gzip\r\n",
        "content-encoding: gzip, br\r\n",
        "content-encoding: identity, gzip\r\n",
        "content-encoding: gz\u{e9}\r\n",
    ] {
        for sent in [body.to_vec(), coded("gzip", &coded("gzip", body).await).await] {
            let answer = gateway.post(headers, &sent).await;
            assert_eq!(answer.status, 415, "{headers}: {answer:?}");
            answer.assert_final(415, "unsupported_content_encoding", true);
            assert_eq!(answer.header("accept-encoding"), Some("gzip, deflate, br, zstd"));
        }
    }
    upstream.assert_untouched(&gateway, "an unknown coding").await;
}

#[tokio::test]
async fn bodies_that_do_not_decode_are_refused() {
    let mut upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = Gateway::before(&upstream.base_url());
    let body = sized(20_000);
    for coding in ["gzip", "deflate", "br", "zstd"] {
        let good = coded(coding, &body).await;
        let header = format!("content-encoding: {coding}\r\n");
        let mut flipped = good.clone();
        for byte in &mut flipped[3..200] {
            *byte ^= 0x55;
        }
        let cases = [
            ("nothing", Vec::new()),
            ("plain JSON", body.clone()),
            ("a corrupt body", flipped),
            ("half of it", good[..good.len() / 2].to_vec()),
            ("all but its last byte", good[..good.len() - 1].to_vec()),
            ("its first byte", good[..1].to_vec()),
            ("a byte too many", [&good[..], b"x"].concat()),
            ("a space too many", [&good[..], b" "].concat()),
            ("JSON behind it", [&good[..], br#"{"model":"gpt-x"}"#].concat()),
        ];
        for (what, sent) in cases {
            let answer = gateway.post(&header, &sent).await;
            assert_eq!(answer.status, 400, "{coding}, {what}: {answer:?}");
            let code = answer.json()["error"]["code"].as_str().unwrap().to_owned();
            assert_eq!(code, "invalid_content_encoding", "{coding}, {what}");
            answer.assert_final(400, "invalid_content_encoding", true);
        }
        // The bytes after the end may also arrive later.
        let mut client = gateway.connect().await;
        client.send(chunked(&header)).await;
        client.send([chunk(&good), chunk(b"x"), b"0\r\n\r\n".to_vec()].concat()).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 400, "{coding}: {answer:?}");
    }
    // The body decodes, and is no JSON.
    let empty = coded("gzip", b"").await;
    gateway.post("content-encoding: gzip\r\n", &empty).await.assert_final(400, "invalid_json", true);
    upstream.assert_untouched(&gateway, "a body that does not decode").await;
}

/// Brotli that stores `plain` uncompressed, behind a header of these bits: (value, number of bits).
fn stored_brotli(header: &[(u64, u32)], plain: &[u8]) -> Vec<u8> {
    let mut bits = Vec::new();
    let mut put = |value: u64, count: u32| bits.extend((0..count).map(|bit| value >> bit & 1 == 1));
    header.iter().for_each(|(value, count)| put(*value, *count));
    // A block that is not the last, with 4 nibbles of length, stored uncompressed.
    put(0, 1);
    put(0, 2);
    put(plain.len() as u64 - 1, 16);
    put(1, 1);
    let byte = |bits: &[bool]| bits.iter().rev().fold(0, |byte, bit| byte << 1 | u8::from(*bit));
    let mut coded: Vec<u8> = bits.chunks(8).map(byte).collect();
    coded.extend(plain);
    // The last block, which is empty.
    coded.push(3);
    coded
}

#[tokio::test]
async fn large_window_brotli_is_refused() {
    let mut upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = Gateway::before(&upstream.base_url());
    let body = br#"{"model":"smart","input":"stored"}"#;
    // Windows of 16 and 24 bits, as RFC 7932 defines them.
    for header in [&[(0, 1)][..], &[(1, 1), (7, 3)]] {
        let answer = gateway.post("content-encoding: br\r\n", stored_brotli(header, body)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(upstream.request().await.body, renamed(body));
    }
    for window in [10, 16, 24, 25, 30, 62] {
        let sent = stored_brotli(&[(0x11, 8), (window, 6)], body);
        let answer = gateway.post("content-encoding: br\r\n", &sent).await;
        answer.assert_final(400, "invalid_content_encoding", true);
        assert!(answer.message().contains("large-window"), "{answer:?}");
        // The same byte by byte.
        let mut client = gateway.connect().await;
        client.send(chunked("content-encoding: br\r\n")).await;
        for byte in &sent[..3] {
            client.send(chunk(&[*byte])).await;
        }
        let answer = client.answer().await;
        assert!(answer.status == 400 && answer.message().contains("large-window"), "{answer:?}");
    }
    upstream.assert_untouched(&gateway, "large-window brotli").await;
    gateway.metric_becomes(HELD, 0.0).await;
}

#[tokio::test]
async fn the_memory_of_a_decoder_is_released_when_the_decoder_is_done() {
    let (tell, mut calls) = tokio::sync::mpsc::unbounded_channel();
    let upstream = Upstream::scripted(move |_| {
        let (go, wait) = oneshot::channel();
        tell.send(go).unwrap();
        vec![Step::Wait(wait), Step::Send(json("200 OK", RESPONSE))]
    })
    .await;
    let gateway = Gateway::before(&upstream.base_url());
    let body = sized(LIMIT);
    for coding in ["gzip", "deflate", "br", "zstd"] {
        let mut client = gateway.connect().await;
        client.send(chunked(&format!("content-encoding: {coding}\r\n"))).await;
        client.send(chunk(&coded(coding, &body).await)).await;
        // All encoded bytes arrived, but not the end of the body. The other two codings may continue with another
        // member.
        if ["deflate", "br"].contains(&coding) {
            gateway.metric_becomes(HELD, LIMIT as f64).await;
        }
        client.send(LAST_CHUNK).await;
        let go = soon("the call", calls.recv()).await.unwrap();
        assert_eq!(gateway.metric(HELD).await, LIMIT as f64, "{coding}");
        go.send(()).unwrap();
        assert_eq!(client.answer().await.status, 200);
        gateway.metric_becomes(HELD, 0.0).await;
    }
}

#[tokio::test]
async fn bodies_that_grow_too_much_in_decoding_are_refused() {
    let mut upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = Gateway::with(&upstream.base_url(), |config| config.server.max_body_bytes = 64 * 1024 * 1024);
    let bomb = format!(r#"{{"model":"smart","input":"{}"}}"#, "a".repeat(16 * LIMIT));
    for coding in ["gzip", "deflate", "br", "zstd"] {
        let sent = coded(coding, bomb.as_bytes()).await;
        assert!(bomb.len() / sent.len() > 210, "{coding}: {}", sent.len());
        let answer = gateway.post(&format!("content-encoding: {coding}\r\n"), &sent).await;
        assert_eq!(answer.status, 413, "{coding}: {answer:?}");
        answer.assert_final(413, "request_too_large", true);
        assert!(answer.message().contains("decoded"), "{answer:?}");
    }
    upstream.assert_untouched(&gateway, "a bomb").await;
    // A small body of the same ratio passes, and so does the large one unencoded.
    let small = format!(r#"{{"model":"smart","input":"{}"}}"#, "a".repeat(LIMIT - 100));
    let sent = coded("zstd", small.as_bytes()).await;
    assert!(small.len() / sent.len() > 1000);
    assert_eq!(gateway.post("content-encoding: zstd\r\n", &sent).await.status, 200);
    assert!(upstream.request().await.body == renamed(small.as_bytes()));
    assert_eq!(gateway.post("", &bomb).await.status, 200);
}

#[tokio::test]
async fn a_request_without_a_model_goes_to_the_default_upstream_unchanged() {
    let mut one = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let mut two = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let mut config = config(&one.base_url());
    config.upstreams.push(upstream("two", &two.base_url()));
    config.default_upstream = Some(1);
    let restricted = |name: &str, models: Option<&str>, upstreams: Option<usize>| {
        let mut key = key(name, name);
        key.models = models.map(|model| vec![model.into()]);
        key.upstreams = upstreams.map(|upstream| vec![upstream]);
        key
    };
    config.keys.push(restricted("sk-models", Some("*"), None));
    config.keys.push(restricted("sk-elsewhere", None, Some(0)));
    config.keys.push(restricted("sk-there", None, Some(1)));
    let gateway = Gateway::start(config);
    for body in [r#"{"prompt":{"id":"p"}}"#, r#"{"model" : null}"#, r#" {"tools":[{"model":"smart"}]}"#, "{}"] {
        let mut client = gateway.connect().await;
        for key in [KEY, "sk-there"] {
            client.send(with_key(key, body)).await;
            assert_eq!(client.answer().await.status, 200, "{key} {body}");
            assert_eq!(String::from_utf8(two.request().await.body).unwrap(), body);
        }
        for key in ["sk-models", "sk-elsewhere"] {
            client.send(with_key(key, body)).await;
            let answer = client.answer().await;
            answer.assert_final(400, "missing_required_parameter", true);
            assert_eq!(answer.param().as_deref(), Some("model"), "{key} {body}");
        }
    }
    assert_eq!((one.untaken(), two.untaken()), (0, 0));
}

fn with_key(key: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST /v1/responses HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {key}\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

#[tokio::test]
async fn a_body_goes_to_the_first_upstream_that_accepts_its_size() {
    let mut small = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let mut large = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let mut config = config(&small.base_url());
    config.upstreams.push(upstream("large", &large.base_url()));
    config.upstreams[0].max_body_bytes = Some(1000);
    config.upstreams[1].max_body_bytes = Some(2000);
    config.models[0] = model("smart", &[(0, Some("real")), (1, Some("other"))]);
    config.default_upstream = Some(0);
    let gateway = Gateway::start(config);

    assert_eq!(gateway.post("", sized(1000)).await.status, 200);
    assert_eq!(small.request().await.body, renamed(&sized(1000)));
    assert_eq!(gateway.post("", sized(1001)).await.status, 200);
    assert!(large.request().await.body.ends_with(br#""model":"other"}"#));
    assert_eq!(gateway.post("", sized(2000)).await.status, 200);
    large.request().await;
    gateway.post("", sized(2001)).await.assert_final(413, "upstream_request_too_large", true);
    // A model that names its upstream has no other target, and neither has a request without a model.
    let direct = String::from_utf8(sized(1500)).unwrap().replace("smart", "up/m");
    gateway.post("", direct).await.assert_final(413, "upstream_request_too_large", true);
    let nameless = format!(r#"{{"input":"{}"}}"#, "a".repeat(1500));
    gateway.post("", nameless).await.assert_final(413, "upstream_request_too_large", true);
    assert_eq!((small.untaken(), large.untaken()), (0, 0));
}

#[tokio::test]
async fn a_body_of_ambiguous_length_is_refused() {
    let mut upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = Gateway::before(&upstream.base_url());
    // Both framings at once, two lengths, a broken chunk: each is a way of request smuggling.
    for (headers, body) in [
        ("content-length: 17\r\ncontent-length: 18\r\n", &br#"{"model":"smart"}"#[..]),
        ("content-length: +17\r\n", br#"{"model":"smart"}"#),
        ("content-length: 17, 18\r\n", br#"{"model":"smart"}"#),
        ("transfer-encoding: chunked\r\n", b"zz\r\n{\"model\":\"smart\"}\r\n0\r\n\r\n"),
        ("transfer-encoding: chunked, identity\r\n", b"11\r\n{\"model\":\"smart\"}\r\n0\r\n\r\n"),
    ] {
        let mut client = gateway.connect().await;
        let head = format!("POST /v1/responses HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {KEY}\r\n{headers}\r\n");
        client.send([head.as_bytes(), body].concat()).await;
        let head = client.head().await;
        assert_eq!(head.status, 400, "{headers}: {head:?}");
    }
    upstream.assert_untouched(&gateway, "a body of doubtful length").await;
}

/// The metric of the memory that all bodies together hold.
const HELD: &str = "tidegate_body_memory_bytes ";

/// The answer is only the error that a later try may not get.
async fn assert_overloaded(client: &mut Client) {
    let answer = client.answer().await;
    answer.assert_final(503, "gateway_overloaded", false);
    assert_eq!(answer.all("retry-after"), ["1"], "{answer:?}");
    assert_eq!(answer.json()["error"]["type"], "server_error");
    assert_eq!(answer.header("connection"), Some("close"), "{answer:?}");
}

#[tokio::test]
async fn a_request_beyond_the_memory_for_all_bodies_is_refused_at_once() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = Gateway::with(&upstream.base_url(), |config| {
        config.server.max_body_memory = LIMIT as u64;
        // Two workers share the memory.
        config.server.workers = 2;
    });
    let body = request("", &sized(LIMIT / 2));
    let mut slow = [gateway.connect().await, gateway.connect().await];
    // Memory is reserved in steps as bytes arrive. All but the last few bytes reserve all of it.
    for client in &mut slow {
        client.send(&body[..1000]).await;
    }
    gateway.metric_becomes(HELD, 2.0 * 64.0 * 1024.0).await;
    for client in &mut slow {
        client.send(&body[1000..body.len() - 10]).await;
    }
    gateway.metric_becomes(HELD, LIMIT as f64).await;
    for _ in 0..4 {
        let mut third = gateway.connect().await;
        third.send(request("", br#"{"model":"smart"}"#)).await;
        assert_overloaded(&mut third).await;
        assert!(third.closed().await);
    }
    // The refusal comes before a byte of the body.
    let mut third = gateway.connect().await;
    let small = request("", br#"{"model":"smart"}"#);
    third.send(&small[..small.len() - 17]).await;
    assert_overloaded(&mut third).await;
    for client in &mut slow {
        client.send(&body[body.len() - 10..]).await;
        assert_eq!(client.answer().await.status, 200);
    }
    gateway.metric_becomes(HELD, 0.0).await;
    for mut client in slow {
        assert_eq!(client.create(r#"{"model":"smart"}"#).await.status, 200);
    }
    gateway.metric_becomes("tidegate_problems_total{code=\"gateway_overloaded\"}", 5.0).await;
}

#[tokio::test]
async fn bodies_without_a_length_and_decoded_bodies_are_counted_as_they_arrive() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let gateway = Gateway::with(&upstream.base_url(), |config| config.server.max_body_memory = LIMIT as u64);
    let large = sized(LIMIT - 1000);

    // A chunked body takes most of the memory, and is not sent upstream yet.
    let mut first = gateway.connect().await;
    first.send(chunked("")).await;
    first.send(chunk(&large[..LIMIT / 2])).await;
    gateway.metric_becomes(HELD, (LIMIT / 2) as f64).await;

    let mut second = gateway.connect().await;
    second.send(chunked("")).await;
    second.send(chunk(&large)).await;
    assert_overloaded(&mut second).await;
    for coding in ["gzip", "deflate", "br", "zstd"] {
        let header = format!("content-encoding: {coding}\r\n");
        let mut coded_one = gateway.connect().await;
        coded_one.post_with(&header, coded(coding, &large).await).await;
        assert_overloaded(&mut coded_one).await;
    }
    gateway.metric_becomes(HELD, (LIMIT / 2) as f64).await;

    first.send(chunk(&large[LIMIT / 2..])).await;
    first.send(LAST_CHUNK).await;
    assert_eq!(first.answer().await.status, 200);
    gateway.metric_becomes(HELD, 0.0).await;
    // Each body fits if it is the only one, whatever its decoder takes.
    for coding in ["gzip", "deflate", "br", "zstd"] {
        let header = format!("content-encoding: {coding}\r\n");
        assert_eq!(gateway.post(&header, coded(coding, &large).await).await.status, 200, "{coding}");
    }
    gateway.metric_becomes(HELD, 0.0).await;
}

#[tokio::test]
async fn the_memory_of_a_body_is_released_however_its_request_ends() {
    let (hung, hangs) = oneshot::channel();
    let mut hung = Some(hung);
    let mut upstream = Upstream::scripted(move |request| {
        if request.body.ends_with(b"break\"}") {
            vec![Step::Reset]
        } else {
            vec![Step::UntilClosed(hung.take().unwrap())]
        }
    })
    .await;
    let gateway = Gateway::with(&upstream.base_url(), |config| config.server.max_body_memory = LIMIT as u64);

    // Refused: no JSON, unknown model, too large, too large in chunks, broken coding.
    for body in [&b"{"[..], br#"{"model":"none"}"#] {
        assert!(gateway.post("", body).await.status >= 400);
    }
    let too_large = vec![b' '; LIMIT + 1];
    assert_eq!(gateway.post("", &too_large).await.status, 413);
    let mut client = gateway.connect().await;
    client.send(chunked("")).await;
    client.send(chunk(&too_large)).await;
    assert_eq!(client.answer().await.status, 413);
    assert_eq!(gateway.post("content-encoding: gzip\r\n", [b'x'; 1000]).await.status, 400);
    gateway.metric_becomes(HELD, 0.0).await;

    // The client leaves in the middle of a body, with a length and in chunks.
    for begun in [&request("", &sized(5000))[..300], &[chunked("").as_bytes(), &chunk(b"{\"mod")].concat()] {
        let mut client = gateway.connect().await;
        client.send(begun).await;
        soon("the body to be held", async { while gateway.metric(HELD).await == 0.0 {} }).await;
        drop(client);
        gateway.metric_becomes(HELD, 0.0).await;
    }

    // The upstream breaks the connection.
    assert_eq!(gateway.post("", br#"{"model":"gpt-break"}"#).await.status, 502);
    gateway.metric_becomes(HELD, 0.0).await;

    // The client leaves while the upstream works.
    upstream.request().await;
    let mut client = gateway.connect().await;
    let body = br#"{"model":"gpt-hang"}"#;
    client.post(body).await;
    upstream.request().await;
    assert_eq!(gateway.metric(HELD).await, body.len() as f64);
    drop(client);
    soon("the call to be cancelled", hangs).await.unwrap();
    gateway.metric_becomes(HELD, 0.0).await;
}

#[tokio::test]
async fn a_body_that_is_being_sent_upstream_is_counted_until_the_answer_is_complete() {
    // More than the kernel buffers for an upstream that does not read.
    const LEN: usize = 32 * 1024 * 1024;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = Gateway::with(&format!("http://{}", listener.local_addr().unwrap()), |config| {
        config.server.max_body_bytes = LEN as u64;
    });
    let mut client = gateway.connect().await;
    let upstream = async {
        let (mut upstream, _) = listener.accept().await.unwrap();
        upstream.read_exact(&mut [0; 10]).await.unwrap();
        upstream
    };
    let ((), mut upstream) = soon("a request", async { tokio::join!(client.post(sized(LEN)), upstream) }).await;
    assert_eq!(gateway.metric(HELD).await, LEN as f64);
    upstream.write_all(&json("200 OK", RESPONSE)).await.unwrap();
    let answer = client.answer().await;
    assert_eq!((answer.status, &*answer.body), (200, RESPONSE.as_bytes()));
    // An upstream that reads no further keeps no memory: the connection to it ends.
    gateway.metric_becomes(HELD, 0.0).await;
    let mut unread = vec![0; 65536];
    let end = async { while upstream.read(&mut unread).await.is_ok_and(|read| read > 0) {} };
    soon("the end of the connection", end).await;
}
