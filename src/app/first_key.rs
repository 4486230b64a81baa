//! The key that the first start makes where there is none, so that nothing runs open and nothing has to be invented by
//! hand. It is a key of the store like any other.

use data_encoding::HEXLOWER;
use secrecy::{ExposeSecret, SecretString};

use super::{StartContext, StartError, data_dir::DataDir, keys::StoredKeys};
use crate::{
    auth,
    config::Config,
    domain::key::{KeySettings, StoredKey},
    store::sql::{ChangeAuthor, KeyError},
};

/// Holds the key itself, where no terminal was there to show it on.
const TEXT: &str = "first-key";
const NAME: &str = "first";

/// A key that was made: nothing holds it until [`keep`].
pub(super) struct NewKey {
    secret: SecretString,
    pub(super) key: StoredKey,
}

/// Makes the first key where neither the configuration nor the store has one. Where nobody can tell, none is made.
pub(super) fn make(of_file: usize, stored: &StoredKeys, world: StartContext) -> Result<Option<NewKey>, StartError> {
    if of_file > 0 || !stored.stored.keys.is_empty() || stored.are_unread() {
        return Ok(None);
    }
    let secret = auth::make_key(world.random_bytes)?;
    let key = StoredKey {
        name: NAME.to_owned(),
        prefix: auth::prefix(secret.expose_secret()).to_owned(),
        sha256: HEXLOWER.encode(&auth::digest(secret.expose_secret().as_bytes())),
        previous: None,
        disabled: false,
        created_ms: millis(world),
        settings: KeySettings { interim: true, ..KeySettings::default() },
    };
    Ok(Some(NewKey { secret, key }))
}

/// Keeps a key that was made: once nothing can fail any more, or a start that failed would leave a key behind that
/// nobody was ever shown. Returned is the key if it has to be shown now, since nothing else holds it.
pub(super) fn keep(
    made: NewKey,
    stored: &mut StoredKeys,
    data_dir: &DataDir,
    world: StartContext,
) -> Result<Option<SecretString>, StartError> {
    let NewKey { secret, key } = made;
    let id = HEXLOWER.encode(&world.random_bytes.bytes::<16>()?);
    let author = ChangeAuthor { id: &id, name: "the first start", time_ms: millis(world) };
    match stored.create(&key, author) {
        Ok(()) => {}
        // Another replica was first, at the very same moment: its key counts.
        Err(KeyError::Exists | KeyError::Raced) => {
            tracing::info!("another replica made the first key: this one makes none");
            return Ok(None);
        }
        Err(error) => return Err(StartError::FirstKey(error)),
    }
    if !world.terminal {
        data_dir.write(TEXT, &format!("{}\n", secret.expose_secret()))?;
        tracing::warn!(
            file = %data_dir.file(TEXT).display(),
            "no client key is configured: made one and wrote it to this file; move it to where it is needed. The key ends when \
             another key is declared"
        );
    }
    Ok(world.terminal.then_some(secret))
}

/// Removes the file with the first key once that key has ended, as another key is declared.
pub(super) fn forget(config: &Config, stored: &[StoredKey]) {
    let file = config.server.data_dir.join(TEXT);
    let ended = || stored.iter().any(|key| key.settings.interim) && config.has_others(stored);
    if !file.exists() || !ended() {
        return;
    }
    match std::fs::remove_file(&file) {
        Ok(()) => tracing::info!(
            key = NAME,
            file = %file.display(),
            "the key of the first start has ended, as another key is declared: its file is removed. `tidegate keys update {NAME} --unset \
             interim` lets the key work on"
        ),
        Err(error) => {
            tracing::warn!(%error, file = %file.display(), "the file of a key that has ended cannot be removed: delete it")
        }
    }
}

fn millis(world: StartContext) -> u64 {
    u64::try_from(world.clock.since_epoch().as_millis()).unwrap_or(u64::MAX)
}
