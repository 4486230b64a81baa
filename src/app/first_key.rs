//! The key that the first start makes where none is configured, so that nothing runs open and nothing has to be
//! invented by hand. Only its hash is kept for use.

use data_encoding::HEXLOWER_PERMISSIVE;
use secrecy::{ExposeSecret, SecretString};

use super::{StartError, World, data_dir::DataDir};
use crate::{
    auth,
    config::{Config, Key, Limits},
};

/// Holds the SHA-256 of the key, as hex.
const HASH: &str = "first-key.sha256";
/// Holds the key itself, where no terminal was there to show it on.
const TEXT: &str = "first-key";
const NAME: &str = "first";

/// Whether a key is the first one, and not of the configuration.
pub(super) fn is(key: &Key) -> bool {
    *key.name == *NAME
}

/// Adds the first key to a configuration without any; makes it if this is the first start. Returned is a key that
/// was made: nothing holds it until [`keep`].
pub(super) fn ensure(
    config: &mut Config,
    data_dir: &DataDir,
    world: World,
) -> Result<Option<SecretString>, StartError> {
    if !config.keys.is_empty() {
        return Ok(None);
    }
    if let Some(text) = data_dir.read(HASH)? {
        // Another key in its place would lock out everybody who has the first one.
        let kept = HEXLOWER_PERMISSIVE.decode(text.trim().as_bytes()).ok();
        let kept = kept.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        let sha256 = kept.ok_or_else(|| StartError::FirstKey(data_dir.file(HASH)))?;
        tracing::info!(key = NAME, hash = %data_dir.file(HASH).display(), "no client key is configured: using the first one");
        config.keys.push(unrestricted(sha256));
        return Ok(None);
    }
    let key = auth::make_key(world.chance)?;
    config.keys.push(unrestricted(auth::digest(key.expose_secret().as_bytes())));
    Ok(Some(key))
}

/// Keeps a key that was made: once nothing can fail any more, or a start that failed would leave a key behind that
/// nobody was ever shown. Returned is the key if it has to be shown now, since nothing else holds it.
pub(super) fn keep(key: SecretString, data_dir: &DataDir, world: World) -> Result<Option<SecretString>, StartError> {
    if !world.terminal {
        data_dir.write(TEXT, &format!("{}\n", key.expose_secret()))?;
        tracing::warn!(
            file = %data_dir.file(TEXT).display(),
            "no client key is configured: made one and wrote it to this file; move it to where it is needed"
        );
    }
    let sha256 = auth::digest(key.expose_secret().as_bytes());
    data_dir.write(HASH, &format!("{}\n", data_encoding::HEXLOWER.encode(&sha256)))?;
    Ok(world.terminal.then_some(key))
}

fn unrestricted(sha256: [u8; 32]) -> Key {
    Key {
        name: NAME.into(),
        sha256,
        models: None,
        upstreams: None,
        group: None,
        limits: Limits::default(),
        budgets: Vec::new(),
    }
}
