//! Tells the operator which store a new key is in. A command that creates a key in a new store mostly runs in the wrong folder, or
//! without the gateway's configuration.

use crate::{cli::output, config::Config, store::sql::DatabaseLocation};

/// Whether no gateway ever ran with the data folder of this key store: a gateway leaves its lock file there.
pub(super) fn is_new(place: &DatabaseLocation, config: &Config) -> bool {
    matches!(place, DatabaseLocation::Sqlite(_)) && !config.server.data_dir.join("lock").exists()
}

/// Asks for confirmation on a terminal before a client key is created in a folder that no gateway uses.
pub(super) fn confirm_new(yes: bool, place: &DatabaseLocation, is_new: bool) -> Result<(), String> {
    if !is_new || yes {
        return Ok(());
    }
    let question = format!("No gateway has run with the store {} yet. Create the key there?", absolute(place));
    match output::confirm(&question) {
        Some(false) => Err(
            "no key was created: name the gateway's configuration with --config, or its folder with TIDEGATE_DATA_DIR"
                .to_owned(),
        ),
        Some(true) | None => Ok(()),
    }
}

/// Returns the error text for a change of a client key in a key store that does not exist.
pub(super) fn no_store(place: &DatabaseLocation) -> String {
    format!(
        "there is no store at {}, so there are no keys: name the gateway's configuration with --config, or its folder with TIDEGATE_DATA_DIR",
        absolute(place)
    )
}

/// Returns the message that tells the operator in which key store a new client key is.
pub(super) fn made_in(place: &DatabaseLocation, is_new: bool) -> String {
    let place = absolute(place);
    if is_new {
        format!(
            "created in {place}, where no gateway has run yet: only a gateway with this data folder knows the key. Name the gateway's \
             configuration with --config, or its folder with TIDEGATE_DATA_DIR"
        )
    } else {
        format!("created in {place}")
    }
}

/// Returns the place of the store with an absolute path, so that the text is clear in any folder.
fn absolute(place: &DatabaseLocation) -> String {
    match place {
        DatabaseLocation::Sqlite(path) => {
            std::path::absolute(path).unwrap_or_else(|_| path.clone()).display().to_string()
        }
        place @ DatabaseLocation::Postgres { .. } => place.to_string(),
    }
}
