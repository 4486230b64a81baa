//! Bearer key to caller, by hash; makes and hashes keys.

use std::{collections::HashMap, sync::Arc};

use data_encoding::BASE32_NOPAD;
use http::{HeaderMap, header::AUTHORIZATION};
use secrecy::SecretString;
use sha2::{Digest, Sha256};

use crate::{
    config,
    domain::chance::{Chance, NoChance},
};

/// Who calls, and what that key may use.
#[derive(Debug)]
pub struct Caller {
    /// Name of the key in logs.
    pub name: Arc<str>,
    /// Name of its group, if it has one.
    pub group: Option<Arc<str>>,
    /// Its place in the configuration.
    pub index: usize,
    models: Option<Vec<Arc<str>>>,
    upstreams: Option<Vec<usize>>,
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
    by_digest: HashMap<[u8; 32], Arc<Caller>>,
}

/// Why a request has no caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stranger {
    /// No bearer key was sent.
    NoKey,
    /// The key is not known.
    UnknownKey,
}

impl Keys {
    /// All keys of the configuration, and their groups.
    pub fn new(keys: &[config::Key], groups: &[config::Group]) -> Self {
        let by_digest = keys
            .iter()
            .enumerate()
            .map(|(index, key)| {
                let (name, models, upstreams) = (key.name.clone(), key.models.clone(), key.upstreams.clone());
                let group = key.group.and_then(|group| groups.get(group)).map(|group| Arc::clone(&group.name));
                let caller = Caller { name, group, index, models, upstreams };
                (key.sha256, Arc::new(caller))
            })
            .collect();
        Self { by_digest }
    }

    /// The caller whose key has this name.
    pub fn named(&self, name: &str) -> Option<Arc<Caller>> {
        self.by_digest.values().find(|caller| *caller.name == *name).cloned()
    }

    /// Who sent these headers. Looked up by the whole digest, so that no comparison takes longer the closer it is.
    ///
    /// # Errors
    /// When there is not exactly one bearer key, or it is not known.
    pub fn authenticate(&self, headers: &HeaderMap) -> Result<Arc<Caller>, Stranger> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return Err(Stranger::NoKey);
        };
        let key = bearer(value.as_bytes()).ok_or(Stranger::NoKey)?;
        self.by_digest.get(&digest(key)).cloned().ok_or(Stranger::UnknownKey)
    }
}

/// The key behind the scheme, whose letter case does not matter (RFC 9110).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, key) = value.split_at_checked(b"bearer ".len())?;
    let key = key.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer ") && !key.is_empty()).then_some(key)
}

/// What is kept of a key.
pub fn digest(key: &[u8]) -> [u8; 32] {
    Sha256::digest(key).into()
}

/// Makes a client key: `tg-`, then 256 random bits and a 32-bit checksum, in base 32.
///
/// # Errors
/// When the system has no randomness to give.
pub fn make_key(chance: Chance) -> Result<SecretString, NoChance> {
    let mut bytes = chance.bytes::<32>()?.to_vec();
    let checksum = digest(&bytes);
    bytes.extend_from_slice(checksum.first_chunk::<4>().unwrap_or(&[0; 4]));
    Ok(format!("tg-{}", BASE32_NOPAD.encode(&bytes).to_ascii_lowercase()).into())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use secrecy::ExposeSecret;

    use super::*;

    fn keys() -> Keys {
        let key = |name: &str, secret: &[u8]| config::Key {
            name: name.into(),
            sha256: digest(secret),
            models: Some(vec!["smart".into(), "gpt-*".into()]),
            upstreams: None,
            group: None,
            limits: config::Limits::default(),
            budgets: Vec::new(),
        };
        Keys::new(&[key("team-a", b"sk-a"), key("team-b", b"sk-b")], &[])
    }

    fn with(values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (AUTHORIZATION, HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn the_scheme_is_case_insensitive_and_the_key_exact() {
        for value in ["Bearer sk-a", "bearer sk-a", "BEARER  sk-a"] {
            assert_eq!(&*keys().authenticate(&with(&[value])).unwrap().name, "team-a", "{value}");
        }
        for value in ["Bearer sk-A", "Bearer sk-a,", "Bearer sk-", "Bearer sk-ab"] {
            assert_eq!(keys().authenticate(&with(&[value])).unwrap_err(), Stranger::UnknownKey, "{value}");
        }
    }

    #[test]
    fn what_is_no_single_bearer_key_is_none() {
        for values in [&[][..], &[""], &["Bearer"], &["Bearer "], &["Basic sk-a"], &["Bearersk-a"], &["sk-a"]] {
            assert_eq!(keys().authenticate(&with(values)).unwrap_err(), Stranger::NoKey, "{values:?}");
        }
        assert_eq!(keys().authenticate(&with(&["Bearer sk-a", "Bearer sk-b"])).unwrap_err(), Stranger::NoKey);
    }

    #[test]
    fn patterns_match_the_name_as_asked() {
        let caller = keys().authenticate(&with(&["Bearer sk-a"])).unwrap();
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
}
