//! A parsed request. The simulator acts as the provider, so it parses the whole body. `resolve` looks up later what the
//! request refers to.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::directive::Directive;
use super::fault::SimulatedError;
use super::input::{self, Input};

/// A parsed request.
#[derive(Debug)]
pub(super) struct ParsedRequest {
    /// The top-level object, for the echoed fields. The input is in `items`.
    pub(super) body: Map<String, Value>,
    pub(super) model: String,
    pub(super) stream: bool,
    pub(super) background: bool,
    /// The input items that were sent, and their content.
    pub(super) items: Vec<Arc<Value>>,
    pub(super) input: Input,
    pub(super) directive: Directive,
    pub(super) memory: Memory,
}

/// What the provider remembers from earlier requests. Empty until `resolve` fills it.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// All items of the response or the conversation that this request continues, oldest first.
    pub(super) items: Vec<Arc<Value>>,
    /// The content of these items.
    pub(super) input: Input,
    /// How many sealed items of the input were opened, and the latest turn that one of them was made in.
    pub(super) opened: usize,
    pub(super) opened_turn: u64,
}

impl ParsedRequest {
    /// Parses a request body. `more` holds directives from outside the body.
    pub(super) fn parse(body: &[u8], more: Option<&str>) -> Result<Self, SimulatedError> {
        Self::read(object(body)?, more)
    }

    /// Parses the JSON object of a request body.
    pub(super) fn read(mut body: Map<String, Value>, more: Option<&str>) -> Result<Self, SimulatedError> {
        let model = match body.get("model") {
            Some(Value::String(name)) => name.clone(),
            None => {
                return Err(SimulatedError::request(
                    Some("missing_required_parameter"),
                    Some("model"),
                    "No model is named.",
                ));
            }
            Some(_) => {
                return Err(SimulatedError::request(Some("invalid_type"), Some("model"), "The model is not a string."));
            }
        };
        let (stream, background) = (flag(&body, "stream")?, flag(&body, "background")?);
        if background && body.get("store") == Some(&Value::Bool(false)) {
            let message = "What runs in the background has to be stored.";
            return Err(SimulatedError::request(Some("invalid_value"), Some("background"), message));
        }
        // The input may have tens of MiB, and is never echoed.
        let items = input::items(body.remove("input"), "input")?;
        let mut input = Input::read(&items)?;
        let in_metadata = body.get("metadata").and_then(|metadata| metadata.get("simulate")).and_then(Value::as_str);
        let in_metadata = in_metadata.unwrap_or_default();
        let directives = format!("{in_metadata} {} {}", input.take_directives(), more.unwrap_or_default());
        let instructions = body.get("instructions").and_then(Value::as_str).map_or(0, |text| text.chars().count());
        input.characters += instructions;
        let directive = Directive::parse(&directives)?;
        Ok(Self { model, stream, background, directive, items, input, memory: Memory::default(), body })
    }

    /// A field that is echoed; `null` counts as absent.
    pub(super) fn field(&self, name: &str) -> Option<&Value> {
        self.body.get(name).filter(|value| !value.is_null())
    }

    /// The id of the conversation that this request continues.
    pub(super) fn conversation(&self) -> Option<&str> {
        let conversation = self.field("conversation")?;
        conversation.get("id").unwrap_or(conversation).as_str()
    }

    /// Whether the answer is stored.
    pub(super) fn is_stored(&self) -> bool {
        self.field("store") != Some(&Value::Bool(false))
    }

    /// The number of the user's turn, as far as the provider can know.
    pub(super) fn turn(&self) -> u64 {
        (self.memory.input.turns + self.input.turns).max(self.memory.opened_turn)
    }

    /// Whether the answer must include `encrypted_content`.
    pub(super) fn includes_encrypted_content(&self) -> bool {
        let include = self.field("include").and_then(Value::as_array);
        include.is_some_and(|names| names.iter().any(|name| name == "reasoning.encrypted_content"))
    }
}

/// Parses the JSON object that every request body must be.
pub(super) fn object(body: &[u8]) -> Result<Map<String, Value>, SimulatedError> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => Ok(fields),
        _ => Err(SimulatedError::request(None, None, "The request body is not a JSON object.")),
    }
}

fn flag(body: &Map<String, Value>, name: &'static str) -> Result<bool, SimulatedError> {
    match body.get(name) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(_) => {
            Err(SimulatedError::request(Some("invalid_type"), Some(name), format!("`{name}` is not a boolean.")))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::input::Image;
    use super::*;

    fn ask(body: &Value) -> Result<ParsedRequest, SimulatedError> {
        ParsedRequest::parse(body.to_string().as_bytes(), None)
    }

    #[test]
    fn finds_the_last_user_text_images_and_outputs() {
        let read = ask(&json!({"model": "m", "instructions": "four", "input": [
            {"role": "user", "content": "old"},
            {"type": "function_call", "arguments": "{}", "name": "f", "call_id": "c"},
            {"type": "function_call_output", "call_id": "c", "output": "stale"},
            {"role": "user", "content": [
                {"type": "input_text", "text": "看"},
                {"type": "input_image", "image_url": "data:image/png;base64,AAAA"},
                {"type": "input_image", "image_url": "https://example.com/a.png"}]},
            {"type": "function_call_output", "call_id": "d", "output": [{"type": "input_text", "text": "fresh"}]}
        ]}))
        .unwrap();
        assert_eq!((read.input.text.as_str(), &read.input.outputs), ("看", &vec!["fresh".to_owned()]));
        assert_eq!(read.input.images, [Image::Bytes(3), Image::Url]);
        assert_eq!(read.input.characters, 4 + 3 + 2 + 5 + 1 + 5);
        assert_eq!((read.turn(), read.input.quotes.back().unwrap().as_str()), (2, "看"));
    }

    #[test]
    fn takes_directives_from_the_text_and_the_metadata() {
        let read = ask(&json!({"model": "m", "input": "hello\n simulate: crlf words=3\nthere",
            "metadata": {"simulate": "bom"}}))
        .unwrap();
        assert_eq!(read.input.text, "hello\nthere");
        assert_eq!(read.input.quotes, ["hello there"]);
        assert!(read.directive.crlf && read.directive.bom);
        assert_eq!(read.directive.words, Some(3));
    }

    #[test]
    fn refuses_what_it_cannot_read() {
        assert_eq!(ParsedRequest::parse(b"{", None).unwrap_err().status, 400);
        assert_eq!(ParsedRequest::parse(b"[]", None).unwrap_err().status, 400);
        for (body, param) in [
            (json!({}), "model"),
            (json!({"model": 1}), "model"),
            (json!({"model": "m", "stream": 1}), "stream"),
            (json!({"model": "m", "background": true, "store": false}), "background"),
            (json!({"model": "m", "input": 1}), "input"),
            (json!({"model": "m", "input": ["x"]}), "input"),
            (
                json!({"model": "m", "input": [{"role": "user", "content": [
                {"type": "input_image", "image_url": "data:image/png;base64,!"}]}]}),
                "input",
            ),
        ] {
            assert_eq!(ask(&body).unwrap_err().param, Some(param), "{body}");
        }
    }
}
