//! The HTTP client of the data path: hyper-util's client over hyper-rustls, one per worker and upstream, HTTP/1.1.
//!
//! No redirects, no proxy from the environment, no cookies, no decompression. hyper-util sends a request again only
//! when its pooled connection closed before a byte of it was written, so nothing is resent that may have been received.

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{Request, Response, Uri, uri::Scheme};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::{
    client::legacy::{
        Client,
        connect::{
            HttpConnector,
            proxy::{SocksV5, Tunnel},
        },
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use tokio::net::TcpStream;
use tower_service::Service;

use crate::{
    config::{self, Timeouts},
    protocol::body::RopeBody,
};

/// hyper's buffers grow up to this and no further (its own default is 417,792 bytes). A stream that nobody reads holds
/// about four of them: one being read into, one on its way, and what waits for the client. With 16 KiB that were 77 KiB
/// a stream. Also bounds the head of an answer, of which proxies in front of providers allow 8 KiB or less.
pub const MAX_BUFFER: usize = 9 * 1024;

/// What one connection holds at most.
pub const PER_CONNECTION: usize = 4 * MAX_BUFFER;

/// And with TLS: 64 KiB of records on their way out (rustls's limit), 18 KiB of one that comes in, and what it decrypts to.
pub const PER_TLS: usize = (64 + 18 + 16) * 1024;

/// A connection is given up when nothing of what was sent into it was taken for this long. As keep-alive does: 60 s of
/// silence and three probes 20 s apart.
#[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
const UNTAKEN: Duration = Duration::from_secs(120);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Sends requests to one upstream, from one worker.
#[derive(Clone, Debug)]
pub struct Sender {
    client: Client<Connector, RopeBody>,
}

/// Why no answer came.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// No connection: nothing was sent.
    #[error("no connection: {0}")]
    Connect(BoxError),
    /// The connection ended before a head came. The upstream may have received the request.
    #[error("no answer: {0}")]
    Broken(BoxError),
    /// What came is not HTTP, or its head is too large.
    #[error("no HTTP answer: {0}")]
    Nonsense(BoxError),
}

impl Sender {
    /// Makes a client for `upstream`. It must be used on one runtime only.
    pub fn new(upstream: &config::Upstream, timeouts: &Timeouts, tls: &Arc<ClientConfig>) -> Self {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        // A peer that vanished without a word is noticed even inside a stream that is silent by nature.
        http.set_keepalive(Some(Duration::from_secs(60)));
        http.set_keepalive_interval(Some(Duration::from_secs(20)));
        http.set_keepalive_retries(Some(3));
        // An upstream that answered before it read the whole request, and never reads the rest, acknowledges every probe
        // of its full window: without this limit hyper would hold the request's body as long as it likes.
        #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
        http.set_tcp_user_timeout(Some(UNTAKEN));
        let dial = match &upstream.proxy {
            None => Dial::Direct(http),
            Some(proxy) if proxy.scheme_str() == Some("socks5") => {
                Dial::Socks(SocksV5::new(with_port(proxy, 1080), http))
            }
            Some(proxy) => Dial::Tunnel(Tunnel::new(proxy.clone(), http)),
        };
        let connector =
            Connector { inner: HttpsConnector::from((dial, Arc::clone(tls))), within: timeouts.upstream_connect };
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(timeouts.upstream_pool_idle)
            .pool_max_idle_per_host(upstream.max_idle_connections)
            .http1_max_buf_size(MAX_BUFFER)
            // hyper's own 100 headers an answer stay: any number that is set costs two allocations of 4 KB an answer.
            .build(connector);
        Self { client }
    }

    /// Sends a request and waits for the head of the answer.
    ///
    /// # Errors
    /// When none came, told apart by whether anything can have been received.
    pub async fn send(&self, request: Request<RopeBody>) -> Result<Response<Incoming>, SendError> {
        self.client.request(request).await.map_err(|error| {
            let cause = std::error::Error::source(&error).and_then(|cause| cause.downcast_ref::<hyper::Error>());
            match cause {
                _ if error.is_connect() => SendError::Connect(error.into()),
                Some(cause) if cause.is_parse() => SendError::Nonsense(error.into()),
                _ => SendError::Broken(error.into()),
            }
        })
    }
}

/// TLS settings for an upstream: the system's roots where there are any, otherwise Mozilla's, which are compiled in
/// (an image from scratch has no file of roots), and the upstream's own.
///
/// # Errors
/// When a certificate of the upstream's own cannot be used.
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

/// A certificate that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TlsError(String);

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        Self(error.to_string())
    }
}

/// How a TCP connection is made.
#[derive(Clone)]
enum Dial {
    Direct(HttpConnector),
    Tunnel(Tunnel<HttpConnector>),
    Socks(SocksV5<HttpConnector>),
}

type Connecting<T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;

impl Service<Uri> for Dial {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = Connecting<Self::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(match self {
            Self::Direct(dial) => ready!(dial.poll_ready(cx)).map_err(Into::into),
            Self::Tunnel(dial) => ready!(dial.poll_ready(cx)).map_err(Into::into),
            Self::Socks(dial) => ready!(dial.poll_ready(cx)).map_err(Into::into),
        })
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        match self {
            Self::Direct(dial) => {
                let connecting = dial.call(uri);
                Box::pin(async move { Ok(connecting.await?) })
            }
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

/// The same place with its port written out: hyper-util's proxies take 443 where there is none, whatever the scheme.
fn explicit(uri: &Uri) -> Uri {
    with_port(uri, if uri.scheme() == Some(&Scheme::HTTP) { 80 } else { 443 })
}

/// The same place, at `port` unless it has one.
fn with_port(uri: &Uri, port: u16) -> Uri {
    let (Some(scheme), Some(host), None) = (uri.scheme(), uri.host(), uri.port()) else {
        return uri.clone();
    };
    let built = Uri::builder().scheme(scheme.clone()).authority(format!("{host}:{port}")).path_and_query("/").build();
    // Of parts that were a URI's before.
    built.unwrap_or_else(|_| uri.clone())
}

/// Connects within a time that covers name resolution, the proxy, TCP and TLS.
#[derive(Clone)]
struct Connector {
    inner: HttpsConnector<Dial>,
    within: Duration,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("within", &self.within).finish_non_exhaustive()
    }
}

impl Service<Uri> for Connector {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
    type Error = BoxError;
    type Future = Connecting<Self::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.inner.call(uri);
        let within = self.within;
        Box::pin(async move {
            tokio::time::timeout(within, connecting)
                .await
                .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_has_a_port() {
        for (uri, place) in [
            ("http://h/v1/responses?a=b", "http://h:80/"),
            ("https://h/v1", "https://h:443/"),
            ("http://[::1]/v1", "http://[::1]:80/"),
        ] {
            assert_eq!(explicit(&Uri::from_static(uri)), place);
        }
        assert_eq!(explicit(&Uri::from_static("http://h:8080/v1")), "http://h:8080/v1");
        assert_eq!(with_port(&Uri::from_static("socks5://h"), 1080), "socks5://h:1080/");
    }
}
