//! Redis being away, or having forgotten: looking for it, and what has to be said before it is asked again.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, sleep_until};

use super::{
    super::{
        Given, HELD, Purse, Told,
        link::{Link, Looked},
        link_error::LinkError,
    },
    AT_ONCE, Done, Keeper,
};

/// The pauses between looks: the first, and the longest.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Redis being away is told of this often at most.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// What others spent before an outage is in the ledger so much later: rows are there after 0.2 s.
const STORED: Duration = Duration::from_millis(500);

/// What the ledger did not show by then, as it is away too, is not waited for.
const SHOWN: Duration = Duration::from_secs(2);

/// The ledger is asked for an outage this often at most.
const ASK_EVERY: Duration = Duration::from_secs(2);

/// Others that were away as well have so long to say what they spent meanwhile: they look once a second.
const OTHERS: Duration = Duration::from_secs(2);

/// Redis being away.
pub(super) struct Outage {
    began: Instant,
    /// On which connection.
    link: u64,
    told: bool,
    pub(super) caught_up: Option<CaughtUp>,
}

/// Redis knows again what this process spent and holds.
pub(super) struct CaughtUp {
    link: u64,
    life: Arc<str>,
    at: Instant,
}

/// When the ledger is asked for what others spent before an outage.
#[derive(Default)]
pub(super) struct Asking {
    /// The last outage, and when it began.
    last: Option<(u64, Instant)>,
    /// For which one it will be asked, and when.
    next: Option<(u64, Instant)>,
    asked: Option<Instant>,
}

impl Asking {
    fn schedule(&mut self) {
        if self.next.is_none() {
            let earliest = self.asked.map(|asked| asked + ASK_EVERY);
            self.next = self.last.map(|(outage, began)| (outage, (began + STORED).max(earliest.unwrap_or(began))));
        }
    }

    /// Comes when it is to be asked for an outage; not by itself, where there is none.
    pub(super) async fn due(&self) -> u64 {
        match self.next {
            Some((outage, at)) => {
                sleep_until(at).await;
                outage
            }
            None => std::future::pending().await,
        }
    }

    /// It is asked for this one, and later for one that came meanwhile.
    pub(super) fn done(&mut self, outage: u64) {
        (self.asked, self.next) = (Some(Instant::now()), None);
        self.last = self.last.filter(|(last, _)| *last > outage);
        self.schedule();
    }
}

impl Keeper {
    /// Something went wrong on a connection. What is said on one that was given up says nothing of the next.
    pub(super) fn failed(&mut self, link: u64, error: &LinkError) {
        if link == self.number {
            self.condition.fails();
            self.look_at(error);
        }
    }

    pub(super) fn look_at(&mut self, error: &LinkError) {
        if error.is_final() {
            self.link = None;
        }
        self.away(error);
        self.look();
    }

    /// Looks whether it is there, after the pause, and again until it is.
    pub(super) fn look(&mut self) {
        if std::mem::replace(&mut self.looking, true) {
            return;
        }
        let (connector, link, pause) = (self.connector.clone(), self.link.clone(), self.pause);
        let (process, life, origin) = (self.process.clone(), self.new_life(), Arc::clone(&self.origin));
        let here = match &self.outage {
            None => self.life.clone(),
            Some(outage) => outage.caught_up.as_ref().filter(|one| one.link == self.number).map(|one| one.life.clone()),
        };
        let here = here.filter(|_| link.is_some());
        self.work.spawn(async move {
            sleep(pause).await;
            let link = match link {
                Some(link) => link,
                None => match Link::open(&connector, &origin).await {
                    Ok(link) => link,
                    Err(error) => return Done::Looked { link: None, said: Err(error) },
                },
            };
            let said = link.look(&process, &life, here.as_deref()).await;
            let good = said.as_ref().err().is_none_or(|error| !error.is_final());
            Done::Looked { link: good.then_some(link), said }
        });
    }

    /// A name that no life had.
    fn new_life(&mut self) -> String {
        self.lives += 1;
        format!("{}-{:x}", self.process, self.lives)
    }

    pub(super) fn looked(&mut self, link: Option<Link>, said: Result<Looked, LinkError>) {
        self.looking = false;
        if self.link.is_none() {
            self.number += 1;
        }
        self.link = link;
        // One that is asked is given up no sooner than requests would.
        let enough = if self.outage.is_some() { self.prompt } else { 2 * self.prompt };
        match said {
            Ok(looked) if looked.took <= enough => self.found(looked),
            Ok(looked) => self.not_there(&LinkError::Slow(looked.took)),
            Err(error) => self.not_there(&error),
        }
    }

    fn not_there(&mut self, error: &LinkError) {
        self.condition.fails();
        self.pause = (2 * self.pause).clamp(PAUSE, LONGEST_PAUSE);
        self.away(error);
        self.look();
    }

    /// It is there, and answers in time.
    fn found(&mut self, looked: Looked) {
        self.pause = Duration::ZERO;
        let same = self.life.as_deref() == Some(&*looked.life);
        if self.outage.is_none() {
            if self.life.is_none() {
                // The first time: there is nothing to say yet.
                return self.back(looked);
            }
            if same && self.condition.is_well() {
                return self.give();
            }
            self.condition.fails();
            self.away(&if same { LinkError::Slow(looked.took) } else { LinkError::Forgot });
        }
        let Some(outage) = &self.outage else { return };
        match &outage.caught_up {
            Some(CaughtUp { link, life, at }) if *link == self.number && **life == *looked.life => {
                // Who was here before it went away, or has to be known where it forgot who was.
                let all = looked.here >= looked.known && (same || looked.known >= u64::from(self.replicas));
                if all || at.elapsed() >= OTHERS {
                    return self.back(looked);
                }
                self.give();
                self.pause = PAUSE;
                self.look();
            }
            _ => self.catch_up(same, looked.life),
        }
    }

    /// Says what this process holds, and what it spent, where Redis may not know it; then others may count on that.
    fn catch_up(&mut self, same: bool, life: String) {
        let (Some(link), Some(outage)) = (self.link.clone(), &self.outage) else { return };
        // On a connection that held, of something that it did not forget, what waits to be given back says it.
        let lasted = same && outage.link == self.number && outage.began.elapsed() < HELD;
        let told = if lasted { Vec::new() } else { self.budgets() };
        let (held, process, number) = (self.all_held(), self.process.clone(), self.number);
        self.looking = true;
        self.work.spawn(async move {
            let say = async {
                for held in held.chunks(AT_ONCE) {
                    link.renew(None, held).await?;
                }
                for told in told.chunks(AT_ONCE) {
                    link.give(None, told.iter().map(|told| ("", &**told))).await?;
                }
                link.look(&process, &life, Some(&life)).await
            };
            let said = say.await;
            Done::CaughtUp { link: number, said }
        });
    }

    /// What was spent of all budgets: by this process, and by others, as the ledger says.
    fn budgets(&self) -> Vec<Vec<Given>> {
        let told = |(account, counter): &(_, Arc<_>)| {
            let purse = Purse::of(account, counter);
            let (_, others) = counter.others();
            let tell = |(origin, spent): &(Arc<str>, u64)| {
                Given::Told(Told { purse: purse.clone(), origin: Arc::clone(origin), spent: *spent })
            };
            let mut all: Vec<_> = others.iter().map(tell).collect();
            all.push(Given::Spend { purse: purse.clone() });
            (counter.spent() > 0).then_some(all)
        };
        self.spending.all().iter().filter_map(told).collect()
    }

    pub(super) fn caught_up(&mut self, link: u64, said: Result<Looked, LinkError>) {
        self.looking = false;
        match said {
            // Something else found it gone meanwhile.
            Ok(_) if self.link.is_none() => self.look(),
            Ok(looked) => {
                if let Some(outage) = &mut self.outage {
                    let life = Arc::from(&*looked.life);
                    outage.caught_up = Some(CaughtUp { link, life, at: Instant::now() });
                }
                self.found(looked);
            }
            Err(error) => self.failed(link, &error),
        }
    }

    /// From now on it is asked.
    fn back(&mut self, looked: Looked) {
        self.life = Some(looked.life.into());
        if let Some(Outage { began, told: true, .. }) = self.outage.take() {
            tracing::info!(
                seconds = began.elapsed().as_secs_f64(),
                "Redis answers again: limits and budgets are shared"
            );
        }
        self.condition.is_back();
        self.renew();
        self.give();
    }

    /// It is away: tells so, once, and has the ledger asked for what others spent before.
    fn away(&mut self, error: &LinkError) {
        let now = Instant::now();
        if self.outage.is_none() {
            self.outage = Some(Outage { began: now, link: self.number, told: false, caught_up: None });
            self.known.clear();
            let (condition, outage) = (Arc::clone(&self.condition), self.condition.outage());
            self.asking.last = Some((outage, now));
            self.asking.schedule();
            tokio::spawn(async move {
                sleep(SHOWN).await;
                condition.waited(outage);
            });
        }
        let tells = self.told.is_none_or(|told| told + TELL_EVERY <= now);
        if let Some(outage) = self.outage.as_mut().filter(|outage| tells && !outage.told) {
            outage.told = true;
            self.told = Some(now);
            tracing::warn!(%error, "Redis does not answer: limits and budgets are not shared until it does");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_ledger_is_asked_late_enough_for_every_outage_and_not_too_often() {
        let (mut asking, began) = (Asking::default(), Instant::now());
        let mut asked = Vec::new();
        // One every 0.2 s.
        for outage in 1..=20 {
            asking.last = Some((outage, Instant::now()));
            asking.schedule();
            let pause = sleep(Duration::from_millis(200));
            tokio::pin!(pause);
            loop {
                tokio::select! {
                    () = &mut pause => break,
                    due = asking.due() => {
                        asked.push((due, began.elapsed().as_millis()));
                        asking.done(due);
                    }
                }
            }
        }
        for _ in 0..2 {
            let due = asking.due().await;
            asked.push((due, began.elapsed().as_millis()));
            asking.done(due);
        }
        assert_eq!(asked, [(1, 500), (3, 2500), (13, 4500), (20, 6500)]);
        assert!(tokio::time::timeout(Duration::from_secs(60), asking.due()).await.is_err());
    }
}
