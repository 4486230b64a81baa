//! Where a connection stands, and which deadline holds for it now.

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::time::Instant;

use super::{framing::Fault, heartbeat::Heartbeat, limits::Limits, shutdown::Leaving};

/// Shared by the socket, the service and the driver of one connection. They run on one thread; atomics only because
/// their types must be able to move between threads.
#[derive(Debug)]
pub(super) struct Progress {
    began: Instant,
    phase: AtomicU8,
    /// Milliseconds since `began` at which the phase began.
    since: AtomicU64,
    /// Milliseconds since `began`, plus one, at which writing began to stall; 0 = it does not.
    stalled: AtomicU64,
    left: AtomicBool,
    /// Requests that hyper got and that are not over.
    unserved: AtomicUsize,
    /// Requests of HTTP/1.1 whose last byte was read, and those that are over, in all.
    ended: AtomicUsize,
    over: AtomicUsize,
    /// When the last of `ended` was read, as `heartbeat` has it.
    ended_at: AtomicU64,
    /// How many bytes of further requests were seen to wait behind the one of this number, and when they became so many.
    unread: [AtomicU64; 2],
    unread_at: AtomicU64,
    /// Fewer bytes than this are no request.
    least: u64,
    heartbeat: Arc<Heartbeat>,
    /// What the client sends is not HTTP any more.
    fault: OnceLock<Fault>,
    /// A body is on its way whose only end is that of the connection.
    open_ended: AtomicBool,
    /// Bytes of bodies that hyper took and the socket did not.
    queued: AtomicUsize,
    /// The task that waits for `queued` to shrink.
    waiting: Mutex<Option<Waker>>,
    leaving: Leaving,
    /// The client knows that the connection closes.
    closing: AtomicBool,
}

/// hyper takes this much of a body ahead of the socket, and one piece more. Its own limit cannot be lower than that for
/// heads, and a client that does not read would hold all of it.
pub(super) const MAX_QUEUED: usize = 9 * 1024;

/// A client of HTTP/2 that has nothing under way gets this long to take its leave: a round trip and some.
const GOODBYE: Duration = Duration::from_secs(2);

/// The farewell of TLS has no more bytes than this, and a record with a request has more.
const FAREWELL: u64 = 31;

const SILENT: u8 = 0;
const IN_HEAD: u8 = 1;
const BUSY: u8 = 2;
const IDLE: u8 = 3;

impl Progress {
    /// Nothing came after accept.
    pub(super) const FIRST_BYTE: &'static str = "first_byte";
    /// The head did not come to its end.
    pub(super) const HEAD: &'static str = "head";
    /// No further request came.
    pub(super) const IDLE: &'static str = "keep_alive_idle";
    /// It was told that the connection closes, and did nothing.
    pub(super) const GOAWAY: &'static str = "goaway";
    /// The client did not read.
    pub(super) const WRITE_STALL: &'static str = "write_stall";

    pub(super) fn new(leaving: Leaving, heartbeat: Arc<Heartbeat>, is_tls: bool) -> Self {
        Self {
            began: Instant::now(),
            phase: AtomicU8::new(SILENT),
            since: AtomicU64::new(0),
            stalled: AtomicU64::new(0),
            left: AtomicBool::new(false),
            unserved: AtomicUsize::new(0),
            ended: AtomicUsize::new(0),
            over: AtomicUsize::new(0),
            ended_at: AtomicU64::new(0),
            unread: [AtomicU64::new(0), AtomicU64::new(0)],
            unread_at: AtomicU64::new(0),
            least: if is_tls { FAREWELL + 1 } else { 1 },
            heartbeat,
            fault: OnceLock::new(),
            open_ended: AtomicBool::new(false),
            queued: AtomicUsize::new(0),
            waiting: Mutex::new(None),
            leaving,
            closing: AtomicBool::new(false),
        }
    }

    /// Milliseconds since the connection began.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The moment that [`Self::now`] named.
    pub(super) fn at(&self, millis: u64) -> Instant {
        self.began + Duration::from_millis(millis)
    }

    fn enter(&self, phase: u8) {
        self.phase.store(phase, Ordering::Relaxed);
        self.since.store(self.now(), Ordering::Relaxed);
    }

    /// The client shook hands: from now on its first request is waited for. With HTTP/2 it said so much by then that
    /// it may keep the connection for later.
    pub(super) fn greeted(&self, is_h2: bool) {
        self.enter(if is_h2 { IDLE } else { SILENT });
    }

    /// Bytes came from the client.
    pub(super) fn received(&self) {
        if matches!(self.phase.load(Ordering::Relaxed), SILENT | IDLE) {
            self.enter(IN_HEAD);
        }
    }

    /// So many whole heads go to hyper.
    pub(super) fn passed(&self, heads: usize) {
        self.unserved.fetch_add(heads, Ordering::Relaxed);
    }

    /// So many requests were read to their last byte.
    pub(super) fn ended(&self, requests: usize) {
        if requests > 0 {
            self.ended.fetch_add(requests, Ordering::Relaxed);
            self.ended_at.store(self.heartbeat.request(), Ordering::Relaxed);
        }
    }

    /// Whether a client that closed its sending side just now waits for answers: it did so with its request, or before all of
    /// the request was read, or while none was under way. Such a client gets its whole answer, and is gone when a write fails.
    pub(super) fn is_half_closed(&self) -> bool {
        let is_whole = self.ended.load(Ordering::Relaxed) > self.over.load(Ordering::Relaxed);
        !(self.is_busy() && is_whole && self.heartbeat.is_over(self.ended_at.load(Ordering::Relaxed)))
    }

    /// The number of the request whose answer is under way, if it is the last one that was read, and read whole.
    pub(super) fn awaited(&self) -> Option<usize> {
        let (ended, over) = (self.ended.load(Ordering::Relaxed), self.over.load(Ordering::Relaxed));
        (self.is_busy() && ended > over).then_some(ended)
    }

    /// So many bytes wait behind the request that is awaited. Returned is whether there are more than before.
    pub(super) fn unread(&self, bytes: u64) -> bool {
        let Some(request) = self.awaited().and_then(|request| u64::try_from(request).ok()) else { return false };
        let [of, before] = &self.unread;
        let known = if of.swap(request, Ordering::Relaxed) == request { before.load(Ordering::Relaxed) } else { 0 };
        before.store(bytes, Ordering::Relaxed);
        let more = bytes >= known.saturating_add(self.least);
        if more {
            self.unread_at.store(self.heartbeat.request(), Ordering::Relaxed);
        }
        more
    }

    /// Whether a client that closed its sending side just now did so with a further request, of which this many bytes wait to be
    /// read: they came with that end, or so shortly before it that it belongs to them. What began before is answered, too.
    pub(super) fn closes_with_unread(&self, bytes: u64) -> bool {
        self.unread(bytes) || (bytes >= self.least && !self.heartbeat.is_over(self.unread_at.load(Ordering::Relaxed)))
    }

    /// Nothing goes to hyper any more.
    pub(super) fn malformed(&self, fault: Fault) {
        let _ = self.fault.set(fault);
    }

    /// What is wrong with what the client sends.
    pub(super) fn fault(&self) -> Option<Fault> {
        self.fault.get().copied()
    }

    /// The same, once it is the next thing to answer: everything before it is answered and written out. A fault in a
    /// body is for the request that it is in.
    pub(super) fn fault_due(&self) -> Option<Fault> {
        let fault = self.fault().filter(|fault| !fault.is_in_body())?;
        (self.unserved.load(Ordering::Relaxed) == 0 && !self.is_stalled()).then_some(fault)
    }

    /// A request is under way: its own deadlines hold, not ours.
    pub(super) fn busy(&self) {
        self.phase.store(BUSY, Ordering::Relaxed);
    }

    /// The request is over.
    pub(super) fn idle(&self) {
        self.over.fetch_add(1, Ordering::Relaxed);
        if self.unserved.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.enter(IDLE);
        }
    }

    /// Requests that are not over.
    pub(super) fn unserved(&self) -> usize {
        self.unserved.load(Ordering::Relaxed)
    }

    /// The client is told that no further request is wanted.
    pub(super) fn closing(&self) {
        self.closing.store(true, Ordering::Relaxed);
        if self.is_at_rest() {
            self.enter(IDLE);
        }
    }

    /// Whether the connection shall end with its next answer.
    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.is_so()
    }

    /// Whether a request is under way.
    pub(super) fn is_busy(&self) -> bool {
        self.phase.load(Ordering::Relaxed) == BUSY
    }

    /// Nothing is under way, not even a head.
    pub(super) fn is_at_rest(&self) -> bool {
        matches!(self.phase.load(Ordering::Relaxed), SILENT | IDLE)
    }

    /// A body begins or ends whose only end, for the client, is that of the connection.
    pub(super) fn open_ended(&self, is: bool) {
        self.open_ended.store(is, Ordering::Relaxed);
    }

    /// Whether such a body did not come to its end.
    pub(super) fn is_open_ended(&self) -> bool {
        self.open_ended.load(Ordering::Relaxed)
    }

    /// The client takes nothing.
    pub(super) fn stalls(&self) {
        if self.stalled.load(Ordering::Relaxed) == 0 {
            self.stalled.store(self.now().saturating_add(1), Ordering::Relaxed);
        }
    }

    /// Whether the client took nothing of late.
    pub(super) fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed) > 0
    }

    /// The client took `len` bytes. Framing is among them: it makes `queued` a little too small for a moment, never
    /// too large.
    pub(super) fn flows(&self, len: usize) {
        self.stalled.store(0, Ordering::Relaxed);
        let queued = self.queued.load(Ordering::Relaxed).saturating_sub(len);
        self.queued.store(queued, Ordering::Relaxed);
        if queued < MAX_QUEUED
            && let Some(waker) = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            waker.wake();
        }
    }

    /// A piece of a body goes to hyper.
    pub(super) fn queue(&self, len: usize) {
        self.queued.fetch_add(len, Ordering::Relaxed);
    }

    /// Ready while hyper may have more of a body.
    pub(super) fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        if self.queued.load(Ordering::Relaxed) < MAX_QUEUED {
            return Poll::Ready(());
        }
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        Poll::Pending
    }

    /// The client is gone: nothing that it asked for is of use any more.
    pub(super) fn leave(&self) {
        self.left.store(true, Ordering::Relaxed);
    }

    /// Whether the client is gone.
    pub(super) fn has_left(&self) -> bool {
        self.left.load(Ordering::Relaxed)
    }

    /// The deadline that holds now, and its name.
    pub(super) fn due(&self, limits: &Limits) -> Option<(Instant, &'static str)> {
        let stalled = self.stalled.load(Ordering::Relaxed);
        if stalled > 0 {
            return Some((self.at(stalled - 1) + limits.write_stall, Self::WRITE_STALL));
        }
        let since = self.at(self.since.load(Ordering::Relaxed));
        match self.phase.load(Ordering::Relaxed) {
            SILENT | IDLE if self.closing.load(Ordering::Relaxed) => Some((since + GOODBYE, Self::GOAWAY)),
            SILENT => Some((since + limits.first_byte, Self::FIRST_BYTE)),
            IN_HEAD => Some((since + limits.head, Self::HEAD)),
            IDLE => Some((since + limits.idle, Self::IDLE)),
            _ => None,
        }
    }
}
