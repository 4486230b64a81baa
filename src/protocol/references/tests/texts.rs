//! JSON texts made of parsed ones: written in any of the ways in which they may be written.

use proptest::{collection::vec, prelude::*, sample::Index};
use serde_json::{Map, Value};

/// An object in which these names stand often, at any depth.
pub(in crate::protocol) fn object(names: &'static [&'static str]) -> impl Strategy<Value = Map<String, Value>> {
    let leaf = prop_oneof![
        8 => prop::sample::select(vec!["a", "resp_1", "reasoning", "message", "function_call", "shell_call_output", "computer_call_output", "input_file", "compaction", "container_file_citation", "é😀/\"\\", "openai-x", "response", "list"]).prop_map(Value::from),
        1 => Just(Value::from("")),
        1 => Just(Value::Null),
        1 => any::<i32>().prop_map(Value::from),
        1 => any::<bool>().prop_map(Value::from),
    ];
    let value = leaf.prop_recursive(6, 60, 5, move |value| {
        prop_oneof![1 => vec(value.clone(), 0..4).prop_map(Value::from), 2 => fields(names, value).prop_map(Value::Object)]
    });
    fields(names, value)
}

fn fields(
    names: &'static [&'static str],
    value: impl Strategy<Value = Value>,
) -> impl Strategy<Value = Map<String, Value>> {
    vec((prop::sample::select(names), value), 0..6)
        .prop_map(|fields| fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

/// Writes a text; `style` says how: with what space, and which characters are escaped.
pub(in crate::protocol) fn write(value: &Value, style: &[u8]) -> String {
    let mut text = String::new();
    let mut style = style.iter().copied().cycle();
    put(value, &mut || style.next().unwrap(), &mut text);
    text
}

fn put(value: &Value, style: &mut impl FnMut() -> u8, text: &mut String) {
    let space = |how: u8, text: &mut String| text.push_str(["", "", "", " ", "\n", "\t\r"][how as usize % 6]);
    space(style(), text);
    match value {
        Value::Object(object) => {
            text.push('{');
            for (i, (name, value)) in object.iter().enumerate() {
                if i > 0 {
                    text.push(',');
                }
                space(style(), text);
                string(name, style, text);
                space(style(), text);
                text.push(':');
                put(value, style, text);
            }
            text.push('}');
        }
        Value::Array(values) => {
            text.push('[');
            for (i, value) in values.iter().enumerate() {
                if i > 0 {
                    text.push(',');
                }
                put(value, style, text);
            }
            text.push(']');
        }
        Value::String(content) => string(content, style, text),
        other => text.push_str(&other.to_string()),
    }
    space(style(), text);
}

fn string(content: &str, style: &mut impl FnMut() -> u8, text: &mut String) {
    text.push('"');
    for char in content.chars() {
        if style().is_multiple_of(5) {
            for unit in char.encode_utf16(&mut [0; 2]) {
                text.push_str(&format!("\\u{unit:04x}"));
            }
        } else if matches!(char, '"' | '\\') {
            text.push('\\');
            text.push(char);
        } else {
            text.push(char);
        }
    }
    text.push('"');
}

/// Cuts `text` at some places.
pub(in crate::protocol) fn cut<'a>(text: &'a [u8], cuts: &[Index]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
    cuts.extend([0, text.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect()
}
