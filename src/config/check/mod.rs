//! Turns settings of valid shape into a checked configuration. Every check continues after a fault, so that all faults are found.

mod access;
mod affinity;
mod alerts;
mod key;
mod limits;
mod model;
mod money;
mod proxy;
mod redis;
mod secret;
mod server;
mod store;
mod tls;
mod upstream;
mod url;

use std::ffi::OsString;

use crate::domain::{key::MAX_NAME_BYTES, model_name::is_invisible, money::Currency};

pub(super) use access::network;

use super::{
    document::{Document, Path},
    nearest::nearest,
    raw,
    reads::WatchedFiles,
    report::ConfigFault,
    types::{Config, SecretsNeeded},
};

/// Checks the settings. Faulty settings are replaced by stand-ins. The configuration is usable only if `config` returns no fault
/// and the shape has none (`sound`).
pub(super) fn config(
    document: &Document<'_>,
    file: raw::File,
    sound: bool,
    env: &dyn Fn(&str) -> Option<OsString>,
    reads: &mut WatchedFiles,
    secrets: SecretsNeeded,
) -> (Option<Config>, Vec<ConfigFault>) {
    let mut check = Check { document, sound, env, reads, secrets, billed: Vec::new(), faults: Vec::new() };
    let server = check.server(file.server);
    let log = check.log(file.log);
    let keep_days = file.store.keep_days;
    let store = check.store(file.store);
    let alerts = check.alerts(file.alerts);
    let affinity = check.affinity(&file.affinity, file.limits.redis.is_some());
    let sharing = check.sharing(file.limits);
    let upstreams = check.upstreams(file.upstreams);
    let (models, askable) = check.models(file.models, &upstreams);
    let money = check.money(&file.money);
    let prices = check.prices(file.prices, &upstreams, &money);
    let groups = check.groups(file.groups, &money);
    let keys = check.keys(file.keys, &upstreams, &askable, &groups, &money);
    let retries = server::retries(&file.routing);
    let health = check.health(&file.health);
    let default_upstream = file.routing.default_upstream.and_then(|name| {
        check.upstream_index(&upstreams, &name, &Path::default().key("routing").key("default_upstream"))
    });
    let config = server.map(|server| Config {
        server,
        timeouts: server::timeouts(&file.timeouts),
        log,
        store,
        keep_days,
        sharing,
        upstreams: upstreams.live,
        idle: upstreams.idle,
        models,
        keys,
        groups: groups.0,
        default_upstream,
        money,
        prices,
        retries,
        health,
        affinity,
        alerts,
    });
    (config, check.faults)
}

struct Check<'a> {
    document: &'a Document<'a>,
    /// Whether no setting was left out because of its shape. Otherwise a check cannot say that a name is missing.
    sound: bool,
    env: &'a dyn Fn(&str) -> Option<OsString>,
    /// Reads secrets and certificates, and remembers their files.
    reads: &'a mut WatchedFiles,
    secrets: SecretsNeeded,
    /// Currencies of the prices, if the configuration has no exchange rate.
    billed: Vec<Currency>,
    faults: Vec<ConfigFault>,
}

impl Check<'_> {
    /// Whether all names of a list of tables are known, so that any other name is missing. A list that was left out because of its
    /// shape, an entry without a name, or a misspelled header makes this uncertain. Faults in other tables do not.
    fn is_complete(&self, list: &str, mut named: impl Iterator<Item = bool>) -> bool {
        let root = self.document.root.get_ref();
        let is_misspelled = |name: &str| name != list && nearest(name, [list]).is_some();
        let in_doubt = || root.keys().any(|key| is_misspelled(key.get_ref()));
        let read = match named.next() {
            None => !root.contains_key(list),
            Some(first) => first && named.all(|named| named),
        };
        self.sound || (read && !in_doubt())
    }

    /// Whether the file has a value for this setting, valid or not.
    fn is_written(&self, table: &Path, name: &str) -> bool {
        self.document.place(&table.key(name)) != self.document.place(table)
    }

    /// Adds a fault of the setting at the path.
    fn fault(&mut self, path: &Path, message: impl Into<String>, help: impl Into<String>) {
        let place = self.document.place(path);
        self.faults.push(ConfigFault { place, message: message.into(), help: help.into() });
    }

    /// Adds a fault that is not in the file.
    fn fault_outside(&mut self, message: impl Into<String>, help: impl Into<String>) {
        self.faults.push(ConfigFault { place: None, message: message.into(), help: help.into() });
    }

    /// Checks a name that every ledger row contains.
    fn short_name(&mut self, name: &str, forbidden: &[char], path: &Path) -> bool {
        if name.len() > MAX_NAME_BYTES {
            let help = "use a shorter one: it is written down with every request";
            self.fault(path, format!("this name has more than {MAX_NAME_BYTES} bytes"), help);
            return false;
        }
        self.name(name, forbidden, path)
    }

    /// Checks a name that logs, metrics and requests contain unescaped.
    fn name(&mut self, name: &str, forbidden: &[char], path: &Path) -> bool {
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
