//! Compares a document with the schema: unknown settings, wrong types, values out of range, missing settings. serde would stop at
//! the first fault. This module finds all faults, and returns the valid settings so that `check` can check them too.

use std::ops::Range;

use serde_json::{Map, Value};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    document::{Document, Path},
    nearest::nearest,
    report::ConfigFault,
};

/// Result of the comparison of a configuration file with the JSON Schema: the valid settings and the faults.
pub(super) struct Shape {
    /// The valid settings. An array with an invalid element is left out, so that indices stay correct.
    pub(super) settings: Value,
    /// The faults of the shape.
    pub(super) faults: Vec<ConfigFault>,
    /// Places whose content is unknown and may be a secret. A report must not show them.
    pub(super) hidden: Vec<Range<usize>>,
}

/// Compares a configuration file with the JSON Schema of the settings. Returns the valid settings, and a fault for each other one.
pub(super) fn read(document: &Document<'_>, schema: &Value) -> Shape {
    let mut reader = Reader { faults: Vec::new(), hidden: Vec::new(), schema: schema.clone() };
    let settings = reader.table(document.root.get_ref(), None, schema, &Path::default());
    Shape { settings, faults: reader.faults, hidden: reader.hidden }
}

struct Reader {
    faults: Vec<ConfigFault>,
    hidden: Vec<Range<usize>>,
    /// Schema of the whole file.
    schema: Value,
}

/// Names that other gateways and SDKs use for Tidegate's settings.
const OTHERWISE: [(&str, &str); 16] = [
    ("url", "base_url"),
    ("api_base", "base_url"),
    ("endpoint", "base_url"),
    ("api_key", "credentials"),
    ("api_keys", "credentials"),
    ("key", "credentials"),
    ("token", "credentials"),
    ("providers", "upstreams"),
    ("channels", "upstreams"),
    ("aliases", "models"),
    ("allowed_models", "models"),
    ("allowed_ips", "ip"),
    ("hash", "sha256"),
    ("bind", "listen"),
    ("address", "listen"),
    ("port", "listen"),
];

/// Returns the setting that another product's name means, if that setting is one of `names`.
fn spoken_otherwise<'a>(name: &str, names: &[&'a str]) -> Option<&'a str> {
    let meant = OTHERWISE.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
    meant.filter_map(|(_, meant)| names.iter().find(|known| *known == meant)).copied().next()
}

/// Returns the tables of the file that have a setting of this name.
fn tables_with(schema: &Value, name: &str) -> Vec<String> {
    let tables = schema["properties"].as_object().into_iter().flatten();
    let has =
        |table: &Value| table["properties"].get(name).or_else(|| table["items"]["properties"].get(name)).is_some();
    tables.filter(|(_, table)| has(table)).map(|(name, _)| name.clone()).collect()
}

impl Reader {
    fn table(&mut self, table: &DeTable<'_>, place: Option<Range<usize>>, schema: &Value, path: &Path) -> Value {
        let mut sound = Map::new();
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            let known = match &schema["properties"][name] {
                Value::Null => &schema["additionalProperties"],
                property => property,
            };
            if known.is_object() {
                if let Some(value) = self.value(value, known, &path.key(name), None) {
                    sound.insert(name.to_owned(), value);
                }
            } else {
                self.unknown(key, value.span(), schema, path);
            }
        }
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !table.contains_key(name) {
                self.faults.push(ConfigFault {
                    place: place.clone(),
                    message: format!("`{name}` is missing{}", within(path)),
                    help: mend("add", name, &schema["properties"][name]),
                });
            }
        }
        Value::Object(sound)
    }

    fn unknown(&mut self, key: &Spanned<std::borrow::Cow<'_, str>>, value: Range<usize>, schema: &Value, path: &Path) {
        let names: Vec<&str> =
            schema["properties"].as_object().into_iter().flatten().map(|(name, _)| &**name).collect();
        let name = key.get_ref();
        let near = nearest(name, names.iter().copied());
        // The value is unknown, and the name itself may be a secret in the wrong place.
        let like_a_setting =
            near.is_some() || (name.len() <= 40 && name.chars().all(|c| c.is_ascii_lowercase() || c == '_'));
        let message = if like_a_setting {
            self.hidden.push(value);
            format!("unknown setting `{name}`{}", within(path))
        } else {
            self.hidden.push(key.span());
            format!("unknown setting{}", within(path))
        };
        let here = path.name().unwrap_or_default();
        let help = match near.or_else(|| spoken_otherwise(name, &names)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => match tables_with(&self.schema, name).as_slice() {
                [table, ..] if table != here => {
                    format!("`{name}` is a setting of `{table}`: did you mean to write it there?")
                }
                _ => format!("remove it; the settings here are {}", names.join(", ")),
            },
        };
        self.faults.push(ConfigFault { place: Some(key.span()), message, help });
    }

    /// `list` is the schema of the list that contains the value.
    fn value(
        &mut self,
        value: &Spanned<DeValue<'_>>,
        schema: &Value,
        path: &Path,
        list: Option<&Value>,
    ) -> Option<Value> {
        let sound = match (schema["type"].as_str().unwrap_or_default(), value.get_ref()) {
            ("object", DeValue::Table(table)) => return Some(self.table(table, Some(value.span()), schema, path)),
            ("array", DeValue::Array(array)) => {
                let elements = array.iter().enumerate();
                let sound: Vec<_> = elements
                    .filter_map(|(i, element)| self.value(element, &schema["items"], &path.index(i), Some(schema)))
                    .collect();
                return (sound.len() == array.len()).then_some(Value::Array(sound));
            }
            ("string", DeValue::String(text)) => match schema["enum"].as_array() {
                Some(choices) if !choices.iter().any(|choice| choice == text.as_ref()) => {
                    let choices: Vec<_> = choices.iter().map(Value::to_string).collect();
                    Err(format!("must be one of {}", choices.join(", ")))
                }
                _ => Ok(Value::from(text.as_ref())),
            },
            ("boolean", DeValue::Boolean(flag)) => Ok(Value::from(*flag)),
            ("integer", DeValue::Integer(digits)) => {
                let number = i64::from_str_radix(digits.as_str(), digits.radix()).unwrap_or(i64::MAX);
                let low = schema["minimum"].as_i64().unwrap_or(0);
                let high = schema["maximum"].as_i64().unwrap_or(i64::MAX);
                if (low..=high).contains(&number) {
                    Ok(Value::from(number))
                } else {
                    Err(format!("must be between {low} and {high}"))
                }
            }
            // Keep the written digits: later steps need the exact number.
            ("number", DeValue::Integer(digits)) if digits.radix() == 10 => Ok(Value::from(digits.as_str())),
            ("number", DeValue::Float(digits)) => Ok(Value::from(digits.as_str())),
            (wanted, found) => {
                // A value in place of a table or a list may be a secret. A number or a boolean is not.
                if ["object", "array"].contains(&wanted) || matches!(found, DeValue::Table(_) | DeValue::Array(_)) {
                    self.hidden.push(value.span());
                }
                Err(format!("must be {}, not {}", spoken(wanted), spoken(found.type_str())))
            }
        };
        let name = path.name().unwrap_or_default();
        sound
            .map_err(|message| {
                self.faults.push(ConfigFault {
                    place: Some(value.span()),
                    message: format!("{}`{name}` {message}", if list.is_some() { "each of " } else { "" }),
                    help: mend("write for example", name, list.unwrap_or(schema)),
                });
            })
            .ok()
    }
}

fn within(path: &Path) -> String {
    path.name().map_or_else(String::new, |name| format!(" in `{name}`"))
}

/// Returns the everyday words for a type of JSON Schema or TOML.
fn spoken(name: &str) -> &str {
    match name {
        "object" | "table" => "a table",
        "array" => "a list",
        "string" => "text in quotes",
        "integer" => "a whole number",
        "float" => "a fraction",
        "number" => "a number",
        "boolean" => "true or false",
        "datetime" => "a date",
        other => other,
    }
}

/// Returns `words` and an example of the setting, from its schema.
fn mend(words: &str, name: &str, schema: &Value) -> String {
    let own = match &schema["examples"][0] {
        Value::Null => &schema["default"],
        example => example,
    };
    let example = if own.is_null() { &schema["enum"][0] } else { own };
    match toml::Value::try_from(example) {
        Ok(example) if !example.is_datetime() => format!("{words} `{name} = {example}`"),
        _ if schema["type"] == "array" && schema["items"]["type"] == "object" => {
            format!("write each of them below a line [[{name}]]: see config/tidegate.toml")
        }
        _ if schema["type"] == "object" => {
            format!("write its settings below a line [{name}]: see config/tidegate.toml")
        }
        _ => schema["description"].as_str().unwrap_or("see config/tidegate.toml").to_owned(),
    }
}

/// Turns the valid settings of a configuration file into the structs of `raw`, from which the schema was generated.
pub(super) fn settings<T: serde::de::DeserializeOwned>(shape: &mut Shape) -> Option<T> {
    let settings = std::mem::take(&mut shape.settings);
    match serde_json::from_value(settings) {
        Ok(settings) => Some(settings),
        Err(error) => {
            shape.faults.push(ConfigFault {
                place: None,
                // The message of serde may repeat a value.
                message: format!("the settings do not fit together ({:?})", error.classify()),
                help: "this is a fault of Tidegate: please report it with the file, without its secrets".into(),
            });
            None
        }
    }
}
