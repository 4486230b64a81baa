//! Shows keys to people and programs: everything except the hashes of the keys.

use serde_json::{Map, Value, json};

use super::KeyStore;
use crate::{
    cli::{output, time},
    config::{Config, Key, KeySource, OnClientGone},
    domain::key::{KeySettings, StoredKey},
    store::sql::AuditEntry,
};

/// Number of digits of a hash that is shown. It is enough for people to tell two hashes apart.
const SHORT: usize = 12;

/// A client key as `tidegate keys` shows it, from the configuration or the store. Contains no hash of the key.
pub(super) struct KeyView {
    name: String,
    prefix: Option<String>,
    state: &'static str,
    /// Why the key is refused although it is not disabled.
    why: Option<&'static str>,
    /// The variable or file that this command does not find. Whether the gateway has it is not known.
    missing: Option<String>,
    declared_in: String,
    created: Option<String>,
    previous_until: Option<String>,
    settings: KeySettings,
}

impl KeyStore {
    /// Returns all client keys as `tidegate keys` shows them. Keys of the configuration are first.
    pub(super) fn all(&self) -> impl Iterator<Item = KeyView> {
        let of_file = self.config.keys.iter().filter(|key| !matches!(key.kept, KeySource::Store { .. }));
        of_file.map(|key| self.of_file(key)).chain(self.keys.iter().map(|key| self.of_store(key)))
    }

    fn of_file(&self, key: &Key) -> KeyView {
        let missing = match &key.kept {
            KeySource::Unset { missing } => Some(missing.clone()),
            KeySource::File | KeySource::Store { .. } => None,
        };
        KeyView {
            name: key.name.to_string(),
            prefix: None,
            state: if missing.is_some() { "unknown" } else { self.state(false, None, key.expires) },
            why: None,
            missing,
            declared_in: self.source.clone(),
            created: None,
            previous_until: None,
            settings: settings(&self.config, key),
        }
    }

    fn of_store(&self, key: &StoredKey) -> KeyView {
        let why = if self.is_whole { self.config.unusable(key, &self.keys) } else { None };
        KeyView {
            name: key.name.clone(),
            prefix: Some(key.prefix.clone()),
            state: self.state(key.disabled, why, key.settings.expires_ms),
            why,
            missing: None,
            declared_in: "the store".into(),
            created: Some(time::format_moment(key.created_ms)),
            previous_until: key.previous.as_ref().map(|previous| time::format_moment(previous.until_ms)),
            settings: key.settings.clone(),
        }
    }

    fn state(&self, disabled: bool, why: Option<&'static str>, expires: Option<u64>) -> &'static str {
        match expires {
            _ if disabled => "disabled",
            _ if why.is_some() => "refused",
            Some(until) if until <= time::millis(self.now) => "expired",
            _ => "active",
        }
    }
}

/// Returns the settings of a key of the configuration in the form of a stored key.
fn settings(config: &Config, key: &Key) -> KeySettings {
    let upstream = |index: &usize| config.upstreams.get(*index).map(|upstream| upstream.name.to_string());
    KeySettings {
        models: key.models.as_ref().map(|models| models.iter().map(ToString::to_string).collect()),
        upstreams: key.upstreams.as_ref().map(|indices| indices.iter().filter_map(upstream).collect()),
        group: key.group.and_then(|group| config.groups.get(group)).map(|group| group.name.to_string()),
        rpm: key.limits.requests,
        tpm: key.limits.tokens,
        max_in_flight: key.limits.in_flight,
        budgets: key.budgets.iter().map(ToString::to_string).collect(),
        starts_on: key.budgets.iter().map(|budget| budget.starts_on).find(|day| *day > 1),
        limits: key.limits_by_model.iter().map(ToString::to_string).collect(),
        ips: key.ips.iter().map(ToString::to_string).collect(),
        expires_ms: key.expires,
        on_client_gone: match key.on_client_gone {
            OnClientGone::ByCost => None,
            OnClientGone::Cancel => Some("cancel".to_owned()),
            OnClientGone::Drain => Some("drain".to_owned()),
        },
        require_usage: key.require_usage,
        interim: false,
    }
}

impl KeyView {
    /// Whether the client key has this name.
    pub(super) fn is_called(&self, name: &str) -> bool {
        self.name == name
    }

    /// Returns the cells of a client key's line in the list of keys, in the order of [`HEADS`].
    pub(super) fn cells(&self) -> Vec<String> {
        let none = || "-".to_owned();
        let key = self.prefix.as_ref().map_or_else(none, |prefix| format!("{prefix}…"));
        let group = self.settings.group.clone().unwrap_or_else(none);
        let missing = self.missing.as_ref().map(|missing| format!("{missing} is not set for this command"));
        let why = self.why.map(str::to_owned).or(missing).map(|why| format!(": {why}")).unwrap_or_default();
        vec![self.name.clone(), key, format!("{}{why}", self.state), group, self.declared_in.clone()]
    }

    /// Returns a client key as JSON, for `tidegate keys --json`.
    pub(super) fn json(&self) -> Value {
        json!({
            "name": self.name,
            "prefix": self.prefix,
            "state": self.state,
            "refused_because": self.why,
            "missing": self.missing,
            "created": self.created,
            "expires": self.settings.expires_ms.map(time::format_moment),
            "previous_until": self.previous_until,
            "settings": self.settings,
            "declared_in": self.declared_in,
        })
    }

    /// Returns a line for each known property of a client key, for `tidegate keys show`.
    pub(super) fn lines(&self) -> Vec<Vec<String>> {
        let mut lines = vec![vec!["name".to_owned(), self.name.clone()]];
        let fixed = [
            ("key", self.prefix.as_ref().map(|prefix| format!("{prefix}…"))),
            ("state", Some(self.state.to_owned())),
            ("refused because", self.why.map(str::to_owned)),
            ("not set for this command", self.missing.clone()),
            ("declared in", Some(self.declared_in.clone())),
            ("created", self.created.clone()),
            ("expires", self.settings.expires_ms.map(time::format_moment)),
            ("previous secret works until", self.previous_until.clone()),
        ];
        lines.extend(fixed.into_iter().filter_map(|(name, text)| Some(vec![name.to_owned(), text?])));
        // Values have the form of the options, so that an operator can copy them.
        let settings = json!(self.settings);
        for (name, value) in settings.as_object().into_iter().flatten().filter(|(name, _)| *name != "expires_ms") {
            lines.push(vec![name.clone(), words(value)]);
        }
        lines
    }
}

/// Column names in the list of client keys.
pub(super) const HEADS: [&str; 5] = ["name", "key", "state", "group", "declared in"];

/// Formats the value of a key's setting for people: list elements with commas between them, text without quotes.
pub(super) fn words(value: &Value) -> String {
    match value {
        Value::Array(all) if all.is_empty() => "none".to_owned(),
        Value::Array(all) => all.iter().map(words).collect::<Vec<_>>().join(", "),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Formats a client key with its audit entries, for `tidegate keys show`. For a deleted key, says so.
pub(super) fn with_audit(key: Option<&KeyView>, name: &str, audit: &[AuditEntry], as_json: bool) -> String {
    if as_json {
        let mut object = match key.map(KeyView::json) {
            Some(Value::Object(object)) => object,
            _ => Map::from_iter([("name".to_owned(), json!(name)), ("state".to_owned(), json!("deleted"))]),
        };
        let entry = |entry: &AuditEntry| {
            json!({
                "time": time::format_moment(entry.time_ms), "actor": entry.actor, "action": entry.action,
                "before": entry.before, "after": entry.after,
            })
        };
        object.insert("audit".into(), audit.iter().map(entry).collect());
        return Value::Object(object).to_string();
    }
    let gone = || [["name", name], ["state", "deleted"]].map(|line| line.map(str::to_owned).to_vec()).to_vec();
    let mut lines = key.map_or_else(gone, KeyView::lines);
    for AuditEntry { time_ms, actor, action, before, after, .. } in audit {
        let short =
            |hash: &Option<String>| hash.as_ref().map_or("-", |hash| hash.get(..SHORT).unwrap_or(hash)).to_owned();
        let what = format!("{action} by {actor} ({} -> {})", short(before), short(after));
        lines.push(vec![time::format_moment(*time_ms), what]);
    }
    output::in_lines(&lines)
}
