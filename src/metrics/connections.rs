//! Metrics of client connections.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// The metrics of client connections: how many are open, and why connections ended abnormally.
#[derive(Debug)]
pub struct Connections {
    /// Open connections.
    pub open: Gauge,
    /// Connections that the server closed because a deadline expired.
    pub cut: Family<CutLabels, Counter>,
    /// Connections that the server closed because of a malformed HTTP request.
    pub malformed: Family<MalformedLabels, Counter>,
    /// TLS handshakes that failed.
    pub tls_failed: Counter,
    /// HTTP/2 requests refused because connections and HTTP/2 requests together reached `max_connections`.
    pub streams_refused: Counter,
    /// Panics. Each panic ended one connection or one HTTP/2 request.
    pub panics: Counter,
}

/// The label `deadline` of the metric of connections that were closed because a deadline expired.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CutLabels {
    /// The deadline that expired.
    pub deadline: &'static str,
}

/// The label `reason` of the metric of connections that were closed because of a malformed request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct MalformedLabels {
    /// What is wrong with the request.
    pub reason: &'static str,
}

impl Connections {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let open = Gauge::default();
        let cut = Family::<CutLabels, Counter>::default();
        let malformed = Family::<MalformedLabels, Counter>::default();
        let tls_failed = Counter::default();
        let streams_refused = Counter::default();
        let panics = Counter::default();
        registry.register("connections", "Open client connections", open.clone());
        registry.register("connections_cut", "Connections closed because a deadline expired", cut.clone());
        registry.register("requests_malformed", "Connections closed because of a malformed request", malformed.clone());
        registry.register("tls_handshakes_failed", "Failed TLS handshakes of clients", tls_failed.clone());
        registry.register(
            "streams_refused",
            "HTTP/2 requests refused because max_connections was reached",
            streams_refused.clone(),
        );
        registry.register("panics", "Panics; each panic ended one connection or request", panics.clone());
        Self { open, cut, malformed, tls_failed, streams_refused, panics }
    }
}
