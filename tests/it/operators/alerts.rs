//! Alerts are posted with a signature and with retries, and never delay a request.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::Value;
use tokio::time::Instant;

use super::*;
use crate::support::{
    client::Client,
    database::until,
    upstream::{LAST_CHUNK, RESPONSE, Request, STREAM, Step, Upstream, chunk, json},
};

pub(super) const SECRET: &str = "alert-secret-0123456789";

fn serve_with_alerts(folder: &Path) -> Process {
    let mut command = tidegate(folder);
    command.args(["serve", "--config", "tidegate.toml"]).env("UP_KEY", UP_KEY).env("A_KEY", KEY);
    Process::start(command.env("ALERT_SECRET", SECRET))
}

fn with_alerts(base_url: &str, receiver: &str, more: &str) -> TempDir {
    let alerts = format!("[alerts]\nurl = \"{receiver}\"\nsecret = {{ env = \"ALERT_SECRET\" }}\n");
    folder(&format!("{}{more}\n{alerts}", text(base_url, "")))
}

async fn create(address: std::net::SocketAddr) -> u16 {
    let body = r#"{"model":"smart"}"#;
    let head = format!("authorization: Bearer {KEY}\r\ncontent-length: {}\r\n", body.len());
    let mut client = Client::connect(address).await;
    client.send(format!("POST /v1/responses HTTP/1.1\r\nhost: t\r\n{head}\r\n{body}")).await;
    client.answer().await.status
}

/// The alert of a request, after a check of its signature.
pub(super) fn verified(request: &Request) -> Value {
    use hmac::{Hmac, KeyInit, Mac};
    assert_eq!((request.header("content-type"), &*request.line), (Some("application/json"), "POST /hook?a=b HTTP/1.1"));
    let time = request.header("x-tidegate-timestamp").unwrap();
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(format!("{time}.").as_bytes());
    mac.update(&request.body);
    let expected: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(request.header("x-tidegate-signature"), Some(&*format!("sha256={expected}")));
    let alert: Value = serde_json::from_slice(&request.body).unwrap();
    assert_eq!(request.header("x-tidegate-event"), alert["event"].as_str());
    alert
}

#[tokio::test]
async fn an_alert_for_a_spent_budget_is_retried_and_delivered_once() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let mut tries = 0;
    let mut receiver = Upstream::scripted(move |_| {
        tries += 1;
        match tries {
            1 => vec![Step::Send(json("500 Internal Server Error", "{}"))],
            2 => vec![Step::Reset],
            _ => vec![Step::Send(json("200 OK", "{}"))],
        }
    })
    .await;
    let more = "budgets = [\"10USD/month\"]\n[[prices]]\nupstream = \"up\"\nmodel = \"smart\"\ncurrency = \"USD\"\nper_call = 1\n";
    let folder = with_alerts(&upstream.base_url(), &format!("http://{}/hook?a=b", receiver.address), more);
    let mut gateway = serve_with_alerts(folder.path());
    let address = gateway.ready();
    for _ in 0..8 {
        assert_eq!(create(address).await, 200);
    }
    let mut ids = Vec::new();
    for _ in 0..3 {
        let alert = verified(&receiver.request().await);
        assert_eq!((&alert["event"], &alert["subject"]), (&"budget_warning".into(), &"key a".into()), "{alert}");
        assert!(
            alert["text"].as_str().unwrap().contains("of the budget of 10 USD/month of the key a are spent"),
            "{alert}"
        );
        ids.push(alert["id"].clone());
    }
    ids.dedup();
    assert_eq!(ids.len(), 1, "each try has the same id");
    for _ in 0..2 {
        assert_eq!(create(address).await, 200);
    }
    let alert = verified(&receiver.request().await);
    assert_eq!((&alert["event"], &alert["subject"]), (&"budget_spent".into(), &"key a".into()), "{alert}");
    assert_eq!(create(address).await, 429);
    let metrics = Client::connect(gateway.admin()).await.get("/metrics").await;
    let metrics = String::from_utf8(metrics.body).unwrap();
    for line in
        ["tidegate_alerts_sent_total 2", "tidegate_alert_deliveries_failed_total 2", "tidegate_alerts_dropped_total 0"]
    {
        assert!(metrics.lines().any(|found| found == line), "{line} in\n{metrics}");
    }
    gateway.signal("INT");
    gateway.exit();
    let log = gateway.everything();
    assert!(!log.contains(SECRET) && !log.contains("/hook"), "{log}");
    assert_eq!(receiver.untaken(), 0, "each alert is delivered once");
}

/// A budget reaches a threshold once in its window: no later event would raise the alert again.
#[tokio::test]
async fn an_undelivered_budget_alert_is_delivered_after_the_next_start() {
    let upstream = Upstream::fixed(json("200 OK", RESPONSE)).await;
    let fails = Arc::new(AtomicBool::new(true));
    let failing = Arc::clone(&fails);
    let mut receiver = Upstream::scripted(move |_| {
        let status = if failing.load(Ordering::Relaxed) { "503 Service Unavailable" } else { "200 OK" };
        vec![Step::Send(json(status, "{}"))]
    })
    .await;
    let more = "budgets = [\"10USD/month\"]\n[[prices]]\nupstream = \"up\"\nmodel = \"smart\"\ncurrency = \"USD\"\nper_call = 1\n";
    let folder = with_alerts(&upstream.base_url(), &format!("http://{}/hook?a=b", receiver.address), more);
    let mut gateway = serve_with_alerts(folder.path());
    let address = gateway.ready();
    for _ in 0..8 {
        assert_eq!(create(address).await, 200);
    }
    let warned = verified(&receiver.request().await);
    assert_eq!(warned["event"], "budget_warning", "{warned}");
    // Of the second alert, nothing is sent before the shutdown.
    for _ in 0..2 {
        assert_eq!(create(address).await, 200);
    }
    gateway.signal("INT");
    assert_eq!(gateway.exit(), Some(0));
    receiver.taken();

    fails.store(false, Ordering::Relaxed);
    for delivers in [true, false] {
        let mut gateway = serve_with_alerts(folder.path());
        gateway.ready();
        if delivers {
            let (first, second) = (verified(&receiver.request().await), verified(&receiver.request().await));
            assert_eq!(
                (&first["event"], &first["id"], &first["time"]),
                (&warned["event"], &warned["id"], &warned["time"])
            );
            assert_eq!((&second["event"], &second["subject"]), (&"budget_spent".into(), &"key a".into()), "{second}");
            let mut admin = Client::connect(gateway.admin()).await;
            until("both", async || {
                admin.get("/metrics").await.text().lines().any(|line| line == "tidegate_alerts_sent_total 2")
            })
            .await;
        }
        gateway.signal("INT");
        assert_eq!(gateway.exit(), Some(0));
    }
    assert_eq!(receiver.untaken(), 0, "each alert is delivered once");
}

/// Conditions other than budgets raise their alert again, if they still hold.
#[tokio::test]
async fn a_credential_that_is_still_refused_raises_its_alert_again_after_a_start() {
    let refused = r#"{"error":{"message":"Insufficient balance","code":"insufficient_quota"}}"#;
    let upstream = Upstream::fixed(json("402 Payment Required", refused)).await;
    let mut receiver = Upstream::fixed(json("204 No Content", "")).await;
    let folder = with_alerts(&upstream.base_url(), &format!("http://{}/hook?a=b", receiver.address), "");
    for start in 0..2 {
        let mut gateway = serve_with_alerts(folder.path());
        let address = gateway.ready();
        let alert = crate::support::soon("the alert", async {
            loop {
                create(address).await;
                if let Some(request) = receiver.taken().pop() {
                    return verified(&request);
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
        assert_eq!(alert["event"], "credential_refused", "start {start}: {alert}");
        gateway.signal("INT");
        assert_eq!(gateway.exit(), Some(0));
        receiver.taken();
    }
}

#[tokio::test]
async fn a_refused_credential_raises_an_alert_and_a_hanging_receiver_delays_nothing() {
    let upstream = Upstream::fixed(json(
        "402 Payment Required",
        r#"{"error":{"message":"Insufficient balance","code":"insufficient_quota"}}"#,
    ))
    .await;
    let mut receiver = Upstream::scripted(|_| vec![Step::UntilClosed(tokio::sync::oneshot::channel().0)]).await;
    let folder = with_alerts(&upstream.base_url(), &format!("http://{}/hook?a=b", receiver.address), "");
    let mut gateway = serve_with_alerts(folder.path());
    let address = gateway.ready();
    for _ in 0..3 {
        assert_eq!(create(address).await, 502);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let alert = crate::support::soon("the alert", async {
        loop {
            create(address).await;
            if let Some(request) = receiver.taken().pop() {
                return verified(&request);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert_eq!(alert["event"], "credential_refused", "{alert}");
    assert_eq!(alert["subject"], "credential UP_KEY of the upstream up", "{alert}");
    // The receiver has the alert and does not answer.
    let began = Instant::now();
    assert_eq!(create(address).await, 502);
    assert!(began.elapsed() < Duration::from_secs(5));
    gateway.signal("INT");
    assert_eq!(gateway.exit(), Some(0), "the shutdown must not wait for the receiver");
}

#[tokio::test]
async fn truncated_streams_raise_an_alert() {
    let upstream = Upstream::scripted(|_| {
        vec![
            Step::Send(STREAM.to_vec()),
            Step::Send(chunk(b"data: {\"type\":\"response.created\"}\n\n")),
            Step::Send(LAST_CHUNK.to_vec()),
        ]
    })
    .await;
    let mut receiver = Upstream::fixed(json("204 No Content", "")).await;
    let folder = with_alerts(&upstream.base_url(), &format!("http://{}/hook?a=b", receiver.address), "");
    let mut gateway = serve_with_alerts(folder.path());
    let address = gateway.ready();
    // Streams that are counted before the first check do not count as a change.
    let alert = crate::support::soon("the alert", async {
        loop {
            assert_eq!(create(address).await, 200);
            if let Some(request) = receiver.taken().pop() {
                return verified(&request);
            }
        }
    })
    .await;
    assert_eq!((&alert["event"], &alert["subject"]), (&"streams_truncated".into(), &"upstream up".into()), "{alert}");
}

#[test]
fn the_settings_of_alerts_are_checked() {
    for (alerts, told) in [
        ("url = \"http://h.example/x\"", "`url` uses http, so names of keys would cross the internet unencrypted"),
        ("url = \"h.example\"", "`url` is not a URL"),
        ("secret = { env = \"A_KEY\" }", "a `secret` without `url`"),
        ("url = \"https://h.example/x\"\ntruncated_percent = 0", "`truncated_percent` must be between 1 and 100"),
    ] {
        let folder = folder(&format!("{}[alerts]\n{alerts}\n", text("http://127.0.0.1:1/v1", "")));
        let output = run(tidegate(folder.path())
            .args(["check", "--config", "tidegate.toml"])
            .env("UP_KEY", UP_KEY)
            .env("A_KEY", KEY));
        assert!(output_text(&output).contains(told), "{alerts}: {}", output_text(&output));
    }
    let folder =
        folder(&format!("{}[alerts]\nurl = \"https://h.example/secret-path\"\n", text("http://127.0.0.1:1/v1", "")));
    let output = run(tidegate(folder.path())
        .args(["check", "--config", "tidegate.toml"])
        .env("UP_KEY", UP_KEY)
        .env("A_KEY", KEY));
    assert!(
        output_text(&output).contains("alerts       go to h.example, not signed")
            && !output_text(&output).contains("secret-path"),
        "{}",
        output_text(&output)
    );
}
