//! The bytes of an answer.

use std::{fs, time::Duration};

use tidegate::config::OnIncomplete;
use tokio::sync::oneshot;

use crate::support::{
    client::Answer,
    gateway::{Gateway, config},
    soon,
    upstream::{LAST_CHUNK, RESPONSE, STREAM, Step, Upstream, answer, chunk, json},
};

const BODY: &str = r#"{"model":"smart","input":"hi","stream":true}"#;

const CREATED: &[u8] =
    b"event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"resp_9\"}}\n\n";
const COMPLETED: &[u8] = b"event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"id\":\"resp_9\",\"usage\":{\"input_tokens\":7,\"output_tokens\":2,\"total_tokens\":9}}}\n\n";

/// A small random generator, so that a failing case can be repeated by its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).unwrap()
    }
}

/// Every kind of stream of docs/wire.md, section 2, as recorded in `tests/streams`.
fn recorded() -> Vec<(String, Vec<u8>)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/streams");
    let mut streams: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "sse"))
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(&path).unwrap()))
        .collect();
    streams.sort();
    assert!(streams.len() >= 10, "the recorded streams are gone");
    streams
}

/// Splits `stream` at random into pieces. Each piece is a chunk and a write of its own.
fn split(stream: &[u8], random: &mut Random) -> Vec<Step> {
    let mut steps = vec![Step::Send(STREAM.to_vec())];
    let mut rest = stream;
    while !rest.is_empty() {
        let len = (1 + random.below(400)).min(rest.len());
        let (piece, tail) = rest.split_at(len);
        steps.push(Step::Send(chunk(piece)));
        rest = tail;
    }
    steps.push(Step::Send(LAST_CHUNK.to_vec()));
    steps
}

#[tokio::test]
async fn recorded_streams_pass_byte_for_byte_under_200_random_splits() {
    let streams = recorded();
    let served = streams.clone();
    let mut nth = 0;
    let upstream = Upstream::scripted(move |_| {
        let mut random = Random(0x9E37_79B9 + nth as u64);
        nth += 1;
        split(&served[(nth - 1) % served.len()].1, &mut random)
    })
    .await;
    let gateway = Gateway::before(&upstream.base_url());
    let mut client = gateway.connect().await;
    for nth in 0..200 {
        let (name, stream) = &streams[nth % streams.len()];
        let answer = client.create(BODY).await;
        assert_eq!((answer.status, answer.whole), (200, true), "{name}, split {nth}");
        assert!(answer.body == *stream, "{name}, split {nth}: the bytes differ");
        assert_eq!(answer.header("content-type"), Some("text/event-stream; charset=utf-8"));
        assert_eq!(answer.header("x-accel-buffering"), Some("no"));
    }
}

#[tokio::test]
async fn a_line_of_8_mib_passes_byte_for_byte_and_is_parsed() {
    let mut stream = CREATED.to_vec();
    stream.extend_from_slice(
        b"data: {\"type\":\"response.image_generation_call.partial_image\",\"partial_image_b64\":\"",
    );
    stream.extend((0..8 * 1024 * 1024).map(|n| b"ABCDEFGHIJKLMNOP+/09"[n % 20]));
    stream.extend_from_slice(b"\"}\n\n");
    stream.extend_from_slice(COMPLETED);
    let served = stream.clone();
    let upstream = Upstream::scripted(move |_| {
        let mut steps = vec![Step::Send(STREAM.to_vec())];
        steps.extend(served.chunks(100_000).map(|piece| Step::Send(chunk(piece))));
        steps.push(Step::Send(LAST_CHUNK.to_vec()));
        steps
    })
    .await;
    let gateway = Gateway::before(&upstream.base_url());
    let answer = gateway.connect().await.create(BODY).await;
    assert!(answer.whole && answer.body == stream);
    gateway.metric_becomes("tidegate_tokens_total{upstream=\"up\",kind=\"input\"}", 7.0).await;
}

#[tokio::test]
async fn each_event_goes_out_before_the_next_one_arrives() {
    let (first, first_seen) = oneshot::channel();
    let (second, second_seen) = oneshot::channel();
    let mut gates = Some((first_seen, second_seen));
    let upstream = Upstream::scripted(move |_| {
        let (first_seen, second_seen) = gates.take().unwrap();
        vec![
            Step::Send(STREAM.to_vec()),
            Step::Send(chunk(CREATED)),
            Step::Wait(first_seen),
            Step::Send(chunk(b": a comment\n\n")),
            Step::Wait(second_seen),
            Step::Send(chunk(COMPLETED)),
            Step::Send(LAST_CHUNK.to_vec()),
        ]
    })
    .await;
    let gateway = Gateway::before(&upstream.base_url());
    let mut client = gateway.connect().await;
    client.post(BODY).await;
    client.head().await;
    assert_eq!(soon("the first event", client.chunk()).await.unwrap(), CREATED);
    first.send(()).unwrap();
    assert_eq!(soon("the comment", client.chunk()).await.unwrap(), b": a comment\n\n");
    second.send(()).unwrap();
    assert_eq!(soon("the last event", client.chunk()).await.unwrap(), COMPLETED);
    assert_eq!(soon("the end", client.chunk()).await.unwrap(), b"");
}

/// The client's answer when the upstream performs `steps`.
async fn answer_after(steps: Vec<Step>, on_incomplete: OnIncomplete) -> (Answer, Gateway) {
    let mut steps = Some(steps);
    let upstream = Upstream::scripted(move |_| steps.take().unwrap()).await;
    let mut config = config(&upstream.base_url());
    config.upstreams[0].on_incomplete = on_incomplete;
    config.timeouts.upstream_silence = Duration::from_millis(300);
    let gateway = Gateway::start(config);
    let mut client = gateway.connect().await;
    let answer = client.create(BODY).await;
    (answer, gateway)
}

fn end_metric(end: &str) -> String {
    format!("tidegate_requests_total{{upstream=\"up\",end=\"{end}\"}}")
}

#[tokio::test]
async fn a_broken_transfer_breaks_for_the_client_after_all_earlier_bytes() {
    let close = || vec![Step::Send(STREAM.to_vec()), Step::Send(chunk(CREATED)), Step::Close];
    // The event must leave before the break: a reset would overtake it in the kernel.
    let half =
        || vec![Step::Send(STREAM.to_vec()), Step::Send(chunk(CREATED)), Step::Send(b"ff\r\nab".to_vec()), Step::Close];
    let short = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{\"id\":".to_vec();
    for (what, steps, prefix) in [
        ("no last chunk", close(), CREATED.to_vec()),
        ("inside a chunk", half(), [CREATED, b"ab"].concat()),
        ("short Content-Length", vec![Step::Send(short), Step::Close], b"{\"id\":".to_vec()),
    ] {
        let (answer, gateway) = answer_after(steps, OnIncomplete::Pass).await;
        assert_eq!(answer.status, 200, "{what}");
        assert!(!answer.whole, "{what}: the break was hidden");
        assert_eq!(answer.body, prefix, "{what}");
        gateway.metric_becomes(&end_metric("upstream_broken"), 1.0).await;
    }
}

#[tokio::test]
async fn a_reset_of_the_upstream_breaks_the_clients_transfer() {
    let (go, gate) = oneshot::channel();
    let mut steps = Some(vec![Step::Send(STREAM.to_vec()), Step::Send(chunk(CREATED)), Step::Wait(gate), Step::Reset]);
    let upstream = Upstream::scripted(move |_| steps.take().unwrap()).await;
    let gateway = Gateway::before(&upstream.base_url());
    let mut client = gateway.connect().await;
    client.post(BODY).await;
    client.head().await;
    assert_eq!(client.chunk().await.unwrap(), CREATED);
    go.send(()).unwrap();
    assert_eq!(soon("the break", client.chunk()).await, None);
    gateway.metric_becomes(&end_metric("upstream_broken"), 1.0).await;
}

#[tokio::test]
async fn a_clean_end_without_a_terminal_event_passes_and_is_counted() {
    let steps = || vec![Step::Send(STREAM.to_vec()), Step::Send(chunk(CREATED)), Step::Send(LAST_CHUNK.to_vec())];
    let (answer, gateway) = answer_after(steps(), OnIncomplete::Pass).await;
    assert_eq!((answer.whole, &*answer.body), (true, CREATED));
    gateway.metric_becomes(&end_metric("incomplete"), 1.0).await;
    gateway.metric_becomes("tidegate_streams_incomplete_total{upstream=\"up\"}", 1.0).await;

    let (answer, gateway) = answer_after(steps(), OnIncomplete::Break).await;
    assert_eq!((answer.whole, &*answer.body), (false, CREATED));
    gateway.metric_becomes(&end_metric("incomplete"), 1.0).await;
}

#[tokio::test]
async fn on_incomplete_break_also_applies_to_answers_with_a_length_and_spares_whole_streams() {
    let stream = |events: &[u8]| vec![Step::Send(answer("200 OK", "text/event-stream", events))];
    let (cut, _gateway) = answer_after(stream(CREATED), OnIncomplete::Break).await;
    assert_eq!((cut.whole, &*cut.body), (false, CREATED));
    let whole = [CREATED, COMPLETED].concat();
    let (kept, gateway) = answer_after(stream(&whole), OnIncomplete::Break).await;
    assert_eq!((kept.whole, &kept.body), (true, &whole));
    gateway.metric_becomes(&end_metric("completed"), 1.0).await;
}

#[tokio::test]
async fn a_silent_upstream_is_cut_at_the_deadline() {
    let (told, closed) = oneshot::channel();
    let steps = vec![Step::Send(STREAM.to_vec()), Step::Send(chunk(CREATED)), Step::UntilClosed(told)];
    let (answer, gateway) = answer_after(steps, OnIncomplete::Pass).await;
    assert_eq!((answer.whole, &*answer.body), (false, CREATED));
    soon("the upstream call to be cancelled", closed).await.unwrap();
    gateway.metric_becomes(&end_metric("upstream_stalled"), 1.0).await;
}

#[tokio::test]
async fn the_end_of_a_stream_is_recorded_by_its_terminal_event() {
    for (event, end) in [
        ("response.completed", "completed"),
        ("response.done", "completed"),
        ("response.failed", "response_failed"),
        ("response.incomplete", "response_incomplete"),
        ("error", "response_failed"),
    ] {
        let terminal = format!("data: {{\"type\":\"{event}\"}}\n\n");
        // The transfer breaks after the terminal event: clients have finished by then.
        let steps = vec![Step::Send(STREAM.to_vec()), Step::Send(chunk(terminal.as_bytes())), Step::Close];
        let (answer, gateway) = answer_after(steps, OnIncomplete::Pass).await;
        assert_eq!((answer.whole, &*answer.body), (false, terminal.as_bytes()), "{event}");
        gateway.metric_becomes(&end_metric(end), 1.0).await;
    }
}

#[tokio::test]
async fn an_answer_that_ends_with_its_connection_passes_whole() {
    let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n".to_vec();
    let stream = [CREATED, COMPLETED].concat();
    let (answer, gateway) =
        answer_after(vec![Step::Send(head), Step::Send(stream.clone()), Step::Close], OnIncomplete::Pass).await;
    assert_eq!((answer.whole, &answer.body), (true, &stream));
    gateway.metric_becomes(&end_metric("completed"), 1.0).await;
}

#[tokio::test]
async fn an_upstream_may_answer_a_stream_request_with_json() {
    // The upstream answers with JSON although the request asks for a stream. The length stays.
    let (whole, _gateway) = answer_after(vec![Step::Send(json("200 OK", RESPONSE))], OnIncomplete::Pass).await;
    assert_eq!(whole.body, RESPONSE.as_bytes());
    assert_eq!(whole.header("content-length"), Some(&*RESPONSE.len().to_string()));
    assert_eq!(whole.header("x-accel-buffering"), None);
}

#[tokio::test]
async fn an_answer_that_is_compressed_unasked_passes_unchanged() {
    let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\n\x1f\x8b\x00\xff";
    let (answer, gateway) = answer_after(vec![Step::Send(head.to_vec())], OnIncomplete::Break).await;
    assert_eq!((answer.whole, &*answer.body), (true, &b"\x1f\x8b\x00\xff"[..]));
    assert_eq!(answer.header("content-encoding"), Some("gzip"));
    gateway.metric_becomes(&end_metric("completed"), 1.0).await;
}
