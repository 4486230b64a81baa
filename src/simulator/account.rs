//! The account behind a request. Providers bind state to an account, which may have several keys.

use std::sync::Arc;

use data_encoding::HEXLOWER;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use sha2::{Digest as _, Sha256};

use super::fault::SimulatedError;
use super::personality::Personality;

/// An account at one simulated provider. The same key has another account at another provider.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ProviderAccount {
    pub(super) personality: Personality,
    /// The name, which answers show. Never the key itself.
    pub(super) name: Arc<str>,
    /// Whether the key contains the name, so that answers may show it.
    pub(super) is_named: bool,
}

impl ProviderAccount {
    /// The account of a request's key, or the error if the key is missing or bad.
    pub(super) fn of(personality: Personality, headers: &HeaderMap) -> Result<Self, SimulatedError> {
        match key(headers).ok_or_else(SimulatedError::no_key)? {
            key if key.starts_with("sim-bad") => Err(SimulatedError::bad_key(key)),
            key => Ok(Self::of_key(personality, key)),
        }
    }

    /// invented: a key `NAME.SECRET` belongs to the account NAME, so that one account may have several keys. Any other
    /// key is the only key of an account named after the key's hash.
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
        let of = |key: &str| ProviderAccount::of_key(Personality::Dmxapi, key);
        assert_eq!(of("alpha.1"), of("alpha.2"));
        assert_eq!((&*of("alpha.1").name, of("alpha.1").is_named), ("alpha", true));
        assert_ne!(of("alpha.1"), of("beta.1"));
        assert_ne!(of("alpha.1"), ProviderAccount::of_key(Personality::Acedata, "alpha.1"));
        // A key without a name, or with a name that would break the format of sealed content, has its own account, and
        // answers do not show it.
        for key in ["sim-secret", ".x", "a/b.secret", "ü.secret"] {
            assert_eq!((of(key).name.len(), of(key).is_named), (8, false), "{key}");
            assert_ne!(of(key), of(&format!("{key}2")));
        }
    }
}
