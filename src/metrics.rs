//! Every metric: one field, one line of what it is, its labels. Labels come from the configuration and from fixed
//! names, so their number is bounded.

mod affinity;
mod alerts;
mod connections;
mod keys;
mod ledger;
mod reloads;
mod results;
mod sharing;
mod standings;
mod unpriced;

use std::sync::Arc;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

pub use connections::{Connections, CutLabels, MalformedLabels};
pub use reloads::{Reload, Reloads};
pub use standings::{HealthMetrics, UpstreamHealth};
pub use unpriced::Unpriced;

use results::{RESULTS, result_name};

use crate::domain::{
    affinity::{self as memory, PlacementResult},
    alert,
    budget::ByteBudget,
    key,
    ledger::LedgerStatus,
    outcome::{AttemptResult, EndReason, Outcome},
    problem::Problem,
    sharing::SharingStatus,
};

/// `upstream`, `end`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct EndLabels {
    upstream: Arc<str>,
    end: &'static str,
}

/// `code`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ProblemLabels {
    code: &'static str,
}

/// `upstream`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct UpstreamLabels {
    upstream: Arc<str>,
}

/// `upstream`, `kind` (`input`, `cached`, `output`, `reasoning`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TokenLabels {
    upstream: Arc<str>,
    kind: &'static str,
}

/// `limit` (`rpm`, `tpm`, `max_in_flight`), `of` (`key`, `group`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct LimitLabels {
    limit: &'static str,
    of: &'static str,
}

/// `result`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PlacedLabels {
    result: &'static str,
}

/// `upstream`, `result`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AttemptLabels {
    upstream: Arc<str>,
    result: &'static str,
}

/// All of them.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Requests that are over, by the upstream of the last attempt ("" where none was made) and by how they ended.
    requests: Family<EndLabels, Counter>,
    /// Errors that Tidegate itself answered.
    problems: Family<ProblemLabels, Counter>,
    /// Streams that ended cleanly without a terminal event: what a reseller cut short.
    streams_incomplete: Family<UpstreamLabels, Counter>,
    /// Tokens as reported by the providers.
    tokens: Family<TokenLabels, Counter>,
    /// Answers that told a part without a price.
    unpriced: Unpriced,
    /// Seconds from the request's head to the first byte of the answer's body.
    first_byte: Family<UpstreamLabels, Histogram>,
    /// Requests refused because a limit of their key or its group was reached.
    limited: Family<LimitLabels, Counter>,
    /// Tries at upstreams, by what came of them.
    attempts: Family<AttemptLabels, Counter>,
    /// Tries at an upstream that had been asked for the same request already.
    retries: Family<UpstreamLabels, Counter>,
    /// Retries that were not made because there had been too many of late.
    retries_denied: Family<UpstreamLabels, Counter>,
    /// Tries at an upstream after another one had failed the same request.
    failovers: Family<UpstreamLabels, Counter>,
    /// Requests that refer to state, by what came of them.
    placed: Family<PlacedLabels, Counter>,
    /// How upstreams and their credentials stand.
    pub standings: HealthMetrics,
    /// Requests under way.
    in_flight: Gauge,
    /// What of `bodies` is held.
    body_memory: Gauge,
    /// Memory for the bodies of requests: counted by those who take it, and read when somebody asks for the metrics.
    pub bodies: ByteBudget,
    /// How the ledger stands, and what shows it.
    pub ledger: Arc<LedgerStatus>,
    ledger_shown: ledger::LedgerCollector,
    /// How the keys of the store stand.
    pub keys: Arc<key::StoredKeysStatus>,
    keys_shown: keys::KeysCollector,
    /// How limits that replicas share stand.
    pub sharing: Arc<SharingStatus>,
    sharing_shown: sharing::RedisCollector,
    /// How the memory of origins stands.
    pub affinity: Arc<memory::AffinityStatus>,
    affinity_shown: affinity::AffinityCollector,
    /// How the delivery of alerts stands.
    pub alerts: Arc<alert::AlertDeliveryStatus>,
    alerts_shown: alerts::AlertsCollector,
    /// Connections of clients.
    pub connections: Connections,
    /// Reloads of the configuration.
    pub reloads: Reloads,
}

/// Seconds; a first byte comes after milliseconds in a simulator and after many minutes of reasoning.
const FIRST_BYTE_BUCKETS: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1800.0];

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("tidegate");
        let requests = Family::<EndLabels, Counter>::default();
        let problems = Family::<ProblemLabels, Counter>::default();
        // Of a series that begins at one, nobody sees an increase.
        for problem in Problem::ALL {
            drop(problems.get_or_create(&ProblemLabels { code: problem.name() }));
        }
        let streams_incomplete = Family::<UpstreamLabels, Counter>::default();
        let tokens = Family::<TokenLabels, Counter>::default();
        let first_byte =
            Family::<UpstreamLabels, Histogram>::new_with_constructor(|| Histogram::new(FIRST_BYTE_BUCKETS));
        let limited = Family::<LimitLabels, Counter>::default();
        let attempts = Family::<AttemptLabels, Counter>::default();
        let retries = Family::<UpstreamLabels, Counter>::default();
        let retries_denied = Family::<UpstreamLabels, Counter>::default();
        let failovers = Family::<UpstreamLabels, Counter>::default();
        let placed = Family::<PlacedLabels, Counter>::default();
        let in_flight = Gauge::default();
        let body_memory = Gauge::default();
        registry.register("requests", "Requests that are over, by upstream and end", requests.clone());
        registry.register("problems", "Errors that Tidegate itself answered", problems.clone());
        registry.register(
            "streams_incomplete",
            "Streams that ended cleanly without a terminal event",
            streams_incomplete.clone(),
        );
        registry.register("tokens", "Tokens as reported by the providers", tokens.clone());
        let unpriced = Unpriced::new(&mut registry);
        registry.register(
            "first_byte_seconds",
            "From the request's head to the first byte of the answer's body",
            first_byte.clone(),
        );
        registry.register("limited", "Requests refused because a limit was reached", limited.clone());
        registry.register("attempts", "Tries at upstreams, by what came of them", attempts.clone());
        registry.register("retries", "Tries at an upstream asked before for the same request", retries.clone());
        registry.register(
            "retries_denied",
            "Retries not made because there had been too many of late",
            retries_denied.clone(),
        );
        registry.register("failovers", "Tries at an upstream after another one had failed", failovers.clone());
        registry.register("affinity_requests", "Requests that refer to state, by what came of them", placed.clone());
        let standings = HealthMetrics::new(&mut registry);
        registry.register("requests_in_flight", "Requests under way", in_flight.clone());
        registry.register("body_memory_bytes", "Bytes held for the bodies of requests", body_memory.clone());
        let ledger_shown = ledger::LedgerCollector::new(&mut registry);
        let keys_shown = keys::KeysCollector::new(&mut registry);
        let sharing_shown = sharing::RedisCollector::new(&mut registry);
        let affinity_shown = affinity::AffinityCollector::new(&mut registry);
        let alerts_shown = alerts::AlertsCollector::new(&mut registry);
        let connections = Connections::new(&mut registry);
        let reloads = Reloads::new(&mut registry);
        Self {
            registry,
            requests,
            problems,
            streams_incomplete,
            tokens,
            unpriced,
            first_byte,
            limited,
            attempts,
            retries,
            retries_denied,
            failovers,
            placed,
            standings,
            in_flight,
            body_memory,
            bodies: ByteBudget::default(),
            ledger: Arc::default(),
            keys: Arc::default(),
            keys_shown,
            affinity: Arc::default(),
            affinity_shown,
            alerts: Arc::default(),
            alerts_shown,
            ledger_shown,
            sharing: Arc::default(),
            sharing_shown,
            connections,
            reloads,
        }
    }
}

impl Metrics {
    /// The counters of one worker, for upstreams of these names. Looking a counter up takes a lock that all workers
    /// share; each keeps its own handles instead. It also makes every series begin at zero.
    pub fn worker<'a>(&self, upstreams: impl Iterator<Item = &'a str>) -> WorkerMetrics {
        WorkerMetrics {
            in_flight: self.in_flight.clone(),
            problems: self.problems.clone(),
            limited: self.limited.clone(),
            unpriced: self.unpriced.clone(),
            placed: PlacementResult::ALL.map(|placed| {
                let labels = PlacedLabels { result: placed.name() };
                (placed, self.placed.get_or_create(&labels).clone())
            }),
            upstreams: upstreams.map(|upstream| self.upstream(upstream)).collect(),
            none: self.upstream(""),
        }
    }

    fn upstream(&self, name: &str) -> UpstreamMetrics {
        let upstream: Arc<str> = name.into();
        let labels = UpstreamLabels { upstream: Arc::clone(&upstream) };
        let tokens = |kind| self.tokens.get_or_create(&TokenLabels { upstream: Arc::clone(&upstream), kind }).clone();
        let requests = |end: EndReason| {
            let labels = EndLabels { upstream: Arc::clone(&upstream), end: end.name() };
            (end, self.requests.get_or_create(&labels).clone())
        };
        UpstreamMetrics {
            requests: EndReason::ALL.map(requests),
            incomplete: self.streams_incomplete.get_or_create(&labels).clone(),
            input: tokens("input"),
            cached: tokens("cached"),
            output: tokens("output"),
            reasoning: tokens("reasoning"),
            first_byte: self.first_byte.get_or_create(&labels).clone(),
            attempts: RESULTS.map(|result| {
                let labels = AttemptLabels { upstream: Arc::clone(&upstream), result };
                (result, self.attempts.get_or_create(&labels).clone())
            }),
            retries: self.retries.get_or_create(&labels).clone(),
            retries_denied: self.retries_denied.get_or_create(&labels).clone(),
            failovers: self.failovers.get_or_create(&labels).clone(),
        }
    }

    /// The text that Prometheus reads.
    ///
    /// # Errors
    /// When it cannot be written down, which would be a fault of a label.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        self.body_memory.set(i64::try_from(self.bodies.held()).unwrap_or(i64::MAX));
        self.ledger_shown.show(&self.ledger);
        self.keys_shown.show(&self.keys);
        self.sharing_shown.show(&self.sharing);
        self.affinity_shown.show(&self.affinity);
        self.alerts_shown.show(&self.alerts);
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// What one worker counts with.
#[derive(Debug)]
pub struct WorkerMetrics {
    in_flight: Gauge,
    problems: Family<ProblemLabels, Counter>,
    limited: Family<LimitLabels, Counter>,
    /// Answers that told a part without a price.
    pub unpriced: Unpriced,
    placed: [(PlacementResult, Counter); PlacementResult::ALL.len()],
    upstreams: Vec<UpstreamMetrics>,
    /// Of requests for which none was tried.
    none: UpstreamMetrics,
}

#[derive(Debug)]
struct UpstreamMetrics {
    requests: [(EndReason, Counter); EndReason::ALL.len()],
    incomplete: Counter,
    input: Counter,
    cached: Counter,
    output: Counter,
    reasoning: Counter,
    first_byte: Histogram,
    attempts: [(&'static str, Counter); RESULTS.len()],
    retries: Counter,
    retries_denied: Counter,
    failovers: Counter,
}

/// Why an upstream is asked once more for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReattemptReason {
    /// It was asked before.
    Retry,
    /// Another one failed.
    Failover,
}

impl WorkerMetrics {
    /// Counts what came of an attempt at the upstream with this index.
    pub fn attempted(&self, upstream: usize, result: AttemptResult) {
        let name = result_name(result);
        let attempts = self.upstreams.get(upstream).map(|upstream| &upstream.attempts);
        if let Some((_, count)) = attempts.and_then(|all| all.iter().find(|(result, _)| *result == name)) {
            count.inc();
        }
    }

    /// Counts a request that a limit refused.
    pub fn limited(&self, limit: &'static str, of: &'static str) {
        self.limited.get_or_create(&LimitLabels { limit, of }).inc();
    }

    /// Counts a request that refers to state.
    pub fn placed(&self, placed: PlacementResult) {
        if let Some((_, count)) = self.placed.iter().find(|(known, _)| *known == placed) {
            count.inc();
        }
    }

    /// Counts a further attempt for a request.
    pub fn again(&self, upstream: usize, again: ReattemptReason) {
        let Some(upstream) = self.upstreams.get(upstream) else { return };
        match again {
            ReattemptReason::Retry => upstream.retries.inc(),
            ReattemptReason::Failover => upstream.failovers.inc(),
        };
    }

    /// Counts a retry that was not made.
    pub fn retry_denied(&self, upstream: usize) {
        if let Some(upstream) = self.upstreams.get(upstream) {
            upstream.retries_denied.inc();
        }
    }

    /// A request began.
    pub fn began(&self) {
        self.in_flight.inc();
    }

    /// Counts a request that is over; `upstream` is the index of the one that was tried last.
    pub fn settled(&self, upstream: Option<usize>, outcome: &Outcome) {
        self.in_flight.dec();
        let upstream = upstream.and_then(|index| self.upstreams.get(index)).unwrap_or(&self.none);
        if let Some((_, requests)) = upstream.requests.iter().find(|(end, _)| *end == outcome.end) {
            requests.inc();
        }
        if let Some(problem) = outcome.problem {
            self.problems.get_or_create(&ProblemLabels { code: problem.name() }).inc();
        }
        if outcome.end == EndReason::Incomplete {
            upstream.incomplete.inc();
        }
        let usage = &outcome.usage;
        for (counter, count) in [
            (&upstream.input, usage.input),
            (&upstream.cached, usage.cached),
            (&upstream.output, usage.output),
            (&upstream.reasoning, usage.reasoning),
        ] {
            if let Some(count) = count {
                counter.inc_by(count);
            }
        }
        if let Some(first_byte) = outcome.first_byte {
            upstream.first_byte.observe(first_byte.as_secs_f64());
        }
    }
}

/// The content type of [`Metrics::text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
