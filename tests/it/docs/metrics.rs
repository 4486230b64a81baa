//! The page on metrics against a running gateway, and against the names that the source registers.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use super::{differences, log_fields::BusyGateway, page, pages, quoted, root};

/// Every series of a text in the `OpenMetrics` format: its type, and the names of its labels.
fn series(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for line in text.lines() {
        let Some((family, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) else { continue };
        let name = if kind == "counter" { format!("{family}_total") } else { family.to_owned() };
        let sample = |name: &str| {
            let of_name = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
            text.lines().find(of_name)
        };
        let line = match kind {
            "histogram" => sample(&format!("{name}_count")),
            _ => sample(&name),
        };
        let line = line.unwrap_or_else(|| panic!("{name} has no sample:\n{text}"));
        let labels = line.split_once('{').map_or("", |(_, labels)| labels.split_once('}').unwrap().0);
        let labels: Vec<_> =
            labels.split("\",").filter_map(|label| label.split_once('=')).map(|(name, _)| name).collect();
        found.insert(name, format!("{kind}; {}", labels.join(", ")));
    }
    found
}

/// The series that the page lists, in the same form.
fn documented() -> BTreeMap<String, String> {
    let page = page("docs/metrics.md");
    let mut said = BTreeMap::new();
    for (heads, rows) in page.sections().iter().flat_map(|section| section.tables()) {
        if heads[0] != "series" {
            continue;
        }
        for row in rows {
            let [name, kind, labels, meaning] = &row[..] else { panic!("{row:?} has no four cells") };
            assert!(!meaning.is_empty(), "{name} has no meaning");
            let labels: Vec<_> = quoted(labels).collect();
            let name = quoted(name).next().unwrap().to_owned();
            assert!(
                said.insert(name.clone(), format!("{kind}; {}", labels.join(", "))).is_none(),
                "{name} stands twice"
            );
        }
    }
    said
}

/// The names of the metrics that the source registers.
fn registered() -> BTreeSet<String> {
    fn walk(path: &Path, into: &mut BTreeSet<String>) {
        if path.is_dir() {
            fs::read_dir(path).unwrap().for_each(|entry| walk(&entry.unwrap().path(), into));
            return;
        }
        let text = fs::read_to_string(path).unwrap();
        let text = text.split("#[cfg(test)]").next().unwrap();
        for (at, _) in text.match_indices('"') {
            let before = text[..at].trim_end();
            let is_name = ["register(", "register_with_unit(", "gauge(registry,", "counter(registry,"].into_iter();
            let is_name = is_name.chain(["counter(\n            registry,"]).any(|call| before.ends_with(call));
            if is_name {
                into.insert(text[at + 1..].split('"').next().unwrap().to_owned());
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(&root().join("src/metrics.rs"), &mut found);
    walk(&root().join("src/metrics"), &mut found);
    assert!(found.len() > 30, "only {found:?} were found");
    found
}

#[tokio::test]
async fn the_page_on_metrics_lists_each_series_with_its_type_and_labels() {
    let text = BusyGateway::start().await.metrics().await;
    let series = series(&text);
    let hidden: Vec<_> = registered()
        .into_iter()
        .filter(|name| !series.keys().any(|series| series.starts_with(&format!("tidegate_{name}"))))
        .collect();
    assert!(hidden.is_empty(), "`BusyGateway` makes no sample of these, so that this test cannot see them: {hidden:?}");
    let faults = differences("docs/metrics.md", &series, &documented());
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_series_that_a_page_names_is_on_the_page_on_metrics() {
    let known = documented();
    let mut faults = Vec::new();
    for page in pages().iter().filter(|page| page.name != "CHANGELOG.md") {
        for (at, _) in page.text.match_indices("tidegate_") {
            let rest = &page.text[at..];
            let name = &rest[..rest.find(|c: char| !c.is_ascii_lowercase() && c != '_').unwrap_or(rest.len())];
            if !known.contains_key(name) {
                faults.push(format!("{}: {name}", page.name));
            }
        }
    }
    assert!(faults.is_empty(), "no such series (counters end in _total):\n{}", faults.join("\n"));
}

#[test]
fn series_are_parsed_as_prometheus_parses_them() {
    let text = "# HELP a b\n# TYPE a counter\na_total{x=\"1,2\",y=\"\"} 1\n# TYPE b_seconds histogram\nb_seconds_sum 0\nb_seconds_count 0\n\
                b_seconds_bucket{le=\"1\"} 0\n# TYPE c gauge\nc 1\n# EOF\n";
    let expected = [("a_total", "counter; x, y"), ("b_seconds", "histogram; "), ("c", "gauge; ")];
    assert_eq!(series(text), expected.map(|(name, said)| (name.to_owned(), said.to_owned())).into());
}
