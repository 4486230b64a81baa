//! Tests over real sockets, with a client that sees every byte.

mod answers;
mod chat;
mod conversations;
mod faults;
mod state;
mod streams;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::*;
use crate::domain::clock::Clock;

/// A running simulator without pauses. Dropping it stops it.
struct Simulator {
    address: std::net::SocketAddr,
    _stop: DropGuard,
}

/// The received answer.
struct ReceivedAnswer {
    /// The status line and the headers in lower case; empty if nothing arrived.
    head: String,
    /// The body without its chunks.
    body: Vec<u8>,
    /// Whether the transfer ended properly.
    whole: bool,
}

impl Simulator {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let clock = Clock::from_fn(|| std::time::UNIX_EPOCH + Duration::from_secs(1_765_793_453));
        let options = Options { event_delay: Duration::ZERO, clock, ..Options::default() };
        tokio::spawn(serve(listener, options, stop.clone()));
        Self { address, _stop: stop.drop_guard() }
    }

    async fn raw(&self, request: &[u8]) -> ReceivedAnswer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut bytes = Vec::new();
        let read = stream.read_to_end(&mut bytes).await;
        ReceivedAnswer::new(&bytes, read.is_ok())
    }

    async fn send(&self, method: &str, path: &str, key: &str, body: &str) -> ReceivedAnswer {
        let auth = if key.is_empty() { String::new() } else { format!("Authorization: Bearer {key}\r\n") };
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: sim\r\n{auth}Content-Length: {length}\r\nConnection: close\r\n\r\n"
        );
        self.raw(format!("{head}{body}").as_bytes()).await
    }

    async fn create(&self, personality: Personality, body: &Value) -> ReceivedAnswer {
        self.send("POST", &format!("{}/responses", personality.base_path()), "key", &body.to_string()).await
    }

    /// Calls a path of DMXAPI with a key; without a body if `body` is null.
    async fn call(&self, key: &str, method: &str, path: &str, body: Value) -> ReceivedAnswer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send(method, &format!("/dmxapi/v1{path}"), key, &body).await
    }

    /// Creates a response with a key; fails the test if it cannot.
    async fn made(&self, key: &str, mut body: Value) -> Value {
        body["model"] = "gpt-5-mini".into();
        let got = self.call(key, "POST", "/responses", body).await;
        assert_eq!(got.status(), 200, "{}", got.text());
        got.json()
    }

    /// A stream that says hello, with directives.
    async fn stream(&self, personality: Personality, directives: &str) -> ReceivedAnswer {
        let body = json!({"model": model_of(personality), "input": "Hello", "stream": true,
            "metadata": {"simulate": directives}});
        self.create(personality, &body).await
    }
}

fn model_of(personality: Personality) -> &'static str {
    personality.models()[0].name
}

/// The text of a response.
fn said(response: &Value) -> String {
    let output = response["output"].as_array().unwrap();
    let message = output.iter().find(|item| item["type"] == "message").unwrap();
    message["content"][0]["text"].as_str().unwrap().to_owned()
}

impl ReceivedAnswer {
    fn new(bytes: &[u8], ended: bool) -> Self {
        let Some(split) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
            return Self { head: String::new(), body: Vec::new(), whole: false };
        };
        let head = String::from_utf8(bytes[..split].to_vec()).unwrap().to_lowercase();
        let rest = &bytes[split + 4..];
        let mut got = Self { head, body: Vec::new(), whole: false };
        if got.header("transfer-encoding") == Some("chunked") {
            got.whole = got.dechunk(rest).is_some() && ended;
        } else {
            got.body = rest.to_vec();
            got.whole = ended && got.header("content-length").unwrap().parse() == Ok(rest.len());
        }
        got
    }

    /// `None` if the last chunk is missing.
    fn dechunk(&mut self, mut rest: &[u8]) -> Option<()> {
        loop {
            let line = rest.windows(2).position(|window| window == b"\r\n")?;
            let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).unwrap(), 16).unwrap();
            let chunk = rest.get(line + 2..line + 2 + size)?;
            if size == 0 {
                return Some(());
            }
            self.body.extend_from_slice(chunk);
            rest = rest.get(line + 4 + size..)?;
        }
    }

    fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap_or("0").parse().unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {} {}", self.head, self.text()))
    }

    /// The events. Checks that each `event:` line agrees with the type, and that the numbers have no gaps.
    fn events(&self) -> Vec<Value> {
        let text = self.text().trim_start_matches('\u{feff}').replace("\r\n", "\n");
        let mut events = Vec::new();
        for frame in text.split("\n\n").filter(|frame| !frame.is_empty()) {
            let data = frame.lines().find_map(|line| line.strip_prefix("data: "));
            let Some(data) = data.filter(|data| *data != "[DONE]") else { continue };
            let event: Value = serde_json::from_str(data).unwrap();
            if let Some(name) = frame.lines().find_map(|line| line.strip_prefix("event: ")) {
                assert_eq!(event["type"], name);
            }
            assert_eq!(event["sequence_number"], events.len(), "{event}");
            events.push(event);
        }
        events
    }

    fn kinds(&self) -> Vec<String> {
        self.events().iter().map(|event| event["type"].as_str().unwrap().to_owned()).collect()
    }
}
