//! An admitted request, from its admission to its settlement.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    Quotas, Refused, Used,
    estimate::Mean,
    memory::{self, Lacking},
    micros,
    shared::{Asked, Held},
    subject::{Costs, Item, Scope, Subject, What, in_currency},
};
use crate::{
    config::WhenRedisIsAway,
    domain::{
        money::{Currency, Exchange, Money},
        usage::{Habit, Lesson, UsageEstimate},
    },
};

/// An admitted request. Its place among those at once is given back when this is dropped.
#[derive(Debug)]
pub struct Permit {
    /// None where nothing limits it.
    subject: Option<Arc<Subject>>,
    /// Which of its shares hold for the request.
    scope: Scope,
    began: Instant,
    /// What it took when it came, and what else comes back when it ends.
    first: Vec<Item>,
    /// What it took once its body was read, and when.
    second: Vec<Item>,
    at: u64,
    /// Who learns from it.
    learner: Option<Learner>,
    /// What it holds where replicas share limits.
    held: Option<Held>,
    /// Whether Redis gave it what it took last, and how the rates stood there; otherwise this process did.
    told: Option<Quotas>,
}

#[derive(Debug)]
struct Learner {
    body: u64,
    mean: Arc<Mean>,
    /// Whether it has output.
    speaks: bool,
}

impl Permit {
    pub(super) async fn admit(
        subject: Option<Arc<Subject>>,
        held: Option<Held>,
        began: Instant,
    ) -> Result<Self, Refused> {
        let (first, second) = (Vec::new(), Vec::new());
        let scope = subject.as_ref().map_or(Scope::ALL, |subject| subject.scope(None));
        let mut permit = Self { subject, scope, began, first, second, at: 0, learner: None, held, told: None };
        if let Some(subject) = permit.subject.clone() {
            let mut items = subject.first();
            permit.take(&subject, &mut items, micros(began)).await?;
            permit.first = items;
        }
        Ok(permit)
    }

    pub(super) fn learns(&mut self, body: u64, mean: Arc<Mean>, speaks: bool) {
        self.learner = Some(Learner { body, mean, speaks });
    }

    /// What answers of its key and model had of late.
    pub fn habit(&self) -> Habit {
        self.learner.as_ref().map(|learner| learner.mean.habit()).unwrap_or_default()
    }

    /// Learns what its answer says of later ones.
    pub fn learn(&self, lesson: Lesson) {
        if let Some(learner) = self.learner.as_ref().filter(|learner| learner.speaks) {
            learner.mean.learn_habit(lesson);
        }
    }

    /// How many replicas share what it takes, where this process counts alone.
    fn replicas(&self) -> u32 {
        self.held.as_ref().map_or(1, |held| held.shared.replicas)
    }

    async fn take(&mut self, subject: &Subject, items: &mut [Item], now: u64) -> Result<(), Refused> {
        let (scope, replicas) = (self.scope, self.replicas());
        let limited = |items: &[Item], Lacking { nth, wait }: Lacking, quotas: Quotas| {
            let limited = items.get(nth).and_then(|item| subject.limited(item, wait, quotas));
            limited.map_or(Ok(()), |limited| Err(Refused::Limited(Box::new(limited))))
        };
        let Some(held) = self.held.as_mut().filter(|_| !items.is_empty()) else {
            return match memory::take(&subject.shares, items, now, memory::UNSHARED) {
                Ok(()) => Ok(()),
                Err(lacking) => limited(items, lacking, subject.quotas(scope, now, replicas)),
            };
        };
        // In a box, so that requests for which nobody is asked are no larger.
        self.told = None;
        match Box::pin(held.take(subject, scope, items, now)).await {
            Asked::Taken(quotas) => {
                memory::count(&subject.shares, items, now, replicas);
                self.told = Some(quotas);
                Ok(())
            }
            Asked::Lacking(lacking, quotas) => limited(items, lacking, quotas),
            Asked::Away if held.shared.fail == WhenRedisIsAway::Closed => Err(Refused::Unknown),
            Asked::Away => match memory::take(&subject.shares, items, now, held.shared.alone()) {
                Ok(()) => {
                    held.taken_alone(subject, items);
                    Ok(())
                }
                Err(lacking) => limited(items, lacking, subject.quotas(scope, now, replicas)),
            },
        }
    }

    /// The model that the request asks for is known now, as its client wrote it: limits for that model hold from here on. Whether the
    /// request is held against a budget.
    pub fn asks_for(&mut self, model: Option<&str>) -> bool {
        let Some(subject) = &self.subject else { return false };
        self.scope = subject.scope(model);
        subject.has_budgets(self.scope)
    }

    /// Admits the tokens that the request will probably use, and what they may cost. `now` = when it began, in milliseconds
    /// since 1970-01-01 UTC. Waits only where replicas share limits, and where a budget has to be read from the ledger first.
    ///
    /// # Errors
    /// When there are not so many left, or not so much.
    pub async fn reserve(&mut self, estimate: UsageEstimate, costs: &Costs, now: u64) -> Result<(), Refused> {
        let Some(subject) = self.subject.clone() else { return Ok(()) };
        let mut items = subject.second(self.scope, estimate.total(), costs, now);
        for item in &items {
            if let What::Spend { counter, .. } = &item.what
                && !counter.counts()
                // In a box, as what is rare shall not make the future of every request larger.
                && !Box::pin(subject.spending.is_read(counter)).await
            {
                return Err(Refused::Unknown);
            }
        }
        let at = micros(self.began);
        self.take(&subject, &mut items, at).await?;
        let is_settled = |item: &Item| matches!(item.what, What::Rate { tokens: true, .. } | What::Spend { .. });
        let (settled, kept) = items.into_iter().partition(is_settled);
        self.first.extend::<Vec<Item>>(kept);
        (self.second, self.at) = (settled, at);
        Ok(())
    }

    /// How the rates stand now.
    pub fn quotas(&self) -> Quotas {
        // Where replicas share them and Redis was not asked yet, nobody knows.
        let knows = self.held.as_ref().is_none_or(|held| held.alone);
        let here =
            || self.subject.as_ref().map(|subject| subject.quotas(self.scope, micros(self.began), self.replicas()));
        self.told.or_else(|| here().filter(|_| knows)).unwrap_or_default()
    }

    /// Corrects the reservations to what was used, and to what it costs: budgets in another currency count it by `exchange`,
    /// as the ledger's row does. Only the first call counts.
    pub fn settle(&mut self, used: Used, cost: Option<Money>, exchange: Exchange) {
        if let (
            Some(Learner { body, mean, speaks }),
            Used::Tokens { input, output } | Used::Partly { input, output, .. },
        ) = (self.learner.take(), used)
        {
            mean.learn(body, input, output.filter(|_| speaks));
        }
        let Some(subject) = &self.subject else { return };
        let (now, replicas) = (micros(self.began), self.replicas());
        let cost_in = |currency: Currency| {
            cost.and_then(|cost| exchange.convert(cost.nano, cost.currency, currency)).unwrap_or_default()
        };
        let costs: Costs = Currency::ALL.map(cost_in);
        let used = match used {
            Used::Partly { seen, .. } => seen,
            Used::Nothing => 0,
            Used::Tokens { input, output } => input.unwrap_or_default().saturating_add(output.unwrap_or_default()),
        };
        for item in self.second.drain(..) {
            let Some(share) = subject.shares.get(item.share) else { continue };
            match &item.what {
                What::Rate { tokens, rate, cost, counted } => {
                    let part = rate.share(replicas);
                    match counted {
                        Some(counted) => {
                            memory::recount(share, *tokens, *counted, part.span(used), self.at, now);
                        }
                        None => memory::settle(share.meter.state(*tokens), part, now, self.at, *cost, used),
                    }
                    if let Some(held) = self.held.as_mut().filter(|_| self.told.is_some()) {
                        held.corrected(share, *tokens, rate.correction(self.at, now, *cost, used));
                    }
                }
                What::Spend { counter, cost, budget, .. } => {
                    counter.settle(*cost, in_currency(&costs, budget.money.currency));
                }
                What::Place { .. } => {}
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        // It never went up, or it was settled.
        for item in &self.second {
            if let What::Spend { counter, cost, .. } = &item.what {
                counter.release(*cost);
            }
        }
        let Some(subject) = &self.subject else { return };
        for item in &self.first {
            if let (What::Place { .. }, Some(share)) = (&item.what, subject.shares.get(item.share)) {
                share.meter.leave();
            }
        }
    }
}
