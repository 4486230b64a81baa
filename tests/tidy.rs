//! The rules of the house that a compiler does not hold.
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

/// Rows of modules, lowest first. A module imports only from rows below its own; beside it only where the row says so.
const ROWS: [&[&str]; 8] = [
    &["domain"],
    &["config"],
    &["store", "budgets", "protocol", "metrics"],
    &["affinity", "auth", "billing", "limits", "routing", "upstream", "metering"],
    &["proxy"],
    &["api", "server"],
    &["app"],
    &["main", "cli", "simulator"],
];

/// The command line runs the simulator; nothing else of a row knows its neighbours.
const NEIGHBOURS: [(&str, &str); 1] = [("cli", "simulator")];

/// Rooms that stand by themselves: they import nothing of the crate, so that each could be a crate of its own.
const ALONE: [&str; 2] = ["domain", "server"];

/// Circles among files that are not mended yet, each by its first file. The list may only shrink: a circle that is gone, or
/// that has another number of files, fails as a new one does.
const CIRCLES: &[(usize, &str)] = &[
    (3, "affinity/keeping/mod.rs"),
    (2, "protocol/references/finder.rs"),
    (18, "proxy/attempt.rs"),
    (3, "store/origins/mod.rs"),
    (4, "store/sql/dialect.rs"),
    (2, "upstream/connect.rs"),
    (2, "upstream/echo.rs"),
];

/// What is no plain data: it may be changed by several threads at once.
const SHARED: [&str; 5] = ["Mutex", "RwLock", "Condvar", "OnceLock", "parking_lot"];

/// Files of `domain` that hold such things still. This list may only shrink, too.
const NOT_PLAIN: &[&str] = &[
    "domain/affinity.rs",
    "domain/alert.rs",
    "domain/budget.rs",
    "domain/chance.rs",
    "domain/id.rs",
    "domain/key.rs",
    "domain/ledger/status.rs",
    "domain/sharing.rs",
];

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
    // A rule that looks at nothing holds for everything.
    assert!(found.len() > 200, "only {} files were read", found.len());
    found
}

/// The path of a file below `src`.
fn below_src(path: &Path) -> String {
    let inside = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    inside.to_str().unwrap().replace('\\', "/")
}

/// The module of the first level that a file belongs to.
fn module(path: &Path) -> String {
    let inside = below_src(path);
    inside.split('/').next().unwrap().trim_end_matches(".rs").to_owned()
}

fn read_crate(sources: &[(PathBuf, String)]) -> Crate {
    let files: Vec<(String, &str)> = sources.iter().map(|(path, text)| (below_src(path), text.as_str())).collect();
    Crate::read(files.iter().map(|(file, text)| (file.as_str(), *text)))
}

/// Whether a module of the first level may import another.
fn may_import(own: &str, import: &str) -> bool {
    let own_row = row(own).unwrap_or_else(|| panic!("{own} is in no row: add it to ROWS"));
    own == import || NEIGHBOURS.contains(&(own, import)) || row(import).is_some_and(|imported| imported < own_row)
}

#[test]
fn modules_import_downwards_only() {
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
fn rooms_that_stand_alone_import_nothing() {
    let sources = sources();
    // What a file of tests uses belongs to no room.
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
fn files_import_each_other_in_no_circle() {
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
fn domain_is_plain_data() {
    let holds = |(path, text): &(PathBuf, String)| module(path) == "domain" && !shared_things(text).is_empty();
    let found: Vec<String> = sources().iter().filter(|file| holds(file)).map(|(path, _)| below_src(path)).collect();
    assert_eq!(found, NOT_PLAIN);
}

#[test]
fn a_planted_lock_is_found() {
    assert_eq!(shared_things("use std::sync::{Arc, Mutex};\nstruct A(Arc<Mutex<u8>>);"), ["Mutex", "Mutex"]);
    assert_eq!(shared_things("static A: std::sync::atomic::AtomicU8 = todo;"), ["AtomicU8"]);
    assert!(shared_things("// Mutex\nconst A: &str = \"AtomicU8\";").is_empty());
}

#[test]
fn files_tell_one_story() {
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
