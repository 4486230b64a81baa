//! Whoever is limited, and what a request takes of the limits.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::{Limited, Quota, Quotas, gcra::Rate, memory::Meter};
use crate::domain::{
    money::{Budget, Currency},
    spending::{Account, Counter, Span, Spender, Spending},
    windows::Windows,
};

/// A key, and perhaps its group.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) shares: Vec<Share>,
    pub(super) spending: Arc<Spending>,
    pub(super) windows: Arc<Windows>,
}

#[derive(Debug)]
pub(super) struct Share {
    pub(super) whose: Spender,
    pub(super) name: Arc<str>,
    pub(super) requests: Option<Rate>,
    pub(super) tokens: Option<Rate>,
    pub(super) in_flight: Option<usize>,
    pub(super) budgets: Vec<OneBudget>,
    pub(super) meter: Arc<Meter>,
}

/// A budget with the counter of its window.
#[derive(Debug)]
pub(super) struct OneBudget {
    pub(super) budget: Budget,
    /// Of the window that was asked for last.
    last: Mutex<Option<(Span, Arc<Counter>)>>,
}

/// One thing that a request takes.
#[derive(Clone, Debug)]
pub(super) struct Item {
    /// Whose: a place in [`Subject::shares`].
    pub(super) share: usize,
    pub(super) what: What,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    /// A place among the requests at once.
    Place { limit: usize },
    /// Requests or tokens of a minute. Of one that others gave: the microseconds of it that were counted here.
    Rate { tokens: bool, rate: Rate, cost: u64, counted: Option<u64> },
    /// Money of a budget, in nano-units of its currency.
    Spend { counter: Arc<Counter>, limit: u64, cost: u64, budget: Budget, span: Span },
}

/// What a request may cost at most, by [`Currency::ALL`].
pub type Costs = [u64; Currency::ALL.len()];

impl Share {
    /// That of tokens, or of requests.
    pub(super) fn rate(&self, tokens: bool) -> Option<Rate> {
        if tokens { self.tokens } else { self.requests }
    }
}

impl OneBudget {
    pub(super) fn new(budget: Budget) -> Self {
        Self { budget, last: Mutex::default() }
    }

    /// The counter of the window that `now` is in.
    pub(super) fn counter(&self, share: &Share, subject: &Subject, now: u64) -> (Span, Arc<Counter>) {
        let span = subject.windows.at(self.budget.window, now);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((known, counter)) if *known == span => (span, Arc::clone(counter)),
            _ => {
                let name: Arc<str> = Arc::from(&*share.name);
                let Budget { money, window } = self.budget;
                let account = Account { spender: share.whose, name, currency: money.currency, window, span };
                let counter = subject.spending.counter(account);
                *last = Some((span, Arc::clone(&counter)));
                (span, counter)
            }
        }
    }
}

impl Subject {
    /// Whether a request is held against a budget.
    pub(super) fn has_budgets(&self) -> bool {
        self.shares.iter().any(|share| !share.budgets.is_empty())
    }

    /// What every request takes.
    pub(super) fn first(&self) -> Vec<Item> {
        let places = self.each().filter_map(|(share, of)| Some((share, What::Place { limit: of.in_flight? })));
        let rate = |(share, of): (usize, &Share)| {
            Some((share, What::Rate { tokens: false, rate: of.requests?, cost: 1, counted: None }))
        };
        places.chain(self.each().filter_map(rate)).map(|(share, what)| Item { share, what }).collect()
    }

    /// What one takes that will probably use so many tokens and cost so much. `now` = milliseconds since 1970-01-01 UTC.
    pub(super) fn second(&self, tokens: u64, costs: &Costs, now: u64) -> Vec<Item> {
        let rate = |(share, of): (usize, &Share)| {
            Some(Item { share, what: What::Rate { tokens: true, rate: of.tokens?, cost: tokens, counted: None } })
        };
        let mut items: Vec<Item> = self.each().filter_map(rate).collect();
        for (share, of) in self.each() {
            for one in &of.budgets {
                let (span, counter) = one.counter(of, self, now);
                let (limit, cost) = (one.budget.money.nano, in_currency(costs, one.budget.money.currency));
                items.push(Item { share, what: What::Spend { counter, limit, cost, budget: one.budget, span } });
            }
        }
        items
    }

    fn each(&self) -> impl Iterator<Item = (usize, &Share)> {
        self.shares.iter().enumerate()
    }

    /// Why an item was not there.
    pub(super) fn limited(&self, item: &Item, wait: u64, quotas: Quotas) -> Option<Limited> {
        let share = self.shares.get(item.share)?;
        let (whose, name, after) = (share.whose, Arc::clone(&share.name), Duration::from_micros(wait));
        let kind = match &item.what {
            What::Place { limit } => super::Kind::InFlight(*limit),
            What::Rate { tokens: false, rate, .. } => super::Kind::Requests(rate.limit()),
            What::Rate { tokens: true, rate, .. } => super::Kind::Tokens(rate.limit()),
            What::Spend { budget, span, .. } if wait == 0 => super::Kind::Budget(*budget, *span),
            What::Spend { budget, .. } => super::Kind::Reserved(*budget),
        };
        Some(Limited { kind, whose, name, after, quotas })
    }

    /// How the rates stand in memory, or the part of one of `replicas`; where key and group both have one, the one of which less
    /// is left.
    pub(super) fn quotas(&self, now: u64, replicas: u32) -> Quotas {
        self.least(|share, tokens| {
            let free_at = share.meter.state(tokens).load(std::sync::atomic::Ordering::Acquire);
            Some(Quota::of(share.rate(tokens)?.share(replicas), free_at, now))
        })
    }

    /// The least of each rate.
    pub(super) fn least(&self, quota: impl Fn(&Share, bool) -> Option<Quota>) -> Quotas {
        let least =
            |tokens| self.shares.iter().filter_map(|share| quota(share, tokens)).min_by_key(|quota| quota.remaining);
        Quotas { requests: least(false), tokens: least(true) }
    }
}

pub(super) fn in_currency(costs: &Costs, currency: Currency) -> u64 {
    Currency::ALL.iter().zip(costs).find(|(known, _)| **known == currency).map_or(0, |(_, cost)| *cost)
}
