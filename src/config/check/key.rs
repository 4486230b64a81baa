//! `[[keys]]`: keys of clients.

use std::sync::Arc;

use data_encoding::HEXLOWER_PERMISSIVE;
use secrecy::ExposeSecret;

use super::{
    Check,
    model::ModelNames,
    secret::{SecretLookup, SecretReference, digest},
    upstream::UpstreamNames,
};
use crate::config::{
    document::Path,
    nearest::nearest,
    raw,
    types::{Group, Key, KeyLimits, KeySource, MOST_BY_MODEL, ModelLimits, MoneySettings, OnClientGone},
};
use crate::domain::{model_name::ModelPattern, money::Budget};

/// Shorter secrets can be guessed. Only the network slows an attacker down.
const SHORTEST: usize = 16;

/// Secrets from examples, which people copy into production. The comparison ignores letter case.
const WELL_KNOWN: [&str; 12] = [
    "change-me-please",
    "changemechangeme",
    "passwordpassword",
    "sk-1234567890abcdef",
    "sk-your-api-key",
    "sk-your-api-key-here",
    "sk-your-key-here",
    "your-api-key-here",
    "your_api_key_here",
    "your-secret-key",
    "your-secret-key-here",
    "0123456789abcdef",
];

const FRESH: &str = "make a new secret, for example with `openssl rand -hex 32`";

/// Text of a message about a fault: why the setting `starts_on` applies to monthly budgets only.
pub(in crate::config) const NO_MONTH: &str =
    "`starts_on` names the day of the month on which the budget begins; a day begins at midnight, and a week on Monday";

impl Check<'_> {
    /// Checks the `[[groups]]` blocks of the configuration. Returns the groups, and whether these are all groups that the file means.
    pub(super) fn groups(&mut self, raw: Vec<raw::Group>, money: &MoneySettings) -> (Vec<Group>, bool) {
        let complete = self.is_complete("groups", raw.iter().map(|group| group.name.is_some()));
        let mut groups: Vec<Group> = Vec::new();
        for (i, raw) in raw.into_iter().enumerate() {
            let path = Path::default().key("groups").index(i);
            // The missing name was reported already.
            let Some(name) = raw.name else { continue };
            if self.short_name(&name, &[], &path.key("name")) && groups.iter().any(|group| *group.name == *name) {
                self.fault(&path.key("name"), "another group has this name", "give each group a name of its own");
            }
            let limits = KeyLimits { requests: raw.rpm, tokens: raw.tpm, in_flight: raw.max_in_flight };
            let budgets = self.budgets(&raw.budgets, raw.starts_on, &path.key("budgets"));
            self.has_month(raw.starts_on, &budgets, &path);
            let warn_at = self.warn_at(raw.warn_at.as_deref(), money, &path);
            groups.push(Group { name: name.into(), limits, budgets, warn_at });
        }
        (groups, complete)
    }

    fn group_index(&mut self, (groups, complete): &(Vec<Group>, bool), name: &str, path: &Path) -> Option<usize> {
        let index = groups.iter().position(|group| *group.name == *name);
        if index.is_none() && *complete {
            let help = match nearest(name, groups.iter().map(|group| &*group.name)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "add a [[groups]] block with this name".to_owned(),
            };
            self.fault(path, "no group has this name", help);
        }
        index
    }

    /// Checks the `[[keys]]` blocks of the configuration: names, secrets, permissions, limits and budgets. Returns the client keys.
    pub(super) fn keys(
        &mut self,
        raw: Vec<raw::Key>,
        upstreams: &UpstreamNames,
        askable: &ModelNames,
        groups: &(Vec<Group>, bool),
        money: &MoneySettings,
    ) -> Vec<Key> {
        let mut keys: Vec<Key> = Vec::new();
        let mut names: Vec<String> = Vec::new();
        for (i, mut raw) in raw.into_iter().enumerate() {
            let path = Path::default().key("keys").index(i);
            if let Some(name) = raw.name.take() {
                if self.short_name(&name, &[], &path.key("name")) && names.contains(&name) {
                    self.fault(&path.key("name"), "another key has this name", "give each key a name of its own");
                }
                names.push(name);
            }
            let name = names.last().map(String::as_str).unwrap_or_default();
            let models = raw.models.take().map(|models| self.key_models(models, askable, &path.key("models")));
            let allowed =
                raw.upstreams.take().map(|names| self.key_upstreams(&names, upstreams, &path.key("upstreams")));
            let group = raw.group.take().and_then(|name| self.group_index(groups, &name, &path.key("group")));
            let limits = KeyLimits { requests: raw.rpm, tokens: raw.tpm, in_flight: raw.max_in_flight };
            let budgets = self.budgets(&raw.budgets, raw.starts_on, &path.key("budgets"));
            let limits_by_model =
                self.limits_by_model(std::mem::take(&mut raw.limits), raw.starts_on, askable, &path.key("limits"));
            let of_models = limits_by_model.iter().flat_map(|limits| &limits.budgets);
            let all: Vec<Budget> = budgets.iter().chain(of_models).copied().collect();
            self.has_month(raw.starts_on, &all, &path);
            let warn_at = self.warn_at(raw.warn_at.as_deref(), money, &path);
            let ips = self.networks(&raw.ip, &path.key("ip"));
            let expires = raw.expires.as_deref();
            let expires = expires.and_then(|text| self.expires(text, &money.time_zone, &path.key("expires")));
            let on_client_gone = match raw.on_client_gone {
                None => OnClientGone::ByCost,
                Some(raw::OnClientGone::Cancel) => OnClientGone::Cancel,
                Some(raw::OnClientGone::Drain) => OnClientGone::Drain,
            };
            let require_usage = raw.require_usage;
            let secret = raw.secret.as_ref().and_then(|secret| self.unset(&reference(secret)));
            let kept = secret.map_or(KeySource::File, |missing| KeySource::Unset { missing });
            let Some(sha256) = self.key_digest(raw, &path) else { continue };
            if let Some(same) = keys.iter().find(|key| key.sha256 == sha256) {
                let message = format!("this key has the same secret as the key `{}`", same.name);
                self.fault(
                    &path,
                    message,
                    "give each key a secret of its own, because the secret identifies the client",
                );
            }
            if upstreams.secrets.contains(&sha256) {
                let message = "the secret of this key is the credential of an upstream";
                self.fault(&path, message, format!("clients must never know the credential of a provider: {FRESH}"));
            }
            keys.push(Key {
                name: name.into(),
                sha256,
                models,
                upstreams: allowed,
                group,
                limits,
                budgets,
                warn_at,
                limits_by_model,
                ips,
                expires,
                on_client_gone,
                require_usage,
                kept,
            });
        }
        keys
    }

    fn warn_at(&mut self, written: Option<&[raw::Decimal]>, money: &MoneySettings, path: &Path) -> Arc<[u64]> {
        match written {
            Some(written) => self.thresholds(written, &path.key("warn_at")),
            None => Arc::clone(&money.warn_at),
        }
    }

    /// Reports `starts_on` without a budget by the month, where the setting has no effect.
    fn has_month(&mut self, starts_on: Option<u8>, budgets: &[Budget], path: &Path) {
        if starts_on.is_some() && self.sound && !budgets.iter().any(Budget::is_monthly) {
            let help = format!("write a budget such as \"50CNY/month\", or remove `starts_on`: {NO_MONTH}");
            self.fault(&path.key("starts_on"), "`starts_on` needs a monthly budget", help);
        }
    }

    fn limits_by_model(
        &mut self,
        raw: Vec<raw::KeyLimits>,
        starts_on: Option<u8>,
        askable: &ModelNames,
        path: &Path,
    ) -> Vec<ModelLimits> {
        if raw.len() > MOST_BY_MODEL {
            let message = format!("a key has limits for more than {MOST_BY_MODEL} models");
            self.fault(path, message, "use patterns with a trailing `*`, or several keys");
        }
        let mut all: Vec<ModelLimits> = Vec::new();
        for (i, raw) in raw.into_iter().enumerate() {
            let path = path.index(i);
            let limits = KeyLimits { requests: raw.rpm, tokens: raw.tpm, in_flight: raw.max_in_flight };
            let budgets = self.budgets(&raw.budgets, starts_on, &path.key("budgets"));
            if limits == KeyLimits::default() && budgets.is_empty() && self.sound {
                let help = "write `rpm`, `tpm`, `max_in_flight` or `budgets`, or remove the block";
                self.fault(&path, "this block has no limit and no budget", help);
            }
            // The missing model was reported already.
            let Some(model) = raw.model else { continue };
            self.asked_model(&model, askable, &path.key("model"));
            if all.iter().any(|known| *known.model.0 == *model) {
                self.fault(&path.key("model"), "another block of this key has the same `model`", "keep one of the two");
            }
            all.push(ModelLimits { model: ModelPattern(model.into()), limits, budgets });
        }
        all
    }

    fn key_digest(&mut self, raw: raw::Key, path: &Path) -> Option<[u8; 32]> {
        match (raw.secret, raw.sha256) {
            (Some(secret), None) => {
                let path = path.key("secret");
                let SecretLookup::Secret(secret) = self.secret(&reference(&secret), &path) else { return None };
                let secret = secret.expose_secret();
                if secret.len() < SHORTEST {
                    self.fault(&path, format!("the secret has fewer than {SHORTEST} characters"), FRESH);
                } else if is_well_known(secret) {
                    self.fault(&path, "the secret is a well-known example that anybody can guess", FRESH);
                }
                Some(digest(secret.as_bytes()))
            }
            (None, Some(hex)) => {
                let sha256 =
                    HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
                let path = path.key("sha256");
                match sha256 {
                    None => self.fault(
                        &path,
                        "`sha256` is not 64 hex digits",
                        "write what `printf %s \"$KEY\" | sha256sum` prints",
                    ),
                    Some(sha256)
                        if std::iter::once("").chain(WELL_KNOWN).any(|known| digest(known.as_bytes()) == sha256) =>
                    {
                        self.fault(&path, "`sha256` is the hash of an empty secret or of a well-known example", FRESH);
                    }
                    Some(_) => {}
                }
                sha256
            }
            (both, _) => {
                // A `secret` or `sha256` of the wrong shape was reported already.
                let is_written = ["secret", "sha256"].iter().any(|name| self.is_written(path, name));
                if both.is_some() || !is_written {
                    let message = if both.is_some() {
                        "`secret` and `sha256` are both here"
                    } else {
                        "`secret` or `sha256` is missing"
                    };
                    self.fault(path, message, "write one of them, such as `secret = { env = \"TEAM_A_KEY\" }`");
                }
                None
            }
        }
    }

    fn key_models(&mut self, patterns: Vec<String>, askable: &ModelNames, path: &Path) -> Vec<Arc<str>> {
        if patterns.is_empty() {
            self.fault(path, "`models` is empty: the key could ask for nothing", "leave it out to allow all models");
        }
        for (i, pattern) in patterns.iter().enumerate() {
            self.asked_model(pattern, askable, &path.index(i));
        }
        patterns.into_iter().map(Into::into).collect()
    }

    fn asked_model(&mut self, pattern: &str, askable: &ModelNames, path: &Path) {
        if self.pattern(pattern, path) && !askable.meets(pattern) {
            let help = match askable.nearest(pattern) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "name a model of [[models]], or write `upstream/model`, or a beginning and `*`".to_owned(),
            };
            self.fault(path, "no configured model matches this name or pattern", help);
        }
    }

    fn key_upstreams(&mut self, names: &[String], upstreams: &UpstreamNames, path: &Path) -> Vec<usize> {
        if names.is_empty() {
            self.fault(path, "`upstreams` is empty: the key could use nothing", "leave it out to allow all upstreams");
        }
        names.iter().enumerate().filter_map(|(i, name)| self.upstream_index(upstreams, name, &path.index(i))).collect()
    }
}

fn reference(secret: &raw::Secret) -> SecretReference<'_> {
    SecretReference { env: secret.env.as_deref(), file: secret.file.as_deref(), optional: secret.optional }
}

fn is_well_known(secret: &str) -> bool {
    let secret = secret.to_ascii_lowercase();
    let bare = secret.strip_prefix("sk-").unwrap_or(&secret);
    WELL_KNOWN.contains(&secret.as_str()) || bare.bytes().all(|b| bare.as_bytes().first() == Some(&b))
}
