//! Nobody can name an id too early: it is known here before the bytes that end its event, or its body, are out.

use std::sync::{Arc, Mutex};

use tidegate::domain::origin::Kind;
use tokio::sync::oneshot;

use super::{BODY, learned, made_here, owner, recall};
use crate::support::{
    gateway::{Gateway, credential},
    soon,
    upstream::{LAST_CHUNK, RESPONSE, STREAM, Step, Upstream, chunk},
};

/// An upstream that sends a text of each request's own in two pieces, and waits between them; the test goes on by what it
/// takes from the list.
async fn in_two(
    text: impl Fn(usize) -> Vec<u8> + Send + 'static,
) -> (Upstream, Arc<Mutex<Option<oneshot::Sender<()>>>>) {
    let next = Arc::<Mutex<Option<oneshot::Sender<()>>>>::default();
    let told = Arc::clone(&next);
    let mut at = 0;
    let upstream = Upstream::scripted(move |_| {
        at += 1;
        let text = text(at);
        let (one, two) = text.split_at(at);
        let (go, wait) = oneshot::channel();
        *told.lock().unwrap() = Some(go);
        let mut steps = vec![Step::Send([STREAM, &chunk(one)].concat()), Step::Wait(wait)];
        steps.extend((!two.is_empty()).then(|| Step::Send(chunk(two))));
        // Open for as long as the test looks: what it sees does not come with the end.
        steps.push(Step::UntilClosed(oneshot::channel().0));
        steps
    })
    .await;
    (upstream, next)
}

fn event(number: usize) -> Vec<u8> {
    format!("data: {{\"type\":\"response.created\",\"response\":{{\"id\":\"resp_{number:03}\"}}}}\n\n").into_bytes()
}

#[tokio::test]
async fn an_event_that_is_split_anywhere_is_known_when_its_last_byte_is_here() {
    let (upstream, next) = in_two(event).await;
    // No byte of it is in an event: before the first output, a piece that ends as the credential goes on waits for the next one.
    let gateway = Gateway::with(&upstream.base_url(), |config| {
        config.upstreams[0].credentials = vec![credential("UP_KEY", "ZZXXWWVVUUTTQQKK")];
    });
    let len = event(0).len();
    for at in 1..len {
        let mut client = gateway.connect().await;
        client.post(BODY).await;
        client.head().await;
        let (one, two) = (event(at)[..at].to_vec(), event(at)[at..].to_vec());
        assert_eq!(soon("the first piece", client.chunk()).await.unwrap(), one, "{at}");
        assert_eq!(learned(&gateway).await, (at - 1) as f64, "{at}: before it is whole");
        next.lock().unwrap().take().unwrap().send(()).unwrap();
        assert_eq!(soon("the second piece", client.chunk()).await.unwrap(), two, "{at}");
        let id = format!("resp_{at:03}");
        assert_eq!(recall(&gateway, (Kind::Response, &id), owner("tester")).await, made_here(), "{at}");
    }
    assert_eq!(gateway.metric("tidegate_affinity_store_lookups_total").await, 0.0, "memory is enough");
}

#[tokio::test]
async fn a_body_that_is_split_anywhere_is_known_when_its_last_byte_is_here() {
    let body = |number: usize| RESPONSE.replace("resp_1", &format!("resp_{number:03}"));
    let mut at = 0;
    let upstream = Upstream::scripted(move |_| {
        at += 1;
        let text = body(at);
        let (one, two) = text.as_bytes().split_at(at);
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", text.len());
        // Two writes; whether they are read apart or not, it must be known.
        vec![Step::Send([head.as_bytes(), one].concat()), Step::Send(two.to_vec())]
    })
    .await;
    let gateway = Gateway::before(&upstream.base_url());
    let mut client = gateway.connect().await;
    for at in 1..body(0).len() {
        let answer = client.create(BODY).await;
        assert!(answer.whole && answer.body == body(at).as_bytes(), "{at}: {answer:?}");
        let id = format!("resp_{at:03}");
        assert_eq!(recall(&gateway, (Kind::Response, &id), owner("tester")).await, made_here(), "{at}");
    }
    assert_eq!(gateway.metric("tidegate_affinity_store_lookups_total").await, 0.0, "memory is enough");
}

#[tokio::test]
async fn an_event_without_its_blank_line_is_known_when_the_stream_is_over() {
    let event = event(1);
    let stream = event.strip_suffix(b"\n\n").unwrap().to_vec();
    let upstream = Upstream::fixed([STREAM, &chunk(&stream), LAST_CHUNK].concat()).await;
    let gateway = Gateway::before(&upstream.base_url());
    let answer = gateway.connect().await.create(BODY).await;
    assert!(answer.whole && answer.body == stream);
    assert_eq!(recall(&gateway, (Kind::Response, "resp_001"), owner("tester")).await, made_here());
}
