//! Control of a running gateway from other threads.

use std::sync::{Arc, mpsc};

use tokio::sync::watch;

use super::{
    clients,
    command::Command,
    grace::{Grace, SharedGrace},
};
use crate::{
    affinity::AffinityMemory,
    api::Health,
    concurrent::byte_budget::ByteBudget,
    config::Config,
    server::{Certificates, Deadlines, Shutdown},
};

/// Control of a running gateway: reloads it or shuts it down, from any thread.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(super) data: Shutdown,
    pub(super) admin: Shutdown,
    pub(super) health: Arc<Health>,
    pub(super) deadlines: watch::Sender<Deadlines>,
    /// None where the data plane speaks plain http.
    pub(super) certificates: Option<Arc<Certificates>>,
    pub(super) reloader: mpsc::Sender<Command>,
    pub(super) grace: SharedGrace,
    pub(super) bodies: ByteBudget,
    pub(super) origins: Arc<AffinityMemory>,
    /// The current configuration, for readers that need all of it.
    pub(super) config: watch::Sender<Arc<Config>>,
}

/// The parts of a gateway's handle that are created elsewhere, such as its certificates and its reloader.
pub(super) struct HandleParts {
    pub(super) health: Arc<Health>,
    /// None where the data plane speaks plain http.
    pub(super) certificates: Option<Arc<Certificates>>,
    pub(super) reloader: mpsc::Sender<Command>,
    pub(super) bodies: ByteBudget,
    pub(super) origins: Arc<AffinityMemory>,
}

impl Handle {
    /// Creates the handle of a gateway with this configuration, and the receivers of the settings that the handle
    /// publishes.
    pub(super) fn new(
        configuration: &Config,
        parts: HandleParts,
    ) -> (Self, watch::Receiver<Deadlines>, watch::Receiver<Arc<Config>>) {
        let HandleParts { health, certificates, reloader, bodies, origins } = parts;
        let (deadlines, latest_deadlines) = watch::channel(clients::deadlines(&configuration.timeouts));
        let (config, latest) = watch::channel(Arc::new(configuration.clone()));
        let (data, admin, grace) = (Shutdown::default(), Shutdown::default(), SharedGrace::default());
        let handle = Self { data, admin, health, deadlines, certificates, reloader, grace, bodies, origins, config };
        handle.configure(configuration);
        (handle, latest_deadlines, latest)
    }

    /// Applies the settings of a configuration that belong to the whole gateway and may change while it runs, such as timeouts.
    pub(super) fn configure(&self, config: &Config) {
        self.health.configure(config);
        self.deadlines.send_replace(clients::deadlines(&config.timeouts));
        if let (Some(certificates), Some(identity)) = (&self.certificates, &config.server.tls) {
            certificates.set(Arc::clone(&identity.certified));
        }
        self.grace.set(Grace { delay: config.timeouts.drain_delay, limit: config.timeouts.drain });
        self.bodies.set_limit(config.server.max_body_memory);
        self.origins.configure(&config.affinity);
        self.config.send_replace(Arc::new(config.clone()));
    }

    /// Requests a reload of the configuration. The result is logged and counted.
    pub fn reload(&self) {
        if self.reloader.send(Command::Reload).is_err() {
            tracing::warn!(
                "the reload was ignored, because the gateway is shutting down: the next start reads the new \
                 configuration. Nothing needs to be done"
            );
        }
    }

    /// How long a graceful shutdown that begins now may take.
    pub fn grace(&self) -> Grace {
        self.grace.get()
    }

    /// First step of the shutdown: readiness fails, requests are still served, and no connection stays open after its answer.
    pub fn leave(&self) {
        self.health.drain();
        self.data.leave();
    }

    /// Second step of the shutdown: the gateway accepts no more connections. Requests in progress continue.
    pub fn drain(&self) {
        self.health.drain();
        self.data.drain();
        self.end_reloads();
    }

    /// Last step of the shutdown: the gateway ends all connections and requests now.
    pub fn stop(&self) {
        self.health.drain();
        self.data.stop();
        self.admin.stop();
        self.end_reloads();
    }

    fn end_reloads(&self) {
        // If the send fails, the reloader has ended already.
        let _ = self.reloader.send(Command::End);
    }

    /// The affinity memory of the gateway, which knows the account that created each id.
    pub fn origins(&self) -> &Arc<AffinityMemory> {
        &self.origins
    }

    /// Whether the shutdown cut a request that was still in progress.
    pub fn cut_requests(&self) -> bool {
        self.data.cut_requests()
    }
}
