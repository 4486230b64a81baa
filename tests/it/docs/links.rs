//! Every relative link leads to a file, and to a heading in it.

use std::fs;

use super::{Page, pages, root};

/// The targets of all links of a page.
fn links(page: &Page) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line, code) in page.lines() {
        if code {
            continue;
        }
        for (at, _) in line.match_indices("](") {
            let rest = &line[at + 2..];
            if let Some(end) = rest.find(')') {
                found.push((number, rest[..end].to_owned()));
            }
        }
    }
    found
}

/// The anchor that GitHub makes for a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
}

fn anchors(page: &Page) -> Vec<String> {
    page.sections().iter().map(|section| anchor(section.heading)).collect()
}

#[test]
fn every_relative_link_leads_to_a_file_and_a_heading() {
    let pages = pages();
    let (mut faults, mut count) = (Vec::new(), 0);
    for page in &pages {
        for (line, link) in
            links(page).into_iter().filter(|(_, link)| !link.contains("://") && !link.starts_with("mailto:"))
        {
            count += 1;
            let (file, heading) = link.split_once('#').map_or((&*link, None), |(file, heading)| (file, Some(heading)));
            let path = if file.is_empty() { page.path.clone() } else { page.path.parent().unwrap().join(file) };
            let Ok(path) = fs::canonicalize(&path) else {
                faults.push(format!("{}:{line}: {link} leads to no file", page.name));
                continue;
            };
            let Some(heading) = heading else { continue };
            let target = pages.iter().find(|page| fs::canonicalize(&page.path).unwrap() == path);
            if !target.is_some_and(|target| anchors(target).iter().any(|anchor| anchor == heading)) {
                faults.push(format!("{}:{line}: {link} leads to no heading", page.name));
            }
        }
    }
    assert!(count > 50, "only {count} links were found");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_index_lists_every_page() {
    for (index, folder) in [("docs/README.md", "docs"), ("docs/zh/README.md", "docs/zh")] {
        let index = super::page(index);
        let linked: Vec<_> = links(&index).into_iter().map(|(_, link)| link).collect();
        for entry in fs::read_dir(root().join(folder)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let is_listed = linked.iter().any(|link| link.split('#').next() == Some(&*name));
            assert!(!name.ends_with(".md") || name == "README.md" || is_listed, "{} lacks {name}", index.name);
        }
    }
}

#[test]
fn anchors_are_those_that_github_makes() {
    for (heading, expected) in [
        ("Codes", "codes"),
        ("Values of `end`", "values-of-end"),
        ("`on_lost_state`", "on_lost_state"),
        ("3. Errors and response headers", "3-errors-and-response-headers"),
        ("What clients do on 429 and 503", "what-clients-do-on-429-and-503"),
        ("地址与密钥", "地址与密钥"),
        ("One client, one voice", "one-client-one-voice"),
    ] {
        assert_eq!(anchor(heading), expected);
    }
}
