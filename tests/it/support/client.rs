//! A client that sends raw bytes and notices how a transfer ends.

use std::{fmt, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

use super::{gateway::KEY, soon};

/// A client that closes its connection within 20 ms of its request may still wait for the answer, and a busy gateway
/// may notice the close late. A client whose leaving a test has to see stays longer.
pub(crate) const LEAVES_AFTER: Duration = Duration::from_millis(100);

/// One connection. Dropping it while an answer is awaited means that the client leaves, at the earliest `LEAVES_AFTER`
/// after the request.
pub(crate) struct Client<S = TcpStream> {
    pub(crate) stream: S,
    buffer: Vec<u8>,
    /// The time of the last bytes that have no answer yet.
    asked: Option<Instant>,
}

impl<S> Client<S> {
    /// The time that the client still has to stay.
    fn stays(&self) -> Duration {
        self.asked.map_or(Duration::ZERO, |asked| LEAVES_AFTER.saturating_sub(asked.elapsed()))
    }
}

impl<S> Drop for Client<S> {
    fn drop(&mut self) {
        std::thread::sleep(self.stays());
    }
}

/// An answer.
#[derive(Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Whether the body ended as its framing says.
    pub(crate) whole: bool,
}

/// The body as text, which is shorter.
impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} {:?}", self.status, self.headers, String::from_utf8_lossy(&self.body))?;
        f.write_str(if self.whole { "" } else { " (broken)" })
    }
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    /// All values of a header, in order.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(given, _)| given == name).map(|(_, value)| value.as_str()).collect()
    }

    /// The whole answer as text, for checks of what must not be in it.
    pub(crate) fn text(&self) -> String {
        format!("{:?} {}", self.headers, String::from_utf8_lossy(&self.body))
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Checks that the answer is one of Tidegate's own errors in OpenAI's shape, with every part that it has to have.
    #[track_caller]
    pub(crate) fn assert_problem(&self, status: u16, code: &str) {
        assert_eq!(self.status, status, "{self:?}");
        let body = self.json();
        let error = body["error"].as_object().unwrap_or_else(|| panic!("no error object: {self:?}"));
        let mut names: Vec<_> = error.keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["code", "message", "param", "type"], "{self:?}");
        assert_eq!(error["code"], code, "{self:?}");
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
        let id = self.header("x-tidegate-request-id").unwrap_or_else(|| panic!("no request id: {self:?}"));
        assert!(id.starts_with("req_"), "{id}");
        assert!(self.header("x-request-id").is_some(), "{self:?}");
    }

    /// The same, and checks whether the error tells SDKs that a retry is in vain.
    #[track_caller]
    pub(crate) fn assert_final(&self, status: u16, code: &str, retry_is_vain: bool) {
        self.assert_problem(status, code);
        assert_eq!(self.all("x-should-retry"), if retry_is_vain { &["false"][..] } else { &[] }, "{self:?}");
    }

    /// `error.param`.
    pub(crate) fn param(&self) -> Option<String> {
        self.json()["error"]["param"].as_str().map(str::to_owned)
    }

    /// `error.message`.
    pub(crate) fn message(&self) -> String {
        self.json()["error"]["message"].as_str().unwrap().to_owned()
    }
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::on(stream)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    /// A client on an open connection.
    pub(crate) fn on(stream: S) -> Self {
        Self { stream, buffer: Vec::new(), asked: None }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
        self.asked = Some(Instant::now());
    }

    /// Waits until a close of the connection means that the client leaves.
    pub(crate) async fn stay(&self) {
        tokio::time::sleep(self.stays()).await;
    }

    /// Sends `POST /v1/responses` with the test key.
    pub(crate) async fn post(&mut self, body: impl AsRef<[u8]>) {
        self.post_with("", body).await;
    }

    /// The same with further header lines, each ended by CRLF.
    pub(crate) async fn post_with(&mut self, headers: &str, body: impl AsRef<[u8]>) {
        self.send(request(headers, body.as_ref())).await;
    }

    /// Sends `POST /v1/responses` and reads the whole answer.
    pub(crate) async fn create(&mut self, body: impl AsRef<[u8]>) -> Answer {
        self.post(body).await;
        self.answer().await
    }

    /// Sends a `GET` with the test key and reads the whole answer.
    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {KEY}\r\n\r\n")).await;
        self.answer().await
    }

    /// Sends a request without a body and reads the whole answer. Each header line ends with CRLF.
    pub(crate) async fn ask(&mut self, line: &str, headers: &str) -> Answer {
        self.send(format!("{line} HTTP/1.1\r\nhost: t\r\n{headers}\r\n")).await;
        self.answer().await
    }

    /// Reads the head of an answer.
    pub(crate) async fn head(&mut self) -> Answer {
        let end = soon("the head of an answer", async {
            loop {
                if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                    return end + 4;
                }
                assert!(self.read().await, "closed before a head: {:?}", String::from_utf8_lossy(&self.buffer));
            }
        })
        .await;
        let head = String::from_utf8(self.buffer.drain(..end).collect()).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines
            .map(|line| line.split_once(':').unwrap())
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Answer { status, headers, body: Vec::new(), whole: false }
    }

    /// Reads a whole answer.
    pub(crate) async fn answer(&mut self) -> Answer {
        let mut answer = self.head().await;
        soon("the body of an answer", self.body(&mut answer)).await;
        self.asked = None;
        answer
    }

    /// Reads the rest of a body into `answer`, to its end or to a break.
    pub(crate) async fn body(&mut self, answer: &mut Answer) {
        if let Some(length) = answer.header("content-length") {
            let length = length.parse::<usize>().unwrap() - answer.body.len();
            while self.buffer.len() < length {
                if !self.read().await {
                    answer.body.append(&mut self.buffer);
                    return;
                }
            }
            answer.body.extend(self.buffer.drain(..length));
            answer.whole = true;
            return;
        }
        if answer.header("transfer-encoding").is_none() {
            // HTTP/1.0 ends a body with the connection.
            while self.read().await {}
            answer.body.append(&mut self.buffer);
            answer.whole = true;
            return;
        }
        assert_eq!(answer.header("transfer-encoding"), Some("chunked"), "{answer:?}");
        while let Some(data) = self.chunk().await {
            if data.is_empty() {
                answer.whole = true;
                return;
            }
            answer.body.extend(data);
        }
    }

    /// The next chunk: empty at the end of the body, none where the transfer broke.
    pub(crate) async fn chunk(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(line) = self.buffer.windows(2).position(|window| window == b"\r\n") {
                let size = std::str::from_utf8(&self.buffer[..line]).unwrap();
                let size = usize::from_str_radix(size, 16).unwrap();
                let end = line + 2 + size + 2;
                if self.buffer.len() >= end {
                    let data = self.buffer[line + 2..end - 2].to_vec();
                    self.buffer.drain(..end);
                    return Some(data);
                }
            }
            if !self.read().await {
                return None;
            }
        }
    }

    /// Reads until the other side closes, and returns whether it sent no further byte.
    pub(crate) async fn closed(&mut self) -> bool {
        soon("the other side to close", async { while self.read().await {} }).await;
        self.asked = None;
        self.buffer.is_empty()
    }

    /// The received bytes that no one has read yet.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.buffer)
    }

    async fn read(&mut self) -> bool {
        matches!(self.stream.read_buf(&mut self.buffer).await, Ok(n) if n > 0)
    }
}

/// `POST /v1/responses` as bytes.
pub(crate) fn request(headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "POST /v1/responses HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {KEY}\r\n\
         content-type: application/json\r\n{headers}content-length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}
