//! Counts of reported parts that have no price.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use crate::domain::price::{Part, Parts};

/// `upstream`, `part`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PartLabels {
    upstream: Arc<str>,
    part: &'static str,
}

/// Upstream, model and part of a log line that was written.
type LoggedPart = (Arc<str>, Arc<str>, Part);

/// The most parts that are remembered. Where a route accepts all model names, clients can invent names without end. Further
/// parts are counted but not logged.
const MAX_LOGGED: usize = 1000;

/// Counts answers whose usage has a part without a price, and remembers which parts were logged already.
#[derive(Clone, Debug)]
pub struct Unpriced {
    /// Answers with such a part, by upstream and part.
    counts: Family<PartLabels, Counter>,
    logged: Arc<Mutex<HashSet<LoggedPart>>>,
}

impl Unpriced {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let counts = Family::<PartLabels, Counter>::default();
        let help = "Answers with a reported part that has no price; their cost is an estimate";
        registry.register("unpriced_parts", help, counts.clone());
        Self { counts, logged: Arc::default() }
    }

    /// Counts an answer of this model whose usage has these parts without a price. Returns the parts that are new for this upstream and
    /// model: the caller logs them.
    pub fn count(&self, upstream: &Arc<str>, model: &Arc<str>, parts: Parts) -> Parts {
        let mut new = Parts::default();
        for part in parts.iter() {
            self.counts.get_or_create(&PartLabels { upstream: Arc::clone(upstream), part: part.name() }).inc();
            let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
            let entry = (Arc::clone(upstream), Arc::clone(model), part);
            if logged.len() < MAX_LOGGED && logged.insert(entry) {
                new.insert(part);
            }
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_is_counted_and_each_part_of_a_model_is_new_once() {
        let mut registry = Registry::with_prefix("tidegate");
        let unpriced = Unpriced::new(&mut registry);
        let parts = |all: &[Part]| {
            let mut parts = Parts::default();
            all.iter().for_each(|part| parts.insert(*part));
            parts
        };
        let (image, both) = (parts(&[Part::ImageToolOutput]), parts(&[Part::ImageToolOutput, Part::WebSearches]));
        for (model, reported, new) in [
            ("a", image, image),
            ("a", image, Parts::default()),
            ("a", both, parts(&[Part::WebSearches])),
            ("b", both, both),
        ] {
            assert_eq!(unpriced.count(&"up".into(), &model.into(), reported), new, "{model}");
        }
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(text.contains(r#"tidegate_unpriced_parts_total{upstream="up",part="image_tool_output"} 4"#), "{text}");
        assert!(text.contains(r#"tidegate_unpriced_parts_total{upstream="up",part="web_searches"} 2"#), "{text}");
    }
}
