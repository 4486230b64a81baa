//! `tidegate healthcheck`.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode, header::HOST};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
#[cfg(unix)]
use tokio::net::UnixStream;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    runtime::Builder,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::output;
use crate::config::{ConfigPart, Listen, PartialConfig, Source};

/// Docker gives a health check 30 s by default. A gateway that needs more than 5 s for this answer is not healthy.
const WITHIN: Duration = Duration::from_secs(5);

/// Address in the `Host` header of a request over a Unix socket, which has no address of its own.
#[cfg(unix)]
const BEHIND_A_SOCKET: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 80);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Asks the gateway that runs with this configuration whether it is alive.
pub(super) fn run(source: &Source) -> ExitCode {
    // A faulty file or a missing secret must not fail the check: the gateway keeps serving while a person edits its file.
    let PartialConfig { config, tls, .. } = match output::load_known(source, ConfigPart::Listeners) {
        Ok(known) => known,
        Err(code) => return code,
    };
    let listen = reachable(&config.server.listen);
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return output::fail(error),
    };
    let asked = runtime.block_on(async {
        timeout(WITHIN, ask(&listen, tls))
            .await
            .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()))
    });
    match asked {
        Ok(status) if status.is_success() => ExitCode::SUCCESS,
        Ok(status) => output::fail(format_args!("{listen} answers {status}")),
        Err(error) => output::fail(format_args!("{listen} does not answer: {error}")),
    }
}

async fn ask(listen: &Listen, tls: bool) -> Result<StatusCode, BoxError> {
    match listen {
        Listen::Address(address) => ask_on(TcpStream::connect(address).await?, *address, tls).await,
        #[cfg(unix)]
        Listen::Socket(path) => ask_on(UnixStream::connect(path).await?, BEHIND_A_SOCKET, tls).await,
        #[cfg(not(unix))]
        Listen::Socket(_) => Err(io::Error::from(io::ErrorKind::Unsupported).into()),
    }
}

async fn ask_on(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    address: SocketAddr,
    tls: bool,
) -> Result<StatusCode, BoxError> {
    if !tls {
        return status(stream, address).await;
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AcceptAnyCertificate(provider)))
        .with_no_client_auth();
    let name = ServerName::IpAddress(address.ip().into());
    status(TlsConnector::from(Arc::new(config)).connect(name, stream).await?, address).await
}

async fn status(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    address: SocketAddr,
) -> Result<StatusCode, BoxError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get("/healthz").header(HOST, address.to_string()).body(Empty::<Bytes>::new())?;
    let asked = async { Ok(sender.send_request(request).await?.status()) };
    tokio::select! {
        status = asked => status,
        // The connection ends first if there is no answer.
        ended = connection => Err(ended.map_or_else(Into::into, |()| "the gateway closed the connection".into())),
    }
}

/// Trusts any certificate. The request contains no secret, and only the status of the answer is read, which plain HTTP would not
/// protect either. The check must not depend on the certificate, which rarely names a loopback address. After the file was replaced
/// or refused, the gateway still uses the previous certificate and is healthy.
#[derive(Debug)]
struct AcceptAnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Returns the address to connect to: loopback instead of an unspecified address.
pub(super) fn reachable(listen: &Listen) -> Listen {
    let Listen::Address(mut address) = *listen else { return listen.clone() };
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_address_is_reached_on_loopback() {
        for (listen, asked) in [
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::]:80", "[::1]:80"),
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("unix:/t", "unix:/t"),
        ] {
            assert_eq!(reachable(&listen.parse().unwrap()), asked.parse().unwrap());
        }
    }
}
