//! `[store]`.

use super::{
    Check,
    secret::{SecretLookup, SecretReference},
};
use crate::config::{document::Path, postgres, raw, types::Store};

impl Check<'_> {
    /// Checks the table `[store]` of the configuration: the URL and the password of the database.
    pub(super) fn store(&mut self, raw: raw::Store) -> Store {
        let path = Path::default().key("store");
        let password = raw.password.and_then(|secret| self.password(&secret, &path.key("password")));
        let Some(url) = raw.url else {
            if password.is_some() {
                let help = "add `url`, or remove the password: SQLite has none";
                self.fault(&path.key("password"), "a `password` without `url`", help);
            }
            return Store::Sqlite;
        };
        // The connection code uses the same parser, so a URL without faults can be used.
        if let Err(wrong) = postgres::servers(&url) {
            self.fault(&path.key("url"), wrong.what, wrong.help);
        }
        Store::Postgres { url: url.into(), password }
    }

    /// Reads a password that Tidegate itself needs, such as that of its database. It is read even when the secrets of upstreams
    /// and clients are not.
    pub(super) fn password(&mut self, secret: &raw::Secret, path: &Path) -> Option<secrecy::SecretString> {
        let reference =
            SecretReference { env: secret.env.as_deref(), file: secret.file.as_deref(), optional: secret.optional };
        match self.read_secret(&reference, path) {
            SecretLookup::Secret(secret) => Some(secret),
            SecretLookup::Unset | SecretLookup::Faulty => None,
        }
    }
}
