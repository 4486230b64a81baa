//! The first key: the first start creates a client key if there is none. Thus Tidegate never runs without
//! authentication, and nobody must invent a key by hand. The first key is a key of the store like any other.

use data_encoding::HEXLOWER;
use secrecy::{ExposeSecret, SecretString};

use super::{StartContext, StartError, data_dir::DataDir, keys::StoredKeys};
use crate::{
    auth,
    config::Config,
    domain::key::{KeySettings, StoredKey},
    store::sql::{ChangeAuthor, KeyError},
};

/// The file with the key's text, written if there is no terminal to show it on.
const KEY_FILE: &str = "first-key";
const KEY_NAME: &str = "first";

/// The first client key, newly made and not yet stored: [`store`] stores the key.
pub(super) struct NewKey {
    secret: SecretString,
    pub(super) key: StoredKey,
}

/// Makes the first client key if neither the configuration nor the store has a key. Makes none if the store could not be read.
pub(super) fn create_if_none(
    declared_in_file: usize,
    stored: &StoredKeys,
    context: StartContext,
) -> Result<Option<NewKey>, StartError> {
    if declared_in_file > 0 || !stored.stored.keys.is_empty() || stored.are_unread() {
        return Ok(None);
    }
    let secret = auth::make_key(context.random_bytes)?;
    let key = StoredKey {
        name: KEY_NAME.to_owned(),
        prefix: auth::prefix(secret.expose_secret()).to_owned(),
        sha256: HEXLOWER.encode(&auth::digest(secret.expose_secret().as_bytes())),
        previous: None,
        disabled: false,
        created_ms: millis(context),
        settings: KeySettings { interim: true, ..KeySettings::default() },
    };
    Ok(Some(NewKey { secret, key }))
}

/// Stores the first client key. The start calls this last: if a later step failed, the store would hold a key that nobody saw.
/// Returns the secret of the key if it must be shown now, because no file holds it.
pub(super) fn store(
    made: NewKey,
    stored: &mut StoredKeys,
    data_dir: &DataDir,
    context: StartContext,
) -> Result<Option<SecretString>, StartError> {
    let NewKey { secret, key } = made;
    let id = HEXLOWER.encode(&context.random_bytes.bytes::<16>()?);
    let author = ChangeAuthor { id: &id, name: "the first start", time_ms: millis(context) };
    match stored.create(&key, author) {
        Ok(()) => {}
        // Another replica created its first key at the same moment. Its key counts.
        Err(KeyError::Exists | KeyError::Raced) => {
            tracing::info!(
                "another replica created the first client key, so this replica creates none. Use the key of the other \
                 replica"
            );
            return Ok(None);
        }
        Err(error) => return Err(StartError::FirstKey(error)),
    }
    if !context.terminal {
        data_dir.write(KEY_FILE, &format!("{}\n", secret.expose_secret()))?;
        tracing::warn!(
            file = %data_dir.file(KEY_FILE).display(),
            "no client key is configured: Tidegate created one and wrote the key to this file. Move the key to the \
             client that needs the key. The key ends when another key is declared"
        );
    }
    Ok(context.terminal.then_some(secret))
}

/// Removes the file with the first client key if that key has ended because another key is declared.
pub(super) fn remove_file_if_ended(config: &Config, stored: &[StoredKey]) {
    let file = config.server.data_dir.join(KEY_FILE);
    let has_ended = || stored.iter().any(|key| key.settings.interim) && config.has_others(stored);
    if !file.exists() || !has_ended() {
        return;
    }
    match std::fs::remove_file(&file) {
        Ok(()) => tracing::info!(
            key = KEY_NAME,
            file = %file.display(),
            "another client key is declared: the first key has ended, and Tidegate removed the file of the first key. \
             To keep using the first key, run `tidegate keys update {KEY_NAME} --unset interim`"
        ),
        Err(error) => {
            tracing::warn!(%error, file = %file.display(), "the file of the first client key cannot be removed, \
                although this key has ended: clients can no longer use the key. Delete the file")
        }
    }
}

fn millis(context: StartContext) -> u64 {
    u64::try_from(context.clock.since_epoch().as_millis()).unwrap_or(u64::MAX)
}
