//! TLS to clients.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{progress::MAX_QUEUED, socket::Socket};

/// HTTP/2, as clients offer it.
const H2: &[u8] = b"h2";

/// The certificate for the next handshake, and its key. One for all workers: it is read at handshakes only.
#[derive(Debug)]
pub struct Certificates(RwLock<Arc<CertifiedKey>>);

impl Certificates {
    /// Handshakes get this one.
    pub fn new(certified: Arc<CertifiedKey>) -> Self {
        Self(RwLock::new(certified))
    }

    /// Handshakes from now on get another one. Connections that are open go on with what they began with.
    pub fn set(&self, certified: Arc<CertifiedKey>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = certified;
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// TLS 1.2 and 1.3 with rustls's own choice of ciphers. HTTP/2 is spoken with who offers it, and never without TLS.
///
/// # Errors
/// When rustls has no such versions.
pub fn acceptor(certificates: Arc<Certificates>) -> Result<TlsAcceptor, rustls::Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(certificates);
    config.alpn_protocols = vec![H2.to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// A client's connection after the handshake, and whether HTTP/2 was chosen; the socket of a client that speaks plain HTTP.
pub(super) async fn accept(
    acceptor: &TlsAcceptor,
    mut socket: Socket,
) -> std::io::Result<Result<(TlsStream<Socket>, bool), Socket>> {
    let mut byte = [0];
    // A record of TLS begins with a number below 32, a request in plain HTTP with the letters of its method.
    if socket.read.peek(&mut byte).await? == 1 && byte[0].is_ascii_uppercase() {
        return Ok(Err(socket));
    }
    let mut stream = acceptor.accept(socket).await?;
    // Its own limit is 64 KiB: a client that does not read would hold all of that.
    let (_, session) = stream.get_mut();
    session.set_buffer_limit(Some(MAX_QUEUED));
    let is_h2 = session.alpn_protocol() == Some(H2);
    Ok(Ok((stream, is_h2)))
}
