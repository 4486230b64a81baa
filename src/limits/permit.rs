//! An admitted request, from its admission to its settlement.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    Moment, Quotas, Refused, Used,
    estimate::UsageEstimator,
    memory::{self, LimitExceeded},
    shared::{Asked, RedisReservation},
    subject::{Claim, Claimed, Costs, Scope, Subject, Unit, in_currency},
};
use crate::{
    config::WhenRedisIsAway,
    domain::{
        clock::UnixMillis,
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
    admission: Vec<Claim>,
    /// What it took once its body was read, and when.
    tokens: Vec<Claim>,
    at: Moment,
    learner: Option<Learner>,
    /// What it holds where replicas share limits.
    reservation: Option<RedisReservation>,
    /// How the rates stood in Redis, where Redis gave it what it took last; otherwise this process did.
    in_redis: Option<Quotas>,
}

/// What learns from a request.
#[derive(Debug)]
struct Learner {
    body: u64,
    estimator: Arc<UsageEstimator>,
    has_output: bool,
}

impl Permit {
    pub(super) async fn admit(
        subject: Option<Arc<Subject>>,
        reservation: Option<RedisReservation>,
        began: Instant,
    ) -> Result<Self, Refused> {
        let scope = subject.as_ref().map_or(Scope::ALL, |subject| subject.scope(None));
        let mut permit = Self {
            subject,
            scope,
            began,
            admission: Vec::new(),
            tokens: Vec::new(),
            at: Moment::default(),
            learner: None,
            reservation,
            in_redis: None,
        };
        if let Some(subject) = permit.subject.clone() {
            let claims = subject.admission_claims();
            permit.take(&subject, &claims, Moment::since(began)).await?;
            permit.admission = claims;
        }
        Ok(permit)
    }

    pub(super) fn learns(&mut self, body: u64, estimator: Arc<UsageEstimator>, has_output: bool) {
        self.learner = Some(Learner { body, estimator, has_output });
    }

    /// What answers of its key and model had of late.
    pub fn habit(&self) -> Habit {
        self.learner.as_ref().map(|learner| learner.estimator.habit()).unwrap_or_default()
    }

    /// Learns what its answer says of later ones.
    pub fn learn(&self, lesson: Lesson) {
        if let Some(learner) = self.learner.as_ref().filter(|learner| learner.has_output) {
            learner.estimator.learn_habit(lesson);
        }
    }

    /// How many replicas share what it takes, where this process counts alone.
    fn replicas(&self) -> u32 {
        self.reservation.as_ref().map_or(1, |reservation| reservation.shared.replicas)
    }

    async fn take(&mut self, subject: &Subject, claims: &[Claim], now: Moment) -> Result<(), Refused> {
        let (scope, replicas) = (self.scope, self.replicas());
        let limited = |exceeded: LimitExceeded, quotas: Quotas| {
            let limited = subject.limited(claims, exceeded, quotas);
            limited.map_or(Ok(()), |limited| Err(Refused::Limited(Box::new(limited))))
        };
        let here = || memory::take(&subject.shares, claims, now, replicas);
        let Some(reservation) = self.reservation.as_mut().filter(|_| !claims.is_empty()) else {
            return here().or_else(|exceeded| limited(exceeded, subject.quotas(scope, now, replicas)));
        };
        self.in_redis = None;
        // In a box, so that requests for which nobody is asked are no larger.
        match Box::pin(reservation.take(subject, scope, claims, now)).await {
            Asked::Taken(quotas) => {
                memory::count(&subject.shares, claims, now, replicas);
                self.in_redis = Some(quotas);
                Ok(())
            }
            Asked::Exceeded(exceeded, quotas) => limited(exceeded, quotas),
            Asked::Away if reservation.shared.fail == WhenRedisIsAway::Closed => Err(Refused::Unknown),
            Asked::Away => match here() {
                Ok(()) => {
                    reservation.taken_alone(subject, claims);
                    Ok(())
                }
                Err(exceeded) => limited(exceeded, subject.quotas(scope, now, replicas)),
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

    /// Admits the tokens that the request will probably use, and what they may cost. `began` = when the request did. Waits only where
    /// replicas share limits, and where a budget has to be read from the ledger first.
    ///
    /// # Errors
    /// When there are not so many left, or not so much.
    pub async fn reserve(&mut self, estimate: UsageEstimate, costs: &Costs, began: UnixMillis) -> Result<(), Refused> {
        let Some(subject) = self.subject.clone() else { return Ok(()) };
        let claims = subject.token_claims(self.scope, estimate.total(), costs, began);
        for claim in &claims {
            if let Claimed::Spend { counter, .. } = &claim.of
                && !counter.counts()
                // In a box, as what is rare shall not make the future of every request larger.
                && !Box::pin(subject.spending.is_read(counter)).await
            {
                return Err(Refused::Unknown);
            }
        }
        let at = Moment::since(self.began);
        self.take(&subject, &claims, at).await?;
        let is_settled =
            |claim: &Claim| matches!(claim.of, Claimed::Rate { unit: Unit::Tokens, .. } | Claimed::Spend { .. });
        let (settled, kept) = claims.into_iter().partition(is_settled);
        self.admission.extend::<Vec<Claim>>(kept);
        (self.tokens, self.at) = (settled, at);
        Ok(())
    }

    /// How the rates stand now.
    pub fn quotas(&self) -> Quotas {
        // Where replicas share them and Redis was not asked yet, nobody knows.
        let knows = self.reservation.as_ref().is_none_or(|reservation| reservation.alone);
        let here = |subject: &Arc<Subject>| subject.quotas(self.scope, Moment::since(self.began), self.replicas());
        self.in_redis.or_else(|| self.subject.as_ref().filter(|_| knows).map(here)).unwrap_or_default()
    }

    /// Corrects the reservations to what was used, and to what it costs: budgets in another currency count it by `exchange`,
    /// as the ledger's row does. Only the first call counts.
    pub fn settle(&mut self, used: Used, cost: Option<Money>, exchange: Exchange) {
        if let (
            Some(Learner { body, estimator, has_output }),
            Used::Tokens { input, output } | Used::Partly { input, output, .. },
        ) = (self.learner.take(), used)
        {
            estimator.learn(body, input, output.filter(|_| has_output));
        }
        let Some(subject) = &self.subject else { return };
        let (now, replicas) = (Moment::since(self.began), self.replicas());
        let cost_in = |currency: Currency| {
            cost.and_then(|cost| exchange.convert(cost.nano, cost.currency, currency)).unwrap_or_default()
        };
        let costs: Costs = Currency::ALL.map(cost_in);
        let used = match used {
            Used::Partly { seen, .. } => seen,
            Used::Nothing => 0,
            Used::Tokens { input, output } => input.unwrap_or_default().saturating_add(output.unwrap_or_default()),
        };
        for claim in self.tokens.drain(..) {
            let Some(share) = subject.shares.get(claim.share) else { continue };
            match (&claim.of, &mut self.reservation) {
                (Claimed::Rate { unit, rate, cost }, Some(reservation)) if self.in_redis.is_some() => {
                    reservation.corrected(share, *unit, rate.correction(self.at.0, now.0, *cost, used));
                }
                (Claimed::Rate { unit, rate, cost }, _) => {
                    share.meter.settle(*unit, rate.share(replicas), now, self.at, *cost, used);
                }
                (Claimed::Spend { counter, cost, budget, .. }, _) => {
                    counter.settle(*cost, in_currency(&costs, budget.money.currency));
                }
                (Claimed::Place { .. }, _) => {}
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        // The request was never sent, or it was settled.
        for claim in &self.tokens {
            if let Claimed::Spend { counter, cost, .. } = &claim.of {
                counter.release(*cost);
            }
        }
        let Some(subject) = &self.subject else { return };
        for claim in &self.admission {
            if let (Claimed::Place { .. }, Some(share)) = (&claim.of, subject.shares.get(claim.share)) {
                share.meter.leave();
            }
        }
    }
}
