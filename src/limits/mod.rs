//! How much a key and its group may ask for: requests and tokens per minute, requests at once. Admits, and settles when it
//! is known what was used.

mod estimate;
mod gcra;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use self::{estimate::Estimate, gcra::Rate};
use crate::config::{self, Config};

/// What is used, of every key and group. One for all workers, and it lives through reloads.
#[derive(Debug)]
pub struct Meters {
    began: Instant,
    keys: HashMap<Arc<str>, Arc<Meter>>,
    groups: HashMap<Arc<str>, Arc<Meter>>,
    models: HashMap<Arc<str>, Arc<Estimate>>,
}

/// Of one key or group.
#[derive(Debug, Default)]
struct Meter {
    /// States of [`Rate`], in nanoseconds since `Meters::began`.
    requests: AtomicU64,
    tokens: AtomicU64,
    in_flight: AtomicUsize,
}

impl Meters {
    /// The meters of a configuration. Those of names that stay go on as they are.
    pub fn new(config: &Config, previous: Option<&Self>, now: Instant) -> Self {
        let text = |name: &Arc<str>| Arc::<str>::from(&**name);
        let kept = |of: fn(&Self) -> &HashMap<Arc<str>, Arc<Meter>>, name: &Arc<str>| {
            let kept = previous.and_then(|meters| of(meters).get(name));
            (text(name), kept.cloned().unwrap_or_default())
        };
        let model = |name: &Arc<str>| {
            let kept = previous.and_then(|meters| meters.models.get(name));
            (text(name), kept.cloned().unwrap_or_default())
        };
        Self {
            began: previous.map_or(now, |meters| meters.began),
            keys: config.keys.iter().map(|key| kept(|meters| &meters.keys, &key.name)).collect(),
            groups: config.groups.iter().map(|group| kept(|meters| &meters.groups, &group.name)).collect(),
            models: config.models.iter().map(|one| model(&one.name)).chain([model(&Arc::from(""))]).collect(),
        }
    }
}

/// The limits of a configuration: an immutable part of a worker's snapshot.
#[derive(Debug)]
pub struct Limits {
    began: Instant,
    /// By the indices of the configuration's keys; none for one without any limit.
    keys: Vec<Option<Arc<Subject>>>,
    /// By the indices of the configuration's models, and one more for all other names.
    models: Vec<Arc<Estimate>>,
}

/// Whoever is limited: a key, and perhaps its group.
#[derive(Debug)]
struct Subject(Vec<Share>);

#[derive(Debug)]
struct Share {
    whose: Whose,
    name: Arc<str>,
    requests: Option<Rate>,
    tokens: Option<Rate>,
    in_flight: Option<usize>,
    meter: Arc<Meter>,
}

/// Whose limit it is. The names are fixed: metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Whose {
    /// The key's own.
    Key,
    /// That of its group.
    Group,
}

/// Which limit it is. The names are fixed: metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Requests per minute.
    Requests,
    /// Tokens per minute.
    Tokens,
    /// Requests at once.
    InFlight,
}

/// A limit is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limited {
    /// Which one.
    pub kind: Kind,
    /// Whose.
    pub whose: Whose,
    /// The name of the key or group.
    pub name: Arc<str>,
    /// The limit.
    pub limit: u64,
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
    /// Nobody knows: what was reserved counts.
    Unknown,
}

/// An admitted request. Its place among those at once is given back when this is dropped.
#[derive(Debug)]
pub struct Permit {
    subject: Arc<Subject>,
    began: Instant,
    reserved: Option<Reserved>,
}

#[derive(Debug)]
struct Reserved {
    tokens: u64,
    at: u64,
    body: u64,
    estimate: Arc<Estimate>,
}

impl Limits {
    /// The limits of a configuration, over `meters`, which were made for it.
    pub fn new(config: &Config, meters: &Meters) -> Self {
        let share = |whose, name: &Arc<str>, limits: config::Limits, meter: Option<&Arc<Meter>>| {
            (limits != config::Limits::default()).then(|| Share {
                whose,
                name: Arc::clone(name),
                requests: limits.requests.map(Rate::per_minute),
                tokens: limits.tokens.map(Rate::per_minute),
                in_flight: limits.in_flight,
                meter: meter.cloned().unwrap_or_default(),
            })
        };
        let subject = |key: &config::Key| {
            let own = share(Whose::Key, &key.name, key.limits, meters.keys.get(&key.name));
            let group = key.group.and_then(|group| config.groups.get(group));
            let group =
                group.and_then(|group| share(Whose::Group, &group.name, group.limits, meters.groups.get(&group.name)));
            let shares: Vec<Share> = own.into_iter().chain(group).collect();
            (!shares.is_empty()).then(|| Arc::new(Subject(shares)))
        };
        let names = config.models.iter().map(|model| &*model.name).chain([""]);
        Self {
            began: meters.began,
            keys: config.keys.iter().map(subject).collect(),
            models: names.map(|name| meters.models.get(name).cloned().unwrap_or_default()).collect(),
        }
    }

    /// Admits one more request of the key with this index; none where nothing limits it.
    ///
    /// # Errors
    /// When there are as many as there may be.
    pub fn admit(&self, key: usize) -> Result<Option<Permit>, Limited> {
        let Some(subject) = self.keys.get(key).and_then(Option::as_ref) else { return Ok(None) };
        let now = nanos(self.began);
        subject.enter(now)?;
        let permit = Permit { subject: Arc::clone(subject), began: self.began, reserved: None };
        // From here on the permit gives the places back.
        subject.take(now, Kind::Requests, 1)?;
        Ok(Some(permit))
    }

    /// Admits the tokens that a request with a body of `body` bytes will probably use. `model` = index of the model in the
    /// configuration; none for a name that it does not list.
    ///
    /// # Errors
    /// When there are not so many left.
    pub fn reserve(&self, permit: &mut Permit, model: Option<usize>, body: u64) -> Result<(), Limited> {
        if !permit.subject.0.iter().any(|share| share.tokens.is_some()) {
            return Ok(());
        }
        let estimate = model.and_then(|model| self.models.get(model)).or(self.models.last());
        let estimate = estimate.cloned().unwrap_or_default();
        let (tokens, now) = (estimate.tokens(body), nanos(self.began));
        permit.subject.take(now, Kind::Tokens, tokens)?;
        permit.reserved = Some(Reserved { tokens, at: now, body, estimate });
        Ok(())
    }
}

fn nanos(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

impl Subject {
    /// Takes a place among the requests at once, of all shares or of none.
    fn enter(&self, now: u64) -> Result<(), Limited> {
        for (nth, share) in self.0.iter().enumerate() {
            let limit = share.in_flight.unwrap_or(usize::MAX);
            let may = |count: usize| (count < limit).then_some(count + 1);
            if share.meter.in_flight.fetch_update(Ordering::AcqRel, Ordering::Acquire, may).is_err() {
                for entered in self.0.iter().take(nth) {
                    entered.leave();
                }
                return Err(self.limited(share, Kind::InFlight, limit as u64, 0, now));
            }
        }
        Ok(())
    }

    /// Takes `cost` of a rate, of all shares or of none.
    fn take(&self, now: u64, kind: Kind, cost: u64) -> Result<(), Limited> {
        for (nth, share) in self.0.iter().enumerate() {
            let Some((rate, state)) = share.rate(kind) else { continue };
            let mut wait = 0;
            let admit = |free_at| rate.admit(free_at, now, cost).inspect_err(|after| wait = *after).ok();
            if state.fetch_update(Ordering::AcqRel, Ordering::Acquire, admit).is_err() {
                for (rate, state) in self.0.iter().take(nth).filter_map(|taken| taken.rate(kind)) {
                    update(state, |free_at| rate.settle(free_at, now, now, cost, 0));
                }
                return Err(self.limited(share, kind, rate.limit(), wait, now));
            }
        }
        Ok(())
    }

    fn limited(&self, share: &Share, kind: Kind, limit: u64, wait: u64, now: u64) -> Limited {
        let (whose, name) = (share.whose, Arc::clone(&share.name));
        Limited { kind, whose, name, limit, after: Duration::from_nanos(wait), quotas: self.quotas(now) }
    }

    fn quotas(&self, now: u64) -> Quotas {
        let least = |kind| {
            let quotas = self.0.iter().filter_map(|share| share.rate(kind)).map(|(rate, state)| {
                let free_at = state.load(Ordering::Acquire);
                Quota {
                    limit: rate.limit(),
                    remaining: rate.remaining(free_at, now),
                    reset: Duration::from_nanos(free_at.saturating_sub(now)),
                }
            });
            quotas.min_by_key(|quota| quota.remaining)
        };
        Quotas { requests: least(Kind::Requests), tokens: least(Kind::Tokens) }
    }
}

impl Share {
    fn rate(&self, kind: Kind) -> Option<(Rate, &AtomicU64)> {
        match kind {
            Kind::Requests => Some((self.requests?, &self.meter.requests)),
            Kind::Tokens => Some((self.tokens?, &self.meter.tokens)),
            Kind::InFlight => None,
        }
    }

    fn leave(&self) {
        self.meter.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

fn update(state: &AtomicU64, next: impl Fn(u64) -> u64) {
    // Never refused.
    let _ = state.fetch_update(Ordering::AcqRel, Ordering::Acquire, |free_at| Some(next(free_at)));
}

impl Permit {
    /// How the rates stand now.
    pub fn quotas(&self) -> Quotas {
        self.subject.quotas(nanos(self.began))
    }

    /// Tokens that are reserved, if any are.
    pub fn reserved(&self) -> Option<u64> {
        self.reserved.as_ref().map(|reserved| reserved.tokens)
    }

    /// Corrects the reservation to what was used. Only the first call counts.
    pub fn settle(&mut self, used: Used) {
        let Some(Reserved { tokens, at, body, estimate }) = self.reserved.take() else { return };
        let used = match used {
            Used::Unknown => return,
            Used::Nothing => 0,
            Used::Tokens { input, output } => {
                estimate.learn(body, input, output);
                input.unwrap_or_default().saturating_add(output.unwrap_or_default())
            }
        };
        let now = nanos(self.began);
        for (rate, state) in self.subject.0.iter().filter_map(|share| share.rate(Kind::Tokens)) {
            update(state, |free_at| rate.settle(free_at, now, at, tokens, used));
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.subject.0.iter().for_each(Share::leave);
    }
}

impl Whose {
    /// Its fixed name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Group => "group",
        }
    }
}

impl Kind {
    /// Its fixed name: that of the setting.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Requests => "rpm",
            Self::Tokens => "tpm",
            Self::InFlight => "max_in_flight",
        }
    }
}
