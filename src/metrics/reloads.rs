//! What is counted of reloads.

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

/// Reloads of the configuration.
#[derive(Debug)]
pub struct Reloads {
    /// By what came of them.
    all: Family<Labels, Counter>,
    /// Whether the configuration that was read last is in force: 1 or 0.
    last_successful: Gauge,
}

/// What came of a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// Another configuration is in force.
    Ok,
    /// The same one.
    Unchanged,
    /// It cannot be used.
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
        // What a start read is in force.
        last_successful.set(1);
        registry.register("config_reloads", "Reloads of the configuration, by what came of them", all.clone());
        registry.register(
            "config_last_reload_successful",
            "Whether the configuration that was read last is in force",
            last_successful.clone(),
        );
        Self { all, last_successful }
    }

    /// Counts one.
    pub fn count(&self, reload: Reload) {
        self.all.get_or_create(&Labels { result: reload.name() }).inc();
        self.last_successful.set((reload != Reload::Refused).into());
    }
}
