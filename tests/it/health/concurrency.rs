//! Concurrency limits: how many requests run at once, and what happens to the others.

use std::time::Duration;

use tidegate::config::Config;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::Instant,
};

use super::{BODY, SwitchableUpstream, ask, before, credentials};
use crate::support::{
    client::{Answer, Client},
    gateway::Gateway,
    soon,
    upstream::{LAST_CHUNK, RESPONSE, STREAM, Step, Upstream, chunk},
};

const EVENT: &[u8] = b"data: {\"type\":\"response.output_text.delta\",\"delta\":\"x\"}\n\n";
const COMPLETED: &[u8] = b"data: {\"type\":\"response.completed\",\"response\":{\"id\":\"resp_1\"}}\n\n";

/// How a held stream ends.
enum EndAs {
    Whole,
    Broken,
}

/// An upstream whose answers are streams that begin at once and continue when the test says so.
struct HeldUpstream {
    upstream: Upstream,
    held: mpsc::UnboundedReceiver<oneshot::Sender<()>>,
}

impl HeldUpstream {
    async fn new(end: EndAs) -> Self {
        let (tell, held) = mpsc::unbounded_channel();
        let upstream = Upstream::scripted(move |_| {
            let (go, gone) = oneshot::channel();
            let _ = tell.send(go);
            let begins = Step::Send([STREAM, &chunk(EVENT)].concat());
            let ends = match end {
                EndAs::Whole => Step::Send([chunk(COMPLETED), LAST_CHUNK.to_vec()].concat()),
                EndAs::Broken => Step::Close,
            };
            vec![begins, Step::Wait(gone), ends]
        })
        .await;
        Self { upstream, held }
    }

    /// Sends a request and reads to the first event. The last part of the result ends the stream.
    async fn hold(&mut self, gateway: &Gateway) -> (Client, Answer, oneshot::Sender<()>) {
        let mut client = gateway.connect().await;
        client.post(BODY).await;
        let answer = client.head().await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(soon("an event", client.chunk()).await.unwrap(), EVENT);
        (client, answer, self.held.recv().await.unwrap())
    }
}

async fn finish((mut client, mut answer, go): (Client, Answer, oneshot::Sender<()>)) -> Answer {
    go.send(()).unwrap();
    client.body(&mut answer).await;
    answer
}

/// Sends a request that waits in the queue.
fn queued_request(gateway: &Gateway) -> JoinHandle<Answer> {
    let address = gateway.address;
    tokio::spawn(async move {
        let mut client = Client::connect(address).await;
        client.post(BODY).await;
        client.head().await
    })
}

/// Waits until the gateway has this number of requests in progress.
async fn in_progress_becomes(gateway: &Gateway, requests: f64) {
    gateway.metric_becomes("tidegate_requests_in_flight", requests).await;
}

fn one_at_a_time(config: &mut Config) {
    config.upstreams[0].max_in_flight = Some(1);
    // No result here depends on the speed of the machine.
    config.timeouts.queue = Duration::from_secs(15);
}

#[tokio::test]
async fn a_concurrency_slot_is_held_until_the_end_of_the_body() {
    let mut full = HeldUpstream::new(EndAs::Whole).await;
    let other = SwitchableUpstream::new(None).await;
    let gateway = before(&[&full.upstream, &other.upstream], one_at_a_time);
    for nth in 1..=3 {
        let held = full.hold(&gateway).await;
        // The next candidate serves the requests in between.
        for _ in 0..3 {
            assert_eq!(ask(&gateway).await.body, RESPONSE.as_bytes());
        }
        assert_eq!(other.seen(), 3 * nth);
        assert!(finish(held).await.whole);
        in_progress_becomes(&gateway, 0.0).await;
    }
    assert_eq!(full.upstream.untaken(), 3);
    // A full upstream did not fail.
    assert_eq!(gateway.metric("tidegate_failovers_total{upstream=\"up1\"}").await, 0.0);
    assert_eq!(gateway.metric("tidegate_ejections_total").await, 0.0);
}

#[tokio::test]
async fn a_concurrency_slot_of_a_credential_is_held_until_the_end_of_the_body() {
    let mut full = HeldUpstream::new(EndAs::Whole).await;
    let gateway = before(&[&full.upstream], |config| {
        config.upstreams[0].credentials = credentials(&["a", "b"]);
        config.upstreams[0].credentials[0].max_in_flight = Some(1);
        config.upstreams[0].credentials[1].max_in_flight = Some(2);
    });
    let mut all = Vec::new();
    for _ in 0..3 {
        all.push(full.hold(&gateway).await);
    }
    let mut keys: Vec<_> = full.upstream.taken().iter().map(|request| super::key(request).to_owned()).collect();
    keys.sort();
    assert_eq!(keys, ["a", "b", "b"]);
    for held in all {
        assert!(finish(held).await.whole);
    }
}

#[tokio::test]
async fn a_queued_request_gets_the_slot_that_becomes_free() {
    let mut full = HeldUpstream::new(EndAs::Whole).await;
    let gateway = before(&[&full.upstream], one_at_a_time);
    let held = full.hold(&gateway).await;
    full.upstream.request().await;
    let waits = queued_request(&gateway);
    in_progress_becomes(&gateway, 2.0).await;
    assert_eq!(full.upstream.untaken(), 0);
    assert!(finish(held).await.whole);
    assert_eq!(soon("the place", waits).await.unwrap().status, 200);
    full.upstream.request().await;
}

/// A queue for a credential must not block the worker, which serves other requests.
#[tokio::test]
async fn a_request_that_waits_for_a_credential_does_not_block_its_worker() {
    let mut full = HeldUpstream::new(EndAs::Whole).await;
    let gateway = before(&[&full.upstream], |config| {
        one_at_a_time(config);
        config.upstreams[0].max_in_flight = Some(5);
        config.upstreams[0].credentials[0].max_in_flight = Some(1);
    });
    let held = full.hold(&gateway).await;
    let waits = [queued_request(&gateway), queued_request(&gateway)];
    in_progress_becomes(&gateway, 3.0).await;
    for _ in 0..10 {
        assert_eq!(gateway.connect().await.get("/v1/models").await.status, 200);
    }
    assert!(finish(held).await.whole);
    let [one, other] = waits;
    // The second queued request waits for the first one, whose client leaves after its answer.
    assert_eq!(soon("the place", one).await.unwrap().status, 200);
    assert_eq!(soon("the place", other).await.unwrap().status, 200);
}

/// A request that finds several upstreams full takes the first slot that becomes free, at whichever upstream.
#[tokio::test]
async fn a_queued_request_takes_the_first_free_slot_of_any_upstream() {
    for frees in [0, 1] {
        let mut both = [HeldUpstream::new(EndAs::Whole).await, HeldUpstream::new(EndAs::Whole).await];
        let gateway = before(&[&both[0].upstream, &both[1].upstream], |config| {
            one_at_a_time(config);
            config.upstreams[1].max_in_flight = Some(1);
        });
        let first = both[0].hold(&gateway).await;
        let second = both[1].hold(&gateway).await;
        let waits = queued_request(&gateway);
        in_progress_becomes(&gateway, 3.0).await;
        let (ends, _stays) = if frees == 0 { (first, second) } else { (second, first) };
        assert!(finish(ends).await.whole);
        let began = Instant::now();
        assert_eq!(soon("the place", waits).await.unwrap().status, 200, "at {frees}");
        eprintln!("woken after {:?}", began.elapsed());
        assert_eq!(both[frees].upstream.taken().len(), 2);
    }
}

#[tokio::test]
async fn a_full_queue_is_refused_at_once_and_a_long_wait_ends() {
    let mut full = HeldUpstream::new(EndAs::Whole).await;
    let gateway = before(&[&full.upstream], |config| {
        one_at_a_time(config);
        config.upstreams[0].max_queued = 1;
    });
    let held = full.hold(&gateway).await;
    let waits = queued_request(&gateway);
    in_progress_becomes(&gateway, 2.0).await;
    let refused = ask(&gateway).await;
    // At once: the queued request still waits.
    assert!(!waits.is_finished());
    refused.assert_final(503, "upstream_busy", false);
    assert_eq!(refused.header("retry-after"), Some("1"));
    // When a queued client leaves, another one can take its position.
    waits.abort();
    gateway.metric_becomes("tidegate_requests_total{upstream=\"\",end=\"client_gone\"}", 1.0).await;
    let waits = queued_request(&gateway);
    in_progress_becomes(&gateway, 2.0).await;
    assert!(finish(held).await.whole);
    assert_eq!(soon("the place", waits).await.unwrap().status, 200);
    // The client of that stream has left. The next stream must not be mistaken for it.
    let _ = full.held.recv().await;

    let gateway = before(&[&full.upstream], |config| {
        one_at_a_time(config);
        config.timeouts.queue = Duration::from_millis(200);
    });
    let held = full.hold(&gateway).await;
    let began = Instant::now();
    let refused = ask(&gateway).await;
    assert!(began.elapsed() >= Duration::from_millis(200));
    refused.assert_problem(503, "upstream_busy");
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert!(finish(held).await.whole);

    for change in [
        |config: &mut Config| config.timeouts.queue = Duration::ZERO,
        |config: &mut Config| {
            config.upstreams[0].max_queued = 0;
        },
    ] {
        let gateway = before(&[&full.upstream], |config| {
            one_at_a_time(config);
            change(config);
        });
        let held = full.hold(&gateway).await;
        ask(&gateway).await.assert_problem(503, "upstream_busy");
        assert!(finish(held).await.whole);
    }
}

#[tokio::test]
async fn a_concurrency_slot_is_released_however_its_request_ends() {
    // The client leaves in the middle of a stream.
    let mut full = HeldUpstream::new(EndAs::Whole).await;
    let gateway = before(&[&full.upstream], one_at_a_time);
    for nth in 1..=3 {
        let (client, _, _go) = full.hold(&gateway).await;
        let waits = queued_request(&gateway);
        in_progress_becomes(&gateway, 2.0).await;
        drop(client);
        assert_eq!(soon("the slot of the client that left", waits).await.unwrap().status, 200, "{nth}");
        // The client of the second stream has left as well.
        let _ = full.held.recv().await;
        in_progress_becomes(&gateway, 0.0).await;
    }
    // The upstream breaks the stream.
    let mut full = HeldUpstream::new(EndAs::Broken).await;
    let gateway = before(&[&full.upstream], one_at_a_time);
    for _ in 0..3 {
        let held = full.hold(&gateway).await;
        assert!(!finish(held).await.whole);
        in_progress_becomes(&gateway, 0.0).await;
    }
    // The upstream never answers, and the client leaves.
    let mut silent = Upstream::scripted(|_| vec![Step::UntilClosed(oneshot::channel().0)]).await;
    let gateway = before(&[&silent], one_at_a_time);
    for _ in 0..3 {
        let mut client = gateway.connect().await;
        client.post(BODY).await;
        silent.request().await;
        drop(client);
        in_progress_becomes(&gateway, 0.0).await;
    }
    // The upstream answers with an error.
    let down = SwitchableUpstream::new(super::DOWN).await;
    let gateway = before(&[&down.upstream], one_at_a_time);
    for _ in 0..5 {
        assert_eq!(ask(&gateway).await.status, 503);
    }
    down.answer_with("", None);
    assert_eq!(ask(&gateway).await.status, 200);
}

/// Far more clients than slots, and a long queue timeout: all are served, and never more at once than the limit.
#[tokio::test]
async fn many_clients_are_served_within_the_concurrency_limit() {
    const LIMIT: usize = 3;
    const CROWD: usize = 40;
    let mut full = HeldUpstream::new(EndAs::Whole).await;
    let gateway = before(&[&full.upstream], |config| {
        one_at_a_time(config);
        config.upstreams[0].max_in_flight = Some(LIMIT);
        config.upstreams[0].max_queued = 100;
    });
    let address = gateway.address;
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..CROWD {
        running.spawn(async move { Client::connect(address).await.create(BODY).await });
    }
    let mut held = Vec::new();
    for nth in 1..=CROWD {
        held.push(soon("the next request", full.held.recv()).await.unwrap());
        if held.len() == LIMIT || nth == CROWD {
            assert!(full.held.try_recv().is_err(), "more than {LIMIT} at once");
            held.remove(0).send(()).unwrap();
        }
    }
    for go in held {
        go.send(()).unwrap();
    }
    while let Some(answer) = running.join_next().await {
        let answer = answer.unwrap();
        assert_eq!((answer.status, answer.whole), (200, true), "{answer:?}");
    }
    in_progress_becomes(&gateway, 0.0).await;
}
