//! The HTTP/1.1 client of the data plane: hyper-util's client over hyper-rustls, one for each worker and upstream.
//!
//! This HTTP client follows no redirects, uses no proxy from the environment, keeps no cookies and decompresses nothing.
//! hyper-util sends a request again only if its pooled connection closed before a byte of it was written. So a request that an
//! upstream may have received is never sent again. The error is [`Stale`](SendError::Stale) if the upstream was just closing the
//! request's connection.

use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use data_encoding::BASE64;
use http::{Extensions, HeaderValue, Request, Response, Uri, uri::Scheme};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::{
    client::legacy::{
        Client,
        connect::{
            CaptureConnection, HttpConnector, capture_connection,
            proxy::{SocksV5, Tunnel},
        },
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use secrecy::ExposeSecret;
use tokio::{net::TcpStream, time::Instant};
use tower_service::Service;

use super::{
    connect::{self, BoxError, Connecting, Dialer, Resolve},
    wire::{ConnectionTrace, Turn, UpstreamConnection, is_closed},
};
use crate::{
    config::{self, Timeouts},
    protocol::body::RopeBody,
};

/// The maximum size of hyper's buffers (hyper's default is 417,792 bytes). A stream whose client does not read uses about four of
/// them: for reading, for sending, and for the data that waits. With 16 KiB, a stream would use 77 KiB. The size also bounds the
/// head of an answer. Proxies in front of providers allow 8 KiB or less.
pub const MAX_BUFFER: usize = 9 * 1024;

/// The most memory that one connection uses.
pub const PER_CONNECTION: usize = 4 * MAX_BUFFER;

/// The additional memory with TLS: 64 KiB of outgoing records (rustls's limit), 18 KiB of an incoming one, and its plain text.
pub const PER_TLS: usize = (64 + 18 + 16) * 1024;

/// A connection is closed when the upstream acknowledged no sent data for this long. Keep-alive has the same bound: 60 s of
/// silence and three probes 20 s apart.
#[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
const UNTAKEN: Duration = Duration::from_secs(120);

/// A connection takes no further request after this time, so that new connections follow a changed DNS record.
const OLDEST: Duration = Duration::from_secs(600);

/// After a request used a connection older than that, requests look this long for old connections to close. Looking costs a
/// request a few allocations.
const LOOK_FOR: Duration = Duration::from_secs(10);

/// The upstream's close of an idle connection arrives within a round trip. A later close comes from an upstream that had the
/// request.
const STALE_WITHIN: Duration = Duration::from_secs(2);

/// Sends requests to one upstream, from one worker.
#[derive(Clone, Debug)]
pub struct Sender {
    client: Client<Connector, RopeBody>,
    /// A client that makes a connection for each request.
    fresh: Client<Connector, RopeBody>,
    turn: Turn,
    oldest: Duration,
    began: Instant,
    /// Milliseconds after `began` until which requests look for old connections.
    look_until: Arc<AtomicU64>,
}

/// Why no answer came.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// No connection was made, so nothing was sent.
    #[error("no connection: {0}")]
    Connect(BoxError),
    /// The upstream closed an idle connection at the moment when the request was sent on it. No byte of an answer came.
    #[error("the upstream closed an idle connection: {0}")]
    Stale(BoxError),
    /// The connection ended before the head of an answer came. The upstream may have received the request.
    #[error("no answer: {0}")]
    Broken(BoxError),
    /// The answer is not HTTP, or its head is too large.
    #[error("no HTTP answer: {0}")]
    Nonsense(BoxError),
}

impl Sender {
    /// Makes a client for `upstream`. Use the client on one runtime only.
    pub fn new(upstream: &config::Upstream, timeouts: &Timeouts, tls: &Arc<ClientConfig>) -> Self {
        Self::with(upstream, timeouts, tls, connect::system(), OLDEST)
    }

    /// The same with this resolver. Connections older than `oldest` take no further request.
    fn with(
        upstream: &config::Upstream,
        timeouts: &Timeouts,
        tls: &Arc<ClientConfig>,
        resolve: Resolve,
        oldest: Duration,
    ) -> Self {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        // Detects a peer that vanished silently, even during a stream that is silent by nature.
        http.set_keepalive(Some(Duration::from_secs(60)));
        http.set_keepalive_interval(Some(Duration::from_secs(20)));
        http.set_keepalive_retries(Some(3));
        // An upstream may answer before it read the whole request, and never read the rest. Such an upstream acknowledges every
        // probe of its full window. Without this limit hyper would hold the request's body as long as the upstream likes.
        #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
        http.set_tcp_user_timeout(Some(UNTAKEN));
        let http = Dialer::new(http, resolve);
        let dial = match &upstream.proxy {
            None => Dial::Direct(http),
            Some(proxy) if matches!(proxy.scheme_str(), Some("socks5" | "socks5h")) => {
                let socks = SocksV5::new(with_port(proxy, 1080), http);
                Dial::Socks(match &upstream.proxy_login {
                    None => socks,
                    Some(login) => socks.with_auth(login.user.to_string(), login.password.expose_secret().to_owned()),
                })
            }
            Some(proxy) => {
                let tunnel = Tunnel::new(proxy.clone(), http);
                Dial::Tunnel(match upstream.proxy_login.as_ref().and_then(basic) {
                    None => tunnel,
                    Some(login) => tunnel.with_auth(login),
                })
            }
        };
        let inner = HttpsConnector::from((dial, Arc::clone(tls)));
        let turn = Turn::default();
        let connector = Connector { inner, within: timeouts.upstream_connect, turn: Arc::clone(&turn) };
        let client = |idle| {
            Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(timeouts.upstream_pool_idle)
                .pool_max_idle_per_host(idle)
                .http1_max_buf_size(MAX_BUFFER)
                // hyper's default of 100 headers an answer stays: any explicit number costs two allocations of 4 KB an answer.
                .build(connector.clone())
        };
        let (client, fresh) = (client(upstream.max_idle_connections), client(0));
        Self { client, fresh, turn, oldest, began: Instant::now(), look_until: Arc::default() }
    }

    /// Sends a request and waits for the head of the answer.
    ///
    /// # Errors
    /// When no head came. The variants differ in whether the upstream can have received the request.
    pub async fn send(&self, mut request: Request<RopeBody>) -> Result<Response<Incoming>, SendError> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) + 1;
        let began = Instant::now();
        let captured = self.looks_for_old(began).then(|| capture_connection(&mut request));
        match self.client.request(request).await {
            Ok(mut response) => {
                let trace = response.extensions_mut().remove::<Arc<ConnectionTrace>>();
                if trace.is_some_and(|trace| trace.born.elapsed() >= self.oldest) {
                    self.retire(captured.as_ref());
                }
                Ok(response)
            }
            Err(error) => Err(match judged(error) {
                (SendError::Broken(error), Some(trace))
                    if trace.was_idle(turn) && began.elapsed() < STALE_WITHIN && was_closed(&*error) =>
                {
                    SendError::Stale(error)
                }
                (error, _) => error,
            }),
        }
    }

    /// Sends a request on a new connection, so the error is never [`Stale`](SendError::Stale).
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn send_fresh(&self, request: Request<RopeBody>) -> Result<Response<Incoming>, SendError> {
        self.fresh.request(request).await.map_err(|error| judged(error).0)
    }

    fn looks_for_old(&self, now: Instant) -> bool {
        let until = self.look_until.load(Ordering::Relaxed);
        until > 0 && now < self.began + Duration::from_millis(until)
    }

    /// Closes an old connection after its current answer. hyper-util names the connection of a request only if the request
    /// captured it before.
    fn retire(&self, captured: Option<&CaptureConnection>) {
        match captured {
            Some(captured) => captured.connection_metadata().iter().for_each(|connected| connected.poison()),
            None => {
                let until = u64::try_from((self.began.elapsed() + LOOK_FOR).as_millis());
                self.look_until.store(until.unwrap_or(u64::MAX), Ordering::Relaxed);
            }
        }
    }
}

/// Returns the meaning of an error, and the connection on which the error happened.
fn judged(error: hyper_util::client::legacy::Error) -> (SendError, Option<Arc<ConnectionTrace>>) {
    let trace = error.connect_info().and_then(|connected| {
        let mut extras = Extensions::new();
        connected.get_extras(&mut extras);
        extras.remove::<Arc<ConnectionTrace>>()
    });
    let cause = std::error::Error::source(&error).and_then(|cause| cause.downcast_ref::<hyper::Error>());
    let error = match cause {
        _ if error.is_connect() => SendError::Connect(error.into()),
        Some(cause) if cause.is_parse() => SendError::Nonsense(error.into()),
        _ => SendError::Broken(error.into()),
    };
    (error, trace)
}

/// Whether the upstream closed the connection, in order or with a reset.
fn was_closed(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    causes.any(|cause| {
        let by_hyper = |error: &hyper::Error| error.is_incomplete_message() || error.is_closed();
        cause.downcast_ref().is_some_and(by_hyper) || cause.downcast_ref().is_some_and(is_closed)
    })
}

/// Returns the TLS settings for an upstream: the system's roots, if any, and the upstream's own. Without system roots, Mozilla's
/// compiled-in roots replace them (a `FROM scratch` image has no root file).
///
/// # Errors
/// When one of the upstream's own certificates is invalid.
pub fn tls(ca_pem: Option<&[u8]>) -> Result<ClientConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(system.certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    if let Some(pem) = ca_pem {
        for certificate in CertificateDer::pem_slice_iter(pem) {
            roots.add(certificate.map_err(|error| TlsError(error.to_string()))?)?;
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

/// An invalid certificate.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TlsError(String);

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        Self(error.to_string())
    }
}

/// The way to make a TCP connection.
#[derive(Clone)]
enum Dial {
    Direct(Dialer),
    Tunnel(Tunnel<Dialer>),
    Socks(SocksV5<Dialer>),
}

impl Service<Uri> for Dial {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = Connecting<Self::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(match self {
            Self::Direct(dial) => ready!(dial.poll_ready(cx)),
            Self::Tunnel(dial) => ready!(dial.poll_ready(cx)).map_err(Into::into),
            Self::Socks(dial) => ready!(dial.poll_ready(cx)).map_err(Into::into),
        })
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        match self {
            Self::Direct(dial) => dial.call(uri),
            Self::Tunnel(dial) => {
                let connecting = dial.call(explicit(&uri));
                Box::pin(async move { Ok(connecting.await?) })
            }
            Self::Socks(dial) => {
                let connecting = dial.call(explicit(&uri));
                Box::pin(async move { Ok(connecting.await?) })
            }
        }
    }
}

/// Returns the header value for a proxy's user. Base64 text is always a valid value.
fn basic(login: &config::ProxyLogin) -> Option<HeaderValue> {
    let text = BASE64.encode(format!("{}:{}", login.user, login.password.expose_secret()).as_bytes());
    let mut value = HeaderValue::try_from(format!("Basic {text}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Returns the same address with an explicit port: hyper-util's proxies use 443 for a missing port, whatever the scheme.
fn explicit(uri: &Uri) -> Uri {
    with_port(uri, if uri.scheme() == Some(&Scheme::HTTP) { 80 } else { 443 })
}

/// Returns the same address, with `port` if the address has none.
fn with_port(uri: &Uri, port: u16) -> Uri {
    let (Some(scheme), Some(host), None) = (uri.scheme(), uri.host(), uri.port()) else {
        return uri.clone();
    };
    let built = Uri::builder().scheme(scheme.clone()).authority(format!("{host}:{port}")).path_and_query("/").build();
    // The parts come from a valid URI, so the build cannot fail.
    built.unwrap_or_else(|_| uri.clone())
}

/// Connects within a time limit that covers name resolution, the proxy, TCP and TLS.
#[derive(Clone)]
struct Connector {
    inner: HttpsConnector<Dial>,
    within: Duration,
    turn: Turn,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("within", &self.within).finish_non_exhaustive()
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<UpstreamConnection<TokioIo<MaybeHttpsStream<TokioIo<TcpStream>>>>>;
    type Error = BoxError;
    type Future = Connecting<Self::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.inner.call(uri);
        let (within, turn) = (self.within, Arc::clone(&self.turn));
        Box::pin(async move {
            let connected = tokio::time::timeout(within, connecting).await;
            let stream = connected.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()))?;
            Ok(TokioIo::new(UpstreamConnection::new(TokioIo::new(stream), turn)))
        })
    }
}

#[cfg(test)]
mod tests;
