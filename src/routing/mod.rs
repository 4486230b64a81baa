//! Routing: [`Routes`] maps a model name to its targets, and [`choose()`] orders the candidates of one request.
//!
//! This module does no I/O and no health checks: health states and loads come in as plain data. A pin is applied before the
//! candidates are ordered: a request that refers to state of one account has only candidates with that account.

mod choose;

use std::{borrow::Cow, collections::HashMap, sync::Arc};

pub use choose::{Candidate, Choice, ExclusionReason, choose};

use crate::config::{self, Config, OnLostState, Strategy};

/// The routes of all models: which upstreams serve each model name. An immutable part of the tables.
#[derive(Debug)]
pub struct Routes {
    exact: HashMap<Arc<str>, Model>,
    /// Models by the prefix before `*`, the longest prefix first.
    wildcards: Vec<(Arc<str>, Model)>,
    /// Indices of upstreams by name, for `upstream/model`. None for an upstream that is configured without a credential.
    upstreams: HashMap<Arc<str>, Option<usize>>,
    /// Names of the models without a wildcard, in the order of the configuration.
    listed: Vec<Arc<str>>,
    default_upstream: Option<usize>,
}

#[derive(Debug)]
struct Model {
    index: usize,
    strategy: Strategy,
    on_lost_state: OnLostState,
    require_usage: bool,
    targets: Vec<Target>,
}

impl Model {
    /// Whether the model leads to this upstream with the model name unchanged.
    fn keeps_names_at(&self, upstream: usize) -> bool {
        self.targets.iter().any(|target| target.upstream == upstream && target.model.is_none())
    }
}

/// One upstream of a model, with the upstream's own name for the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Index of the upstream.
    pub upstream: usize,
    /// The upstream's name for the model; none = the name that the client requested.
    pub model: Option<Arc<str>>,
    /// Targets with the lowest number are tried first.
    pub priority: u32,
    /// Share of the target among the targets of the same priority.
    pub weight: u32,
}

/// The targets that can serve one request for a model, and the settings of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route<'a> {
    /// Index of the model in the configuration; none for an upstream that is addressed directly.
    pub model: Option<usize>,
    /// How the targets of one priority are ordered.
    pub strategy: Strategy,
    /// What Tidegate does with a request whose state is in an account that cannot be used.
    pub on_lost_state: OnLostState,
    /// Chat streams have to report their usage.
    pub require_usage: bool,
    /// The targets, in the order of the configuration.
    pub targets: Cow<'a, [Target]>,
}

impl Routes {
    /// Makes the routes of all models of a configuration.
    pub fn new(config: &Config) -> Self {
        let mut exact = HashMap::new();
        let mut wildcards = Vec::new();
        let mut listed = Vec::new();
        for (index, model) in config.models.iter().enumerate() {
            let targets = model.targets.iter().map(Target::from).collect();
            let config::Model { strategy, on_lost_state, require_usage, .. } = *model;
            let entry = Model { index, strategy, on_lost_state, require_usage, targets };
            match model.name.strip_suffix('*') {
                Some(prefix) => wildcards.push((Arc::from(prefix), entry)),
                None => {
                    listed.push(Arc::clone(&model.name));
                    exact.insert(Arc::clone(&model.name), entry);
                }
            }
        }
        wildcards.sort_by_key(|(prefix, _): &(Arc<str>, _)| std::cmp::Reverse(prefix.len()));
        let live = config.upstreams.iter().enumerate().map(|(index, upstream)| (upstream.name.clone(), Some(index)));
        let idle = config.idle.iter().map(|upstream| (upstream.name.clone(), None));
        Self {
            exact,
            wildcards,
            upstreams: live.chain(idle).collect(),
            listed,
            default_upstream: config.default_upstream,
        }
    }

    /// Returns the route of a model name that a client asks for: the exact name, then `upstream/model` addressed directly, then the
    /// longest wildcard. The first match decides, whatever upstreams the key may use: a restricted key must not change where a name
    /// leads.
    pub fn route(&self, model: &str) -> Option<Route<'_>> {
        if let Some(model) = self.exact.get(model) {
            return Some(Route::of(model));
        }
        if let Some((upstream, name)) = model.split_once('/')
            && let Some(&index) = self.upstreams.get(upstream)
        {
            return index.filter(|_| !name.is_empty()).map(|upstream| Route::to(upstream, Some(name.into())));
        }
        let wildcard = self.wildcards.iter().find(|(prefix, _)| model.starts_with(&**prefix));
        wildcard.map(|(_, model)| Route::of(model))
    }

    /// Returns the index of the upstream for requests that name no model, if one is configured.
    pub fn default_upstream(&self) -> Option<usize> {
        self.default_upstream
    }

    /// Whether some wildcard model (a `[[models]]` name such as `gpt-*`) has this upstream as a target that gets the client's model name
    /// unchanged.
    pub fn has_wildcard_to(&self, upstream: usize) -> bool {
        self.wildcards.iter().any(|(_, model)| model.keeps_names_at(upstream))
    }

    /// Whether a client's request for `model` reaches this upstream by a wildcard (a `[[models]]` name such as `gpt-*`), with the model
    /// name unchanged.
    pub fn leads_by_wildcard(&self, model: &str, upstream: usize) -> bool {
        let is_direct = || model.split_once('/').is_some_and(|(upstream, _)| self.upstreams.contains_key(upstream));
        if self.exact.contains_key(model) || is_direct() {
            return false;
        }
        let wildcard = self.wildcards.iter().find(|(prefix, _)| model.starts_with(&**prefix));
        wildcard.is_some_and(|(_, model)| model.keeps_names_at(upstream))
    }

    /// Returns the configured model names that are no wildcards such as `gpt-*`, in the order of the configuration.
    pub fn listed(&self) -> &[Arc<str>] {
        &self.listed
    }
}

impl<'a> Route<'a> {
    fn of(model: &'a Model) -> Self {
        let Model { index, strategy, on_lost_state, require_usage, ref targets } = *model;
        Self { model: Some(index), strategy, on_lost_state, require_usage, targets: Cow::Borrowed(targets) }
    }
}

impl Route<'_> {
    /// Makes a route with one upstream as its only target. `model` is the upstream's name for the model; none = the name that the client
    /// requested.
    pub fn to(upstream: usize, model: Option<Arc<str>>) -> Self {
        let target = Target { upstream, model, priority: 1, weight: 1 };
        let (strategy, on_lost_state) = (Strategy::Ordered, OnLostState::Fail);
        Self { model: None, strategy, on_lost_state, require_usage: false, targets: Cow::Owned(vec![target]) }
    }

    /// Returns this route limited to one upstream. If no target of the route has the upstream, the new target uses the model name
    /// `requested` unchanged. None if a target has another name for the model: `requested` could be another model at this upstream.
    #[must_use]
    pub fn only(mut self, upstream: usize, requested: Option<&str>) -> Option<Self> {
        let kept = self.targets.iter().filter(|target| target.upstream == upstream);
        let mut targets: Vec<Target> = kept.cloned().collect();
        if targets.is_empty() {
            if self.targets.iter().any(|target| target.model.is_some() && target.model.as_deref() != requested) {
                return None;
            }
            targets.push(Target { upstream, model: None, priority: 1, weight: 1 });
        }
        self.targets = Cow::Owned(targets);
        Some(self)
    }

    /// Whether this route has a target at the upstream with this index.
    pub fn leads_to(&self, upstream: usize) -> bool {
        self.targets.iter().any(|target| target.upstream == upstream)
    }
}

impl From<&config::Target> for Target {
    fn from(target: &config::Target) -> Self {
        Self {
            upstream: target.upstream,
            model: target.model.clone(),
            priority: target.priority,
            weight: target.weight,
        }
    }
}
