//! Every address that is listened on.

use std::net::SocketAddr;

use tokio::runtime::Runtime;

use super::StartError;
use crate::{config, server};

/// Every listener, before anything runs.
pub(super) struct BoundListeners {
    pub(super) data: Vec<std::net::TcpListener>,
    pub(super) listen: SocketAddr,
    pub(super) admin: std::net::TcpListener,
    pub(super) admin_listen: SocketAddr,
    pub(super) metrics: Option<std::net::TcpListener>,
    pub(super) metrics_listen: Option<SocketAddr>,
}

impl BoundListeners {
    /// Makes them inside of this runtime, which tokio asks for.
    pub(super) fn new(runtime: &Runtime, settings: &config::Server) -> Result<Self, StartError> {
        let _inside = runtime.enter();
        let refused = |address, setting| move |source| StartError::Listen { address, setting, source };
        let data =
            server::listen_shared(settings.listen, settings.workers).map_err(refused(settings.listen, "listen"))?;
        let listen = data.first().map_or(Ok(settings.listen), std::net::TcpListener::local_addr);
        let listen = listen.map_err(refused(settings.listen, "listen"))?;
        let one = |address, setting| {
            let listener = server::listen(address).map_err(refused(address, setting))?;
            let address = listener.local_addr().map_err(refused(address, setting))?;
            Ok::<_, StartError>((listener, address))
        };
        let (admin, admin_listen) = one(settings.admin_listen, "admin_listen")?;
        let metrics = settings.metrics_listen.map(|address| one(address, "metrics_listen")).transpose()?;
        let (metrics, metrics_listen) = metrics.unzip();
        Ok(Self { data, listen, admin, admin_listen, metrics, metrics_listen })
    }
}
