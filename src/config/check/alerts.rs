//! `[alerts]`.

use super::{
    Check,
    secret::{Found, Reference},
    url,
};
use crate::config::{document::Path, raw, types::Alerts};

impl Check<'_> {
    pub(super) fn alerts(&mut self, raw: raw::Alerts) -> Option<Alerts> {
        let path = Path::default().key("alerts");
        let secret = raw.secret.and_then(|secret| {
            let (env, file) = (secret.env.as_deref(), secret.file.as_deref());
            match self.secret(&Reference { env, file, optional: secret.optional }, &path.key("secret")) {
                Found::Secret(secret) => Some(secret),
                Found::Unset | Found::Faulty => None,
            }
        });
        let Some(text) = raw.url else {
            if secret.is_some() {
                self.fault(&path.key("secret"), "a `secret` without `url`", "add `url`, or remove the secret");
            }
            return None;
        };
        match url::webhook(&text) {
            Ok(url) => Some(Alerts { url, secret, truncated_percent: raw.truncated_percent }),
            Err((message, help)) => {
                self.fault(&path.key("url"), format!("`url` {message}"), help);
                None
            }
        }
    }
}
