//! Requests that share a connection of HTTP/2. Each has a task of its own, so that none holds up or breaks another, and
//! a fate of its own: it may be reset by its client, or stall while others flow.

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
pub(super) struct Streams(Arc<Shared>);

struct Shared {
    progress: Arc<Progress>,
    client: Arc<dyn Client>,
    observer: Arc<dyn Observer>,
    slots: Arc<Semaphore>,
    write_stall: Duration,
    tasks: TaskTracker,
    runtime: Handle,
    /// The request that hyper asks a task for next: it does so right after it handed the request over.
    opened: Mutex<Option<Arc<Stream>>>,
}

/// One of them.
pub(super) struct Stream {
    progress: Arc<Progress>,
    /// Tells why it ended, also where only its connection did.
    pub(super) client: Arc<dyn Client>,
    /// When hyper got a piece of the answer that it has not passed on since, as [`Progress::now`] plus one; 0 = it has.
    handed: AtomicU64,
    /// The first request of a connection has the connection's own.
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
        Self(Arc::new(Shared { progress, client, observer, slots, write_stall, tasks, runtime, opened }))
    }

    /// A request came. None where there is no slot: what a request costs does not depend on whose connection it is on.
    pub(super) fn open(&self) -> Option<Arc<Stream>> {
        let shared = &self.0;
        let slot = match shared.progress.unserved() {
            0 => None,
            _ => match Arc::clone(&shared.slots).try_acquire_owned() {
                Ok(slot) => Some(slot),
                Err(_) => {
                    shared.observer.stream_refused();
                    return None;
                }
            },
        };
        shared.progress.passed(1);
        let stream = Arc::new(Stream {
            progress: Arc::clone(&shared.progress),
            client: shared.client.part(),
            handed: AtomicU64::new(0),
            _slot: slot,
        });
        *shared.opened.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&stream));
        Some(stream)
    }

    /// Reads away the rest of the body of a request that is answered already, within bounds. Without it h2 would reset the
    /// stream right behind the answer, with `NO_ERROR`. RFC 9113 allows that (section 8.1), but curl 7.88 then drops the answer
    /// and reports error 92.
    pub(super) fn discard(&self, body: Incoming) {
        let discarding = async move {
            let _ = timeout(LINGER, discard(body)).await;
        };
        self.0.tasks.spawn_on(discarding, &self.0.runtime);
    }

    /// Waits for the tasks, which end with the connection.
    pub(super) async fn ended(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}

async fn discard(mut body: Incoming) {
    let mut left = LINGER_BYTES;
    // A client that resets the stream is a body that fails.
    while let Some(Ok(frame)) = body.frame().await {
        let len = frame.data_ref().map_or(0, bytes::Bytes::len);
        if len > left {
            return;
        }
        left -= len;
    }
}

impl Stream {
    /// hyper asks for more of the answer: what it had is on its way.
    pub(super) fn flows(&self) {
        self.handed.store(0, Ordering::Relaxed);
    }

    /// hyper got a piece of the answer, and asks for no more before the client has room for it.
    pub(super) fn hands(&self) {
        self.handed.store(self.progress.now().saturating_add(1), Ordering::Relaxed);
    }

    /// Since when the client has had no room.
    fn stalled(&self) -> Option<Instant> {
        match self.handed.load(Ordering::Relaxed) {
            0 => None,
            handed => Some(self.progress.at(handed - 1)),
        }
    }
}

/// Counts a panic in a task, which ends that task alone.
struct Panics(Arc<dyn Observer>);

impl Drop for Panics {
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
        let panics = Panics(Arc::clone(&shared.observer));
        shared.tasks.spawn(async move {
            let _panics = panics;
            match stream {
                Some(stream) => watched(future, &stream, write_stall).await,
                // One that was refused.
                None => future.await,
            }
        });
    }
}

/// Runs a request to its end, or until its client has had no room for its answer for too long. hyper's own task waits
/// for room and polls nothing of ours meanwhile.
async fn watched(future: impl Future<Output = ()>, stream: &Stream, write_stall: Duration) {
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
