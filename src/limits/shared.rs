//! Limits that replicas share: Redis is asked for what a request takes. While it is away each replica allows its part, counted
//! in memory, or nothing.

use std::{io, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    Quota, Quotas,
    gcra::Correction,
    memory::Lacking,
    subject::{Item, Scope, Share, Subject, What},
};
use crate::{
    config::{SharedLimits, WhenRedisIsAway},
    domain::{
        money::Budget,
        sharing::Condition,
        spending::{Alone, Counter, Span},
    },
    store::redis::{self, Answer, Given, Purse, Redis, Who},
};

/// What replicas share, and how.
#[derive(Debug)]
pub struct Shared {
    redis: Redis,
    pub(super) replicas: u32,
    pub(super) fail: WhenRedisIsAway,
    patience: Duration,
}

impl Shared {
    /// Begins to ask Redis.
    ///
    /// # Errors
    /// When it cannot even be begun; Redis may be away.
    pub fn start(sharing: &SharedLimits, who: Who, condition: Arc<Condition>) -> io::Result<Self> {
        let redis = Redis::start(sharing, who, condition)?;
        Ok(Self { redis, replicas: sharing.replicas, fail: sharing.fail, patience: sharing.patience })
    }

    /// How this one counts budgets while it cannot ask.
    pub(super) fn alone(&self) -> Alone {
        self.redis.alone(self.replicas)
    }

    /// Brings away what was given back. Nobody takes anything any more.
    pub fn end(&self) {
        self.redis.end();
    }
}

/// What one request holds in Redis, or may hold: given back when it is dropped.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) shared: Arc<Shared>,
    holder: u64,
    patience: Duration,
    given: Vec<Given>,
    /// Redis could not be asked for something that it wanted.
    pub(super) alone: bool,
}

/// What came of a question.
pub(super) enum Asked {
    /// All is taken, and so the rates stand.
    Taken(Quotas),
    /// Something is not there, and nothing is taken.
    Lacking(Lacking, Quotas),
    /// Nobody knows.
    Away,
}

impl Held {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        let (shared, given) = (Arc::clone(shared), Vec::new());
        Self { holder: shared.redis.holder(), patience: shared.patience, given, alone: false, shared }
    }

    /// Asks for all items or none. `now` = microseconds since `Meters::began`.
    pub(super) async fn take(&mut self, subject: &Subject, scope: Scope, items: &[Item], now: u64) -> Asked {
        let before = self.given.len();
        // Whatever becomes of the question: what was taken by it comes back.
        self.given.extend(items.iter().filter_map(|item| released(subject, item)));
        if !self.shared.redis.is_well() {
            return self.away();
        }
        if let Some(lacking) = known(subject, items, now) {
            self.given.truncate(before);
            return Asked::Lacking(lacking, quotas(subject, scope, now));
        }
        let (asked, rates) = question(subject, scope, items);
        let began = Instant::now();
        let said = self.shared.redis.take(self.holder, asked, self.patience).await;
        self.patience = self.patience.saturating_sub(began.elapsed());
        let Some(Answer { lacking, states }) = said else { return self.away() };
        learn(subject, &rates, &states, now);
        match lacking {
            None => Asked::Taken(quotas(subject, scope, now)),
            Some((nth, wait)) => {
                self.given.truncate(before);
                if let Some(Item { share, what: What::Rate { tokens: false, .. } }) = items.get(nth)
                    && let Some(share) = subject.shares.get(*share)
                {
                    share.meter.told_turn(now.saturating_add(wait));
                }
                Asked::Lacking(Lacking { nth, wait }, quotas(subject, scope, now))
            }
        }
    }

    /// It was let in without Redis, which is told when it is back.
    pub(super) fn taken_alone(&self, subject: &Subject, items: &[Item]) {
        self.shared.redis.hold(self.holder, items.iter().filter_map(|item| asked(subject, item)).collect());
    }

    /// Counted once a request.
    fn away(&mut self) -> Asked {
        if !std::mem::replace(&mut self.alone, true) {
            self.shared.redis.is_alone();
        }
        Asked::Away
    }

    /// A rate is corrected.
    pub(super) fn corrected(&mut self, share: &Share, tokens: bool, correction: Correction) {
        let (more, back) = match correction {
            Correction::More(span) => (span, 0),
            Correction::Back(span) => (0, span),
        };
        if (more, back) != (0, 0) {
            self.given.push(Given::Rate { key: rate(share, tokens), more, back, since: Instant::now() });
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.given.is_empty() {
            self.shared.redis.give(self.holder, std::mem::take(&mut self.given));
        }
    }
}

/// Items as Redis is asked for them, and for each whose rate it is: that of this share, of tokens or of requests. Rates that are
/// not taken are looked at, for the headers.
pub(super) fn question(
    subject: &Subject,
    scope: Scope,
    items: &[Item],
) -> (Vec<redis::Item>, Vec<Option<(usize, bool)>>) {
    let whose = |item: &Item| match &item.what {
        What::Rate { tokens, .. } => Some((item.share, *tokens)),
        _ => None,
    };
    let mut rates: Vec<_> = items.iter().map(whose).collect();
    let mut all: Vec<_> = items.iter().filter_map(|item| asked(subject, item)).collect();
    for (nth, share) in subject.within(scope) {
        for tokens in [false, true] {
            if share.rate(tokens).is_some() && !rates.contains(&Some((nth, tokens))) {
                rates.push(Some((nth, tokens)));
                all.push(redis::Item::Look { key: rate(share, tokens) });
            }
        }
    }
    (all, rates)
}

pub(super) fn asked(subject: &Subject, item: &Item) -> Option<redis::Item> {
    let share = subject.shares.get(item.share)?;
    Some(match &item.what {
        What::Place { limit } => redis::Item::Place { key: place(share), limit: *limit as u64 },
        What::Rate { tokens, rate: limit, cost, .. } => {
            redis::Item::Rate { key: rate(share, *tokens), span: limit.span(*cost) }
        }
        What::Spend { counter, limit, cost, budget, span } => {
            redis::Item::Spend { purse: purse(share, budget, span, counter), limit: *limit, cost: *cost }
        }
    })
}

/// What gives it back when nothing came of it. A rate comes back by itself.
fn released(subject: &Subject, item: &Item) -> Option<Given> {
    let share = subject.shares.get(item.share)?;
    match &item.what {
        What::Place { .. } => Some(Given::Place { key: place(share) }),
        What::Rate { .. } => None,
        What::Spend { counter, budget, span, .. } => Some(Given::Spend { purse: purse(share, budget, span, counter) }),
    }
}

/// What is known to be refused without asking. Requests of a minute come back by time alone, so that others can only have taken
/// more since Redis said how they stand. Redis is asked all the same while it has turns to give within a minute, which are no more
/// than the limit: a flood beyond that costs Redis nothing. And what is known to be spent of a budget is spent, whatever Redis
/// forgot.
fn known(subject: &Subject, items: &[Item], now: u64) -> Option<Lacking> {
    items.iter().enumerate().find_map(|(nth, item)| match &item.what {
        What::Rate { tokens: false, rate, cost, .. } => {
            let meter = &subject.shares.get(item.share)?.meter;
            let (last, wait) = (meter.turn_there(), rate.admit(meter.there(false), now, *cost).err()?);
            let turn = rate.turn(last, now, wait, *cost);
            rate.has_no_turn(last, now, *cost).then(|| Lacking { nth, wait: turn.saturating_sub(now) })
        }
        What::Spend { counter, limit, .. } => (counter.spent() >= *limit).then_some(Lacking { nth, wait: 0 }),
        _ => None,
    })
}

/// Notes how the rates stand there, as of `now`: before it was asked, so that none is taken to come back later than it does.
pub(super) fn learn(subject: &Subject, rates: &[Option<(usize, bool)>], states: &[u64], now: u64) {
    for (whose, free_in) in rates.iter().zip(states) {
        if let Some((share, tokens)) = whose
            && let Some(share) = subject.shares.get(*share)
        {
            share.meter.told(*tokens, now.saturating_add(*free_in));
        }
    }
}

/// How the rates stand there; where key and group both have one, the one of which less is left.
pub(super) fn quotas(subject: &Subject, scope: Scope, now: u64) -> Quotas {
    subject.least(scope, |share, tokens| Some(Quota::of(share.rate(tokens)?, share.meter.there(tokens), now)))
}

pub(super) fn purse(share: &Share, budget: &Budget, span: &Span, counter: &Arc<Counter>) -> Purse {
    Purse::of(&share.account(budget, *span), counter)
}

pub(super) fn rate(share: &Share, tokens: bool) -> String {
    redis::name(if tokens { "tpm" } else { "rpm" }, share.whose, &share.name, share.model.as_ref())
}

pub(super) fn place(share: &Share) -> String {
    redis::name("at_once", share.whose, &share.name, share.model.as_ref())
}
