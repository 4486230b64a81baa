//! The operator's view: which candidates a model has now and why, and the health state of each upstream. Uses the same code and
//! state that route requests.

use std::{
    fmt::{self, Write},
    sync::Arc,
};

use serde::Serialize;
use tokio::time::Instant;

use super::{placement::candidates::candidates, tables::Tables};
use crate::{
    auth::Caller,
    concurrent::random_source::RandomSource,
    config::{OnLostState, Strategy, Unpriced},
    domain::{
        clock::UnixMillis,
        endpoint::Surface,
        health_state::HealthState,
        price::Tariff,
        random::{self},
    },
    metrics::Metrics,
    routing::{self, Candidate, Choice, ExclusionReason, Route},
};

/// The question of `tidegate explain`: which candidates would serve a request of this key for this model now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainQuery {
    /// Name of the client key.
    pub key: String,
    /// The model that the key asks for.
    pub model: String,
    /// `prompt_cache_key` or session id of the request, if the request has one.
    pub cache_key: Option<String>,
    /// The part of the API that the request uses.
    pub surface: Surface,
}

/// Why `tidegate explain` has no answer: the key or the model does not exist, or the key may not use the model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExplainError {
    /// No key has this name.
    #[error("no client key has the name `{0}`")]
    Key(String),
    /// The key may not use the model, or no such model exists. Clients cannot tell the two cases apart.
    #[error(
        "the key `{key}` may not ask for `{model}`: the setting `models` of the key does not list this model; clients \
         get 404 model_not_found"
    )]
    KeyModels {
        /// The key.
        key: String,
        /// The model.
        model: String,
    },
    /// No model has this name.
    #[error("no model has the name `{0}`, and no wildcard matches this name; clients get 404 model_not_found")]
    Model(String),
}

/// Writes the answer of `tidegate explain`: the candidates that would be used now, in their order, and the others with the reasons. Adds
/// their prices and the limits of the key. `now` = milliseconds since 1970-01-01 UTC.
///
/// # Errors
/// When the key or the model does not exist.
pub fn explain(
    tables: &Tables,
    random: &RandomSource,
    now: u64,
    question: &ExplainQuery,
) -> Result<String, ExplainError> {
    let ExplainQuery { key, model, cache_key, surface } = question;
    let caller = tables.keys.named(key).ok_or_else(|| ExplainError::Key(key.clone()))?;
    if !caller.may_use_model(model) {
        return Err(ExplainError::KeyModels { key: key.clone(), model: model.clone() });
    }
    let route = tables.routes.route(model).ok_or_else(|| ExplainError::Model(model.clone()))?;
    let all = candidates(tables, &caller, &route, Some(model), *surface, 0);
    let preference = cache_key.as_ref().map(|text| random::seed(&[&caller.name, text]));
    let choice = routing::choose(&route, all.clone(), preference, 0, random);
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ =
        Explanation { tables, caller: &caller, model, route: &route, preference, all, choice, now }.write(&mut text);
    Ok(text)
}

struct Explanation<'a> {
    tables: &'a Tables,
    caller: &'a Caller,
    model: &'a str,
    route: &'a Route<'a>,
    preference: Option<u64>,
    all: Vec<Candidate>,
    choice: Choice,
    now: u64,
}

impl Explanation<'_> {
    fn write(&self, out: &mut String) -> fmt::Result {
        let strategy = match self.route.strategy {
            Strategy::Ordered => "ordered",
            Strategy::Weighted => "weighted",
            Strategy::LeastLatency => "least_latency",
        };
        writeln!(out, "model {} for key {}, strategy {strategy}", self.model, self.caller.name)?;
        if let Some(why) = self.tables.keys.refusal(&self.caller.name, self.now) {
            writeln!(out, "\nthe key is {why}: clients get 401 invalid_api_key")?;
        }
        if self.is_refused_without_price() {
            writeln!(
                out,
                "\nthe key has a budget, and not every upstream below has a price for the model: clients get 400 unpriced_model"
            )?;
        }
        if self.choice.candidates.is_empty() {
            // An empty body is never too large, and a health state never excludes a candidate permanently.
            let code = match self.all.iter().all(|candidate| candidate.exclusion == Some(ExclusionReason::Key)) {
                true => "model_not_found",
                false => "unsupported_endpoint",
            };
            writeln!(out, "\nno candidate serves this request: clients get 404 {code}")?;
        } else if self.choice.last_resort {
            writeln!(
                out,
                "\nattempted in this order, although all candidates are ejected: there is no other candidate"
            )?;
        } else {
            writeln!(out, "\nattempted in this order, each candidate only if the candidate before fails")?;
        }
        for (place, candidate) in (1..).zip(&self.choice.candidates) {
            write!(out, "  {place}. ")?;
            self.name(out, candidate)?;
            writeln!(out)?;
            writeln!(out, "       {}", self.position(candidate))?;
            writeln!(out, "       {}", health_state(candidate))?;
            writeln!(out, "       {}", self.price(candidate))?;
        }
        let left_out: Vec<_> = self.all.iter().filter(|candidate| !self.is_asked(candidate)).collect();
        if !left_out.is_empty() {
            writeln!(out, "\nnot attempted")?;
        }
        for candidate in left_out {
            write!(out, "  -  ")?;
            self.name(out, candidate)?;
            writeln!(out)?;
            let why = match candidate.exclusion {
                Some(ExclusionReason::Key) => "the key may not use this upstream".to_owned(),
                Some(ExclusionReason::Surface) => {
                    "the upstream does not have this part of the API (its `surface`)".to_owned()
                }
                Some(ExclusionReason::TooLarge(limit)) => {
                    format!("the upstream takes bodies up to {} MiB", limit >> 20)
                }
                None => health_state(candidate),
            };
            writeln!(out, "       {why}")?;
        }
        let mut limits: Vec<_> = self.choice.candidates.iter().filter_map(|one| self.size_limit(one)).collect();
        limits.dedup();
        if !limits.is_empty() {
            writeln!(out, "\nupstreams that get no larger bodies: {}", limits.join(", "))?;
        }
        let or = match self.route.on_lost_state {
            OnLostState::Fail => "to no other account",
            OnLostState::StripEncrypted => "to other accounts only without its encrypted reasoning",
        };
        writeln!(out, "\na request that refers to stored state goes to the account that has this state, and {or}")?;
        let limits = self.tables.limits.shown(self.caller.index, UnixMillis(self.now));
        if !limits.is_empty() {
            writeln!(out, "\nlimits")?;
        }
        for line in limits {
            writeln!(out, "  {line}")?;
        }
        Ok(())
    }

    fn is_asked(&self, candidate: &Candidate) -> bool {
        self.choice
            .candidates
            .iter()
            .any(|asked| (asked.target, asked.credential) == (candidate.target, candidate.credential))
    }

    fn name(&self, out: &mut String, candidate: &Candidate) -> fmt::Result {
        let Some(upstream) = self.tables.upstreams.get(candidate.upstream) else { return Ok(()) };
        write!(out, "{}", upstream.config.name)?;
        if let Some(name) = upstream.credential(candidate.credential).and_then(|credential| credential.name.as_ref()) {
            write!(out, ", credential {name}")?;
        }
        let model = self.route.targets.get(candidate.target).and_then(|target| target.model.as_deref());
        write!(out, ", model {}", model.unwrap_or(self.model))
    }

    fn is_refused_without_price(&self) -> bool {
        let Tables { prices, limits, .. } = self.tables;
        let mut could = self
            .all
            .iter()
            .filter(|candidate| !matches!(candidate.exclusion, Some(ExclusionReason::Key | ExclusionReason::Surface)));
        prices.unpriced() == Unpriced::Refuse
            && limits.has_budgets(self.caller.index, Some(self.model))
            && could.any(|candidate| self.price_at(candidate).is_none())
    }

    fn price_at(&self, candidate: &Candidate) -> Option<Tariff> {
        let model = self.route.targets.get(candidate.target).and_then(|target| target.model.as_deref());
        self.tables.prices.price(candidate.upstream, model.unwrap_or(self.model), self.now)
    }

    fn price(&self, candidate: &Candidate) -> String {
        let price = self.price_at(candidate);
        price.map_or_else(|| "no price: only tokens are counted".to_owned(), |price| format!("price: {price}"))
    }

    fn position(&self, candidate: &Candidate) -> String {
        let Some(target) = self.route.targets.get(candidate.target) else { return String::new() };
        let mut why = format!("priority {}", target.priority);
        let equals = self.route.targets.iter().filter(|other| other.priority == target.priority);
        let weights: u32 = equals.clone().map(|other| other.weight).sum();
        if equals.count() > 1 {
            let share = f64::from(target.weight) * 100.0 / f64::from(weights.max(1));
            let _ = write!(why, ", weight {} of {weights}: ", target.weight);
            let _ = match (self.preference, self.route.strategy) {
                (Some(_), _) => write!(why, "chosen by the cache key ({share:.0} % of all cache keys)"),
                (None, Strategy::LeastLatency) => write!(why, "for each request, the faster of two random targets"),
                (None, _) => write!(why, "chosen at random for {share:.0} % of the requests"),
            };
        }
        if let Some(latency) = candidate.latency {
            let _ = write!(why, ", first byte after {} ms on average", latency.as_millis());
        }
        let credentials = self.all.iter().filter(|other| other.target == candidate.target).count();
        if credentials > 1 {
            why.push_str(match self.preference {
                Some(_) => ", the credential chosen by the cache key",
                None => ", the credential with the fewest requests in progress",
            });
        }
        why
    }

    fn size_limit(&self, candidate: &Candidate) -> Option<String> {
        let config = &self.tables.upstreams.get(candidate.upstream)?.config;
        Some(format!("{} (up to {} MiB)", config.name, config.max_body_bytes? >> 20))
    }
}

fn health_state(candidate: &Candidate) -> String {
    let mut text = match candidate.health_state {
        HealthState::InService => "in service".to_owned(),
        HealthState::Probation(cause) => format!("half-open after {}: one request probes it", cause.name()),
        HealthState::Out { cause, left } if left.is_zero() => {
            format!("ejected after {}: a request probes it now", cause.name())
        }
        HealthState::Out { cause, left } => {
            format!("ejected after {}, for {} s more", cause.name(), left.as_secs() + 1)
        }
    };
    let _ = write!(text, ", {} requests in progress", candidate.in_flight);
    if candidate.full {
        text.push_str(", full: attempted after all candidates with room");
    }
    text
}

/// The health state and the load of an upstream or of a credential, as detailed readiness shows them in JSON.
#[derive(Clone, Debug, Serialize)]
pub struct HealthView {
    /// Name of the upstream or of the credential.
    pub name: Option<String>,
    /// `in_service`, `probation` or `out`.
    pub state: &'static str,
    /// The cause, where the state is not `in_service`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<&'static str>,
    /// Remaining seconds of the cooldown. 0 = the cooldown is over and a request probes the upstream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds_left: Option<u64>,
    /// Requests in progress.
    pub in_flight: usize,
    /// Requests in the queue. Only upstreams have a queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queued: Option<usize>,
    /// The credentials of an upstream.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub credentials: Vec<Self>,
}

impl HealthView {
    fn new(name: Option<&str>, health_state: HealthState, in_flight: usize) -> Self {
        let (state, cause, left) = match health_state {
            HealthState::InService => ("in_service", None, None),
            HealthState::Probation(cause) => ("probation", Some(cause), None),
            // The cooldown is over and a request probes the upstream. The upstream may be back at any moment.
            HealthState::Out { cause, left } if left.is_zero() => ("out", Some(cause), Some(0)),
            HealthState::Out { cause, left } => ("out", Some(cause), Some(left.as_secs() + 1)),
        };
        let (name, cause) = (name.map(str::to_owned), cause.map(crate::domain::health_state::EjectionCause::name));
        Self { name, state, cause, seconds_left: left, in_flight, queued: None, credentials: Vec::new() }
    }
}

impl Tables {
    /// Returns the health state and the load of each upstream and its credentials, for detailed readiness.
    pub fn states(&self) -> Vec<HealthView> {
        let now = Instant::now();
        let of = |upstream: &Arc<crate::upstream::Upstream>| {
            let pool = upstream.pool();
            let mut state = HealthView::new(Some(pool.name()), pool.best_health_state(now), pool.in_flight());
            state.queued = Some(pool.queued());
            // An upstream without credentials has one nameless credential, with the same health state.
            state.credentials = pool
                .credentials(now)
                .map(|(name, health_state, in_flight)| HealthView::new(name, health_state, in_flight))
                .collect();
            state
        };
        self.upstreams.iter().map(of).collect()
    }

    /// Updates the metrics (gauges) of the health and the load of all upstreams and credentials.
    pub fn update_health_metrics(&self, metrics: &Metrics) {
        let now = Instant::now();
        metrics.health.clear();
        for upstream in &self.upstreams {
            let pool = upstream.pool();
            metrics.health.set_gauges(pool.name(), None, pool.best_health_state(now).is_usable(), pool.in_flight());
            metrics.health.set_queued(pool.name(), pool.queued());
            for (name, health_state, in_flight) in pool.credentials(now) {
                if name.is_some() {
                    metrics.health.set_gauges(pool.name(), name, health_state.is_usable(), in_flight);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::health_state::EjectionCause;

    #[test]
    fn who_is_being_probed_has_no_seconds_left() {
        for (left, shown) in [(Duration::ZERO, 0), (Duration::from_millis(1), 1), (Duration::from_secs(7), 8)] {
            let state = HealthView::new(None, HealthState::Out { cause: EjectionCause::Faults, left }, 1);
            assert_eq!((state.state, state.seconds_left), ("out", Some(shown)));
        }
    }
}
