//! `tidegate keys update`.

use clap::Args;
use serde_json::json;

use super::{
    CommandError, KeyStore,
    settings::{Setting, Settings},
    shown::words,
};
use crate::{
    cli::{output, time},
    domain::key::KeySettings,
    store::sql::KeyChange,
};

/// Arguments of `tidegate keys update`: the settings of a client key to change or to reset.
#[derive(Debug, Args)]
pub(in crate::cli) struct Update {
    /// Name of the key.
    pub(super) name: String,
    #[command(flatten)]
    settings: Settings,
    /// Settings to reset to their defaults, by the names of their options: `--unset rpm,models`.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "SETTINGS")]
    unset: Vec<Setting>,
}

impl KeyStore {
    /// Runs `tidegate keys update`: changes settings of a client key in the store. Returns the text to print.
    pub(super) async fn update(&mut self, update: &Update) -> Result<String, CommandError> {
        let Update { name, settings, unset } = update;
        let given = settings.given();
        if given.is_empty() && unset.is_empty() {
            let help = "nothing to change: give a setting such as `--rpm 60`, or `--unset rpm`";
            return Err(help.to_owned().into());
        }
        if let Some(both) = unset.iter().find(|setting| given.contains(setting)) {
            return Err(
                format!("`--{0}` and `--unset {0}` contradict each other: give one of them", both.name()).into()
            );
        }
        let before = self.stored(name)?;
        let mut after = before.clone();
        settings.apply(&mut after.settings, self.now);
        unset.iter().for_each(|setting| setting.clear(&mut after.settings));
        if after == before {
            return Ok(format!("{name} has these settings already"));
        }
        // An old fault, such as the name of a removed model, does not prevent a change of other settings.
        let known = self.faults_of(&before);
        let (old, mut new): (Vec<_>, Vec<_>) =
            self.faults_of(&after).into_iter().partition(|fault| known.contains(fault));
        if given.contains(&Setting::Expires) {
            new.extend(self.ended(&after.settings));
        }
        if !new.is_empty() {
            return Err(format!("nothing was changed: {}", new.join("; ")).into());
        }
        self.change(KeyChange::Replace(&after, "update")).await?;
        for fault in old {
            output::print_remark(format_args!("{name}: {fault}"));
        }
        let lines = [vec![format!("updated {name}")], changes(&before.settings, &after.settings)].concat();
        Ok(lines.join("\n"))
    }
}

/// Returns a line for each setting that changed.
fn changes(before: &KeySettings, after: &KeySettings) -> Vec<String> {
    let text = |settings: &KeySettings, name: &str| match (name, settings.expires_ms) {
        ("expires_ms", Some(ends)) => time::format_moment(ends),
        _ => json!(settings).get(name).map_or_else(|| "not set".to_owned(), words),
    };
    let (one, other) = (json!(before), json!(after));
    let mut names: Vec<&String> =
        [&one, &other].into_iter().filter_map(|it| it.as_object()).flat_map(|it| it.keys()).collect();
    names.sort_unstable();
    names.dedup();
    names.retain(|name| one.get(name.as_str()) != other.get(name.as_str()));
    let shown = |name: &str| name.strip_suffix("_ms").unwrap_or(name).to_owned();
    names.into_iter().map(|name| format!("{}: {} -> {}", shown(name), text(before, name), text(after, name))).collect()
}
