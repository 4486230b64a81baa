//! The pages on the configuration, in each language, against the settings of the schema.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{differences, page, quoted};

/// Every setting by its path, with its default and its range as a page writes them.
fn settings() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let schema: Value = serde_json::from_str(&tidegate::config::schema()).unwrap();
    for (name, table) in schema["properties"].as_object().unwrap() {
        walk(name, inner(table), &mut found);
    }
    assert!(found.len() > 100, "only {} settings were found", found.len());
    found
}

/// A list is described by the schema of its elements.
fn inner(schema: &Value) -> &Value {
    schema.get("items").unwrap_or(schema)
}

fn is_secret(schema: &Value) -> bool {
    let names = schema["properties"].as_object().map(|properties| properties.keys().map(String::as_str).collect());
    names.is_some_and(|mut names: Vec<_>| {
        names.sort_unstable();
        names == ["env", "file", "optional"]
    })
}

fn walk(path: &str, table: &Value, found: &mut BTreeMap<String, String>) {
    let required: Vec<_> = table["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, setting) in table["properties"].as_object().unwrap() {
        let path = format!("{path}.{name}");
        let default = match setting.get("default") {
            _ if required.contains(&&**name) => "required".to_owned(),
            Some(default) => format!("`{default}`"),
            None => "–".to_owned(),
        };
        found.insert(path.clone(), format!("{default}, {}", range(setting)));
        if is_secret(setting) {
            // All secrets are written alike: one section describes them.
            walk("secret", setting, found);
        } else if inner(setting).get("properties").is_some() {
            walk(&path, inner(setting), found);
        }
    }
}

fn range(setting: &Value) -> String {
    let values = inner(setting);
    if let Some(names) = values["enum"].as_array() {
        let name = |value: &Value| value.as_str().map_or_else(|| format!("`{value}`"), |text| format!("`{text}`"));
        return names.iter().map(name).collect::<Vec<_>>().join(" ");
    }
    match (values.get("minimum"), values.get("maximum")) {
        (Some(low), Some(high)) => format!("{low}–{high}"),
        (Some(low), None) => format!("≥ {low}"),
        _ => String::new(),
    }
}

/// The settings that a page lists, in the same form.
fn documented(name: &str) -> BTreeMap<String, String> {
    let page = page(name);
    let mut said = BTreeMap::new();
    for section in page.sections() {
        let Some(table) = quoted(section.heading).next().map(|name| name.trim_matches(['[', ']'])) else { continue };
        for (heads, rows) in section.tables() {
            if !["setting", "设置项"].contains(&&*heads[0]) {
                continue;
            }
            for row in rows {
                let [setting, default, range, meaning] = &row[..] else { panic!("{name}: {row:?} has no four cells") };
                assert!(!meaning.is_empty(), "{name}: {setting} has no meaning");
                let default = if default == "必填" { "required" } else { default };
                let path = format!("{table}.{}", quoted(setting).next().unwrap_or(setting));
                assert!(said.insert(path.clone(), format!("{default}, {range}")).is_none(), "{name} has {path} twice");
            }
        }
    }
    said
}

#[test]
fn the_pages_on_the_configuration_list_each_setting_with_its_default_and_range() {
    let settings = settings();
    let pages = ["docs/configuration.md", "docs/zh/configuration.md"];
    let faults: Vec<_> = pages.into_iter().flat_map(|page| differences(page, &settings, &documented(page))).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
