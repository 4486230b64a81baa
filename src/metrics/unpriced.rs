//! Parts of answers that have no price.

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

/// A part that answers of a model told: upstream, model, part.
type Known = (Arc<str>, Arc<str>, Part);

/// Models and parts that are remembered: clients may make up names of models where a route takes all. Beyond it, the log says
/// nothing of further ones.
const REMEMBERED: usize = 1000;

/// Counts them, and remembers which the log has.
#[derive(Clone, Debug)]
pub struct Unpriced {
    /// Requests with such a part.
    counts: Family<PartLabels, Counter>,
    logged: Arc<Mutex<HashSet<Known>>>,
}

impl Unpriced {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let counts = Family::<PartLabels, Counter>::default();
        let help = "Answers that told a part without a price, so that their cost is an estimate";
        registry.register("unpriced_parts", help, counts.clone());
        Self { counts, logged: Arc::default() }
    }

    /// Counts an answer of this model. Returned are the parts that no answer of the model told before.
    pub fn count(&self, upstream: &Arc<str>, model: &Arc<str>, parts: Parts) -> Parts {
        let mut new = Parts::default();
        for part in parts.iter() {
            self.counts.get_or_create(&PartLabels { upstream: Arc::clone(upstream), part: part.name() }).inc();
            let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
            let known = (Arc::clone(upstream), Arc::clone(model), part);
            if logged.len() < REMEMBERED && logged.insert(known) {
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
    fn each_answer_counts_and_each_part_of_a_model_is_new_once() {
        let mut registry = Registry::with_prefix("tidegate");
        let unpriced = Unpriced::new(&mut registry);
        let parts = |all: &[Part]| {
            let mut parts = Parts::default();
            all.iter().for_each(|part| parts.insert(*part));
            parts
        };
        let (image, both) = (parts(&[Part::ImageToolOutput]), parts(&[Part::ImageToolOutput, Part::WebSearches]));
        for (model, told, new) in [
            ("a", image, image),
            ("a", image, Parts::default()),
            ("a", both, parts(&[Part::WebSearches])),
            ("b", both, both),
        ] {
            assert_eq!(unpriced.count(&"up".into(), &model.into(), told), new, "{model}");
        }
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(text.contains(r#"tidegate_unpriced_parts_total{upstream="up",part="image_tool_output"} 4"#), "{text}");
        assert!(text.contains(r#"tidegate_unpriced_parts_total{upstream="up",part="web_searches"} 2"#), "{text}");
    }
}
