//! The rules of the house that a compiler does not hold.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Rows of modules, lowest first. A module imports only from rows below its own; beside it only where the row says so.
const ROWS: [&[&str]; 8] = [
    &["domain"],
    &["config"],
    &["store", "budgets", "protocol", "metrics"],
    &["affinity", "auth", "billing", "limits", "routing", "upstream", "metering"],
    &["proxy"],
    &["api"],
    &["app"],
    &["main", "cli", "simulator"],
];

/// The command line runs the simulator; nothing else of a row knows its neighbours.
const NEIGHBOURS: [(&str, &str); 1] = [("cli", "simulator")];

/// A file longer than this tells more than one story (lines without its tests).
const LINES: usize = 420;

fn row(module: &str) -> Option<usize> {
    ROWS.iter().position(|row| row.contains(&module))
}

fn sources() -> Vec<(PathBuf, String)> {
    fn walk(folder: &Path, into: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, into);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                into.push((path.clone(), fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let mut found = Vec::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    found.sort();
    found
}

/// The module of the first level that a file belongs to.
fn module(path: &Path) -> String {
    let inside = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    let first = inside.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// Every module of the first level that `text` names behind `crate::`, also inside `use crate::{…}` over several lines.
fn imports(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let (mut depth, mut name, mut first) = (1, String::new(), true);
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    _ => {}
                }
                if depth == 0 || (depth == 1 && c == ',') {
                    found.push(std::mem::take(&mut name));
                    first = true;
                    if depth == 0 {
                        break;
                    }
                } else if depth == 1 && first && (c.is_alphanumeric() || c == '_') {
                    name.push(c);
                } else if !c.is_whitespace() {
                    first = false;
                }
            }
        } else {
            found.push(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    found.retain(|name| !name.is_empty());
    found
}

#[test]
fn the_reader_of_imports_sees_every_form() {
    let text =
        "use crate::{\n  auth::{self, Keys},\n  config,\n  domain::id::RequestId,\n};\nlet x = crate::proxy::y();";
    assert_eq!(imports(text), ["auth", "config", "domain", "proxy"]);
}

#[test]
fn modules_import_downwards_only() {
    let mut faults = Vec::new();
    for (path, text) in sources() {
        let own = module(&path);
        if own == "lib" {
            continue;
        }
        let own_row = row(&own).unwrap_or_else(|| panic!("{} is in no row: add it to ROWS", path.display()));
        for import in imports(&text) {
            let allowed = import == own
                || NEIGHBOURS.contains(&(&*own, &*import))
                || row(&import).is_some_and(|imported| imported < own_row);
            if !allowed {
                faults.push(format!("{}: {own} imports {import}", path.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn files_tell_one_story() {
    let mut faults = Vec::new();
    for (path, text) in sources() {
        let lines = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).count();
        let is_test = path.components().any(|part| part.as_os_str() == "tests") || path.ends_with("tests.rs");
        if lines > LINES && !is_test {
            faults.push(format!("{}: {lines} lines", path.display()));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn axum_stays_in_api_and_app() {
    for (path, text) in sources() {
        let used = text.lines().any(|line| line.starts_with("use axum") || line.contains("axum::"));
        let own = module(&path);
        assert!(!used || own == "api" || own == "app", "{} uses axum", path.display());
    }
}

#[test]
fn nothing_is_left_for_later() {
    // Written in parts, so that this file does not find itself if it is ever searched.
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("unimpl", "emented!"), concat!("to", "do!(")];
    for (path, text) in sources() {
        for mark in marks {
            assert!(!text.contains(mark), "{} holds {mark}", path.display());
        }
    }
}
