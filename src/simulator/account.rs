//! Who asks. Providers bind what they keep to an account, which may have several keys.

use std::sync::Arc;

use data_encoding::HEXLOWER;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use sha2::{Digest as _, Sha256};

use super::fault::Fault;
use super::personality::Personality;

/// An account of one provider. The same key has another account at another provider.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Account {
    pub(super) personality: Personality,
    /// Never a key: answers show it.
    pub(super) name: Arc<str>,
    /// The key says the name, so that answers may say it too.
    pub(super) is_named: bool,
}

impl Account {
    /// The account that a request's key is for, or why there is none.
    pub(super) fn of(personality: Personality, headers: &HeaderMap) -> Result<Self, Fault> {
        match key(headers).ok_or_else(Fault::no_key)? {
            key if key.starts_with("sim-bad") => Err(Fault::bad_key(key)),
            key => Ok(Self::of_key(personality, key)),
        }
    }

    /// invented: keys `NAME.SECRET` are keys of the account NAME, so that one account may have several; any other key is
    /// the only one of an account that is called by the key's hash.
    fn of_key(personality: Personality, key: &str) -> Self {
        let is_plain = |name: &str| {
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        };
        match key.split_once('.').filter(|(name, _)| is_plain(name)) {
            Some((name, _)) => Self { personality, name: name.into(), is_named: true },
            None => {
                let hash = HEXLOWER.encode(&Sha256::digest(key.as_bytes())[..4]);
                Self { personality, name: hash.into(), is_named: false }
            }
        }
    }
}

fn key(headers: &HeaderMap) -> Option<&str> {
    let (scheme, key) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    Some(key.trim()).filter(|key| scheme.eq_ignore_ascii_case("bearer") && !key.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_keys_of_one_account() {
        let of = |key: &str| Account::of_key(Personality::Dmxapi, key);
        assert_eq!(of("alpha.1"), of("alpha.2"));
        assert_eq!((&*of("alpha.1").name, of("alpha.1").is_named), ("alpha", true));
        assert_ne!(of("alpha.1"), of("beta.1"));
        assert_ne!(of("alpha.1"), Account::of_key(Personality::Acedata, "alpha.1"));
        // A key without a name, or with one that would not stay whole in a seal, is its own account and stays unseen.
        for key in ["sim-secret", ".x", "a/b.secret", "ü.secret"] {
            assert_eq!((of(key).name.len(), of(key).is_named), (8, false), "{key}");
            assert_ne!(of(key), of(&format!("{key}2")));
        }
    }
}
