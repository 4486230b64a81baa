//! A parsed TOML file that knows the place of every setting.

use std::ops::Range;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::report::ConfigFault;

/// The path from the root of a configuration file to one setting, as table keys and array indices.
#[derive(Clone, Default)]
pub(super) struct Path(Vec<Step>);

#[derive(Clone)]
enum Step {
    Key(String),
    Index(usize),
}

impl Path {
    /// Extends the path of a configuration table by the name of a setting in this table.
    pub(super) fn key(&self, key: &str) -> Self {
        self.with(Step::Key(key.to_owned()))
    }

    /// Extends the path of an array in the configuration by the index of one element.
    pub(super) fn index(&self, index: usize) -> Self {
        self.with(Step::Index(index))
    }

    fn with(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }

    /// Returns the name of the setting that a path leads to. Messages about faults use this name.
    pub(super) fn name(&self) -> Option<&str> {
        self.0.iter().rev().find_map(|step| match step {
            Step::Key(key) => Some(key.as_str()),
            Step::Index(_) => None,
        })
    }
}

/// One configuration file after the TOML parser: its text, and its values with their places in the text.
pub(super) struct Document<'a> {
    pub(super) text: &'a str,
    pub(super) root: Spanned<DeTable<'a>>,
}

impl<'a> Document<'a> {
    /// Parses the text of a configuration file as TOML. Returns the errors of TOML as faults with their places.
    pub(super) fn parse(text: &'a str) -> Result<Self, Vec<ConfigFault>> {
        let (root, errors) = DeTable::parse_recoverable(text);
        if errors.is_empty() {
            return Ok(Self { text, root });
        }
        let faults = errors
            .iter()
            .map(|error| {
                let message = format!("not valid TOML: {}", error.message().trim());
                let help = if error.message().contains("duplicate key") {
                    "write each setting and each table once; several upstreams, models or keys are [[double]] headers"
                } else {
                    "text stands in \"quotes\", lists in [brackets], one setting a line: see config/tidegate.toml"
                };
                ConfigFault { place: error.span(), message, help: help.to_owned() }
            })
            .collect();
        Err(faults)
    }

    /// Returns the byte range of a setting's value in the configuration file. For a setting that is not in the file, returns the
    /// place of its nearest table.
    pub(super) fn place(&self, path: &Path) -> Option<Range<usize>> {
        let mut place = None;
        let mut step_into: Option<&Spanned<DeValue<'a>>> = None;
        for step in &path.0 {
            let next = match (step, step_into.map(Spanned::get_ref)) {
                (Step::Key(key), None) => self.root.get_ref().get(key.as_str()),
                (Step::Key(key), Some(DeValue::Table(table))) => table.get(key.as_str()),
                (Step::Index(index), Some(DeValue::Array(array))) => array.get(*index),
                _ => None,
            };
            let Some(next) = next else { break };
            place = Some(next.span());
            step_into = Some(next);
        }
        place
    }
}
