//! Settings of the webhook for alerts.

use http::Uri;
use secrecy::{ExposeSecret, SecretString};

/// The checked `[alerts]` table of the configuration: the webhook that gets alerts.
#[derive(Clone, Debug)]
pub struct AlertSettings {
    /// URL of the webhook.
    pub url: Uri,
    /// Secret that signs each alert.
    pub secret: Option<SecretString>,
    /// An alert is sent when this percentage of an upstream's answers ends early.
    pub truncated_percent: u64,
}

/// An operator's configurations are compared with each other, never with client input. Constant time is not needed.
impl PartialEq for AlertSettings {
    fn eq(&self, other: &Self) -> bool {
        let Self { url, secret, truncated_percent } = self;
        let secrets = [secret, &other.secret].map(|secret| secret.as_ref().map(ExposeSecret::expose_secret));
        (url, truncated_percent) == (&other.url, &other.truncated_percent) && secrets[0] == secrets[1]
    }
}
