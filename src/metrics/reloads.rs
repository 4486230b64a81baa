//! Metrics of reloads.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// `result`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    result: &'static str,
}

/// The metrics of reloads of the configuration: their results, and whether the last one succeeded.
#[derive(Debug)]
pub struct Reloads {
    /// Reloads by result.
    all: Family<Labels, Counter>,
    /// 1 = the configuration that was read last is active, 0 = it was refused.
    last_successful: Gauge,
}

/// The result of a reload of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// The new configuration is active.
    Ok,
    /// The configuration is the same as before.
    Unchanged,
    /// The configuration cannot be used.
    Refused,
}

impl Reload {
    const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unchanged => "unchanged",
            Self::Refused => "refused",
        }
    }
}

impl Reloads {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let all = Family::<Labels, Counter>::default();
        for reload in [Reload::Ok, Reload::Unchanged, Reload::Refused] {
            drop(all.get_or_create(&Labels { result: reload.name() }));
        }
        let last_successful = Gauge::default();
        // The configuration of the start is active.
        last_successful.set(1);
        registry.register("config_reloads", "Reloads of the configuration, by result", all.clone());
        registry.register(
            "config_last_reload_successful",
            "1 = the configuration that was read last is active",
            last_successful.clone(),
        );
        Self { all, last_successful }
    }

    /// Counts a reload of the configuration by its result.
    pub fn count(&self, reload: Reload) {
        self.all.get_or_create(&Labels { result: reload.name() }).inc();
        self.last_successful.set((reload != Reload::Refused).into());
    }
}
