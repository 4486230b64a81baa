//! Where an operator is told of what happened.

use http::Uri;
use secrecy::{ExposeSecret, SecretString};

/// `[alerts]`.
#[derive(Clone, Debug)]
pub struct AlertSettings {
    /// Where alerts are posted.
    pub url: Uri,
    /// Signs each of them.
    pub secret: Option<SecretString>,
    /// Answers of an upstream that end before their end, in percent, from which on one is sent.
    pub truncated_percent: u64,
}

/// Readings of a configuration are compared with each other, never with what a client sent: time tells nothing here.
impl PartialEq for AlertSettings {
    fn eq(&self, other: &Self) -> bool {
        let Self { url, secret, truncated_percent } = self;
        let secrets = [secret, &other.secret].map(|secret| secret.as_ref().map(ExposeSecret::expose_secret));
        (url, truncated_percent) == (&other.url, &other.truncated_percent) && secrets[0] == secrets[1]
    }
}
