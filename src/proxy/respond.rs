//! The answer on its way down: head and frames as they came, an observer that only looks, one settlement.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Response, response::Parts};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::{attempt::upstream_request_id, closing::Closing, error::sign};
use crate::{
    config::OnIncomplete,
    domain::outcome::End,
    protocol::observe::{Dialect, Observer, Terminal},
    upstream::{
        Lease, Verdict,
        headers::{self, Media},
    },
};

/// nginx in front of Tidegate would hold a stream back without it.
const ACCEL_BUFFERING: &str = "x-accel-buffering";

/// An answer of an upstream that the client may have.
pub(super) struct Reply {
    pub(super) head: Parts,
    pub(super) media: Media,
    pub(super) source: Source,
    pub(super) on_incomplete: OnIncomplete,
    pub(super) silence: Duration,
    /// The place at the upstream; none where it was let go.
    pub(super) lease: Option<Lease>,
}

/// The body of an upstream's answer, of which the beginning may have been read already.
#[derive(Debug)]
pub(super) struct Source {
    read: VecDeque<Bytes>,
    rest: Option<Incoming>,
    /// How it broke while it was read: hyper's body tells that once, and then looks as if it had ended.
    broken: Option<hyper::Error>,
}

impl From<Incoming> for Source {
    fn from(body: Incoming) -> Self {
        Self { read: VecDeque::new(), rest: Some(body), broken: None }
    }
}

impl Source {
    /// The next piece, for who judges the answer.
    pub(super) async fn next(&mut self) -> Option<Result<Bytes, hyper::Error>> {
        loop {
            match poll_fn(|cx| self.poll(cx)).await? {
                // Trailers belong to the connection that they came on.
                Ok(frame) => {
                    if let Ok(data) = frame.into_data() {
                        return Some(Ok(data));
                    }
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// Waits until the first byte is here; none where there will be none.
    pub(super) async fn fill(&mut self) -> Option<Result<(), hyper::Error>> {
        loop {
            match self.next().await? {
                Ok(data) if data.is_empty() => {}
                Ok(data) => {
                    self.put_back(vec![data]);
                    return Some(Ok(()));
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// Gives back what was read, for the client.
    pub(super) fn put_back(&mut self, read: Vec<Bytes>) {
        for data in read.into_iter().rev() {
            self.read.push_front(data);
        }
    }

    /// Breaks after what was read, as it did when it was read.
    pub(super) fn breaks(&mut self, error: hyper::Error) {
        self.broken = Some(error);
        self.rest = None;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(data) = self.read.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        match &mut self.rest {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end(&self) -> bool {
        self.read.is_empty() && self.broken.is_none() && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        if self.broken.is_some() {
            return SizeHint::default();
        }
        let read: u64 = self.read.iter().map(|data| data.len() as u64).sum();
        match self.rest.as_ref().map(Body::size_hint) {
            None => SizeHint::with_exact(read),
            Some(rest) => rest.exact().map_or_else(SizeHint::default, |rest| SizeHint::with_exact(read + rest)),
        }
    }
}

/// Turns the upstream's answer into ours.
pub(super) fn relay(reply: Reply, mut closing: Closing) -> Response<Answer> {
    let streamed = reply.media == Media::EventStream;
    let readable = !headers::is_coded(&reply.head.headers);
    let observer = match reply.media {
        Media::EventStream if readable => Observer::stream(Dialect::Responses),
        Media::Json if readable => Observer::json(Dialect::Responses),
        _ => Observer::opaque(),
    };
    let outcome = closing.settlement.outcome();
    outcome.status = Some(reply.head.status);
    // Where several were asked, it is the one whose answer the client gets.
    outcome.upstream_request_id = upstream_request_id(&reply.head.headers).map(Into::into);
    outcome.streamed = streamed;
    let id = outcome.id;

    let mut head = headers::down(reply.head.headers);
    sign(&mut head, id);
    if streamed {
        head.insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
    }
    let mut relay = Relay {
        source: reply.source,
        observer,
        watched_stream: streamed && readable,
        closing,
        succeeded: reply.head.status.is_success(),
        on_incomplete: reply.on_incomplete,
        silence: Silence::new(reply.silence),
        lease: reply.lease,
        over: false,
        broken: None,
    };
    // An empty body is never polled.
    if relay.source.is_end() && !relay.may_break() {
        relay.end();
    }
    let mut response = Response::new(Answer::Relay(Box::new(relay)));
    *response.status_mut() = reply.head.status;
    *response.headers_mut() = head;
    response
}

/// The body of a response: an upstream's, relayed, or one of ours.
#[derive(Debug)]
pub enum Answer {
    /// An upstream's.
    Relay(Box<Relay>),
    /// One of ours, whole.
    Whole(Option<Bytes>),
}

impl Answer {
    /// A body of ours.
    pub fn whole(body: Bytes) -> Self {
        Self::Whole(Some(body))
    }
}

/// Why a relayed body broke off. The client sees a broken transfer: nothing is ever synthesised into a stream.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The upstream's transfer broke.
    #[error("the upstream's transfer broke: {0}")]
    Upstream(hyper::Error),
    /// The upstream was silent for too long.
    #[error("the upstream was silent for too long")]
    Silent,
    /// The stream ended without a terminal event, and `on_incomplete = "break"`.
    #[error("the stream ended without a terminal event")]
    Incomplete,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match self.get_mut() {
            Self::Relay(relay) => relay.poll(cx),
            Self::Whole(body) => Poll::Ready(body.take().map(|body| Ok(Frame::data(body)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Relay(relay) => relay.over && relay.broken.is_none(),
            Self::Whole(body) => body.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Relay(relay) if relay.may_break() => SizeHint::default(),
            Self::Relay(relay) => relay.source.size_hint(),
            Self::Whole(body) => SizeHint::with_exact(body.as_ref().map_or(0, |body| body.len() as u64)),
        }
    }
}

/// An upstream's body on its way down, polled by the server's own task: no pump, no channel, no buffer.
#[derive(Debug)]
pub struct Relay {
    source: Source,
    observer: Observer,
    /// An event stream whose events can be seen: it has to hold a terminal one.
    watched_stream: bool,
    closing: Closing,
    succeeded: bool,
    on_incomplete: OnIncomplete,
    silence: Silence,
    lease: Option<Lease>,
    /// Settled.
    over: bool,
    /// What the next poll fails with.
    broken: Option<Broken>,
}

impl Relay {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if let Some(broken) = self.broken.take() {
            return Poll::Ready(Some(Err(broken)));
        }
        if self.over {
            return Poll::Ready(None);
        }
        loop {
            let polled = self.source.poll(cx);
            if polled.is_pending() {
                ready!(self.silence.poll(cx));
                self.settle_broken(End::UpstreamStalled);
                return Poll::Ready(Some(Err(Broken::Silent)));
            }
            return match ready!(polled) {
                Some(Ok(frame)) => {
                    // Trailers belong to the connection that they came on.
                    let Ok(data) = frame.into_data() else { continue };
                    self.look(&data);
                    // A body of known length is not polled again once it is out.
                    if self.source.is_end() && !self.may_break() {
                        self.end();
                    }
                    Poll::Ready(Some(Ok(Frame::data(data))))
                }
                Some(Err(error)) => {
                    self.settle_broken(End::UpstreamBroken);
                    self.break_off(Broken::Upstream(error), cx)
                }
                None => match self.end() {
                    End::Incomplete if self.may_break() => self.break_off(Broken::Incomplete, cx),
                    _ => Poll::Ready(None),
                },
            };
        }
    }

    fn look(&mut self, data: &Bytes) {
        self.silence.broken();
        self.closing.settlement.first_byte();
        if self.succeeded
            && let Some(lease) = &mut self.lease
        {
            lease.answers();
        }
        self.closing.settlement.outcome().bytes_down += data.len() as u64;
        self.observer.feed(data);
    }

    /// Whether this body may have to break at a clean end, for which its length must not be announced.
    fn may_break(&self) -> bool {
        self.succeeded && self.on_incomplete == OnIncomplete::Break && self.watched_stream
    }

    /// The upstream's body ended cleanly.
    fn end(&mut self) -> End {
        self.observer.finish();
        let end = match self.observer.seen().terminal {
            _ if !self.succeeded => End::UpstreamError,
            Some(terminal) => end_of(terminal),
            None if self.watched_stream => End::Incomplete,
            None => End::Completed,
        };
        self.settle(end);
        end
    }

    /// hyper drops what it holds when a body fails. At the next turn it fails: until then hyper writes out what came
    /// before the break.
    fn break_off(&mut self, broken: Broken, cx: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.broken = Some(broken);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn settle_broken(&mut self, end: End) {
        // Clients are done at the terminal event, whatever the transfer does after it.
        self.settle(self.observer.seen().terminal.map_or(end, end_of));
    }

    fn settle(&mut self, end: End) {
        self.over = true;
        if let Some(mut lease) = self.lease.take() {
            lease.tell(match end {
                End::UpstreamBroken | End::UpstreamStalled | End::Incomplete => Verdict::Failed,
                _ => Verdict::Answered,
            });
        }
        self.closing.settlement.seen(self.observer.seen());
        self.closing.close(end);
    }
}

impl Drop for Relay {
    /// The client left, or was cut. After the terminal event that is success: Codex hangs up right there.
    fn drop(&mut self) {
        if !self.over {
            // It answered, as far as anybody wanted to know. One that never came to its first byte says nothing.
            if self.closing.settlement.outcome().bytes_down > 0
                && let Some(mut lease) = self.lease.take()
            {
                lease.left(self.silence.since);
            }
            self.closing.settlement.seen(self.observer.seen());
            if let Some(terminal) = self.observer.seen().terminal {
                self.closing.close(end_of(terminal));
            }
            // Otherwise the connection is asked why it ended.
        }
    }
}

fn end_of(terminal: Terminal) -> End {
    match terminal {
        Terminal::Completed => End::Completed,
        Terminal::Failed => End::ResponseFailed,
        Terminal::Incomplete => End::ResponseIncomplete,
    }
}

/// The longest gap inside an answer. One timer a stream, made at the first gap and moved only when it fires: an answer
/// that is there at once costs none, a busy stream next to nothing.
#[derive(Debug)]
struct Silence {
    limit: Duration,
    since: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Silence {
    fn new(limit: Duration) -> Self {
        Self { limit, since: Instant::now(), timer: None }
    }

    /// Something came.
    fn broken(&mut self) {
        self.since = Instant::now();
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let until = self.since + self.limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        loop {
            ready!(timer.as_mut().poll(cx));
            if until <= Instant::now() {
                return Poll::Ready(());
            }
            timer.as_mut().reset(until);
        }
    }
}
