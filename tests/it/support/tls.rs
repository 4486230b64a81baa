//! TLS between a client and the gateway.

use std::{fs, net::SocketAddr, path::Path, sync::Arc};

use tidegate::config::Identity;
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion,
        client::Resumption,
        crypto::aws_lc_rs,
        pki_types::PrivatePkcs8KeyDer,
        sign::{CertifiedKey, SingleCertAndKey},
        version::TLS13,
    },
};

use super::{client::Client, gateway::Gateway};

/// A self-signed certificate for `localhost`, and its key.
pub(crate) struct TestCertificate {
    pub(crate) cert_pem: String,
    pub(crate) key_pem: String,
    config: ClientConfig,
    certified: Arc<CertifiedKey>,
}

impl TestCertificate {
    pub(crate) fn new() -> Self {
        Self::for_versions(&[&TLS13])
    }

    /// The same, for a client that offers only these versions.
    pub(crate) fn for_versions(versions: &[&'static SupportedProtocolVersion]) -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let provider = aws_lc_rs::default_provider();
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let certified = CertifiedKey::from_der(vec![made.cert.der().clone()], key.into(), &provider).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        // A resumed session shows no certificate.
        config.resumption = Resumption::disabled();
        let (cert_pem, key_pem) = (made.cert.pem(), made.signing_key.serialize_pem());
        Self { cert_pem, key_pem, config, certified: Arc::new(certified) }
    }

    /// The certificate for a gateway.
    pub(crate) fn identity(&self) -> Option<Identity> {
        Some(Identity { certified: Arc::clone(&self.certified), digest: [0; 32] })
    }

    /// The certificate for an upstream.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        let resolver = Arc::new(SingleCertAndKey::from(Arc::clone(&self.certified)));
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        TlsAcceptor::from(Arc::new(config))
    }

    /// Writes both files.
    pub(crate) fn write(&self, cert: &Path, key: &Path) {
        fs::write(cert, &self.cert_pem).unwrap();
        fs::write(key, &self.key_pem).unwrap();
    }

    /// Connects with TLS. The client trusts only this certificate and offers these protocols.
    pub(crate) async fn dial(&self, address: SocketAddr, alpn: &[&str]) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut config = self.config.clone();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        TlsConnector::from(Arc::new(config)).connect("localhost".try_into().unwrap(), stream).await
    }

    /// Connects with TLS for HTTP/1.1.
    pub(crate) async fn connect(&self, gateway: &Gateway) -> Client<TlsStream<TcpStream>> {
        Client::on(self.dial(gateway.address, &[]).await.unwrap())
    }
}
