//! What all checks share.

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

/// The faults that were found so far, and what the checks need.
pub(super) struct Check<'a> {
    pub(super) document: &'a Document<'a>,
    /// Whether nothing was left out of the settings because of its shape: otherwise nobody can say that a name is missing.
    pub(super) sound: bool,
    pub(super) env: &'a dyn Fn(&str) -> Option<OsString>,
    /// Reads files, for secrets and certificates.
    pub(super) reads: &'a mut WatchedFiles,
    pub(super) secrets: SecretsNeeded,
    /// Currencies of prices, where they are kept apart.
    pub(super) billed: Vec<Currency>,
    pub(super) faults: Vec<ConfigFault>,
}

impl Check<'_> {
    /// Whether all names of a list of tables are known, so that another name is one that is missing. A list that is left out for
    /// its shape, an entry without a name and a header that is misspelled leave a doubt; faults elsewhere do not.
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

    /// Whether something is written for this setting, be it sound or not.
    pub(super) fn is_written(&self, table: &Path, name: &str) -> bool {
        self.document.place(&table.key(name)) != self.document.place(table)
    }

    /// A fault of the setting at the end of the path.
    pub(super) fn fault(&mut self, path: &Path, message: impl Into<String>, help: impl Into<String>) {
        let place = self.document.place(path);
        self.faults.push(ConfigFault { place, message: message.into(), help: help.into() });
    }

    /// A fault that is not in the file.
    pub(super) fn fault_outside(&mut self, message: impl Into<String>, help: impl Into<String>) {
        self.faults.push(ConfigFault { place: None, message: message.into(), help: help.into() });
    }

    /// A name that is written down with every request.
    pub(super) fn short_name(&mut self, name: &str, forbidden: &[char], path: &Path) -> bool {
        if name.len() > MAX_NAME_BYTES {
            let help = "use a shorter one: it is written down with every request";
            self.fault(path, format!("this name has more than {MAX_NAME_BYTES} bytes"), help);
            return false;
        }
        self.name(name, forbidden, path)
    }

    /// A name that logs, metrics and requests can carry as it is.
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
                "this name holds what no name may",
                format!("use no white space and nothing invisible{also}"),
            );
        }
        false
    }
}
