//! Connects to an upstream: directly or through a proxy, with or without TLS, within a time limit.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use data_encoding::BASE64;
use http::{HeaderValue, Uri, uri::Scheme};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::{
    client::legacy::connect::{
        HttpConnector,
        proxy::{SocksV5, Tunnel},
    },
    rt::TokioIo,
};
use rustls::ClientConfig;
use secrecy::ExposeSecret;
use tokio::net::TcpStream;
use tower::timeout::Timeout;
use tower_service::Service;

use super::connect::{BoxError, Connecting, Dialer, Resolve};
use crate::config;

/// A connection is closed when the upstream acknowledged no sent data for this long. Keep-alive has the same bound: 60 s of
/// silence and three probes 20 s apart.
#[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(120);

/// A connection, encrypted where the URL says so.
pub(super) type Stream = TokioIo<MaybeHttpsStream<TokioIo<TcpStream>>>;

/// Connects to one upstream. The time limit covers name resolution, the proxy, TCP and TLS.
#[derive(Clone)]
pub(super) struct Connector {
    inner: Timeout<HttpsConnector<Dial>>,
    /// Scheme, host and port of the upstream.
    upstream: Uri,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("upstream", &self.upstream).finish_non_exhaustive()
    }
}

impl Connector {
    /// Makes a connector for `upstream` with these TLS settings. `resolve` looks up host names.
    pub(super) fn new(
        upstream: &config::Upstream,
        within: Duration,
        tls: &Arc<ClientConfig>,
        resolve: Resolve,
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
        http.set_tcp_user_timeout(Some(TCP_USER_TIMEOUT));
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
        let inner = Timeout::new(HttpsConnector::from((dial, Arc::clone(tls))), within);
        Self { inner, upstream: upstream.base_url.clone() }
    }

    /// Makes a new connection.
    ///
    /// # Errors
    /// When there is none within the time limit.
    pub(super) async fn connect(&self) -> Result<Stream, BoxError> {
        Ok(TokioIo::new(self.inner.clone().call(self.upstream.clone()).await?))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_for_a_proxy_has_a_port() {
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
