//! Drains an answer after its client left (`on_client_gone`), so that its cost is known to the token. The bytes are observed
//! and dropped. Drains are bounded in time, in bytes and in number.

use std::{
    future::poll_fn,
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
    relay::{Relay, RelayError},
    reply::Reply,
};
use crate::{
    domain::outcome::EndReason,
    metering::DisconnectRecord,
    proxy::{error::ApiError, settle::SettleOnDrop},
};

/// At most one connection slot in this many may belong to a drain. Clients that left must not keep new clients out.
const SHARE: usize = 4;

/// The drains of one worker: tasks that read an answer to its end after its client left, so that the ledger gets the usage.
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
    /// Makes the first worker's set of drains (answers that are read to the end after their clients left). At most a quarter of the
    /// `connections` slots may belong to drains.
    pub fn new(slots: &Arc<Semaphore>, connections: usize) -> Self {
        Self::with(Arc::new(Semaphore::new((connections / SHARE).max(1))), Arc::clone(slots))
    }

    /// Makes another worker's set of drains (answers that are read to the end after their clients left). All workers share the same
    /// limits.
    #[must_use]
    pub fn for_another_worker(&self) -> Self {
        Self::with(Arc::clone(&self.places), Arc::clone(&self.slots))
    }

    fn with(places: Arc<Semaphore>, slots: Arc<Semaphore>) -> Self {
        Self { places, slots, tasks: TaskTracker::new(), stop: CancellationToken::new() }
    }

    /// Waits until all drains of this worker end. Cancels them when `stop` resolves. No client is connected at that time.
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
pub(in crate::proxy) struct DrainContext {
    pub(in crate::proxy) tasks: Arc<DrainTasks>,
    pub(in crate::proxy) disconnect: DisconnectRecord,
    pub(in crate::proxy) within: Duration,
    pub(in crate::proxy) bytes: u64,
    /// Whether event streams are drained too. Otherwise they are cancelled.
    pub(in crate::proxy) streams: bool,
}

impl DrainContext {
    /// Runs the rest of a request after its client left. If no slot is free or the gateway stops, the rest is dropped, which
    /// cancels the request upstream.
    fn spawn(self, rest: impl Future<Output = ()> + Send + 'static) {
        if std::thread::panicking() || self.disconnect.end() == EndReason::GatewayStop {
            return;
        }
        let (Some(places), Ok(here)) = (self.places(), Handle::try_current()) else { return };
        let Self { tasks, within, .. } = self;
        let stop = tasks.stop.clone();
        let bounded = async move {
            let _places = places;
            tokio::select! {
                biased;
                () = rest => {}
                () = stop.cancelled() => {}
                () = sleep(within) => {}
            }
        };
        tasks.tasks.spawn_on(bounded, &here);
    }

    fn places(&self) -> Option<[OwnedSemaphorePermit; 2]> {
        let one = |places: &Arc<Semaphore>| Arc::clone(places).try_acquire_owned().ok();
        Some([one(&self.tasks.places)?, one(&self.tasks.slots)?])
    }
}

/// Whether a part of the request was sent upstream, and whether its client is still connected.
#[derive(Debug, Default)]
pub(in crate::proxy) struct ClientPresence {
    sent: Arc<AtomicBool>,
    client_left: AtomicBool,
}

impl ClientPresence {
    /// Returns the flag that is set when a body is taken to be sent.
    pub(in crate::proxy) fn sent(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.sent)
    }

    /// Returns whether another attempt may follow a failed one. A client that left gets no further attempt.
    pub(in crate::proxy) fn may_continue(&self) -> bool {
        self.sent.store(false, Ordering::Relaxed);
        !self.client_left.load(Ordering::Relaxed)
    }
}

/// Resolves to the head of an answer.
pub(in crate::proxy) type AnswerHeadFuture =
    Pin<Box<dyn Future<Output = (SettleOnDrop, Result<Reply, ApiError>)> + Send>>;

/// Waits for the head of an answer. If this future is dropped while the request is upstream, the request goes on without its
/// client.
pub(in crate::proxy) struct DetachOnDrop {
    pub(in crate::proxy) obtaining: Option<AnswerHeadFuture>,
    pub(in crate::proxy) presence: Arc<ClientPresence>,
    pub(in crate::proxy) drain: DrainContext,
}

impl Future for DetachOnDrop {
    type Output = (SettleOnDrop, Result<Reply, ApiError>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(obtaining) = &mut self.obtaining else { return Poll::Pending };
        let obtained = ready!(obtaining.as_mut().poll(cx));
        self.obtaining = None;
        Poll::Ready(obtained)
    }
}

impl Drop for DetachOnDrop {
    fn drop(&mut self) {
        let Some(obtaining) = self.obtaining.take() else { return };
        if !self.presence.sent.load(Ordering::Relaxed) {
            return;
        }
        self.presence.client_left.store(true, Ordering::Relaxed);
        let bytes = self.drain.bytes;
        self.drain.clone().spawn(async move {
            if let (guard, Ok(reply)) = obtaining.await {
                let (_, relay) = Relay::new(reply, guard);
                DrainOnDrop::new(relay, None).drain(bytes).await;
            }
        });
    }
}

/// The body of an answer to a client. If this value is dropped before the end, because the client left, the answer is drained if the key
/// wants that. Otherwise the request is settled as it is.
#[derive(Debug)]
pub struct DrainOnDrop(Option<Box<RelayWithDrain>>);

#[derive(Debug)]
struct RelayWithDrain {
    relay: Relay,
    /// How the answer is drained after the client left. `None` = the answer is cancelled.
    drain: Option<DrainContext>,
}

impl DrainOnDrop {
    pub(in crate::proxy) fn new(relay: Relay, drain: Option<DrainContext>) -> Self {
        Self(Some(Box::new(RelayWithDrain { relay, drain })))
    }

    pub(in crate::proxy) fn relay(&self) -> Option<&Relay> {
        self.0.as_deref().map(|held| &held.relay)
    }

    pub(in crate::proxy) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RelayError>>> {
        self.0.as_deref_mut().map_or(Poll::Ready(None), |held| held.relay.poll(cx))
    }

    /// Drains the answer until its cost is known, but at most `most` bytes.
    async fn drain(mut self, most: u64) {
        let Some(RelayWithDrain { relay, .. }) = self.0.as_deref_mut() else { return };
        relay.client_disconnected();
        while relay.reveals_more() && relay.bytes_drained() < most {
            poll_fn(|cx| relay.poll(cx)).await;
        }
    }
}

impl Drop for DrainOnDrop {
    fn drop(&mut self) {
        let Some(mut held) = self.0.take() else { return };
        let RelayWithDrain { relay, drain } = &mut *held;
        // A drain that would not reveal more usage is useless.
        let drain = drain.take().filter(|drain| (drain.streams || !relay.is_streamed()) && relay.reveals_more());
        let Some(drain) = drain else { return relay.end_early() };
        let bytes = drain.bytes;
        // Without its drain, so that its next drop settles the request.
        let rest = Self(Some(held));
        drain.spawn(async move { rest.drain(bytes).await });
    }
}
