//! The answer on its way down: head and frames as they came, an observer that only looks, one settlement.

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

/// nginx in front of Tidegate would hold a stream back without it.
const ACCEL_BUFFERING: &str = "x-accel-buffering";

/// An answer of an upstream that the client may have.
pub(super) struct Reply {
    pub(super) head: Parts,
    pub(super) media: Media,
    pub(super) source: UpstreamBody,
    pub(super) on_incomplete: OnIncomplete,
    pub(super) silence: Duration,
    /// The place at the upstream; none where it was let go.
    pub(super) lease: Option<Lease>,
    /// Only a success teaches anything.
    pub(super) lessons: Option<AffinityRecorder>,
}

/// Turns the upstream's answer into ours. `read_on` says how it goes on should the client leave.
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
    // An empty body is never polled.
    if relay.source.is_end() && !relay.may_break() {
        relay.end();
    }
    let mut response = Response::new(ResponseBody::Relay(DrainOnDrop::new(relay)));
    *response.status_mut() = theirs.status;
    *response.headers_mut() = head;
    response
}

/// The body of a response: an upstream's, relayed, or one of ours.
#[derive(Debug)]
pub enum ResponseBody {
    /// An upstream's.
    Relay(DrainOnDrop),
    /// One of ours, whole.
    Whole(Option<Bytes>),
}

impl ResponseBody {
    /// A body of ours.
    pub fn whole(body: Bytes) -> Self {
        Self::Whole(Some(body))
    }
}

/// Why a relayed body broke off. The client sees a broken transfer: nothing is ever synthesised into a stream.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The upstream's transfer broke, or had to be broken.
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
                // What is held back is not in the source any more.
                Some(relay) if !relay.may_break() && relay.held_back.is_none() => relay.source.size_hint(),
                _ => SizeHint::default(),
            },
            Self::Whole(body) => SizeHint::with_exact(body.as_ref().map_or(0, |body| body.len() as u64)),
        }
    }
}

/// An upstream's body on its way down, polled by the server's own task: no pump, no channel, no buffer.
#[derive(Debug)]
pub(super) struct Relay {
    source: UpstreamBody,
    watcher: AnswerObserver,
    /// The first byte of the body.
    first: Option<u8>,
    /// A model works for it: what it says is not merely looked up.
    works: bool,
    closing: Closing,
    succeeded: bool,
    on_incomplete: OnIncomplete,
    silence: LongestGap,
    lease: Option<Lease>,
    lessons: Option<AffinityRecorder>,
    /// The piece that came last, if others have to know first what it names.
    held_back: Option<HeldFrame>,
    /// How it goes on should the client leave.
    read_on: Option<DrainContext>,
    /// The client left, and it goes on.
    left: bool,
    /// Settled.
    over: bool,
    /// What the next poll fails with.
    broken: Option<RelayError>,
}

impl Relay {
    /// The head of the answer, and its body on its way.
    pub(super) fn new(reply: Reply, mut closing: Closing, read_on: Option<DrainContext>) -> (Parts, Self) {
        let Reply { head, media, source, on_incomplete, silence, lease, lessons } = reply;
        if let Some(lessons) = &lessons {
            lessons.head(&head.headers);
        }
        let (streamed, succeeded) = (media == Media::EventStream, head.status.is_success());
        let outcome = closing.settlement.outcome();
        let watcher = AnswerObserver::new(outcome.endpoint, succeeded, media, headers::coded(&head.headers));
        let works = !outcome.is_free();
        // Where several were asked, it is the one whose answer the client gets.
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
                    // Trailers belong to the connection that they came on.
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

    /// Nothing else is done for this answer while it waits, and others are not held up.
    fn poll_held_back(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RelayError>>> {
        let Some(held) = &mut self.held_back else { return Poll::Ready(None) };
        // Once the client left, nobody hears of it.
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
        // A body of known length is not polled again once it is out.
        if self.source.is_end() && !self.may_break() {
            self.end();
        }
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    /// Learns what the piece that was looked at left behind.
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

    /// Whether this body may have to break at a clean end, for which its length must not be announced.
    fn may_break(&self) -> bool {
        self.succeeded && self.on_incomplete == OnIncomplete::Break && self.watcher.is_watched_stream()
    }

    /// The upstream's body ended cleanly.
    fn end(&mut self) -> EndReason {
        self.watcher.observer.finish();
        // An event without its blank line is out by now.
        let _ = self.learn();
        // A stream that is resumed behind its last event has none.
        let resumed_at_its_end = !self.works && self.closing.settlement.outcome().bytes_down == 0;
        let end = match self.terminal() {
            _ if !self.succeeded => EndReason::UpstreamError,
            Some(terminal) => end_of(terminal),
            None if self.watcher.is_watched_stream() && !resumed_at_its_end => EndReason::Incomplete,
            // Text, a page, an error in another form, or nothing at all.
            None if self.works && self.sum_up().made_nothing() => EndReason::ResponseFailed,
            None => EndReason::Completed,
        };
        self.settle(end);
        end
    }

    /// hyper drops what it holds when a body fails. At the next turn it fails: until then hyper writes out what came
    /// before the break.
    fn break_off(&mut self, broken: RelayError, cx: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RelayError>>> {
        self.broken = Some(broken);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn settle_broken(&mut self, end: EndReason) {
        // Clients are done at the terminal event, whatever the transfer does after it.
        self.settle(self.terminal().map_or(end, end_of));
    }

    /// How the response ended. One that is looked up whole may have failed long ago.
    fn terminal(&self) -> Option<Terminal> {
        let seen = self.watcher.observer.seen();
        seen.terminal.filter(|_| self.works || seen.is_error || self.watcher.is_watched_stream())
    }

    /// What was seen so far.
    fn sum_up(&mut self) -> &Observation {
        let bytes = self.closing.settlement.outcome().bytes_seen();
        self.watcher.sum_up(bytes)
    }

    fn settle(&mut self, end: EndReason) {
        self.over = true;
        if let Some(mut lease) = self.lease.take() {
            lease.tell(match end {
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

    /// Whether anything came but comments, which relays send while they wait.
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

    /// How it goes on now that the client left; none where nothing more would be learned.
    pub(super) fn reads_on(&mut self) -> Option<DrainContext> {
        let streamed = self.closing.settlement.outcome().streamed;
        self.read_on.take().filter(|read_on| (read_on.streams || !streamed) && self.tells_more())
    }

    /// An error costs nothing, and what cannot be read tells nothing.
    fn tells_more(&self) -> bool {
        let seen = self.watcher.observer.seen();
        let known = seen.terminal.is_some() && (!self.left || !seen.usage.is_empty());
        !self.over && self.succeeded && !self.watcher.observer.is_blind() && !known
    }

    /// Reads what the client does not get any more, `most` bytes of it, until what it cost is known.
    pub(super) async fn read_on(mut self: Box<Self>, most: u64) {
        self.left = true;
        while self.tells_more() && self.closing.settlement.outcome().bytes_drained < most {
            poll_fn(|cx| self.poll(cx)).await;
        }
    }
}

impl Drop for Relay {
    /// The client left, or was cut. After the terminal event that is success: Codex hangs up right there.
    fn drop(&mut self) {
        if !self.over {
            // It answered, as far as anybody wanted to know. One that never came to its first byte says nothing.
            if self.closing.settlement.outcome().bytes_seen() > 0
                && let Some(mut lease) = self.lease.take()
            {
                if self.succeeded { lease.left(self.silence.since()) } else { lease.tell(Verdict::Declined) }
            }
            if self.left {
                self.watcher.observer.cut_short();
            }
            self.note_seen();
            match self.terminal() {
                Some(terminal) if !self.left => self.closing.close(end_of(terminal)),
                // The connection is asked why it ended.
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
