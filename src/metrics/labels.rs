//! The labels of metrics that several of them have.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;

/// `upstream`, `end`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct EndLabels {
    pub(super) upstream: Arc<str>,
    pub(super) end: &'static str,
}

/// `code`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ProblemLabels {
    pub(super) code: &'static str,
}

/// `upstream`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct UpstreamLabels {
    pub(super) upstream: Arc<str>,
}

/// `upstream`, `kind` (`input`, `cached`, `output`, `reasoning`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct TokenLabels {
    pub(super) upstream: Arc<str>,
    pub(super) kind: &'static str,
}

/// `limit` (`rpm`, `tpm`, `max_in_flight`), `of` (`key`, `group`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct LimitLabels {
    pub(super) limit: &'static str,
    pub(super) of: &'static str,
}

/// `result`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct PlacementLabels {
    pub(super) result: &'static str,
}

/// `upstream`, `result`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct AttemptLabels {
    pub(super) upstream: Arc<str>,
    pub(super) result: &'static str,
}
