//! The imports between files, and the cycles among them.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{Token, split, tokens, without_text};

/// The names from the root of the crate to an item or a module.
type Path = Vec<String>;

/// One file as a module.
struct Module {
    file: String,
    /// The path behind each imported name, from the root of the crate or as the file writes it.
    names: BTreeMap<String, Path>,
    /// Every path in the code, and every name that the file imports for its own use.
    paths: Vec<Path>,
}

/// The modules of a crate.
pub(crate) struct Crate {
    modules: BTreeMap<Path, Module>,
}

impl Crate {
    /// Reads files by their paths below `src`, without test files.
    pub(crate) fn read<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut modules = BTreeMap::new();
        for (file, text) in files {
            if is_of_tests(file) {
                continue;
            }
            let (names, paths) = read(&tokens(text));
            modules.insert(path_of(file), Module { file: file.to_owned(), names, paths });
        }
        Self { modules }
    }

    /// The files that each file imports from. A parent's `mod` declarations and re-exports of its children do not
    /// count.
    pub(crate) fn imports(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let mut imports = BTreeMap::new();
        for (own, module) in &self.modules {
            let found = module.paths.iter().filter_map(|path| self.resolve(own, path, 8));
            let found = found.map(|module| module.file.as_str()).filter(|file| *file != module.file);
            imports.insert(module.file.as_str(), found.collect());
        }
        imports
    }

    /// The file that defines the item which `path` names inside of `own`. None for modules, which define nothing by
    /// themselves, and for other crates.
    fn resolve(&self, own: &Path, path: &[String], depth: usize) -> Option<&Module> {
        let depth = depth.checked_sub(1)?;
        let (first, mut rest) = path.split_first()?;
        let mut at = match first.as_str() {
            "crate" | "tidegate" => Path::new(),
            "self" => own.clone(),
            "super" => parent(own)?,
            name => {
                let child = joined(own, name);
                if !self.modules.contains_key(&child) {
                    let stands_for = self.modules.get(own)?.names.get(name)?;
                    let whole: Path = stands_for.iter().chain(rest).cloned().collect();
                    // A name that resolves to itself belongs to another crate.
                    return (whole.as_slice() != path).then(|| self.resolve(own, &whole, depth)).flatten();
                }
                child
            }
        };
        while let Some((next, after)) = rest.split_first() {
            let child = joined(&at, next);
            if next == "super" {
                at = parent(&at)?;
            } else if self.modules.contains_key(&child) {
                at = child;
            } else {
                let module = self.modules.get(&at)?;
                let Some(stands_for) = module.names.get(next) else { return Some(module) };
                let whole: Path = stands_for.iter().chain(after).cloned().collect();
                return self.resolve(&at, &whole, depth);
            }
            rest = after;
        }
        None
    }

    /// Sets of files that all import each other, directly or through others.
    pub(crate) fn circles(&self) -> Vec<Vec<String>> {
        let imports = self.imports();
        let reach: BTreeMap<&str, BTreeSet<&str>> =
            imports.keys().map(|file| (*file, reached(&imports, file))).collect();
        let mut circles = BTreeSet::new();
        for (file, reached) in &reach {
            let circle: Vec<String> =
                reached.iter().filter(|other| reach[*other].contains(file)).map(|file| (*file).to_owned()).collect();
            if circle.len() > 1 {
                circles.insert(circle);
            }
        }
        circles.into_iter().collect()
    }
}

fn reached<'a>(imports: &BTreeMap<&'a str, BTreeSet<&'a str>>, from: &str) -> BTreeSet<&'a str> {
    let (mut reached, mut open) = (BTreeSet::new(), vec![from]);
    while let Some(file) = open.pop() {
        for next in imports.get(file).into_iter().flatten() {
            if reached.insert(*next) {
                open.push(next);
            }
        }
    }
    reached
}

/// Whether a file has only tests.
pub(crate) fn is_of_tests(file: &str) -> bool {
    file.split('/').any(|part| part == "tests" || part == "tests.rs")
}

/// The top-level modules that a file names, by `crate::` (also in its tests) or by `super::`.
pub(crate) fn named_modules(file: &str, text: &str) -> BTreeSet<String> {
    let (own, mut found) = (path_of(file), BTreeSet::new());
    for (tokens, above) in [(split(&without_text(text)), vec!["crate"]), (tokens(text), vec!["super"; own.len()])] {
        let (names, paths) = read(&tokens);
        let from_root = |path: &Path| {
            path.get(above.len()).filter(|_| path.iter().zip(&above).all(|(name, above)| name == above)).cloned()
        };
        found.extend(names.values().chain(&paths).filter_map(from_root));
    }
    found
}

fn parent(module: &Path) -> Option<Path> {
    let (_, parent) = module.split_last()?;
    Some(parent.to_vec())
}

fn joined(module: &Path, name: &str) -> Path {
    module.iter().cloned().chain([name.to_owned()]).collect()
}

/// The module path of a file.
fn path_of(file: &str) -> Path {
    let path = file.trim_end_matches(".rs");
    let path = path.strip_suffix("/mod").unwrap_or(path);
    if path == "lib" { Path::new() } else { path.split('/').map(str::to_owned).collect() }
}

/// The imported names of a file with their paths, and the paths in its code.
fn read(tokens: &[Token]) -> (BTreeMap<String, Path>, Vec<Path>) {
    let (mut names, mut paths) = (BTreeMap::new(), Vec::new());
    let (mut passed_on, mut words) = (Vec::new(), BTreeSet::new());
    let mut index = 0;
    while index < tokens.len() {
        let token = &tokens[index];
        let before = index.checked_sub(1).map_or("", |before| tokens[before].0.as_str());
        if token.0 == "use" {
            let mut found = Vec::new();
            index = tree(tokens, index + 1, &mut Path::new(), &mut found);
            for (name, path) in found {
                // `pub` and `pub(super)` re-export a name.
                if before == "pub" || before == ")" {
                    passed_on.push((name.clone(), path.clone()));
                } else {
                    paths.push(path.clone());
                }
                names.insert(name, path);
            }
            continue;
        }
        index += 1;
        if !token.is_name() || ["::", ".", "mod"].contains(&before) {
            continue;
        }
        words.insert(token.0.as_str());
        let mut path = vec![token.0.clone()];
        while tokens.get(index).is_some_and(|token| token.0 == "::")
            && tokens.get(index + 1).is_some_and(Token::is_name)
        {
            path.push(tokens[index + 1].0.clone());
            index += 2;
        }
        if path.len() > 1 {
            paths.push(path);
        }
    }
    // A re-exported name that the module itself uses is an import like any other.
    paths.extend(passed_on.into_iter().filter(|(name, _)| words.contains(name.as_str())).map(|(_, path)| path));
    (names, paths)
}

/// Reads the tree of a `use` declaration: the names that it brings, and their paths. Returns the index behind it.
fn tree(tokens: &[Token], from: usize, path: &mut Path, found: &mut Vec<(String, Path)>) -> usize {
    let (mut index, length) = (from, path.len());
    let mut whole = false;
    while let Some(token) = tokens.get(index) {
        index += 1;
        match token.0.as_str() {
            "::" => {}
            "{" => {
                while tokens.get(index).is_some_and(|token| token.0 != "}") {
                    index = tree(tokens, index, path, found);
                    index += usize::from(tokens.get(index).is_some_and(|token| token.0 == ","));
                }
                index += 1;
                whole = true;
            }
            "as" => {
                if let Some(name) = tokens.get(index) {
                    found.push((name.0.clone(), path.clone()));
                }
                index += 1;
                whole = true;
            }
            "self" if path.len() > length || length > 0 => {}
            "," | "}" | ";" => {
                index -= 1;
                break;
            }
            name => path.push(name.to_owned()),
        }
    }
    if !whole && let Some(last) = path.last().cloned() {
        found.push((last, path.clone()));
    }
    path.truncate(length);
    index
}

#[cfg(test)]
fn circles_of(files: &[(&str, &str)]) -> Vec<Vec<String>> {
    Crate::read(files.iter().copied()).circles()
}

#[test]
fn a_planted_cycle_is_found_in_every_form() {
    let none: [Vec<String>; 0] = [];
    let both = [vec!["a/b.rs".to_owned(), "a/c.rs".to_owned()]];
    let parent = ("a/mod.rs", "mod b;\nmod c;\npub use self::b::B;\npub(super) use c::C;");
    for (b, c) in [
        ("use crate::a::c::C;", "use super::b::B;"),
        ("use super::{c::{self, D}, d};", "fn f() { super::b::g() }"),
        // Through a re-export of the parent.
        ("use super::C;", "use crate::{a::B, x};"),
        ("use super::c;\nfn f() -> c::C {}", "use super::super::a::b::*;"),
    ] {
        assert_eq!(circles_of(&[parent, ("a/b.rs", b), ("a/c.rs", c)]), both, "{b} {c}");
    }
    // One direction, a module that is only named, and tests make no cycle.
    for (b, c) in [
        ("use super::c::C;", ""),
        ("use super::c;", "use super::b::B;"),
        ("use super::c::C;", "#[cfg(test)]\nmod tests { use super::super::b::B; }"),
    ] {
        assert_eq!(circles_of(&[parent, ("a/b.rs", b), ("a/c.rs", c)]), none, "{b} {c}");
    }
    // A child that uses an item of its parent, while the parent uses the child.
    let child = ("a/b.rs", "use super::A;");
    let circle = [vec!["a.rs".to_owned(), "a/b.rs".to_owned()]];
    assert_eq!(circles_of(&[("a.rs", "mod b;\npub use b::B;\npub struct A;"), child]), none);
    assert_eq!(circles_of(&[("a.rs", "mod b;\npub use b::B;\npub struct A(B);"), child]), circle);
    assert_eq!(circles_of(&[("a.rs", "mod b;\npub struct A(b::B);"), child]), circle);
    // Three files, and two separate cycles.
    let three = [("x.rs", "use crate::y::Y;"), ("y.rs", "use crate::z::Z;"), ("z.rs", "use crate::x::X;")];
    let two = [("p.rs", "use crate::q::Q;"), ("q.rs", "use crate::p::P;")];
    let sizes = circles_of(&[&three[..], &two[..]].concat()).iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(sizes, [2, 3]);
}

#[test]
fn names_of_modules_are_found_in_every_form() {
    let text = "use crate::{\n  auth::{self, Keys},\n  config,\n  domain::id::RequestId,\n};\nlet x = crate::proxy::y();\nuse super::api;";
    assert_eq!(named_modules("app.rs", text), ["api", "auth", "config", "domain", "proxy"].map(str::to_owned).into());
    assert_eq!(named_modules("app/reload.rs", "use super::super::api::Health;"), ["api".to_owned()].into());
}
