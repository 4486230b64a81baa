//! Mixed load, and the upstreams' own log of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    task::JoinSet,
    time::Instant,
};

use crate::support::{
    client::LEAVES_AFTER,
    gateway::KEY,
    upstream::{LAST_CHUNK, Request, STREAM, Step, Upstream, chunk, json},
};

/// The key of every third request of the load.
pub(super) const OTHER_KEY: &str = "sk-test-another-client-key";

/// A body whose length tells the number of its request. The ledger knows nothing else of a request.
pub(super) fn body(model: &str, number: usize) -> String {
    let begin = format!(r#"{{"model":"{model}","number":{number},"pad":""#);
    let length = LENGTH + number;
    format!("{begin}{}\"}}", "x".repeat(length - begin.len() - 2))
}

/// The length of the body of request 0.
pub(super) const LENGTH: usize = 100;

/// The behaviour for a request, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Json,
    Stream,
    /// A stream with pauses.
    Slow,
    /// The client leaves in the middle of the answer.
    Leaves,
    /// The client closes its connection right after its request. The request may still be served.
    Flees,
    /// The first upstream fails.
    Failover,
    /// The upstream never answers before the kill.
    Hangs,
}

pub(super) fn kind(number: usize) -> Kind {
    match number % 32 {
        0..10 => Kind::Json,
        10..15 => Kind::Stream,
        15..18 => Kind::Slow,
        18..22 => Kind::Leaves,
        22..24 => Kind::Flees,
        24..31 => Kind::Failover,
        _ => Kind::Hangs,
    }
}

/// The key of a request.
pub(super) fn key(number: usize) -> &'static str {
    if number.is_multiple_of(3) { "b" } else { "a" }
}

/// The usage that an upstream reports for a request: input, cached, output, reasoning.
pub(super) fn tokens(number: usize) -> [i64; 4] {
    let number = i64::try_from(number).unwrap();
    [number + 1, number / 3, 2 * number + 1, number / 2]
}

pub(super) fn usage(number: usize) -> String {
    let [input, cached, output, reasoning] = tokens(number);
    format!(
        r#""id":"resp_{number}","usage":{{"input_tokens":{input},"input_tokens_details":{{"cached_tokens":{cached}}},"output_tokens":{output},"output_tokens_details":{{"reasoning_tokens":{reasoning}}}}}"#
    )
}

/// The requests that reached each upstream.
#[derive(Debug, Default)]
pub(super) struct Seen(Mutex<Vec<(&'static str, usize)>>);

impl Seen {
    pub(super) fn all(&self) -> Vec<(&'static str, usize)> {
        self.0.lock().unwrap().clone()
    }

    /// The numbers of these requests.
    pub(super) fn numbers(&self) -> BTreeSet<usize> {
        self.0.lock().unwrap().iter().map(|(_, number)| *number).collect()
    }
}

/// An upstream that notes each request before it answers. `one` fails where a failover to `two` is due.
pub(super) async fn upstream(seen: &Arc<Seen>, name: &'static str) -> Upstream {
    let seen = Arc::clone(seen);
    Upstream::scripted(move |request: &Request| {
        let asked: Value = serde_json::from_slice(&request.body).unwrap();
        let number = usize::try_from(asked["number"].as_u64().unwrap()).unwrap();
        seen.0.lock().unwrap().push((name, number));
        let whole = json("200 OK", &format!(r#"{{"status":"completed",{}}}"#, usage(number)));
        let first = chunk(b"event: response.created\ndata: {\"type\":\"response.created\"}\n\n");
        let data = format!(r#"{{"type":"response.completed","response":{{{}}}}}"#, usage(number));
        let last = chunk(format!("event: response.completed\ndata: {data}\n\n").as_bytes());
        match kind(number) {
            Kind::Failover if name == "one" => vec![Step::Send(json("503 Service Unavailable", "{}"))],
            Kind::Json | Kind::Failover | Kind::Flees => vec![Step::Send(whole)],
            Kind::Stream => vec![Step::Send([STREAM, &first, &last, LAST_CHUNK].concat())],
            Kind::Slow => {
                let (go, wait) = oneshot::channel();
                let pause = Duration::from_millis(20 + number as u64 % 50);
                tokio::spawn(async move {
                    tokio::time::sleep(pause).await;
                    // The test that waits for it may be over.
                    let _ = go.send(());
                });
                let (begin, rest) = ([STREAM, &first].concat(), [&last, LAST_CHUNK].concat());
                vec![Step::Send(begin), Step::Wait(wait), Step::Send(rest)]
            }
            Kind::Leaves => vec![Step::Send([STREAM, &first].concat()), Step::UntilClosed(oneshot::channel().0)],
            Kind::Hangs => vec![Step::UntilClosed(oneshot::channel().0)],
        }
    })
    .await
}

/// The answer of a client, as far as the client waits; none if the connection broke before the end.
pub(super) async fn answer(address: SocketAddr, number: usize) -> Option<String> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let model = if kind(number) == Kind::Failover { "pair" } else { "smart" };
    let body = body(model, number);
    let key = if key(number) == "b" { OTHER_KEY } else { KEY };
    let head = format!(
        "POST /v1/responses HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {key}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).await.ok()?;
    if kind(number) == Kind::Flees {
        return None;
    }
    let mut answer = Vec::new();
    while stream.read_buf(&mut answer).await.ok()? > 0 {
        if kind(number) == Kind::Leaves && answer.windows(8).any(|bytes| bytes == b"response") {
            // An earlier end of the connection would belong to the request, which would then be served.
            tokio::time::sleep(LEAVES_AFTER).await;
            return None;
        }
    }
    Some(String::from_utf8(answer).unwrap())
}

/// The answers of the clients.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// Complete answers, each with its moment.
    pub(super) whole: BTreeMap<usize, Instant>,
    /// Requests that were refused because the ledger cannot be written.
    pub(super) refused: BTreeSet<usize>,
    /// Requests whose connection broke, each with its moment.
    pub(super) broken: Vec<(usize, Instant)>,
    /// All other answers.
    pub(super) wrong: Vec<String>,
}

impl Answers {
    fn add(&mut self, number: usize, answer: Option<String>) {
        match answer {
            Some(text) if text.starts_with("HTTP/1.1 200") && text.contains(&usage(number)) => {
                self.whole.insert(number, Instant::now());
            }
            Some(text) if text.starts_with("HTTP/1.1 503") && text.contains("ledger_unavailable") => {
                self.refused.insert(number);
            }
            Some(text) if text.is_empty() || text.starts_with("HTTP/1.1 200") => {
                self.broken.push((number, Instant::now()));
            }
            Some(text) => self.wrong.push(format!("{number}: {text}")),
            None if matches!(kind(number), Kind::Leaves | Kind::Flees) => {}
            None => self.broken.push((number, Instant::now())),
        }
    }
}

/// The clients of a gateway that is killed and started again.
#[derive(Debug, Default)]
pub(super) struct Clients {
    next: AtomicUsize,
    answers: Mutex<Answers>,
}

impl Clients {
    /// The answers since the last call.
    pub(super) fn take(&self) -> Answers {
        std::mem::take(&mut *self.answers())
    }

    fn answers(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().unwrap()
    }

    /// The number of requests since the last call that were refused because of the ledger.
    pub(super) fn refused(&self) -> usize {
        self.answers().refused.len()
    }

    /// The number of complete answers since the last call.
    pub(super) fn served(&self) -> usize {
        self.answers().whole.len()
    }

    /// Sends this many requests one after the other, and none that hangs.
    pub(super) async fn call_some(&self, address: SocketAddr, count: usize) {
        for _ in 0..count {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if kind(number) != Kind::Hangs {
                let answer = answer(address, number).await;
                self.answers().add(number, answer);
            }
        }
    }

    /// Sends requests from many clients, one after the other each, until the gateway is gone.
    pub(super) async fn call(self: Arc<Self>, address: SocketAddr) {
        let mut clients = JoinSet::new();
        for _ in 0..12 {
            let this = Arc::clone(&self);
            clients.spawn(async move {
                let mut hanging = JoinSet::new();
                while TcpStream::connect(address).await.is_ok() {
                    let number = this.next.fetch_add(1, Ordering::Relaxed);
                    let this = Arc::clone(&this);
                    let call = async move {
                        let answer = answer(address, number).await;
                        this.answers().add(number, answer);
                    };
                    if kind(number) == Kind::Hangs {
                        hanging.spawn(call);
                    } else {
                        call.await;
                    }
                }
                hanging.join_all().await;
            });
        }
        clients.join_all().await;
    }
}
