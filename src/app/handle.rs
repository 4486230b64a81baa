//! What a gateway that runs is told from elsewhere.

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
    server::{Certificates, Limits, Shutdown},
};

/// Changes or ends a gateway from another thread.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(super) data: Shutdown,
    pub(super) admin: Shutdown,
    pub(super) health: Arc<Health>,
    pub(super) limits: watch::Sender<Limits>,
    /// None where the data plane speaks plain http.
    pub(super) certificates: Option<Arc<Certificates>>,
    pub(super) reloader: mpsc::Sender<Command>,
    pub(super) grace: SharedGrace,
    pub(super) bodies: ByteBudget,
    pub(super) origins: Arc<AffinityMemory>,
    /// For those who look at all of it.
    pub(super) config: watch::Sender<Arc<Config>>,
}

/// What a handle reaches that is made elsewhere.
pub(super) struct HandleParts {
    pub(super) health: Arc<Health>,
    /// None where the data plane speaks plain http.
    pub(super) certificates: Option<Arc<Certificates>>,
    pub(super) reloader: mpsc::Sender<Command>,
    pub(super) bodies: ByteBudget,
    pub(super) origins: Arc<AffinityMemory>,
}

impl Handle {
    /// The handle of a gateway with this configuration, and the other ends of what it passes on.
    pub(super) fn new(
        configuration: &Config,
        parts: HandleParts,
    ) -> (Self, watch::Receiver<Limits>, watch::Receiver<Arc<Config>>) {
        let HandleParts { health, certificates, reloader, bodies, origins } = parts;
        let (limits, latest_limits) = watch::channel(clients::limits(&configuration.timeouts));
        let (config, latest) = watch::channel(Arc::new(configuration.clone()));
        let (data, admin, grace) = (Shutdown::default(), Shutdown::default(), SharedGrace::default());
        let handle = Self { data, admin, health, limits, certificates, reloader, grace, bodies, origins, config };
        handle.configure(configuration);
        (handle, latest_limits, latest)
    }

    /// Takes over the settings that hold for the gateway as a whole and may change while it runs.
    pub(super) fn configure(&self, config: &Config) {
        self.health.configure(config);
        self.limits.send_replace(clients::limits(&config.timeouts));
        if let (Some(certificates), Some(identity)) = (&self.certificates, &config.server.tls) {
            certificates.set(Arc::clone(&identity.certified));
        }
        self.grace.set(Grace { delay: config.timeouts.drain_delay, limit: config.timeouts.drain });
        self.bodies.set_limit(config.server.max_body_memory);
        self.origins.configure(&config.affinity);
        self.config.send_replace(Arc::new(config.clone()));
    }

    /// Asks for the configuration to be read again. What comes of it is logged and counted.
    pub fn reload(&self) {
        if self.reloader.send(Command::Reload).is_err() {
            tracing::warn!("reload ignored: the gateway is shutting down");
        }
    }

    /// How long an end that begins now may take.
    pub fn grace(&self) -> Grace {
        self.grace.get()
    }

    /// Says that it will end: readiness fails, requests are served as before, no connection is kept after its answer.
    pub fn leave(&self) {
        self.health.drain();
        self.data.leave();
    }

    /// Takes no new connections; requests under way go on.
    pub fn drain(&self) {
        self.health.drain();
        self.data.drain();
        self.end_reloads();
    }

    /// Ends everything now.
    pub fn stop(&self) {
        self.health.drain();
        self.data.stop();
        self.admin.stop();
        self.end_reloads();
    }

    fn end_reloads(&self) {
        // Where nobody is told, it has ended already.
        let _ = self.reloader.send(Command::End);
    }

    /// What is known of where ids came from.
    pub fn origins(&self) -> &Arc<AffinityMemory> {
        &self.origins
    }

    /// Whether a request was under way when everything was ended.
    pub fn was_cut(&self) -> bool {
        self.data.was_cut()
    }
}
