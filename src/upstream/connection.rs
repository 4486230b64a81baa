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
use http_body::{Body, Frame};
use hyper::{
    body::Incoming,
    client::conn::http1::{Builder, Connection, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use super::{
    dial::Stream,
    inner_waker::InnerWaker,
    wire::{Reads, Wire, is_closed},
};
use crate::protocol::body::SegmentedHttpBody;

/// The maximum size of hyper's buffers for one connection to an upstream, in bytes (hyper's default is 417,792). A stream whose client
/// does not read uses about four of them: for reading, for sending, and for the data that waits. With 16 KiB, a stream would use 77 KiB.
/// The size also bounds the head of an answer. Proxies in front of providers allow 8 KiB or less.
pub const MAX_BUFFER: usize = 9 * 1024;

/// The most memory that one connection to an upstream uses, in bytes, without TLS.
pub const PER_CONNECTION: usize = 4 * MAX_BUFFER;

/// The additional memory that a connection to an upstream uses with TLS, in bytes: 64 KiB of outgoing records (rustls's limit), 18 KiB of
/// an incoming one, and its plain text.
pub const PER_TLS: usize = (64 + 18 + 16) * 1024;

/// The upstream's close of an idle connection arrives within a round trip. A later close comes from an upstream that had the
/// request.
const STALE_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection to an upstream. Dropping it closes it.
pub(super) struct UpstreamConnection {
    requests: SendRequest<SegmentedHttpBody>,
    /// Reads and writes for `requests` and for the body of the answer. Does nothing unless it is polled.
    driver: Connection<TokioIo<Wire<Stream>>, SegmentedHttpBody>,
    reads: Arc<Reads>,
    born: Instant,
    waker: InnerWaker,
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
    Unsent(Box<Request<SegmentedHttpBody>>, hyper::Error),
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
        Ok(Self { requests, driver, reads, born: Instant::now(), waker: InnerWaker::default() })
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

    /// Reads and writes what is possible now, and polls the body of the answer. Returns also whether the connection ended.
    pub(super) fn poll_body(
        &mut self,
        body: &mut Incoming,
        cx: &Context<'_>,
    ) -> (Poll<Option<hyper::Result<Frame<Bytes>>>>, bool) {
        let (driver, mut is_over) = (&mut self.driver, false);
        let frame = self.waker.poll(cx, |cx| {
            is_over = is_over || Pin::new(&mut *driver).poll(cx).is_ready();
            Pin::new(&mut *body).poll_frame(cx)
        });
        (frame, is_over)
    }

    /// Sends a request and waits for the head of the answer. Returns the connection with the answer, unless the connection ended.
    pub(super) async fn send(
        mut self: Box<Self>,
        request: Request<SegmentedHttpBody>,
    ) -> Result<(Response<Incoming>, Option<Box<Self>>), ConnectionError> {
        self.waker.reset();
        let (began, reads_before) = (Instant::now(), self.reads.count());
        let mut answer = pin!(self.requests.try_send_request(request));
        let driver = &mut self.driver;
        let mut is_over = false;
        let answered = poll_fn(|cx| {
            is_over = is_over || Pin::new(&mut *driver).poll(cx).is_ready();
            answer.as_mut().poll(cx)
        })
        .await;
        let mut error = match answered {
            Ok(answer) => return Ok((answer, (!is_over).then_some(self))),
            Err(error) => error,
        };
        let unsent = error.take_message();
        let error = error.into_error();
        // A connection that brought bytes before carried a request before.
        let was_idle = reads_before > 0 && self.reads.count() == reads_before && began.elapsed() < STALE_TIMEOUT;
        Err(match unsent {
            Some(request) => ConnectionError::Unsent(Box::new(request), error),
            None if was_idle && was_closed(&error) => ConnectionError::Stale(error),
            None => ConnectionError::Broken(error),
        })
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
