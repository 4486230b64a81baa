//! Ejection, probes, cooldowns, refused credentials.

use std::{fs, time::Duration};

use tempfile::TempDir;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{BODY, DOWN, SwitchableUpstream, ask, before, credentials, good};
use crate::support::{
    client::Client,
    gateway::KEY,
    process::{Process, tidegate},
    soon,
    upstream::{RESPONSE, Step, Upstream, json},
};

const EJECTED: &str = "tidegate_ejections_total{upstream=\"up0\",credential=\"UP_KEY\",cause=\"faults\"}";

#[tokio::test]
async fn an_upstream_is_ejected_after_five_faults_in_a_row() {
    let (bad, other) = (SwitchableUpstream::new(DOWN).await, SwitchableUpstream::new(None).await);
    let gateway = before(&[&bad.upstream, &other.upstream], |_| {});
    for nth in 1..=30 {
        assert_eq!(ask(&gateway).await.status, 200);
        assert_eq!((bad.seen(), other.seen()), (nth.min(5), nth));
    }
    assert_eq!(gateway.metric(EJECTED).await, 1.0);
    assert_eq!(gateway.metric("tidegate_failovers_total{upstream=\"up1\"}").await, 5.0);
}

#[tokio::test]
async fn a_success_resets_the_count_of_faults_in_a_row() {
    let (bad, other) = (SwitchableUpstream::new(DOWN).await, SwitchableUpstream::new(None).await);
    let gateway = before(&[&bad.upstream, &other.upstream], |_| {});
    for _ in 0..4 {
        for nth in 0..5 {
            bad.answer_with("", if nth == 4 { None } else { DOWN });
            assert_eq!(ask(&gateway).await.status, 200);
        }
    }
    assert_eq!((bad.seen(), gateway.metric(EJECTED).await), (20, 0.0));
}

/// Half of twenty requests fail, but never five in a row.
#[tokio::test]
async fn an_upstream_that_fails_every_other_request_is_ejected() {
    let (bad, other) = (SwitchableUpstream::new(DOWN).await, SwitchableUpstream::new(None).await);
    let gateway = before(&[&bad.upstream, &other.upstream], |_| {});
    for nth in 0..30 {
        bad.answer_with("", if nth % 2 == 1 { None } else { DOWN });
        assert_eq!(ask(&gateway).await.status, 200);
    }
    assert_eq!(gateway.metric(EJECTED).await, 1.0);
    assert!(bad.seen() < 23, "{}", bad.seen());
}

/// A stream that breaks or ends too early is a fault, although the client got a part of it.
#[tokio::test]
async fn broken_streams_are_faults() {
    let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 99\r\n\r\ndata: {}\n\n".to_vec();
    let breaks = Upstream::scripted(move |_| vec![Step::Send(head.clone()), Step::Close]).await;
    let other = SwitchableUpstream::new(None).await;
    let gateway = before(&[&breaks, &other.upstream], |_| {});
    for nth in 1..=5 {
        let answer = ask(&gateway).await;
        assert_eq!((answer.status, answer.whole, &*answer.body), (200, false, &b"data: {}\n\n"[..]));
        let broken = "tidegate_requests_total{upstream=\"up0\",end=\"upstream_broken\"}";
        gateway.metric_becomes(broken, f64::from(nth)).await;
    }
    assert_eq!(ask(&gateway).await.body, RESPONSE.as_bytes());
    assert_eq!(gateway.metric(EJECTED).await, 1.0);
}

#[tokio::test]
async fn a_successful_probe_restores_an_upstream() {
    let (bad, other) = (SwitchableUpstream::new(DOWN).await, SwitchableUpstream::new(None).await);
    let gateway = before(&[&bad.upstream, &other.upstream], |config| {
        config.health.eject = Duration::from_millis(50);
        config.health.eject_max = Duration::from_millis(100);
    });
    for _ in 0..5 {
        ask(&gateway).await;
    }
    bad.answer_with("", None);
    soon("the probe", async {
        while bad.seen() == 5 {
            assert_eq!(ask(&gateway).await.status, 200);
        }
    })
    .await;
    // The upstream is in service again: it gets all requests.
    let others = other.seen();
    for _ in 0..20 {
        assert_eq!(ask(&gateway).await.status, 200);
    }
    assert_eq!((bad.seen(), other.seen()), (26, others));
}

/// The pauses between probes are measured at the upstream: a busy machine only makes them longer.
#[tokio::test]
async fn each_failed_probe_doubles_the_pause() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let bad = Upstream::scripted(move |_| {
        tell.send(Instant::now()).unwrap();
        super::bad("500 Oops", "")
    })
    .await;
    let other = SwitchableUpstream::new(None).await;
    let gateway = before(&[&bad, &other.upstream], |config| {
        config.health.eject = Duration::from_millis(100);
        config.health.eject_max = Duration::from_millis(400);
    });
    let mut at = Vec::new();
    soon("five probes", async {
        while at.len() < 10 {
            assert_eq!(ask(&gateway).await.status, 200);
            while let Ok(instant) = told.try_recv() {
                at.push(instant);
            }
        }
    })
    .await;
    let pauses: Vec<_> = at[4..].windows(2).map(|pair| pair[1] - pair[0]).collect();
    eprintln!("pauses between probes: {pauses:?}");
    for (pause, wanted) in pauses.iter().zip([90, 180, 360, 360, 360]) {
        assert!(*pause >= Duration::from_millis(wanted), "{pauses:?}");
    }
}

#[tokio::test]
async fn one_of_many_concurrent_requests_is_the_probe() {
    let (tell, mut held) = mpsc::unbounded_channel();
    let mut asked = 0;
    let mut bad = Upstream::scripted(move |_| {
        asked += 1;
        if asked <= 5 {
            return super::bad("500 Oops", "");
        }
        let (go, gone) = oneshot::channel();
        let _ = tell.send(go);
        if asked == 6 { vec![Step::Wait(gone), Step::Send(json("200 OK", RESPONSE))] } else { good() }
    })
    .await;
    let other = SwitchableUpstream::new(None).await;
    let gateway = before(&[&bad, &other.upstream], |config| {
        config.health.eject = Duration::from_millis(50);
        config.health.eject_max = Duration::from_millis(50);
    });
    for _ in 0..5 {
        ask(&gateway).await;
    }
    assert_eq!(bad.untaken(), 5);
    sleep(Duration::from_millis(60)).await;
    let address = gateway.address;
    let mut running = JoinSet::new();
    for _ in 0..50 {
        running.spawn(async move { Client::connect(address).await.create(BODY).await.status });
    }
    let mut one = async || running.join_next().await.unwrap().unwrap();
    for _ in 0..49 {
        assert_eq!(one().await, 200);
    }
    assert_eq!(bad.untaken(), 1, "more than one probe");
    assert_eq!(other.seen(), 5 + 49);
    held.recv().await.unwrap().send(()).unwrap();
    assert_eq!(one().await, 200);
    assert_eq!(ask(&gateway).await.status, 200);
    assert_eq!((bad.untaken(), other.seen()), (1, 5 + 49), "not restored");
}

/// A probe whose client leaves before the answer has no result: the next request probes.
#[tokio::test]
async fn a_cancelled_probe_does_not_prolong_the_ejection() {
    let mut asked = 0;
    let mut bad = Upstream::scripted(move |_| {
        asked += 1;
        match asked {
            ..=5 => super::bad("500 Oops", ""),
            6 => vec![Step::UntilClosed(oneshot::channel().0)],
            _ => good(),
        }
    })
    .await;
    let other = SwitchableUpstream::new(None).await;
    let gateway = before(&[&bad, &other.upstream], |config| {
        config.health.eject = Duration::from_millis(50);
        config.health.eject_max = Duration::from_millis(50);
    });
    for _ in 0..5 {
        ask(&gateway).await;
    }
    assert_eq!(bad.untaken(), 5);
    sleep(Duration::from_millis(60)).await;
    let mut leaves = gateway.connect().await;
    leaves.post(BODY).await;
    bad.request().await;
    drop(leaves);
    gateway.metric_becomes("tidegate_requests_total{upstream=\"up0\",end=\"client_gone\"}", 1.0).await;
    assert_eq!(ask(&gateway).await.status, 200);
    assert_eq!((bad.untaken(), other.seen()), (1, 5));
}

#[tokio::test]
async fn the_only_candidate_gets_requests_in_every_health_state() {
    for answer in [DOWN, Some(("401 Unauthorized", "")), Some(("429 Too Many Requests", "retry-after: 60\r\n"))] {
        let last = SwitchableUpstream::new(answer).await;
        let gateway = before(&[&last.upstream], |config| config.retries.max_attempts = 1);
        for nth in 1..=20 {
            assert_ne!(ask(&gateway).await.status, 200);
            assert_eq!(last.seen(), nth);
        }
        last.answer_with("", None);
        for _ in 0..10 {
            assert_eq!(ask(&gateway).await.status, 200);
        }
        let ejections = gateway.metric_sum("tidegate_ejections_total{upstream=\"up0\"").await;
        assert_eq!(ejections, 1.0, "{answer:?}: the ejection is counted once");
    }
}

/// When all candidates are ejected, the one with the shortest cooldown gets the request, and a refused credential comes
/// last.
#[tokio::test]
async fn among_ejected_candidates_the_one_with_the_shortest_cooldown_is_tried() {
    let (refused, limited, later) =
        (SwitchableUpstream::new(None).await, SwitchableUpstream::new(None).await, SwitchableUpstream::new(None).await);
    let gateway = before(&[&refused.upstream, &later.upstream, &limited.upstream], |_| {});
    refused.answer_with("", Some(("401 Unauthorized", "")));
    later.answer_with("", Some(("429 Too Many Requests", "retry-after: 200\r\n")));
    limited.answer_with("", Some(("429 Too Many Requests", "retry-after: 100\r\n")));
    assert_eq!(ask(&gateway).await.header("retry-after"), Some("100"));
    assert_eq!((refused.seen(), later.seen(), limited.seen()), (1, 1, 1));
    limited.answer_with("", None);
    assert_eq!(ask(&gateway).await.status, 200);
    assert_eq!((refused.seen(), later.seen(), limited.seen()), (1, 1, 2));
}

#[tokio::test]
async fn a_failing_credential_is_ejected_alone() {
    let mut one = SwitchableUpstream::new(None).await;
    one.answer_with("a", Some(("500 Oops", "")));
    let gateway = before(&[&one.upstream], |config| config.upstreams[0].credentials = credentials(&["a", "b", "c"]));
    for _ in 0..60 {
        assert_eq!(ask(&gateway).await.status, 200);
    }
    let keys = one.keys();
    assert_eq!(keys.iter().filter(|key| *key == "a").count(), 5, "{keys:?}");
    assert!(keys.iter().filter(|key| *key == "b").count() > 20, "{keys:?}");
    assert_eq!(
        gateway.metric("tidegate_ejections_total{upstream=\"up0\",credential=\"a\",cause=\"faults\"}").await,
        1.0
    );
    assert_eq!(gateway.metric("tidegate_ejections_total{upstream=\"up0\",credential=\"\"").await, 0.0);
}

#[tokio::test]
async fn an_upstream_that_fails_with_every_credential_is_ejected_as_a_whole() {
    let (bad, other) = (SwitchableUpstream::new(DOWN).await, SwitchableUpstream::new(None).await);
    let gateway = before(&[&bad.upstream, &other.upstream], |config| {
        config.upstreams[0].credentials = credentials(&["a", "b", "c", "d"]);
    });
    for _ in 0..40 {
        assert_eq!(ask(&gateway).await.status, 200);
    }
    // The first fault counts for the credential. Five more, each with another credential than the one before, count for
    // the upstream.
    assert_eq!((bad.seen(), other.seen()), (6, 40));
    let whole = "tidegate_ejections_total{upstream=\"up0\",credential=\"\",cause=\"faults\"}";
    assert_eq!(gateway.metric(whole).await, 1.0);
}

#[tokio::test]
async fn an_unreachable_upstream_is_ejected_as_a_whole() {
    let (gone, other) = (SwitchableUpstream::new(None).await, SwitchableUpstream::new(None).await);
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    let gateway = before(&[&gone.upstream, &other.upstream], |config| {
        config.upstreams[0].base_url = format!("http://{address}/up").parse().unwrap();
        config.upstreams[0].credentials = credentials(&["a", "b"]);
    });
    for _ in 0..20 {
        assert_eq!(ask(&gateway).await.status, 200);
    }
    let whole = "tidegate_ejections_total{upstream=\"up0\",credential=\"\",cause=\"faults\"}";
    assert_eq!(gateway.metric(whole).await, 1.0);
    let unreachable = "tidegate_attempts_total{upstream=\"up0\",result=\"upstream_unreachable\"}";
    assert_eq!(gateway.metric(unreachable).await, 5.0);
}

#[tokio::test]
async fn a_rate_limited_credential_stays_in_cooldown_for_its_retry_after() {
    let mut one = SwitchableUpstream::new(None).await;
    one.answer_with("a", Some(("429 Too Many Requests", "retry-after: 100\r\n")));
    let gateway = before(&[&one.upstream], |config| config.upstreams[0].credentials = credentials(&["a", "b"]));
    for _ in 0..20 {
        assert_eq!(ask(&gateway).await.status, 200);
    }
    let keys = one.keys();
    assert_eq!(keys.iter().filter(|key| *key == "a").count(), 1, "{keys:?}");
    let limited = "tidegate_ejections_total{upstream=\"up0\",credential=\"a\",cause=\"rate_limited\"}";
    assert_eq!(gateway.metric(limited).await, 1.0);
}

/// After the cooldown, the credential is in service without a probe.
#[tokio::test]
async fn a_rate_limited_credential_returns_after_its_cooldown() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let mut limited = 1;
    let one = Upstream::scripted(move |request| {
        tell.send((super::key(request).to_owned(), Instant::now())).unwrap();
        if super::key(request) == "a" && limited > 0 {
            limited -= 1;
            return super::bad("429 Too Many Requests", "retry-after-ms: 200\r\n");
        }
        good()
    })
    .await;
    let gateway = before(&[&one], |config| config.upstreams[0].credentials = credentials(&["a", "b"]));
    let mut with_a = Vec::new();
    soon("credential a to come back", async {
        while with_a.len() < 5 {
            assert_eq!(ask(&gateway).await.status, 200);
            while let Ok((key, at)) = told.try_recv() {
                with_a.extend((key == "a").then_some(at));
            }
        }
    })
    .await;
    assert!(with_a[1] - with_a[0] >= Duration::from_millis(200));
    assert_eq!(gateway.metric_sum("tidegate_ejections_total{upstream=\"up0\"").await, 1.0);
}

/// The log names the credential once and never shows the secret.
#[tokio::test]
async fn a_refused_credential_is_named_in_the_log() {
    let body = r#"{"error":{"message":"Incorrect API key provided: sk-canary-***","code":"invalid_api_key"}}"#;
    let one = Upstream::scripted(move |request| {
        let refused = request.header("authorization") == Some("Bearer sk-canary-one-0123456789");
        vec![Step::Send(if refused { json("401 Unauthorized", body) } else { json("200 OK", RESPONSE) })]
    })
    .await;
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("tidegate.toml");
    let text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\nworkers = 1\n\
         [[upstreams]]\nname = \"up\"\nbase_url = \"{}\"\ncredentials = [{{ env = \"ONE_KEY\" }}, {{ env = \"TWO_KEY\" }}]\n\
         [[models]]\nname = \"many\"\ntargets = [{{ upstream = \"up\" }}]\n\
         [[keys]]\nname = \"a\"\nsecret = {{ env = \"A_KEY\" }}\n",
        one.base_url()
    );
    fs::write(&file, text).unwrap();
    let mut command = tidegate(folder.path());
    command.args(["serve", "--config"]).arg(&file).env("A_KEY", KEY);
    command.env("ONE_KEY", "sk-canary-one-0123456789").env("TWO_KEY", "sk-canary-two-0123456789");
    let mut process = Process::start(&mut command);
    let address = process.ready();
    for _ in 0..10 {
        assert_eq!(Client::connect(address).await.create(BODY).await.status, 200);
    }
    let line = process.logged("the upstream refused this credential");
    assert_eq!(
        (&line["level"], &line["upstream"], &line["credential"]),
        (&"ERROR".into(), &"up".into(), &"ONE_KEY".into())
    );
    process.signal("TERM");
    assert_eq!(process.exit(), Some(0));
    let log = process.everything();
    assert_eq!(log.matches("refused this credential").count(), 1, "{log}");
    assert!(!log.contains("canary"), "{log}");
    assert!(log.contains("up/ONE_KEY 401 "), "{log}");
}
