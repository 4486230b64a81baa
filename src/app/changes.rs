//! Compares the running configuration with a new one, in words for the log. The result holds names only, never a
//! secret.

use std::fmt;

use crate::config::{Config, Key, Model, ModelPrice, Server};

/// The most names in one log field. A longer list helps nobody.
const MAX_NAMES: usize = 20;

/// The difference between the running configuration and a new one: names of upstreams, models, keys and settings, for the log.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) upstreams: ListChanges,
    pub(super) models: ListChanges,
    pub(super) keys: ListChanges,
    /// Names of the other settings that changed.
    pub(super) settings: Vec<&'static str>,
}

/// Names of the entries in a list of the configuration (such as `[[models]]`) that a reload adds, removes or changes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ListChanges {
    added: Vec<String>,
    removed: Vec<String>,
    changed: Vec<String>,
}

/// Resets the settings of a new configuration that need a restart to their values in `running`. Returns the names of those that differed.
pub(super) fn keep_running_settings(running: &Config, read: &mut Config) -> Vec<&'static str> {
    fn keep<T: PartialEq + Clone>(name: &'static str, running: &T, next: &mut T) -> Option<&'static str> {
        let kept = (running != next).then_some(name);
        next.clone_from(running);
        kept
    }
    let (server, next) = (&running.server, &mut read.server);
    // A reload can replace the certificate. It cannot turn TLS on or off.
    let tls = (server.tls.is_some() != next.tls.is_some()).then(|| {
        next.tls.clone_from(&server.tls);
        "server.tls"
    });
    let kept = [
        keep("server.listen", &server.listen, &mut next.listen),
        keep("server.admin_listen", &server.admin_listen, &mut next.admin_listen),
        keep("server.metrics_listen", &server.metrics_listen, &mut next.metrics_listen),
        keep("server.data_dir", &server.data_dir, &mut next.data_dir),
        keep("server.workers", &server.workers, &mut next.workers),
        keep("server.max_connections", &server.max_connections, &mut next.max_connections),
        tls,
        keep("log", &running.log, &mut read.log),
        keep("store", &running.store, &mut read.store),
        keep("store.keep_days", &running.keep_days, &mut read.keep_days),
        keep("limits", &running.sharing, &mut read.sharing),
        keep("affinity.shared", &running.affinity.shared, &mut read.affinity.shared),
    ];
    kept.into_iter().flatten().collect()
}

impl Changes {
    /// Compares the running configuration with the next one. Returns the difference, or `None` if they are equal.
    pub(super) fn between(running: &Config, next: &Config) -> Option<Self> {
        if running == next {
            return None;
        }
        // This pattern names every field: the compiler then reports a new field that is missing here.
        let Config {
            server,
            timeouts,
            log: _,
            store: _,
            keep_days: _,
            sharing: _,
            upstreams,
            idle,
            models,
            keys,
            groups,
            default_upstream,
            money,
            prices,
            retries,
            health,
            affinity,
            alerts,
        } = next;
        let default = |config: &Config, index: Option<usize>| index.map(|index| upstream(config, index).to_owned());
        let settings = [
            ("server", without_tls(server) != without_tls(&running.server)),
            ("certificate", server.tls != running.server.tls),
            ("timeouts", *timeouts != running.timeouts),
            (
                "routing",
                *retries != running.retries
                    || default(next, *default_upstream) != default(running, running.default_upstream),
            ),
            ("health", *health != running.health),
            ("affinity", *affinity != running.affinity),
            ("alerts", *alerts != running.alerts),
            ("money", *money != running.money),
            ("prices", !same_prices(running, next, prices)),
            ("groups", *groups != running.groups),
            ("upstreams without credential", *idle != running.idle),
        ];
        let changes = Self {
            upstreams: ListChanges::between(
                &running.upstreams,
                upstreams,
                |entry| &entry.name,
                |entry, other| entry == other,
            ),
            models: ListChanges::between(
                &running.models,
                models,
                |entry| &entry.name,
                |entry, other| same_model(running, entry, next, other),
            ),
            keys: ListChanges::between(
                &running.keys,
                keys,
                |entry| &entry.name,
                |entry, other| same_key(running, entry, next, other),
            ),
            settings: settings.into_iter().filter_map(|(name, changed)| changed.then_some(name)).collect(),
        };
        // The configurations differ and no entry does, so their order differs. Order matters: `/v1/models` lists names
        // in it, and the first of equal targets is tried first.
        Some(if changes == Self::default() { Self { settings: vec!["order"], ..changes } } else { changes })
    }

    /// The names of the settings that a reload changes, as text for the log. `None` if there are none.
    pub(super) fn settings(&self) -> Option<String> {
        (!self.settings.is_empty()).then(|| self.settings.join(", "))
    }
}

/// Compares prices by the upstream's name: an index is valid only within its own configuration.
fn same_prices(running: &Config, next: &Config, prices: &[ModelPrice]) -> bool {
    let of = |config: &Config, price: &ModelPrice| {
        (upstream(config, price.upstream).to_owned(), price.model.clone(), price.from, price.price.clone())
    };
    running.prices.iter().map(|price| of(running, price)).eq(prices.iter().map(|price| of(next, price)))
}

impl ListChanges {
    fn between<'a, T>(running: &'a [T], next: &'a [T], name: fn(&T) -> &str, same: impl Fn(&T, &T) -> bool) -> Self {
        let other = |list: &'a [T], entry: &T| list.iter().find(|other| name(other) == name(entry));
        let mut names = Self::default();
        for entry in next {
            match other(running, entry) {
                None => names.added.push(name(entry).to_owned()),
                Some(before) if !same(before, entry) => names.changed.push(name(entry).to_owned()),
                Some(_) => {}
            }
        }
        names.removed =
            running.iter().filter(|entry| other(next, entry).is_none()).map(|entry| name(entry).to_owned()).collect();
        names
    }

    /// The names of the entries that a reload adds, removes or changes, as text for the log. `None` if nothing changed.
    pub(super) fn summary(&self) -> Option<String> {
        (*self != Self::default()).then(|| self.to_string())
    }
}

impl fmt::Display for ListChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before = "";
        for (what, names) in [("added", &self.added), ("removed", &self.removed), ("changed", &self.changed)] {
            if names.is_empty() {
                continue;
            }
            let shown = names.get(..MAX_NAMES).unwrap_or(names);
            write!(f, "{before}{what} {}", shown.join(", "))?;
            if shown.len() < names.len() {
                write!(f, " and {} more", names.len() - shown.len())?;
            }
            before = "; ";
        }
        Ok(())
    }
}

fn without_tls(server: &Server) -> Server {
    Server { tls: None, ..server.clone() }
}

/// The name of the upstream with this index. A new upstream earlier in the file shifts the index without any other
/// change.
fn upstream(config: &Config, index: usize) -> &str {
    config.upstreams.get(index).map_or("", |upstream| &upstream.name)
}

fn same_model(running: &Config, entry: &Model, next: &Config, other: &Model) -> bool {
    (entry.strategy, entry.on_lost_state, entry.require_usage)
        == (other.strategy, other.on_lost_state, other.require_usage)
        && entry.targets.len() == other.targets.len()
        && entry.targets.iter().zip(&other.targets).all(|(entry, other)| {
            upstream(running, entry.upstream) == upstream(next, other.upstream)
                && entry.model == other.model
                && entry.priority == other.priority
                && entry.weight == other.weight
        })
}

fn same_key(running: &Config, entry: &Key, next: &Config, other: &Key) -> bool {
    let upstreams = |config, key: &Key| {
        let indices = key.upstreams.as_ref()?.iter();
        Some(indices.map(|index| upstream(config, *index).to_owned()).collect::<Vec<_>>())
    };
    let group = |config: &Config, key: &Key| Some(config.groups.get(key.group?)?.name.to_string());
    entry.sha256 == other.sha256
        && entry.models == other.models
        && entry.limits == other.limits
        && (&entry.budgets, &entry.warn_at) == (&other.budgets, &other.warn_at)
        && entry.limits_by_model == other.limits_by_model
        && (&entry.ips, entry.expires, entry.on_client_gone) == (&other.ips, other.expires, other.on_client_gone)
        && (&entry.kept, entry.require_usage) == (&other.kept, other.require_usage)
        && upstreams(running, entry) == upstreams(next, other)
        && group(running, entry) == group(next, other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Source, load};

    fn read(text: &str) -> Config {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let env = |name: &str| match name {
            "ONE" | "TWO" | "KEY" | "NEW_KEY" => Some(format!("sk-canary-of-{name}").into()),
            _ => None,
        };
        load(&Source::File(file.path().into()), &env).unwrap().config
    }

    const ONE: &str = r#"
        [[upstreams]]
        name = "a"
        base_url = "http://a/v1"
        [[upstreams]]
        name = "b"
        base_url = "http://b/v1"
        credentials = [{ env = "ONE" }]
        [[models]]
        name = "m"
        targets = [{ upstream = "b" }]
        [[keys]]
        name = "k"
        secret = { env = "KEY" }
        upstreams = ["b"]
    "#;

    /// The log fields for a reload from [`ONE`] with one text replaced: upstreams, models, keys, settings.
    fn summary(replaced: &str, by: &str) -> [Option<String>; 4] {
        assert!(ONE.contains(replaced), "{replaced}");
        let changes = Changes::between(&read(ONE), &read(&ONE.replacen(replaced, by, 1))).unwrap();
        [changes.upstreams.summary(), changes.models.summary(), changes.keys.summary(), changes.settings()]
    }

    #[test]
    fn changes_name_exactly_the_entries_that_changed() {
        assert_eq!(Changes::between(&read(ONE), &read(ONE)), None);
        for (replaced, by, expected) in [
            ("\"ONE\"", "\"TWO\"", [Some("changed b"), None, None, None]),
            ("\"KEY\"", "\"NEW_KEY\"", [None, None, Some("changed k"), None]),
            ("name = \"k\"", "name = \"l\"", [None, None, Some("added l; removed k"), None]),
            ("\"m\"\n", "\"m*\"\n", [None, Some("added m*; removed m"), None, None]),
            ("upstreams = [\"b\"]", "", [None, None, Some("changed k"), None]),
            (
                "name = \"m\"",
                "name = \"m\"\non_lost_state = \"strip_encrypted\"",
                [None, Some("changed m"), None, None],
            ),
            ("[[up", "[affinity]\nttl_days = 1\n[[up", [None, None, None, Some("affinity")]),
            // A new upstream at the front shifts every index.
            ("[[up", "[[upstreams]]\nname=\"c\"\nbase_url=\"http://c/v1\"\n[[up", [Some("added c"), None, None, None]),
            ("[[up", "[server]\nmax_body_mib = 1\n[[up", [None, None, None, Some("server")]),
            ("[[up", "[routing]\ndefault_upstream = \"a\"\n[[up", [None, None, None, Some("routing")]),
            (
                "[[up",
                "[timeouts]\nhead_s = 1\n[health]\neject_s = 1\n[[up",
                [None, None, None, Some("timeouts, health")],
            ),
        ] {
            assert_eq!(summary(replaced, by), expected.map(|text| text.map(str::to_owned)), "{by}");
        }
        let mut turned = read(ONE);
        turned.upstreams.reverse();
        turned.models[0].targets[0].upstream = 0;
        turned.keys[0].upstreams = Some(vec![0]);
        assert_eq!(Changes::between(&read(ONE), &turned).unwrap().settings(), Some("order".into()));
    }

    #[test]
    fn a_long_list_of_names_is_shortened() {
        let names = ListChanges { added: (0..50).map(|i| i.to_string()).collect(), ..ListChanges::default() };
        assert!(names.to_string().ends_with(", 18, 19 and 30 more"), "{names}");
    }

    #[test]
    fn settings_that_need_a_restart_keep_their_running_values() {
        let running = read(ONE);
        let mut other = read(&format!(
            "[server]\nlisten = \"127.0.0.1:1\"\nadmin_listen = \"127.0.0.1:2\"\nmetrics_listen = \"127.0.0.1:3\"\n\
             workers = 77\nmax_connections = 7\nmax_body_mib = 7\n[limits]\nredis = \"redis://h\"\nreplicas = 2\n[log]\nlevel = \"warn\"\n{ONE}"
        ));
        other.server.data_dir = "elsewhere".into();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let folder = tempfile::TempDir::new().unwrap();
        let (cert, key) = (folder.path().join("crt"), folder.path().join("key"));
        std::fs::write(&cert, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let with_tls = read(&format!("[server]\ntls = {{ cert_file = {cert:?}, key_file = {key:?} }}\n{ONE}"));
        other.server.tls.clone_from(&with_tls.server.tls);
        let kept = [
            "server.listen",
            "server.admin_listen",
            "server.metrics_listen",
            "server.data_dir",
            "server.workers",
            "server.max_connections",
            "server.tls",
            "log",
            "limits",
            "affinity.shared",
        ];
        assert_eq!(keep_running_settings(&running, &mut other), kept);
        assert_eq!(Changes::between(&running, &other).unwrap().settings(), Some("server".into()));
        other.server.max_body_bytes = running.server.max_body_bytes;
        assert_eq!(Changes::between(&running, &other), None);
        assert_eq!(keep_running_settings(&running, &mut other), [""; 0]);
        assert_eq!(keep_running_settings(&with_tls, &mut other), ["server.tls"]);
        assert_eq!(Changes::between(&with_tls, &other), None);
        if let Some(identity) = &mut other.server.tls {
            identity.digest = [7; 32];
        }
        assert_eq!(keep_running_settings(&with_tls, &mut other), [""; 0]);
        assert_eq!(Changes::between(&with_tls, &other).unwrap().settings(), Some("certificate".into()));
    }
}
