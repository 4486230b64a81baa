//! Posts alerts to the receiver, one after the other. A failed delivery is tried again for up to an hour.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit, Mac};
use http::{
    Request,
    header::{CONTENT_TYPE, USER_AGENT},
};
use http_body_util::Full;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use jiff::Timestamp;
use secrecy::ExposeSecret;
use serde_json::json;
use sha2::Sha256;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, timeout},
};

use super::undelivered::UndeliveredAlerts;
use crate::{
    concurrent::alert_queue::AlertDeliveryStatus,
    config::{self, Config},
    domain::{alert::QueuedAlert, clock::Clock},
    upstream::send,
};

/// The longest wait for the receiver's answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause after the first failed try. Each further pause is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// An alert that could not be delivered for this long is dropped. A newer alert tells the operator more.
const GIVE_UP_AFTER: Duration = Duration::from_secs(3600);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Posts the raised alerts to the operator's webhook, in their order. Returns when all senders of the queue are gone.
pub(super) async fn run(
    mut queue: mpsc::Receiver<QueuedAlert>,
    config: watch::Receiver<Arc<Config>>,
    clock: Clock,
    status: Arc<AlertDeliveryStatus>,
    undelivered: &UndeliveredAlerts,
) {
    while let Some(queued) = queue.recv().await {
        let (started, mut pause) = (Instant::now(), FIRST_PAUSE);
        let alert = &queued.alert;
        tracing::warn!(event = alert.event.name(), subject = alert.subject, "{}", alert.text);
        loop {
            // Read before each try: a reload may have changed the receiver.
            let receiver = config.borrow().alerts.clone();
            let Some(receiver) = receiver else { break };
            match timeout(ANSWER_TIMEOUT, post(&receiver, &queued, clock))
                .await
                .unwrap_or_else(|_| Err("no answer in time".into()))
            {
                Ok(()) => {
                    status.sent.fetch_add(1, Ordering::Relaxed);
                    break;
                }
                Err(error) if started.elapsed() + pause < GIVE_UP_AFTER => {
                    status.failed.fetch_add(1, Ordering::Relaxed);
                    tracing::debug!(%error, event = alert.event.name(), "an alert was not delivered; Tidegate tries again");
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Err(error) => {
                    status.failed.fetch_add(1, Ordering::Relaxed);
                    status.dropped.fetch_add(1, Ordering::Relaxed);
                    tracing::error!(
                        %error,
                        event = alert.event.name(),
                        subject = alert.subject,
                        "the receiver of alerts did not accept an alert for an hour: Tidegate drops the alert. Check \
                         the receiver in [alerts]"
                    );
                    break;
                }
            }
        }
        undelivered.remove(&queued.id);
    }
}

async fn post(receiver: &config::AlertSettings, queued: &QueuedAlert, clock: Clock) -> Result<(), BoxError> {
    let QueuedAlert { id, time_ms, alert } = queued;
    let time = i64::try_from(*time_ms).ok().and_then(|millis| Timestamp::from_millisecond(millis).ok());
    let body = json!({
        "id": id,
        "event": alert.event.name(),
        "time": time.map(|time| time.to_string()),
        "subject": alert.subject,
        "text": alert.text,
        "version": env!("CARGO_PKG_VERSION"),
    })
    .to_string();
    let now = clock.since_epoch().as_secs();
    let mut request = Request::post(receiver.url.clone())
        .header(CONTENT_TYPE, "application/json")
        .header(USER_AGENT, concat!("tidegate/", env!("CARGO_PKG_VERSION")))
        .header("x-tidegate-event", alert.event.name())
        .header("x-tidegate-timestamp", now);
    if let Some(secret) = &receiver.secret {
        request = request.header("x-tidegate-signature", signature(secret.expose_secret().as_bytes(), now, &body)?);
    }
    let request = request.body(Full::new(Bytes::from(body)))?;
    // A new client for each alert: alerts are rare, and the system's root certificates may have changed.
    let https = HttpsConnectorBuilder::new().with_tls_config(send::tls(None)?).https_or_http().enable_http1().build();
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(https);
    let status = client.request(request).await?.status();
    if status.is_success() { Ok(()) } else { Err(format!("the receiver answered {status}").into()) }
}

/// `sha256=` and the HMAC-SHA256, in hex, of the time, a dot and the body. The time is signed too, so that nobody can
/// replay an old alert.
fn signature(secret: &[u8], seconds: u64, body: &str) -> Result<String, BoxError> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret)?;
    mac.update(format!("{seconds}.").as_bytes());
    mac.update(body.as_bytes());
    Ok(format!("sha256={}", HEXLOWER.encode(&mac.finalize().into_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_equals_the_hmac_of_openssl() {
        // printf '1700000000.{}' | openssl dgst -sha256 -hmac secret
        let expected = "sha256=b8569b78799ff9e3cbff0fc2d63a33a2b57f3282abd07c37ae5e8e7d79a5f163";
        assert_eq!(signature(b"secret", 1_700_000_000, "{}").unwrap(), expected);
    }
}
