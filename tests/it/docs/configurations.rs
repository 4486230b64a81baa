//! Each configuration of a page passes `tidegate check`.

use std::{collections::BTreeSet, fs, path::Path};

use tempfile::TempDir;

use super::{Page, pages, quoted, root};
use crate::support::{
    process::{output_text, run, tidegate},
    tls::TestCertificate,
};

/// Whether the text is a configuration of Codex, not of Tidegate.
fn is_codex(text: &str) -> bool {
    text.contains("[model_providers.")
}

fn is_whole(text: &str) -> bool {
    text.contains("[[upstreams]]") && text.contains("[[models]]")
}

/// A complete file around a part of one. The part is added to the first complete configuration of its page, or to
/// config/minimal.toml. A part that begins with a setting belongs to an upstream.
fn whole(page: &Page, text: &str) -> String {
    const UPSTREAM: &str = "[[upstreams]]\nname = \"an-upstream\"\nbase_url = \"https://api.example.com/v1\"\n";
    let begins = text.lines().find(|line| !line.trim().is_empty() && !line.starts_with('#')).unwrap_or_default();
    if is_whole(text) {
        text.to_owned()
    } else if !begins.starts_with('[') {
        format!("[[models]]\nname = \"*\"\ntargets = [{{ upstream = \"an-upstream\" }}]\n{UPSTREAM}{text}")
    } else if text.contains("[[upstreams]]") {
        let name = text.lines().find_map(|line| line.strip_prefix("name = ")).unwrap();
        format!("{text}\n[[models]]\nname = \"*\"\ntargets = [{{ upstream = {} }}]\n", name.split('#').next().unwrap())
    } else {
        let first = page.blocks().into_iter().find(|block| block.language == "toml" && is_whole(&block.text));
        let minimal = || fs::read_to_string(root().join("config/minimal.toml")).unwrap();
        format!("{}\n{text}", first.map_or_else(minimal, |block| block.text))
    }
}

/// The variables that the configuration takes its secrets from.
fn variables(text: &str) -> BTreeSet<&str> {
    let after = text.split("env = \"").skip(1);
    after.filter_map(|rest| rest.split('"').next()).collect()
}

/// What `tidegate check` reports, with a secret in each variable and with the certificate that the configuration names.
fn faults(folder: &Path, text: &str) -> Option<String> {
    let made = TestCertificate::new();
    fs::write(folder.join("tls.crt"), &made.cert_pem).unwrap();
    fs::write(folder.join("tls.key"), &made.key_pem).unwrap();
    let text = text.replace("/etc/tidegate/", &format!("{}/", folder.display()));
    fs::write(folder.join("page.toml"), &text).unwrap();
    let mut command = tidegate(folder);
    command.args(["check", "--config", "page.toml"]);
    for variable in variables(&text) {
        command.env(variable, format!("a-secret-for-{variable}"));
    }
    let output = run(&mut command);
    (!output.status.success()).then(|| output_text(&output))
}

#[test]
fn every_configuration_of_a_page_passes_check() {
    let folder = TempDir::new().unwrap();
    let (mut found, mut wrong) = (0, Vec::new());
    for page in pages() {
        for block in page.blocks().into_iter().filter(|block| block.language == "toml") {
            found += 1;
            if is_codex(&block.text) {
                assert!(quoted(&block.text.replace('"', "`")).any(|text| text.ends_with("/v1")), "{}", block.text);
                continue;
            }
            if let Some(said) = faults(folder.path(), &whole(&page, &block.text)) {
                wrong.push(format!("{}:{}\n{said}", page.name, block.line));
            }
        }
    }
    assert!(found > 15, "only {found} configurations were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // The counter-check: a wrong configuration has a fault.
    assert!(faults(folder.path(), "[server]\nlisen = \"127.0.0.1:1\"\n").is_some_and(|said| said.contains("lisen")));
}
