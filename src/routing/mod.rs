//! Model name to candidates, in order.

use std::{collections::HashMap, sync::Arc};

use crate::config::{self, Config};

/// Where every model leads: a snapshot that never changes.
#[derive(Debug)]
pub struct Routes {
    exact: HashMap<Arc<str>, Vec<Target>>,
    /// Longest prefix first.
    wildcards: Vec<(Arc<str>, Vec<Target>)>,
    /// Upstreams by name, for `upstream/model`; none for one that is configured but has no credential.
    upstreams: HashMap<Arc<str>, Option<usize>>,
    listed: Vec<Arc<str>>,
    default_upstream: Option<usize>,
}

#[derive(Clone, Debug)]
struct Target {
    upstream: usize,
    model: Option<Arc<str>>,
}

/// One place that can serve a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Index of the upstream.
    pub upstream: usize,
    /// The model to ask it for.
    pub model: Arc<str>,
}

impl Routes {
    /// The routes of a configuration.
    pub fn new(config: &Config) -> Self {
        let mut exact = HashMap::new();
        let mut wildcards = Vec::new();
        let mut listed = Vec::new();
        for model in &config.models {
            let targets = model.targets.iter().map(Target::from).collect();
            match model.name.strip_suffix('*') {
                Some(prefix) => wildcards.push((Arc::from(prefix), targets)),
                None => {
                    listed.push(Arc::clone(&model.name));
                    exact.insert(Arc::clone(&model.name), targets);
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

    /// Who can serve `model`, in order of preference, of those the caller may use: the exact name, then
    /// `upstream/model` addressed directly, then the longest wildcard. The first of them that matches decides, so
    /// that a name never leads elsewhere because a key is restricted. Empty = there is no such model for this caller.
    pub fn candidates(&self, model: &str, may_use: impl Fn(usize) -> bool) -> Vec<Candidate> {
        if let Some(targets) = self.exact.get(model) {
            return pick(targets, model, may_use);
        }
        if let Some((upstream, name)) = model.split_once('/')
            && let Some(&index) = self.upstreams.get(upstream)
        {
            return match index {
                Some(upstream) if may_use(upstream) && !name.is_empty() => {
                    vec![Candidate { upstream, model: name.into() }]
                }
                _ => Vec::new(),
            };
        }
        let wildcard = self.wildcards.iter().find(|(prefix, _)| model.starts_with(&**prefix));
        wildcard.map(|(_, targets)| pick(targets, model, may_use)).unwrap_or_default()
    }

    /// Where a request without a model goes.
    pub fn default_upstream(&self) -> Option<usize> {
        self.default_upstream
    }

    /// The models that have a name of their own, in the order of the configuration.
    pub fn listed(&self) -> &[Arc<str>] {
        &self.listed
    }
}

impl From<&config::Target> for Target {
    fn from(target: &config::Target) -> Self {
        Self { upstream: target.upstream, model: target.model.clone() }
    }
}

fn pick(targets: &[Target], asked: &str, may_use: impl Fn(usize) -> bool) -> Vec<Candidate> {
    let allowed = targets.iter().filter(|target| may_use(target.upstream));
    allowed
        .map(|target| Candidate {
            upstream: target.upstream,
            model: target.model.clone().unwrap_or_else(|| asked.into()),
        })
        .collect()
}
