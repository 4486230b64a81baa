//! Health of upstreams and their credentials: state, load and ejections.

use std::sync::Arc;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::labels::UpstreamLabels;
use crate::domain::health_state::EjectionCause;

/// `upstream`, `credential` ("" = the whole upstream).
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CredentialLabels {
    upstream: Arc<str>,
    credential: Arc<str>,
}

/// `upstream`, `credential` ("" = the whole upstream), `cause`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EjectionLabels {
    upstream: Arc<str>,
    credential: Arc<str>,
    cause: &'static str,
}

/// The metrics of the health of all upstreams and credentials. The gauges are updated when Prometheus reads the metrics.
#[derive(Clone, Debug, Default)]
pub struct HealthMetrics {
    /// Ejections of upstreams and credentials, by cause.
    ejections: Family<EjectionLabels, Counter>,
    /// 1 = in service or half-open, 0 = ejected.
    in_service: Family<CredentialLabels, Gauge>,
    /// Requests in progress at an upstream, or with a credential.
    in_flight: Family<CredentialLabels, Gauge>,
    /// Requests that wait for a slot at an upstream.
    queued: Family<UpstreamLabels, Gauge>,
    /// Answers in which an upstream repeated the credential of the request.
    echoed: Family<UpstreamLabels, Counter>,
}

impl HealthMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("ejections", "How often an upstream or a credential was ejected", metrics.ejections.clone());
        registry.register("in_service", "1 = in service or half-open, 0 = ejected", metrics.in_service.clone());
        registry.register(
            "upstream_requests_in_flight",
            "Requests in progress at an upstream, or with a credential",
            metrics.in_flight.clone(),
        );
        registry.register(
            "upstream_requests_queued",
            "Requests that wait for a slot at an upstream",
            metrics.queued.clone(),
        );
        registry.register(
            "upstream_echoed_credential",
            "Answers in which an upstream repeated the credential of the request; Tidegate masked it",
            metrics.echoed.clone(),
        );
        metrics
    }

    /// Makes the counters of health events for one upstream.
    pub fn upstream(&self, name: &str) -> UpstreamHealth {
        let labels = UpstreamLabels { upstream: name.into() };
        let echoed = self.echoed.get_or_create(&labels).clone();
        UpstreamHealth { name: labels.upstream, ejections: self.ejections.clone(), echoed }
    }

    /// Sets the gauges of health and load for an upstream (`credential` is none) or for one of its credentials.
    pub fn set_gauges(&self, upstream: &str, credential: Option<&str>, in_service: bool, in_flight: usize) {
        let labels = CredentialLabels { upstream: upstream.into(), credential: credential.unwrap_or_default().into() };
        self.in_service.get_or_create(&labels).set(i64::from(in_service));
        self.in_flight.get_or_create(&labels).set(i64::try_from(in_flight).unwrap_or(i64::MAX));
    }

    /// Sets the gauge of requests that wait for a slot at an upstream.
    pub fn set_queued(&self, upstream: &str, queued: usize) {
        let labels = UpstreamLabels { upstream: upstream.into() };
        self.queued.get_or_create(&labels).set(i64::try_from(queued).unwrap_or(i64::MAX));
    }

    /// Removes all gauges of health and load. Otherwise an upstream that a reload removed would show its last state for ever.
    pub fn clear(&self) {
        self.in_service.clear();
        self.in_flight.clear();
        self.queued.clear();
    }
}

/// The counters of health events of one upstream and its credentials. Each count takes a lock, which is acceptable for rare events.
#[derive(Clone, Debug)]
pub struct UpstreamHealth {
    name: Arc<str>,
    ejections: Family<EjectionLabels, Counter>,
    echoed: Counter,
}

impl UpstreamHealth {
    /// Counts an answer in which the upstream repeated the credential of the request.
    pub fn echoed(&self) {
        self.echoed.inc();
    }

    /// Starts the ejection counters of these credentials at zero. Prometheus cannot see an increase in a series that starts at one.
    pub fn begin<'a>(&self, credentials: impl Iterator<Item = Option<&'a str>>) {
        // A first refusal is not counted, because it is not confirmed yet.
        let counted_causes = || EjectionCause::ALL.into_iter().filter(|cause| *cause != EjectionCause::RefusedOnce);
        let each = credentials.flat_map(|name| counted_causes().map(move |cause| (name.unwrap_or_default(), cause)));
        // A whole upstream is ejected for faults only. Refusals and rate limits concern credentials.
        for (credential, cause) in each.chain([("", EjectionCause::Faults)]) {
            let (upstream, credential) = (Arc::clone(&self.name), credential.into());
            drop(self.ejections.get_or_create(&EjectionLabels { upstream, credential, cause: cause.name() }));
        }
    }

    /// Counts an ejection of a credential, or of the whole upstream (`credential` is none), by its cause.
    pub fn ejected(&self, credential: Option<&str>, cause: EjectionCause) {
        let (upstream, credential) = (Arc::clone(&self.name), credential.unwrap_or_default().into());
        self.ejections.get_or_create(&EjectionLabels { upstream, credential, cause: cause.name() }).inc();
    }
}
