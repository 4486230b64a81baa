//! The documents against the program: a page lists exactly what the program has, and the steps of a page work.

mod commands;
mod configurations;
mod links;
mod log_fields;
mod metrics;
mod settings;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// One document.
pub(crate) struct Page {
    /// The path from the root of the repository.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

/// A fenced block of code.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// The word behind the fence: `toml`, `sh`, `console`, …
    pub(crate) language: String,
    pub(crate) text: String,
    /// The line of the fence, counted from 1.
    pub(crate) line: usize,
}

/// A heading and its text, up to the next heading of any level.
pub(crate) struct Section<'a> {
    pub(crate) heading: &'a str,
    pub(crate) lines: Vec<&'a str>,
}

/// A table: its column heads, and its rows as cells.
pub(crate) type Table = (Vec<String>, Vec<Vec<String>>);

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every page for readers: those in the root folder, and all below docs/.
pub(crate) fn pages() -> Vec<Page> {
    fn walk(folder: &Path, deep: bool, into: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && deep {
                walk(&path, true, into);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                into.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(root(), false, &mut found);
    for folder in ["docs", "benches"] {
        walk(&root().join(folder), true, &mut found);
    }
    found.sort();
    assert!(found.len() > 20, "only {} pages were found", found.len());
    let page = |path: PathBuf| Page {
        name: path.strip_prefix(root()).unwrap().display().to_string(),
        text: fs::read_to_string(&path).unwrap(),
        path,
    };
    found.into_iter().map(page).collect()
}

pub(crate) fn page(name: &str) -> Page {
    let path = root().join(name);
    Page { name: name.to_owned(), text: fs::read_to_string(&path).unwrap(), path }
}

impl Page {
    /// The lines, each with its number from 1 and whether the line belongs to a block of code.
    fn lines(&self) -> impl Iterator<Item = (usize, &str, bool)> {
        let mut inside = false;
        self.text.lines().enumerate().map(move |(at, line)| {
            let is_fence = line.starts_with("```");
            let code = inside || is_fence;
            inside ^= is_fence;
            (at + 1, line, code)
        })
    }

    pub(crate) fn blocks(&self) -> Vec<Block> {
        let mut blocks: Vec<Block> = Vec::new();
        let mut open = false;
        for (line, text, _) in self.lines().filter(|(_, _, code)| *code) {
            match text.strip_prefix("```") {
                Some(_) if open => open = false,
                Some(language) => {
                    open = true;
                    blocks.push(Block { language: language.to_owned(), text: String::new(), line });
                }
                None => {
                    let block = blocks.last_mut().unwrap();
                    block.text.push_str(text);
                    block.text.push('\n');
                }
            }
        }
        assert!(!open, "{}: a block of code has no end", self.name);
        blocks
    }

    pub(crate) fn sections(&self) -> Vec<Section<'_>> {
        let mut sections = vec![Section { heading: "", lines: Vec::new() }];
        for (_, line, code) in self.lines() {
            let heading = line.trim_start_matches('#').strip_prefix(' ').filter(|_| !code && line.starts_with('#'));
            match heading {
                Some(heading) => sections.push(Section { heading, lines: Vec::new() }),
                None if code => {}
                None => sections.last_mut().unwrap().lines.push(line),
            }
        }
        sections
    }
}

impl Section<'_> {
    pub(crate) fn tables(&self) -> Vec<Table> {
        let mut tables: Vec<Table> = Vec::new();
        let mut inside = false;
        for line in &self.lines {
            let Some(row) = line.strip_prefix('|') else {
                inside = false;
                continue;
            };
            let row = cells(row);
            match tables.last_mut().filter(|_| inside) {
                None => tables.push((row, Vec::new())),
                // The line below the heads.
                Some(_) if row.iter().all(|cell| cell.chars().all(|c| c == '-' || c == ':')) => {}
                Some((_, rows)) => rows.push(row),
            }
            inside = true;
        }
        tables
    }
}

/// The cells of a row, without the bar at its beginning. A bar inside backticks is text.
fn cells(row: &str) -> Vec<String> {
    let (mut cells, mut cell, mut quoted) = (Vec::new(), String::new(), false);
    for c in row.chars() {
        quoted ^= c == '`';
        if c == '|' && !quoted {
            cells.push(std::mem::take(&mut cell).trim().to_owned());
        } else {
            cell.push(c);
        }
    }
    cells
}

/// The texts in backticks.
pub(crate) fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The differences between the program and a page, as lines for the person who corrects the page.
pub(crate) fn differences(
    page: &str,
    program: &BTreeMap<String, String>,
    said: &BTreeMap<String, String>,
) -> Vec<String> {
    let mut faults = Vec::new();
    for (name, is) in program {
        match said.get(name) {
            None => faults.push(format!("{page} lacks {name}: {is}")),
            Some(says) if says != is => {
                faults.push(format!("{page} says of {name}: {says}\n    and the program has: {is}"))
            }
            Some(_) => {}
        }
    }
    let too_much = said.keys().filter(|name| !program.contains_key(*name));
    faults.extend(too_much.map(|name| format!("{page} has {name}, which the program does not have")));
    faults
}

#[test]
fn pages_are_parsed_as_a_reader_sees_them() {
    let text = "# One\n\n| a | `b|c` |\n| --- | --- |\n| 1 | `2` |\n\n```sh\n# no heading\nx\n```\n## Two\n| d |\n|---|\n| e |\n";
    let page = Page { name: "page".into(), path: "page".into(), text: text.into() };
    let block = Block { language: "sh".into(), text: "# no heading\nx\n".into(), line: 7 };
    assert_eq!(page.blocks(), [block]);
    let sections = page.sections();
    assert_eq!(sections.iter().map(|section| section.heading).collect::<Vec<_>>(), ["", "One", "Two"]);
    assert_eq!(sections[1].tables(), [(vec!["a".into(), "`b|c`".into()], vec![vec!["1".into(), "`2`".into()]])]);
    assert_eq!(sections[2].tables(), [(vec!["d".into()], vec![vec!["e".into()]])]);
    let map = |entries: &[(&str, &str)]| {
        entries.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect::<BTreeMap<_, _>>()
    };
    let faults =
        differences("page", &map(&[("a", "1"), ("b", "2"), ("c", "3")]), &map(&[("a", "1"), ("b", "0"), ("d", "")]));
    assert_eq!(faults.len(), 3, "{faults:?}");
    assert!(
        faults[0].contains("says of b") && faults[1].contains("lacks c") && faults[2].contains("has d"),
        "{faults:?}"
    );
}

/// No test runs commands in an indented block.
#[test]
fn every_code_block_is_fenced_and_has_a_language() {
    let mut faults = Vec::new();
    for page in pages() {
        let mut before = "";
        for (number, line, code) in page.lines() {
            let is_item = |line: &str| line.trim_start().starts_with(['-', '*']) || line.starts_with(' ');
            if !code && line.starts_with("    ") && before.is_empty() && !is_item(before) {
                faults.push(format!("{}:{number}: indented code: use a fence with a language", page.name));
            }
            if !code {
                before = line;
            }
        }
        for block in page.blocks().into_iter().filter(|block| block.language.is_empty()) {
            faults.push(format!("{}:{}: the block has no language (text, if it has none)", page.name, block.line));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
