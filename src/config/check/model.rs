//! `[[models]]`: model names and their routes.

use super::{Check, upstream::UpstreamNames};
use crate::config::{
    document::Path,
    nearest::nearest,
    raw,
    types::{Model, OnLostState, Strategy, Target},
};

/// Every model name that a client may ask for, as exact names and as prefixes. The check compares the patterns of keys with them.
pub(super) struct ModelNames {
    names: Vec<String>,
    /// Prefixes that any text may follow: from wildcards, and `upstream/`.
    beginnings: Vec<String>,
    /// Whether these are all names that the file means.
    complete: bool,
}

impl ModelNames {
    /// Whether a configured model name exists that the pattern of a key matches.
    pub(super) fn meets(&self, pattern: &str) -> bool {
        let beginnings = || self.beginnings.iter().map(String::as_str);
        !self.complete
            || match pattern.strip_suffix('*') {
                None => {
                    self.names.iter().any(|name| name == pattern)
                        || beginnings().any(|start| pattern.starts_with(start))
                }
                Some(rest) => {
                    self.names.iter().any(|name| name.starts_with(rest))
                        || beginnings().any(|start| start.starts_with(rest) || rest.starts_with(start))
                }
            }
    }

    /// Returns the configured model name that is most like a misspelled pattern, if one is near enough.
    pub(super) fn nearest(&self, pattern: &str) -> Option<&str> {
        nearest(pattern, self.names.iter().map(String::as_str))
    }
}

impl Check<'_> {
    /// Checks the `[[models]]` blocks of the configuration. Returns the models, and every model name that a client may ask for.
    pub(super) fn models(&mut self, raw: Vec<raw::Model>, upstreams: &UpstreamNames) -> (Vec<Model>, ModelNames) {
        let mut askable = ModelNames {
            names: Vec::new(),
            beginnings: upstreams.names.keys().map(|name| format!("{name}/")).collect(),
            complete: self.is_complete("models", raw.iter().map(|model| model.name.is_some())) && upstreams.complete,
        };
        let mut models = Vec::new();
        let mut seen: Vec<String> = Vec::new();
        for (i, model) in raw.into_iter().enumerate() {
            let path = Path::default().key("models").index(i);
            let targets = self.targets(model.targets, model.strategy, upstreams, &path.key("targets"));
            // The missing name was reported already.
            let Some(name) = model.name else { continue };
            if seen.contains(&name) {
                self.fault(
                    &path.key("name"),
                    "another model has this name",
                    "put all its targets into one [[models]] block",
                );
            } else {
                self.pattern(&name, &path.key("name"));
            }
            if !targets.is_empty() {
                let strategy = match model.strategy {
                    raw::Strategy::Ordered => Strategy::Ordered,
                    raw::Strategy::Weighted => Strategy::Weighted,
                    raw::Strategy::LeastLatency => Strategy::LeastLatency,
                };
                let on_lost_state = match model.on_lost_state {
                    raw::OnLostState::Fail => OnLostState::Fail,
                    raw::OnLostState::StripEncrypted => OnLostState::StripEncrypted,
                };
                models.push(Model {
                    name: name.as_str().into(),
                    strategy,
                    targets,
                    on_lost_state,
                    require_usage: model.require_usage,
                });
            }
            match name.strip_suffix('*') {
                Some(start) => askable.beginnings.push(start.to_owned()),
                None => askable.names.push(name.clone()),
            }
            seen.push(name);
        }
        (models, askable)
    }

    /// Checks a model name or pattern: a `*` may stand at its end only. Reports a fault and returns false for another text.
    pub(super) fn pattern(&mut self, text: &str, path: &Path) -> bool {
        if text.strip_suffix('*').unwrap_or(text).contains('*') {
            self.fault(
                path,
                "`*` stands in the middle of a name",
                "write `*` only at the end of a name: \"gpt-*\", or \"*\" for all",
            );
            return false;
        }
        self.name(text, &[], path)
    }

    fn targets(
        &mut self,
        raw: Option<Vec<raw::Target>>,
        strategy: raw::Strategy,
        upstreams: &UpstreamNames,
        path: &Path,
    ) -> Vec<Target> {
        let Some(raw) = raw else { return Vec::new() };
        if raw.is_empty() {
            self.fault(
                path,
                "`targets` is empty",
                "name at least one upstream: `targets = [{ upstream = \"dmxapi\" }]`",
            );
        }
        let ordered = matches!(strategy, raw::Strategy::Ordered);
        let place = |i: usize| if ordered { u32::try_from(i + 1).unwrap_or(u32::MAX) } else { 1 };
        let priorities: Vec<u32> = (0..).zip(&raw).map(|(i, one)| one.priority.unwrap_or_else(|| place(i))).collect();
        let mut targets = Vec::new();
        for (i, target) in raw.into_iter().enumerate() {
            let path = path.index(i);
            if target.model.as_deref().is_some_and(|name| name.contains('*')) {
                self.fault(
                    &path.key("model"),
                    "`model` of a target holds a `*`",
                    "leave it out to keep the name the client asked for",
                );
            } else if let Some(name) = &target.model {
                self.name(name, &[], &path.key("model"));
            }
            let priority = priorities[i];
            if target.weight.is_some() && priorities.iter().filter(|other| **other == priority).count() == 1 {
                self.fault(
                    &path.key("weight"),
                    "this `weight` has no effect: no other target has the same priority",
                    "set `strategy = \"weighted\"` for the model, or give targets the same `priority`",
                );
            }
            let Some(upstream) = target.upstream else { continue };
            if let Some(upstream) = self.upstream_index(upstreams, &upstream, &path.key("upstream")) {
                let (model, weight) = (target.model.map(Into::into), target.weight.unwrap_or(1));
                targets.push(Target { upstream, model, priority, weight });
            }
        }
        targets
    }
}
