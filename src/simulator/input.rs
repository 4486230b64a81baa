//! Reads the input items of a request: texts, function outputs, images and sealed content.

use std::collections::VecDeque;
use std::sync::Arc;

use data_encoding::BASE64;
use serde_json::{Value, json};

use super::fault::SimulatedError;
use super::ids::Ids;

/// An image of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Image {
    Url,
    File,
    /// From a data URL, with its decoded size.
    Bytes(usize),
}

/// How many of the last user texts an answer quotes, and how many characters of each.
const QUOTED: usize = 10;
const QUOTED_CHARACTERS: usize = 40;

/// The content of the items, collected in order.
#[derive(Debug, Default)]
pub(super) struct Input {
    /// The last user text. `take_directives` removes its directives.
    pub(super) text: String,
    /// Results of function calls after the last user text. The answer responds to them.
    pub(super) outputs: Vec<String>,
    pub(super) images: Vec<Image>,
    /// Every `encrypted_content`.
    pub(super) sealed: Vec<String>,
    /// The number of characters of all texts, for the usage.
    pub(super) characters: usize,
    /// The number of user messages.
    pub(super) turns: u64,
    /// The beginnings of the last user messages.
    pub(super) quotes: VecDeque<String>,
    /// Whether the last item asks for a compaction.
    pub(super) compacts: bool,
}

impl Input {
    /// Reads items.
    pub(super) fn read(items: &[Arc<Value>]) -> Result<Self, SimulatedError> {
        let mut input = Self::default();
        items.iter().try_for_each(|item| input.item(item))?;
        Ok(input)
    }

    fn item(&mut self, item: &Value) -> Result<(), SimulatedError> {
        let word = |name: &str| item.get(name).and_then(Value::as_str);
        if let Some(sealed) = word("encrypted_content") {
            self.sealed.push(sealed.to_owned());
        }
        self.compacts = word("type") == Some("compaction_trigger");
        match word("type") {
            None | Some("message") => {
                let user = word("role") == Some("user");
                let text = self.content(item.get("content"))?;
                if user && !text.is_empty() {
                    self.turn(text);
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

    fn turn(&mut self, text: String) {
        self.turns += 1;
        if self.quotes.len() == QUOTED {
            self.quotes.pop_front();
        }
        let said = text.lines().filter(|line| directives(line).is_none()).collect::<Vec<_>>().join(" ");
        self.quotes.push_back(said.chars().take(QUOTED_CHARACTERS).collect());
        self.text = text;
        self.outputs.clear();
    }

    /// The text of a string or of an array of parts; counts its characters and its images.
    fn content(&mut self, content: Option<&Value>) -> Result<String, SimulatedError> {
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

    /// Removes the lines `simulate: …` from the user's text and returns them.
    pub(super) fn take_directives(&mut self) -> String {
        let (mut kept, mut taken) = (Vec::new(), String::new());
        for line in self.text.lines() {
            match directives(line) {
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

/// The directives of a line, if it has some.
fn directives(line: &str) -> Option<&str> {
    line.trim().strip_prefix("simulate:")
}

fn image(part: &Value) -> Result<Image, SimulatedError> {
    let bad = || {
        SimulatedError::request(Some("invalid_image"), Some("input"), "The data URL of an image is not valid base64.")
    };
    match part.get("image_url").and_then(Value::as_str) {
        Some(url) if url.starts_with("data:") => {
            let (_, data) = url.split_once(";base64,").ok_or_else(bad)?;
            BASE64.decode(data.as_bytes()).map(|bytes| Image::Bytes(bytes.len())).map_err(|_| bad())
        }
        Some(_) => Ok(Image::Url),
        None if part.get("file_id").is_some() => Ok(Image::File),
        None => Err(SimulatedError::request(
            Some("missing_required_parameter"),
            Some("input"),
            "An image has no `image_url`.",
        )),
    }
}

/// The items of `input` or `items`. A string counts as one user message.
pub(super) fn items(input: Option<Value>, name: &'static str) -> Result<Vec<Arc<Value>>, SimulatedError> {
    match input {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(vec![Arc::new(json!({"type": "message", "role": "user", "content": text}))]),
        Some(Value::Array(items)) if items.iter().all(Value::is_object) => {
            Ok(items.into_iter().map(Arc::new).collect())
        }
        Some(_) => {
            let message = format!("`{name}` is no string and no array of objects.");
            Err(SimulatedError::request(Some("invalid_type"), Some(name), message))
        }
    }
}

/// The id of the stored item that an input item refers to.
pub(super) fn reference(item: &Value) -> Option<&str> {
    let id = item.get("id")?.as_str()?;
    match item.get("type").and_then(Value::as_str) {
        Some("item_reference") => Some(id),
        None if item.as_object().is_some_and(|fields| fields.len() == 1) => Some(id),
        // Reasoning is stored at the provider, unless the client sends it back sealed.
        Some("reasoning") if !item.get("encrypted_content").is_some_and(Value::is_string) => Some(id),
        _ => None,
    }
}

/// An item as it is stored and shown: with an id, a status, and its content as parts.
pub(super) fn kept(item: Arc<Value>, ids: &mut Ids) -> Arc<Value> {
    let has = |name: &str| item.get(name).is_some_and(|value| !value.is_null());
    if has("id") && has("type") && !item.get("content").is_some_and(Value::is_string) {
        return item;
    }
    let mut item = Arc::unwrap_or_clone(item);
    if let Value::Object(fields) = &mut item {
        let kind = fields.entry("type").or_insert_with(|| "message".into()).as_str().unwrap_or_default().to_owned();
        let prefix = match kind.as_str() {
            "message" => "msg_",
            "reasoning" => "rs_",
            "function_call" => "fc_",
            "function_call_output" => "fco_",
            "compaction" => "cmp_",
            _ => "item_",
        };
        if !fields.get("id").is_some_and(Value::is_string) {
            fields.insert("id".into(), ids.next(prefix).into());
        }
        if kind == "message" {
            fields.entry("status").or_insert_with(|| "completed".into());
            let said =
                if fields.get("role").is_some_and(|role| role == "assistant") { "output_text" } else { "input_text" };
            if let Some(content) = fields.get_mut("content")
                && let Value::String(text) = content
            {
                *content = json!([{"type": said, "text": std::mem::take(text)}]);
            }
        }
    }
    Arc::new(item)
}
