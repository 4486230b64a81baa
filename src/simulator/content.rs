//! What an answer consists of: which items, with which words. The same request always gets the same words.

use std::sync::Arc;

use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};

use super::ask::{Ask, Image};
use super::ids::Ids;
use super::personality::Personality;
use super::schema;

/// One item of the output.
#[derive(Clone, Debug)]
pub(super) enum Item {
    Reasoning {
        id: String,
        encrypted: Option<String>,
        summary: Option<Arc<str>>,
    },
    /// Only made by the directive `line`: the one kind of item that fills a line with megabytes.
    Image {
        id: String,
        result: Arc<str>,
    },
    Call {
        id: String,
        call_id: String,
        name: String,
        arguments: Arc<str>,
    },
    Message {
        id: String,
        text: Arc<str>,
    },
}

/// invented: what every reasoning costs in tokens.
pub(super) const REASONING_TOKENS: usize = 64;

/// How `encrypted_content` begins; the original's begins so too. invented: what follows, in base64, is
/// `simulator/NAME/ID`, so that one provider refuses what another has made, as the real ones do.
const SEAL: &str = "gAAAAAB";

/// Three letters and a space make one token of four characters: `words=N` and `tokens=N` are the same.
const WORDS: [&str; 11] = ["the", "sea", "has", "its", "own", "way", "and", "all", "men", "may", "row"];

pub(super) fn seal(personality: Personality, id: &str) -> String {
    let content = format!("simulator/{}/{id}", personality.name());
    format!("{SEAL}{}", BASE64URL_NOPAD.encode(content.as_bytes()))
}

/// Whether `sealed` is this personality's.
pub(super) fn is_sealed_by(personality: Personality, sealed: &str) -> bool {
    let content = sealed.strip_prefix(SEAL).and_then(|rest| BASE64URL_NOPAD.decode(rest.as_bytes()).ok());
    content.is_some_and(|content| content.starts_with(format!("simulator/{}/", personality.name()).as_bytes()))
}

/// The output for a request.
pub(super) fn items(personality: Personality, ask: &Ask, ids: &mut Ids) -> Vec<Item> {
    let mut items = Vec::new();
    if ask.field("reasoning").is_some() || ask.includes_encrypted_content() {
        let id = ids.next("rs_");
        let encrypted = ask.includes_encrypted_content().then(|| seal(personality, &id));
        let summary = ask.field("reasoning").and_then(|reasoning| reasoning.get("summary"));
        let summary = summary.is_some_and(|summary| !summary.is_null()).then(|| "**Thinking it over**".into());
        items.push(Item::Reasoning { id, encrypted, summary });
    }
    if let Some(mib) = ask.directive.line_mib {
        items.push(Item::Image { id: ids.next("ig_"), result: "A".repeat(mib << 20).into() });
    }
    let calls = calls(ask);
    if calls.is_empty() {
        items.push(Item::Message { id: ids.next("msg_"), text: text(personality, ask).into() });
    }
    for (name, parameters) in calls {
        items.push(Item::Call {
            id: ids.next("fc_"),
            call_id: ids.next("call_"),
            name: name.to_owned(),
            arguments: parameters.map_or_else(|| "{}".into(), |schema| schema::example(schema).to_string().into()),
        });
    }
    items
}

/// The functions to call, with the schemas of their parameters.
fn calls(ask: &Ask) -> Vec<(&str, Option<&Value>)> {
    let choice = ask.field("tool_choice");
    let mode = choice.and_then(|choice| choice.get("mode").unwrap_or(choice).as_str()).unwrap_or("auto");
    if !ask.outputs.is_empty() || mode == "none" {
        return Vec::new();
    }
    let mut functions: Vec<_> = ask.field("tools").and_then(Value::as_array).into_iter().flatten().collect();
    functions.retain(|tool| tool.get("type").is_some_and(|kind| kind == "function"));
    let name = |tool: &Value| tool.get("name").and_then(Value::as_str).map(str::to_owned);
    // `{"type": "allowed_tools", "mode": …, "tools": [{"type": "function", "name": …}]}` narrows the choice.
    if let Some(allowed) = choice.and_then(|choice| choice.get("tools")).and_then(Value::as_array) {
        functions.retain(|tool| allowed.iter().any(|allowed| name(allowed) == name(tool)));
    }
    let forced = choice.and_then(name).or_else(|| ask.directive.call.clone().filter(|name| !name.is_empty()));
    let mut wanted = functions.clone();
    wanted.retain(|tool| match &forced {
        Some(forced) => name(tool).as_ref() == Some(forced),
        None => name(tool).is_some_and(|name| mentions(&ask.text, &name)),
    });
    if wanted.is_empty() && (mode == "required" || ask.directive.call.as_deref() == Some("")) {
        wanted.extend(functions.first());
    }
    if ask.field("parallel_tool_calls") == Some(&Value::Bool(false)) {
        wanted.truncate(1);
    }
    let parts = wanted.into_iter().map(|tool| (tool.get("name"), tool.get("parameters")));
    parts.filter_map(|(name, parameters)| Some((name?.as_str()?, parameters.filter(|it| it.is_object())))).collect()
}

/// Whether `text` has `name` as a word of its own.
fn mentions(text: &str, name: &str) -> bool {
    let in_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    !name.is_empty()
        && text
            .match_indices(name)
            .any(|(at, _)| !text[..at].ends_with(in_word) && !text[at + name.len()..].starts_with(in_word))
}

fn text(personality: Personality, ask: &Ask) -> String {
    if let Some(words) = ask.directive.words {
        let mut text: String = WORDS.iter().cycle().take(words).flat_map(|word| [*word, " "]).collect();
        text.pop();
        return text;
    }
    let format = ask.field("text").and_then(|text| text.get("format"));
    let kind = format.and_then(|format| format.get("type")).and_then(Value::as_str);
    match (kind, format.and_then(|format| format.get("schema"))) {
        (Some("json_schema"), Some(schema)) => schema::example(schema).to_string(),
        (Some("json_object"), _) => json!({ "answer": sentence(personality, ask) }).to_string(),
        _ => sentence(personality, ask),
    }
}

fn sentence(personality: Personality, ask: &Ask) -> String {
    let mut sentence = format!("Hello from the simulated {}.", personality.title());
    if !ask.outputs.is_empty() {
        sentence += &format!(" The function answered: {}", ask.outputs.join("; "));
    } else if ask.text.is_empty() {
        sentence += " You said nothing.";
    } else {
        sentence += &format!(" You said: {}", ask.text);
    }
    if !ask.images.is_empty() {
        let seen: Vec<String> = ask.images.iter().map(describe).collect();
        let plural = if seen.len() == 1 { "" } else { "s" };
        sentence += &format!("\nI see {} image{plural}: {}.", seen.len(), seen.join(", "));
    }
    sentence
}

fn describe(image: &Image) -> String {
    match image {
        Image::Url => "one by URL".to_owned(),
        Image::File => "one by file id".to_owned(),
        Image::Bytes(bytes) => format!("one of {bytes} bytes"),
    }
}
