//! Ids in answers whose client leaves.

use tidegate::{
    affinity::Recalled,
    config::{Config, OnClientGone},
    domain::origin::ReferenceKind,
};
use tokio::sync::oneshot;

use super::{BODY, made_here, owner, recorded};
use crate::support::{
    database::until,
    gateway::{Gateway, config},
    soon,
    upstream::{LAST_CHUNK, RESPONSE, STREAM, Step, Upstream, chunk, json},
};

const CREATED: &[u8] = b"data: {\"type\":\"response.created\",\"response\":{\"id\":\"resp_0\"}}\n\n";

fn draining(base_url: &str) -> Config {
    let mut config = config(base_url);
    config.keys[0].on_client_gone = OnClientGone::Drain;
    config
}

fn completed() -> Vec<u8> {
    format!("data: {{\"type\":\"response.completed\",\"response\":{RESPONSE}}}\n\n").into_bytes()
}

#[tokio::test]
async fn ids_in_a_drained_answer_are_recorded() {
    for (what, before, after) in [
        ("before the head, a body", Vec::new(), json("200 OK", RESPONSE)),
        ("before the head, a stream", Vec::new(), [STREAM, &chunk(&completed()), LAST_CHUNK].concat()),
        ("inside a stream", [STREAM, &chunk(CREATED)].concat(), [&*chunk(&completed()), LAST_CHUNK].concat()),
    ] {
        let (go, wait) = oneshot::channel();
        let inside = !before.is_empty();
        let mut steps = Some(vec![Step::Send(before), Step::Wait(wait), Step::Send(after)]);
        let mut upstream = Upstream::scripted(move |_| steps.take().unwrap()).await;
        let gateway = Gateway::start(draining(&upstream.base_url()));
        let mut client = gateway.connect().await;
        client.post(BODY).await;
        if inside {
            client.head().await;
            assert_eq!(soon("the first event", client.chunk()).await.unwrap(), CREATED, "{what}");
        } else {
            upstream.request().await;
        }
        drop(client);
        gateway.metric_becomes("tidegate_connections ", 0.0).await;
        let id = (ReferenceKind::Response, "resp_1");
        assert_eq!(recorded(&gateway, id, owner("tester")).await, Recalled::Unknown, "{what}");
        go.send(()).unwrap();
        until(what, async || recorded(&gateway, id, owner("tester")).await == made_here()).await;
    }
}

#[tokio::test]
async fn ids_that_arrived_before_the_client_left_are_recorded() {
    let (told_closed, closed) = oneshot::channel();
    let mut steps = Some(vec![Step::Send([STREAM, &chunk(CREATED)].concat()), Step::UntilClosed(told_closed)]);
    let upstream = Upstream::scripted(move |_| steps.take().unwrap()).await;
    let gateway = Gateway::before(&upstream.base_url());
    let mut client = gateway.connect().await;
    client.post(BODY).await;
    client.head().await;
    assert_eq!(soon("the first event", client.chunk()).await.unwrap(), CREATED);
    drop(client);
    soon("the call to be cancelled", closed).await.unwrap();
    assert_eq!(recorded(&gateway, (ReferenceKind::Response, "resp_0"), owner("tester")).await, made_here());
}
