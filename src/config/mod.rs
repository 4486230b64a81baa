//! Configuration: from TOML text to checked, plain data. This module knows no feature of the gateway.
//!
//! Four steps: `document` parses the text and keeps the place of every setting; `shape` compares the document with the schema;
//! `raw` turns the document into plain structs; `check` checks those. No step stops at its first fault. One `Report` shows all
//! faults, each with file, line, column and help. `mask` hides secrets in the shown text.

mod check;
mod document;
mod known;
mod mask;
mod nearest;
pub mod postgres;
mod raw;
mod reads;
mod report;
mod schema;
mod shape;
mod stored;
mod summary;
mod types;

#[cfg(test)]
mod tests;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

pub use known::{ConfigPart, PartialConfig, load_known};
pub use reads::WatchedFiles;
pub use report::Report;
pub use schema::schema;
pub use stored::StoredFault;
pub use summary::summary;
pub use types::*;

use document::Document;

/// The text of the configuration that is used without a configuration file. The same text documents every setting.
pub const BUILT_IN: &str = include_str!("../../config/tidegate.toml");

/// Exit code for a configuration that cannot be used: `EX_CONFIG` of sysexits.
pub const EXIT_CONFIG: u8 = 78;

/// A function that returns the value of an environment variable by name. None for an unset variable.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Where the configuration comes from: a file, or the text that is built into the binary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file.
    File(PathBuf),
    /// [`BUILT_IN`].
    BuiltIn,
}

/// A checked, valid configuration, with its source and the files that it was read from.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Name of the source, for people.
    pub source: String,
    /// Hashes of the files that were read: the configuration, and the files that it names.
    pub reads: WatchedFiles,
}

/// Reads and checks a configuration for a gateway, with all secrets. `env` returns environment variables.
///
/// # Errors
/// A report of every fault.
pub fn load(source: &Source, env: Environment<'_>) -> Result<Loaded, Report> {
    load_with(source, env, SecretsNeeded::Read)
}

/// Reads and checks a configuration. `secrets` says whether the secrets of upstreams and clients are read.
///
/// # Errors
/// A report of every fault.
pub fn load_with(source: &Source, env: Environment<'_>, secrets: SecretsNeeded) -> Result<Loaded, Report> {
    let mut reads = WatchedFiles::default();
    let (source, config) = match source {
        Source::BuiltIn => {
            let name = "config/tidegate.toml (built in)".to_owned();
            let config = load_text(&name, BUILT_IN, env, &mut reads, secrets);
            (name, config)
        }
        Source::File(file) => {
            let name = file.display().to_string();
            let text = read_file(&name, file, &mut reads);
            let config = text.and_then(|text| load_text(&name, &text, env, &mut reads, secrets));
            (name, config)
        }
    };
    match config {
        Ok(config) => Ok(Loaded { config, source, reads }),
        Err(report) => Err(report.after(reads)),
    }
}

fn read_file(name: &str, file: &Path, reads: &mut WatchedFiles) -> Result<String, Report> {
    let bytes = reads.read(file).map_err(|error| {
        let message = format!("the file cannot be read: {}: {}", name, error.kind());
        let help = "check --config or TIDEGATE_CONFIG; without either, the built-in configuration is used".to_owned();
        Report::new(name.to_owned(), "", vec![report::ConfigFault { place: None, message, help }], |_| String::new())
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let place = Some(error.utf8_error().valid_up_to()..error.utf8_error().valid_up_to());
        let message = "the file is not UTF-8 from here on".to_owned();
        let text = String::from_utf8_lossy(error.as_bytes());
        let faults = vec![report::ConfigFault { place, message, help: "save it as UTF-8".into() }];
        Report::new(name.to_owned(), &text, faults, |line| mask::unparsed(&text[line]))
    })
}

fn load_text(
    name: &str,
    text: &str,
    env: Environment<'_>,
    reads: &mut WatchedFiles,
    secrets: SecretsNeeded,
) -> Result<Config, Report> {
    let document = Document::parse(text)
        .map_err(|faults| Report::new(name.to_owned(), text, faults, |line| mask::unparsed(&text[line])))?;
    let mut shape = shape::read(&document, &schema::tree());
    let sound = shape.faults.is_empty();
    let mut config = None;
    if let Some(file) = shape::settings(&mut shape) {
        let (checked, faults) = check::config(&document, file, sound, env, reads, secrets);
        shape.faults.extend(faults);
        config = checked;
    }
    match config {
        Some(config) if shape.faults.is_empty() => Ok(config),
        _ => {
            let shown = |line| mask::parsed(&document, &shape.hidden, line);
            Err(Report::new(name.to_owned(), text, shape.faults, shown))
        }
    }
}
