//! The HTTP/1.1 client of the data plane, one for each worker and upstream: connections of hyper and a pool of idle ones.
//!
//! The task that serves the client also drives the connection to the upstream. There is no second task and no queue between the two, so
//! events that arrive together are sent to the client together, and dropping the request closes the connection at once.
//!
//! This HTTP client follows no redirects, uses no proxy from the environment, keeps no cookies and decompresses nothing. A request is
//! sent again only if its connection closed before a byte of the request was written. So a request that an upstream may have received
//! is never sent again. The error is [`Stale`](SendError::Stale) if the upstream was just closing the request's connection.

use std::{sync::Arc, time::Duration};

use http::{
    HeaderValue, Request, Response, Uri,
    header::HOST,
    uri::{Parts, Scheme},
};
use hyper::body::Incoming;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, pem::PemObject};

use super::{
    answer_body::AnswerBody,
    connect::{self, BoxError, Resolve},
    connection::{ConnectionError, UpstreamConnection},
    dial::Connector,
    idle::IdleConnections,
};
use crate::{
    config::{self, Timeouts},
    protocol::body::SegmentedHttpBody,
};

/// A connection takes no further request after this time, so that new connections follow a changed DNS record.
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(600);

/// The HTTP client that sends requests to one upstream, from one worker. Keeps idle connections for later requests.
#[derive(Clone, Debug)]
pub struct Sender {
    connector: Connector,
    idle: Arc<IdleConnections>,
    /// The value of the `Host` header.
    host: Option<HeaderValue>,
}

/// Why a request to an upstream got no answer. The variants say whether the upstream can have received the request.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// No connection was made, so nothing was sent.
    #[error("Tidegate cannot connect to the upstream: {0}")]
    Connect(BoxError),
    /// The upstream closed an idle connection at the moment when the request was sent on it. No byte of an answer came.
    #[error("the upstream closed an idle connection that Tidegate wanted to use again: {0}")]
    Stale(BoxError),
    /// The connection ended before the head of an answer came. The upstream may have received the request.
    #[error("the connection to the upstream broke before an answer came: {0}")]
    Broken(BoxError),
    /// The answer is not HTTP, or its head is too large.
    #[error("the answer of the upstream is not valid HTTP: {0}")]
    NotHttp(BoxError),
}

impl Sender {
    /// Makes the HTTP client that sends requests to one upstream. Each client must stay on one tokio runtime.
    pub fn new(upstream: &config::Upstream, timeouts: &Timeouts, tls: &Arc<ClientConfig>) -> Self {
        Self::with(upstream, timeouts, tls, connect::system(), MAX_CONNECTION_AGE)
    }

    /// The same with this resolver. Connections older than `oldest` take no further request.
    fn with(
        upstream: &config::Upstream,
        timeouts: &Timeouts,
        tls: &Arc<ClientConfig>,
        resolve: Resolve,
        oldest: Duration,
    ) -> Self {
        Self {
            connector: Connector::new(upstream, timeouts.upstream_connect, tls, resolve),
            idle: IdleConnections::new(upstream.max_idle_connections, timeouts.upstream_pool_idle, oldest),
            host: host(&upstream.base_url),
        }
    }

    /// Sends a request to the upstream, on an idle connection if there is one, and waits for the head of the answer.
    ///
    /// # Errors
    /// When no head came. The variants differ in whether the upstream can have received the request.
    pub async fn send(&self, request: Request<SegmentedHttpBody>) -> Result<Response<AnswerBody>, SendError> {
        let mut request = self.in_origin_form(request);
        while let Some(connection) = self.idle.take() {
            match connection.send(request).await {
                Ok((answer, connection)) => return Ok(self.with_connection(answer, connection)),
                Err(ConnectionError::Unsent(unsent, _)) => request = *unsent,
                Err(error) => return Err(judged(error)),
            }
        }
        self.send_on_new(request).await
    }

    /// Sends a request to the upstream on a new connection, so that the error is never [`Stale`](SendError::Stale).
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn send_fresh(&self, request: Request<SegmentedHttpBody>) -> Result<Response<AnswerBody>, SendError> {
        self.send_on_new(self.in_origin_form(request)).await
    }

    async fn send_on_new(&self, request: Request<SegmentedHttpBody>) -> Result<Response<AnswerBody>, SendError> {
        let stream = self.connector.connect().await.map_err(SendError::Connect)?;
        let connection = UpstreamConnection::new(stream).await.map_err(|error| SendError::Connect(error.into()))?;
        let (answer, connection) = Box::new(connection).send(request).await.map_err(judged)?;
        Ok(self.with_connection(answer, connection))
    }

    fn with_connection(
        &self,
        answer: Response<Incoming>,
        connection: Option<Box<UpstreamConnection>>,
    ) -> Response<AnswerBody> {
        answer.map(|body| AnswerBody::new(body, connection, &self.idle))
    }

    /// A request line holds the path only, and the `Host` header holds the host.
    fn in_origin_form(&self, mut request: Request<SegmentedHttpBody>) -> Request<SegmentedHttpBody> {
        if let Some(host) = &self.host {
            request.headers_mut().entry(HOST).or_insert_with(|| host.clone());
        }
        let mut path = Parts::default();
        path.path_and_query = request.uri().path_and_query().cloned();
        // A URI of a path alone is always valid.
        if let Ok(path) = Uri::from_parts(path) {
            *request.uri_mut() = path;
        }
        request
    }
}

/// Returns the meaning of a connection's error.
fn judged(error: ConnectionError) -> SendError {
    match error {
        ConnectionError::Stale(error) => SendError::Stale(error.into()),
        ConnectionError::Broken(error) if error.is_parse() => SendError::NotHttp(error.into()),
        ConnectionError::Broken(error) | ConnectionError::Unsent(_, error) => SendError::Broken(error.into()),
    }
}

/// Returns the `Host` header for a URL: the host, with the port unless it is the default one of the scheme.
fn host(url: &Uri) -> Option<HeaderValue> {
    let default = if url.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 };
    let host = url.host()?;
    match url.port_u16().filter(|port| *port != default) {
        Some(port) => HeaderValue::try_from(format!("{host}:{port}")).ok(),
        None => HeaderValue::from_str(host).ok(),
    }
}

/// Returns the TLS settings for the connections to an upstream: the root certificates of the system, if any, and the upstream's own.
/// Without system roots, Mozilla's compiled-in roots replace them (a `FROM scratch` image has no root file).
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

/// The error that a root certificate of an upstream is invalid.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TlsError(String);

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        Self(error.to_string())
    }
}

#[cfg(test)]
mod tests;
