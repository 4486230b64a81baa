//! Finds secrets by their references, and checks that they are usable.

use std::path::Path as FilePath;

use secrecy::SecretString;
use sha2::{Digest, Sha256};

use super::Check;
use crate::config::{document::Path, mask::is_variable, types::SecretsNeeded};

/// Where the configuration says a secret is: `{ env = … }` or `{ file = … }`.
pub(super) struct SecretReference<'a> {
    pub(super) env: Option<&'a str>,
    pub(super) file: Option<&'a str>,
    pub(super) optional: bool,
}

/// Result of reading a secret from its variable or file: the secret, missing, or faulty.
pub(super) enum SecretLookup {
    Secret(SecretString),
    /// The secret is optional and missing.
    Unset,
    /// The fault was reported already.
    Faulty,
}

impl SecretReference<'_> {
    /// Returns the default name of a secret: the name of its variable or file.
    pub(super) fn own_name(&self) -> String {
        let stem = || {
            self.file.and_then(|file| FilePath::new(file).file_stem()).map(|stem| stem.to_string_lossy().into_owned())
        };
        self.env.map(str::to_owned).or_else(stem).unwrap_or_default()
    }

    /// Returns the name of the variable or file that must exist, because the configuration says a secret is there.
    pub(super) fn wanted(&self) -> String {
        self.env.or(self.file).unwrap_or_default().to_owned()
    }
}

/// Returns the SHA-256 of a secret. Tidegate compares secrets by this hash.
pub(super) fn digest(secret: &[u8]) -> [u8; 32] {
    Sha256::digest(secret).into()
}

impl Check<'_> {
    /// Reads a secret of an upstream or a client from its variable or file. Returns a stand-in if secrets are not read. `path` is
    /// the table of the secret.
    pub(super) fn secret(&mut self, reference: &SecretReference<'_>, path: &Path) -> SecretLookup {
        if self.secrets == SecretsNeeded::Read || reference.env.is_some() == reference.file.is_some() {
            return self.read_secret(reference, path);
        }
        // This text is the secret of no one, and differs for each reference.
        SecretLookup::Secret(format!("a secret that is not read: {}", reference.wanted()).into())
    }

    /// Returns the variable or file of an optional secret that is missing. None in every other case, and always if secrets are read.
    pub(super) fn unset(&self, reference: &SecretReference<'_>) -> Option<String> {
        if self.secrets == SecretsNeeded::Read || !reference.optional {
            return None;
        }
        let is_set = match (reference.env, reference.file) {
            (Some(name), _) => (self.env)(name).is_some_and(|text| !text.is_empty()),
            (None, Some(file)) => FilePath::new(file).exists(),
            (None, None) => true,
        };
        (!is_set).then(|| reference.wanted())
    }

    /// Reads a secret from its variable or file and checks that it is usable. `path` is the table of the secret.
    pub(super) fn read_secret(&mut self, reference: &SecretReference<'_>, path: &Path) -> SecretLookup {
        let (text, path) = match (reference.env, reference.file) {
            (Some(name), None) => (self.read_env(name, reference.optional, &path.key("env")), path.key("env")),
            (None, Some(file)) => (self.read_file(file, reference.optional, &path.key("file")), path.key("file")),
            (both, _) => {
                let message =
                    if both.is_some() { "`env` and `file` are both here" } else { "`env` or `file` is missing" };
                self.fault(
                    path,
                    message,
                    "write one of them: `{ env = \"TEAM_A_KEY\" }` or `{ file = \"/run/secrets/team-a\" }`",
                );
                return SecretLookup::Faulty;
            }
        };
        match text {
            Ok(Some(text)) => self.usable(text, reference, &path),
            Ok(None) => SecretLookup::Unset,
            Err(()) => SecretLookup::Faulty,
        }
    }

    fn read_env(&mut self, name: &str, optional: bool, path: &Path) -> Result<Option<String>, ()> {
        if !is_variable(name) {
            self.fault(
                path,
                "`env` is not the name of a variable",
                "write upper-case letters, digits and `_`, such as \"TEAM_A_KEY\"; if this is the secret itself, put it into \
                 such a variable",
            );
            return Err(());
        }
        match (self.env)(name).map(std::ffi::OsString::into_string) {
            // Compose files and env files set a missing variable to the empty string.
            Some(Ok(text)) if text.is_empty() && optional => Ok(None),
            Some(Ok(text)) => Ok(Some(text)),
            None if optional => Ok(None),
            None => {
                let help = format!("set {name}, or add `optional = true` if it may be missing");
                self.fault(path, format!("the variable {name} is not set"), help);
                Err(())
            }
            Some(Err(_)) => {
                self.fault(
                    path,
                    format!("the variable {name} contains a character that a secret must not have"),
                    VISIBLE,
                );
                Err(())
            }
        }
    }

    fn read_file(&mut self, file: &str, optional: bool, path: &Path) -> Result<Option<String>, ()> {
        match self.reads.read(FilePath::new(file)).map(String::from_utf8) {
            Ok(Ok(mut text)) => {
                text.truncate(text.trim_end_matches(['\n', '\r']).len());
                Ok(Some(text))
            }
            Ok(Err(_)) => {
                self.fault(path, "the file contains a character that a secret must not have", VISIBLE);
                Err(())
            }
            Err(error) if optional && error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => {
                let help = "check the path and who may read it, or add `optional = true` if it may be missing";
                self.fault(path, format!("the file cannot be read: {}", error.kind()), help);
                Err(())
            }
        }
    }

    /// Checks a secret. A header carries it: an empty secret would send none, and white space mostly means two secrets.
    fn usable(&mut self, text: String, reference: &SecretReference<'_>, path: &Path) -> SecretLookup {
        let owner = reference.env.map_or_else(|| "the file".to_owned(), |name| format!("the variable {name}"));
        if text.is_empty() {
            self.fault(
                path,
                format!("{owner} is empty"),
                "put the secret there, or remove it altogether: empty is never meant",
            );
            return SecretLookup::Faulty;
        }
        if text.starts_with(QUOTES) || text.ends_with(QUOTES) {
            self.fault(
                path,
                format!("{owner} has quotes around the secret"),
                "remove the quotes: files of variables (`docker --env-file`) and secret files are taken as they are, quotes included",
            );
            return SecretLookup::Faulty;
        }
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            self.fault(path, format!("{owner} contains a character that a secret must not have"), VISIBLE);
            return SecretLookup::Faulty;
        }
        SecretLookup::Secret(text.into())
    }
}

/// Straight quotes, and the typographic quotes of word processors.
const QUOTES: [char; 7] = ['"', '\'', '`', '“', '”', '‘', '’'];

const VISIBLE: &str = "a secret is visible ASCII without white space: look for a stray space, quote or line break";
