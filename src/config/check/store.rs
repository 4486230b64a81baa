//! `[store]`.

use super::{
    Check,
    secret::{Found, Reference},
};
use crate::config::{document::Path, raw, types::Store};

const EXAMPLE: &str = "write it as \"postgres://user@host:5432/database\"";

/// What the query of a URL may hold.
const PARAMETERS: [&str; 7] =
    ["sslmode", "sslrootcert", "sslcert", "sslkey", "host", "options", "statement-cache-capacity"];

impl Check<'_> {
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
        self.database_url(&url, &path.key("url"));
        Store::Postgres { url: url.into(), password }
    }

    /// The password of something that is ours: it is read also where those of upstreams and clients are not wanted.
    pub(super) fn password(&mut self, secret: &raw::Secret, path: &Path) -> Option<secrecy::SecretString> {
        let reference =
            Reference { env: secret.env.as_deref(), file: secret.file.as_deref(), optional: secret.optional };
        match self.read_secret(&reference, path) {
            Found::Secret(secret) => Some(secret),
            Found::Unset | Found::Faulty => None,
        }
    }

    fn database_url(&mut self, text: &str, path: &Path) {
        let rest = ["postgres://", "postgresql://"].iter().find_map(|scheme| text.strip_prefix(scheme));
        let Some(rest) = rest else {
            let help = format!("{EXAMPLE}; without `url`, SQLite in the data folder is used");
            return self.fault(path, "`url` is not of a PostgreSQL database", help);
        };
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
        if user.contains(':') {
            let help = "move it to `password = { env = \"TIDEGATE_STORE_PASSWORD\" }`: files are read by many";
            return self.fault(path, "`url` holds a password", help);
        }
        if text.contains('#') {
            return self.fault(path, "`url` holds a fragment", EXAMPLE);
        }
        let (database, query) = database.split_once('?').unwrap_or((database, ""));
        // As they stand: a name that is written with escapes is none of these, and a password may not hide in one.
        let name = |pair: &str| pair.split('=').next().unwrap_or_default().to_owned();
        if query.split('&').map(name).any(|name| !name.is_empty() && !PARAMETERS.contains(&&*name)) {
            let help = format!("it may hold {}; a password belongs into `password`", PARAMETERS.join(", "));
            return self.fault(path, "the query of `url` holds what is not allowed there", help);
        }
        let missing = [(user, "user"), (host, "host"), (database, "database")];
        if let Some((_, what)) = missing.iter().find(|(part, _)| part.is_empty()) {
            self.fault(path, format!("`url` names no {what}"), EXAMPLE);
        } else if text.bytes().any(|b| !b.is_ascii_graphic()) {
            self.fault(path, "`url` holds what no URL may", EXAMPLE);
        }
    }
}
