//! Drains an answer after its client left (`on_client_gone`), so that its cost is known to the token. The bytes are observed
//! and dropped. Drains are bounded in time, in bytes and in number.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::Frame;
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    closing::Closing,
    error::ApiError,
    respond::{Relay, RelayError, Reply},
};
use crate::{domain::outcome::EndReason, metering::DisconnectRecord};

/// At most one connection slot in this many may belong to a drain. Clients that left must not keep new clients out.
const SHARE: usize = 4;

/// The drains of one worker.
#[derive(Debug)]
pub struct DrainTasks {
    /// Limits the drains of all workers together.
    places: Arc<Semaphore>,
    /// The slots for connections. A drain takes one, because its request uses as much memory as a request with a client.
    slots: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl DrainTasks {
    /// Creates the drains of the first worker. `slots` has room for `connections`.
    pub fn new(slots: &Arc<Semaphore>, connections: usize) -> Self {
        Self::with(Arc::new(Semaphore::new((connections / SHARE).max(1))), Arc::clone(slots))
    }

    /// Creates the drains of another worker, with the same limits.
    #[must_use]
    pub fn apart(&self) -> Self {
        Self::with(Arc::clone(&self.places), Arc::clone(&self.slots))
    }

    fn with(places: Arc<Semaphore>, slots: Arc<Semaphore>) -> Self {
        Self { places, slots, tasks: TaskTracker::new(), stop: CancellationToken::new() }
    }

    /// Waits until all drains end, or cancels them when `stop` resolves. No client is connected at that time.
    pub async fn end(&self, stop: impl Future<Output = ()>) {
        self.tasks.close();
        tokio::select! {
            () = self.tasks.wait() => return,
            () = stop => self.stop.cancel(),
        }
        self.tasks.wait().await;
    }
}

/// How one request is drained.
#[derive(Clone, Debug)]
pub(super) struct DrainContext {
    pub(super) readers: Arc<DrainTasks>,
    pub(super) departure: DisconnectRecord,
    pub(super) within: Duration,
    pub(super) bytes: u64,
    /// Whether event streams are drained too. Otherwise they are cancelled.
    pub(super) streams: bool,
}

impl DrainContext {
    /// Runs the rest of a request after its client left. If no slot is free or the gateway stops, the rest is dropped, which
    /// cancels the request upstream.
    fn spawn(self, rest: impl Future<Output = ()> + Send + 'static) {
        if std::thread::panicking() || self.departure.end() == EndReason::GatewayStop {
            return;
        }
        let (Some(places), Ok(here)) = (self.places(), Handle::try_current()) else { return };
        let Self { readers, within, .. } = self;
        let stop = readers.stop.clone();
        let bounded = async move {
            let _places = places;
            tokio::select! {
                biased;
                () = rest => {}
                () = stop.cancelled() => {}
                () = sleep(within) => {}
            }
        };
        readers.tasks.spawn_on(bounded, &here);
    }

    fn places(&self) -> Option<[OwnedSemaphorePermit; 2]> {
        let one = |places: &Arc<Semaphore>| Arc::clone(places).try_acquire_owned().ok();
        Some([one(&self.readers.places)?, one(&self.readers.slots)?])
    }
}

/// Whether a part of the request was sent upstream, and whether its client is still connected.
#[derive(Debug, Default)]
pub(super) struct ClientPresence {
    sent: Arc<AtomicBool>,
    left: AtomicBool,
}

impl ClientPresence {
    /// Returns the flag that is set when a body is taken to be sent.
    pub(super) fn sent(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.sent)
    }

    /// Returns whether another attempt may follow a failed one. A client that left gets no further attempt.
    pub(super) fn goes_on(&self) -> bool {
        self.sent.store(false, Ordering::Relaxed);
        !self.left.load(Ordering::Relaxed)
    }
}

/// Resolves to the head of an answer.
pub(super) type AnswerHeadFuture = Pin<Box<dyn Future<Output = (Closing, Result<Reply, ApiError>)> + Send>>;

/// Waits for the head of an answer. If this future is dropped while the request is upstream, the request goes on without its
/// client.
pub(super) struct DetachOnDrop {
    pub(super) asked: Option<AnswerHeadFuture>,
    pub(super) presence: Arc<ClientPresence>,
    pub(super) read_on: DrainContext,
}

impl Future for DetachOnDrop {
    type Output = (Closing, Result<Reply, ApiError>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(asked) = &mut self.asked else { return Poll::Pending };
        let obtained = ready!(asked.as_mut().poll(cx));
        self.asked = None;
        Poll::Ready(obtained)
    }
}

impl Drop for DetachOnDrop {
    fn drop(&mut self) {
        let Some(asked) = self.asked.take() else { return };
        if !self.presence.sent.load(Ordering::Relaxed) {
            return;
        }
        self.presence.left.store(true, Ordering::Relaxed);
        let bytes = self.read_on.bytes;
        self.read_on.clone().spawn(async move {
            if let (closing, Ok(reply)) = asked.await {
                let (_, relay) = Relay::new(reply, closing, None);
                Box::new(relay).read_on(bytes).await;
            }
        });
    }
}

/// The answer of a client. If this value is dropped before the end, the answer is drained if the key wants that.
#[derive(Debug)]
pub struct DrainOnDrop(Option<Box<Relay>>);

impl DrainOnDrop {
    pub(super) fn new(relay: Relay) -> Self {
        Self(Some(Box::new(relay)))
    }

    pub(super) fn relay(&self) -> Option<&Relay> {
        self.0.as_deref()
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RelayError>>> {
        self.0.as_deref_mut().map_or(Poll::Ready(None), |relay| relay.poll(cx))
    }
}

impl Drop for DrainOnDrop {
    fn drop(&mut self) {
        let Some(mut relay) = self.0.take() else { return };
        if let Some(read_on) = relay.reads_on() {
            let bytes = read_on.bytes;
            read_on.spawn(async move { relay.read_on(bytes).await });
        }
    }
}
