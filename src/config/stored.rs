//! Keys of the store, as keys of a configuration.

use std::sync::Arc;

use data_encoding::HEXLOWER_PERMISSIVE;

use super::{
    check::network,
    nearest::nearest,
    types::{Config, Kept, Key, Limits, OnClientGone},
};
use crate::domain::{
    key::{KeySettings, StoredKey},
    money::{Budget, Currency},
};

/// A key of the store in terms of a configuration, and what of its settings the configuration does not have. A key that is
/// restricted to what is not there may use nothing of it, never everything.
pub(super) struct Taken {
    pub(super) key: Option<Key>,
    pub(super) faults: Vec<String>,
}

impl Config {
    /// Adds keys of the store. Returned is what is wrong with them, each with the key's name: where the file has the same
    /// name or secret, the file's key counts.
    pub fn add_stored(&mut self, stored: &[StoredKey]) -> Vec<String> {
        let mut faults = Vec::new();
        for one in stored {
            let Taken { key, faults: of_it } = self.take(one);
            faults.extend(of_it.into_iter().map(|fault| format!("{}: {fault}", one.name)));
            self.keys.extend(key);
        }
        faults
    }

    /// What is wrong with a key that somebody wants to store.
    pub fn faults_of(&self, stored: &StoredKey) -> Vec<String> {
        let mut faults = self.take(stored).faults;
        for pattern in stored.settings.models.iter().flatten() {
            if !self.could_be_asked(pattern) {
                let names = self.models.iter().map(|model| &*model.name);
                let near = nearest(pattern, names).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
                faults.push(format!("no model is called `{pattern}`{near}"));
            }
        }
        faults
    }

    fn take(&self, stored: &StoredKey) -> Taken {
        let mut faults = Vec::new();
        let KeySettings { models, upstreams, group, rpm, tpm, max_in_flight, budgets, ips, expires_ms, on_client_gone } =
            &stored.settings;
        let upstreams =
            upstreams.as_ref().map(|names| names.iter().filter_map(|name| self.upstream(name, &mut faults)));
        let upstreams = upstreams.map(Iterator::collect);
        let group = group.as_ref().map(|name| (name, self.groups.iter().position(|group| *group.name == **name)));
        if let Some((name, None)) = group {
            faults.push(format!("no group is called `{name}`"));
        }
        let budgets = budgets.iter().filter_map(|text| Budget::parse(text).map_err(|fault| faults.push(fault)).ok());
        let budgets: Vec<Budget> = budgets.collect();
        faults.extend(self.budget_faults(&budgets));
        let mut nets = Vec::new();
        for text in ips {
            match network(text) {
                Some(network) => nets.push(network),
                None => faults.push(format!("`{text}` is neither an IP address nor a network")),
            }
        }
        let on_client_gone = match on_client_gone.as_deref() {
            None | Some("cancel") => OnClientGone::Cancel,
            Some("drain") => OnClientGone::Drain,
            Some(other) => {
                faults.push(format!("`{other}` is neither `cancel` nor `drain`"));
                OnClientGone::Cancel
            }
        };
        let previous =
            stored.previous.as_ref().and_then(|previous| Some((digest(&previous.sha256)?, previous.until_ms)));
        let Some(sha256) = digest(&stored.sha256) else {
            faults.push("its hash is not 64 hexadecimal digits".to_owned());
            return Taken { key: None, faults };
        };
        if let Some(same) = self.keys.iter().find(|key| *key.name == *stored.name || key.sha256 == sha256) {
            faults.push(format!("the key `{}` is declared in the configuration as well, which counts", same.name));
            return Taken { key: None, faults };
        }
        // Of a group that is gone, its limits are gone: nobody knows what they were.
        let lost_group = matches!(group, Some((_, None)));
        let kept = Kept::Store { previous, disabled: stored.disabled || lost_group };
        let key = Key {
            name: stored.name.as_str().into(),
            sha256,
            models: models.as_ref().map(|models| models.iter().map(|model| Arc::from(model.as_str())).collect()),
            upstreams,
            group: group.and_then(|(_, index)| index),
            limits: Limits { requests: *rpm, tokens: *tpm, in_flight: *max_in_flight },
            budgets,
            ips: nets,
            expires: *expires_ms,
            on_client_gone,
            kept,
        };
        Taken { key: Some(key), faults }
    }

    fn budget_faults(&self, budgets: &[Budget]) -> Vec<String> {
        let mut faults = Vec::new();
        for (nth, budget) in budgets.iter().enumerate() {
            let before = budgets.get(..nth).unwrap_or_default();
            if before.iter().any(|known| known.window == budget.window) {
                faults.push(format!("two budgets are for the same {}", budget.window.name()));
            }
        }
        let official = self.upstreams.iter().filter(|upstream| upstream.official_prices.is_some());
        let billed = self.prices.iter().map(|price| price.price.currency).chain(official.map(|_| Currency::Usd));
        let pairs = billed.flat_map(|price| budgets.iter().map(move |budget| (budget.money.currency, price)));
        if self.money.cny_per_usd.is_none()
            && let Some((budget, price)) = pairs.into_iter().find(|(budget, price)| budget != price)
        {
            let (budget, price) = (budget.name(), price.name());
            faults
                .push(format!("there are prices in {price}, and `cny_per_usd` does not say what that is in {budget}"));
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

    /// Whether there is a model that the pattern matches.
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
