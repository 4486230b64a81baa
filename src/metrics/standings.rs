//! How upstreams and their credentials stand, and how often they were passed by.

use std::sync::Arc;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::labels::UpstreamLabels;
use crate::domain::standing::EjectionCause;

/// `upstream`, `credential` ("" = the upstream as a whole).
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CredentialLabels {
    upstream: Arc<str>,
    credential: Arc<str>,
}

/// `upstream`, `credential` ("" = the upstream as a whole), `cause`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EjectionLabels {
    upstream: Arc<str>,
    credential: Arc<str>,
    cause: &'static str,
}

/// What shows how they stand: brought up to date when the metrics are read.
#[derive(Clone, Debug, Default)]
pub struct HealthMetrics {
    /// How often an upstream or a credential was passed by from then on.
    ejections: Family<EjectionLabels, Counter>,
    /// 1 = in service, 0 = passed by.
    in_service: Family<CredentialLabels, Gauge>,
    /// Requests under way at an upstream, or with a credential.
    in_flight: Family<CredentialLabels, Gauge>,
    /// Requests that wait for room at an upstream.
    queued: Family<UpstreamLabels, Gauge>,
    /// Answers in which an upstream repeated the credential that it was asked with.
    echoed: Family<UpstreamLabels, Counter>,
}

impl HealthMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let standings = Self::default();
        registry.register(
            "ejections",
            "How often an upstream or a credential was passed by",
            standings.ejections.clone(),
        );
        registry.register("in_service", "1 = in service, 0 = passed by", standings.in_service.clone());
        registry.register(
            "upstream_requests_in_flight",
            "Requests under way at an upstream, or with a credential",
            standings.in_flight.clone(),
        );
        registry.register(
            "upstream_requests_queued",
            "Requests that wait for room at an upstream",
            standings.queued.clone(),
        );
        registry.register(
            "upstream_echoed_credential",
            "Answers in which an upstream repeated the credential that it was asked with; it was masked",
            standings.echoed.clone(),
        );
        standings
    }

    /// The counters of the health of one upstream.
    pub fn upstream(&self, name: &str) -> UpstreamHealth {
        let labels = UpstreamLabels { upstream: name.into() };
        let echoed = self.echoed.get_or_create(&labels).clone();
        UpstreamHealth { name: labels.upstream, ejections: self.ejections.clone(), echoed }
    }

    /// Shows how an upstream (without `credential`) or one of its credentials stands.
    pub fn show(&self, upstream: &str, credential: Option<&str>, in_service: bool, in_flight: usize) {
        let labels = CredentialLabels { upstream: upstream.into(), credential: credential.unwrap_or_default().into() };
        self.in_service.get_or_create(&labels).set(i64::from(in_service));
        self.in_flight.get_or_create(&labels).set(i64::try_from(in_flight).unwrap_or(i64::MAX));
    }

    /// Shows how many wait for room at an upstream.
    pub fn show_queued(&self, upstream: &str, queued: usize) {
        let labels = UpstreamLabels { upstream: upstream.into() };
        self.queued.get_or_create(&labels).set(i64::try_from(queued).unwrap_or(i64::MAX));
    }

    /// Forgets how upstreams stand: those that are gone would show their last state for ever.
    pub fn clear(&self) {
        self.in_service.clear();
        self.in_flight.clear();
        self.queued.clear();
    }
}

/// What counts the ejections of one upstream and its credentials. Rare: it may take the lock.
#[derive(Clone, Debug)]
pub struct UpstreamHealth {
    name: Arc<str>,
    ejections: Family<EjectionLabels, Counter>,
    echoed: Counter,
}

impl UpstreamHealth {
    /// Counts an answer that repeated the credential.
    pub fn echoed(&self) {
        self.echoed.inc();
    }

    /// Makes the series of these begin at zero: of one that begins at one, nobody sees an increase.
    pub fn begin<'a>(&self, credentials: impl Iterator<Item = Option<&'a str>>) {
        // A first refusal is not counted: nothing is certain yet.
        let counted = || EjectionCause::ALL.into_iter().filter(|cause| *cause != EjectionCause::RefusedOnce);
        let each = credentials.flat_map(|name| counted().map(move |cause| (name.unwrap_or_default(), cause)));
        // An upstream as a whole is never refused or limited.
        for (credential, cause) in each.chain([("", EjectionCause::Faults)]) {
            let (upstream, credential) = (Arc::clone(&self.name), credential.into());
            drop(self.ejections.get_or_create(&EjectionLabels { upstream, credential, cause: cause.name() }));
        }
    }

    /// Counts an ejection: of a credential, or of the upstream as a whole.
    pub fn ejected(&self, credential: Option<&str>, cause: EjectionCause) {
        let (upstream, credential) = (Arc::clone(&self.name), credential.unwrap_or_default().into());
        self.ejections.get_or_create(&EjectionLabels { upstream, credential, cause: cause.name() }).inc();
    }
}
