//! Listeners and the accept loop.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::TcpSocket,
    sync::{Semaphore, watch},
    time::Instant,
};
use tokio_util::task::TaskTracker;

use super::{
    bind::Listener,
    connection::{self, Shared},
    progress::Deadlines,
};

/// Connections that wait to be accepted. The kernel caps it at `net.core.somaxconn`.
const BACKLOG: u32 = 4096;

/// When accepting fails for want of something (file descriptors above all), trying at once would only spin.
const BACK_OFF: Duration = Duration::from_millis(50);

/// Failures to accept come many times a second and are all alike: the log gets one line of them in this time.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Whether several sockets may listen on one address, with the kernel spreading connections over them.
const SHARES_PORTS: bool =
    cfg!(all(unix, not(any(target_os = "solaris", target_os = "illumos", target_os = "cygwin"))));

/// One listener on `address`.
pub(super) fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    bind(address, false)
}

/// `count` listeners on `address`, between which the kernel shares connections out.
pub(super) fn listen_shared(address: SocketAddr, count: usize) -> io::Result<Vec<std::net::TcpListener>> {
    if count <= 1 || !SHARES_PORTS {
        return Ok(vec![listen(address)?]);
    }
    // With SO_REUSEPORT a second process of ours would silently take half of the connections. Without it the kernel
    // tells that the address is taken.
    drop(listen(address)?);
    let first = bind(address, true)?;
    // Port 0 was any free one: the others share it.
    let address = first.local_addr()?;
    let mut listeners = vec![first];
    for _ in 1..count {
        listeners.push(bind(address, true)?);
    }
    Ok(listeners)
}

fn bind(address: SocketAddr, shared: bool) -> io::Result<std::net::TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restart must not wait for old connections to time out.
    socket.set_reuseaddr(true)?;
    if shared {
        share_port(&socket)?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}

#[cfg(all(unix, not(any(target_os = "solaris", target_os = "illumos", target_os = "cygwin"))))]
fn share_port(socket: &TcpSocket) -> io::Result<()> {
    socket.set_reuseport(true)
}

#[cfg(not(all(unix, not(any(target_os = "solaris", target_os = "illumos", target_os = "cygwin")))))]
fn share_port(_: &TcpSocket) -> io::Result<()> {
    Ok(())
}

/// Accepts until drained, then waits for the connections to end. `deadlines` tells those of a new connection; `slots`
/// bounds their number, over all listeners.
pub(super) async fn run(
    listener: impl Into<Listener>,
    mut shared: Shared,
    deadlines: watch::Receiver<Deadlines>,
    slots: Arc<Semaphore>,
) -> io::Result<()> {
    let listener = listener.into().accepting()?;
    let connections = TaskTracker::new();
    let heartbeat = Arc::clone(&shared.heartbeat);
    let beating = tokio::spawn(async move { heartbeat.beat().await });
    let mut failures = Failures::default();
    loop {
        let accepted = tokio::select! {
            biased;
            () = shared.shutdown.draining() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                // Taken after the connection: a listener that holds a slot while nobody comes would keep it from the
                // others. Without a free one this connection waits, and those after it in the backlog.
                let slot = tokio::select! {
                    biased;
                    () = shared.shutdown.draining() => break,
                    slot = Arc::clone(&slots).acquire_owned() => slot,
                };
                // Never closed.
                let Ok(slot) = slot else { break };
                shared.deadlines = *deadlines.borrow();
                let serving = connection::serve(stream, peer, shared.clone());
                connections.spawn(async move {
                    serving.await;
                    drop(slot);
                });
            }
            Err(error) => {
                if let Some(failed) = failures.count(Instant::now()) {
                    tracing::warn!(%error, failed, "connections could not be accepted: clients wait until the system allows more");
                }
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
    beating.abort();
    Ok(())
}

/// Failures of one listener to accept.
#[derive(Default)]
struct Failures {
    /// Those that the log does not tell of yet.
    untold: u64,
    told: Option<Instant>,
}

impl Failures {
    /// Counts one. Returned is how many to tell of, if it is time to.
    fn count(&mut self, now: Instant) -> Option<u64> {
        self.untold += 1;
        if self.told.is_some_and(|told| now < told + TELL_EVERY) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use axum::{Router, routing::get};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use rustls::sign::CertifiedKey;

    use super::*;
    use crate::{
        app::{connection::Secure, shutdown::Shutdown, tls},
        config::Identity,
        metrics::Metrics,
    };

    async fn ask(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(format!("GET {path} HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let mut answer = Vec::new();
        // A reset is an end as well.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    async fn panics() -> &'static str {
        panic!("on purpose")
    }

    fn shared(tls: Option<Secure>) -> Shared {
        let second = Duration::from_secs(1);
        Shared {
            router: Router::new().route("/panics", get(panics)).route("/works", get(async || "works")),
            deadlines: Deadlines { first_byte: second, head: second, idle: second, write_stall: second },
            shutdown: Shutdown::default(),
            metrics: Arc::default(),
            tls,
            heartbeat: Arc::default(),
        }
    }

    #[tokio::test]
    async fn a_panic_over_http_2_ends_its_request_and_nothing_else() {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = rustls_pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()).into();
        let certified = CertifiedKey::from_der(vec![made.cert.der().clone()], key, &provider).unwrap();
        let identity = Identity { certified: Arc::new(certified), digest: [0; 32] };
        let acceptor = tls::acceptor(Arc::new(tls::Certificates::new(&identity))).unwrap();
        let slots = Arc::new(Semaphore::new(2));
        let shared = shared(Some(Secure { acceptor, slots: Arc::clone(&slots) }));
        let (shutdown, metrics) = (shared.shutdown.clone(), Arc::clone(&shared.metrics));
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let deadlines = watch::channel(shared.deadlines).1;
        let serving = tokio::spawn(run(listener, shared, deadlines, Arc::clone(&slots)));

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
    async fn a_panic_ends_its_connection_and_nothing_else() {
        let shared = shared(None);
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let (shutdown, metrics): (Shutdown, Arc<Metrics>) = (shared.shutdown.clone(), Arc::clone(&shared.metrics));
        let slots = Arc::new(Semaphore::new(1));
        let deadlines = watch::channel(shared.deadlines).1;
        let serving = tokio::spawn(run(listener, shared, deadlines, Arc::clone(&slots)));
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

    #[test]
    fn failures_to_accept_are_told_of_once_a_second() {
        let began = Instant::now();
        let mut failures = Failures::default();
        let told = (0..60).filter_map(|turn| failures.count(began + BACK_OFF * turn)).collect::<Vec<_>>();
        assert_eq!(told, [1, 20, 20]);
    }
}
