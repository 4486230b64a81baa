//! Ending in order.

use tokio::{net::TcpStream, sync::oneshot};

use crate::support::{
    gateway::{Gateway, config},
    soon,
    upstream::{LAST_CHUNK, RESPONSE, STREAM, Step, Upstream, chunk, json},
};

const BODY: &str = r#"{"model":"smart","input":"hi"}"#;
const COMPLETED: &[u8] = b"data: {\"type\":\"response.completed\"}\n\n";

#[tokio::test]
async fn at_rest_it_ends_at_once_also_with_idle_connections() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let mut gateway = Gateway::before(&upstream.base_url());
    let mut used = gateway.connect().await;
    assert_eq!(used.create(BODY).await.status, 200);
    let mut silent = gateway.connect().await;
    gateway.metric_becomes("tidegate_connections ", 2.0).await;
    gateway.drain();
    gateway.ended().await;
    assert!(used.closed().await);
    assert!(silent.closed().await);
}

#[tokio::test]
async fn a_stream_under_way_finishes_and_nobody_new_is_taken() {
    let (go, gate) = oneshot::channel();
    let mut gate = Some(gate);
    let upstream = Upstream::scripted(move |_| {
        let rest = [chunk(COMPLETED), LAST_CHUNK.to_vec()].concat();
        vec![Step::Send(STREAM.to_vec()), Step::Wait(gate.take().unwrap()), Step::Send(rest)]
    })
    .await;
    let mut gateway = Gateway::before(&upstream.base_url());
    let mut client = gateway.connect().await;
    client.post(BODY).await;
    let mut answer = client.head().await;
    gateway.drain();
    soon("new connections to be refused", async {
        while TcpStream::connect(gateway.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // The admin plane stays, so that a drain can be watched.
    let ready = crate::support::client::Client::connect(gateway.admin).await.get("/readyz").await;
    assert_eq!((ready.status, &ready.json()["draining"]), (503, &true.into()));
    go.send(()).unwrap();
    client.body(&mut answer).await;
    assert_eq!((answer.whole, &*answer.body), (true, COMPLETED));
    assert!(client.closed().await);
    gateway.ended().await;
}

#[tokio::test]
async fn what_does_not_finish_is_cut_and_the_client_sees_it() {
    let (told, closed) = oneshot::channel();
    let mut told = Some(told);
    let upstream =
        Upstream::scripted(move |_| vec![Step::Send(STREAM.to_vec()), Step::UntilClosed(told.take().unwrap())]).await;
    let mut gateway = Gateway::before(&upstream.base_url());
    let mut client = gateway.connect().await;
    client.post(BODY).await;
    let mut answer = client.head().await;
    gateway.stop();
    client.body(&mut answer).await;
    assert!(!answer.whole);
    soon("the upstream call to be cancelled", closed).await.unwrap();
    gateway.ended().await;
}

#[tokio::test]
async fn no_more_connections_are_taken_than_there_are_slots_and_a_freed_one_is_used() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let mut config = config(&upstream.base_url());
    config.server.max_connections = 1;
    let gateway = Gateway::start(config);
    let mut first = gateway.connect().await;
    assert_eq!(first.create(BODY).await.status, 200);
    // The kernel connects the second one; nobody serves it while the first is there.
    let mut second = gateway.connect().await;
    second.post(BODY).await;
    assert_eq!(first.create(BODY).await.status, 200);
    assert_eq!(gateway.metric("tidegate_connections ").await, 1.0);
    assert_eq!(gateway.metric("tidegate_requests_total{upstream=\"up\",end=\"completed\"}").await, 2.0);
    drop(first);
    assert_eq!(second.answer().await.status, 200);
}

#[tokio::test]
async fn idle_clients_that_keep_their_side_open_do_not_hold_the_end_up() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let mut gateway = Gateway::before(&upstream.base_url());
    let mut used = gateway.connect().await;
    assert_eq!(used.create(BODY).await.status, 200);
    let _silent = gateway.connect().await;
    gateway.metric_becomes("tidegate_connections ", 2.0).await;
    let since = tokio::time::Instant::now();
    gateway.drain();
    gateway.ended().await;
    assert!(since.elapsed() < std::time::Duration::from_secs(1), "{:?}", since.elapsed());
}
