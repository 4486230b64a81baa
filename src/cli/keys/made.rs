//! Which store a new key goes to: mostly a command that makes one in a new store runs in another folder than the gateway, or
//! without its configuration.

use crate::{cli::output, config::Config, store::sql::DatabaseLocation};

/// Whether the store is in a data folder in which no gateway ever ran: a gateway leaves its lock there.
pub(super) fn is_new(place: &DatabaseLocation, config: &Config) -> bool {
    matches!(place, DatabaseLocation::Sqlite(_)) && !config.server.data_dir.join("lock").exists()
}

/// Asks on a terminal before a key is made in a folder that no gateway uses: mostly the command runs in another folder, or
/// without the configuration of the gateway.
pub(super) fn confirm_new(yes: bool, place: &DatabaseLocation, is_new: bool) -> Result<(), String> {
    if !is_new || yes {
        return Ok(());
    }
    let question = format!("No gateway has run with the store {} yet. Make the key there?", absolute(place));
    match output::confirm(&question) {
        Some(false) => Err(
            "nothing was made: name the gateway's configuration with --config, or its folder with TIDEGATE_DATA_DIR"
                .to_owned(),
        ),
        Some(true) | None => Ok(()),
    }
}

/// A key cannot be changed in a store that is not there.
pub(super) fn no_store(place: &DatabaseLocation) -> String {
    format!(
        "there is no store at {}, and so no key: name the gateway's configuration with --config, or its folder with TIDEGATE_DATA_DIR",
        absolute(place)
    )
}

/// Which store a new key is in.
pub(super) fn made_in(place: &DatabaseLocation, is_new: bool) -> String {
    let place = absolute(place);
    if is_new {
        format!(
            "made in {place}, where no gateway has run yet: only a gateway with this data folder knows the key. Name the gateway's \
             configuration with --config, or its folder with TIDEGATE_DATA_DIR"
        )
    } else {
        format!("made in {place}")
    }
}

/// The store for people, in whichever folder they are.
fn absolute(place: &DatabaseLocation) -> String {
    match place {
        DatabaseLocation::Sqlite(path) => {
            std::path::absolute(path).unwrap_or_else(|_| path.clone()).display().to_string()
        }
        place @ DatabaseLocation::Postgres { .. } => place.to_string(),
    }
}
