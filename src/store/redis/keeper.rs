//! The thread that asks Redis for all workers, knows what requests hold, and looks when it is away.

mod outage;

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, mpsc},
    time::Duration,
};

use data_encoding::HEXLOWER;
use tokio::{
    sync::{mpsc::UnboundedReceiver, oneshot},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use self::outage::{Asking, Outage};
use super::{
    Answer, Given, HELD, Item, LAST, Told, Who,
    connect::Connector,
    link::{Link, Looked},
    link_error::LinkError,
};
use crate::{
    config::SharedLimits,
    domain::{sharing::Condition, spending::Spending},
};

/// What is held is renewed four times before it would come back.
const RENEW: Duration = Duration::from_secs(15);

/// What goes into one write.
const AT_ONCE: usize = 200;

/// It is looked so often, also where nobody asks: a third of the time after which the script takes a process for away.
const LOOK: Duration = Duration::from_millis(500);

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
    /// Somebody waited for too long.
    Slow,
    /// Nobody will ask any more.
    End(mpsc::Sender<()>),
}

/// What a request gives back, with its name there and the moment at which it ended.
type Ended = (String, Vec<Given>, Instant);

/// What came of something that was done beside the rest, on the connection of this number.
enum Done {
    Taken {
        link: u64,
        holder: u64,
        items: Vec<Item>,
        answer: oneshot::Sender<Answer>,
        /// Of which budgets it said what others spent, as of when.
        told: Vec<(String, u64)>,
        said: Result<Answer, LinkError>,
    },
    Given {
        link: u64,
        ended: Vec<Ended>,
        said: Result<(), LinkError>,
    },
    Renewed {
        link: u64,
        said: Result<(), LinkError>,
    },
    /// The connection that is there, and what a look found.
    Looked {
        link: Option<Link>,
        said: Result<Looked, LinkError>,
    },
    /// Redis was told what it may not know.
    CaughtUp {
        link: u64,
        said: Result<Looked, LinkError>,
    },
}

pub(super) struct Keeper {
    connector: Connector,
    condition: Arc<Condition>,
    /// What the names of what this process holds begin with.
    process: String,
    origin: Arc<str>,
    spending: Arc<Spending>,
    /// How many processes share it.
    replicas: u32,
    /// Redis counts as there only when it answers so fast.
    prompt: Duration,
    /// What Redis remembers since then is all of what was told it.
    life: Option<Arc<str>>,
    /// How many lives could have begun.
    lives: u64,
    /// Of which budgets Redis knows what others spent, as of when.
    known: HashMap<String, u64>,
    link: Option<Link>,
    /// Goes up with every connection.
    number: u64,
    /// What requests hold: places and what was set aside.
    held: HashMap<u64, Vec<Item>>,
    waiting: VecDeque<Ended>,
    work: JoinSet<Done>,
    looking: bool,
    pause: Duration,
    outage: Option<Outage>,
    /// When one was told of.
    told: Option<Instant>,
    asking: Asking,
}

impl Keeper {
    pub(super) fn new(connector: Connector, condition: Arc<Condition>, who: Who, sharing: &SharedLimits) -> Self {
        let Who { process, origin, spending } = who;
        Self {
            connector,
            condition,
            process: HEXLOWER.encode(&process),
            origin,
            spending,
            replicas: sharing.replicas,
            // Requests ask it twice.
            prompt: sharing.patience / 2,
            life: None,
            lives: 0,
            known: HashMap::new(),
            link: None,
            number: 0,
            held: HashMap::new(),
            waiting: VecDeque::new(),
            work: JoinSet::new(),
            looking: false,
            pause: Duration::ZERO,
            outage: None,
            told: None,
            asking: Asking::default(),
        }
    }

    /// Works until the end, or until nobody can ask any more.
    pub(super) async fn run(mut self, mut messages: UnboundedReceiver<Message>) {
        let (mut renewal, mut looks) = (interval(RENEW), interval(LOOK));
        for timer in [&mut renewal, &mut looks] {
            timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
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
                _ = renewal.tick() => self.renew(),
                _ = looks.tick() => self.look(),
                outage = self.asking.due() => {
                    self.spending.wants(outage);
                    self.asking.done(outage);
                }
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
            Message::Slow => self.look_at(&LinkError::Slow(2 * self.prompt)),
            Message::End(_) => {}
        }
    }

    fn take(&mut self, holder: u64, mut items: Vec<Item>, answer: oneshot::Sender<Answer>) {
        // Where there is none, the answer is dropped, which says so.
        let Some((link, life)) = self.well().zip(self.life.clone()) else { return };
        let (name, number) = (self.name(holder), self.number);
        let mut told = Vec::new();
        // Behind the others, where it moves nobody's place.
        for nth in 0..items.len() {
            let Some(Item::Spend { purse, .. }) = items.get(nth) else { continue };
            let (asked, others) = purse.counter.others();
            if asked > self.known.get(&purse.key).copied().unwrap_or_default() {
                told.push((purse.key.clone(), asked));
                let purse = purse.clone();
                let tell = |(origin, spent): &(Arc<str>, u64)| {
                    Item::Told(Told { purse: purse.clone(), origin: Arc::clone(origin), spent: *spent })
                };
                items.extend(others.iter().map(tell));
            }
        }
        self.work.spawn(async move {
            let said = link.take(None, Some(&life), &name, &items).await;
            Done::Taken { link: number, holder, items, answer, told, said }
        });
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Taken { link, holder, items, answer, told, said } => match said {
                Ok(said) => {
                    if link == self.number && self.outage.is_none() {
                        if self.known.len() > TOLD {
                            self.known.clear();
                        }
                        self.known.extend(told);
                    }
                    let all = said.lacking.is_none();
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
            Done::Renewed { link, said } => {
                if let Err(error) = said {
                    self.failed(link, &error);
                }
            }
            Done::Looked { link, said } => self.looked(link, said),
            Done::CaughtUp { link, said } => self.caught_up(link, said),
        }
    }

    /// The connection, if requests are asked for on it now.
    fn well(&self) -> Option<Link> {
        self.link.as_ref().filter(|_| self.condition.is_well()).cloned()
    }

    fn name(&self, holder: u64) -> String {
        format!("{}{holder:x}", self.process)
    }

    fn hold(&mut self, holder: u64, items: Vec<Item>) {
        let items = items.into_iter().filter(|item| matches!(item, Item::Place { .. } | Item::Spend { .. }));
        let mut items = items.peekable();
        if items.peek().is_some() {
            self.held.entry(holder).or_default().extend(items);
        }
    }

    fn wait(&mut self, ended: Ended) {
        if self.waiting.len() >= WAITING {
            self.waiting.pop_front();
        }
        self.waiting.push_back(ended);
    }

    /// Brings away what waits. Also while others are waited for: what they are told shall be all.
    fn give(&mut self) {
        let caught_up = self.outage.as_ref().is_some_and(|outage| outage.caught_up.is_some());
        let Some(link) = self.link.as_ref().filter(|_| caught_up || self.condition.is_well()).cloned() else { return };
        // What is older has come back by itself.
        self.waiting.retain(|(_, _, since)| since.elapsed() < HELD);
        while !self.waiting.is_empty() {
            let ended: Vec<Ended> = self.waiting.drain(..self.waiting.len().min(AT_ONCE)).collect();
            let (link, number) = (link.clone(), self.number);
            self.work.spawn(async move {
                let given = ended.iter().map(|(name, given, _)| (&**name, &**given));
                let said = link.give(None, given).await;
                Done::Given { link: number, ended, said }
            });
        }
    }

    fn all_held(&self) -> Vec<(String, Vec<Item>)> {
        self.held.iter().map(|(holder, items)| (self.name(*holder), items.clone())).collect()
    }

    fn renew(&mut self) {
        let Some(link) = self.well() else { return };
        let all = self.all_held();
        for held in all.chunks(AT_ONCE).map(<[_]>::to_vec) {
            let (link, number) = (link.clone(), self.number);
            self.work.spawn(async move { Done::Renewed { link: number, said: link.renew(None, &held).await } });
        }
    }

    /// The last that is given back.
    async fn bring_away(mut self) {
        self.give();
        if let Some(link) = self.link.clone() {
            let (process, number) = (self.process.clone(), self.number);
            self.work.spawn(async move { Done::Renewed { link: number, said: link.leave(&process).await } });
        }
        let all = async { while self.work.join_next().await.is_some() {} };
        // What does not get there comes back by itself.
        let _ = timeout(LAST, all).await;
    }
}
