//! Authentication: finds the caller of a request by the hash of its bearer key. Also makes and hashes keys.

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
    concurrent::key_status::StoredKeysStatus,
    config::{Config, KeySource, OnClientGone},
    domain::{
        origin::Owner,
        random::{NoRandomBytes, RandomBytes},
    },
};

/// The caller of a request: the client key that the request was sent with, and the permissions of that key.
#[derive(Debug)]
pub struct Caller {
    /// Name of the key in logs.
    pub name: Arc<str>,
    /// Name of the key's group, if any.
    pub group: Option<Arc<str>>,
    /// Owner of the state that requests with this key create.
    pub owner: Owner,
    /// Index of the key in the configuration.
    pub index: usize,
    /// What Tidegate does with the upstream's answer when the client leaves before the end.
    pub on_client_gone: OnClientGone,
    /// Chat streams of this key have to report their usage.
    pub require_usage: bool,
    /// When the key expires, in milliseconds since 1970-01-01 UTC.
    pub expires: Option<u64>,
    models: Option<Vec<Arc<str>>>,
    upstreams: Option<Vec<usize>>,
    ips: Vec<IpNet>,
    /// Why the key is refused at any time, if it is.
    refused: Option<&'static str>,
}

impl Caller {
    /// Whether the caller's key may request this model. The permission is about the requested name, not about the targets.
    pub fn may_use_model(&self, model: &str) -> bool {
        self.models.as_ref().is_none_or(|patterns| {
            patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
                Some(prefix) => model.starts_with(prefix),
                None => **pattern == *model,
            })
        })
    }

    /// Whether the caller's key may request some models only. Requests of such a key must name a model.
    pub fn is_restricted_in_models(&self) -> bool {
        self.models.is_some()
    }

    /// Whether the caller's key may use this upstream (an index of the configuration).
    pub fn may_use(&self, upstream: usize) -> bool {
        self.upstreams.as_ref().is_none_or(|allowed| allowed.contains(&upstream))
    }
}

/// All client keys with their permissions, found by the SHA-256 of their secrets.
#[derive(Debug, Default)]
pub struct Keys {
    by_digest: HashMap<[u8; 32], KeyEntry>,
    trusted_proxies: Vec<IpNet>,
    /// The keys in the store were never read, so Tidegate cannot tell an unknown key from a key of the store.
    unread: bool,
    /// For each upstream: whether keys of several owners may use it.
    has_several_owners: Vec<bool>,
    /// Whether the keys in the store can be read now.
    store: Arc<StoredKeysStatus>,
}

#[derive(Debug)]
struct KeyEntry {
    caller: Arc<Caller>,
    /// When the secret expires, in milliseconds since 1970-01-01 UTC.
    until: Option<u64>,
}

impl KeyEntry {
    /// Why the key is refused at `now`; none = the key is accepted.
    fn refusal(&self, now: u64) -> Option<&'static str> {
        match self.until {
            _ if self.caller.refused.is_some() => self.caller.refused,
            Some(until) if until <= now => Some("expired"),
            _ => None,
        }
    }
}

/// Where a request comes from: the address of the peer, and the time of arrival.
#[derive(Clone, Copy, Debug)]
pub struct RequestSource {
    /// Address that the connection comes from.
    pub peer: Option<IpAddr>,
    /// When the request arrived, in milliseconds since 1970-01-01 UTC.
    pub now: u64,
}

/// Why Tidegate does not accept the client key of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthError {
    /// No bearer key was sent.
    NoKey,
    /// More than one `Authorization` was sent.
    SeveralKeys,
    /// The key is not known.
    UnknownKey,
    /// The key is known and may not be used: its name, and why. Only the log shows them, never the client.
    Refused(Arc<str>, &'static str),
    /// The key may be in the store, but the keys in the store were never read or cannot be read now.
    KeysUnread,
}

impl Keys {
    /// Makes the table of all client keys in a configuration, with their groups. `store` says whether the store may have further keys.
    pub fn new(config: &Config, store: &Arc<StoredKeysStatus>) -> Self {
        // Read once: a later read of the store makes new `Keys`.
        let unread = store.unread.load(Ordering::Acquire);
        let mut by_digest = HashMap::new();
        let mut first_owners: Vec<Option<Owner>> = vec![None; config.upstreams.len()];
        let mut has_several_owners = vec![unread; config.upstreams.len()];
        for (index, key) in config.keys.iter().enumerate() {
            let group = key.group.and_then(|group| config.groups.get(group)).map(|group| Arc::clone(&group.name));
            let (refused, previous) = match key.kept {
                KeySource::File | KeySource::Unset { .. } => (None, None),
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
            // Refused keys count too: the state that they created still exists.
            for (upstream, (first, several)) in first_owners.iter_mut().zip(&mut has_several_owners).enumerate() {
                if caller.may_use(upstream) {
                    *several |= !first.get_or_insert(caller.owner).shares_with(caller.owner);
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
            has_several_owners,
            store: Arc::clone(store),
        }
    }

    /// Whether keys of several owners may use this upstream (an index of the configuration). Keys of one group count as one
    /// owner. True also while the keys in the store were never read, and for an unknown upstream.
    pub fn has_several_owners(&self, upstream: usize) -> bool {
        self.has_several_owners.get(upstream).is_none_or(|several| *several)
    }

    /// Returns the client key with this name and its permissions. None for an unknown name.
    pub fn named(&self, name: &str) -> Option<Arc<Caller>> {
        let mut callers = self.by_digest.values().map(|entry| &entry.caller);
        callers.find(|caller| *caller.name == *name).cloned()
    }

    /// Why the client key with this name is refused at `now` from every address. None for a key that works.
    pub fn refusal(&self, name: &str, now: u64) -> Option<&'static str> {
        let mut entries = self.by_digest.values().filter(|entry| *entry.caller.name == *name);
        // After a rotation the key has two secrets. The key is refused only if both are.
        entries.try_fold("unknown", |_, entry| entry.refusal(now)).filter(|why| *why != "unknown")
    }

    /// Finds the caller of a request by the bearer key in its headers. The lookup compares digests, so its time does not show how
    /// much of a guessed key is right.
    ///
    /// # Errors
    /// The request does not have exactly one bearer key, or the key is not known. Or the key may not be used now or from this
    /// address.
    pub fn authenticate(&self, headers: &HeaderMap, source: RequestSource) -> Result<Arc<Caller>, AuthError> {
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
            // Another replica may have made this key a moment ago. While the store cannot be read, Tidegate cannot rule that out.
            let may_be_new = || self.store.fails.load(Ordering::Acquire) && has_valid_checksum(key);
            return Err(if self.unread || may_be_new() { AuthError::KeysUnread } else { AuthError::UnknownKey });
        };
        let caller = &entry.caller;
        let refused = |why| Err(AuthError::Refused(Arc::clone(&caller.name), why));
        if let Some(why) = entry.refusal(source.now) {
            return refused(why);
        }
        if !caller.ips.is_empty()
            && !self
                .client(headers, source)
                .is_some_and(|address| caller.ips.iter().any(|network| network.contains(&address)))
        {
            return refused("network");
        }
        Ok(Arc::clone(caller))
    }
}

impl Keys {
    /// Returns the IP address of the client that sent a request, also behind trusted proxies.
    pub fn client(&self, headers: &HeaderMap, source: RequestSource) -> Option<IpAddr> {
        source.peer.map(|peer| address::client(peer, &self.trusted_proxies, headers))
    }
}

/// The first characters of the client key in a request, for the log. For a key that Tidegate made, these are the characters that
/// `tidegate keys list` shows. Any other text may be a provider's key or a short password: at most 6 characters of it are shown,
/// and never more than a quarter.
pub fn loggable_prefix(headers: &HeaderMap) -> Option<Box<str>> {
    let key = bearer(headers.get(AUTHORIZATION)?.as_bytes())?;
    let shown = if has_valid_checksum(key) { PREFIX_LENGTH } else { (key.len() / 4).min(6) };
    let printable =
        |byte: &u8| if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') { char::from(*byte) } else { '?' };
    let text: String = key.iter().take(shown).map(printable).collect();
    (!text.is_empty()).then(|| format!("{text}…").into())
}

/// The key after the scheme `Bearer`, in any letter case (RFC 9110).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, key) = value.split_at_checked(b"bearer ".len())?;
    let key = key.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer ") && !key.is_empty()).then_some(key)
}

/// Whether a proxy joined two `Authorization` headers into one line: a second scheme follows a comma.
fn is_joined(key: &[u8]) -> bool {
    key.split(|byte| *byte == b',').skip(1).any(|part| {
        let scheme = part.trim_ascii().split(u8::is_ascii_whitespace).next().unwrap_or_default();
        scheme.eq_ignore_ascii_case(b"bearer") || scheme.eq_ignore_ascii_case(b"basic")
    })
}

/// Returns the SHA-256 of a client key. Tidegate keeps this digest in place of the key.
pub fn digest(key: &[u8]) -> [u8; 32] {
    Sha256::digest(key).into()
}

/// Length of the prefix by which people recognize a key: too short to help anyone guess the key.
const PREFIX_LENGTH: usize = KEY_MARK.len() + 6;

/// Mark at the beginning of every key that Tidegate makes.
const KEY_MARK: &str = "tg-";

/// The first characters of a client key, by which people recognize the key.
pub fn prefix(key: &str) -> &str {
    key.get(..PREFIX_LENGTH).unwrap_or_default()
}

/// Makes a client key: `tg-`, then 256 random bits and a 32-bit checksum, in base 32.
///
/// # Errors
/// The system gave no random bytes.
pub fn make_key(random_bytes: RandomBytes) -> Result<SecretString, NoRandomBytes> {
    let mut bytes = random_bytes.bytes::<32>()?.to_vec();
    bytes.extend_from_slice(&checksum(&bytes));
    Ok(format!("{KEY_MARK}{}", BASE32_NOPAD.encode(&bytes).to_ascii_lowercase()).into())
}

/// Whether [`make_key`] could have made this key: format and checksum are right.
fn has_valid_checksum(key: &[u8]) -> bool {
    let decoded = key.strip_prefix(KEY_MARK.as_bytes()).map(<[u8]>::to_ascii_uppercase);
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
    fn an_upstream_has_several_owners_if_its_keys_share_no_group() {
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
        let mut several = |keys: &[(&str, Option<usize>, Option<usize>)], unread| {
            config.keys = Vec::new();
            for (name, group, upstream) in keys {
                let key = Key::unrestricted(name, digest(name.as_bytes()));
                config.keys.push(Key { group: *group, upstreams: upstream.map(|upstream| vec![upstream]), ..key });
            }
            let store = StoredKeysStatus::default();
            store.unread.store(unread, Ordering::Relaxed);
            let keys = Keys::new(&config, &Arc::new(store));
            [0, 1].map(|upstream| keys.has_several_owners(upstream))
        };
        assert_eq!(several(&[("a", None, None)], false), [false, false]);
        assert_eq!(several(&[("a", None, None)], true), [true, true]);
        assert_eq!(several(&[("a", None, None), ("b", None, Some(1))], false), [false, true]);
        assert_eq!(several(&[("a", None, Some(0)), ("b", None, Some(1))], false), [false, false]);
        assert_eq!(several(&[("a", Some(0), None), ("b", Some(0), None)], false), [false, false]);
        assert_eq!(several(&[("a", Some(0), None), ("b", Some(1), None)], false), [true, true]);
        assert_eq!(several(&[("a", Some(0), None), ("b", Some(0), None), ("c", None, Some(0))], false), [true, false]);
        assert!(
            Keys::new(&config, &Arc::new(StoredKeysStatus::default())).has_several_owners(2),
            "an unknown upstream"
        );
    }

    #[test]
    fn the_log_shows_only_few_characters_of_a_key() {
        let shown = |value: &str| {
            let value = http::HeaderValue::from_bytes(value.as_bytes()).unwrap();
            loggable_prefix(&HeaderMap::from_iter([(AUTHORIZATION, value)]))
        };
        let ours = make_key(RandomBytes::system()).unwrap();
        let ours = ours.expose_secret();
        assert_eq!(shown(&format!("Bearer {ours}")).map(String::from), Some(format!("{}…", prefix(ours))));
        let other = format!("Bearer {}x", &ours[..ours.len() - 1]);
        for (value, expected) in [
            (other.as_str(), Some(format!("{}…", &ours[..6]))),
            ("Bearer sk-proj-0123456789012345678901234567890", Some("sk-pro…".to_owned())),
            ("bearer hunter2!", Some("hu…".to_owned())),
            ("Bearer \"quoted-key-0123456789abcdef\"", Some("?quote…".to_owned())),
            ("Bearer abc", None),
            ("Bearer ", None),
            ("Basic dXNlcjpwYXNz", None),
        ] {
            assert_eq!(shown(value).map(String::from), expected, "{value}");
        }
    }

    fn source(now: u64) -> RequestSource {
        RequestSource { peer: Some("192.0.2.7".parse().unwrap()), now }
    }

    #[test]
    fn the_reason_of_a_refused_key_is_for_the_log_only() {
        let authenticate = |change: &dyn Fn(&mut Key), secret: &'static str, now| {
            keys_with(change).authenticate(&with(&[secret]), source(now)).map(|caller| caller.name.to_string())
        };
        let refused = |why| Err(AuthError::Refused("team-a".into(), why));
        let ends = |key: &mut Key| key.expires = Some(100);
        assert_eq!(authenticate(&ends, "Bearer sk-a", 99), Ok("team-a".into()));
        assert_eq!(authenticate(&ends, "Bearer sk-a", 100), refused("expired"));
        let from = |network: &'static str| move |key: &mut Key| key.ips = vec![network.parse().unwrap()];
        assert_eq!(authenticate(&from("192.0.2.0/24"), "Bearer sk-a", 0), Ok("team-a".into()));
        assert_eq!(authenticate(&from("198.51.100.0/24"), "Bearer sk-a", 0), refused("network"));
        let disabled = |key: &mut Key| key.kept = KeySource::Store { previous: None, refused: Some("disabled") };
        assert_eq!(authenticate(&disabled, "Bearer sk-a", 0), refused("disabled"));
        let rotated = |key: &mut Key| {
            if *key.name == *"team-a" {
                key.kept = KeySource::Store { previous: Some((digest(b"sk-old"), 50)), refused: None };
            }
        };
        assert_eq!(authenticate(&rotated, "Bearer sk-old", 49), Ok("team-a".into()));
        assert_eq!(authenticate(&rotated, "Bearer sk-old", 50), refused("expired"));
        assert_eq!(authenticate(&rotated, "Bearer sk-a", 50), Ok("team-a".into()));
    }

    fn with(values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (AUTHORIZATION, HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn the_scheme_is_case_insensitive_and_the_key_exact() {
        for value in ["Bearer sk-a", "bearer sk-a", "BEARER  sk-a"] {
            assert_eq!(&*keys().authenticate(&with(&[value]), source(0)).unwrap().name, "team-a", "{value}");
        }
        for value in ["Bearer sk-A", "Bearer sk-a,", "Bearer sk-", "Bearer sk-ab"] {
            assert_eq!(keys().authenticate(&with(&[value]), source(0)).unwrap_err(), AuthError::UnknownKey, "{value}");
        }
    }

    #[test]
    fn requests_without_exactly_one_bearer_key_are_refused() {
        for values in [&[][..], &[""], &["Bearer"], &["Bearer "], &["Basic sk-a"], &["Bearersk-a"], &["sk-a"]] {
            assert_eq!(keys().authenticate(&with(values), source(0)).unwrap_err(), AuthError::NoKey, "{values:?}");
        }
        for values in [
            &["Bearer sk-a", "Bearer sk-b"][..],
            &["", "Bearer sk-a"],
            &["Bearer sk-a, bearer sk-b"],
            &["Bearer a,Basic b"],
        ] {
            let error = keys().authenticate(&with(values), source(0)).unwrap_err();
            assert_eq!(error, AuthError::SeveralKeys, "{values:?}");
        }
    }

    #[test]
    fn model_patterns_match_the_requested_name() {
        let caller = keys().authenticate(&with(&["Bearer sk-a"]), source(0)).unwrap();
        for (model, may) in [("smart", true), ("gpt-5", true), ("gpt-", true), ("gpt", false), ("Smart", false)] {
            assert_eq!(caller.may_use_model(model), may, "{model}");
        }
    }

    #[test]
    fn new_keys_are_long_and_unique() {
        let make = || make_key(RandomBytes::system()).unwrap().expose_secret().to_owned();
        let (one, two) = (make(), make());
        assert_eq!(one.len(), "tg-".len() + 58);
        assert_ne!(one, two);
    }

    #[test]
    fn while_the_store_cannot_be_read_a_key_with_a_valid_checksum_is_not_called_unknown() {
        let keys = keys();
        let made = make_key(RandomBytes::system()).unwrap().expose_secret().to_owned();
        let mut typo = made.clone().into_bytes();
        typo[10] = if typo[10] == b'a' { b'b' } else { b'a' };
        let typo = String::from_utf8(typo).unwrap();
        let error = |key: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, HeaderValue::try_from(format!("Bearer {key}")).unwrap());
            keys.authenticate(&headers, source(0)).unwrap_err()
        };
        assert_eq!(error(&made), AuthError::UnknownKey);
        keys.store.fails.store(true, Ordering::Relaxed);
        assert_eq!(error(&made), AuthError::KeysUnread);
        for other in [&*typo, "tg-nobody", "tg-", "sk-other", &made[..60], &format!("{made}a")] {
            assert_eq!(error(other), AuthError::UnknownKey, "{other}");
        }
    }
}
