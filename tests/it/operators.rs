//! Tidegate for its operator: the command line, the first start, refused requests in the log, errors that say what to
//! change.

mod alert_times;
mod alerts;
mod commands;
mod key_usage;
mod refused_requests;

use std::{fs, path::Path};

use tempfile::TempDir;

use crate::support::{
    process::{Process, output_text, run, tidegate},
    settings::smallest,
};

const KEY: &str = "sk-a-key-of-the-operators";
const UP_KEY: &str = "sk-upstream-secret-0123";

/// A configuration with one upstream and the key `a`; `more` comes first, so that it may add to `[server]`.
fn text(base_url: &str, more: &str) -> String {
    smallest(base_url, &format!("workers = 1\n{more}"), "[[groups]]\nname = \"team\"")
}

fn folder(text: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("tidegate.toml"), text).unwrap();
    folder
}

fn serve(folder: &Path) -> Process {
    let mut command = tidegate(folder);
    command.args(["serve", "--config", "tidegate.toml"]).env("UP_KEY", UP_KEY).env("A_KEY", KEY);
    Process::start(&mut command)
}

/// Runs a command without the variables of secrets. `Ok` has its stdout and its whole output; `Err` has the output of a
/// failure.
fn command(folder: &Path, arguments: &[&str]) -> Result<(String, String), String> {
    let mut command = tidegate(folder);
    let output = run(command.args(["--config", "tidegate.toml"]).args(arguments));
    let printed = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() { Ok((printed, output_text(&output))) } else { Err(output_text(&output)) }
}
