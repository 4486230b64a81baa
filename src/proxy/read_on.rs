//! Reading on after the client left (`on_client_gone`), so that the cost of the answer is known to the token. The bytes are looked
//! at and dropped; reading is bounded in time, in bytes and in number.

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

/// Requests without a client take places of connections, at most one of so many: those who left shall not keep out those
/// who come.
const SHARE: usize = 4;

/// Where one worker reads on.
#[derive(Debug)]
pub struct DrainTasks {
    /// How many there may be, of all workers.
    places: Arc<Semaphore>,
    /// Places of connections: what a request holds is counted by them, with a client or without.
    slots: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl DrainTasks {
    /// Those of the first worker; `slots` are for `connections`.
    pub fn new(slots: &Arc<Semaphore>, connections: usize) -> Self {
        Self::with(Arc::new(Semaphore::new((connections / SHARE).max(1))), Arc::clone(slots))
    }

    /// Those of another worker.
    #[must_use]
    pub fn apart(&self) -> Self {
        Self::with(Arc::clone(&self.places), Arc::clone(&self.slots))
    }

    fn with(places: Arc<Semaphore>, slots: Arc<Semaphore>) -> Self {
        Self { places, slots, tasks: TaskTracker::new(), stop: CancellationToken::new() }
    }

    /// Waits until all of it is over, or ends it when `stop` says so. No client is there any more.
    pub async fn end(&self, stop: impl Future<Output = ()>) {
        self.tasks.close();
        tokio::select! {
            () = self.tasks.wait() => return,
            () = stop => self.stop.cancel(),
        }
        self.tasks.wait().await;
    }
}

/// How it is done for one request.
#[derive(Clone, Debug)]
pub(super) struct DrainContext {
    pub(super) readers: Arc<DrainTasks>,
    pub(super) departure: DisconnectRecord,
    pub(super) within: Duration,
    pub(super) bytes: u64,
    /// Whether event streams are read on as well. Without it they are cancelled.
    pub(super) streams: bool,
}

impl DrainContext {
    /// Runs what is left to do for a request whose client left. Where there is no place for it, or the gateway ends, it is
    /// dropped, which cancels the call upstream.
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

/// Whether anything of a request is at an upstream, and whether its client is still there.
#[derive(Debug, Default)]
pub(super) struct ClientPresence {
    sent: Arc<AtomicBool>,
    left: AtomicBool,
}

impl ClientPresence {
    /// To be told when a body is taken to be sent.
    pub(super) fn sent(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.sent)
    }

    /// The attempt failed. Whether there may be another one: not for somebody who left.
    pub(super) fn goes_on(&self) -> bool {
        self.sent.store(false, Ordering::Relaxed);
        !self.left.load(Ordering::Relaxed)
    }
}

/// Everything up to the head of an answer.
pub(super) type AnswerHeadFuture = Pin<Box<dyn Future<Output = (Closing, Result<Reply, ApiError>)> + Send>>;

/// Waits for it. Dropped while the request is at an upstream, it goes on without its client.
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

/// An answer that a client gets. Dropped before its end, it is read on where its key wants that.
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
