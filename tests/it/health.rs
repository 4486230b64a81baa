//! Health states, concurrency limits, and the preference for one account.

mod concurrency;
mod ejection;
mod failing_upstream;
mod sticky;
mod tenants;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tidegate::config::Config;

use crate::support::{
    client::Answer,
    gateway::{Gateway, config, credential, model, upstream},
    upstream::{RESPONSE, Request, Step, Upstream, json},
};

const BODY: &str = r#"{"model":"many","input":"hi"}"#;

/// A gateway whose model `many` leads to all these upstreams, in order.
fn before(upstreams: &[&Upstream], change: impl FnOnce(&mut Config)) -> Gateway {
    let mut config = config(&upstreams[0].base_url());
    let named = (0..).zip(upstreams);
    config.upstreams = named.map(|(nth, one)| upstream(&format!("up{nth}"), &one.base_url())).collect();
    let targets: Vec<_> = (0..upstreams.len()).map(|nth| (nth, None)).collect();
    config.models = vec![model("many", &targets)];
    // No candidate returns while a test runs, however long it takes.
    (config.health.eject, config.health.eject_max) = (Duration::from_secs(600), Duration::from_secs(600));
    change(&mut config);
    Gateway::start(config)
}

/// Credentials `a`, `b`, … with the secrets `sk-a`, `sk-b`, ….
fn credentials(names: &[&str]) -> Vec<tidegate::config::Credential> {
    names.iter().map(|name| credential(name, &format!("sk-{name}"))).collect()
}

/// The secret's name in the credential of a request.
fn key(request: &Request) -> &str {
    request.header("authorization").unwrap().strip_prefix("Bearer sk-").unwrap()
}

async fn ask(gateway: &Gateway) -> Answer {
    gateway.connect().await.create(BODY).await
}

fn good() -> Vec<Step> {
    vec![Step::Send(json("200 OK", RESPONSE))]
}

fn bad(status: &str, headers: &str) -> Vec<Step> {
    let body = r#"{"error":{"message":"m","type":"t","param":null,"code":"c"}}"#;
    let plain = String::from_utf8(json(status, body)).unwrap();
    vec![Step::Send(plain.replacen("\r\n", &format!("\r\n{headers}"), 1).into())]
}

/// A status and further headers; none = a good answer.
type Answering = Option<(&'static str, &'static str)>;

const DOWN: Answering = Some(("503 Service Unavailable", ""));

/// An upstream whose answers the test sets, for each credential.
struct SwitchableUpstream {
    upstream: Upstream,
    answers: Arc<Mutex<Vec<(&'static str, Answering)>>>,
    seen: Arc<AtomicUsize>,
}

impl SwitchableUpstream {
    /// Starts with this answer for every credential.
    async fn new(answer: Answering) -> Self {
        let answers: Arc<Mutex<Vec<(&str, Answering)>>> = Arc::new(Mutex::new(vec![("", answer)]));
        let seen = Arc::new(AtomicUsize::new(0));
        let (reads, counts) = (Arc::clone(&answers), Arc::clone(&seen));
        let upstream = Upstream::scripted(move |request| {
            counts.fetch_add(1, Ordering::Relaxed);
            let answers = reads.lock().unwrap();
            let of = |name: &str| answers.iter().find(|(whose, _)| *whose == name).map(|(_, answer)| *answer);
            let name = request.header("authorization").and_then(|value| value.strip_prefix("Bearer sk-"));
            match name.and_then(of).or_else(|| of("")).unwrap() {
                None => good(),
                Some((status, headers)) => bad(status, headers),
            }
        })
        .await;
        Self { upstream, answers, seen }
    }

    /// Sets the answer for the credential of this name, or, with an empty name, for all credentials without an answer
    /// of their own.
    fn answer_with(&self, name: &'static str, answer: Answering) {
        let mut answers = self.answers.lock().unwrap();
        answers.retain(|(whose, _)| *whose != name);
        answers.push((name, answer));
    }

    fn seen(&self) -> usize {
        self.seen.load(Ordering::Relaxed)
    }

    /// The credentials of the requests since the last call.
    fn keys(&mut self) -> Vec<String> {
        self.upstream.taken().iter().map(|request| key(request).to_owned()).collect()
    }
}
