//! One connection of a client: hyper's HTTP/1.1 on it, and around hyper what it lacks. It has one timer for the head
//! and for idling, none for a client that does not read, and it no longer notices that a client left once bytes of a
//! pipelined request are in its buffer.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{Router, body::Body};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, Version, header::CONNECTION};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::{body::Incoming, server::conn::http1, service::Service};
use hyper_util::rt::TokioIo;
use tokio::{
    io::AsyncReadExt,
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::{Instant, Sleep, sleep_until},
};
use tower_service::Service as _;

use super::{
    answer,
    framing::{Fault, Framing},
    progress::{Deadlines, Progress},
    shutdown::Shutdown,
    socket::Io,
};
use crate::{
    domain::departure::Departure,
    metrics::{CutLabels, MalformedLabels, Metrics},
};

/// A request's head may be this long (`Framing` is asked first), and hyper's buffers grow no further (its own default is 417,792 bytes).
/// OpenAI documents 64 KiB for all headers together.
pub(super) const MAX_BUFFER: usize = 64 * 1024;

/// A client that still sends when its answer is out gets this long, and this much is read away: closing at once would
/// reset the connection and destroy an answer that it has not read yet.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 64 * 1024 * 1024;

/// What every connection of a listener shares.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) router: Router,
    pub(super) deadlines: Deadlines,
    pub(super) shutdown: Shutdown,
    pub(super) metrics: Arc<Metrics>,
}

/// Serves a connection to its end.
pub(super) async fn serve(stream: TcpStream, shared: Shared) {
    // An event must go out when it comes: Nagle's algorithm would hold the tail back for 40 ms.
    let _ = stream.set_nodelay(true);
    let _counted = Counted::new(&shared.metrics);
    let (read, write) = stream.into_split();
    let write = Arc::new(write);
    let progress = Arc::new(Progress::new(shared.shutdown.leaving()));
    let departure = Departure::default();
    let framing = Framing::new(MAX_BUFFER);
    let io = Io { read, write: Arc::clone(&write), progress: Arc::clone(&progress), framing };
    let service =
        Requests { router: shared.router.clone(), progress: Arc::clone(&progress), departure: departure.clone() };
    let mut builder = http1::Builder::new();
    // Its header timer stays off: ours tells heads from idling.
    builder.max_buf_size(MAX_BUFFER).half_close(false).header_read_timeout(None);
    let connection = builder.serve_connection(TokioIo::new(io), service);

    let read = drive(connection, &write, &progress, &departure, &shared).await;
    if let Some(fault) = progress.fault() {
        shared.metrics.connections.malformed.get_or_create(&MalformedLabels { reason: fault.name() }).inc();
    }
    if progress.is_open_ended() {
        // Closing in order would be the end of this body: only a reset shows that it was cut.
        let _ = write.as_ref().as_ref().set_zero_linger();
        if let Some(write) = Arc::into_inner(write) {
            write.forget();
        }
    } else if let Some(mut read) = read {
        // Ends the writing side: the connection gave its own reference up, this is the last one.
        drop(write);
        tokio::select! {
            () = linger(&mut read) => {}
            () = shared.shutdown.stopped() => {}
        }
    }
}

/// While it lives, a connection is counted: also a panic ends it.
struct Counted<'a>(&'a Metrics);

impl<'a> Counted<'a> {
    fn new(metrics: &'a Metrics) -> Self {
        metrics.connections.open.inc();
        Self(metrics)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.connections.open.dec();
        if std::thread::panicking() {
            self.0.connections.panics.inc();
        }
    }
}

/// Why a connection is over.
enum Event {
    /// hyper is done with it.
    Done,
    /// The client closed its side while a request was under way.
    Left,
    /// A deadline ran out.
    Deadline(&'static str),
    /// What should be the head of a request is none, and everything before it is answered.
    Malformed(Fault),
    /// Tidegate stops taking requests.
    Drain,
    /// Tidegate stops.
    Stop,
}

/// Runs the connection until it is over. Gives the reading side back where the client may still be sending.
///
/// What is under way is dropped with the connection, so the reason is told to `departure` before this returns.
async fn drive(
    connection: http1::Connection<TokioIo<Io>, Requests>,
    write: &OwnedWriteHalf,
    progress: &Progress,
    departure: &Departure,
    shared: &Shared,
) -> Option<OwnedReadHalf> {
    let mut connection = connection;
    let mut timer = pin!(sleep_until(Instant::now() + shared.deadlines.first_byte));
    let mut left = pin!(left(write));
    let mut drain = pin!(shared.shutdown.draining());
    let mut stop = pin!(shared.shutdown.stopped());
    let mut draining = false;
    let mut at_rest = false;
    loop {
        let event = tokio::select! {
            biased;
            event = std::future::poll_fn(|cx| poll(&mut connection, progress, &shared.deadlines, timer.as_mut(), cx)) => event,
            () = &mut left, if !progress.has_left() => Event::Left,
            () = &mut drain, if !draining => Event::Drain,
            () = &mut stop => Event::Stop,
        };
        match event {
            // Who was at rest when the drain began has no answer that could be lost, and shall not hold the end up.
            Event::Done => return (!at_rest).then(|| connection.into_parts().io.into_inner().read),
            // Between two requests hyper sees the end by itself, and what is already in its buffer gets no service.
            Event::Left => {
                progress.leave();
                if progress.is_busy() {
                    return None;
                }
            }
            Event::Deadline(name) => {
                shared.metrics.connections.cut.get_or_create(&CutLabels { deadline: name }).inc();
                match name {
                    Progress::HEAD => {
                        let _ = write.try_write(answer::timed_out().as_bytes());
                    }
                    Progress::WRITE_STALL => {
                        departure.stalled();
                        // A reset: what the client does not read shall not stay in the kernel's buffers either.
                        let _ = write.as_ref().set_zero_linger();
                    }
                    _ => {}
                }
                return None;
            }
            Event::Malformed(fault) => {
                let _ = write.try_write(answer::malformed(fault).as_bytes());
                return Some(connection.into_parts().io.into_inner().read);
            }
            Event::Drain => {
                draining = true;
                at_rest = progress.is_at_rest();
                // hyper would end at once where a further head is half here: that request is served, and its answer,
                // as any from now on, ends the connection.
                if at_rest || progress.is_busy() {
                    Pin::new(&mut connection).graceful_shutdown();
                }
            }
            Event::Stop => {
                departure.gateway_stop();
                if progress.is_busy() {
                    shared.shutdown.cut();
                }
                return None;
            }
        }
    }
}

/// Polls hyper, then the deadline that holds now. The timer is moved only when it fires or when a deadline comes
/// nearer, so that a busy connection hardly touches it.
fn poll(
    connection: &mut http1::Connection<TokioIo<Io>, Requests>,
    progress: &Progress,
    deadlines: &Deadlines,
    mut timer: Pin<&mut Sleep>,
    cx: &mut Context<'_>,
) -> Poll<Event> {
    // An error here is the client's: what it was about was answered, or nobody is there to read an answer.
    if connection.poll_without_shutdown(cx).is_ready() {
        return Poll::Ready(Event::Done);
    }
    if let Some(fault) = progress.fault_due() {
        return Poll::Ready(Event::Malformed(fault));
    }
    let Some((due, name)) = progress.due(deadlines) else {
        return Poll::Pending;
    };
    if due < timer.deadline() {
        timer.as_mut().reset(due);
    }
    loop {
        ready!(timer.as_mut().poll(cx));
        if due <= Instant::now() {
            return Poll::Ready(Event::Deadline(name));
        }
        timer.as_mut().reset(due);
    }
}

/// Resolves when the client closed its side. On Linux the kernel tells without anything being read, so that bytes
/// which wait to be read cannot hide it.
#[cfg(any(target_os = "linux", target_os = "android"))]
async fn left(write: &OwnedWriteHalf) {
    loop {
        match write.ready(tokio::io::Interest::PRIORITY).await {
            Ok(ready) if ready.is_read_closed() => return,
            Ok(_) => tokio::time::sleep(PRIORITY_PAUSE).await,
            Err(_) => return,
        }
    }
}

/// Elsewhere it has to be asked for.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
async fn left(write: &OwnedWriteHalf) {
    loop {
        match write.ready(tokio::io::Interest::READABLE).await {
            Ok(ready) if ready.is_read_closed() => return,
            Ok(_) => tokio::time::sleep(PRIORITY_PAUSE).await,
            Err(_) => return,
        }
    }
}

/// Urgent data, which HTTP has no use for, shall not make a loop spin. Half of the 100 ms within which a departure
/// is promised to be noticed.
const PRIORITY_PAUSE: Duration = Duration::from_millis(50);

/// Reads away what the client still sends, for a short time.
async fn linger(read: &mut OwnedReadHalf) {
    let mut scratch = vec![0; 16 * 1024];
    let mut left = LINGER_BYTES;
    let _ = tokio::time::timeout(LINGER, async {
        while left > 0 {
            match read.read(&mut scratch).await {
                Ok(0) | Err(_) => break,
                Ok(len) => left = left.saturating_sub(len),
            }
        }
    })
    .await;
}

/// Hands requests to the router, and keeps `progress` right.
struct Requests {
    router: Router,
    progress: Arc<Progress>,
    departure: Departure,
}

/// The client left before this request of its was looked at.
#[derive(Debug, thiserror::Error)]
#[error("the client left")]
struct ClientLeft;

impl Service<Request<Incoming>> for Requests {
    type Response = Response<Tracked>;
    type Error = ClientLeft;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ClientLeft>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        if self.progress.has_left() {
            return Box::pin(std::future::ready(Err(ClientLeft)));
        }
        self.progress.busy();
        let busy = Busy(Arc::clone(&self.progress));
        request.extensions_mut().insert(self.departure.clone());
        let mut router = self.router.clone();
        // HTTP/1.0 knows no chunks: without a length, a body ends with its connection.
        let by_closing = request.version() == Version::HTTP_10;
        Box::pin(async move {
            let Ok(mut response) = router.call(request).await;
            if busy.0.is_leaving() {
                // Told with an answer, a client does not send its next request into a connection that closes.
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            let body = response.body();
            busy.0.open_ended(by_closing && !body.is_end_stream() && body.size_hint().exact().is_none());
            Ok(response.map(|body| Tracked { body, busy }))
        })
    }
}

/// While it lives, a request is under way.
struct Busy(Arc<Progress>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.idle();
    }
}

/// The body of an answer; its end is the end of the request.
struct Tracked {
    body: Body,
    busy: Busy,
}

impl HttpBody for Tracked {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        ready!(self.busy.0.poll_room(cx));
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        let ended = match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                self.busy.0.queue(frame.data_ref().map_or(0, Bytes::len));
                self.body.is_end_stream()
            }
            Poll::Ready(None) => true,
            _ => false,
        };
        if ended {
            self.busy.0.open_ended(false);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
