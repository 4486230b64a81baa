//! What is different between the configuration in force and one that was read, in words for the log. Never a secret:
//! names only.

use std::fmt;

use crate::config::{Config, Key, Model, ModelPrice, Server};

/// More names than these in one line help nobody.
const NAMES: usize = 20;

/// The difference between two configurations.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) upstreams: ListChanges,
    pub(super) models: ListChanges,
    pub(super) keys: ListChanges,
    /// Settings beside these lists.
    pub(super) settings: Vec<&'static str>,
}

/// What happened to the entries of a list.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ListChanges {
    added: Vec<String>,
    removed: Vec<String>,
    changed: Vec<String>,
}

/// Puts the settings that only a start can take back to what they are in `running`. Returned are those that differed.
pub(super) fn keep(running: &Config, read: &mut Config) -> Vec<&'static str> {
    fn keep<T: PartialEq + Clone>(name: &'static str, was: &T, is: &mut T) -> Option<&'static str> {
        let kept = (was != is).then_some(name);
        is.clone_from(was);
        kept
    }
    let (was, is) = (&running.server, &mut read.server);
    // Another certificate is taken, but who began without one goes on without, and the other way round.
    let tls = (was.tls.is_some() != is.tls.is_some()).then(|| {
        is.tls.clone_from(&was.tls);
        "server.tls"
    });
    let kept = [
        keep("server.listen", &was.listen, &mut is.listen),
        keep("server.admin_listen", &was.admin_listen, &mut is.admin_listen),
        keep("server.metrics_listen", &was.metrics_listen, &mut is.metrics_listen),
        keep("server.data_dir", &was.data_dir, &mut is.data_dir),
        keep("server.workers", &was.workers, &mut is.workers),
        keep("server.max_connections", &was.max_connections, &mut is.max_connections),
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
    /// Between the configuration in force and the next one; none where they are the same.
    pub(super) fn between(was: &Config, is: &Config) -> Option<Self> {
        if was == is {
            return None;
        }
        // Every field by its name: a new one shall not be forgotten.
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
        } = is;
        let default = |config: &Config, index: Option<usize>| index.map(|index| upstream(config, index).to_owned());
        let settings = [
            ("server", without_tls(server) != without_tls(&was.server)),
            ("certificate", server.tls != was.server.tls),
            ("timeouts", *timeouts != was.timeouts),
            (
                "routing",
                *retries != was.retries || default(is, *default_upstream) != default(was, was.default_upstream),
            ),
            ("health", *health != was.health),
            ("affinity", *affinity != was.affinity),
            ("alerts", *alerts != was.alerts),
            ("money", *money != was.money),
            ("prices", !same_prices(was, is, prices)),
            ("groups", *groups != was.groups),
            ("upstreams without credential", *idle != was.idle),
        ];
        let changes = Self {
            upstreams: ListChanges::between(&was.upstreams, upstreams, |one| &one.name, |one, other| one == other),
            models: ListChanges::between(
                &was.models,
                models,
                |one| &one.name,
                |one, other| same_model(was, one, is, other),
            ),
            keys: ListChanges::between(&was.keys, keys, |one| &one.name, |one, other| same_key(was, one, is, other)),
            settings: settings.into_iter().filter_map(|(name, changed)| changed.then_some(name)).collect(),
        };
        // Names are listed, and the first of equals is asked, in the order of the file.
        Some(if changes == Self::default() { Self { settings: vec!["order"], ..changes } } else { changes })
    }

    /// The settings for the log, if any of them changed.
    pub(super) fn settings(&self) -> Option<String> {
        (!self.settings.is_empty()).then(|| self.settings.join(", "))
    }
}

/// Indices of upstreams mean something only beside their own list.
fn same_prices(was: &Config, is: &Config, prices: &[ModelPrice]) -> bool {
    let of = |config: &Config, price: &ModelPrice| {
        (upstream(config, price.upstream).to_owned(), price.model.clone(), price.from, price.price.clone())
    };
    was.prices.iter().map(|price| of(was, price)).eq(prices.iter().map(|price| of(is, price)))
}

impl ListChanges {
    fn between<'a, T>(was: &'a [T], is: &'a [T], name: fn(&T) -> &str, same: impl Fn(&T, &T) -> bool) -> Self {
        let other = |list: &'a [T], one: &T| list.iter().find(|other| name(other) == name(one));
        let mut names = Self::default();
        for one in is {
            match other(was, one) {
                None => names.added.push(name(one).to_owned()),
                Some(before) if !same(before, one) => names.changed.push(name(one).to_owned()),
                Some(_) => {}
            }
        }
        names.removed = was.iter().filter(|one| other(is, one).is_none()).map(|one| name(one).to_owned()).collect();
        names
    }

    /// For the log, if there is anything to tell.
    pub(super) fn told(&self) -> Option<String> {
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
            let shown = names.get(..NAMES).unwrap_or(names);
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

/// The name behind an index: another upstream before it moves it, and changes nothing else.
fn upstream(config: &Config, index: usize) -> &str {
    config.upstreams.get(index).map_or("", |upstream| &upstream.name)
}

fn same_model(was: &Config, one: &Model, is: &Config, other: &Model) -> bool {
    (one.strategy, one.on_lost_state, one.require_usage) == (other.strategy, other.on_lost_state, other.require_usage)
        && one.targets.len() == other.targets.len()
        && one.targets.iter().zip(&other.targets).all(|(one, other)| {
            upstream(was, one.upstream) == upstream(is, other.upstream)
                && one.model == other.model
                && one.priority == other.priority
                && one.weight == other.weight
        })
}

fn same_key(was: &Config, one: &Key, is: &Config, other: &Key) -> bool {
    let upstreams = |config, key: &Key| {
        let indices = key.upstreams.as_ref()?.iter();
        Some(indices.map(|index| upstream(config, *index).to_owned()).collect::<Vec<_>>())
    };
    let group = |config: &Config, key: &Key| Some(config.groups.get(key.group?)?.name.to_string());
    one.sha256 == other.sha256
        && one.models == other.models
        && one.limits == other.limits
        && (&one.budgets, &one.warn_at) == (&other.budgets, &other.warn_at)
        && one.limits_by_model == other.limits_by_model
        && (&one.ips, one.expires, one.on_client_gone) == (&other.ips, other.expires, other.on_client_gone)
        && (&one.kept, one.require_usage) == (&other.kept, other.require_usage)
        && upstreams(was, one) == upstreams(is, other)
        && group(was, one) == group(is, other)
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

    /// What is told of the way from [`ONE`] to another text: upstreams, models, keys, settings.
    fn told(replaced: &str, by: &str) -> [Option<String>; 4] {
        assert!(ONE.contains(replaced), "{replaced}");
        let changes = Changes::between(&read(ONE), &read(&ONE.replacen(replaced, by, 1))).unwrap();
        [changes.upstreams.told(), changes.models.told(), changes.keys.told(), changes.settings()]
    }

    #[test]
    fn what_changed_is_told_by_its_name_and_nothing_else_is() {
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
            // Every index moves.
            ("[[up", "[[upstreams]]\nname=\"c\"\nbase_url=\"http://c/v1\"\n[[up", [Some("added c"), None, None, None]),
            ("[[up", "[server]\nmax_body_mib = 1\n[[up", [None, None, None, Some("server")]),
            ("[[up", "[routing]\ndefault_upstream = \"a\"\n[[up", [None, None, None, Some("routing")]),
            (
                "[[up",
                "[timeouts]\nhead_s = 1\n[health]\neject_s = 1\n[[up",
                [None, None, None, Some("timeouts, health")],
            ),
        ] {
            assert_eq!(told(replaced, by), expected.map(|text| text.map(str::to_owned)), "{by}");
        }
        let mut turned = read(ONE);
        turned.upstreams.reverse();
        turned.models[0].targets[0].upstream = 0;
        turned.keys[0].upstreams = Some(vec![0]);
        assert_eq!(Changes::between(&read(ONE), &turned).unwrap().settings(), Some("order".into()));
    }

    #[test]
    fn a_long_list_is_cut() {
        let names = ListChanges { added: (0..50).map(|i| i.to_string()).collect(), ..ListChanges::default() };
        assert!(names.to_string().ends_with(", 18, 19 and 30 more"), "{names}");
    }

    #[test]
    fn what_only_a_start_can_take_stays_as_it_is() {
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
        assert_eq!(keep(&running, &mut other), kept);
        assert_eq!(Changes::between(&running, &other).unwrap().settings(), Some("server".into()));
        other.server.max_body_bytes = running.server.max_body_bytes;
        assert_eq!(Changes::between(&running, &other), None);
        assert_eq!(keep(&running, &mut other), [""; 0]);
        assert_eq!(keep(&with_tls, &mut other), ["server.tls"]);
        assert_eq!(Changes::between(&with_tls, &other), None);
        if let Some(identity) = &mut other.server.tls {
            identity.digest = [7; 32];
        }
        assert_eq!(keep(&with_tls, &mut other), [""; 0]);
        assert_eq!(Changes::between(&with_tls, &other).unwrap().settings(), Some("certificate".into()));
    }
}
