//! The thread that asks Redis for all workers, knows what requests hold, and looks when it is away.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, atomic::Ordering, mpsc},
    time::Duration,
};

use redis::Client;
use tokio::{
    sync::{mpsc::UnboundedReceiver, oneshot},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};

use super::{
    Answer, Given, HELD, Item, LAST,
    link::{Link, LinkError},
};
use crate::domain::sharing::Condition;

/// What is held is renewed four times before it would come back.
const RENEW: Duration = Duration::from_secs(15);

/// What goes into one write.
const AT_ONCE: usize = 200;

/// Where nobody asks, it is looked so often.
const LOOK: Duration = Duration::from_secs(5);

/// The pauses between looks: the first, and the longest.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Settlements that wait while Redis is away; the oldest give way. What they held comes back by itself.
const WAITING: usize = 50_000;

/// Redis being away is told of this often at most.
const TELL_EVERY: Duration = Duration::from_secs(5);

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
    /// The connection that is there, and how long it took to answer.
    Looked {
        link: Option<Link>,
        said: Result<Duration, LinkError>,
    },
}

/// Redis being away.
struct Outage {
    began: Instant,
    told: bool,
}

pub(super) struct Keeper {
    client: Client,
    condition: Arc<Condition>,
    /// What the names of what this process holds begin with.
    process: String,
    /// Redis counts as there only when it answers so fast.
    prompt: Duration,
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
    told: Option<Instant>,
}

impl Keeper {
    pub(super) fn new(client: Client, condition: Arc<Condition>, process: String, patience: Duration) -> Self {
        Self {
            client,
            condition,
            process,
            // Requests ask it twice.
            prompt: patience / 2,
            link: None,
            number: 0,
            held: HashMap::new(),
            waiting: VecDeque::new(),
            work: JoinSet::new(),
            looking: false,
            pause: Duration::ZERO,
            outage: None,
            told: None,
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
            }
        }
    }

    fn hear(&mut self, message: Message) {
        match message {
            Message::Take { holder, items, answer } => {
                // Where there is none, the answer is dropped, which says so.
                let Some(link) = self.well() else { return };
                let (name, number) = (self.name(holder), self.number);
                self.work.spawn(async move {
                    let said = link.take(None, &name, &items).await;
                    Done::Taken { link: number, holder, items, answer, said }
                });
            }
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

    fn done(&mut self, done: Done) {
        match done {
            Done::Taken { link, holder, items, answer, said } => match said {
                Ok(said) => {
                    let all = said.lacking.is_none();
                    // Who does not hear it any more gives back, or says that it holds.
                    if answer.send(said).is_ok() && all {
                        self.hold(holder, items);
                    }
                }
                Err(error) => {
                    drop(answer);
                    self.failed(link, &error);
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

    /// Brings away what waits.
    fn give(&mut self) {
        let Some(link) = self.well() else { return };
        // What is older has come back by itself.
        self.waiting.retain(|(_, _, since)| since.elapsed() < HELD);
        while !self.waiting.is_empty() {
            let ended: Vec<Ended> = self.waiting.drain(..self.waiting.len().min(AT_ONCE)).collect();
            let (link, number) = (link.clone(), self.number);
            self.work.spawn(async move {
                let said = link.give(None, &ended).await;
                Done::Given { link: number, ended, said }
            });
        }
    }

    fn renew(&mut self) {
        let Some(link) = self.well() else { return };
        let all: Vec<_> = self.held.iter().map(|(holder, items)| (self.name(*holder), items.clone())).collect();
        for held in all.chunks(AT_ONCE).map(<[_]>::to_vec) {
            let (link, number) = (link.clone(), self.number);
            self.work.spawn(async move { Done::Renewed { link: number, said: link.renew(None, &held).await } });
        }
    }

    /// Something went wrong on a connection. What is said on one that was given up says nothing of the next.
    fn failed(&mut self, link: u64, error: &LinkError) {
        if link == self.number {
            self.condition.fails();
            self.look_at(error);
        }
    }

    fn look_at(&mut self, error: &LinkError) {
        if error.is_final() {
            self.link = None;
        }
        self.away(error);
        self.look();
    }

    /// Looks whether it is there, after the pause, and again until it is.
    fn look(&mut self) {
        if std::mem::replace(&mut self.looking, true) {
            return;
        }
        let (client, link, pause) = (self.client.clone(), self.link.clone(), self.pause);
        self.work.spawn(async move {
            sleep(pause).await;
            let link = match link {
                Some(link) => link,
                None => match Link::open(&client).await {
                    Ok(link) => link,
                    Err(error) => return Done::Looked { link: None, said: Err(error) },
                },
            };
            let said = link.probe().await;
            let good = said.as_ref().err().is_none_or(|error| !error.is_final());
            Done::Looked { link: good.then_some(link), said }
        });
    }

    fn looked(&mut self, link: Option<Link>, said: Result<Duration, LinkError>) {
        self.looking = false;
        if self.link.is_none() {
            self.number += 1;
        }
        self.link = link;
        let wrong = match said {
            Ok(took) if took <= self.prompt => {
                self.pause = Duration::ZERO;
                self.condition.fails.store(false, Ordering::Release);
                if self.is_back() {
                    self.renew();
                }
                return self.give();
            }
            Ok(took) => LinkError::Slow(took),
            Err(error) => error,
        };
        self.condition.fails();
        self.pause = (2 * self.pause).clamp(PAUSE, LONGEST_PAUSE);
        self.away(&wrong);
        self.look();
    }

    /// Tells that it is away, once.
    fn away(&mut self, error: &LinkError) {
        let now = Instant::now();
        let outage = self.outage.get_or_insert(Outage { began: now, told: false });
        if !outage.told && self.told.is_none_or(|told| told + TELL_EVERY <= now) {
            (outage.told, self.told) = (true, Some(now));
            tracing::warn!(%error, "Redis cannot be asked: limits are not shared for now");
        }
    }

    /// Whether it was away; tells that it is back, where that was told.
    fn is_back(&mut self) -> bool {
        let Some(Outage { began, told }) = self.outage.take() else { return false };
        if told {
            tracing::info!(seconds = began.elapsed().as_secs_f64(), "Redis is asked again: limits are shared");
        }
        true
    }

    /// The last that is given back.
    async fn bring_away(mut self) {
        self.give();
        let all = async { while self.work.join_next().await.is_some() {} };
        // What does not get there comes back by itself.
        let _ = timeout(LAST, all).await;
    }
}
