//! `[alerts]`.

use super::{
    Check,
    secret::{SecretLookup, SecretReference},
    url,
};
use crate::config::{document::Path, raw, types::AlertSettings};

impl Check<'_> {
    /// Checks the table `[alerts]` of the configuration. Returns none if no webhook is configured.
    pub(super) fn alerts(&mut self, raw: raw::Alerts) -> Option<AlertSettings> {
        let path = Path::default().key("alerts");
        let secret = raw.secret.and_then(|secret| {
            let (env, file) = (secret.env.as_deref(), secret.file.as_deref());
            match self.secret(&SecretReference { env, file, optional: secret.optional }, &path.key("secret")) {
                SecretLookup::Secret(secret) => Some(secret),
                SecretLookup::Unset | SecretLookup::Faulty => None,
            }
        });
        let Some(text) = raw.url else {
            if secret.is_some() {
                self.fault(&path.key("secret"), "a `secret` without `url`", "add `url`, or remove the secret");
            }
            return None;
        };
        match url::webhook(&text) {
            Ok(url) => Some(AlertSettings { url, secret, truncated_percent: raw.truncated_percent }),
            Err((message, help)) => {
                self.fault(&path.key("url"), format!("`url` {message}"), help);
                None
            }
        }
    }
}
