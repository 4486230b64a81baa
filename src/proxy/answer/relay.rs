//! Relays the body of an answer to the client: frames unchanged, an observer that only reads, one settlement at the end.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::response::Parts;
use http_body::{Frame, SizeHint};

use super::{
    affinity_recorder::{AffinityRecorder, HeldFrame},
    observer::AnswerObserver,
    reply::{Reply, upstream_request_id},
    silence::LongestGap,
    upstream_body::{BodyError, UpstreamBody},
};
use crate::{
    affinity::LearnedCount,
    config::OnIncomplete,
    domain::outcome::EndReason,
    protocol::observe::{Observation, Terminal},
    proxy::settle::SettleOnDrop,
    upstream::{
        Lease, Verdict,
        headers::{self, Media},
    },
};

/// Why the body of an answer broke off on its way to the client. The client sees a broken transfer, because Tidegate never adds anything
/// to a stream.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The upstream's transfer broke, or Tidegate had to break the answer.
    #[error("{0}")]
    Upstream(BodyError),
    /// The upstream was silent for too long.
    #[error("the upstream sent no data for too long in the middle of an answer")]
    Silent,
    /// The stream ended without a terminal event, and `on_incomplete = "break"`.
    #[error("the stream of the upstream ended without a terminal event, so the answer is incomplete")]
    Incomplete,
}

/// An upstream's body on its way to the client. The server's own task polls the body, without a pump, a channel or a buffer.
#[derive(Debug)]
pub(in crate::proxy) struct Relay {
    source: UpstreamBody,
    watcher: AnswerObserver,
    /// The first byte of the body.
    first: Option<u8>,
    /// Whether a model generates the answer, so that the answer is not only looked up.
    is_generated: bool,
    guard: SettleOnDrop,
    succeeded: bool,
    on_incomplete: OnIncomplete,
    silence: LongestGap,
    lease: Option<Lease>,
    recorder: Option<AffinityRecorder>,
    /// The last piece, if other replicas must know its references before the client.
    held_back: Option<HeldFrame>,
    /// Whether the client left and the answer is drained.
    client_disconnected: bool,
    /// Whether the request is settled.
    over: bool,
    /// The error of the next poll.
    broken: Option<RelayError>,
}

impl Relay {
    /// Returns the head of the answer and its relayed body.
    pub(in crate::proxy) fn new(reply: Reply, mut guard: SettleOnDrop) -> (Parts, Self) {
        let Reply { head, media, source, on_incomplete, silence, lease, recorder } = reply;
        if let Some(recorder) = &recorder {
            recorder.record_head(&head.headers);
        }
        let (streamed, succeeded) = (media == Media::EventStream, head.status.is_success());
        let outcome = guard.settlement.outcome();
        let watcher = AnswerObserver::new(outcome.endpoint, succeeded, media, headers::coded(&head.headers));
        let is_generated = !outcome.is_free();
        // After several attempts the row keeps the id of the answer that the client gets.
        outcome.upstream_request_id = upstream_request_id(&head.headers).map(Into::into);
        outcome.streamed = streamed;
        let relay = Self {
            source,
            watcher,
            first: None,
            is_generated,
            guard,
            succeeded,
            on_incomplete,
            silence: LongestGap::new(silence),
            lease,
            recorder,
            held_back: None,
            client_disconnected: false,
            over: false,
            broken: None,
        };
        (head, relay)
    }

    pub(in crate::proxy) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RelayError>>> {
        if let Some(broken) = self.broken.take() {
            return Poll::Ready(Some(Err(broken)));
        }
        if self.over {
            return Poll::Ready(None);
        }
        if self.held_back.is_some() {
            return self.poll_held_back(cx);
        }
        let polled = self.source.poll(cx);
        if polled.is_pending() {
            ready!(self.silence.poll(cx));
            self.settle_broken(EndReason::UpstreamStalled);
            return Poll::Ready(Some(Err(RelayError::Silent)));
        }
        match ready!(polled) {
            Some(Ok(data)) => {
                self.look(&data);
                self.held_back = self.learn().and_then(|(recorder, mark)| recorder.hold_back(&data, mark));
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
        }
    }

    /// Waits until the held frame may be sent. This answer makes no progress during the wait, but other answers do.
    fn poll_held_back(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RelayError>>> {
        let Some(held) = &mut self.held_back else { return Poll::Ready(None) };
        // After the client left, no one can use the references early.
        if !self.client_disconnected {
            let known = ready!(held.poll(cx));
            if let Some(recorder) = &mut self.recorder {
                recorder.waited(known);
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
        let recorder = self.recorder.as_ref().filter(|_| !learned.is_empty())?;
        Some((recorder, recorder.record_body(&learned)))
    }

    fn look(&mut self, data: &Bytes) {
        self.silence.restart();
        self.first = self.first.or_else(|| data.first().copied());
        self.guard.settlement.first_byte();
        if self.succeeded
            && let Some(lease) = &mut self.lease
        {
            lease.answers(self.is_generated);
        }
        let (drained, outcome) = (self.client_disconnected, self.guard.settlement.outcome());
        *(if drained { &mut outcome.bytes_drained } else { &mut outcome.bytes_down }) += data.len() as u64;
        self.watcher.observer.feed(data);
        self.guard.settlement.set_reasoning(self.watcher.observer.is_thinking());
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
        let resumed_at_its_end = !self.is_generated && self.guard.settlement.outcome().bytes_down == 0;
        let end = match self.terminal() {
            _ if !self.succeeded => EndReason::UpstreamError,
            Some(terminal) => end_of(terminal),
            None if self.watcher.is_watched_stream() && !resumed_at_its_end => EndReason::Incomplete,
            // The answer is text, an HTML page, an error in another form, or empty.
            None if self.is_generated && self.sum_up().made_nothing() => EndReason::ResponseFailed,
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
        seen.terminal.filter(|_| self.is_generated || seen.is_error || self.watcher.is_watched_stream())
    }

    /// Returns what the observer saw so far.
    fn sum_up(&mut self) -> &Observation {
        let bytes = self.guard.settlement.outcome().bytes_seen();
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
        if self.client_disconnected { self.guard.settle_disconnected() } else { self.guard.settle(end) }
    }

    /// Whether anything but comments arrived. Relays send comments while they wait.
    fn has_output(&self) -> bool {
        self.watcher.observer.seen().events > 0 || self.first.is_some_and(|first| first != b':')
    }

    fn note_seen(&mut self) {
        let bytes = self.guard.settlement.outcome().bytes_seen();
        self.guard.settlement.outcome().streamed = self.watcher.observer.is_stream();
        let seen = self.watcher.sum_up(bytes);
        self.guard.settlement.record_observation(seen);
        let outcome = self.guard.settlement.outcome();
        for name in [&mut outcome.response_id, &mut outcome.upstream_code] {
            self.source.mask_name(name);
        }
        if let Some(recorder) = self.recorder.as_ref().filter(|_| seen.dropped > 0) {
            recorder.overlook(seen.dropped);
        }
    }

    /// Whether the answer is an event stream.
    pub(in crate::proxy) fn is_streamed(&mut self) -> bool {
        self.guard.settlement.outcome().streamed
    }

    /// Whether the rest of the answer can reveal more usage. An error costs nothing, and an unreadable answer reveals nothing.
    pub(in crate::proxy) fn reveals_more(&self) -> bool {
        let seen = self.watcher.observer.seen();
        let known = seen.terminal.is_some() && (!self.client_disconnected || !seen.usage.is_empty());
        !self.over && self.succeeded && !self.watcher.observer.is_blind() && !known
    }

    /// Notes that the client left. From now on the bytes of the answer are only observed.
    pub(in crate::proxy) fn client_disconnected(&mut self) {
        self.client_disconnected = true;
    }

    /// Returns how many bytes were read after the client left.
    pub(in crate::proxy) fn bytes_drained(&mut self) -> u64 {
        self.guard.settlement.outcome().bytes_drained
    }

    /// Whether the client got the whole body.
    pub(in crate::proxy) fn is_end_stream(&self) -> bool {
        self.over && self.broken.is_none()
    }

    /// Returns the size of the rest of the body, where that size may be announced.
    pub(in crate::proxy) fn size_hint(&self) -> SizeHint {
        // A held frame is not in the source any more.
        if self.may_break() || self.held_back.is_some() { SizeHint::default() } else { self.source.size_hint() }
    }

    /// Settles an answer without a body, which the server never polls.
    pub(in crate::proxy) fn end_if_empty(&mut self) {
        if self.source.is_end() && !self.may_break() {
            self.end();
        }
    }

    /// Settles an answer whose client left or was disconnected. After the terminal event the answer is a success, because Codex
    /// disconnects right there. Does nothing if the request is settled.
    pub(in crate::proxy) fn end_early(&mut self) {
        if self.over {
            return;
        }
        // An answer with a first byte counts for the health state. Without a first byte nothing is known.
        if self.guard.settlement.outcome().bytes_seen() > 0
            && let Some(mut lease) = self.lease.take()
        {
            if self.succeeded { lease.client_left(self.silence.since()) } else { lease.report(Verdict::Declined) }
        }
        if self.client_disconnected {
            self.watcher.observer.cut_short();
        }
        self.note_seen();
        match self.terminal() {
            Some(terminal) if !self.client_disconnected => self.guard.settle(end_of(terminal)),
            // The connection's disconnect record says why it ended.
            _ => self.guard.settle_disconnected(),
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
