//! An admitted request, from its admission to its settlement.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    decision::{Moment, Quotas, Refused, UsedTokens},
    estimate::UsageEstimator,
    key::{Claim, Claimed, Costs, LimitExceeded, LimitsOfKey, Scope, in_currency},
    meter::Unit,
    shared::{RedisDecision, RedisReservation},
};
use crate::{
    config::WhenRedisIsAway,
    domain::{
        clock::UnixMillis,
        money::{Currency, Exchange, Money},
        usage::{AnswerAverages, AnswerSample, UsageEstimate},
    },
};

/// The permission of a request to run within the limits of its key, with its reservations. The drop frees its place among the
/// requests in progress.
#[derive(Debug)]
pub struct Permit {
    /// None for a key without limits.
    limits: Option<Arc<LimitsOfKey>>,
    /// The sets of limits that apply to the request.
    scope: Scope,
    began: Instant,
    /// Claims taken at the admission, and others that nobody settles.
    admission: Vec<Claim>,
    /// Claims to settle, taken once the body was read, and the moment.
    tokens: Vec<Claim>,
    at: Moment,
    learner: Option<Learner>,
    /// What it holds in Redis, if replicas share limits.
    reservation: Option<RedisReservation>,
    /// How the rates stood in Redis; none = this process decided the last claims.
    in_redis: Option<Quotas>,
}

/// The estimator that learns from a request.
#[derive(Debug)]
struct Learner {
    body: u64,
    estimator: Arc<UsageEstimator>,
    has_output: bool,
}

impl Permit {
    /// Admits a request before its body is read, if the limits of its key have room: a place and one request per minute.
    pub(super) async fn admit(
        limits: Option<Arc<LimitsOfKey>>,
        reservation: Option<RedisReservation>,
        began: Instant,
    ) -> Result<Self, Refused> {
        let scope = limits.as_ref().map_or(Scope::ALL, |limits| limits.scope(None));
        let mut permit = Self {
            limits,
            scope,
            began,
            admission: Vec::new(),
            tokens: Vec::new(),
            at: Moment::default(),
            learner: None,
            reservation,
            in_redis: None,
        };
        if let Some(limits) = permit.limits.clone() {
            let claims = limits.admission_claims();
            permit.take(&limits, &claims, Moment::since(began)).await?;
            permit.admission = claims;
        }
        Ok(permit)
    }

    /// Sets the estimator that learns from the real usage of this request. `body` is the size of the request body in bytes.
    pub(super) fn learns(&mut self, body: u64, estimator: Arc<UsageEstimator>, has_output: bool) {
        self.learner = Some(Learner { body, estimator, has_output });
    }

    /// The averages of the recent answers to this key for this model: reasoning that did not pass as text, and speed.
    pub fn answer_averages(&self) -> AnswerAverages {
        self.learner.as_ref().map(|learner| learner.estimator.answer_averages()).unwrap_or_default()
    }

    /// Adds the answer to the averages of its key and model, from which later requests are estimated.
    pub fn learn(&self, sample: AnswerSample) {
        if let Some(learner) = self.learner.as_ref().filter(|learner| learner.has_output) {
            learner.estimator.add_answer(sample);
        }
    }

    /// The number of replicas that share the limits, if this process decides alone.
    fn replicas(&self) -> u32 {
        self.reservation.as_ref().map_or(1, |reservation| reservation.shared.replicas)
    }

    async fn take(&mut self, limits: &LimitsOfKey, claims: &[Claim], now: Moment) -> Result<(), Refused> {
        let (scope, replicas) = (self.scope, self.replicas());
        let limited = |exceeded: LimitExceeded, quotas: Quotas| {
            let limited = limits.limited(claims, exceeded, quotas);
            limited.map_or(Ok(()), |limited| Err(Refused::Limited(Box::new(limited))))
        };
        let here = || limits.take(claims, now, replicas);
        let Some(reservation) = self.reservation.as_mut().filter(|_| !claims.is_empty()) else {
            return here().or_else(|exceeded| limited(exceeded, limits.quotas(scope, now, replicas)));
        };
        self.in_redis = None;
        // In a box: the future of a request without shared limits stays small.
        match Box::pin(reservation.take(limits, scope, claims, now)).await {
            RedisDecision::Granted(quotas) => {
                limits.count(claims, now, replicas);
                self.in_redis = Some(quotas);
                Ok(())
            }
            RedisDecision::Exceeded(exceeded, quotas) => limited(exceeded, quotas),
            RedisDecision::Away if reservation.shared.fail == WhenRedisIsAway::Closed => Err(Refused::Unknown),
            RedisDecision::Away => match here() {
                Ok(()) => {
                    reservation.admitted_alone(limits, claims);
                    Ok(())
                }
                Err(exceeded) => limited(exceeded, limits.quotas(scope, now, replicas)),
            },
        }
    }

    /// Selects the limits that apply to the model which the request names. Returns whether a budget applies to the request.
    pub fn apply_model_limits(&mut self, model: Option<&str>) -> bool {
        let Some(limits) = &self.limits else { return false };
        self.scope = limits.scope(model);
        limits.has_budgets(self.scope)
    }

    /// Reserves the tokens that the request will probably use, and their cost, in the limits and budgets of its key. `began` =
    /// the beginning of the request. Waits only if replicas share limits, or if a budget must be read from the ledger first.
    ///
    /// # Errors
    /// When a limit or a budget has no room for them.
    pub async fn reserve(&mut self, estimate: UsageEstimate, costs: &Costs, began: UnixMillis) -> Result<(), Refused> {
        let Some(limits) = self.limits.clone() else { return Ok(()) };
        let claims = limits.token_claims(self.scope, estimate.total(), costs, began);
        for claim in &claims {
            if let Claimed::Spend { counter, .. } = &claim.of
                && !counter.is_usable()
                // In a box: this wait is rare, and the future of every request stays small.
                && !Box::pin(limits.spending.is_usable(counter)).await
            {
                return Err(Refused::Unknown);
            }
        }
        let at = Moment::since(self.began);
        self.take(&limits, &claims, at).await?;
        let is_settled =
            |claim: &Claim| matches!(claim.of, Claimed::Rate { unit: Unit::Tokens, .. } | Claimed::Spend { .. });
        let (settled, kept) = claims.into_iter().partition(is_settled);
        self.admission.extend::<Vec<Claim>>(kept);
        (self.tokens, self.at) = (settled, at);
        Ok(())
    }

    /// How much is left now of the limits per minute that apply to this request.
    pub fn quotas(&self) -> Quotas {
        // If replicas share the rates and Redis was not asked yet, nobody knows them.
        let knows = self.reservation.as_ref().is_none_or(|reservation| reservation.alone);
        let here = |limits: &Arc<LimitsOfKey>| limits.quotas(self.scope, Moment::since(self.began), self.replicas());
        self.in_redis.or_else(|| self.limits.as_ref().filter(|_| knows).map(here)).unwrap_or_default()
    }

    /// Replaces the reservations of a finished request by its real use and its real cost. A budget in another currency uses
    /// `exchange`, as the ledger row does. Only the first call has an effect.
    pub fn settle(&mut self, used: UsedTokens, cost: Option<Money>, exchange: Exchange) {
        if let (
            Some(Learner { body, estimator, has_output }),
            UsedTokens::Reported { input, output } | UsedTokens::Partly { input, output, .. },
        ) = (self.learner.take(), used)
        {
            estimator.learn(body, input, output.filter(|_| has_output));
        }
        let Some(limits) = &self.limits else { return };
        let (now, replicas) = (Moment::since(self.began), self.replicas());
        let cost_in = |currency: Currency| {
            cost.and_then(|cost| exchange.convert(cost.nano, cost.currency, currency)).unwrap_or_default()
        };
        let costs: Costs = Currency::ALL.map(cost_in);
        let used = match used {
            UsedTokens::Partly { seen, .. } => seen,
            UsedTokens::Nothing => 0,
            UsedTokens::Reported { input, output } => {
                input.unwrap_or_default().saturating_add(output.unwrap_or_default())
            }
        };
        for claim in self.tokens.drain(..) {
            let Some(set) = limits.sets.get(claim.set) else { continue };
            match (&claim.of, &mut self.reservation) {
                (Claimed::Rate { unit, rate, cost }, Some(reservation)) if self.in_redis.is_some() => {
                    reservation.correct(set, *unit, rate.correction(self.at.0, now.0, *cost, used));
                }
                (Claimed::Rate { unit, rate, cost }, _) => {
                    set.meter.of(*unit).settle(rate.share(replicas), now, self.at, *cost, used);
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
        // The request was never sent. A settled request has no such claims.
        for claim in &self.tokens {
            if let Claimed::Spend { counter, cost, .. } = &claim.of {
                counter.release(*cost);
            }
        }
        let Some(limits) = &self.limits else { return };
        for claim in &self.admission {
            if let (Claimed::Place { .. }, Some(set)) = (&claim.of, limits.sets.get(claim.set)) {
                set.meter.leave();
            }
        }
    }
}
