//! Alerts of conditions that last, with short times in place of minutes: signed, delivered again, and never in the way of a request.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::Value;
use tidegate::{
    app::AlertTimes,
    config::{AlertSettings, Config},
    store::sql,
};
use tokio::{sync::oneshot, time::Instant};

use super::alerts::{SECRET, verified};
use crate::{
    store_files::rows,
    support::{
        database::until,
        gateway::{Gateway, config},
        soon,
        upstream::{LAST_CHUNK, RESPONSE, Request, STREAM, Step, Upstream, chunk, json},
    },
};

const BODY: &str = r#"{"model":"smart"}"#;

/// Far more than a request takes, and less than the 10 s of a delivery.
const AT_ONCE: Duration = Duration::from_secs(3);

fn times() -> AlertTimes {
    AlertTimes {
        check_every: Duration::from_millis(20),
        ejected_for: Duration::from_secs(2),
        behind_for: Duration::from_secs(2),
        window: Duration::from_secs(5),
        step: Duration::from_millis(50),
        repeat_after: Duration::from_secs(3600),
    }
}

/// A receiver that refuses the first delivery, breaks the second one off, and answers the third when the test says so.
struct Receiver {
    server: Upstream,
    answers: oneshot::Sender<()>,
}

impl Receiver {
    async fn start() -> Self {
        let (answers, told) = oneshot::channel();
        let (mut tries, mut told) = (0, Some(told));
        let server = Upstream::scripted(move |_| {
            tries += 1;
            match tries {
                1 => vec![Step::Send(json("500 Internal Server Error", "{}"))],
                2 => vec![Step::Reset],
                _ => told.take().map(Step::Wait).into_iter().chain([Step::Send(json("200 OK", "{}"))]).collect(),
            }
        })
        .await;
        Self { server, answers }
    }
}

fn with_alerts(upstream: &Upstream, receiver: &Upstream) -> Config {
    let mut config = config(&upstream.base_url());
    let url = format!("http://{}/hook?a=b", receiver.address).parse().unwrap();
    config.alerts = Some(AlertSettings { url, secret: Some(SECRET.into()), truncated_percent: 5 });
    config
}

/// The alert that begins with this delivery. A request that comes while the receiver fails or says nothing gets this status at once.
async fn delivered(
    gateway: &Gateway,
    Receiver { mut server, answers }: Receiver,
    first: &Request,
    status: u16,
) -> Value {
    let first = verified(first);
    for _ in 0..2 {
        let again = verified(&server.request().await);
        assert_eq!((&again["id"], &again["text"], &again["time"]), (&first["id"], &first["text"], &first["time"]));
        let began = Instant::now();
        assert_eq!(gateway.connect().await.create(BODY).await.status, status);
        assert!(began.elapsed() < AT_ONCE, "a request waited for {:?}", began.elapsed());
    }
    assert_eq!(gateway.metric("tidegate_alerts_sent_total").await, 0.0);
    answers.send(()).unwrap();
    gateway.metric_becomes("tidegate_alerts_sent_total", 1.0).await;
    assert_eq!(gateway.metric("tidegate_alert_deliveries_failed_total").await, 2.0);
    assert_eq!(server.untaken(), 0, "one alert");
    first
}

#[tokio::test]
async fn an_upstream_that_stays_ejected_is_told() {
    let upstream = Upstream::scripted(|_| vec![Step::Reset]).await;
    let mut receiver = Receiver::start().await;
    let gateway = Gateway::start_with_alerts(times(), with_alerts(&upstream, &receiver.server));
    let mut client = gateway.connect().await;
    let began = Instant::now();
    for _ in 0..6 {
        assert_eq!(client.create(BODY).await.status, 502);
    }
    let first = receiver.server.request().await;
    let alert = delivered(&gateway, receiver, &first, 502).await;
    assert!(began.elapsed() >= times().ejected_for);
    assert_eq!((&alert["event"], &alert["subject"]), (&"upstream_ejected".into(), &"upstream up".into()), "{alert}");
    assert!(alert["text"].as_str().unwrap().starts_with("The upstream up has been ejected for 2 seconds"), "{alert}");
}

#[tokio::test]
async fn a_ledger_that_stays_behind_is_told() {
    let (upstream, mut receiver) = (Upstream::fixed(json("200 OK", RESPONSE)).await, Receiver::start().await);
    let gateway = Gateway::start_with_alerts(times(), with_alerts(&upstream, &receiver.server));
    assert_eq!(gateway.connect().await.create(BODY).await.status, 200);
    let file = gateway.folder.path().join(sql::FILE);
    until("the row", async || rows(&file).await == 1).await;
    fs::remove_file(file).unwrap();
    let began = Instant::now();
    let first = receiver.server.request().await;
    let alert = delivered(&gateway, receiver, &first, 200).await;
    assert!(began.elapsed() >= times().behind_for);
    assert_eq!((&alert["event"], &alert["subject"]), (&"ledger_behind".into(), &"ledger".into()), "{alert}");
    let text = alert["text"].as_str().unwrap();
    assert!(
        text.starts_with("The ledger has been behind for 2 seconds") && text.contains("faults: database"),
        "{alert}"
    );
}

/// The share of answers that end before their end, over a window that moves: what was before does not count.
#[tokio::test]
async fn the_share_of_truncated_streams_is_told() {
    let cut = Arc::new(AtomicBool::new(false));
    let cuts = Arc::clone(&cut);
    let upstream = Upstream::scripted(move |_| {
        if !cuts.load(Ordering::Relaxed) {
            return vec![Step::Send(json("200 OK", RESPONSE))];
        }
        let created = chunk(b"data: {\"type\":\"response.created\"}\n\n");
        vec![Step::Send(STREAM.to_vec()), Step::Send(created), Step::Send(LAST_CHUNK.to_vec())]
    })
    .await;
    let mut receiver = Receiver::start().await;
    let gateway = Gateway::start_with_alerts(times(), with_alerts(&upstream, &receiver.server));
    let mut client = gateway.connect().await;
    for _ in 0..40 {
        assert_eq!(client.create(BODY).await.status, 200);
    }
    assert_eq!(receiver.server.untaken(), 0);
    cut.store(true, Ordering::Relaxed);
    let first = soon("the alert", async {
        loop {
            assert_eq!(gateway.connect().await.create(BODY).await.status, 200);
            if let Some(first) = receiver.server.taken().into_iter().next() {
                return first;
            }
        }
    })
    .await;
    let alert = delivered(&gateway, receiver, &first, 200).await;
    assert_eq!((&alert["event"], &alert["subject"]), (&"streams_truncated".into(), &"upstream up".into()), "{alert}");
}
