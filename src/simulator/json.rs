//! JSON whose object keys keep their order: each provider has its own order.

use std::io;
use std::sync::Arc;

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;
use serde_json::ser::{CompactFormatter, Formatter};

/// A JSON value with ordered keys. Texts are shared, because one answer repeats the same text in several events.
#[derive(Clone, Debug)]
pub(super) enum Json {
    /// Anything whose key order does not matter, such as what the client sent.
    Plain(Value),
    Text(Arc<str>),
    Array(Vec<Json>),
    Object(Vec<(&'static str, Json)>),
}

impl Json {
    pub(super) const NULL: Self = Self::Plain(Value::Null);

    /// An object with the `keys` in this order. `value` gives the value of each key.
    pub(super) fn ordered(keys: &[&'static str], value: impl Fn(&str) -> Self) -> Self {
        Self::Object(keys.iter().map(|&key| (key, value(key))).collect())
    }

    /// Serializes this value. `spaced` puts a space after each `:` and `,`.
    pub(super) fn write(&self, spaced: bool) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        let written = if spaced {
            self.serialize(&mut serde_json::Serializer::with_formatter(&mut out, Spaced))
        } else {
            self.serialize(&mut serde_json::Serializer::with_formatter(&mut out, CompactFormatter))
        };
        debug_assert!(written.is_ok(), "keys are strings and memory takes every byte");
        out
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Plain(value) => value.serialize(serializer),
            Self::Text(text) => serializer.serialize_str(text),
            Self::Array(items) => serializer.collect_seq(items),
            Self::Object(fields) => {
                let mut map = serializer.serialize_map(Some(fields.len()))?;
                for (key, value) in fields {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
        }
    }
}

impl<T: Into<Value>> From<T> for Json {
    fn from(value: T) -> Self {
        Self::Plain(value.into())
    }
}

/// `{"a": 1, "b": [2, 3]}`
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keeps_order_and_spaces() {
        let value = Json::Object(vec![
            ("z", Json::from(1.0)),
            ("a", Json::Array(vec![Json::Text("潮,\"".into()), Json::NULL])),
            ("m", Json::from(json!({"k": [1, 2]}))),
        ]);
        assert_eq!(value.write(false), r#"{"z":1.0,"a":["潮,\"",null],"m":{"k":[1,2]}}"#.as_bytes());
        assert_eq!(value.write(true), r#"{"z": 1.0, "a": ["潮,\"", null], "m": {"k": [1, 2]}}"#.as_bytes());
    }
}
