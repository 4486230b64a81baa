//! Keys of clients, groups of keys, and their limits.

use std::{fmt, sync::Arc};

use ipnet::IpNet;

use crate::domain::{
    model_name::ModelPattern,
    money::{Budget, decimal},
};

/// One client key with its permissions and limits: a checked `[[keys]]` block, or a key of the store.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    /// Name in logs.
    pub name: Arc<str>,
    /// SHA-256 of the secret. The secret itself is not stored.
    pub sha256: [u8; 32],
    /// Patterns of the models that the key may use; none = all.
    pub models: Option<Vec<Arc<str>>>,
    /// Indices into `Config::upstreams` that the key may use, without idle ones; none = all.
    pub upstreams: Option<Vec<usize>>,
    /// Index into `Config::groups`.
    pub group: Option<usize>,
    /// Limits of the key over all models.
    pub limits: KeyLimits,
    /// Budgets of the key, at most one for each window.
    pub budgets: Vec<Budget>,
    /// Fractions of the budgets at which Tidegate logs a warning, in billionths.
    pub warn_at: Arc<[u64]>,
    /// Additional limits for some models.
    pub limits_by_model: Vec<ModelLimits>,
    /// Networks of the clients that may use the key; empty = any.
    pub ips: Vec<IpNet>,
    /// When the key expires: milliseconds since 1970-01-01 UTC.
    pub expires: Option<u64>,
    /// What happens to the upstream request when the client leaves early.
    pub on_client_gone: OnClientGone,
    /// Chat streams must report their usage: Tidegate adds `stream_options.include_usage` where the client left it out.
    pub require_usage: bool,
    /// Where the key is stored, and the properties that only keys of the store have.
    pub kept: KeySource,
}

impl Key {
    /// Returns a client key with this name and secret hash that may use everything and has no limits.
    pub fn unrestricted(name: &str, sha256: [u8; 32]) -> Self {
        Self {
            name: name.into(),
            sha256,
            models: None,
            upstreams: None,
            group: None,
            limits: KeyLimits::default(),
            budgets: Vec::new(),
            warn_at: Arc::default(),
            limits_by_model: Vec::new(),
            ips: Vec::new(),
            expires: None,
            on_client_gone: OnClientGone::ByCost,
            require_usage: false,
            kept: KeySource::File,
        }
    }
}

/// Setting `on_client_gone` of a key: whether Tidegate cancels or reads on an upstream's answer whose client left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnClientGone {
    /// The default: a stream is cancelled. Another answer is read to its end where the key or its group has a budget, because the
    /// provider bills all of it in any case.
    #[default]
    ByCost,
    /// The upstream request is cancelled.
    Cancel,
    /// The answer is read to its end, within bounds, so that its cost is known.
    Drain,
}

/// Where a client key is stored: in the configuration file or in the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum KeySource {
    /// In the configuration.
    #[default]
    File,
    /// In the configuration, with an optional secret that this process does not find. Only commands that read no secrets see
    /// such a key: the gateway may have the secret.
    Unset {
        /// The variable or the file of the secret.
        missing: String,
    },
    /// In the store.
    Store {
        /// SHA-256 of the secret before the last rotation, and the time until which that secret works.
        previous: Option<([u8; 32], u64)>,
        /// Why Tidegate refuses the key at the moment, if it does.
        refused: Option<&'static str>,
    },
}

/// One `[[groups]]` block of the configuration: client keys that share limits and budgets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Name of the group.
    pub name: Arc<str>,
    /// Limits of all keys of the group together.
    pub limits: KeyLimits,
    /// Budgets of all keys of the group together, at most one for each window.
    pub budgets: Vec<Budget>,
    /// Fractions of the budgets at which Tidegate logs a warning, in billionths.
    pub warn_at: Arc<[u64]>,
}

/// Most models and patterns for which one key may have limits of its own. Each request is checked against every pattern that matches.
pub const MOST_BY_MODEL: usize = 32;

/// One `[[keys.limits]]` block of the configuration: the limits and budgets of a key for one model or pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelLimits {
    /// The model or pattern.
    pub model: ModelPattern,
    /// Limits for these models.
    pub limits: KeyLimits,
    /// Budgets for these models, at most one for each window.
    pub budgets: Vec<Budget>,
}

impl ModelLimits {
    /// Parses a key's limits for one model from the text form that keys of the store use. The text is a model or pattern, then at
    /// least one of `rpm=`, `tpm=`, `max_in_flight=` and `budget=`, separated by white space. `budget=` may appear once for each
    /// window.
    ///
    /// # Errors
    /// A message that says what is wrong with the text.
    pub fn parse(text: &str, starts_on: u8) -> Result<Self, String> {
        let wrong =
            |what: &str| format!("`{text}`: {what}, as in `gpt-5* rpm=10 tpm=50000 max_in_flight=2 budget=5CNY/day`");
        let mut parts = text.split_whitespace();
        let model = parts.next().filter(|model| !model.contains('=')).ok_or_else(|| wrong("name a model first"))?;
        if model.strip_suffix('*').unwrap_or(model).contains('*') {
            return Err(wrong("`*` may stand at the end of the model only"));
        }
        let (mut limits, mut budgets) = (KeyLimits::default(), Vec::<Budget>::new());
        for part in parts {
            let (name, value) = part.split_once('=').ok_or_else(|| wrong("write limits as `name=value`"))?;
            let number =
                || value.parse().ok().filter(|number| *number > 0).ok_or_else(|| wrong("write a whole number above 0"));
            let is_new = match name {
                "rpm" => limits.requests.replace(number()?).is_none(),
                "tpm" => limits.tokens.replace(number()?).is_none(),
                "max_in_flight" => limits.in_flight.replace(number()? as usize).is_none(),
                "budget" => {
                    let budget = Budget::parse(value)?.starting_on(starts_on);
                    let is_new = budgets.iter().all(|known| known.window != budget.window);
                    budgets.push(budget);
                    is_new
                }
                _ => return Err(wrong("a limit is `rpm`, `tpm`, `max_in_flight` or `budget`")),
            };
            if !is_new {
                return Err(wrong("each limit may be there once"));
            }
        }
        if limits == KeyLimits::default() && budgets.is_empty() {
            return Err(wrong("write at least one limit"));
        }
        Ok(Self { model: ModelPattern(model.into()), limits, budgets })
    }
}

impl fmt::Display for ModelLimits {
    /// Writes the form that [`ModelLimits::parse`] reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let KeyLimits { requests, tokens, in_flight } = self.limits;
        f.write_str(&self.model.0)?;
        requests.map_or(Ok(()), |count| write!(f, " rpm={count}"))?;
        tokens.map_or(Ok(()), |count| write!(f, " tpm={count}"))?;
        in_flight.map_or(Ok(()), |count| write!(f, " max_in_flight={count}"))?;
        self.budgets.iter().try_for_each(|Budget { money, window, .. }| {
            write!(f, " budget={}{}/{}", decimal(money.nano), money.currency.name(), window.name())
        })
    }
}

/// Limits of a key or a group: requests and tokens per minute, and requests at once. None = unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyLimits {
    /// Requests per minute.
    pub requests: Option<u32>,
    /// Tokens per minute, input and output together.
    pub tokens: Option<u32>,
    /// Requests in progress at once.
    pub in_flight: Option<usize>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::money::Window;

    #[test]
    fn limits_of_a_model_are_read_as_people_write_them() {
        for text in [
            "gpt-5* rpm=10 tpm=50000 max_in_flight=2 budget=5CNY/day budget=50CNY/month",
            "o3 rpm=1",
            "up/a.b budget=0.5USD/week",
        ] {
            let limits = ModelLimits::parse(text, 15).unwrap();
            assert_eq!(limits.to_string(), text);
            assert!(limits.budgets.iter().all(|budget| (budget.window == Window::Month) == (budget.starts_on == 15)));
        }
        for text in [
            "",
            "o3",
            "rpm=1",
            "o3 rpm",
            "o3 rpm=0",
            "o3 rpm=-1",
            "o3 rpm=x",
            "o3 rps=1",
            "o3 rpm=1 rpm=2",
            "o*3 rpm=1",
            "o3 budget=5",
            "o3 budget=5CNY/day budget=6CNY/day",
            "o3 rpm=99999999999",
        ] {
            assert!(ModelLimits::parse(text, 1).is_err(), "{text}");
        }
    }
}
