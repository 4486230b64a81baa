//! Limits that replicas share, in Redis or Valkey: one script decides about everything that a request takes, and one thread
//! asks for all workers.

mod budget;
mod connect;
mod link;
mod link_error;
mod outage;
mod worker;

use std::{
    fmt, io,
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
    time::{Instant, timeout},
};

use self::worker::{Message, RedisWorker};
use crate::{concurrent::sharing_status::SharingStatus, config, domain::clock::Clock};

pub use budget::{SharedBudget, name};
pub(super) use connect::{Connected, Connector};
pub use link::{Link, Looked};
pub use link_error::LinkError;

/// What a request holds and does not renew comes back after this: its replica is gone.
pub const HELD: Duration = Duration::from_secs(60);

/// What is given back before the end has this long to arrive.
const LAST: Duration = Duration::from_millis(500);

/// One thing that a request takes. Keys are names in Redis.
#[derive(Clone, Debug)]
pub enum Item {
    /// Of a rate: what takes so many microseconds to come back.
    Rate {
        /// Whose.
        key: String,
        /// Microseconds.
        span: u64,
    },
    /// Nothing: only how a rate stands.
    Look {
        /// Whose.
        key: String,
    },
    /// A place among those at once.
    Place {
        /// Whose.
        key: String,
        /// How many there are.
        limit: u64,
    },
    /// Money of a budget, set aside.
    Spend {
        /// Which budget.
        budget: SharedBudget,
        /// How much it has, in nano-units.
        limit: u64,
        /// How much the request will probably cost.
        cost: u64,
    },
}

/// One thing that is given back when a request ends.
#[derive(Clone, Debug)]
pub enum Given {
    /// A rate, corrected to what was used.
    Rate {
        /// Whose.
        key: String,
        /// Microseconds that were used beyond what was taken.
        more: u64,
        /// Microseconds that were not used, as of `since`: time gives back by itself.
        back: u64,
        /// When that was counted.
        since: Instant,
    },
    /// A place.
    Place {
        /// Whose.
        key: String,
    },
    /// What was set aside. What the request really cost is part of what the data folder spent.
    Spend {
        /// Of which budget.
        budget: SharedBudget,
    },
}

/// What Redis said to a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The place in the list of what is not there, and for how many microseconds it has to be waited for. Nothing was taken
    /// then.
    pub exceeded: Option<(usize, u64)>,
    /// For each item: microseconds until all of a rate is back, or how many hold a place.
    pub states: Vec<u64>,
}

/// A process that shares limits.
pub struct Replica {
    /// What tells this process from all others.
    pub process: [u8; 8],
    /// The name of its data folder, under which the ledger has its rows.
    pub origin: Arc<str>,
    /// All budgets of which it knows that something was spent.
    pub spent: Box<dyn Fn() -> Vec<SharedBudget> + Send>,
    /// The time in Redis, for tests; none = the clock of the server.
    pub clock: Option<Clock>,
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replica").field("process", &self.process).field("origin", &self.origin).finish_non_exhaustive()
    }
}

/// Redis, as all workers ask it.
#[derive(Debug)]
pub struct Redis {
    messages: queue::UnboundedSender<Message>,
    status: Arc<SharingStatus>,
    next: AtomicU64,
}

impl Redis {
    /// Starts the thread that asks.
    ///
    /// # Errors
    /// When there is no thread to be had, or no address to be made of the settings.
    pub fn start(sharing: &config::SharedLimits, replica: Replica, status: Arc<SharingStatus>) -> io::Result<Self> {
        let connector = Connector::new(&sharing.redis).map_err(io::Error::other)?;
        status.shared.store(true, Ordering::Release);
        status.fails();
        let (messages, told) = queue::unbounded_channel();
        let worker = RedisWorker::new(connector, Arc::clone(&status), replica, sharing.patience);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let run = move || {
            runtime.block_on(worker.run(told));
            // A name that is being resolved cannot be interrupted.
            runtime.shutdown_background();
        };
        thread::Builder::new().name("limits".into()).spawn(run)?;
        Ok(Self { messages, status, next: AtomicU64::new(0) })
    }

    /// Whether it is worth asking.
    pub fn is_well(&self) -> bool {
        self.status.is_well()
    }

    /// A name for what one request holds.
    pub fn holder(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Takes all items or none, within `patience`. None where nobody knows: they may be taken, and have to be
    /// [held](Self::hold) or [given back](Self::give).
    pub async fn take(&self, holder: u64, items: Vec<Item>, patience: Duration) -> Option<Answer> {
        let (answer, answered) = oneshot::channel();
        if !self.is_well() || self.messages.send(Message::Take { holder, items, answer }).is_err() {
            return None;
        }
        match timeout(patience, answered).await {
            Ok(answer) => answer.ok(),
            Err(_) => {
                // From now on no request waits, until the worker has looked.
                if !self.status.fails() {
                    self.tell(Message::Slow);
                }
                None
            }
        }
    }

    /// A request was let in without Redis: Redis learns of it when it is back.
    pub fn hold(&self, holder: u64, items: Vec<Item>) {
        self.tell(Message::Hold { holder, items });
    }

    /// A request is admitted or refused without Redis.
    pub fn is_alone(&self) {
        self.status.alone.fetch_add(1, Ordering::Relaxed);
    }

    /// A request is over. Never waits.
    pub fn give(&self, holder: u64, given: Vec<Given>) {
        self.tell(Message::Give { holder, given, since: Instant::now() });
    }

    /// Nobody takes anything any more: what was given back before is brought away, and the thread ends.
    pub fn end(&self) {
        let (done, told) = mpsc::channel();
        self.tell(Message::End(done));
        // It comes back by itself where it did not get there.
        let _ = told.recv_timeout(2 * LAST);
    }

    fn tell(&self, message: Message) {
        // After the end what is held comes back by itself.
        let _ = self.messages.send(message);
    }
}
