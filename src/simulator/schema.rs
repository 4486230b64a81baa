//! Generates a JSON document that is valid against a simple JSON Schema, for structured outputs and function arguments.

use serde_json::{Map, Value};

/// From this depth on, the generator takes the shortest choice: `null` if it is allowed, and no optional array
/// elements. This ends recursive schemas such as a linked list or a tree.
const SHORTEST_FROM_DEPTH: usize = 6;
/// The hard limits of depth and of the number of values, whatever the schema requires.
const MAX_DEPTH: usize = 48;
const MAX_VALUES: usize = 20_000;

/// The smallest natural document for `schema`: required properties only, and the first of each choice.
pub(super) fn example(schema: &Value) -> Value {
    Maker { root: schema, left: MAX_VALUES }.value(schema, 0)
}

struct Maker<'a> {
    root: &'a Value,
    left: usize,
}

impl Maker<'_> {
    fn value(&mut self, schema: &Value, depth: usize) -> Value {
        if depth > MAX_DEPTH || self.left == 0 {
            return Value::Null;
        }
        self.left -= 1;
        if let Some(target) = schema.get("$ref").and_then(Value::as_str) {
            let target = target.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer));
            return target.map_or(Value::Null, |target| self.value(target, depth + 1));
        }
        if let Some(value) = schema.get("const") {
            return value.clone();
        }
        if let Some(value) = schema.get("enum").and_then(|values| values.get(0)) {
            return value.clone();
        }
        for choice in ["anyOf", "oneOf"] {
            if let Some(choices) = schema.get(choice).and_then(Value::as_array) {
                let way_out = choices.iter().find(|choice| depth >= SHORTEST_FROM_DEPTH && is_type(choice, "null"));
                return way_out.or(choices.first()).map_or(Value::Null, |choice| self.value(choice, depth + 1));
            }
        }
        if let Some(parts) = schema.get("allOf").and_then(Value::as_array) {
            return self.all_of(parts, schema, depth);
        }
        match self.type_of(schema, depth) {
            "object" => Value::Object(self.object(schema, depth)),
            "array" => self.array(schema, depth),
            "string" => string(schema).into(),
            "integer" => number(schema, true),
            "number" => number(schema, false),
            "boolean" => true.into(),
            _ => Value::Null,
        }
    }

    /// The schema's type. Of several types, the first that is not `null`; if none is given, a guess from the other
    /// keywords.
    fn type_of<'s>(&self, schema: &'s Value, depth: usize) -> &'s str {
        match schema.get("type") {
            Some(Value::String(name)) => name,
            Some(Value::Array(names)) => {
                let mut names = names.iter().filter_map(Value::as_str);
                if depth >= SHORTEST_FROM_DEPTH && names.clone().any(|name| name == "null") {
                    return "null";
                }
                names.find(|&name| name != "null").unwrap_or("null")
            }
            _ if schema.get("items").is_some() => "array",
            // A schema without keywords allows anything. Arguments and documents are objects.
            _ if schema.get("properties").is_some() || depth == 0 => "object",
            _ => "string",
        }
    }

    fn object(&mut self, schema: &Value, depth: usize) -> Map<String, Value> {
        let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
        let mut made = Map::new();
        for name in required.filter_map(Value::as_str) {
            let property = schema.get("properties").and_then(|properties| properties.get(name));
            let value = property.map_or_else(|| "…".into(), |property| self.value(property, depth + 1));
            made.insert(name.to_owned(), value);
        }
        made
    }

    fn array(&mut self, schema: &Value, depth: usize) -> Value {
        let bound = |name| schema.get(name).and_then(Value::as_u64).and_then(|bound| usize::try_from(bound).ok());
        let natural = usize::from(depth < SHORTEST_FROM_DEPTH);
        let length = bound("minItems").unwrap_or(0).max(natural).min(bound("maxItems").unwrap_or(usize::MAX));
        let mut made = Vec::new();
        while made.len() < length && self.left > 0 {
            made.push(match schema.get("items") {
                Some(items) => self.value(items, depth + 1),
                None => "…".into(),
            });
        }
        made.into()
    }

    /// Object schemas are merged. Of other schemas, the part with the most keywords decides.
    fn all_of(&mut self, parts: &[Value], schema: &Value, depth: usize) -> Value {
        let mut made = self.object(schema, depth);
        let mut other = None;
        for part in parts {
            match self.value(part, depth + 1) {
                Value::Object(fields) => made.extend(fields),
                value => other = other.or(Some(value)),
            }
        }
        match other {
            Some(value) if made.is_empty() => value,
            _ => Value::Object(made),
        }
    }
}

fn is_type(schema: &Value, name: &str) -> bool {
    schema.get("type").and_then(Value::as_str) == Some(name)
}

fn string(schema: &Value) -> String {
    let by_format = match schema.get("format").and_then(Value::as_str) {
        Some("date-time") => "2025-01-01T00:00:00Z",
        Some("date") => "2025-01-01",
        Some("time") => "00:00:00Z",
        Some("duration") => "P1D",
        Some("email") => "someone@example.com",
        Some("hostname") => "example.com",
        Some("ipv4") => "192.0.2.1",
        Some("ipv6") => "2001:db8::1",
        Some("uri" | "url") => "https://example.com/",
        Some("uuid") => "00000000-0000-4000-8000-000000000000",
        _ => "",
    };
    if !by_format.is_empty() {
        return by_format.to_owned();
    }
    let bound = |name| schema.get(name).and_then(Value::as_u64);
    let length = bound("minLength").unwrap_or(1).max(1).min(bound("maxLength").unwrap_or(u64::MAX));
    // The length is capped: a simple schema does not require more.
    "…".repeat(usize::try_from(length).unwrap_or(1).min(MAX_VALUES))
}

fn number(schema: &Value, whole: bool) -> Value {
    let bound = |name| schema.get(name).and_then(Value::as_f64);
    let step = bound("multipleOf").filter(|step| *step > 0.0).unwrap_or(1.0);
    let low = bound("minimum").or(bound("exclusiveMinimum").map(|low| low + step * 0.5));
    let high = bound("maximum").or(bound("exclusiveMaximum").map(|high| high - step * 0.5));
    let mut value = 1.0_f64;
    if let Some(high) = high {
        value = value.min(high);
    }
    if let Some(low) = low {
        value = value.max(low);
    }
    // Rounds up to a multiple, so that a minimum holds, unless that would exceed the maximum.
    let stepped = if whole || schema.get("multipleOf").is_some() {
        let up = (value / step).ceil() * step;
        if high.is_some_and(|high| up > high) { (value / step).floor() * step } else { up }
    } else {
        value
    };
    // A whole number is written as an integer: both types allow it, and `1.0` is not an integer everywhere.
    if stepped.fract() == 0.0 && stepped.abs() < 9.0e15 {
        #[expect(clippy::cast_possible_truncation, reason = "whole and within the range, by the line above")]
        return (stepped as i64).into();
    }
    stepped.into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn takes_the_first_of_everything_and_only_what_is_required() {
        let schema = json!({
            "type": "object",
            "properties": {
                "city": {"type": "string"}, "unit": {"type": "string", "enum": ["c", "f"]}, "days": {"type": "integer"},
                "note": {"type": ["null", "string"]}, "tags": {"type": "array", "items": {"type": "string"}, "minItems": 2},
                "spare": {"type": "string"}, "kind": {"const": "k"}, "on": {"type": "boolean"},
                "either": {"anyOf": [{"type": "number"}, {"type": "null"}]}, "where": {"$ref": "#/$defs/place"}
            },
            "required": ["city", "unit", "days", "note", "tags", "kind", "on", "either", "where"],
            "$defs": {"place": {"type": "object", "properties": {"lat": {"type": "number"}}, "required": ["lat"]}}
        });
        assert_eq!(
            example(&schema),
            json!({"city": "…", "unit": "c", "days": 1, "note": "…", "tags": ["…", "…"], "kind": "k", "on": true,
                   "either": 1, "where": {"lat": 1}})
        );
    }

    #[test]
    fn keeps_bounds() {
        assert_eq!(example(&json!({"type": "integer", "minimum": 10})), json!(10));
        assert_eq!(example(&json!({"type": "integer", "exclusiveMinimum": 4})), json!(5));
        assert_eq!(example(&json!({"type": "number", "maximum": 0.5})), json!(0.5));
        assert_eq!(example(&json!({"type": "integer", "maximum": -3})), json!(-3));
        assert_eq!(example(&json!({"type": "integer", "multipleOf": 5})), json!(5));
        assert_eq!(example(&json!({"type": "string", "minLength": 3})), json!("………"));
        assert_eq!(example(&json!({"type": "string", "format": "date"})), json!("2025-01-01"));
        assert_eq!(example(&json!({"allOf": [{"type": "string"}]})), json!("…"));
        assert_eq!(example(&json!({})), json!({}));
    }

    #[test]
    fn recursive_schemas_end() {
        let list = json!({"type": "object", "required": ["value", "next"], "properties": {
            "value": {"type": "string"}, "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}});
        let text = example(&list).to_string();
        assert!(text.contains("\"next\":null") && text.len() < 500, "{text}");
        let tree = json!({"type": "object", "required": ["children"], "properties": {
            "children": {"type": "array", "items": {"$ref": "#"}}}});
        assert!(example(&tree).to_string().contains("\"children\":[]"));
        // Without a shorter choice, the hard limits end the recursion.
        let endless = json!({"type": "object", "required": ["a", "b"], "properties": {
            "a": {"$ref": "#"}, "b": {"$ref": "#"}}});
        assert!(example(&endless).is_object());
        assert!(example(&json!({"$ref": "#"})).is_null());
    }
}
