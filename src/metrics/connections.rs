//! The connections of clients.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// How many there are, and what ended those that did not end well.
#[derive(Debug)]
pub struct Connections {
    /// Those that are open.
    pub open: Gauge,
    /// Cut by a deadline of the server.
    pub cut: Family<CutLabels, Counter>,
    /// Ended because what came on them is not HTTP as it should be.
    pub malformed: Family<MalformedLabels, Counter>,
    /// TLS handshakes that failed.
    pub tls_failed: Counter,
    /// Requests of HTTP/2 refused because there were as many connections and requests as there may be.
    pub streams_refused: Counter,
    /// Panics, each of which ended one of them, or one request of HTTP/2.
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

impl Connections {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let open = Gauge::default();
        let cut = Family::<CutLabels, Counter>::default();
        let malformed = Family::<MalformedLabels, Counter>::default();
        let tls_failed = Counter::default();
        let streams_refused = Counter::default();
        let panics = Counter::default();
        registry.register("connections", "Connections of clients", open.clone());
        registry.register("connections_cut", "Connections cut because a deadline of the server ran out", cut.clone());
        registry.register(
            "requests_malformed",
            "Connections ended because of a request that is not framed as it should be",
            malformed.clone(),
        );
        registry.register("tls_handshakes_failed", "TLS handshakes of clients that failed", tls_failed.clone());
        registry.register(
            "streams_refused",
            "Requests of HTTP/2 refused for want of a slot of max_connections",
            streams_refused.clone(),
        );
        registry.register("panics", "Panics, each of which ended one connection or request", panics.clone());
        Self { open, cut, malformed, tls_failed, streams_refused, panics }
    }
}
