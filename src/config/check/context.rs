//! The context that all checks of the configuration share.

use std::ffi::OsString;

use crate::{
    config::{
        document::{Document, Path},
        nearest::nearest,
        reads::WatchedFiles,
        report::ConfigFault,
        types::SecretsNeeded,
    },
    domain::{key::MAX_NAME_BYTES, model_name::is_invisible, money::Currency},
};

/// What all checks of a configuration share: the document, the environment, and the faults found so far.
pub(super) struct Check<'a> {
    pub(super) document: &'a Document<'a>,
    /// Whether all settings have a valid shape. If one was left out because of its shape, a check cannot say that a
    /// name is missing.
    pub(super) sound: bool,
    pub(super) env: &'a dyn Fn(&str) -> Option<OsString>,
    /// Reads the files of secrets and certificates.
    pub(super) reads: &'a mut WatchedFiles,
    pub(super) secrets: SecretsNeeded,
    /// The currencies of prices, if they are kept apart.
    pub(super) billed: Vec<Currency>,
    pub(super) faults: Vec<ConfigFault>,
}

impl Check<'_> {
    /// Whether all names in an array of tables (such as `[[models]]`) are known, so that any other name is certainly missing. An
    /// entry without a name, a list with an invalid shape or a misspelled header makes this uncertain. Errors elsewhere do not.
    pub(super) fn is_complete(&self, list: &str, mut named: impl Iterator<Item = bool>) -> bool {
        let root = self.document.root.get_ref();
        let is_misspelled = |name: &str| name != list && nearest(name, [list]).is_some();
        let in_doubt = || root.keys().any(|key| is_misspelled(key.get_ref()));
        let read = match named.next() {
            None => !root.contains_key(list),
            Some(first) => first && named.all(|named| named),
        };
        self.sound || (read && !in_doubt())
    }

    /// Whether the configuration file contains this setting of a table, valid or not.
    pub(super) fn is_written(&self, table: &Path, name: &str) -> bool {
        self.document.place(&table.key(name)) != self.document.place(table)
    }

    /// Reports a fault of the setting at this path of the configuration file.
    pub(super) fn fault(&mut self, path: &Path, message: impl Into<String>, help: impl Into<String>) {
        let place = self.document.place(path);
        self.faults.push(ConfigFault { place, message: message.into(), help: help.into() });
    }

    /// Reports a fault of the configuration that has no place in the file, such as an invalid environment variable.
    pub(super) fn fault_outside(&mut self, message: impl Into<String>, help: impl Into<String>) {
        self.faults.push(ConfigFault { place: None, message: message.into(), help: help.into() });
    }

    /// Checks the name of a key, group or upstream. Tidegate records this name with every request, so it must be short.
    pub(super) fn short_name(&mut self, name: &str, forbidden: &[char], path: &Path) -> bool {
        if name.len() > MAX_NAME_BYTES {
            let help = "use a shorter name: Tidegate records it with every request";
            self.fault(path, format!("this name has more than {MAX_NAME_BYTES} bytes"), help);
            return false;
        }
        self.name(name, forbidden, path)
    }

    /// Checks a name in the configuration that logs, metrics and requests must be able to carry unchanged. Reports a fault for
    /// any other name and returns false.
    pub(super) fn name(&mut self, name: &str, forbidden: &[char], path: &Path) -> bool {
        let odd = |c: char| c.is_whitespace() || c.is_control() || is_invisible(c) || forbidden.contains(&c);
        if !name.is_empty() && !name.contains(odd) {
            return true;
        }
        if name.is_empty() {
            self.fault(path, "this name is empty", "write a name, such as \"team-a\"");
        } else {
            let also: String = forbidden.iter().map(|c| format!(", no `{c}`")).collect();
            self.fault(
                path,
                "this name has a character that is not allowed",
                format!("remove white space and invisible characters{also}"),
            );
        }
        false
    }
}
