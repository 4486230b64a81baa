//! The thread that talks to Redis for all workers of this process.
//!
//! The thread sends the commands of requests in batches, one batch after the other, on one connection. While Redis is away, the thread
//! tests whether Redis is back. On a new connection, and after Redis was emptied, it first reports the spend of this data folder, the
//! spend of other data folders as the ledger shows it, and the reservations of requests in progress. Then requests ask Redis again. The
//! thread waits for no other replica.

use std::{
    collections::{HashMap, VecDeque},
    future::ready,
    sync::{Arc, mpsc},
    time::Duration,
};

use data_encoding::HEXLOWER;
use tokio::{
    sync::{mpsc::UnboundedReceiver, oneshot},
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};

use super::{
    command::{Command, LimitItem, Operation, SharedBudget, TakeResult},
    connect::Connector,
    link::{HELD, Link},
    link_error::LinkError,
};
use crate::{concurrent::sharing_status::SharingStatus, domain::clock::Clock};

/// Reservations are renewed four times in the time that they last.
const RENEW: Duration = Duration::from_secs(15);

/// How often Redis is tested, also without requests: after Redis was emptied, a replica without requests must report its spend too.
const LOOK: Duration = Duration::from_millis(500);

/// The pauses between two tests while Redis is away: the first, and the longest.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Commands in one batch. Redis needs some 4 ms for 200: requests behind them do not wait for long.
const AT_ONCE: usize = 200;

/// The most commands that wait while Redis is away. The oldest are dropped: their reservations expire in Redis.
const WAITING: usize = 50_000;

/// Before the thread ends, it tries for this long to give reservations back.
pub(super) const LAST: Duration = Duration::from_millis(500);

/// The shortest time between two log lines that Redis is away.
const LOG_EVERY: Duration = Duration::from_secs(5);

/// What workers tell the thread.
#[derive(Debug)]
pub(super) enum Message {
    /// A request takes items. It may be gone before the answer.
    Take { request: u64, items: Vec<LimitItem>, answer: oneshot::Sender<TakeResult> },
    /// A request was admitted without Redis: Redis learns of its reservations later.
    RecordReservations { request: u64, items: Vec<LimitItem> },
    /// A request ended. Its rates are corrected, and its reservations given back.
    End { request: u64, corrections: Vec<LimitItem> },
    /// A request waited too long for the answer of Redis.
    Slow,
    /// The process ends.
    Stop(mpsc::Sender<()>),
}

/// How this process appears to other replicas in Redis: its random number, its data folder, and its budgets with spend.
pub struct Replica {
    /// A random number of the process.
    pub process: [u8; 8],
    /// The name of its data folder: the ledger has the rows of the process under that name.
    pub origin: Arc<str>,
    /// Lists the budgets of which something is spent.
    pub spent: Box<dyn Fn() -> Vec<SharedBudget> + Send>,
    /// The time in Redis, for tests; none = the clock of the server.
    pub clock: Option<Clock>,
}

pub(super) struct RedisWorker {
    connector: Connector,
    status: Arc<SharingStatus>,
    replica: Replica,
    /// How long a request waits for Redis.
    patience: Duration,
    /// Receives a message when Redis first answers.
    found: mpsc::Sender<()>,
    link: Option<Link>,
    /// The epoch in which this process has reported all spend and reservations to Redis, on this connection.
    told_in: Option<String>,
    /// Number of the next test. Each test offers another name for a new epoch.
    looks: u64,
    next_look: Instant,
    pause: Duration,
    /// The reservations of requests in progress.
    held: HashMap<String, Vec<LimitItem>>,
    queue: VecDeque<Command>,
    /// When Redis went away, and whether the log said so.
    outage: Option<(Instant, bool)>,
    /// When the log last said that Redis is away.
    logged: Option<Instant>,
}

impl RedisWorker {
    pub(super) fn new(
        connector: Connector,
        status: Arc<SharingStatus>,
        replica: Replica,
        patience: Duration,
        found: mpsc::Sender<()>,
    ) -> Self {
        Self {
            connector,
            status,
            replica,
            patience,
            found,
            link: None,
            told_in: None,
            looks: 0,
            next_look: Instant::now(),
            pause: Duration::ZERO,
            held: HashMap::new(),
            queue: VecDeque::new(),
            outage: None,
            logged: None,
        }
    }

    /// Works until the process ends.
    pub(super) async fn run(mut self, mut messages: UnboundedReceiver<Message>) {
        let mut renewal = interval(RENEW);
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Vec::new();
        loop {
            let is_well = self.status.is_well();
            let has_more = is_well && self.told_in.is_some() && !self.queue.is_empty();
            tokio::select! {
                count = messages.recv_many(&mut heard, AT_ONCE) => if count == 0 { return self.stop().await },
                _ = renewal.tick(), if is_well => self.renew(),
                () = sleep_until(self.next_look) => self.look().await,
                () = ready(()), if has_more => {}
            }
            for message in heard.drain(..) {
                if let Message::Stop(done) = message {
                    self.stop().await;
                    // The other thread may have stopped waiting.
                    let _ = done.send(());
                    return;
                }
                self.hear(message);
            }
            self.send().await;
        }
    }

    fn hear(&mut self, message: Message) {
        match message {
            // Without Redis the answer is dropped: the request decides alone.
            Message::Take { request, items, answer } if self.status.is_well() => {
                let request = self.record_reservations(request, &items);
                self.queue(Command { answer: Some(answer), ..Command::new(Operation::Take, request, items) });
            }
            Message::Take { .. } | Message::Stop(_) => {}
            Message::RecordReservations { request, items } => {
                let request = self.record_reservations(request, &items);
                self.queue(Command::new(Operation::Renew, request, reservations(&items)));
            }
            Message::End { request, mut corrections } => {
                let request = self.name(request);
                corrections.extend(self.held.remove(&request).unwrap_or_default());
                if !corrections.is_empty() {
                    self.queue(Command::new(Operation::Give, request, corrections));
                }
            }
            Message::Slow => self.away(&LinkError::Slow(self.patience)),
        }
    }

    /// The name of a request in Redis.
    fn name(&self, request: u64) -> String {
        format!("{}{request:x}", HEXLOWER.encode(&self.replica.process))
    }

    /// Records the reservations of a request, each once: Redis may have them although its answer came too late.
    fn record_reservations(&mut self, request: u64, items: &[LimitItem]) -> String {
        let request = self.name(request);
        for item in reservations(items) {
            let held = self.held.entry(request.clone()).or_default();
            if held.iter().all(|known| known.key() != item.key()) {
                held.push(item);
            }
        }
        request
    }

    fn queue(&mut self, command: Command) {
        let Self { queue, told_in, .. } = self;
        while queue.len() >= WAITING || queue.front().is_some_and(|first| first.since.elapsed() >= HELD) {
            queue.pop_front();
            // The dropped command may have reported spend. When Redis is back, all spend is reported again.
            *told_in = None;
        }
        queue.push_back(command);
    }

    fn renew(&mut self) {
        let renewals: Vec<_> = self.renewals().collect();
        self.queue.extend(renewals);
    }

    fn renewals(&self) -> impl Iterator<Item = Command> {
        let held = self.held.iter().filter(|(_, items)| !items.is_empty());
        held.map(|(request, items)| Command::new(Operation::Renew, request.clone(), items.clone()))
    }

    /// Sends the next batch of commands, and waits for the answers. Returns whether Redis answered.
    async fn send(&mut self) -> bool {
        let Self { link, told_in, queue, status, replica, .. } = self;
        let (Some(link), Some(epoch), true) = (link, told_in, status.is_well()) else { return false };
        let batch: Vec<Command> = queue.drain(..queue.len().min(AT_ONCE)).collect();
        if batch.is_empty() {
            return false;
        }
        match link.send(now(replica), epoch, &batch).await {
            Ok(answers) => {
                // Requests without an answer decide alone, but only after the status says that Redis is away.
                if answers.iter().any(Option::is_none) {
                    self.away(&LinkError::Forgot);
                }
                batch.into_iter().zip(answers).for_each(|(command, answer)| self.answered(command, answer));
                true
            }
            Err(error) => {
                self.link = None;
                self.away(&error);
                // A repeat of commands that Redis has done already does no harm.
                let again = batch.into_iter().filter(|command| command.operation != Operation::Take);
                again.rev().for_each(|command| self.queue.push_front(command));
                false
            }
        }
    }

    fn answered(&mut self, Command { request, items, answer: waiting, .. }: Command, answer: Option<TakeResult>) {
        let (Some(waiting), Some(answer)) = (waiting, answer) else { return };
        if let (Some(_), Some(held)) = (answer.exceeded, self.held.get_mut(&request)) {
            held.retain(|held| items.iter().all(|item| item.key() != held.key()));
        }
        // A request whose client left gives its reservations back.
        let _ = waiting.send(answer);
    }

    async fn look(&mut self) {
        if let Err(error) = self.find().await {
            self.away(&error);
            self.pause = (2 * self.pause).clamp(PAUSE, LONGEST_PAUSE);
            self.next_look = Instant::now() + self.pause;
            return;
        }
        if let Some((began, true)) = self.outage.take() {
            let seconds = began.elapsed().as_secs_f64();
            tracing::info!(
                seconds,
                "Redis is available again: this replica shares limits and budgets with the other replicas. Nothing \
                 needs to be done"
            );
        }
        (self.pause, self.next_look) = (Duration::ZERO, Instant::now() + LOOK);
        self.status.is_back();
        // After the start, no code receives this message.
        let _ = self.found.send(());
    }

    /// Connects if there is no connection, and reports everything if Redis does not know it.
    async fn find(&mut self) -> Result<(), LinkError> {
        self.looks += 1;
        let new_epoch = format!("{}-{:x}", HEXLOWER.encode(&self.replica.process), self.looks);
        let mut link = match self.link.take() {
            Some(link) => link,
            None => {
                self.told_in = None;
                Link::open(&self.connector, &self.replica.origin).await?
            }
        };
        let (epoch, took) = link.look(&new_epoch).await?;
        let knows_all = self.told_in.as_ref() == Some(&epoch);
        // While requests ask Redis, Redis may take as long as a request waits.
        let enough = if self.status.is_well() { self.patience } else { self.patience / 2 };
        if took <= enough && !knows_all {
            if self.status.is_well() {
                self.away(&LinkError::Forgot);
            }
            self.tell_everything(&mut link).await?;
            self.told_in = Some(epoch);
        }
        self.link = Some(link);
        if took <= enough { Ok(()) } else { Err(LinkError::Slow(took)) }
    }

    /// Reports the spend of all budgets and the reservations of requests in progress to Redis.
    async fn tell_everything(&self, link: &mut Link) -> Result<(), LinkError> {
        link.forget();
        let tell =
            |budget| Command::new(Operation::Give, String::new(), vec![LimitItem::Spend { budget, limit: 0, cost: 0 }]);
        let all: Vec<Command> = (self.replica.spent)().into_iter().map(tell).chain(self.renewals()).collect();
        for batch in all.chunks(AT_ONCE) {
            link.send(now(&self.replica), "", batch).await?;
        }
        Ok(())
    }

    /// Notes that Redis is away: no request asks Redis until a test succeeds.
    fn away(&mut self, error: &LinkError) {
        self.status.fails();
        // Their requests decide alone.
        self.queue.retain(|command| command.operation != Operation::Take);
        let now = Instant::now();
        self.next_look = self.next_look.min(now + self.pause);
        let (_, is_logged) = self.outage.get_or_insert((now, false));
        if !*is_logged && self.logged.is_none_or(|last| last + LOG_EVERY <= now) {
            (*is_logged, self.logged) = (true, Some(now));
            tracing::warn!(
                %error,
                "Redis is unavailable: this replica allows only a part of the limits and budgets until Redis works \
                 again. Check the Redis server and `redis` in [limits]"
            );
        }
    }

    /// Gives back the reservations that wait to be given back. All others expire in Redis.
    async fn stop(mut self) {
        let _ = timeout(LAST, async { while self.send().await {} }).await;
    }
}

fn reservations(items: &[LimitItem]) -> Vec<LimitItem> {
    items.iter().filter(|item| item.is_reservation()).cloned().collect()
}

/// Microseconds since 1970-01-01 UTC, for tests that have a clock of their own.
fn now(replica: &Replica) -> Option<u64> {
    replica.clock.map(|clock| u64::try_from(clock.since_epoch().as_micros()).unwrap_or(u64::MAX))
}
