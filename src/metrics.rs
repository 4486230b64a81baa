//! All metrics with their labels. Label values come from the configuration and from fixed names, so their number is bounded.

mod affinity;
mod alerts;
mod connections;
mod health;
mod keys;
mod labels;
mod ledger;
mod reloads;
mod results;
mod sharing;
mod unpriced;

use std::sync::Arc;

use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

pub use connections::{Connections, CutLabels, MalformedLabels};
pub use health::{HealthMetrics, UpstreamHealth};
pub use reloads::{Reload, Reloads};
pub use unpriced::Unpriced;

use labels::{AttemptLabels, EndLabels, LimitLabels, PlacementLabels, ProblemLabels, TokenLabels, UpstreamLabels};
use results::{RESULTS, result_name};

use crate::{
    concurrent::{
        affinity_status::AffinityStatus, alert_queue::AlertDeliveryStatus, byte_budget::ByteBudget,
        key_status::StoredKeysStatus, ledger_status::LedgerStatus, sharing_status::SharingStatus,
    },
    domain::{
        affinity::PlacementResult,
        outcome::{AttemptResult, EndReason, Outcome},
        problem::Problem,
    },
};

/// All metrics of the process that Prometheus can read.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Finished requests, by the upstream of the last attempt ("" = no attempt was made) and by why they ended.
    requests: Family<EndLabels, Counter>,
    /// Errors that Tidegate itself answered.
    problems: Family<ProblemLabels, Counter>,
    /// Streams that ended cleanly without a terminal event: the upstream probably cut them short.
    streams_incomplete: Family<UpstreamLabels, Counter>,
    /// Tokens that providers reported.
    tokens: Family<TokenLabels, Counter>,
    /// Answers with a reported part that has no price.
    pub unpriced: Unpriced,
    /// Time from the request's head to the first byte of the answer's body, in seconds.
    first_byte: Family<UpstreamLabels, Histogram>,
    /// Requests refused because a limit of their key or its group was reached.
    limited: Family<LimitLabels, Counter>,
    /// Attempts, by upstream and result.
    attempts: Family<AttemptLabels, Counter>,
    /// Retries: further attempts at the same upstream for one request.
    retries: Family<UpstreamLabels, Counter>,
    /// Retries that were not made, because there were too many recent retries.
    retries_denied: Family<UpstreamLabels, Counter>,
    /// Failovers: attempts at an upstream after another upstream failed for the same request.
    failovers: Family<UpstreamLabels, Counter>,
    /// Requests that refer to state, by how affinity placed them.
    placements: Family<PlacementLabels, Counter>,
    /// Health of upstreams and their credentials.
    pub health: HealthMetrics,
    /// Requests in progress.
    in_flight: Gauge,
    /// Bytes that are reserved from `bodies`.
    body_memory: Gauge,
    /// Memory for request bodies. Requests reserve bytes from this budget; `text` reads how many are reserved.
    pub bodies: ByteBudget,
    /// Status of the ledger.
    pub ledger: Arc<LedgerStatus>,
    ledger_collector: ledger::LedgerCollector,
    /// Status of the keys in the store.
    pub keys: Arc<StoredKeysStatus>,
    keys_collector: keys::KeysCollector,
    /// Status of the limits that replicas share.
    pub sharing: Arc<SharingStatus>,
    sharing_collector: sharing::RedisCollector,
    /// Status of the affinity memory.
    pub affinity: Arc<AffinityStatus>,
    affinity_collector: affinity::AffinityCollector,
    /// Counters of the delivery of alerts.
    pub alerts: Arc<AlertDeliveryStatus>,
    alerts_collector: alerts::AlertsCollector,
    /// Connections of clients.
    pub connections: Connections,
    /// Reloads of the configuration.
    pub reloads: Reloads,
}

/// Buckets in seconds. The first byte takes milliseconds from a simulator, and many minutes from a model that reasons long.
const FIRST_BYTE_BUCKETS: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1800.0];

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("tidegate");
        let requests = Family::<EndLabels, Counter>::default();
        let problems = Family::<ProblemLabels, Counter>::default();
        // Every series starts at zero. Prometheus cannot see an increase in a series that starts at one.
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
        let placements = Family::<PlacementLabels, Counter>::default();
        let in_flight = Gauge::default();
        let body_memory = Gauge::default();
        registry.register("requests", "Finished requests, by upstream and end", requests.clone());
        registry.register("problems", "Errors that Tidegate itself answered", problems.clone());
        registry.register(
            "streams_incomplete",
            "Streams that ended cleanly without a terminal event",
            streams_incomplete.clone(),
        );
        registry.register("tokens", "Tokens that providers reported", tokens.clone());
        let unpriced = Unpriced::new(&mut registry);
        registry.register(
            "first_byte_seconds",
            "Time from the request's head to the first byte of the answer's body",
            first_byte.clone(),
        );
        registry.register("limited", "Requests refused because a limit was reached", limited.clone());
        registry.register("attempts", "Attempts, by upstream and result", attempts.clone());
        registry.register("retries", "Further attempts at the same upstream for one request", retries.clone());
        registry.register(
            "retries_denied",
            "Retries not made because there were too many recent retries",
            retries_denied.clone(),
        );
        registry.register(
            "failovers",
            "Attempts at an upstream after another upstream failed for the same request",
            failovers.clone(),
        );
        let help = "Requests that refer to state, by how affinity placed them";
        registry.register("affinity_requests", help, placements.clone());
        let health = HealthMetrics::new(&mut registry);
        registry.register("requests_in_flight", "Requests in progress", in_flight.clone());
        registry.register("body_memory_bytes", "Bytes reserved for request bodies", body_memory.clone());
        let ledger_collector = ledger::LedgerCollector::new(&mut registry);
        let keys_collector = keys::KeysCollector::new(&mut registry);
        let sharing_collector = sharing::RedisCollector::new(&mut registry);
        let affinity_collector = affinity::AffinityCollector::new(&mut registry);
        let alerts_collector = alerts::AlertsCollector::new(&mut registry);
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
            placements,
            health,
            in_flight,
            body_memory,
            bodies: ByteBudget::default(),
            ledger: Arc::default(),
            keys: Arc::default(),
            keys_collector,
            affinity: Arc::default(),
            affinity_collector,
            alerts: Arc::default(),
            alerts_collector,
            ledger_collector,
            sharing: Arc::default(),
            sharing_collector,
            connections,
            reloads,
        }
    }
}

impl Metrics {
    /// Returns how many answers of an upstream have finished, and how many of them ended before they were complete.
    pub fn answers(&self, upstream: &str) -> (u64, u64) {
        let upstream: Arc<str> = upstream.into();
        let (mut all, mut truncated) = (0, 0);
        for end in EndReason::ALL {
            let labels = EndLabels { upstream: Arc::clone(&upstream), end: end.name() };
            let count = self.requests.get(&labels).map_or(0, |counter| counter.get());
            match end {
                EndReason::Incomplete | EndReason::UpstreamBroken | EndReason::UpstreamStalled => truncated += count,
                EndReason::Completed | EndReason::ResponseFailed | EndReason::ResponseIncomplete => {}
                // These ends say nothing about the answers of the upstream.
                _ => continue,
            }
            all += count;
        }
        (all, truncated)
    }
}

impl Metrics {
    /// Makes the metrics handles of one worker, for upstreams with these names. The lookup of a counter takes a lock that all workers
    /// share, so each worker keeps its own handles. The lookup here also makes every series start at zero.
    pub fn worker<'a>(&self, upstreams: impl Iterator<Item = &'a str>) -> WorkerMetrics {
        WorkerMetrics {
            in_flight: self.in_flight.clone(),
            problems: self.problems.clone(),
            limited: self.limited.clone(),
            unpriced: self.unpriced.clone(),
            placements: PlacementResult::ALL.map(|placed| {
                let labels = PlacementLabels { result: placed.name() };
                (placed, self.placements.get_or_create(&labels).clone())
            }),
            upstreams: upstreams.map(|upstream| self.upstream(upstream)).collect(),
            no_upstream: self.upstream(""),
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

    /// Returns all metrics as text, in the format that Prometheus reads.
    ///
    /// # Errors
    /// A label cannot be encoded.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        self.body_memory.set(i64::try_from(self.bodies.held()).unwrap_or(i64::MAX));
        self.ledger_collector.update(&self.ledger);
        self.keys_collector.update(&self.keys);
        self.sharing_collector.update(&self.sharing);
        self.affinity_collector.update(&self.affinity);
        self.alerts_collector.update(&self.alerts);
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// The metrics handles of one worker, with which the worker counts its requests and attempts.
#[derive(Debug)]
pub struct WorkerMetrics {
    in_flight: Gauge,
    problems: Family<ProblemLabels, Counter>,
    limited: Family<LimitLabels, Counter>,
    /// Answers with a reported part that has no price.
    pub unpriced: Unpriced,
    placements: [(PlacementResult, Counter); PlacementResult::ALL.len()],
    upstreams: Vec<UpstreamMetrics>,
    /// Counters of requests without an attempt.
    no_upstream: UpstreamMetrics,
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

/// Why a request gets a further attempt: a retry at the same upstream, or a failover to another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReattemptReason {
    /// A retry at the same upstream.
    Retry,
    /// A failover: another upstream failed.
    Failover,
}

impl WorkerMetrics {
    /// Counts an attempt at the upstream with this index, by its result, in the metrics.
    pub fn attempted(&self, upstream: usize, result: AttemptResult) {
        let name = result_name(result);
        let attempts = self.upstreams.get(upstream).map(|upstream| &upstream.attempts);
        if let Some((_, count)) = attempts.and_then(|all| all.iter().find(|(result, _)| *result == name)) {
            count.inc();
        }
    }

    /// Counts, in the metrics, a request that a limit refused. `limit` names the limit, `of` whether a key or a group has it.
    pub fn limited(&self, limit: &'static str, of: &'static str) {
        self.limited.get_or_create(&LimitLabels { limit, of }).inc();
    }

    /// Counts, in the metrics, a request that refers to stored state, by how affinity chose the account.
    pub fn placed(&self, placed: PlacementResult) {
        if let Some((_, count)) = self.placements.iter().find(|(known, _)| *known == placed) {
            count.inc();
        }
    }

    /// Counts a further attempt of a request at the upstream with this index, in the metrics: a retry or a failover.
    pub fn reattempted(&self, upstream: usize, reason: ReattemptReason) {
        let Some(upstream) = self.upstreams.get(upstream) else { return };
        match reason {
            ReattemptReason::Retry => upstream.retries.inc(),
            ReattemptReason::Failover => upstream.failovers.inc(),
        };
    }

    /// Counts, in the metrics, a retry that was not made, because there were too many recent retries at the upstream.
    pub fn retry_denied(&self, upstream: usize) {
        if let Some(upstream) = self.upstreams.get(upstream) {
            upstream.retries_denied.inc();
        }
    }

    /// Adds a request to the number of requests in progress, in the metrics.
    pub fn began(&self) {
        self.in_flight.inc();
    }

    /// Counts a finished request in the metrics: its end, its tokens and its times. `upstream` is the index of the upstream of the last
    /// attempt.
    pub fn settled(&self, upstream: Option<usize>, outcome: &Outcome) {
        self.in_flight.dec();
        let upstream = upstream.and_then(|index| self.upstreams.get(index)).unwrap_or(&self.no_upstream);
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

/// The content type of the metrics text that Prometheus reads ([`Metrics::text`]).
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
