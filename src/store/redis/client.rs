//! Redis, as requests ask it: through the one thread that talks to Redis.

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
    command::{Answer, Item},
    connect::Connector,
    worker::{LAST, Message, RedisWorker, Replica},
};
use crate::{concurrent::sharing_status::SharingStatus, config};

/// The start of the process waits this long for Redis, so that the first requests are shared already.
const START: Duration = Duration::from_secs(1);

/// Redis, for all workers.
#[derive(Debug)]
pub struct Redis {
    messages: queue::UnboundedSender<Message>,
    status: Arc<SharingStatus>,
    requests: AtomicU64,
    patience: Duration,
}

impl Redis {
    /// Starts the thread, and waits a moment until Redis is there.
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

    /// A number for a request.
    pub fn request(&self) -> u64 {
        self.requests.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether requests ask Redis now.
    pub fn is_well(&self) -> bool {
        self.status.is_well()
    }

    /// How long one request waits for Redis, in all.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// Takes all items or none, within `patience`. None if Redis does not answer: it may have taken them. The request tells its
    /// [end](Self::end) in any case.
    pub async fn take(&self, request: u64, items: Vec<Item>, patience: Duration) -> Option<Answer> {
        let (answer, answered) = oneshot::channel();
        if !self.is_well() {
            return None;
        }
        self.tell(Message::Take { request, items, answer });
        match timeout(patience, answered).await {
            Ok(answer) => answer.ok(),
            Err(_) => {
                // From now on no request waits, until the thread has looked for Redis.
                if !self.status.fails() {
                    self.tell(Message::Slow);
                }
                None
            }
        }
    }

    /// A request was admitted without Redis. Redis learns of its reservations when it is back.
    pub fn hold(&self, request: u64, items: Vec<Item>) {
        self.tell(Message::Hold { request, items });
    }

    /// Counts a request that is decided without Redis.
    pub fn is_alone(&self) {
        self.status.alone.fetch_add(1, Ordering::Relaxed);
    }

    /// A request ended: Redis gets its reservations back, and corrects its rates. Never waits.
    pub fn end(&self, request: u64, corrections: Vec<Item>) {
        self.tell(Message::End { request, corrections });
    }

    /// Gives back what ended requests held, and ends the thread. No request may ask any more.
    pub fn stop(&self) {
        let (done, is_done) = mpsc::channel();
        self.tell(Message::Stop(done));
        // Redis ends the rest of the reservations by itself.
        let _ = is_done.recv_timeout(2 * LAST);
    }

    fn tell(&self, message: Message) {
        // After the thread ended, Redis ends reservations by itself.
        let _ = self.messages.send(message);
    }
}
