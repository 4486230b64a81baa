//! From settings of sound shape to checked configuration. Every check goes on after a fault, so that all are found.

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

/// Checks the settings. The configuration holds stand-ins where there were faults: it is good only if there are none,
/// neither here nor in the shape (`sound`).
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
    /// Whether nothing was left out of the settings because of its shape: otherwise nobody can say that a name is missing.
    sound: bool,
    env: &'a dyn Fn(&str) -> Option<OsString>,
    /// Reads files, for secrets and certificates.
    reads: &'a mut WatchedFiles,
    secrets: SecretsNeeded,
    /// Currencies of prices, where they are kept apart.
    billed: Vec<Currency>,
    faults: Vec<ConfigFault>,
}

impl Check<'_> {
    /// Whether all names of a list of tables are known, so that another name is one that is missing. A list that is left out for
    /// its shape, an entry without a name and a header that is misspelled leave a doubt; faults elsewhere do not.
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

    /// Whether something is written for this setting, be it sound or not.
    fn is_written(&self, table: &Path, name: &str) -> bool {
        self.document.place(&table.key(name)) != self.document.place(table)
    }

    /// A fault of the setting at the end of the path.
    fn fault(&mut self, path: &Path, message: impl Into<String>, help: impl Into<String>) {
        let place = self.document.place(path);
        self.faults.push(ConfigFault { place, message: message.into(), help: help.into() });
    }

    /// A fault that is not in the file.
    fn fault_outside(&mut self, message: impl Into<String>, help: impl Into<String>) {
        self.faults.push(ConfigFault { place: None, message: message.into(), help: help.into() });
    }

    /// A name that is written down with every request.
    fn short_name(&mut self, name: &str, forbidden: &[char], path: &Path) -> bool {
        if name.len() > MAX_NAME_BYTES {
            let help = "use a shorter one: it is written down with every request";
            self.fault(path, format!("this name has more than {MAX_NAME_BYTES} bytes"), help);
            return false;
        }
        self.name(name, forbidden, path)
    }

    /// A name that logs, metrics and requests can carry as it is.
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
