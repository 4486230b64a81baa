//! Turns settings of valid shape into a checked configuration. Every check continues after a fault, so that all faults are found.

mod access;
mod affinity;
mod alerts;
mod context;
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

pub(super) use access::network;
pub(super) use key::NO_MONTH;

use context::Check;

use super::{
    document::{Document, Path},
    raw,
    reads::WatchedFiles,
    report::ConfigFault,
    types::{Config, SecretsNeeded},
};

/// Checks the settings of a configuration file whose shape is valid. Faulty settings are replaced by stand-ins. The result is
/// usable only if `config` returns no fault and the shape has none (`sound`).
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
