//! `[server] tls`: a certificate and its private key.

use std::{path::Path as FilePath, sync::Arc};

use rustls::{
    Error, InconsistentKeys,
    crypto::{CryptoProvider, aws_lc_rs},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use sha2::{Digest, Sha256};

use super::Check;
use crate::config::{document::Path, raw, types::Identity};

impl Check<'_> {
    /// Checks `[server] tls`: reads the certificate and its private key, and checks that they fit together.
    pub(super) fn tls(&mut self, raw: &raw::Tls) -> Option<Identity> {
        let path = Path::default().key("server").key("tls");
        let (cert_path, key_path) = (path.key("cert_file"), path.key("key_file"));
        // Read both files even if one has a fault, so that a reload notices a change of either.
        let cert_pem = raw.cert_file.as_deref().map(|file| self.pem(file, "cert_file", &cert_path));
        let key_pem = raw.key_file.as_deref().map(|file| self.pem(file, "key_file", &key_path));
        let (cert_pem, key_pem) = (cert_pem.flatten(), key_pem.flatten());
        let certificates = cert_pem.as_deref().and_then(|pem| self.certificates(pem, &cert_path));
        let key = key_pem.as_deref().and_then(|pem| self.private_key(pem, &key_path));
        let certified = CertifiedKey::new(certificates?, key?);
        match certified.keys_match() {
            Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(Error::InconsistentKeys(_)) => {
                let help = "name the key that the certificate was made for; where both are being exchanged, it fits \
                            once both are there";
                self.fault(&key_path, "`key_file` is not the key of the certificate in `cert_file`", help);
                return None;
            }
            Err(_) => {
                let help = "the first certificate must be the server's own, X.509 version 3";
                self.fault(&cert_path, "the first certificate in `cert_file` cannot be used", help);
                return None;
            }
        }
        let digest = Sha256::new().chain_update(cert_pem?).chain_update([0]).chain_update(key_pem?).finalize();
        Some(Identity { certified: Arc::new(certified), digest: digest.into() })
    }

    fn pem(&mut self, file: &str, setting: &str, path: &Path) -> Option<Vec<u8>> {
        let read = self.reads.read(FilePath::new(file));
        if let Err(error) = &read {
            let message = format!("`{setting}` cannot be read: {}", error.kind());
            self.fault(path, message, "check the path and who may read it");
        }
        read.ok()
    }

    fn certificates(&mut self, pem: &[u8], path: &Path) -> Option<Vec<CertificateDer<'static>>> {
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let certificates = certificates.ok().filter(|certificates| !certificates.is_empty());
        if certificates.is_none() {
            let help = "it must be PEM text: -----BEGIN CERTIFICATE----- …, the server's own first";
            self.fault(path, "`cert_file` holds no certificates", help);
        }
        certificates
    }

    fn private_key(&mut self, pem: &[u8], path: &Path) -> Option<Arc<dyn rustls::sign::SigningKey>> {
        let CryptoProvider { key_provider, .. } = aws_lc_rs::default_provider();
        let key = PrivateKeyDer::from_pem_slice(pem).ok().and_then(|key| key_provider.load_private_key(key).ok());
        if key.is_none() {
            let help = "it must be PEM text, not encrypted: -----BEGIN PRIVATE KEY----- …, RSA (2048 bits or more), \
                        ECDSA or Ed25519";
            self.fault(path, "`key_file` holds no private key that can be used", help);
        }
        key
    }
}
