//! An upstream that follows a script, byte by byte.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use super::{gateway::Gateway, soon};

/// The body of a request that no other code sends.
const MARK: &str = r#"{"model":"gpt-mark","input":"the only request that may arrive"}"#;

/// If no byte is accepted for this long, with everything on loopback, every buffer is full.
const STALLED: std::time::Duration = std::time::Duration::from_millis(500);

/// One step of an answer.
pub(crate) enum Step {
    /// Write these bytes.
    Send(Vec<u8>),
    /// Write these bytes again and again. Call the function once when the other side stops reading, and end when it
    /// closes.
    Flood(Vec<u8>, Box<dyn FnOnce() + Send>),
    /// Continue when the test says so.
    Wait(oneshot::Receiver<()>),
    /// Do nothing until the other side closes, and report that.
    UntilClosed(oneshot::Sender<()>),
    /// Close the connection normally.
    Close,
    /// Close the connection normally, and report when the other side has closed, too.
    Finish(oneshot::Sender<()>),
    /// Close the connection with a reset.
    Reset,
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) line: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// The connection of the request, counted from 0.
    pub(crate) connection: usize,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }
}

type Script = dyn FnMut(&Request) -> Vec<Step> + Send;

/// The server. It ends with the test.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    requests: mpsc::UnboundedReceiver<Request>,
    accepting: JoinHandle<()>,
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Upstream {
    /// Answers each request by the script.
    pub(crate) async fn scripted(script: impl FnMut(&Request) -> Vec<Step> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, requests) = mpsc::unbounded_channel();
        let script: Arc<Mutex<Box<Script>>> = Arc::new(Mutex::new(Box::new(script)));
        let accepting = tokio::spawn(async move {
            for connection in 0.. {
                let Ok((stream, _)) = listener.accept().await else { return };
                stream.set_nodelay(true).unwrap();
                tokio::spawn(serve(stream, connection, Arc::clone(&script), seen.clone()));
            }
        });
        Self { address, requests, accepting }
    }

    /// Answers every request with the same bytes and keeps the connection open.
    pub(crate) async fn fixed(answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        Self::scripted(move |_| vec![Step::Send(answer.clone())]).await
    }

    /// The next request that arrived.
    pub(crate) async fn request(&mut self) -> Request {
        soon("a request at the upstream", self.requests.recv()).await.unwrap()
    }

    /// Checks that no request arrived but the one that this call sends: the gateway refused `what` by itself.
    pub(crate) async fn assert_untouched(&mut self, gateway: &Gateway, what: &str) {
        gateway.connect().await.create(MARK).await;
        let first = self.request().await;
        assert_eq!(String::from_utf8_lossy(&first.body), MARK, "{what} reached the upstream");
        assert_eq!(self.untaken(), 0, "{what} reached the upstream");
    }

    /// The number of requests that arrived and were not taken with [`Upstream::request`].
    pub(crate) fn untaken(&mut self) -> usize {
        self.taken().len()
    }

    /// All requests that arrived and were not taken.
    pub(crate) fn taken(&mut self) -> Vec<Request> {
        std::iter::from_fn(|| self.requests.try_recv().ok()).collect()
    }

    pub(crate) fn base_url(&self) -> String {
        format!("http://{}/up", self.address)
    }
}

async fn serve(
    mut stream: TcpStream,
    connection: usize,
    script: Arc<Mutex<Box<Script>>>,
    seen: mpsc::UnboundedSender<Request>,
) {
    let mut buffer = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut buffer, connection).await {
        let steps = {
            let mut script = script.lock().unwrap();
            script(&request)
        };
        let _ = seen.send(request);
        for step in steps {
            match step {
                Step::Send(bytes) => {
                    if stream.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
                Step::Flood(bytes, stalled) => {
                    let mut stalled = Some(stalled);
                    loop {
                        tokio::select! {
                            written = stream.write_all(&bytes) => if written.is_err() { return },
                            () = tokio::time::sleep(STALLED), if stalled.is_some() => {
                                stalled.take().unwrap()();
                                // Only a part of `bytes` was sent. The other side has stopped reading, so the rest does
                                // not matter.
                                let mut rest = [0; 1];
                                let _ = stream.read(&mut rest).await;
                                return;
                            }
                        }
                    }
                }
                Step::Wait(go) => {
                    let _ = go.await;
                }
                Step::UntilClosed(told) => {
                    let mut rest = [0; 1024];
                    while matches!(stream.read(&mut rest).await, Ok(n) if n > 0) {}
                    let _ = told.send(());
                    return;
                }
                Step::Close => {
                    let _ = stream.shutdown().await;
                    return;
                }
                Step::Finish(told) => {
                    let _ = stream.shutdown().await;
                    let mut rest = [0; 1024];
                    while matches!(stream.read(&mut rest).await, Ok(n) if n > 0) {}
                    let _ = told.send(());
                    return;
                }
                Step::Reset => {
                    stream.set_zero_linger().unwrap();
                    return;
                }
            }
        }
    }
}

async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>, connection: usize) -> Option<Request> {
    let end = loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(buffer.drain(..end).collect()).unwrap();
    let mut lines = head.trim_end().split("\r\n");
    let line = lines.next().unwrap().to_owned();
    let headers: Vec<(String, String)> = lines
        .map(|line| line.split_once(':').unwrap())
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length").map_or(0, |(_, n)| n.parse().unwrap());
    while buffer.len() < length {
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
    let body = buffer.drain(..length).collect();
    Some(Request { line, headers, body, connection })
}

/// A JSON answer with its length.
pub(crate) fn json(status: &str, body: &str) -> Vec<u8> {
    answer(status, "application/json", body.as_bytes())
}

/// An answer with its length.
pub(crate) fn answer(status: &str, content_type: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

/// The head of an event stream in chunks.
pub(crate) const STREAM: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n";

/// The end of a chunked body.
pub(crate) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// One chunk.
pub(crate) fn chunk(data: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat()
}

/// A small complete answer.
pub(crate) const RESPONSE: &str = r#"{"id":"resp_1","object":"response","status":"completed","model":"real","usage":{"input_tokens":3,"input_tokens_details":{"cached_tokens":1},"output_tokens":5,"output_tokens_details":{"reasoning_tokens":2},"total_tokens":8}}"#;
