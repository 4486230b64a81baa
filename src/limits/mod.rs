//! Limits and budgets of keys and groups: requests and tokens per minute, requests in progress, money. A request is admitted, and settled
//! once its real use is known.

mod decision;
mod estimate;
mod gcra;
mod key;
mod meter;
mod permit;
mod shared;

use std::{collections::HashMap, sync::Arc};

use tokio::time::Instant;

use self::{
    estimate::EstimatorsOfModel,
    gcra::Rate,
    key::{LimitSet, LimitsOfKey, OneBudget, Scope},
    meter::Meter,
    shared::RedisReservation,
};
use crate::{
    budgets::{Spending, Windows},
    config::{self, Config},
    domain::{
        clock::UnixMillis,
        money::{Budget, Exchange, decimal},
        origin::Owner,
        spending::Spender,
        usage::UsageEstimate,
    },
};

pub use decision::{LimitKind, Limited, Quota, Quotas, Refused, UsedTokens};
pub use estimate::BodySize;
pub use key::{BudgetState, Costs};
pub use permit::Permit;
pub use shared::{Identity, LimitsInRedis};

/// Counters of what keys and groups have used of their limits. All workers share them, and a reload keeps them.
#[derive(Debug)]
pub struct Meters {
    began: Instant,
    keys: HashMap<Arc<str>, Arc<Meter>>,
    groups: HashMap<Arc<str>, Arc<Meter>>,
    /// Limits of a key for some models, by key and pattern.
    of_models: HashMap<(Arc<str>, Arc<str>), Arc<Meter>>,
    models: HashMap<Arc<str>, Arc<EstimatorsOfModel>>,
    spending: Arc<Spending>,
    shared: Option<Arc<LimitsInRedis>>,
}

impl Meters {
    /// Makes the counters of used limits for a configuration. Keys, groups and models that `previous` has keep their counters.
    /// `spending` counts budgets.
    pub fn new(config: &Config, previous: Option<&Self>, spending: &Arc<Spending>, now: Instant) -> Self {
        let text = |name: &Arc<str>| Arc::<str>::from(&**name);
        let kept = |of: fn(&Self) -> &HashMap<Arc<str>, Arc<Meter>>, name: &Arc<str>| {
            let kept = previous.and_then(|meters| of(meters).get(name));
            (text(name), kept.cloned().unwrap_or_default())
        };
        let model = |name: &Arc<str>| {
            let kept = previous.and_then(|meters| meters.models.get(name));
            (text(name), kept.cloned().unwrap_or_default())
        };
        let of_models = config.keys.iter().flat_map(|key| {
            key.limits_by_model.iter().map(|limits| {
                let name = (text(&key.name), text(&limits.model.0));
                let kept = previous.and_then(|meters| meters.of_models.get(&name)).cloned().unwrap_or_default();
                (name, kept)
            })
        });
        spending.set_exchange(Exchange { cny_per_usd: config.money.cny_per_usd });
        Self {
            began: previous.map_or(now, |meters| meters.began),
            keys: config.keys.iter().map(|key| kept(|meters| &meters.keys, &key.name)).collect(),
            groups: config.groups.iter().map(|group| kept(|meters| &meters.groups, &group.name)).collect(),
            of_models: of_models.collect(),
            models: config.models.iter().map(|one| model(&one.name)).chain([model(&Arc::from(""))]).collect(),
            spending: Arc::clone(spending),
            shared: previous.and_then(|meters| meters.shared.clone()),
        }
    }

    /// Makes these limits shared with other replicas through Redis from now on.
    pub fn share(&mut self, shared: Arc<LimitsInRedis>) {
        self.shared = Some(shared);
    }
}

/// The limits and budgets of all keys in a configuration. Immutable, because it is a part of a worker's snapshot.
#[derive(Debug)]
pub struct Limits {
    began: Instant,
    /// By the index of the key in the configuration; none = no limit.
    keys: Vec<Option<Arc<LimitsOfKey>>>,
    /// By the index of the model in the configuration, and one more for all other names.
    models: Vec<Arc<EstimatorsOfModel>>,
    /// None = a single replica.
    shared: Option<Arc<LimitsInRedis>>,
}

impl Limits {
    /// Makes the limits of all keys in a configuration, counted by the `meters` of that configuration.
    pub fn new(config: &Config, meters: &Meters) -> Self {
        let windows = Arc::new(Windows::new(config.money.time_zone.clone()));
        let upstreams: Arc<[Arc<str>]> = config.upstreams.iter().map(|upstream| Arc::clone(&upstream.name)).collect();
        let limits_of_key = |key: &config::Key| {
            let sets = limit_sets(config, key, meters);
            let (spending, windows) = (Arc::clone(&meters.spending), Arc::clone(&windows));
            let upstreams = Arc::clone(&upstreams);
            (!sets.is_empty()).then(|| Arc::new(LimitsOfKey { sets, upstreams, spending, windows }))
        };
        let names = config.models.iter().map(|model| &*model.name).chain([""]);
        Self {
            began: meters.began,
            keys: config.keys.iter().map(limits_of_key).collect(),
            models: names.map(|name| meters.models.get(name).cloned().unwrap_or_default()).collect(),
            shared: meters.shared.clone(),
        }
    }

    /// Makes the counters of all budgets at the start, so that their spend is read from the ledger before the first request.
    pub fn count_budgets(&self, now: UnixMillis) {
        for limits in self.keys.iter().flatten() {
            limits.token_claims(Scope::ALL, 0, &Costs::default(), now);
        }
    }

    /// Whether a budget applies to requests of the key with this index for this model, as the client writes it.
    pub fn has_budgets(&self, key: usize, model: Option<&str>) -> bool {
        let limits = self.keys.get(key).and_then(Option::as_ref);
        limits.is_some_and(|limits| limits.has_budgets(limits.scope(model)))
    }

    /// Describes the limits of the key with this index for people: a line for the key, one for its group, and one for each model
    /// with limits.
    pub fn shown(&self, key: usize, now: UnixMillis) -> Vec<String> {
        let Some(limits) = self.keys.get(key).and_then(Option::as_ref) else { return Vec::new() };
        let line = |set: &LimitSet| {
            let mut parts: Vec<String> = Vec::new();
            parts.extend(set.requests.map(|rate| format!("{} requests per minute", rate.limit())));
            parts.extend(set.tokens.map(|rate| format!("{} tokens per minute", rate.limit())));
            parts.extend(set.in_flight.map(|limit| format!("{limit} requests at once")));
            parts.extend(limits.states(set, now).map(|BudgetState { budget, spent, .. }| {
                let spent = spent.map(|spent| format!(", {} spent", decimal(spent)));
                format!("{budget}{}", spent.unwrap_or_default())
            }));
            let model = set.model.as_ref().map(|model| format!(", model {}", model.0)).unwrap_or_default();
            format!("{} {}{model}: {}", set.whose.name(), set.name, parts.join("; "))
        };
        limits.sets.iter().map(line).collect()
    }

    /// How the budgets of the key with this index stand, for the holder of the key. Leaves out budgets that apply to certain
    /// models only. Leaves out the budgets of the group too: the holder must not learn the spend of other keys.
    pub fn budgets(&self, key: usize, now: UnixMillis) -> Vec<BudgetState> {
        let Some(limits) = self.keys.get(key).and_then(Option::as_ref) else { return Vec::new() };
        let own = limits.sets.iter().filter(|set| set.whose == Spender::Key && set.model.is_none());
        own.flat_map(|set| limits.states(set, now)).collect()
    }

    /// Admits a request of the key with this index, if its limits have room. Waits only if replicas share limits.
    ///
    /// # Errors
    /// When the request exceeds a limit.
    pub async fn admit(&self, key: usize) -> Result<Permit, Refused> {
        let limits = self.keys.get(key).and_then(Option::clone);
        let reservation = self.shared.as_ref().filter(|_| limits.is_some()).map(RedisReservation::new);
        Permit::admit(limits, reservation, self.began).await
    }

    /// Estimates the tokens that a request with a body of this size will use. The permit teaches the estimator the real use.
    /// `model` = index of the model in the configuration; none for a name that it does not list. A request without `output` (an
    /// embedding) teaches nothing about the output of others: one pattern may cover chats and embeddings.
    pub fn estimate(
        &self,
        permit: &mut Permit,
        owner: Owner,
        model: Option<usize>,
        body: BodySize,
        output: bool,
    ) -> UsageEstimate {
        let of_model = model.and_then(|model| self.models.get(model)).or(self.models.last());
        let estimator = of_model.map(|model| model.of_key(owner.key)).unwrap_or_default();
        let estimate = estimator.estimate(body);
        permit.learns(body.bytes, estimator, output);
        if output { estimate } else { UsageEstimate { output: 0, ..estimate } }
    }
}

/// The limits of a key: its own, those of its group, and those for some models.
fn limit_sets(config: &Config, key: &config::Key, meters: &Meters) -> Vec<LimitSet> {
    let set =
        |whose, name: &Arc<str>, limits: config::KeyLimits, budgets: Vec<OneBudget>, meter: Option<&Arc<Meter>>| {
            (limits != config::KeyLimits::default() || !budgets.is_empty()).then(|| LimitSet {
                whose,
                name: Arc::clone(name),
                model: None,
                requests: limits.requests.map(Rate::per_minute),
                tokens: limits.tokens.map(Rate::per_minute),
                in_flight: limits.in_flight,
                budgets,
                meter: meter.cloned().unwrap_or_default(),
            })
        };
    let budgets = |budgets: &[Budget], warn_at: &Arc<[u64]>| {
        budgets.iter().map(|budget| OneBudget::new(*budget, warn_at)).collect::<Vec<_>>()
    };
    let of_key = budgets(&key.budgets, &key.warn_at);
    let own = set(Spender::Key, &key.name, key.limits, of_key, meters.keys.get(&key.name));
    let group = key.group.and_then(|group| config.groups.get(group)).and_then(|group| {
        let of_group = budgets(&group.budgets, &group.warn_at);
        set(Spender::Group, &group.name, group.limits, of_group, meters.groups.get(&group.name))
    });
    let of_models = key.limits_by_model.iter().filter_map(|limits| {
        let meter = meters.of_models.get(&(Arc::clone(&key.name), Arc::clone(&limits.model.0)));
        let of_model = budgets(&limits.budgets, &key.warn_at);
        let set = set(Spender::Key, &key.name, limits.limits, of_model, meter)?;
        Some(LimitSet { model: Some(limits.model.clone()), ..set })
    });
    own.into_iter().chain(group).chain(of_models).take(key::MOST_SETS).collect()
}
