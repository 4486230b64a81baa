//! Binds all listeners of the gateway.

use std::io;

use tokio::runtime::Runtime;

use super::StartError;
use crate::{
    config::{self, Listen},
    server::{self, Listener},
};

/// All bound listeners of the gateway: data plane, admin plane, metrics. All are bound before any thread starts, so that a failed
/// bind starts nothing.
pub(super) struct BoundListeners {
    pub(super) data: Vec<Listener>,
    pub(super) listen: Listen,
    pub(super) admin: Listener,
    pub(super) admin_listen: Listen,
    pub(super) metrics: Option<Listener>,
    pub(super) metrics_listen: Option<Listen>,
}

impl BoundListeners {
    /// Binds all listeners of the gateway inside this runtime: tokio requires one.
    pub(super) fn new(runtime: &Runtime, settings: &config::Server) -> Result<Self, StartError> {
        let _inside = runtime.enter();
        let (data, listen) = listeners(&settings.listen, settings.workers, "listen")?;
        let one = |listen: &Listen, setting| {
            let (mut listeners, listen) = listeners(listen, 1, setting)?;
            let failed = |source| StartError::Listen { listen: listen.clone(), setting, source };
            let listener = listeners.pop().ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
            Ok::<_, StartError>((listener, listen))
        };
        let (admin, admin_listen) = one(&settings.admin_listen, "admin_listen")?;
        let metrics = settings.metrics_listen.as_ref().map(|listen| one(listen, "metrics_listen")).transpose()?;
        let (metrics, metrics_listen) = metrics.unzip();
        Ok(Self { data, listen, admin, admin_listen, metrics, metrics_listen })
    }
}

/// Binds one to `count` listeners. Also returns the address that was really bound: for port 0 the system chooses a free
/// port.
fn listeners(listen: &Listen, count: usize, setting: &'static str) -> Result<(Vec<Listener>, Listen), StartError> {
    let bound = match listen {
        Listen::Address(address) => server::listen_shared(*address, count).and_then(|bound| {
            let address = bound.first().map_or(Ok(*address), std::net::TcpListener::local_addr)?;
            Ok((bound.into_iter().map(Listener::from).collect(), address.into()))
        }),
        #[cfg(unix)]
        Listen::Socket(path) => server::listen_on_socket(path, count.max(1)).map(|bound| (bound, listen.clone())),
        #[cfg(not(unix))]
        Listen::Socket(_) => Err(io::ErrorKind::Unsupported.into()),
    };
    bound.map_err(|source| StartError::Listen { listen: listen.clone(), setting, source })
}
