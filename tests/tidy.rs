//! Rules for the source code that the compiler does not check.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]

#[path = "tidy/graph.rs"]
mod graph;
#[path = "tidy/source.rs"]
mod source;

use std::{
    fs,
    path::{Path, PathBuf},
};

use graph::Crate;

/// Rows of modules, the lowest first. A module imports only from rows below its own, and from its own row only by
/// [`NEIGHBOURS`].
const ROWS: [&[&str]; 8] = [
    &["domain"],
    &["concurrent", "config"],
    &["store", "budgets", "protocol", "metrics"],
    &["affinity", "auth", "billing", "limits", "routing", "upstream", "metering"],
    &["proxy"],
    &["api", "server"],
    &["app"],
    &["main", "cli", "simulator"],
];

/// The command line runs the simulator. No other module imports from its own row.
const NEIGHBOURS: [(&str, &str); 1] = [("cli", "simulator")];

/// Modules that import nothing of the crate, so that each could be a crate of its own.
const ALONE: [&str; 2] = ["domain", "server"];

/// Import cycles that are not resolved yet, each by its number of files and its first file. The list may only shrink: a
/// cycle that is gone, or that has another size, fails as a new one does.
const CIRCLES: &[(usize, &str)] = &[];

/// Types that several threads may change at once, and that plain data does not have.
const SHARED: [&str; 5] = ["Mutex", "RwLock", "Condvar", "OnceLock", "parking_lot"];

/// The most lines of a file, without its tests. A longer file has more than one subject.
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
    // A rule that reads no file holds for everything.
    assert!(found.len() > 200, "only {} files were read", found.len());
    found
}

/// The path of a file below `src`.
fn below_src(path: &Path) -> String {
    let inside = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    inside.to_str().unwrap().replace('\\', "/")
}

/// The top-level module of a file.
fn module(path: &Path) -> String {
    let inside = below_src(path);
    inside.split('/').next().unwrap().trim_end_matches(".rs").to_owned()
}

fn read_crate(sources: &[(PathBuf, String)]) -> Crate {
    let files: Vec<(String, &str)> = sources.iter().map(|(path, text)| (below_src(path), text.as_str())).collect();
    Crate::read(files.iter().map(|(file, text)| (file.as_str(), *text)))
}

/// Whether a top-level module may import another one.
fn may_import(own: &str, import: &str) -> bool {
    let own_row = row(own).unwrap_or_else(|| panic!("{own} is in no row: add it to ROWS"));
    own == import || NEIGHBOURS.contains(&(own, import)) || row(import).is_some_and(|imported| imported < own_row)
}

#[test]
fn modules_import_only_from_lower_rows() {
    let mut faults = Vec::new();
    for (path, text) in sources() {
        let own = module(&path);
        if own == "lib" {
            continue;
        }
        for import in graph::named_modules(&below_src(&path), &text) {
            if !may_import(&own, &import) {
                faults.push(format!("{}: {own} imports {import}", path.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn stand_alone_modules_import_nothing_of_the_crate() {
    let sources = sources();
    // Imports of test files do not count.
    let files = sources.iter().filter(|(path, _)| !graph::is_of_tests(&below_src(path)));
    let named = files.flat_map(|(path, text)| {
        let own = module(path);
        let named = graph::named_modules(&below_src(path), text).into_iter();
        named
            .filter(move |import| ALONE.contains(&own.as_str()) && *import != own)
            .map(|import| (below_src(path), import))
    });
    assert_eq!(named.collect::<Vec<_>>(), []);
}

#[test]
fn files_have_no_unlisted_import_cycle() {
    let circles = read_crate(&sources()).circles();
    let found: Vec<(usize, &str)> = circles.iter().map(|circle| (circle.len(), circle[0].as_str())).collect();
    assert_eq!(found, CIRCLES, "{circles:#?}");
}

/// The locks and atomics in a file.
fn shared_things(text: &str) -> Vec<String> {
    let names = source::tokens(text).into_iter().map(|token| token.0);
    names.filter(|name| SHARED.contains(&name.as_str()) || name.starts_with("Atomic")).collect()
}

#[test]
fn domain_has_no_locks_or_atomics() {
    let holds = |(path, text): &(PathBuf, String)| module(path) == "domain" && !shared_things(text).is_empty();
    let found: Vec<String> = sources().iter().filter(|file| holds(file)).map(|(path, _)| below_src(path)).collect();
    assert_eq!(found, [""; 0]);
}

#[test]
fn a_planted_lock_is_found() {
    assert_eq!(shared_things("use std::sync::{Arc, Mutex};\nstruct A(Arc<Mutex<u8>>);"), ["Mutex", "Mutex"]);
    assert_eq!(shared_things("static A: std::sync::atomic::AtomicU8 = todo;"), ["AtomicU8"]);
    assert!(shared_things("// Mutex\nconst A: &str = \"AtomicU8\";").is_empty());
}

#[test]
fn files_are_at_most_420_lines_long() {
    let mut faults = Vec::new();
    for (path, text) in sources() {
        let lines = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).count();
        if lines > LINES && !graph::is_of_tests(&below_src(&path)) {
            faults.push(format!("{}: {lines} lines", path.display()));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn axum_is_used_only_in_api_and_app() {
    for (path, text) in sources() {
        let used = text.lines().any(|line| line.starts_with("use axum") || line.contains("axum::"));
        let own = module(&path);
        assert!(!used || own == "api" || own == "app", "{} uses axum", path.display());
    }
}

#[test]
fn the_source_has_no_unfinished_work_marks() {
    // The words are written in parts, so that this file does not match itself.
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("unimpl", "emented!"), concat!("to", "do!(")];
    for (path, text) in sources() {
        for mark in marks {
            assert!(!text.contains(mark), "{} holds {mark}", path.display());
        }
    }
}
