//! One HTTP/1.1 connection to an upstream, driven by the task that uses the connection.

use std::{
    error::Error,
    fmt,
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::{
    body::Incoming,
    client::conn::http1::{Builder, Connection, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use super::{
    dial::Stream,
    idle::IdleConnections,
    wire::{Reads, Wire, is_closed},
};
use crate::protocol::body::RopeBody;

/// The maximum size of hyper's buffers (hyper's default is 417,792 bytes). A stream whose client does not read uses about four of
/// them: for reading, for sending, and for the data that waits. With 16 KiB, a stream would use 77 KiB. The size also bounds the
/// head of an answer. Proxies in front of providers allow 8 KiB or less.
pub const MAX_BUFFER: usize = 9 * 1024;

/// The most memory that one connection uses.
pub const PER_CONNECTION: usize = 4 * MAX_BUFFER;

/// The additional memory with TLS: 64 KiB of outgoing records (rustls's limit), 18 KiB of an incoming one, and its plain text.
pub const PER_TLS: usize = (64 + 18 + 16) * 1024;

/// The upstream's close of an idle connection arrives within a round trip. A later close comes from an upstream that had the
/// request.
const STALE_WITHIN: Duration = Duration::from_secs(2);

/// A connection to an upstream. Dropping it closes it.
pub(super) struct UpstreamConnection {
    requests: SendRequest<RopeBody>,
    /// Reads and writes for `requests` and for the body of the answer. Does nothing unless it is polled.
    driver: Connection<TokioIo<Wire<Stream>>, RopeBody>,
    reads: Arc<Reads>,
    born: Instant,
    /// Whether the connection carried a request before.
    used: bool,
}

impl fmt::Debug for UpstreamConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamConnection").field("born", &self.born).finish_non_exhaustive()
    }
}

/// Why no answer came.
#[derive(Debug)]
pub(super) enum ConnectionError {
    /// The connection closed before a byte of the request was written. The request is returned.
    Unsent(Box<Request<RopeBody>>, hyper::Error),
    /// The upstream closed an idle connection at the moment when the request was sent. No byte of an answer came.
    Stale(hyper::Error),
    /// The connection ended before the head of an answer came.
    Broken(hyper::Error),
}

impl UpstreamConnection {
    /// Prepares a new connection for requests.
    pub(super) async fn new(stream: Stream) -> hyper::Result<Self> {
        let reads = Arc::<Reads>::default();
        let wire = TokioIo::new(Wire::new(stream, Arc::clone(&reads)));
        // hyper's default of 100 headers an answer stays: any explicit number costs two allocations of 4 KB an answer.
        let (requests, driver) = Builder::new().max_buf_size(MAX_BUFFER).handshake(wire).await?;
        Ok(Self { requests, driver, reads, born: Instant::now(), used: false })
    }

    /// When the connection was made.
    pub(super) fn born(&self) -> Instant {
        self.born
    }

    /// Whether the connection can take a request now. Reads what the upstream sent: the end of the connection, for example.
    ///
    /// `waker` is woken by the next event on the connection.
    pub(super) fn is_ready(&mut self, waker: &Waker) -> bool {
        let is_open = Pin::new(&mut self.driver).poll(&mut Context::from_waker(waker)).is_pending();
        is_open && self.requests.is_ready()
    }

    /// Sends a request and waits for the head of the answer. The body of the answer owns the connection. After its end the connection
    /// goes to `idle`.
    pub(super) async fn send(
        mut self: Box<Self>,
        request: Request<RopeBody>,
        idle: &Arc<IdleConnections>,
    ) -> Result<Response<AnswerBody>, ConnectionError> {
        let (began, reads_before, was_used) = (Instant::now(), self.reads.count(), self.used);
        self.used = true;
        let mut answer = pin!(self.requests.try_send_request(request));
        let driver = &mut self.driver;
        let mut is_over = false;
        let answered = poll_fn(|cx| {
            is_over = is_over || Pin::new(&mut *driver).poll(cx).is_ready();
            answer.as_mut().poll(cx)
        })
        .await;
        match answered {
            Ok(response) => {
                let (head, body) = response.into_parts();
                let mut body = AnswerBody { body, connection: (!is_over).then_some(self), idle: Arc::clone(idle) };
                if body.is_end_stream() {
                    body.release();
                }
                Ok(Response::from_parts(head, body))
            }
            Err(mut error) => {
                let unsent = error.take_message();
                let error = error.into_error();
                let is_stale = was_used
                    && self.reads.count() == reads_before
                    && began.elapsed() < STALE_WITHIN
                    && was_closed(&error);
                Err(match unsent {
                    Some(request) => ConnectionError::Unsent(Box::new(request), error),
                    None if is_stale => ConnectionError::Stale(error),
                    None => ConnectionError::Broken(error),
                })
            }
        }
    }
}

/// Whether the upstream closed the connection, in order or with a reset.
fn was_closed(error: &(dyn Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |error| (*error).source());
    causes.any(|cause| {
        let by_hyper = |error: &hyper::Error| error.is_incomplete_message() || error.is_closed();
        cause.downcast_ref().is_some_and(by_hyper) || cause.downcast_ref().is_some_and(is_closed)
    })
}

/// The body of an answer, together with its connection. Polling the body drives the connection. Dropping the body before its end
/// closes the connection.
#[derive(Debug)]
pub struct AnswerBody {
    body: Incoming,
    /// `None` = the connection ended, or is idle again.
    connection: Option<Box<UpstreamConnection>>,
    idle: Arc<IdleConnections>,
}

impl AnswerBody {
    /// The answer is complete: the connection waits for the next request.
    fn release(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.idle.put(connection);
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        let mut frame = Pin::new(&mut this.body).poll_frame(cx);
        if frame.is_pending()
            && let Some(connection) = &mut this.connection
        {
            if Pin::new(&mut connection.driver).poll(cx).is_ready() {
                this.connection = None;
            }
            frame = Pin::new(&mut this.body).poll_frame(cx);
        }
        match &frame {
            Poll::Ready(Some(Ok(_))) if this.body.is_end_stream() => this.release(),
            Poll::Ready(None) => this.release(),
            Poll::Ready(Some(Err(_))) => this.connection = None,
            _ => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
