//! A client that leaves causes no further cost.

use std::time::Duration;

use tokio::{sync::oneshot, time::Instant};

use crate::support::{
    client::request,
    gateway::Gateway,
    soon,
    upstream::{STREAM, Step, Upstream, chunk},
};

const BODY: &str = r#"{"model":"smart","input":"hi","stream":true}"#;
const EVENT: &[u8] = b"data: {\"type\":\"response.output_text.delta\",\"delta\":\"x\"}\n\n";
const COMPLETED: &[u8] = b"data: {\"type\":\"response.completed\",\"response\":{\"id\":\"resp_1\"}}\n\n";

/// The promised time.
const WITHIN: Duration = Duration::from_millis(100);

/// Each case is measured several times, and the best time counts: the promise is about the gateway, and a busy machine
/// only adds time.
const TRIES: usize = 5;

/// An upstream that sends `first`, and then nothing until its call is cancelled.
async fn patient(first: Vec<u8>) -> (Upstream, tokio::sync::mpsc::UnboundedReceiver<oneshot::Receiver<()>>) {
    let (tell, closings) = tokio::sync::mpsc::unbounded_channel();
    let upstream = Upstream::scripted(move |_| {
        let (told, closed) = oneshot::channel();
        tell.send(closed).unwrap();
        vec![Step::Send(first.clone()), Step::UntilClosed(told)]
    })
    .await;
    (upstream, closings)
}

/// The best time that the upstream call outlives a client that leaves. `extra` is sent before the client leaves.
async fn outlives(first: Vec<u8>, waits_for_event: bool, extra: &[u8]) -> Duration {
    let (mut upstream, mut closings) = patient(first).await;
    let gateway = Gateway::before(&upstream.base_url());
    let mut best = Duration::MAX;
    for nth in 1..=TRIES {
        let mut client = gateway.connect().await;
        client.post(BODY).await;
        upstream.request().await;
        if waits_for_event {
            client.head().await;
            soon("an event", client.chunk()).await.unwrap();
        }
        client.send(extra).await;
        let closed = closings.recv().await.unwrap();
        client.stay().await;
        let left = Instant::now();
        drop(client);
        soon("the upstream call to be cancelled", closed).await.unwrap();
        best = best.min(left.elapsed());
        gateway.metric_becomes("tidegate_requests_total{upstream=\"up\",end=\"client_gone\"}", nth as f64).await;
    }
    eprintln!("cancelled after {best:?}");
    best
}

#[tokio::test]
async fn leaving_in_the_middle_of_a_stream_cancels_the_upstream_call() {
    let first = [STREAM, &chunk(EVENT)].concat();
    assert!(outlives(first, true, b"").await < WITHIN);
}

#[tokio::test]
async fn leaving_before_the_head_of_the_answer_cancels_the_upstream_call() {
    assert!(outlives(Vec::new(), false, b"").await < WITHIN);
}

#[tokio::test]
async fn pipelined_bytes_do_not_hide_that_the_client_left() {
    let first = [STREAM, &chunk(EVENT)].concat();
    assert!(outlives(first.clone(), true, b"G").await < WITHIN);
    assert!(outlives(first.clone(), true, &request("", BODY.as_bytes())).await < WITHIN);
    // More than hyper's first buffer takes: the rest stays in the kernel, with the end of the connection behind it.
    assert!(outlives(first, true, &vec![b'x'; 48 * 1024]).await < WITHIN);
}

#[tokio::test]
async fn leaving_after_the_terminal_event_counts_as_completed() {
    let (mut upstream, mut closings) = patient([STREAM, &chunk(COMPLETED)].concat()).await;
    let gateway = Gateway::before(&upstream.base_url());
    let mut client = gateway.connect().await;
    client.post(BODY).await;
    upstream.request().await;
    client.head().await;
    assert_eq!(client.chunk().await.unwrap(), COMPLETED);
    drop(client);
    soon("the upstream call to be cancelled", closings.recv().await.unwrap()).await.unwrap();
    gateway.metric_becomes("tidegate_requests_total{upstream=\"up\",end=\"completed\"}", 1.0).await;
}

#[tokio::test]
async fn leaving_in_the_middle_of_the_request_sends_nothing_upstream() {
    let mut upstream = Upstream::fixed(Vec::new()).await;
    let gateway = Gateway::before(&upstream.base_url());
    let mut client = gateway.connect().await;
    let whole = request("", BODY.as_bytes());
    client.send(&whole[..whole.len() - 5]).await;
    drop(client);
    gateway.metric_becomes("tidegate_requests_total{upstream=\"\",end=\"client_gone\"}", 1.0).await;
    assert_eq!(upstream.untaken(), 0);
}

#[tokio::test]
async fn a_stream_of_another_client_continues() {
    let (mut upstream, mut closings) = patient([STREAM, &chunk(EVENT)].concat()).await;
    let gateway = Gateway::before(&upstream.base_url());
    let mut stays = gateway.connect().await;
    stays.post(BODY).await;
    upstream.request().await;
    stays.head().await;
    assert_eq!(stays.chunk().await.unwrap(), EVENT);
    let mut stays_open = closings.recv().await.unwrap();

    let mut leaves = gateway.connect().await;
    leaves.post(BODY).await;
    upstream.request().await;
    let closed = closings.recv().await.unwrap();
    drop(leaves);
    soon("the upstream call to be cancelled", closed).await.unwrap();
    assert!(stays_open.try_recv().is_err(), "the wrong call was cancelled");
    assert_eq!(gateway.metric("tidegate_requests_in_flight").await, 1.0);
}
