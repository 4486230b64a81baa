//! The side of a worker: requests ask Redis through the one thread that talks to Redis.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use tokio::{
    sync::{mpsc as queue, oneshot},
    time::timeout,
};

use super::{
    command::{LimitItem, TakeResult},
    connect::Connector,
    worker::{LAST, Message, RedisWorker, Replica},
};
use crate::{concurrent::sharing_status::SharingStatus, config};

/// The start of the process waits this long for Redis, so that replicas share the limits from the first request on.
const START: Duration = Duration::from_secs(1);

/// The client of Redis for the limits and budgets that replicas share. All workers of the process use this one client.
#[derive(Debug)]
pub struct Redis {
    messages: queue::UnboundedSender<Message>,
    status: Arc<SharingStatus>,
    requests: AtomicU64,
    patience: Duration,
}

impl Redis {
    /// Starts the thread that talks to Redis for shared limits. Waits a moment until Redis answers; without Redis the process starts all
    /// the same.
    ///
    /// # Errors
    /// When the system has no thread, or the settings lead to no address.
    pub fn start(sharing: &config::SharedLimits, replica: Replica, status: Arc<SharingStatus>) -> io::Result<Self> {
        let connector = Connector::new(&sharing.redis).map_err(io::Error::other)?;
        status.shared.store(true, Ordering::Release);
        status.fails();
        let ((messages, heard), (found, is_found)) = (queue::unbounded_channel(), mpsc::channel());
        let patience = sharing.patience;
        let worker = RedisWorker::new(connector, Arc::clone(&status), replica, patience, found);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let run = move || {
            runtime.block_on(worker.run(heard));
            // The resolution of a name cannot be interrupted.
            runtime.shutdown_background();
        };
        thread::Builder::new().name("limits".into()).spawn(run)?;
        // Without Redis the process starts all the same.
        let _ = is_found.recv_timeout(START);
        Ok(Self { messages, status, requests: AtomicU64::new(0), patience })
    }

    /// Returns a new number for a request. The number names the request and its reservations in Redis.
    pub fn next_request_number(&self) -> u64 {
        self.requests.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether Redis works, so that requests ask Redis for their limits. Otherwise this process decides alone.
    pub fn is_well(&self) -> bool {
        self.status.is_well()
    }

    /// Returns how long one request may wait for Redis in total, over all of its questions.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// Takes all of these amounts from the shared limits in Redis, or none. Returns `None` if Redis does not answer within `patience`;
    /// Redis may have taken the amounts then. In both cases the caller must report the [end](Self::end) of the request.
    pub async fn take(&self, request: u64, items: Vec<LimitItem>, patience: Duration) -> Option<TakeResult> {
        let (answer, answered) = oneshot::channel();
        if !self.is_well() {
            return None;
        }
        self.tell(Message::Take { request, items, answer });
        match timeout(patience, answered).await {
            Ok(answer) => answer.ok(),
            Err(_) => {
                // From now on no request waits, until the thread has tested Redis.
                if !self.status.fails() {
                    self.tell(Message::Slow);
                }
                None
            }
        }
    }

    /// Records the reservations of a request that was admitted while Redis was away. Redis gets these reservations when it is back.
    pub fn record_reservations(&self, request: u64, items: Vec<LimitItem>) {
        self.tell(Message::RecordReservations { request, items });
    }

    /// Counts, for the metrics, a request whose limits this process decides without Redis.
    pub fn count_decided_alone(&self) {
        self.status.alone.fetch_add(1, Ordering::Relaxed);
    }

    /// Reports the end of a request to Redis, which gets the reservations back and the rates corrected to the real usage. Never waits.
    pub fn end(&self, request: u64, corrections: Vec<LimitItem>) {
        self.tell(Message::End { request, corrections });
    }

    /// Gives the reservations of ended requests back to Redis, and ends the thread that talks to Redis. No request may use this client
    /// afterwards.
    pub fn stop(&self) {
        let (done, is_done) = mpsc::channel();
        self.tell(Message::Stop(done));
        // The reservations that are left expire in Redis.
        let _ = is_done.recv_timeout(2 * LAST);
    }

    fn tell(&self, message: Message) {
        // After the thread has ended, the reservations expire in Redis.
        let _ = self.messages.send(message);
    }
}
