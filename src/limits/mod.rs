//! How much a key and its group may ask for: requests and tokens per minute, requests at once, money. Admits, and settles
//! when it is known what was used.

mod estimate;
mod gcra;
mod memory;
mod permit;
mod shared;
mod show;
mod statement;
mod subject;

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::Instant;

use self::{
    estimate::EstimatorsOfModel,
    gcra::Rate,
    memory::Meter,
    shared::RedisReservation,
    subject::{OneBudget, Scope, Share, Subject},
};
use crate::{
    budgets::{Spending, Windows},
    config::{self, Config},
    domain::{
        clock::UnixMillis,
        money::{Budget, Exchange},
        origin::Owner,
        spending::{Span, Spender},
        usage::UsageEstimate,
    },
};

pub use estimate::Size;
pub use permit::Permit;
pub use shared::{Identity, Shared};
pub use statement::BudgetState;
pub use subject::Costs;

/// What is used, of every key and group. One for all workers, and it lives through reloads.
#[derive(Debug)]
pub struct Meters {
    began: Instant,
    keys: HashMap<Arc<str>, Arc<Meter>>,
    groups: HashMap<Arc<str>, Arc<Meter>>,
    /// Of what a key may ask for of some models, by key and pattern.
    of_models: HashMap<(Arc<str>, Arc<str>), Arc<Meter>>,
    models: HashMap<Arc<str>, Arc<EstimatorsOfModel>>,
    spending: Arc<Spending>,
    shared: Option<Arc<Shared>>,
}

impl Meters {
    /// The meters of a configuration. Those of names that stay go on as they are. `spending` is what budgets are counted
    /// by.
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
        spending.exchange_by(Exchange { cny_per_usd: config.money.cny_per_usd });
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

    /// From now on replicas share them.
    pub fn share(&mut self, shared: Arc<Shared>) {
        self.shared = Some(shared);
    }
}

/// The limits of a configuration: an immutable part of a worker's snapshot.
#[derive(Debug)]
pub struct Limits {
    began: Instant,
    /// By the indices of the configuration's keys; none for one without any limit.
    keys: Vec<Option<Arc<Subject>>>,
    /// By the indices of the configuration's models, and one more for all other names.
    models: Vec<Arc<EstimatorsOfModel>>,
    /// Where replicas share them.
    shared: Option<Arc<Shared>>,
}

/// Which limit it is, with what it allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// So many requests per minute.
    Requests(u64),
    /// So many tokens per minute.
    Tokens(u64),
    /// So many requests at once.
    InFlight(usize),
    /// So much money, in this window: it is spent.
    Budget {
        /// What may be spent.
        budget: Budget,
        /// In which window.
        span: Span,
        /// What was spent of it, in nano-units of its currency.
        spent: u64,
    },
    /// So much money: what is left is set aside by requests under way.
    Reserved(Budget),
}

/// A limit is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limited {
    /// Which one.
    pub kind: Kind,
    /// Whose.
    pub whose: Spender,
    /// The name of the key or group.
    pub name: Arc<str>,
    /// The model or pattern, where the limit is for the use of it alone.
    pub model: Option<Arc<str>>,
    /// When it is worth trying again.
    pub after: Duration,
    /// How all of them stand.
    pub quotas: Quotas,
}

/// How the rates stand; where key and group both have one, the one of which less is left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quotas {
    /// Requests per minute.
    pub requests: Option<Quota>,
    /// Tokens per minute.
    pub tokens: Option<Quota>,
}

/// How one rate stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// So much a minute.
    pub limit: u64,
    /// What is left now.
    pub remaining: u64,
    /// Until all of it is left again.
    pub reset: Duration,
}

/// What an answer said of the tokens that it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Used {
    /// So many went in and came out.
    Tokens {
        /// Input.
        input: Option<u64>,
        /// Output.
        output: Option<u64>,
    },
    /// None: nobody did any work.
    Nothing,
    /// Not all of it is known.
    Partly {
        /// Input, if it was told.
        input: Option<u64>,
        /// Output, if it was told or all of it was seen.
        output: Option<u64>,
        /// All that was told, seen or, of what was not seen, reserved.
        seen: u64,
    },
}

/// Why a request is not admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// A limit is reached.
    Limited(Box<Limited>),
    /// What is left of the limits that replicas share cannot be known now.
    Unknown,
}

impl Limits {
    /// The limits of a configuration, over `meters`, which were made for it.
    pub fn new(config: &Config, meters: &Meters) -> Self {
        let windows = Arc::new(Windows::new(config.money.time_zone.clone()));
        let upstreams: Arc<[Arc<str>]> = config.upstreams.iter().map(|upstream| Arc::clone(&upstream.name)).collect();
        let subject = |key: &config::Key| {
            let shares = shares(config, key, meters);
            let (spending, windows) = (Arc::clone(&meters.spending), Arc::clone(&windows));
            let upstreams = Arc::clone(&upstreams);
            (!shares.is_empty()).then(|| Arc::new(Subject { shares, upstreams, spending, windows }))
        };
        let names = config.models.iter().map(|model| &*model.name).chain([""]);
        Self {
            began: meters.began,
            keys: config.keys.iter().map(subject).collect(),
            models: names.map(|name| meters.models.get(name).cloned().unwrap_or_default()).collect(),
            shared: meters.shared.clone(),
        }
    }

    /// Makes the counters of all budgets, so that what was spent is known before the first request asks.
    pub fn count_budgets(&self, now: UnixMillis) {
        for subject in self.keys.iter().flatten() {
            subject.token_claims(Scope::ALL, 0, &Costs::default(), now);
        }
    }

    /// Whether requests of the key with this index for this model, as asked, are held against a budget.
    pub fn has_budgets(&self, key: usize, model: Option<&str>) -> bool {
        let subject = self.keys.get(key).and_then(Option::as_ref);
        subject.is_some_and(|subject| subject.has_budgets(subject.scope(model)))
    }

    /// Admits one more request of the key with this index. Waits only where replicas share limits.
    ///
    /// # Errors
    /// When there are as many as there may be.
    pub async fn admit(&self, key: usize) -> Result<Permit, Refused> {
        let subject = self.keys.get(key).and_then(Option::clone);
        let reservation = self.shared.as_ref().filter(|_| subject.is_some()).map(RedisReservation::new);
        Permit::admit(subject, reservation, self.began).await
    }

    /// What a request of the key of this `owner` with a body of this size will probably use; the permit will tell what came
    /// of it. `model` = index of the model in the configuration; none for a name that it does not list. What has no `output` says
    /// nothing of that of others: one name with a * may be asked for chats and for embeddings.
    pub fn estimate(
        &self,
        permit: &mut Permit,
        owner: Owner,
        model: Option<usize>,
        body: Size,
        output: bool,
    ) -> UsageEstimate {
        let of_model = model.and_then(|model| self.models.get(model)).or(self.models.last());
        let estimator = of_model.map(|model| model.of_key(owner.key)).unwrap_or_default();
        let estimate = estimator.estimate(body);
        permit.learns(body.bytes, estimator, output);
        if output { estimate } else { UsageEstimate { output: 0, ..estimate } }
    }
}

/// What a key may ask for: by itself, with its group, and of some models.
fn shares(config: &Config, key: &config::Key, meters: &Meters) -> Vec<Share> {
    let share =
        |whose, name: &Arc<str>, limits: config::KeyLimits, budgets: Vec<OneBudget>, meter: Option<&Arc<Meter>>| {
            (limits != config::KeyLimits::default() || !budgets.is_empty()).then(|| Share {
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
    let own = share(Spender::Key, &key.name, key.limits, of_key, meters.keys.get(&key.name));
    let group = key.group.and_then(|group| config.groups.get(group)).and_then(|group| {
        let of_group = budgets(&group.budgets, &group.warn_at);
        share(Spender::Group, &group.name, group.limits, of_group, meters.groups.get(&group.name))
    });
    let of_models = key.limits_by_model.iter().filter_map(|limits| {
        let meter = meters.of_models.get(&(Arc::clone(&key.name), Arc::clone(&limits.model.0)));
        let of_model = budgets(&limits.budgets, &key.warn_at);
        let share = share(Spender::Key, &key.name, limits.limits, of_model, meter)?;
        Some(Share { model: Some(limits.model.clone()), ..share })
    });
    own.into_iter().chain(group).chain(of_models).take(subject::MOST_SHARES).collect()
}

/// A moment in microseconds since [`Meters`] began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Moment(u64);

impl Moment {
    /// Now, where they began at this instant.
    fn since(began: Instant) -> Self {
        Self(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// So many microseconds later.
    fn after(self, micros: u64) -> Self {
        Self(self.0.saturating_add(micros))
    }
}

impl Quota {
    fn of(rate: Rate, free_at: Moment, now: Moment) -> Self {
        let (limit, remaining) = (rate.limit(), rate.remaining(free_at.0, now.0));
        Self { limit, remaining, reset: Duration::from_micros(free_at.0.saturating_sub(now.0)) }
    }
}

impl Kind {
    /// Its fixed name: that of the setting, or `budgets_reserved`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Requests(_) => "rpm",
            Self::Tokens(_) => "tpm",
            Self::InFlight(_) => "max_in_flight",
            Self::Budget { .. } => "budgets",
            Self::Reserved(_) => "budgets_reserved",
        }
    }
}
