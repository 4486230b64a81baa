//! The JSON Schema of the settings, for editors and for `shape`, which compares a file with the schema.

use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::raw;

/// Returns the JSON Schema of a configuration file, for `tidegate config schema`.
#[must_use]
pub fn schema() -> String {
    format!("{:#}\n", tree())
}

/// Returns the JSON Schema of a configuration file without references, so that `shape` can walk schema and document together.
pub(super) fn tree() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let mut tree = settings.into_generator().into_root_schema_for::<raw::File>().to_value();
    simplify(&mut tree);
    tree
}

/// Removes null from types, enums and choices, because TOML has no null. Removes defaults of whole tables, which only repeat the
/// defaults of their settings.
fn simplify(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            if object
                .get("default")
                .is_some_and(|default| default.is_null() || default.is_object() || default.is_array())
            {
                object.remove("default");
            }
            if let Some(Value::Array(types)) = object.get_mut("type") {
                types.retain(|name| name != "null");
                if let [one] = types.as_slice() {
                    let one = one.clone();
                    object.insert("type".into(), one);
                }
            }
            if let Some(Value::Array(values)) = object.get_mut("enum") {
                values.retain(|value| !value.is_null());
            }
            if let Some(Value::Array(mut choices)) = object.remove("anyOf") {
                choices.retain(|choice| choice["type"] != "null");
                if let Some(Value::Object(choice)) = choices.pop() {
                    for (name, value) in choice {
                        object.entry(name).or_insert(value);
                    }
                }
            }
            object.values_mut().for_each(simplify);
        }
        Value::Array(array) => array.iter_mut().for_each(simplify),
        _ => {}
    }
}
