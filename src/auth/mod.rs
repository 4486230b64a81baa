//! Bearer key to caller, by hash; makes and hashes keys.

mod address;

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, atomic::Ordering},
};

use data_encoding::BASE32_NOPAD;
use http::{HeaderMap, header::AUTHORIZATION};
use ipnet::IpNet;
use secrecy::SecretString;
use sha2::{Digest, Sha256};

use crate::{
    config::{Config, KeySource, OnClientGone},
    domain::{
        chance::{Chance, NoChance},
        key::StoredKeysStatus,
        origin::Owner,
    },
};

/// Who calls, and what that key may use.
#[derive(Debug)]
pub struct Caller {
    /// Name of the key in logs.
    pub name: Arc<str>,
    /// Name of its group, if it has one.
    pub group: Option<Arc<str>>,
    /// Whose state is that it makes.
    pub owner: Owner,
    /// Its place in the configuration.
    pub index: usize,
    /// What becomes of the call upstream when the client leaves before its end.
    pub on_client_gone: OnClientGone,
    /// Its chat streams have to tell their tokens.
    pub require_usage: bool,
    /// When it ends: milliseconds since 1970-01-01 UTC.
    pub expires: Option<u64>,
    models: Option<Vec<Arc<str>>>,
    upstreams: Option<Vec<usize>>,
    ips: Vec<IpNet>,
    refused: Option<&'static str>,
}

impl Caller {
    /// Whether the key may ask for this name. The name as asked must match, whatever it leads to.
    pub fn may_ask(&self, model: &str) -> bool {
        self.models.as_ref().is_none_or(|patterns| {
            patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
                Some(prefix) => model.starts_with(prefix),
                None => **pattern == *model,
            })
        })
    }

    /// Whether the key is restricted to some models: then it may not leave the model out.
    pub fn is_restricted_in_models(&self) -> bool {
        self.models.is_some()
    }

    /// Whether the key may be served by this upstream (an index of the configuration).
    pub fn may_use(&self, upstream: usize) -> bool {
        self.upstreams.as_ref().is_none_or(|allowed| allowed.contains(&upstream))
    }
}

/// Every key, by the SHA-256 of its secret.
#[derive(Debug, Default)]
pub struct Keys {
    by_digest: HashMap<[u8; 32], KeyEntry>,
    trusted_proxies: Vec<IpNet>,
    /// The keys of the store were never read: nobody can tell that one is not known.
    unread: bool,
    /// By upstream: whether it is used by keys that do not share their state.
    strangers: Vec<bool>,
    /// Whether they can be read now.
    store: Arc<StoredKeysStatus>,
}

#[derive(Debug)]
struct KeyEntry {
    caller: Arc<Caller>,
    /// From when on it is refused: milliseconds since 1970-01-01 UTC.
    until: Option<u64>,
}

impl KeyEntry {
    /// Why it is refused at `now`, if it is.
    fn refused(&self, now: u64) -> Option<&'static str> {
        match self.until {
            _ if self.caller.refused.is_some() => self.caller.refused,
            Some(until) if until <= now => Some("expired"),
            _ => None,
        }
    }
}

/// What is known of a request beside its head.
#[derive(Clone, Copy, Debug)]
pub struct RequestFrom {
    /// Where its connection comes from.
    pub peer: Option<IpAddr>,
    /// When it came: milliseconds since 1970-01-01 UTC.
    pub now: u64,
}

/// Why a request has no caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthError {
    /// No bearer key was sent.
    NoKey,
    /// More than one `Authorization` was sent.
    SeveralKeys,
    /// The key is not known.
    UnknownKey,
    /// It is known and may not be used: its name, and why. Nobody is told but the log.
    Refused(Arc<str>, &'static str),
    /// It may be one of the store, which was never read or cannot be read now.
    Unread,
}

impl Keys {
    /// All keys of the configuration, and their groups. `store` says whether there may be others.
    pub fn new(config: &Config, store: &Arc<StoredKeysStatus>) -> Self {
        // As of now: what is read from here on gets into keys of its own.
        let unread = store.unread.load(Ordering::Acquire);
        let mut by_digest = HashMap::new();
        let mut users: Vec<Option<Owner>> = vec![None; config.upstreams.len()];
        let mut strangers = vec![unread; config.upstreams.len()];
        for (index, key) in config.keys.iter().enumerate() {
            let group = key.group.and_then(|group| config.groups.get(group)).map(|group| Arc::clone(&group.name));
            let (refused, previous) = match key.kept {
                KeySource::File => (None, None),
                KeySource::Store { previous, refused } => (refused, previous),
            };
            let caller = Arc::new(Caller {
                name: Arc::clone(&key.name),
                owner: Owner::new(&key.name, group.as_deref()),
                group,
                index,
                on_client_gone: key.on_client_gone,
                require_usage: key.require_usage,
                expires: key.expires,
                models: key.models.clone(),
                upstreams: key.upstreams.clone(),
                ips: key.ips.clone(),
                refused,
            });
            // Whether it may be used now or not: what it made is there.
            for (upstream, (user, strangers)) in users.iter_mut().zip(&mut strangers).enumerate() {
                if caller.may_use(upstream) {
                    *strangers |= !user.get_or_insert(caller.owner).shares_with(caller.owner);
                }
            }
            by_digest.insert(key.sha256, KeyEntry { caller: Arc::clone(&caller), until: key.expires });
            if let Some((digest, until)) = previous {
                let until = Some(key.expires.map_or(until, |expires| expires.min(until)));
                by_digest.entry(digest).or_insert(KeyEntry { caller, until });
            }
        }
        Self {
            by_digest,
            trusted_proxies: config.server.trusted_proxies.clone(),
            unread,
            strangers,
            store: Arc::clone(store),
        }
    }

    /// Whether keys may use this upstream (an index of the configuration) that do not share their state with each other: the
    /// keys of one group are one. So they are where nobody knows all keys.
    pub fn strangers_use(&self, upstream: usize) -> bool {
        self.strangers.get(upstream).is_none_or(|strangers| *strangers)
    }

    /// The caller whose key has this name.
    pub fn named(&self, name: &str) -> Option<Arc<Caller>> {
        let mut callers = self.by_digest.values().map(|entry| &entry.caller);
        callers.find(|caller| *caller.name == *name).cloned()
    }

    /// Why a key of this name would be refused at `now` wherever it comes from, if it would.
    pub fn refused(&self, name: &str, now: u64) -> Option<&'static str> {
        let mut entries = self.by_digest.values().filter(|entry| *entry.caller.name == *name);
        // Also by the one before the last rotation it may be served.
        entries.try_fold("unknown", |_, entry| entry.refused(now)).filter(|why| *why != "unknown")
    }

    /// Who sent these headers. Looked up by the whole digest, so that no comparison takes longer the closer it is.
    ///
    /// # Errors
    /// When there is not exactly one bearer key, or it is not known, or it may not be used now or from there.
    pub fn authenticate(&self, headers: &HeaderMap, visit: RequestFrom) -> Result<Arc<Caller>, AuthError> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let value = match (values.next(), values.next()) {
            (Some(value), None) => value,
            (None, _) => return Err(AuthError::NoKey),
            (Some(_), Some(_)) => return Err(AuthError::SeveralKeys),
        };
        let key = bearer(value.as_bytes()).ok_or(AuthError::NoKey)?;
        let Some(entry) = self.by_digest.get(&digest(key)) else {
            if is_joined(key) {
                return Err(AuthError::SeveralKeys);
            }
            // Made a moment ago, perhaps by another replica: nobody can say that it was not.
            let made = || self.store.fails.load(Ordering::Acquire) && is_ours(key);
            return Err(if self.unread || made() { AuthError::Unread } else { AuthError::UnknownKey });
        };
        let caller = &entry.caller;
        let refused = |why| Err(AuthError::Refused(Arc::clone(&caller.name), why));
        if let Some(why) = entry.refused(visit.now) {
            return refused(why);
        }
        if !caller.ips.is_empty()
            && !self.client(headers, visit).is_some_and(|from| caller.ips.iter().any(|network| network.contains(&from)))
        {
            return refused("network");
        }
        Ok(Arc::clone(caller))
    }
}

impl Keys {
    /// Where a request comes from, as far as proxies that are trusted say.
    pub fn client(&self, headers: &HeaderMap, visit: RequestFrom) -> Option<IpAddr> {
        visit.peer.map(|peer| address::client(peer, &self.trusted_proxies, headers))
    }
}

/// The first characters of the key that was sent, for the log. Of a key that Tidegate made these are the ones that
/// `tidegate keys list` shows. Of anything else, which may be the key of a provider or a short password, 6 characters at
/// most and never more than a quarter.
pub fn begins(headers: &HeaderMap) -> Option<Box<str>> {
    let key = bearer(headers.get(AUTHORIZATION)?.as_bytes())?;
    let shown = if is_ours(key) { PREFIX } else { (key.len() / 4).min(6) };
    let plain =
        |byte: &u8| if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') { char::from(*byte) } else { '?' };
    let text: String = key.iter().take(shown).map(plain).collect();
    (!text.is_empty()).then(|| format!("{text}…").into())
}

/// The key behind the scheme, whose letter case does not matter (RFC 9110).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, key) = value.split_at_checked(b"bearer ".len())?;
    let key = key.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer ") && !key.is_empty()).then_some(key)
}

/// Whether a proxy joined two `Authorization` headers to one line: a second scheme follows a comma.
fn is_joined(key: &[u8]) -> bool {
    key.split(|byte| *byte == b',').skip(1).any(|part| {
        let scheme = part.trim_ascii().split(u8::is_ascii_whitespace).next().unwrap_or_default();
        scheme.eq_ignore_ascii_case(b"bearer") || scheme.eq_ignore_ascii_case(b"basic")
    })
}

/// What is kept of a key.
pub fn digest(key: &[u8]) -> [u8; 32] {
    Sha256::digest(key).into()
}

/// Characters of a key by which people know it again: too few to be of any use to somebody else.
const PREFIX: usize = START.len() + 6;

/// What keys that we make begin with.
const START: &str = "tg-";

/// The first characters of a key.
pub fn prefix(key: &str) -> &str {
    key.get(..PREFIX).unwrap_or_default()
}

/// Makes a client key: `tg-`, then 256 random bits and a 32-bit checksum, in base 32.
///
/// # Errors
/// When the system has no randomness to give.
pub fn make_key(chance: Chance) -> Result<SecretString, NoChance> {
    let mut bytes = chance.bytes::<32>()?.to_vec();
    bytes.extend_from_slice(&checksum(&bytes));
    Ok(format!("{START}{}", BASE32_NOPAD.encode(&bytes).to_ascii_lowercase()).into())
}

/// Whether a key is one that [`make_key`] could have made.
fn is_ours(key: &[u8]) -> bool {
    let decoded = key.strip_prefix(START.as_bytes()).map(<[u8]>::to_ascii_uppercase);
    let decoded = decoded.and_then(|text| BASE32_NOPAD.decode(&text).ok());
    let halves = decoded.as_deref().and_then(<[u8]>::split_last_chunk::<4>);
    halves.is_some_and(|(random, sum)| random.len() == 32 && checksum(random) == *sum)
}

fn checksum(random: &[u8]) -> [u8; 4] {
    digest(random).first_chunk::<4>().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use secrecy::ExposeSecret;

    use super::*;
    use crate::config::{self, Key};

    fn keys() -> Keys {
        keys_with(|_| ())
    }

    fn keys_with(change: impl Fn(&mut Key)) -> Keys {
        let env = |name: &str| (name == "DMXAPI_API_KEY").then(|| "sk-upstream".into());
        let mut config = config::load(&config::Source::BuiltIn, &env).unwrap().config;
        config.keys = [("team-a", b"sk-a"), ("team-b", b"sk-b")]
            .map(|(name, secret)| Key {
                models: Some(vec!["smart".into(), "gpt-*".into()]),
                ..Key::unrestricted(name, digest(secret))
            })
            .into();
        config.keys.iter_mut().for_each(change);
        let store = StoredKeysStatus::default();
        store.unread.store(false, Ordering::Relaxed);
        Keys::new(&config, &Arc::new(store))
    }

    #[test]
    fn strangers_are_those_who_share_nothing() {
        let env = |name: &str| (name == "DMXAPI_API_KEY").then(|| "sk-upstream".into());
        let mut config = config::load(&config::Source::BuiltIn, &env).unwrap().config;
        let (one, mut two) = (config.upstreams[0].clone(), config.upstreams[0].clone());
        two.name = "two".into();
        config.upstreams = vec![one, two];
        config.groups = ["x", "y"]
            .map(|name| config::Group {
                name: name.into(),
                limits: config::KeyLimits::default(),
                budgets: Vec::new(),
                warn_at: Default::default(),
            })
            .into();
        let mut ask = |keys: &[(&str, Option<usize>, Option<usize>)], unread| {
            config.keys = Vec::new();
            for (name, group, upstream) in keys {
                let key = Key::unrestricted(name, digest(name.as_bytes()));
                config.keys.push(Key { group: *group, upstreams: upstream.map(|upstream| vec![upstream]), ..key });
            }
            let store = StoredKeysStatus::default();
            store.unread.store(unread, Ordering::Relaxed);
            let keys = Keys::new(&config, &Arc::new(store));
            [0, 1].map(|upstream| keys.strangers_use(upstream))
        };
        assert_eq!(ask(&[("a", None, None)], false), [false, false]);
        assert_eq!(ask(&[("a", None, None)], true), [true, true]);
        assert_eq!(ask(&[("a", None, None), ("b", None, Some(1))], false), [false, true]);
        assert_eq!(ask(&[("a", None, Some(0)), ("b", None, Some(1))], false), [false, false]);
        assert_eq!(ask(&[("a", Some(0), None), ("b", Some(0), None)], false), [false, false]);
        assert_eq!(ask(&[("a", Some(0), None), ("b", Some(1), None)], false), [true, true]);
        assert_eq!(ask(&[("a", Some(0), None), ("b", Some(0), None), ("c", None, Some(0))], false), [true, false]);
        assert!(Keys::new(&config, &Arc::new(StoredKeysStatus::default())).strangers_use(2), "one that nobody knows");
    }

    #[test]
    fn few_characters_of_a_key_are_shown() {
        let shown = |value: &str| {
            let value = http::HeaderValue::from_bytes(value.as_bytes()).unwrap();
            begins(&HeaderMap::from_iter([(AUTHORIZATION, value)]))
        };
        let ours = make_key(Chance::system()).unwrap();
        let ours = ours.expose_secret();
        assert_eq!(shown(&format!("Bearer {ours}")).map(String::from), Some(format!("{}…", prefix(ours))));
        let other = format!("Bearer {}x", &ours[..ours.len() - 1]);
        for (value, wanted) in [
            (other.as_str(), Some(format!("{}…", &ours[..6]))),
            ("Bearer sk-proj-0123456789012345678901234567890", Some("sk-pro…".to_owned())),
            ("bearer hunter2!", Some("hu…".to_owned())),
            ("Bearer \"quoted-key-0123456789abcdef\"", Some("?quote…".to_owned())),
            ("Bearer abc", None),
            ("Bearer ", None),
            ("Basic dXNlcjpwYXNz", None),
        ] {
            assert_eq!(shown(value).map(String::from), wanted, "{value}");
        }
    }

    fn visit(now: u64) -> RequestFrom {
        RequestFrom { peer: Some("192.0.2.7".parse().unwrap()), now }
    }

    #[test]
    fn keys_that_may_not_be_used_are_refused_and_told_apart_for_the_log_only() {
        let ask = |change: &dyn Fn(&mut Key), secret: &'static str, now| {
            keys_with(change).authenticate(&with(&[secret]), visit(now)).map(|caller| caller.name.to_string())
        };
        let refused = |why| Err(AuthError::Refused("team-a".into(), why));
        let ends = |key: &mut Key| key.expires = Some(100);
        assert_eq!(ask(&ends, "Bearer sk-a", 99), Ok("team-a".into()));
        assert_eq!(ask(&ends, "Bearer sk-a", 100), refused("expired"));
        let from = |network: &'static str| move |key: &mut Key| key.ips = vec![network.parse().unwrap()];
        assert_eq!(ask(&from("192.0.2.0/24"), "Bearer sk-a", 0), Ok("team-a".into()));
        assert_eq!(ask(&from("198.51.100.0/24"), "Bearer sk-a", 0), refused("network"));
        let disabled = |key: &mut Key| key.kept = KeySource::Store { previous: None, refused: Some("disabled") };
        assert_eq!(ask(&disabled, "Bearer sk-a", 0), refused("disabled"));
        let rotated = |key: &mut Key| {
            if *key.name == *"team-a" {
                key.kept = KeySource::Store { previous: Some((digest(b"sk-old"), 50)), refused: None };
            }
        };
        assert_eq!(ask(&rotated, "Bearer sk-old", 49), Ok("team-a".into()));
        assert_eq!(ask(&rotated, "Bearer sk-old", 50), refused("expired"));
        assert_eq!(ask(&rotated, "Bearer sk-a", 50), Ok("team-a".into()));
    }

    fn with(values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (AUTHORIZATION, HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn the_scheme_is_case_insensitive_and_the_key_exact() {
        for value in ["Bearer sk-a", "bearer sk-a", "BEARER  sk-a"] {
            assert_eq!(&*keys().authenticate(&with(&[value]), visit(0)).unwrap().name, "team-a", "{value}");
        }
        for value in ["Bearer sk-A", "Bearer sk-a,", "Bearer sk-", "Bearer sk-ab"] {
            assert_eq!(keys().authenticate(&with(&[value]), visit(0)).unwrap_err(), AuthError::UnknownKey, "{value}");
        }
    }

    #[test]
    fn what_is_no_single_bearer_key_is_none() {
        for values in [&[][..], &[""], &["Bearer"], &["Bearer "], &["Basic sk-a"], &["Bearersk-a"], &["sk-a"]] {
            assert_eq!(keys().authenticate(&with(values), visit(0)).unwrap_err(), AuthError::NoKey, "{values:?}");
        }
        for values in [
            &["Bearer sk-a", "Bearer sk-b"][..],
            &["", "Bearer sk-a"],
            &["Bearer sk-a, bearer sk-b"],
            &["Bearer a,Basic b"],
        ] {
            let stranger = keys().authenticate(&with(values), visit(0)).unwrap_err();
            assert_eq!(stranger, AuthError::SeveralKeys, "{values:?}");
        }
    }

    #[test]
    fn patterns_match_the_name_as_asked() {
        let caller = keys().authenticate(&with(&["Bearer sk-a"]), visit(0)).unwrap();
        for (model, may) in [("smart", true), ("gpt-5", true), ("gpt-", true), ("gpt", false), ("Smart", false)] {
            assert_eq!(caller.may_ask(model), may, "{model}");
        }
    }

    #[test]
    fn made_keys_are_long_and_differ() {
        let make = || make_key(Chance::system()).unwrap().expose_secret().to_owned();
        let (one, two) = (make(), make());
        assert_eq!(one.len(), "tg-".len() + 58);
        assert_ne!(one, two);
    }

    #[test]
    fn while_the_store_cannot_be_read_a_key_that_we_may_have_made_is_not_called_unknown() {
        let keys = keys();
        let made = make_key(Chance::system()).unwrap().expose_secret().to_owned();
        let mut typo = made.clone().into_bytes();
        typo[10] = if typo[10] == b'a' { b'b' } else { b'a' };
        let typo = String::from_utf8(typo).unwrap();
        let ask = |key: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, HeaderValue::try_from(format!("Bearer {key}")).unwrap());
            keys.authenticate(&headers, visit(0)).unwrap_err()
        };
        assert_eq!(ask(&made), AuthError::UnknownKey);
        keys.store.fails.store(true, Ordering::Relaxed);
        assert_eq!(ask(&made), AuthError::Unread);
        for other in [&*typo, "tg-nobody", "tg-", "sk-other", &made[..60], &format!("{made}a")] {
            assert_eq!(ask(other), AuthError::UnknownKey, "{other}");
        }
    }
}
