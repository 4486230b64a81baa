//! The thread that asks Redis for all workers, knows what requests hold, and looks for Redis when it is away.
//!
//! On each new connection, and whenever Redis was emptied, it first tells what this data folder spent, what the ledger says of others,
//! and what requests hold; then requests ask Redis again. It waits for no other replica.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, mpsc},
    time::Duration,
};

use data_encoding::HEXLOWER;
use tokio::{
    sync::{mpsc::UnboundedReceiver, oneshot},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};

use super::{
    Answer, Given, HELD, Item, LAST, Replica, SharedBudget,
    connect::Connector,
    link::{Link, Looked},
    link_error::LinkError,
    outage::Outages,
};
use crate::{concurrent::sharing_status::SharingStatus, domain::spending::RemoteSpend};

/// What is held is renewed four times before it would come back.
const RENEW: Duration = Duration::from_secs(15);

/// Redis is looked at so often, also where nobody asks: a replica without requests tells what it spent once Redis was emptied.
const LOOK: Duration = Duration::from_millis(500);

/// The pauses between looks while Redis is away: the first, and the longest.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What goes into one write.
const AT_ONCE: usize = 200;

/// Settlements that wait while Redis is away; the oldest give way. What they held comes back by itself.
const WAITING: usize = 50_000;

/// Of so many budgets it is known that Redis was told what others spent. It may be told again.
const TOLD: usize = 100_000;

/// What workers ask for.
#[derive(Debug)]
pub(super) enum Message {
    /// All items or none. Who asks may be gone when it is answered.
    Take { holder: u64, items: Vec<Item>, answer: oneshot::Sender<Answer> },
    /// They were taken without Redis.
    Hold { holder: u64, items: Vec<Item> },
    /// The request is over.
    Give { holder: u64, given: Vec<Given>, since: Instant },
    /// A request waited for too long.
    Slow,
    /// Nobody will ask any more.
    End(mpsc::Sender<()>),
}

/// What a request gives back, with its name in Redis and the moment at which it ended.
type Ended = (String, Vec<Given>, Instant);

/// What came of a task, on the connection of this number.
enum Done {
    Taken {
        link: u64,
        holder: u64,
        items: Vec<Item>,
        answer: oneshot::Sender<Answer>,
        said: Result<Answer, LinkError>,
    },
    Given {
        link: u64,
        ended: Vec<Ended>,
        said: Result<(), LinkError>,
    },
    /// What was spent or is held was told.
    Told {
        link: u64,
        said: Result<(), LinkError>,
    },
    Looked(Result<(Link, Looked), LinkError>),
}

pub(super) struct RedisWorker {
    connector: Connector,
    status: Arc<SharingStatus>,
    replica: Replica,
    /// A request waits so long; it asks twice.
    patience: Duration,
    link: Option<Link>,
    /// Goes up with every connection.
    number: u64,
    /// In this epoch, and on this connection, Redis was told everything that this process knows.
    told_in: Option<Arc<str>>,
    /// As of when Redis knows what others spent, by the name of the budget.
    told: HashMap<String, u64>,
    /// Each look brings a name for the epoch that begins with it, should Redis be empty.
    looks: u64,
    /// When the next look is due; none while there is one.
    next_look: Option<Instant>,
    pause: Duration,
    /// What requests hold: places and what was set aside.
    held: HashMap<u64, Vec<Item>>,
    waiting: VecDeque<Ended>,
    work: JoinSet<Done>,
    outages: Outages,
}

impl RedisWorker {
    pub(super) fn new(connector: Connector, status: Arc<SharingStatus>, replica: Replica, patience: Duration) -> Self {
        Self {
            connector,
            status,
            replica,
            patience,
            link: None,
            number: 0,
            told_in: None,
            told: HashMap::new(),
            looks: 0,
            next_look: None,
            pause: Duration::ZERO,
            held: HashMap::new(),
            waiting: VecDeque::new(),
            work: JoinSet::new(),
            outages: Outages::default(),
        }
    }

    /// Works until the end, or until nobody can ask any more.
    pub(super) async fn run(mut self, mut messages: UnboundedReceiver<Message>) {
        let mut renewal = interval(RENEW);
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.next_look = Some(Instant::now());
        loop {
            tokio::select! {
                message = messages.recv() => match message {
                    Some(Message::End(done)) => {
                        self.bring_away().await;
                        // Who waits for it may have given up.
                        let _ = done.send(());
                        return;
                    }
                    Some(message) => self.hear(message),
                    None => return self.bring_away().await,
                },
                Some(done) = self.work.join_next() => if let Ok(done) = done { self.done(done) },
                _ = renewal.tick() => if self.status.is_well() { self.renew() },
                () = due(self.next_look) => self.look(),
            }
        }
    }

    fn hear(&mut self, message: Message) {
        match message {
            Message::Take { holder, items, answer } => self.take(holder, items, answer),
            Message::Hold { holder, items } => self.hold(holder, items),
            Message::Give { holder, given, since } => {
                self.held.remove(&holder);
                self.wait((self.name(holder), given, since));
                self.give();
            }
            Message::Slow => self.away(&LinkError::Slow(self.patience)),
            Message::End(_) => {}
        }
    }

    fn take(&mut self, holder: u64, mut items: Vec<Item>, answer: oneshot::Sender<Answer>) {
        // Where there is none, the answer is dropped, which says so.
        let Some((link, epoch)) = self.well().zip(self.told_in.clone()) else { return };
        for item in &mut items {
            if let Item::Spend { budget, .. } = item {
                self.drop_what_is_known(budget);
            }
        }
        let (name, number, now) = (self.name(holder), self.number, self.now());
        self.work.spawn(async move {
            let said = link.take(now, Some(&epoch), &name, &items).await;
            Done::Taken { link: number, holder, items, answer, said }
        });
    }

    /// What others spent is told once in an epoch, as of each reading of the ledger that changed it.
    fn drop_what_is_known(&mut self, budget: &mut SharedBudget) {
        if self.told.len() > TOLD {
            self.told.clear();
        }
        // A question that fails takes the connection with it, and then all is told again.
        if self.told.insert(budget.name.clone(), budget.remote.read_at) == Some(budget.remote.read_at) {
            budget.remote = RemoteSpend::default();
        }
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Taken { link, holder, items, answer, said } => match said {
                Ok(said) => {
                    let all = said.exceeded.is_none();
                    // Who does not hear it any more gives back, or says that it holds.
                    if answer.send(said).is_ok() && all {
                        self.hold(holder, items);
                    }
                }
                Err(error) => {
                    // Before who waits goes on without it.
                    self.failed(link, &error);
                    drop(answer);
                }
            },
            Done::Given { link, ended, said } => {
                if let Err(error) = said {
                    ended.into_iter().for_each(|one| self.wait(one));
                    self.failed(link, &error);
                }
            }
            Done::Told { link, said } => {
                if let Err(error) = said {
                    self.failed(link, &error);
                }
            }
            Done::Looked(Ok((link, looked))) => self.looked(link, &looked),
            Done::Looked(Err(error)) => {
                self.link = None;
                self.not_there(&error);
            }
        }
    }

    /// The connection, if requests ask on it now.
    fn well(&self) -> Option<Link> {
        self.link.as_ref().filter(|_| self.status.is_well()).cloned()
    }

    fn name(&self, holder: u64) -> String {
        format!("{}{holder:x}", HEXLOWER.encode(&self.replica.process))
    }

    /// Microseconds since 1970-01-01 UTC, where Redis is not to go by its own clock.
    fn now(&self) -> Option<u64> {
        self.replica.clock.map(|clock| u64::try_from(clock.since_epoch().as_micros()).unwrap_or(u64::MAX))
    }

    fn hold(&mut self, holder: u64, mut items: Vec<Item>) {
        items.retain_mut(|item| match item {
            Item::Place { .. } => true,
            Item::Spend { budget, .. } => {
                budget.remote = RemoteSpend::default();
                true
            }
            Item::Rate { .. } | Item::Look { .. } => false,
        });
        if !items.is_empty() {
            self.held.entry(holder).or_default().extend(items);
        }
    }

    fn wait(&mut self, ended: Ended) {
        if self.waiting.len() >= WAITING {
            self.waiting.pop_front();
            self.told_in = None;
        }
        self.waiting.push_back(ended);
    }

    /// Brings away what waits.
    fn give(&mut self) {
        let Some(link) = self.well() else { return };
        while !self.waiting.is_empty() {
            let ended: Vec<Ended> = self.waiting.drain(..self.waiting.len().min(AT_ONCE)).collect();
            let (link, number, now) = (link.clone(), self.number, self.now());
            self.work.spawn(async move {
                let given = ended.iter().map(|(name, given, _)| (&**name, &**given));
                let said = link.give(now, given).await;
                Done::Given { link: number, ended, said }
            });
        }
    }

    /// Says that what requests hold is still held, or is held at all.
    fn renew(&mut self) {
        let Some(link) = &self.link else { return };
        let all: Vec<_> = self.held.iter().map(|(holder, items)| (self.name(*holder), items.clone())).collect();
        for held in all.chunks(AT_ONCE).map(<[_]>::to_vec) {
            let (link, number, now) = (link.clone(), self.number, self.now());
            self.work.spawn(async move { Done::Told { link: number, said: link.renew(now, &held).await } });
        }
    }

    /// Says what was spent of all budgets: by this data folder, and by others, as the ledger says.
    fn tell_what_was_spent(&mut self) {
        self.told.clear();
        let Some(link) = self.link.clone() else { return };
        let mut all = (self.replica.spent)();
        all.iter_mut().for_each(|budget| self.drop_what_is_known(budget));
        for told in all.chunks(AT_ONCE).map(<[_]>::to_vec) {
            let (link, number, now) = (link.clone(), self.number, self.now());
            self.work.spawn(async move {
                let told: Vec<_> = told.into_iter().map(|budget| [Given::Spend { budget }]).collect();
                let said = link.give(now, told.iter().map(|one| ("", &one[..]))).await;
                Done::Told { link: number, said }
            });
        }
    }

    /// Looks whether Redis is there, on a new connection where there is none.
    fn look(&mut self) {
        self.next_look = None;
        self.looks += 1;
        let epoch = format!("{}-{:x}", HEXLOWER.encode(&self.replica.process), self.looks);
        let (connector, link, origin) = (self.connector.clone(), self.link.clone(), Arc::clone(&self.replica.origin));
        self.work.spawn(async move {
            let look = async {
                let link = match link {
                    Some(link) => link,
                    None => Link::open(&connector, &origin).await?,
                };
                let looked = link.look(&epoch).await?;
                Ok((link, looked))
            };
            Done::Looked(look.await)
        });
    }

    /// Redis answered: requests ask it from now on, if that was fast enough.
    fn looked(&mut self, link: Link, looked: &Looked) {
        if self.link.is_none() {
            self.number += 1;
            self.told_in = None;
        }
        self.link = Some(link);
        // A Redis that requests ask is given up no sooner than they would give it up.
        let enough = if self.status.is_well() { self.patience } else { self.patience / 2 };
        if looked.took > enough {
            return self.not_there(&LinkError::Slow(looked.took));
        }
        let waited = self.waiting.len();
        // What is older has come back by itself.
        self.waiting.retain(|(_, _, since)| since.elapsed() < HELD);
        if self.waiting.len() < waited {
            self.told_in = None;
        }
        let knows_all = self.told_in.as_deref() == Some(&*looked.epoch);
        if !knows_all {
            if self.status.is_well() {
                self.outages.goes_on(&LinkError::Forgot);
            }
            self.told_in = Some(Arc::from(&*looked.epoch));
            self.tell_what_was_spent();
        }
        if !knows_all || !self.status.is_well() {
            self.renew();
        }
        self.outages.ends();
        self.status.is_back();
        self.give();
        (self.pause, self.next_look) = (Duration::ZERO, Some(Instant::now() + LOOK));
    }

    /// A look failed.
    fn not_there(&mut self, error: &LinkError) {
        self.status.fails();
        self.outages.goes_on(error);
        self.pause = (2 * self.pause).clamp(PAUSE, LONGEST_PAUSE);
        self.next_look = Some(Instant::now() + self.pause);
    }

    /// Something went wrong on a connection. What is said on one that was given up says nothing of the next.
    fn failed(&mut self, link: u64, error: &LinkError) {
        if link == self.number {
            if error.is_final() {
                self.link = None;
            }
            self.away(error);
        }
    }

    /// Redis is not asked until a look finds it; that comes at once, if there is none.
    fn away(&mut self, error: &LinkError) {
        self.status.fails();
        self.outages.goes_on(error);
        self.next_look = self.next_look.map(|at| at.min(Instant::now() + self.pause));
    }

    /// The last that is given back.
    async fn bring_away(mut self) {
        self.give();
        let all = async { while self.work.join_next().await.is_some() {} };
        // What does not get there comes back by itself.
        let _ = timeout(LAST, all).await;
    }
}

/// Comes at this moment; never where there is none.
async fn due(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
