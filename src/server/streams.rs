//! The concurrent requests of an HTTP/2 connection. Each has its own task, so none blocks or breaks another. Each also
//! ends by itself: its client may reset it, or it may stall while others flow.

use std::{
    fmt,
    future::poll_fn,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Poll, ready},
    time::Duration,
};

use http_body_util::BodyExt;
use hyper::{body::Incoming, rt::Executor};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::task::TaskTracker;

use super::{
    observer::{Client, Observer},
    progress::Progress,
    socket::{LINGER, LINGER_BYTES},
};

/// The requests of one connection.
#[derive(Clone)]
pub(super) struct Streams(Arc<StreamsState>);

struct StreamsState {
    progress: Arc<Progress>,
    client: Arc<dyn Client>,
    observer: Arc<dyn Observer>,
    slots: Arc<Semaphore>,
    write_stall: Duration,
    tasks: TaskTracker,
    runtime: Handle,
    /// The request whose task hyper spawns next: hyper does so right after it passed the request to the service.
    opened: Mutex<Option<Arc<Stream>>>,
}

/// One request.
pub(super) struct Stream {
    progress: Arc<Progress>,
    /// Learns why the request ended, also if only its connection ended.
    pub(super) client: Arc<dyn Client>,
    /// When hyper got a piece of the answer that it has not sent yet, as [`Progress::now`] plus one. 0 means that it
    /// sent all.
    piece_since: AtomicU64,
    /// `None` for the first request of a connection, which uses the connection's slot.
    _slot: Option<OwnedSemaphorePermit>,
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streams").finish_non_exhaustive()
    }
}

impl Streams {
    pub(super) fn new(
        progress: Arc<Progress>,
        client: Arc<dyn Client>,
        observer: Arc<dyn Observer>,
        slots: Arc<Semaphore>,
        write_stall: Duration,
    ) -> Self {
        let (tasks, runtime, opened) = (TaskTracker::new(), Handle::current(), Mutex::default());
        Self(Arc::new(StreamsState { progress, client, observer, slots, write_stall, tasks, runtime, opened }))
    }

    /// Opens a request. `None` if no slot is free: each concurrent request takes a slot, whatever connection it is on.
    pub(super) fn open(&self) -> Option<Arc<Stream>> {
        let shared = &self.0;
        let slot = match shared.progress.open_requests() {
            0 => None,
            _ => match Arc::clone(&shared.slots).try_acquire_owned() {
                Ok(slot) => Some(slot),
                Err(_) => {
                    shared.observer.stream_refused();
                    return None;
                }
            },
        };
        shared.progress.heads_passed(1);
        let stream = Arc::new(Stream {
            progress: Arc::clone(&shared.progress),
            client: shared.client.for_stream(),
            piece_since: AtomicU64::new(0),
            _slot: slot,
        });
        *shared.opened.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&stream));
        Some(stream)
    }

    /// Reads and drops the rest of a request's body after the answer, up to a limit. Otherwise h2 would reset the
    /// stream with `NO_ERROR` right after the answer. RFC 9113, section 8.1, allows that, but curl 7.88 then drops the
    /// answer and reports error 92.
    pub(super) fn discard(&self, body: Incoming) {
        let discarding = async move {
            let _ = timeout(LINGER, discard(body)).await;
        };
        self.0.tasks.spawn_on(discarding, &self.0.runtime);
    }

    /// Waits for the tasks. They end with the connection.
    pub(super) async fn ended(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}

async fn discard(mut body: Incoming) {
    let mut left = LINGER_BYTES;
    // A reset by the client appears as a failed body.
    while let Some(Ok(frame)) = body.frame().await {
        let len = frame.data_ref().map_or(0, bytes::Bytes::len);
        if len > left {
            return;
        }
        left -= len;
    }
}

impl Stream {
    /// hyper asks for more of the answer: the previous piece was sent.
    pub(super) fn piece_sent(&self) {
        self.piece_since.store(0, Ordering::Relaxed);
    }

    /// hyper got a piece of the answer, and asks for more only when the client has room.
    pub(super) fn piece_handed_over(&self) {
        self.piece_since.store(self.progress.now().saturating_add(1), Ordering::Relaxed);
    }

    /// Since when the client has accepted no data.
    fn stalled(&self) -> Option<Instant> {
        match self.piece_since.load(Ordering::Relaxed) {
            0 => None,
            piece_since => Some(self.progress.at(piece_since - 1)),
        }
    }
}

/// Counts a panic in a task. The panic ends only that task.
struct PanicCounter(Arc<dyn Observer>);

impl Drop for PanicCounter {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stream_panicked();
        }
    }
}

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        let shared = &self.0;
        let stream = shared.opened.lock().unwrap_or_else(PoisonError::into_inner).take();
        let write_stall = shared.write_stall;
        let panics = PanicCounter(Arc::clone(&shared.observer));
        shared.tasks.spawn(async move {
            let _panics = panics;
            match stream {
                Some(stream) => run_with_stall_deadline(future, &stream, write_stall).await,
                // A request that was refused.
                None => future.await,
            }
        });
    }
}

/// Runs a request until it ends, or until its client has accepted no data for too long. hyper's own task waits for room
/// in the window and does not poll the body meanwhile.
async fn run_with_stall_deadline(future: impl Future<Output = ()>, stream: &Stream, write_stall: Duration) {
    let mut future = pin!(future);
    let mut timer = pin!(sleep_until(Instant::now() + write_stall));
    poll_fn(|cx| {
        if future.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let Some(since) = stream.stalled() else { return Poll::Pending };
        let due = since + write_stall;
        loop {
            ready!(timer.as_mut().poll(cx));
            if due <= Instant::now() {
                stream.client.stalled();
                return Poll::Ready(());
            }
            timer.as_mut().reset(due);
        }
    })
    .await;
}
