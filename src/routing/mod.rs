//! Model name to candidates ([`Routes`]), and the candidates of one request to their order ([`choose()`]).
//!
//! Nothing here knows how an upstream is reached or watched: how the candidates stand comes in as plain data. A pin, when
//! a request refers to state that lives in one account, comes before any order and is no matter of preference.

mod choose;

use std::{borrow::Cow, collections::HashMap, sync::Arc};

pub use choose::{Candidate, Choice, ExclusionReason, choose};

use crate::config::{self, Config, OnLostState, Strategy};

/// Where every model leads: a snapshot that never changes.
#[derive(Debug)]
pub struct Routes {
    exact: HashMap<Arc<str>, Model>,
    /// Longest prefix first.
    wildcards: Vec<(Arc<str>, Model)>,
    /// Upstreams by name, for `upstream/model`; none for one that is configured but has no credential.
    upstreams: HashMap<Arc<str>, Option<usize>>,
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
    /// Whether it leads there, and the name stays as the client wrote it.
    fn keeps_names_at(&self, upstream: usize) -> bool {
        self.targets.iter().any(|target| target.upstream == upstream && target.model.is_none())
    }
}

/// One place that a model leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Index of the upstream.
    pub upstream: usize,
    /// The model to ask it for; none = as the client wrote it.
    pub model: Option<Arc<str>>,
    /// The lowest is asked first.
    pub priority: u32,
    /// Its share among those of the same priority.
    pub weight: u32,
}

/// Where one request may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route<'a> {
    /// Place of the model in the configuration; none for an upstream that is addressed directly.
    pub model: Option<usize>,
    /// How targets of one priority are ordered.
    pub strategy: Strategy,
    /// What becomes of a request whose state is in an account that cannot be used.
    pub on_lost_state: OnLostState,
    /// Its chat streams have to tell their tokens.
    pub require_usage: bool,
    /// In the order of the configuration.
    pub targets: Cow<'a, [Target]>,
}

impl Routes {
    /// The routes of a configuration.
    pub fn new(config: &Config) -> Self {
        let mut exact = HashMap::new();
        let mut wildcards = Vec::new();
        let mut listed = Vec::new();
        for (index, model) in config.models.iter().enumerate() {
            let targets = model.targets.iter().map(Target::from).collect();
            let config::Model { strategy, on_lost_state, require_usage, .. } = *model;
            let leads = Model { index, strategy, on_lost_state, require_usage, targets };
            match model.name.strip_suffix('*') {
                Some(prefix) => wildcards.push((Arc::from(prefix), leads)),
                None => {
                    listed.push(Arc::clone(&model.name));
                    exact.insert(Arc::clone(&model.name), leads);
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

    /// Where `model` leads: the exact name, then `upstream/model` addressed directly, then the longest wildcard. The
    /// first of them that matches decides, whatever the caller may use, so that a name never leads elsewhere because a
    /// key is restricted.
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

    /// The upstream that a request without a model goes to.
    pub fn default_upstream(&self) -> Option<usize> {
        self.default_upstream
    }

    /// Whether a wildcard leads to this upstream under the names that clients ask for.
    pub fn has_wildcard_to(&self, upstream: usize) -> bool {
        self.wildcards.iter().any(|(_, model)| model.keeps_names_at(upstream))
    }

    /// Whether `model` leads to this upstream by a wildcard, and under its own name.
    pub fn leads_by_wildcard(&self, model: &str, upstream: usize) -> bool {
        let is_direct = || model.split_once('/').is_some_and(|(upstream, _)| self.upstreams.contains_key(upstream));
        if self.exact.contains_key(model) || is_direct() {
            return false;
        }
        let wildcard = self.wildcards.iter().find(|(prefix, _)| model.starts_with(&**prefix));
        wildcard.is_some_and(|(_, model)| model.keeps_names_at(upstream))
    }

    /// The models that have a name of their own, in the order of the configuration.
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
    /// One upstream and no other.
    pub fn to(upstream: usize, model: Option<Arc<str>>) -> Self {
        let target = Target { upstream, model, priority: 1, weight: 1 };
        let (strategy, on_lost_state) = (Strategy::Ordered, OnLostState::Fail);
        Self { model: None, strategy, on_lost_state, require_usage: false, targets: Cow::Owned(vec![target]) }
    }

    /// The same model at this upstream alone. Where it does not lead there, it is asked for by the name `asked`, as the client wrote it;
    /// `None` where that name has another meaning elsewhere, as the configuration renames it.
    #[must_use]
    pub fn only(mut self, upstream: usize, asked: Option<&str>) -> Option<Self> {
        let there = self.targets.iter().filter(|target| target.upstream == upstream);
        let mut targets: Vec<Target> = there.cloned().collect();
        if targets.is_empty() {
            if self.targets.iter().any(|target| target.model.is_some() && target.model.as_deref() != asked) {
                return None;
            }
            targets.push(Target { upstream, model: None, priority: 1, weight: 1 });
        }
        self.targets = Cow::Owned(targets);
        Some(self)
    }

    /// Whether it leads to this upstream.
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
