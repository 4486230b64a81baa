//! Requests that share a connection of HTTP/2. Each has a task of its own, so that none holds up or breaks another, and
//! a fate of its own: it may be reset by its client, or stall while others flow.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Poll, ready},
    time::Duration,
};

use hyper::rt::Executor;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until},
};
use tokio_util::task::TaskTracker;

use super::progress::Progress;
use crate::{domain::departure::Departure, metrics::Metrics};

/// The requests of one connection.
#[derive(Clone)]
pub(super) struct Streams(Arc<Shared>);

struct Shared {
    progress: Arc<Progress>,
    departure: Departure,
    metrics: Arc<Metrics>,
    slots: Arc<Semaphore>,
    write_stall: Duration,
    tasks: TaskTracker,
    /// The request that hyper asks a task for next: it does so right after it handed the request over.
    opened: Mutex<Option<Arc<Stream>>>,
}

/// One of them.
pub(super) struct Stream {
    progress: Arc<Progress>,
    /// Tells why it ended, also where only its connection did.
    pub(super) departure: Departure,
    /// When hyper got a piece of the answer that it has not passed on since, as [`Progress::now`] plus one; 0 = it has.
    handed: AtomicU64,
    /// The first request of a connection has the connection's own.
    _slot: Option<OwnedSemaphorePermit>,
}

impl Streams {
    pub(super) fn new(
        progress: Arc<Progress>,
        departure: Departure,
        metrics: Arc<Metrics>,
        slots: Arc<Semaphore>,
        write_stall: Duration,
    ) -> Self {
        let (tasks, opened) = (TaskTracker::new(), Mutex::default());
        Self(Arc::new(Shared { progress, departure, metrics, slots, write_stall, tasks, opened }))
    }

    /// A request came. None where there is no slot: what a request costs does not depend on whose connection it is on.
    pub(super) fn open(&self) -> Option<Arc<Stream>> {
        let shared = &self.0;
        let slot = match shared.progress.unserved() {
            0 => None,
            _ => match Arc::clone(&shared.slots).try_acquire_owned() {
                Ok(slot) => Some(slot),
                Err(_) => {
                    shared.metrics.connections.streams_refused.inc();
                    return None;
                }
            },
        };
        shared.progress.passed(1);
        let stream = Arc::new(Stream {
            progress: Arc::clone(&shared.progress),
            departure: shared.departure.of_part(),
            handed: AtomicU64::new(0),
            _slot: slot,
        });
        *shared.opened.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&stream));
        Some(stream)
    }

    /// Waits for the tasks, which end with the connection.
    pub(super) async fn ended(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
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
struct Panics(Arc<Metrics>);

impl Drop for Panics {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.connections.panics.inc();
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
        let panics = Panics(Arc::clone(&shared.metrics));
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
                stream.departure.stalled();
                return Poll::Ready(());
            }
            timer.as_mut().reset(due);
        }
    })
    .await;
}
