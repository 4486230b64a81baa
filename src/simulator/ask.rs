//! The request as the provider understands it. The simulator is the provider: it parses the whole body.

use data_encoding::BASE64;
use serde_json::{Map, Value};

use super::directive::Directive;
use super::fault::Fault;

/// An image of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Image {
    Url,
    File,
    /// From a data URL, with its decoded size.
    Bytes(usize),
}

/// A parsed request.
#[derive(Debug)]
pub(super) struct Ask {
    /// The top-level object, for the fields that are echoed.
    pub(super) body: Map<String, Value>,
    pub(super) model: String,
    pub(super) stream: bool,
    /// The last user text, without its directives.
    pub(super) text: String,
    /// Results of function calls after the last user text: they are what is to be answered.
    pub(super) outputs: Vec<String>,
    pub(super) images: Vec<Image>,
    /// Every `encrypted_content` of the input.
    pub(super) sealed: Vec<String>,
    /// Characters of all texts of the input, for the usage.
    pub(super) characters: usize,
    pub(super) directive: Directive,
}

impl Ask {
    /// Reads a request body.
    pub(super) fn parse(body: &[u8]) -> Result<Self, Fault> {
        let Ok(Value::Object(mut body)) = serde_json::from_slice(body) else {
            return Err(Fault::request(None, None, "The request body is not a JSON object."));
        };
        let model = match body.get("model") {
            Some(Value::String(name)) => name.clone(),
            None => {
                return Err(Fault::request(Some("missing_required_parameter"), Some("model"), "No model is named."));
            }
            Some(_) => return Err(Fault::request(Some("invalid_type"), Some("model"), "The model is not a string.")),
        };
        let stream = match body.get("stream") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(stream)) => *stream,
            Some(_) => return Err(Fault::request(Some("invalid_type"), Some("stream"), "`stream` is not a boolean.")),
        };
        let mut input = Input::default();
        match body.get("input") {
            None | Some(Value::Null) => {}
            Some(Value::String(text)) => input.user_text(text),
            Some(Value::Array(items)) => items.iter().try_for_each(|item| input.item(item))?,
            Some(_) => {
                return Err(Fault::request(Some("invalid_type"), Some("input"), "`input` is no string and no array."));
            }
        }
        let instructions = body.get("instructions").and_then(Value::as_str).map_or(0, |text| text.chars().count());
        let in_metadata = body.get("metadata").and_then(|metadata| metadata.get("simulate")).and_then(Value::as_str);
        let directives = format!("{} {}", in_metadata.unwrap_or_default(), input.take_directives());
        // An input may have tens of MiB, and nothing of it is echoed.
        body.remove("input");
        Ok(Self {
            model,
            stream,
            directive: Directive::parse(&directives)?,
            text: input.text,
            outputs: input.outputs,
            images: input.images,
            sealed: input.sealed,
            characters: input.characters + instructions,
            body,
        })
    }

    /// A field that is echoed; `null` counts as absent.
    pub(super) fn field(&self, name: &str) -> Option<&Value> {
        self.body.get(name).filter(|value| !value.is_null())
    }

    /// Whether the answer has to hold `encrypted_content`.
    pub(super) fn includes_encrypted_content(&self) -> bool {
        let include = self.field("include").and_then(Value::as_array);
        include.is_some_and(|names| names.iter().any(|name| name == "reasoning.encrypted_content"))
    }
}

#[derive(Default)]
struct Input {
    text: String,
    outputs: Vec<String>,
    images: Vec<Image>,
    sealed: Vec<String>,
    characters: usize,
}

impl Input {
    fn user_text(&mut self, text: &str) {
        self.characters += text.chars().count();
        text.clone_into(&mut self.text);
        self.outputs.clear();
    }

    fn item(&mut self, item: &Value) -> Result<(), Fault> {
        let word = |name: &str| item.get(name).and_then(Value::as_str);
        if let Some(sealed) = word("encrypted_content") {
            self.sealed.push(sealed.to_owned());
        }
        match word("type") {
            None | Some("message") => {
                let user = word("role") == Some("user");
                let text = self.content(item.get("content"))?;
                if user && !text.is_empty() {
                    self.text = text;
                    self.outputs.clear();
                }
            }
            Some("function_call_output") => {
                let output = self.content(item.get("output"))?;
                self.outputs.push(output);
            }
            Some("function_call") => self.characters += word("arguments").map_or(0, |text| text.chars().count()),
            Some(_) => {}
        }
        Ok(())
    }

    /// The text of a string or of an array of parts; counts its characters and its images.
    fn content(&mut self, content: Option<&Value>) -> Result<String, Fault> {
        let mut texts = Vec::new();
        match content {
            Some(Value::String(text)) => texts.push(text.as_str()),
            Some(Value::Array(parts)) => {
                for part in parts {
                    if part.get("type").and_then(Value::as_str) == Some("input_image") {
                        self.images.push(image(part)?);
                    } else if let Some(text) = part.get("text").and_then(Value::as_str) {
                        texts.push(text);
                    }
                }
            }
            _ => {}
        }
        let text = texts.join("\n");
        self.characters += text.chars().count();
        Ok(text)
    }

    /// Takes the lines `simulate: …` out of the user's text.
    fn take_directives(&mut self) -> String {
        let (mut kept, mut taken) = (Vec::new(), String::new());
        for line in self.text.lines() {
            match line.trim().strip_prefix("simulate:") {
                Some(directives) => taken = taken + directives + " ",
                None => kept.push(line),
            }
        }
        if !taken.is_empty() {
            self.text = kept.join("\n").trim().to_owned();
        }
        taken
    }
}

fn image(part: &Value) -> Result<Image, Fault> {
    let bad = || Fault::request(Some("invalid_image"), Some("input"), "The data URL of an image is not valid base64.");
    match part.get("image_url").and_then(Value::as_str) {
        Some(url) if url.starts_with("data:") => {
            let (_, data) = url.split_once(";base64,").ok_or_else(bad)?;
            BASE64.decode(data.as_bytes()).map(|bytes| Image::Bytes(bytes.len())).map_err(|_| bad())
        }
        Some(_) => Ok(Image::Url),
        None if part.get("file_id").is_some() => Ok(Image::File),
        None => Err(Fault::request(Some("missing_required_parameter"), Some("input"), "An image has no `image_url`.")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ask(body: &Value) -> Result<Ask, Fault> {
        Ask::parse(body.to_string().as_bytes())
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
        assert_eq!((read.text.as_str(), read.outputs), ("看", vec!["fresh".to_owned()]));
        assert_eq!(read.images, [Image::Bytes(3), Image::Url]);
        assert_eq!(read.characters, 4 + 3 + 2 + 5 + 1 + 5);
    }

    #[test]
    fn takes_directives_from_the_text_and_the_metadata() {
        let read = ask(&json!({"model": "m", "input": "hello\n simulate: crlf words=3\nthere",
            "metadata": {"simulate": "bom"}}))
        .unwrap();
        assert_eq!(read.text, "hello\nthere");
        assert!(read.directive.crlf && read.directive.bom);
        assert_eq!(read.directive.words, Some(3));
    }

    #[test]
    fn refuses_what_it_cannot_read() {
        assert_eq!(Ask::parse(b"{").unwrap_err().status, 400);
        assert_eq!(Ask::parse(b"[]").unwrap_err().status, 400);
        for (body, param) in [
            (json!({}), "model"),
            (json!({"model": 1}), "model"),
            (json!({"model": "m", "stream": 1}), "stream"),
            (json!({"model": "m", "input": 1}), "input"),
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
