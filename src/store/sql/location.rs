//! The location of the database.

use std::{fmt, path::PathBuf, sync::Arc};

use secrecy::SecretString;

use crate::config::{Config, Store};

/// Name of the SQLite file in the data folder that has the ledger and the stored client keys.
pub const FILE: &str = "ledger.db";

/// Where the SQL database of the ledger is: an SQLite file, or the address of a PostgreSQL server.
#[derive(Clone, Debug)]
pub enum DatabaseLocation {
    /// SQLite, in this file.
    Sqlite(PathBuf),
    /// PostgreSQL.
    Postgres {
        /// `postgres://user@host:5432/database`.
        url: Arc<str>,
        /// The password of that user.
        password: Option<SecretString>,
    },
}

impl DatabaseLocation {
    /// Returns where the SQL database of the ledger is by the configuration.
    pub fn of(config: &Config) -> Self {
        match &config.store {
            Store::Sqlite => Self::Sqlite(config.server.data_dir.join(FILE)),
            Store::Postgres { url, password } => Self::Postgres { url: Arc::clone(url), password: password.clone() },
        }
    }
}

impl fmt::Display for DatabaseLocation {
    /// Writes the location for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => path.display().fmt(f),
            Self::Postgres { url, .. } => f.write_str(url),
        }
    }
}
