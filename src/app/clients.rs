//! Connects the server's observer to the metrics and to the record of why a client disconnected.

use std::{net::IpAddr, sync::Arc};

use http::Extensions;

use super::rejections;
use crate::{
    config::{Config, Timeouts},
    metering::DisconnectRecord,
    metrics::{CutLabels, MalformedLabels, Metrics},
    server::{Certificates, Client, Deadlines, FramingError, Observer, Rejection},
};

/// Converts the `[timeouts]` of a configuration to the deadlines of client connections.
pub(super) fn deadlines(timeouts: &Timeouts) -> Deadlines {
    Deadlines {
        first_byte: timeouts.first_byte,
        head: timeouts.head,
        idle: timeouts.keep_alive_idle,
        write_stall: timeouts.write_stall,
    }
}

/// The certificate of a configuration for TLS handshakes with clients. `None` if the data plane uses plain HTTP.
pub(super) fn certificates(config: &Config) -> Option<Arc<Certificates>> {
    let identity = config.server.tls.as_ref()?;
    Some(Arc::new(Certificates::new(Arc::clone(&identity.certified))))
}

/// The observer of the HTTP server: counts client connections in the metrics, and records for each one why its client disconnected.
#[derive(Debug, Default)]
pub(super) struct ClientConnections(pub(super) Arc<Metrics>);

impl Observer for ClientConnections {
    fn opened(&self, peer: IpAddr) -> Arc<dyn Client> {
        self.0.connections.open.inc();
        Arc::new(DisconnectRecord::of(peer))
    }

    fn closed(&self, panicked: bool) {
        self.0.connections.open.dec();
        if panicked {
            self.0.connections.panics.inc();
        }
    }

    fn deadline_passed(&self, deadline: &'static str) {
        self.0.connections.cut.get_or_create(&CutLabels { deadline }).inc();
    }

    fn malformed(&self, fault: FramingError) {
        self.0.connections.malformed.get_or_create(&MalformedLabels { reason: fault.name() }).inc();
    }

    fn tls_failed(&self) {
        self.0.connections.tls_failed.inc();
    }

    fn stream_refused(&self) {
        self.0.connections.streams_refused.inc();
    }

    fn stream_panicked(&self) {
        self.0.connections.panics.inc();
    }

    fn rejection(&self, rejection: Rejection) -> String {
        rejections::answer_to(rejection)
    }
}

impl Client for DisconnectRecord {
    fn add_extensions(&self, extensions: &mut Extensions) {
        extensions.insert(self.clone());
    }

    fn stalled(&self) {
        DisconnectRecord::stalled(self);
    }

    fn stopped(&self) {
        self.gateway_stop();
    }

    fn for_stream(&self) -> Arc<dyn Client> {
        Arc::new(self.for_request())
    }
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, time::Duration};

    use axum::{Router, routing::get};
    use rustls::sign::CertifiedKey;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
        sync::{Semaphore, watch},
    };

    use super::*;
    use crate::server::{ServerContext, Shutdown, TlsContext, acceptor, listen, run};

    async fn ask(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(format!("GET {path} HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let mut answer = Vec::new();
        // A connection reset also ends the read.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    async fn panics() -> &'static str {
        panic!("on purpose")
    }

    fn shared(tls: Option<TlsContext>) -> (ServerContext<Router>, Arc<Metrics>) {
        let metrics = Arc::<Metrics>::default();
        let second = Duration::from_secs(1);
        let shared = ServerContext {
            service: Router::new().route("/panics", get(panics)).route("/works", get(async || "works")),
            deadlines: Deadlines { first_byte: second, head: second, idle: second, write_stall: second },
            shutdown: Shutdown::default(),
            observer: Arc::new(ClientConnections(Arc::clone(&metrics))),
            tls,
            heartbeat: Arc::default(),
        };
        (shared, metrics)
    }

    #[tokio::test]
    async fn a_panic_over_http_2_ends_only_its_own_request() {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = rustls_pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()).into();
        let certified = CertifiedKey::from_der(vec![made.cert.der().clone()], key, &provider).unwrap();
        let acceptor = acceptor(Arc::new(Certificates::new(Arc::new(certified)))).unwrap();
        let slots = Arc::new(Semaphore::new(2));
        let (shared, metrics) = shared(Some(TlsContext { acceptor, slots: Arc::clone(&slots) }));
        let shutdown = shared.shutdown.clone();
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let limits = watch::channel(shared.deadlines).1;
        let serving = tokio::spawn(run(listener, shared, limits, Arc::clone(&slots)));

        let mut roots = rustls::RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let mut config = config.unwrap().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let stream = TcpStream::connect(address).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
        let (requests, connection) = h2::client::handshake(stream).await.unwrap();
        let connection = tokio::spawn(connection);
        let ask = async |path: &str| {
            let request = http::Request::get(format!("https://localhost{path}")).body(()).unwrap();
            requests.clone().ready().await.unwrap().send_request(request, true).unwrap().0.await
        };
        for _ in 0..3 {
            assert!(ask("/panics").await.unwrap_err().is_reset());
            assert_eq!(ask("/works").await.unwrap().status(), 200);
        }
        assert_eq!((metrics.connections.panics.get(), metrics.connections.open.get()), (3, 1));
        shutdown.drain();
        serving.await.unwrap().unwrap();
        connection.await.unwrap().unwrap();
        assert_eq!((metrics.connections.open.get(), slots.available_permits()), (0, 2));
    }

    #[tokio::test]
    async fn a_panic_over_http_1_ends_only_its_own_connection() {
        let (shared, metrics) = shared(None);
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = shared.shutdown.clone();
        let slots = Arc::new(Semaphore::new(1));
        let limits = watch::channel(shared.deadlines).1;
        let serving = tokio::spawn(run(listener, shared, limits, Arc::clone(&slots)));
        for _ in 0..3 {
            assert_eq!(ask(address, "/panics").await, "");
            assert!(ask(address, "/works").await.ends_with("works"));
        }
        shutdown.drain();
        serving.await.unwrap().unwrap();
        assert_eq!((metrics.connections.open.get(), slots.available_permits()), (0, 1));
        // Three of six connections.
        assert_eq!(metrics.connections.panics.get(), 3);
        assert!(metrics.text().unwrap().contains("\ntidegate_panics_total 3\n"));
    }
}
