//! TLS for clients.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{progress::MAX_QUEUED, socket::Socket};

/// The ALPN name of HTTP/2.
const H2: &[u8] = b"h2";

/// The certificate and key of the server for the next TLS handshake of a client. All workers share them: only handshakes read them.
#[derive(Debug)]
pub struct Certificates(RwLock<Arc<CertifiedKey>>);

impl Certificates {
    /// Makes the store of the server's certificate, with this first certificate and key.
    pub fn new(certified: Arc<CertifiedKey>) -> Self {
        Self(RwLock::new(certified))
    }

    /// Replaces the server's certificate and key for new TLS handshakes. Open connections keep the old ones.
    pub fn set(&self, certified: Arc<CertifiedKey>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = certified;
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// Makes the acceptor for TLS connections of clients: TLS 1.2 and 1.3 with the default ciphers of rustls. HTTP/2 is used with clients
/// that offer it, and only over TLS.
///
/// # Errors
/// If rustls does not support these versions.
pub fn acceptor(certificates: Arc<Certificates>) -> Result<TlsAcceptor, rustls::Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(certificates);
    config.alpn_protocols = vec![H2.to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Performs the handshake. Returns the connection and whether HTTP/2 was chosen, or the socket of a client that sent
/// plain HTTP.
pub(super) async fn accept(
    acceptor: &TlsAcceptor,
    mut socket: Socket,
) -> std::io::Result<Result<(TlsStream<Socket>, bool), Socket>> {
    let mut byte = [0];
    // A TLS record begins with a byte below 32, a plain HTTP request with a letter.
    if socket.read.peek(&mut byte).await? == 1 && byte[0].is_ascii_uppercase() {
        return Ok(Err(socket));
    }
    let mut stream = acceptor.accept(socket).await?;
    // The default limit is 64 KiB, all of which a client that does not read would occupy.
    let (_, session) = stream.get_mut();
    session.set_buffer_limit(Some(MAX_QUEUED));
    let is_h2 = session.alpn_protocol() == Some(H2);
    Ok(Ok((stream, is_h2)))
}
