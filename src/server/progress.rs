//! The state of a connection, and the deadline that follows from it.

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::time::Instant;

use super::{deadlines::Deadlines, framing::FramingError, heartbeat::Heartbeat, shutdown::Leaving};

/// Shared by the socket, the service and the driver of one connection. All run on one thread; the fields are atomic
/// only because their owners must be `Send`.
#[derive(Debug)]
pub(super) struct Progress {
    started: Instant,
    phase: AtomicU8,
    /// When the phase began, in milliseconds since `started`.
    since: AtomicU64,
    /// When writing began to stall, in milliseconds since `started`, plus one. 0 means no stall.
    stalled: AtomicU64,
    left: AtomicBool,
    /// The number of requests that hyper got and that have not ended.
    open_requests: AtomicUsize,
    /// The numbers of HTTP/1.1 requests that were read completely and that have ended, since the connection began.
    requests_read: AtomicUsize,
    requests_ended: AtomicUsize,
    /// When the last request was read completely, by the clock of `heartbeat`.
    last_read_at: AtomicU64,
    /// The number of the current request, and how many unread bytes of further requests wait behind it.
    unread: [AtomicU64; 2],
    unread_at: AtomicU64,
    /// Fewer unread bytes than this cannot be a request.
    min_request_bytes: u64,
    heartbeat: Arc<Heartbeat>,
    /// Set when the client sends invalid HTTP.
    fault: OnceLock<FramingError>,
    /// Whether the current answer's body ends only with the connection.
    open_ended: AtomicBool,
    /// Bytes of bodies that hyper has and the socket has not accepted yet.
    queued: AtomicUsize,
    /// The task that waits until `queued` shrinks.
    body_waker: Mutex<Option<Waker>>,
    leaving: Leaving,
    /// Whether the client was told that the connection closes.
    closing: AtomicBool,
}

/// How much of a body hyper may hold before the socket accepts it; one more piece may follow. hyper's own limit cannot
/// be lower than its limit for heads, and a client that does not read would occupy all of that.
pub(super) const MAX_QUEUED: usize = 9 * 1024;

/// How long an idle HTTP/2 client may take to close after GOAWAY: more than one round trip.
const GOAWAY_TIMEOUT: Duration = Duration::from_secs(2);

/// The most bytes of a TLS `close_notify`. A record with a request is longer.
const CLOSE_NOTIFY_BYTES: u64 = 31;

const NO_BYTE_YET: u8 = 0;
const IN_HEAD: u8 = 1;
const BUSY: u8 = 2;
const IDLE: u8 = 3;

impl Progress {
    /// The first byte after accept did not arrive in time.
    pub(super) const FIRST_BYTE: &'static str = "first_byte";
    /// The head did not arrive completely in time.
    pub(super) const HEAD: &'static str = "head";
    /// No further request came in time.
    pub(super) const IDLE: &'static str = "keep_alive_idle";
    /// The client got GOAWAY and did not close.
    pub(super) const GOAWAY: &'static str = "goaway";
    /// The client did not read.
    pub(super) const WRITE_STALL: &'static str = "write_stall";

    pub(super) fn new(leaving: Leaving, heartbeat: Arc<Heartbeat>, is_tls: bool) -> Self {
        Self {
            started: Instant::now(),
            phase: AtomicU8::new(NO_BYTE_YET),
            since: AtomicU64::new(0),
            stalled: AtomicU64::new(0),
            left: AtomicBool::new(false),
            open_requests: AtomicUsize::new(0),
            requests_read: AtomicUsize::new(0),
            requests_ended: AtomicUsize::new(0),
            last_read_at: AtomicU64::new(0),
            unread: [AtomicU64::new(0), AtomicU64::new(0)],
            unread_at: AtomicU64::new(0),
            min_request_bytes: if is_tls { CLOSE_NOTIFY_BYTES + 1 } else { 1 },
            heartbeat,
            fault: OnceLock::new(),
            open_ended: AtomicBool::new(false),
            queued: AtomicUsize::new(0),
            body_waker: Mutex::new(None),
            leaving,
            closing: AtomicBool::new(false),
        }
    }

    /// Milliseconds since the connection began.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Converts a time of [`Self::now`] to an `Instant`.
    pub(super) fn at(&self, millis: u64) -> Instant {
        self.started + Duration::from_millis(millis)
    }

    fn enter(&self, phase: u8) {
        self.phase.store(phase, Ordering::Relaxed);
        self.since.store(self.now(), Ordering::Relaxed);
    }

    /// The TLS handshake is done, and the first request may come. An HTTP/2 client has sent so much by then that it may
    /// keep the connection idle.
    pub(super) fn handshake_done(&self, is_h2: bool) {
        self.enter(if is_h2 { IDLE } else { NO_BYTE_YET });
    }

    /// Bytes arrived from the client.
    pub(super) fn received(&self) {
        if matches!(self.phase.load(Ordering::Relaxed), NO_BYTE_YET | IDLE) {
            self.enter(IN_HEAD);
        }
    }

    /// This many complete heads go to hyper.
    pub(super) fn heads_passed(&self, heads: usize) {
        self.open_requests.fetch_add(heads, Ordering::Relaxed);
    }

    /// This many requests were read to their last byte.
    pub(super) fn requests_read(&self, requests: usize) {
        if requests > 0 {
            self.requests_read.fetch_add(requests, Ordering::Relaxed);
            self.last_read_at.store(self.heartbeat.request(), Ordering::Relaxed);
        }
    }

    /// Whether a client that closed its sending side just now still waits for answers. It does if it closed together
    /// with its request, before the whole request was read, or while no request was in progress. Such a client gets its
    /// whole answer; it counts as gone only when a write fails.
    pub(super) fn is_half_closed(&self) -> bool {
        let is_whole = self.requests_read.load(Ordering::Relaxed) > self.requests_ended.load(Ordering::Relaxed);
        !(self.is_busy() && is_whole && self.heartbeat.is_over(self.last_read_at.load(Ordering::Relaxed)))
    }

    /// The number of the request that is being answered, if it is the last one and was read completely.
    pub(super) fn awaited_request(&self) -> Option<usize> {
        let (requests_read, requests_ended) =
            (self.requests_read.load(Ordering::Relaxed), self.requests_ended.load(Ordering::Relaxed));
        (self.is_busy() && requests_read > requests_ended).then_some(requests_read)
    }

    /// Records that this many unread bytes wait behind the current request. Returns whether there are more than before.
    pub(super) fn unread(&self, bytes: u64) -> bool {
        let Some(request) = self.awaited_request().and_then(|request| u64::try_from(request).ok()) else {
            return false;
        };
        let [of, before] = &self.unread;
        let known = if of.swap(request, Ordering::Relaxed) == request { before.load(Ordering::Relaxed) } else { 0 };
        before.store(bytes, Ordering::Relaxed);
        let more = bytes >= known.saturating_add(self.min_request_bytes);
        if more {
            self.unread_at.store(self.heartbeat.request(), Ordering::Relaxed);
        }
        more
    }

    /// Whether a client that closed its sending side just now did so together with a further request, of which this
    /// many bytes are unread. If so, the requests before it are answered, too.
    pub(super) fn closes_with_unread(&self, bytes: u64) -> bool {
        self.unread(bytes)
            || (bytes >= self.min_request_bytes && !self.heartbeat.is_over(self.unread_at.load(Ordering::Relaxed)))
    }

    /// Records a framing error. Nothing goes to hyper any more.
    pub(super) fn malformed(&self, fault: FramingError) {
        let _ = self.fault.set(fault);
    }

    /// The framing error, if there is one.
    pub(super) fn fault(&self) -> Option<FramingError> {
        self.fault.get().copied()
    }

    /// The framing error once it must be answered: all earlier requests are answered and written. An error in a body
    /// belongs to that body's request instead.
    pub(super) fn fault_due(&self) -> Option<FramingError> {
        let fault = self.fault().filter(|fault| !fault.is_in_body())?;
        (self.open_requests.load(Ordering::Relaxed) == 0 && !self.is_stalled()).then_some(fault)
    }

    /// A request is in progress: its own deadlines apply, not the connection's.
    pub(super) fn request_started(&self) {
        self.phase.store(BUSY, Ordering::Relaxed);
    }

    /// The request has ended.
    pub(super) fn request_ended(&self) {
        self.requests_ended.fetch_add(1, Ordering::Relaxed);
        if self.open_requests.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.enter(IDLE);
        }
    }

    /// The number of requests that have not ended.
    pub(super) fn open_requests(&self) -> usize {
        self.open_requests.load(Ordering::Relaxed)
    }

    /// The client is told to send no further request.
    pub(super) fn closing(&self) {
        self.closing.store(true, Ordering::Relaxed);
        if self.is_idle() {
            self.enter(IDLE);
        }
    }

    /// Whether the next answer must close the connection.
    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.is_set()
    }

    /// Whether a request is in progress.
    pub(super) fn is_busy(&self) -> bool {
        self.phase.load(Ordering::Relaxed) == BUSY
    }

    /// Whether the connection is idle: no request and no part of a head.
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.phase.load(Ordering::Relaxed), NO_BYTE_YET | IDLE)
    }

    /// A body begins or ends that the client sees end only with the connection.
    pub(super) fn open_ended(&self, is: bool) {
        self.open_ended.store(is, Ordering::Relaxed);
    }

    /// Whether such a body is still incomplete.
    pub(super) fn is_open_ended(&self) -> bool {
        self.open_ended.load(Ordering::Relaxed)
    }

    /// The client accepts no data.
    pub(super) fn write_stalled(&self) {
        if self.stalled.load(Ordering::Relaxed) == 0 {
            self.stalled.store(self.now().saturating_add(1), Ordering::Relaxed);
        }
    }

    /// Whether the client currently accepts no data.
    pub(super) fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed) > 0
    }

    /// The client accepted `len` bytes. They include framing, so `queued` may be slightly too small for a moment, never
    /// too large.
    pub(super) fn flows(&self, len: usize) {
        self.stalled.store(0, Ordering::Relaxed);
        let queued = self.queued.load(Ordering::Relaxed).saturating_sub(len);
        self.queued.store(queued, Ordering::Relaxed);
        if queued < MAX_QUEUED
            && let Some(waker) = self.body_waker.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            waker.wake();
        }
    }

    /// A piece of a body goes to hyper.
    pub(super) fn queue(&self, len: usize) {
        self.queued.fetch_add(len, Ordering::Relaxed);
    }

    /// Ready while hyper may take more of a body.
    pub(super) fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        if self.queued.load(Ordering::Relaxed) < MAX_QUEUED {
            return Poll::Ready(());
        }
        *self.body_waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        Poll::Pending
    }

    /// The client is gone: its requests are of no use any more.
    pub(super) fn client_left(&self) {
        self.left.store(true, Ordering::Relaxed);
    }

    /// Whether the client is gone.
    pub(super) fn has_client_left(&self) -> bool {
        self.left.load(Ordering::Relaxed)
    }

    /// The current deadline, and its name.
    pub(super) fn due(&self, deadlines: &Deadlines) -> Option<(Instant, &'static str)> {
        let stalled = self.stalled.load(Ordering::Relaxed);
        if stalled > 0 {
            return Some((self.at(stalled - 1) + deadlines.write_stall, Self::WRITE_STALL));
        }
        let since = self.at(self.since.load(Ordering::Relaxed));
        match self.phase.load(Ordering::Relaxed) {
            NO_BYTE_YET | IDLE if self.closing.load(Ordering::Relaxed) => Some((since + GOAWAY_TIMEOUT, Self::GOAWAY)),
            NO_BYTE_YET => Some((since + deadlines.first_byte, Self::FIRST_BYTE)),
            IN_HEAD => Some((since + deadlines.head, Self::HEAD)),
            IDLE => Some((since + deadlines.idle, Self::IDLE)),
            _ => None,
        }
    }
}
