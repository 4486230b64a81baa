//! Relays the answer to the client: head and frames unchanged, an observer that only reads, one settlement.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Response, response::Parts};
use http_body::{Body, Frame, SizeHint};

use super::{
    attempt::upstream_request_id,
    closing::Closing,
    error::{ERROR_SOURCE, sign},
    learning::{AffinityRecorder, HeldFrame},
    observer::AnswerObserver,
    read_on::{DrainContext, DrainOnDrop},
    silence::LongestGap,
    source::{Fault, UpstreamBody},
    status::UPSTREAM,
};
use crate::{
    affinity::LearnedCount,
    config::OnIncomplete,
    domain::outcome::EndReason,
    protocol::observe::{Observation, Terminal},
    upstream::{
        Lease, Verdict,
        headers::{self, Media},
    },
};

/// Without this header, an nginx in front of Tidegate would buffer a stream.
const ACCEL_BUFFERING: &str = "x-accel-buffering";

/// An upstream's answer for the client.
pub(super) struct Reply {
    pub(super) head: Parts,
    pub(super) media: Media,
    pub(super) source: UpstreamBody,
    pub(super) on_incomplete: OnIncomplete,
    pub(super) silence: Duration,
    /// The slot at the upstream. `None` = the slot was released.
    pub(super) lease: Option<Lease>,
    /// The recorder of the answer's references. Only a success has a recorder.
    pub(super) lessons: Option<AffinityRecorder>,
}

/// Turns the upstream's answer into the client's response. `read_on` = how the answer is drained if the client leaves.
pub(super) fn relay(reply: Reply, closing: Closing, read_on: Option<DrainContext>) -> Response<ResponseBody> {
    let (theirs, mut relay) = Relay::new(reply, closing, read_on);
    let outcome = relay.closing.settlement.outcome();
    outcome.status = Some(theirs.status);
    let (id, streamed) = (outcome.id, outcome.streamed);

    let mut head = headers::down(theirs.headers);
    sign(&mut head, id);
    if theirs.status.is_client_error() || theirs.status.is_server_error() {
        head.insert(ERROR_SOURCE, HeaderValue::from_static(UPSTREAM));
    }
    if streamed {
        head.insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
    }
    // The server never polls an empty body.
    if relay.source.is_end() && !relay.may_break() {
        relay.end();
    }
    let mut response = Response::new(ResponseBody::Relay(DrainOnDrop::new(relay)));
    *response.status_mut() = theirs.status;
    *response.headers_mut() = head;
    response
}

/// The body of a response: relayed from an upstream, or made by Tidegate.
#[derive(Debug)]
pub enum ResponseBody {
    /// From an upstream.
    Relay(DrainOnDrop),
    /// Made by Tidegate, complete.
    Whole(Option<Bytes>),
}

impl ResponseBody {
    /// Creates a body that Tidegate made.
    pub fn whole(body: Bytes) -> Self {
        Self::Whole(Some(body))
    }
}

/// Why a relayed body broke off. The client sees a broken transfer, because Tidegate never adds anything to a stream.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The upstream's transfer broke, or Tidegate had to break the answer.
    #[error("{0}")]
    Upstream(Fault),
    /// The upstream was silent for too long.
    #[error("the upstream was silent for too long")]
    Silent,
    /// The stream ended without a terminal event, and `on_incomplete = "break"`.
    #[error("the stream ended without a terminal event")]
    Incomplete,
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = RelayError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RelayError>>> {
        match self.get_mut() {
            Self::Relay(held) => held.poll(cx),
            Self::Whole(body) => Poll::Ready(body.take().map(|body| Ok(Frame::data(body)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Relay(held) => held.relay().is_none_or(|relay| relay.over && relay.broken.is_none()),
            Self::Whole(body) => body.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Relay(held) => match held.relay() {
                // A held frame is not in the source any more.
                Some(relay) if !relay.may_break() && relay.held_back.is_none() => relay.source.size_hint(),
                _ => SizeHint::default(),
            },
            Self::Whole(body) => SizeHint::with_exact(body.as_ref().map_or(0, |body| body.len() as u64)),
        }
    }
}

/// An upstream's body on its way to the client. The server's own task polls the body, without a pump, a channel or a buffer.
#[derive(Debug)]
pub(super) struct Relay {
    source: UpstreamBody,
    watcher: AnswerObserver,
    /// The first byte of the body.
    first: Option<u8>,
    /// Whether a model works for the answer, so that the answer is not only looked up.
    works: bool,
    closing: Closing,
    succeeded: bool,
    on_incomplete: OnIncomplete,
    silence: LongestGap,
    lease: Option<Lease>,
    lessons: Option<AffinityRecorder>,
    /// The last piece, if other replicas must know its references before the client.
    held_back: Option<HeldFrame>,
    /// How the answer is drained if the client leaves.
    read_on: Option<DrainContext>,
    /// Whether the client left and the drain goes on.
    left: bool,
    /// Whether the request is settled.
    over: bool,
    /// The error of the next poll.
    broken: Option<RelayError>,
}

impl Relay {
    /// Returns the head of the answer and its relayed body.
    pub(super) fn new(reply: Reply, mut closing: Closing, read_on: Option<DrainContext>) -> (Parts, Self) {
        let Reply { head, media, source, on_incomplete, silence, lease, lessons } = reply;
        if let Some(lessons) = &lessons {
            lessons.head(&head.headers);
        }
        let (streamed, succeeded) = (media == Media::EventStream, head.status.is_success());
        let outcome = closing.settlement.outcome();
        let watcher = AnswerObserver::new(outcome.endpoint, succeeded, media, headers::coded(&head.headers));
        let works = !outcome.is_free();
        // After several attempts the row keeps the id of the answer that the client gets.
        outcome.upstream_request_id = upstream_request_id(&head.headers).map(Into::into);
        outcome.streamed = streamed;
        let relay = Self {
            source,
            watcher,
            first: None,
            works,
            closing,
            succeeded,
            on_incomplete,
            silence: LongestGap::new(silence),
            lease,
            lessons,
            held_back: None,
            read_on,
            left: false,
            over: false,
            broken: None,
        };
        (head, relay)
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RelayError>>> {
        if let Some(broken) = self.broken.take() {
            return Poll::Ready(Some(Err(broken)));
        }
        if self.over {
            return Poll::Ready(None);
        }
        if self.held_back.is_some() {
            return self.poll_held_back(cx);
        }
        loop {
            let polled = self.source.poll(cx);
            if polled.is_pending() {
                ready!(self.silence.poll(cx));
                self.settle_broken(EndReason::UpstreamStalled);
                return Poll::Ready(Some(Err(RelayError::Silent)));
            }
            return match ready!(polled) {
                Some(Ok(frame)) => {
                    // Trailers belong to one connection and are not forwarded.
                    let Ok(data) = frame.into_data() else { continue };
                    self.look(&data);
                    self.held_back = self.learn().and_then(|(lessons, mark)| lessons.hold_back(&data, mark));
                    if self.held_back.is_some() { self.poll_held_back(cx) } else { self.pass(data) }
                }
                Some(Err(error)) => {
                    self.settle_broken(EndReason::UpstreamBroken);
                    self.break_off(RelayError::Upstream(error), cx)
                }
                None => match self.end() {
                    EndReason::Incomplete if self.may_break() => self.break_off(RelayError::Incomplete, cx),
                    _ => Poll::Ready(None),
                },
            };
        }
    }

    /// Waits until the held frame may be sent. This answer makes no progress during the wait, but other answers do.
    fn poll_held_back(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RelayError>>> {
        let Some(held) = &mut self.held_back else { return Poll::Ready(None) };
        // After the client left, no one can use the references early.
        if !self.left {
            let known = ready!(held.poll(cx));
            if let Some(lessons) = &mut self.lessons {
                lessons.waited(known);
            }
        }
        let piece = std::mem::take(&mut held.piece);
        self.held_back = None;
        self.pass(piece)
    }

    fn pass(&mut self, data: Bytes) -> Poll<Option<Result<Frame<Bytes>, RelayError>>> {
        // The server does not poll a body of known length again after its last byte.
        if self.source.is_end() && !self.may_break() {
            self.end();
        }
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    /// Records the references of the last piece.
    fn learn(&mut self) -> Option<(&AffinityRecorder, LearnedCount)> {
        let learned = self.watcher.observer.take_learned();
        let lessons = self.lessons.as_ref().filter(|_| !learned.is_empty())?;
        Some((lessons, lessons.body(&learned)))
    }

    fn look(&mut self, data: &Bytes) {
        self.silence.broken();
        self.first = self.first.or_else(|| data.first().copied());
        self.closing.settlement.first_byte();
        if self.succeeded
            && let Some(lease) = &mut self.lease
        {
            lease.answers(self.works);
        }
        let (left, outcome) = (self.left, self.closing.settlement.outcome());
        *(if left { &mut outcome.bytes_drained } else { &mut outcome.bytes_down }) += data.len() as u64;
        self.watcher.observer.feed(data);
        self.closing.settlement.thinks(self.watcher.observer.is_thinking());
    }

    /// Whether this body may have to break at a clean end. The length of such a body must not be announced.
    fn may_break(&self) -> bool {
        self.succeeded && self.on_incomplete == OnIncomplete::Break && self.watcher.is_watched_stream()
    }

    /// Settles after the upstream's body ended cleanly.
    fn end(&mut self) -> EndReason {
        self.watcher.observer.finish();
        // The end completes a last event without its blank line.
        let _ = self.learn();
        // A stream that a client resumed after its last event is empty.
        let resumed_at_its_end = !self.works && self.closing.settlement.outcome().bytes_down == 0;
        let end = match self.terminal() {
            _ if !self.succeeded => EndReason::UpstreamError,
            Some(terminal) => end_of(terminal),
            None if self.watcher.is_watched_stream() && !resumed_at_its_end => EndReason::Incomplete,
            // The answer is text, an HTML page, an error in another form, or empty.
            None if self.works && self.sum_up().made_nothing() => EndReason::ResponseFailed,
            None => EndReason::Completed,
        };
        self.settle(end);
        end
    }

    /// Fails at the next poll. hyper drops its buffered bytes when a body fails. The delay lets hyper first send the bytes
    /// before the break.
    fn break_off(&mut self, broken: RelayError, cx: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RelayError>>> {
        self.broken = Some(broken);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn settle_broken(&mut self, end: EndReason) {
        // A client is done at the terminal event, whatever the transfer does after that.
        self.settle(self.terminal().map_or(end, end_of));
    }

    /// Returns how the response ended. A response that is only looked up may have failed long ago.
    fn terminal(&self) -> Option<Terminal> {
        let seen = self.watcher.observer.seen();
        seen.terminal.filter(|_| self.works || seen.is_error || self.watcher.is_watched_stream())
    }

    /// Returns what the observer saw so far.
    fn sum_up(&mut self) -> &Observation {
        let bytes = self.closing.settlement.outcome().bytes_seen();
        self.watcher.sum_up(bytes)
    }

    fn settle(&mut self, end: EndReason) {
        self.over = true;
        if let Some(mut lease) = self.lease.take() {
            lease.report(match end {
                EndReason::UpstreamBroken | EndReason::UpstreamStalled => Verdict::Failed,
                // Many providers end a stream without its terminal event, and some label JSON as a stream.
                EndReason::Incomplete if !self.has_output() => Verdict::Failed,
                EndReason::UpstreamError => Verdict::Declined,
                _ => Verdict::Answered,
            });
        }
        self.note_seen();
        if self.left { self.closing.leave() } else { self.closing.close(end) }
    }

    /// Whether anything but comments arrived. Relays send comments while they wait.
    fn has_output(&self) -> bool {
        self.watcher.observer.seen().events > 0 || self.first.is_some_and(|first| first != b':')
    }

    fn note_seen(&mut self) {
        let bytes = self.closing.settlement.outcome().bytes_seen();
        self.closing.settlement.outcome().streamed = self.watcher.observer.is_stream();
        let seen = self.watcher.sum_up(bytes);
        self.closing.settlement.seen(seen);
        let outcome = self.closing.settlement.outcome();
        for name in [&mut outcome.response_id, &mut outcome.upstream_code] {
            self.source.mask_name(name);
        }
        if let Some(lessons) = self.lessons.as_ref().filter(|_| seen.dropped > 0) {
            lessons.overlook(seen.dropped);
        }
    }

    /// Returns how the answer is drained after the client left. `None` = the drain would not reveal more usage.
    pub(super) fn reads_on(&mut self) -> Option<DrainContext> {
        let streamed = self.closing.settlement.outcome().streamed;
        self.read_on.take().filter(|read_on| (read_on.streams || !streamed) && self.tells_more())
    }

    /// Whether reading on can reveal more usage. An error costs nothing, and an unreadable answer reveals nothing.
    fn tells_more(&self) -> bool {
        let seen = self.watcher.observer.seen();
        let known = seen.terminal.is_some() && (!self.left || !seen.usage.is_empty());
        !self.over && self.succeeded && !self.watcher.observer.is_blind() && !known
    }

    /// Drains the answer until its cost is known, but at most `most` bytes.
    pub(super) async fn read_on(mut self: Box<Self>, most: u64) {
        self.left = true;
        while self.tells_more() && self.closing.settlement.outcome().bytes_drained < most {
            poll_fn(|cx| self.poll(cx)).await;
        }
    }
}

impl Drop for Relay {
    /// Settles an answer whose client left or was disconnected. After the terminal event the answer is a success, because Codex
    /// disconnects right there.
    fn drop(&mut self) {
        if !self.over {
            // An answer with a first byte counts for the health state. Without a first byte nothing is known.
            if self.closing.settlement.outcome().bytes_seen() > 0
                && let Some(mut lease) = self.lease.take()
            {
                if self.succeeded { lease.client_left(self.silence.since()) } else { lease.report(Verdict::Declined) }
            }
            if self.left {
                self.watcher.observer.cut_short();
            }
            self.note_seen();
            match self.terminal() {
                Some(terminal) if !self.left => self.closing.close(end_of(terminal)),
                // The connection's disconnect record says why it ended.
                _ => self.closing.leave(),
            }
        }
    }
}

fn end_of(terminal: Terminal) -> EndReason {
    match terminal {
        Terminal::Completed => EndReason::Completed,
        Terminal::Failed => EndReason::ResponseFailed,
        Terminal::Incomplete => EndReason::ResponseIncomplete,
    }
}
