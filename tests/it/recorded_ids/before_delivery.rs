//! An id is recorded before the last bytes of its event or its body reach the client, so that no client can name it too
//! early.

use std::sync::{Arc, Mutex};

use tidegate::domain::origin::ReferenceKind;
use tokio::sync::oneshot;

use super::{BODY, made_here, owner, recall, recorded_count};
use crate::support::{
    gateway::{Gateway, credential},
    soon,
    upstream::{LAST_CHUNK, RESPONSE, STREAM, Step, Upstream, chunk},
};

/// An upstream that sends each request's text in two pieces with a pause between them. The test ends the pause with the
/// sender from the list.
async fn sending_in_two_pieces(
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
        // The connection stays open while the test looks: the records do not come from its end.
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
async fn an_id_in_an_event_is_recorded_when_the_last_byte_of_the_event_arrives() {
    let (upstream, next) = sending_in_two_pieces(event).await;
    // No byte of this credential is in an event. Before the first output, a piece that ends like the beginning of
    // the credential would wait for the next piece.
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
        assert_eq!(recorded_count(&gateway).await, (at - 1) as f64, "{at}: before the event is complete");
        next.lock().unwrap().take().unwrap().send(()).unwrap();
        assert_eq!(soon("the second piece", client.chunk()).await.unwrap(), two, "{at}");
        let id = format!("resp_{at:03}");
        assert_eq!(recall(&gateway, (ReferenceKind::Response, &id), owner("tester")).await, made_here(), "{at}");
    }
    assert_eq!(
        gateway.metric("tidegate_affinity_store_lookups_total").await,
        0.0,
        "memory must answer without the store"
    );
}

#[tokio::test]
async fn an_id_in_a_body_is_recorded_when_the_last_byte_of_the_body_arrives() {
    let body = |number: usize| RESPONSE.replace("resp_1", &format!("resp_{number:03}"));
    let mut at = 0;
    let upstream = Upstream::scripted(move |_| {
        at += 1;
        let text = body(at);
        let (one, two) = text.as_bytes().split_at(at);
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", text.len());
        // Two writes: whether the gateway reads them in one piece or two, the id must be recorded.
        vec![Step::Send([head.as_bytes(), one].concat()), Step::Send(two.to_vec())]
    })
    .await;
    let gateway = Gateway::before(&upstream.base_url());
    let mut client = gateway.connect().await;
    for at in 1..body(0).len() {
        let answer = client.create(BODY).await;
        assert!(answer.whole && answer.body == body(at).as_bytes(), "{at}: {answer:?}");
        let id = format!("resp_{at:03}");
        assert_eq!(recall(&gateway, (ReferenceKind::Response, &id), owner("tester")).await, made_here(), "{at}");
    }
    assert_eq!(
        gateway.metric("tidegate_affinity_store_lookups_total").await,
        0.0,
        "memory must answer without the store"
    );
}

#[tokio::test]
async fn an_id_in_an_event_without_its_blank_line_is_recorded_at_the_end_of_the_stream() {
    let event = event(1);
    let stream = event.strip_suffix(b"\n\n").unwrap().to_vec();
    let upstream = Upstream::fixed([STREAM, &chunk(&stream), LAST_CHUNK].concat()).await;
    let gateway = Gateway::before(&upstream.base_url());
    let answer = gateway.connect().await.create(BODY).await;
    assert!(answer.whole && answer.body == stream);
    assert_eq!(recall(&gateway, (ReferenceKind::Response, "resp_001"), owner("tester")).await, made_here());
}
