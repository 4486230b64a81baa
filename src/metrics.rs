//! Every metric: one field, one line of what it is, its labels. Labels come from the configuration and from fixed
//! names, so their number is bounded.

use std::sync::Arc;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::domain::outcome::{End, Outcome};

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
    /// Seconds from the request's head to the first byte of the answer's body.
    first_byte: Family<UpstreamLabels, Histogram>,
    /// Requests under way.
    in_flight: Gauge,
    /// Connections of clients.
    pub connections: Gauge,
    /// Connections cut by a deadline of the server.
    pub connections_cut: Family<CutLabels, Counter>,
    /// Connections ended because what came on them is not HTTP as it should be.
    pub requests_malformed: Family<MalformedLabels, Counter>,
    /// Panics, each of which ended one connection.
    pub panics: Counter,
}

/// `deadline`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CutLabels {
    /// Which one ran out.
    pub deadline: &'static str,
}

/// `reason`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct MalformedLabels {
    /// What is wrong with the request.
    pub reason: &'static str,
}

/// Seconds; a first byte comes after milliseconds in a simulator and after many minutes of reasoning.
const FIRST_BYTE_BUCKETS: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1800.0];

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("tidegate");
        let requests = Family::<EndLabels, Counter>::default();
        let problems = Family::<ProblemLabels, Counter>::default();
        let streams_incomplete = Family::<UpstreamLabels, Counter>::default();
        let tokens = Family::<TokenLabels, Counter>::default();
        let first_byte =
            Family::<UpstreamLabels, Histogram>::new_with_constructor(|| Histogram::new(FIRST_BYTE_BUCKETS));
        let in_flight = Gauge::default();
        let connections = Gauge::default();
        let connections_cut = Family::<CutLabels, Counter>::default();
        let requests_malformed = Family::<MalformedLabels, Counter>::default();
        let panics = Counter::default();
        registry.register("requests", "Requests that are over, by upstream and end", requests.clone());
        registry.register("problems", "Errors that Tidegate itself answered", problems.clone());
        registry.register(
            "streams_incomplete",
            "Streams that ended cleanly without a terminal event",
            streams_incomplete.clone(),
        );
        registry.register("tokens", "Tokens as reported by the providers", tokens.clone());
        registry.register(
            "first_byte_seconds",
            "From the request's head to the first byte of the answer's body",
            first_byte.clone(),
        );
        registry.register("requests_in_flight", "Requests under way", in_flight.clone());
        registry.register("connections", "Connections of clients", connections.clone());
        registry.register(
            "connections_cut",
            "Connections cut because a deadline of the server ran out",
            connections_cut.clone(),
        );
        registry.register(
            "requests_malformed",
            "Connections ended because of a request that is not framed as it should be",
            requests_malformed.clone(),
        );
        registry.register("panics", "Panics, each of which ended one connection", panics.clone());
        Self {
            registry,
            requests,
            problems,
            streams_incomplete,
            tokens,
            first_byte,
            in_flight,
            connections,
            connections_cut,
            requests_malformed,
            panics,
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
            upstreams: upstreams.map(|upstream| self.upstream(upstream)).collect(),
            none: self.upstream(""),
        }
    }

    fn upstream(&self, name: &str) -> UpstreamMetrics {
        let upstream: Arc<str> = name.into();
        let labels = UpstreamLabels { upstream: Arc::clone(&upstream) };
        let tokens = |kind| self.tokens.get_or_create(&TokenLabels { upstream: Arc::clone(&upstream), kind }).clone();
        let requests = |end: End| {
            let labels = EndLabels { upstream: Arc::clone(&upstream), end: end.name() };
            (end, self.requests.get_or_create(&labels).clone())
        };
        UpstreamMetrics {
            requests: End::ALL.map(requests),
            incomplete: self.streams_incomplete.get_or_create(&labels).clone(),
            input: tokens("input"),
            cached: tokens("cached"),
            output: tokens("output"),
            reasoning: tokens("reasoning"),
            first_byte: self.first_byte.get_or_create(&labels).clone(),
        }
    }

    /// The text that Prometheus reads.
    ///
    /// # Errors
    /// When it cannot be written down, which would be a fault of a label.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
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
    upstreams: Vec<UpstreamMetrics>,
    /// Of requests for which none was tried.
    none: UpstreamMetrics,
}

#[derive(Debug)]
struct UpstreamMetrics {
    requests: [(End, Counter); End::ALL.len()],
    incomplete: Counter,
    input: Counter,
    cached: Counter,
    output: Counter,
    reasoning: Counter,
    first_byte: Histogram,
}

impl WorkerMetrics {
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
        if outcome.end == End::Incomplete {
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
