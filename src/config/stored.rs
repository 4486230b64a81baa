//! Turns keys of the store into keys of a configuration.

use std::sync::Arc;

use data_encoding::HEXLOWER_PERMISSIVE;

use super::{
    check::{NO_MONTH, network},
    nearest::nearest,
    types::{Config, Key, KeyLimits, KeySource, MOST_BY_MODEL, ModelLimits, OnClientGone},
};
use crate::domain::{
    key::{KeySettings, StoredKey},
    money::{Budget, Currency, LAST_START},
};

/// A key of the store converted to a configured key, with the faults of its settings. A key that is restricted to missing models
/// or upstreams may use none of them, and never all. A key whose limits cannot be enforced is refused.
pub(super) struct StoredKeyConfig {
    pub(super) key: Option<Key>,
    pub(super) faults: Vec<String>,
    unusable: Option<&'static str>,
}

/// One fault in the settings of a key of the store, such as a group that the configuration does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredFault {
    /// The key's name.
    pub name: String,
    /// Description of the fault.
    pub fault: String,
    /// Whether Tidegate refuses the key because of the fault.
    pub refused: bool,
}

/// Why a key is refused (also the constants below): the limits of a missing group are unknown.
const NO_GROUP: &str = "the group of this key is not in the configuration";
/// The spend is in another currency, or the amount of the budget is unknown.
const NO_BUDGET: &str = "the budgets of this key cannot be counted";
/// Otherwise nothing would limit the use of a model.
const NO_LIMITS: &str = "the limits of this key for single models cannot be counted";
/// Otherwise clients could use the key from any address.
const NO_NETWORK: &str = "the networks of this key cannot be read";
/// The first start creates the first key, so that an operator can try the gateway. That key may do everything.
const HAS_OTHERS: &str = "this key was valid only until another key was declared";
const NO_HASH: &str = "the hash of this key cannot be read";
const OF_FILE: &str = "the configuration has a key of the same name or secret";

impl Config {
    /// Adds the keys of the store to the configuration and returns the faults of these keys. If the file has a key with the same
    /// name or secret, the file's key is used.
    pub fn add_stored(&mut self, stored: &[StoredKey]) -> Vec<StoredFault> {
        let mut faults = Vec::new();
        let has_others = self.has_others(stored);
        for one in stored {
            let StoredKeyConfig { mut key, faults: of_it, unusable } = self.take(one);
            if one.settings.interim
                && has_others
                && let Some(Key { kept: KeySource::Store { refused, .. }, .. }) = &mut key
            {
                *refused = refused.or(Some(HAS_OTHERS));
            }
            let refused = unusable.is_some() && key.is_some();
            faults.extend(of_it.into_iter().map(|fault| StoredFault { name: one.name.clone(), fault, refused }));
            self.keys.extend(key);
        }
        faults
    }

    /// Returns why Tidegate refuses a key of the store, regardless of its own `disabled` flag. None if nothing else refuses the key.
    /// `all` are the keys of the store.
    pub fn unusable(&self, stored: &StoredKey, all: &[StoredKey]) -> Option<&'static str> {
        let ended = stored.settings.interim && self.has_others(all);
        self.take(stored).unusable.or(ended.then_some(HAS_OTHERS))
    }

    /// Whether a client key exists besides the first key, which the first start creates. The first key ends as soon as another
    /// key exists.
    pub fn has_others(&self, stored: &[StoredKey]) -> bool {
        self.keys.iter().any(|key| key.kept == KeySource::File) || stored.iter().any(|key| !key.settings.interim)
    }

    /// Returns the faults in the settings of a client key that an operator wants to store.
    pub fn faults_of(&self, stored: &StoredKey) -> Vec<String> {
        let StoredKeyConfig { key, mut faults, unusable: _ } = self.take(stored);
        if let (Some(_), Some(key)) = (stored.settings.starts_on, key)
            && !key
                .budgets
                .iter()
                .chain(key.limits_by_model.iter().flat_map(|limits| &limits.budgets))
                .any(Budget::is_monthly)
        {
            faults.push(format!("`starts_on` needs a monthly budget: {NO_MONTH}"));
        }
        let limits = stored.settings.limits.iter().filter_map(|text| text.split_whitespace().next());
        for pattern in stored.settings.models.iter().flatten().map(String::as_str).chain(limits) {
            if !self.could_be_asked(pattern) {
                let names = self.models.iter().map(|model| &*model.name);
                let near = nearest(pattern, names).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
                faults.push(format!("no model is called `{pattern}`{near}"));
            }
        }
        faults
    }

    fn take(&self, stored: &StoredKey) -> StoredKeyConfig {
        let (mut faults, mut unusable) = (Vec::new(), None);
        let KeySettings {
            models,
            upstreams,
            group,
            rpm,
            tpm,
            max_in_flight,
            budgets,
            starts_on,
            limits,
            ips,
            expires_ms,
            on_client_gone,
            require_usage,
            interim: _,
        } = &stored.settings;
        let upstreams =
            upstreams.as_ref().map(|names| names.iter().filter_map(|name| self.upstream(name, &mut faults)));
        let upstreams = upstreams.map(Iterator::collect);
        let group = group.as_ref().map(|name| (name, self.groups.iter().position(|group| *group.name == **name)));
        if let Some((name, None)) = group {
            faults.push(format!("no group is called `{name}`"));
            unusable = Some(NO_GROUP);
        }
        let before = faults.len();
        let budgets = budgets.iter().filter_map(|text| Budget::parse(text).map_err(|fault| faults.push(fault)).ok());
        let starts_on = starts_on.unwrap_or(1);
        let budgets: Vec<Budget> = budgets.map(|budget| budget.starting_on(starts_on)).collect();
        faults.extend(self.budget_faults(&budgets));
        if !(1..=LAST_START).contains(&starts_on) {
            faults.push(format!("`starts_on` is {starts_on}, and a month begins on a day from 1 to {LAST_START}"));
        }
        if faults.len() > before {
            unusable = unusable.or(Some(NO_BUDGET));
        }
        let before = faults.len();
        let limits_by_model = self.limits_by_model(limits, starts_on, &mut faults);
        if faults.len() > before {
            unusable = unusable.or(Some(NO_LIMITS));
        }
        let mut nets = Vec::new();
        for text in ips {
            match network(text) {
                Some(network) => nets.push(network),
                None => {
                    faults.push(format!("`{text}` is neither an IP address nor a network"));
                    unusable = unusable.or(Some(NO_NETWORK));
                }
            }
        }
        let on_client_gone = match on_client_gone.as_deref() {
            None => OnClientGone::ByCost,
            Some("cancel") => OnClientGone::Cancel,
            Some("drain") => OnClientGone::Drain,
            Some(other) => {
                faults.push(format!("`{other}` is neither `cancel` nor `drain`"));
                OnClientGone::ByCost
            }
        };
        let previous =
            stored.previous.as_ref().and_then(|previous| Some((digest(&previous.sha256)?, previous.until_ms)));
        let Some(sha256) = digest(&stored.sha256) else {
            faults.push("the hash of this key is not 64 hexadecimal digits".to_owned());
            return StoredKeyConfig { key: None, faults, unusable: Some(NO_HASH) };
        };
        if let Some(same) = self.keys.iter().find(|key| *key.name == *stored.name || key.sha256 == sha256) {
            faults.push(format!(
                "the key `{}` is also declared in the configuration, and Tidegate uses the key of the configuration",
                same.name
            ));
            return StoredKeyConfig { key: None, faults, unusable: Some(OF_FILE) };
        }
        let kept = KeySource::Store { previous, refused: if stored.disabled { Some("disabled") } else { unusable } };
        let key = Key {
            name: stored.name.as_str().into(),
            sha256,
            models: models.as_ref().map(|models| models.iter().map(|model| Arc::from(model.as_str())).collect()),
            upstreams,
            group: group.and_then(|(_, index)| index),
            limits: KeyLimits { requests: *rpm, tokens: *tpm, in_flight: *max_in_flight },
            budgets,
            warn_at: Arc::clone(&self.money.warn_at),
            limits_by_model,
            ips: nets,
            expires: *expires_ms,
            on_client_gone,
            require_usage: *require_usage,
            kept,
        };
        StoredKeyConfig { key: Some(key), faults, unusable }
    }

    fn limits_by_model(&self, limits: &[String], starts_on: u8, faults: &mut Vec<String>) -> Vec<ModelLimits> {
        let mut all: Vec<ModelLimits> = Vec::new();
        for text in limits {
            match ModelLimits::parse(text, starts_on) {
                Ok(one) if all.iter().any(|known| known.model == one.model) => {
                    faults.push(format!("two limits of the key are for the same model, `{}`", one.model.0));
                }
                Ok(one) => {
                    faults.extend(self.budget_faults(&one.budgets));
                    all.push(one);
                }
                Err(fault) => faults.push(fault),
            }
        }
        if all.len() > MOST_BY_MODEL {
            faults.push(format!("a key has limits for at most {MOST_BY_MODEL} models"));
        }
        all
    }

    fn budget_faults(&self, budgets: &[Budget]) -> Vec<String> {
        let mut faults = Vec::new();
        for (nth, budget) in budgets.iter().enumerate() {
            let before = budgets.get(..nth).unwrap_or_default();
            if before.iter().any(|known| known.window == budget.window) {
                faults.push(format!("two budgets of the key have the same period {}", budget.window.name()));
            }
        }
        let official = self.upstreams.iter().filter(|upstream| upstream.official_prices.is_some());
        let billed = self.prices.iter().map(|price| price.price.base.currency).chain(official.map(|_| Currency::Usd));
        let pairs = billed.flat_map(|price| budgets.iter().map(move |budget| (budget.money.currency, price)));
        if self.money.cny_per_usd.is_none()
            && let Some((budget, price)) = pairs.into_iter().find(|(budget, price)| budget != price)
        {
            let (budget, price) = (budget.name(), price.name());
            faults.push(format!(
                "a price is in {price} and this budget is in {budget}, but `cny_per_usd` in [money] is not set"
            ));
        }
        faults
    }

    fn upstream(&self, name: &str, faults: &mut Vec<String>) -> Option<usize> {
        let index = self.upstreams.iter().position(|upstream| *upstream.name == *name);
        if index.is_none() && !self.idle.iter().any(|idle| *idle.name == *name) {
            let names = self.upstreams.iter().map(|upstream| &*upstream.name);
            let near = nearest(name, names).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            faults.push(format!("no upstream is called `{name}`{near}"));
        }
        index
    }

    /// Whether a model exists that the pattern matches.
    fn could_be_asked(&self, pattern: &str) -> bool {
        let upstreams = self.upstreams.iter().map(|upstream| &upstream.name);
        let mut beginnings: Vec<String> = upstreams.map(|name| format!("{name}/")).collect();
        beginnings.extend(self.models.iter().filter_map(|model| model.name.strip_suffix('*')).map(str::to_owned));
        let names: Vec<&str> = self.models.iter().map(|model| &*model.name).collect();
        match pattern.strip_suffix('*') {
            None => names.contains(&pattern) || beginnings.iter().any(|start| pattern.starts_with(start)),
            Some(rest) => {
                names.iter().any(|name| name.starts_with(rest))
                    || beginnings.iter().any(|start| start.starts_with(rest) || rest.starts_with(start))
            }
        }
    }
}

fn digest(hex: &str) -> Option<[u8; 32]> {
    HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).ok()?.try_into().ok()
}
