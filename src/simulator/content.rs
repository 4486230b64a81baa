//! The content of an answer: its items and words. The same request always gets the same words.

use std::sync::Arc;

use serde_json::{Value, json};

use super::account::ProviderAccount;
use super::ids::Ids;
use super::input::Image;
use super::request::{Memory, ParsedRequest};
use super::{schema, seal};

/// One item of the output.
#[derive(Clone, Debug)]
pub(super) enum Item {
    Reasoning {
        id: String,
        encrypted: Option<String>,
        summary: Option<Arc<str>>,
    },
    /// Made only by the directive `line`: the only item that fills a line with megabytes.
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
    /// Everything said so far, sealed by the provider.
    Compaction {
        id: String,
        encrypted: String,
    },
}

impl Item {
    /// An item that seals everything said so far.
    pub(super) fn compaction(account: &ProviderAccount, turn: u64, ids: &mut Ids) -> Self {
        let id = ids.next("cmp_");
        Self::Compaction { encrypted: seal::seal(account, turn, &id), id }
    }
}

/// invented: the tokens of every reasoning item.
pub(super) const REASONING_TOKENS: usize = 64;

/// Three letters and a space are four characters, which make one token: `words=N` and `tokens=N` mean the same.
const WORDS: [&str; 11] = ["the", "sea", "has", "its", "own", "way", "and", "all", "men", "may", "row"];

/// The output for a request.
pub(super) fn items(account: &ProviderAccount, ask: &ParsedRequest, ids: &mut Ids) -> Vec<Item> {
    if ask.input.compacts {
        return vec![Item::compaction(account, ask.turn(), ids)];
    }
    let mut items = Vec::new();
    if ask.field("reasoning").is_some() || ask.includes_encrypted_content() {
        let id = ids.next("rs_");
        let encrypted = ask.includes_encrypted_content().then(|| seal::seal(account, ask.turn(), &id));
        let summary = ask.field("reasoning").and_then(|reasoning| reasoning.get("summary"));
        let summary = summary.is_some_and(|summary| !summary.is_null()).then(|| "**Thinking it over**".into());
        items.push(Item::Reasoning { id, encrypted, summary });
    }
    if let Some(mib) = ask.directive.line_mib {
        items.push(Item::Image { id: ids.next("ig_"), result: "A".repeat(mib << 20).into() });
    }
    let calls = calls(ask);
    if calls.is_empty() {
        items.push(Item::Message { id: ids.next("msg_"), text: text(account, ask).into() });
    }
    for (name, parameters) in calls {
        items.push(Item::Call {
            id: ids.next("fc_"),
            call_id: ids.next("call_"),
            name: name.to_owned(),
            arguments: match (&ask.directive.arguments, parameters) {
                (Some(given), _) => given.as_str().into(),
                (None, Some(schema)) => schema::example(schema).to_string().into(),
                (None, None) => "{}".into(),
            },
        });
    }
    items
}

/// The functions to call, with the schemas of their parameters.
fn calls(ask: &ParsedRequest) -> Vec<(&str, Option<&Value>)> {
    let choice = ask.field("tool_choice");
    let mode = choice.and_then(|choice| choice.get("mode").unwrap_or(choice).as_str()).unwrap_or("auto");
    if !ask.input.outputs.is_empty() || mode == "none" {
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
        None => name(tool).is_some_and(|name| mentions(&ask.input.text, &name)),
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

/// Whether `text` contains `name` as a whole word.
fn mentions(text: &str, name: &str) -> bool {
    let in_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    !name.is_empty()
        && text
            .match_indices(name)
            .any(|(at, _)| !text[..at].ends_with(in_word) && !text[at + name.len()..].starts_with(in_word))
}

fn text(account: &ProviderAccount, ask: &ParsedRequest) -> String {
    if let Some(words) = ask.directive.words {
        let mut text: String = WORDS.iter().cycle().take(words).flat_map(|word| [*word, " "]).collect();
        text.pop();
        return text;
    }
    let format = ask.field("text").and_then(|text| text.get("format"));
    let kind = format.and_then(|format| format.get("type")).and_then(Value::as_str);
    match (kind, format.and_then(|format| format.get("schema"))) {
        (Some("json_schema"), Some(schema)) => schema::example(schema).to_string(),
        (Some("json_object"), _) => json!({ "answer": sentence(account, ask) }).to_string(),
        _ => sentence(account, ask),
    }
}

fn sentence(account: &ProviderAccount, ask: &ParsedRequest) -> String {
    let mut sentence = format!("Hello from the simulated {}", account.personality.title());
    if account.is_named {
        sentence += &format!(", account {}", account.name);
    }
    sentence += ".";
    sentence += &remembered(&ask.memory);
    if !ask.input.outputs.is_empty() {
        sentence += &format!(" The function answered: {}", ask.input.outputs.join("; "));
    } else if ask.input.text.is_empty() {
        sentence += " You said nothing.";
    } else {
        sentence += &format!(" You said: {}", ask.input.text);
    }
    if !ask.input.images.is_empty() {
        let seen: Vec<String> = ask.input.images.iter().map(describe).collect();
        let plural = if seen.len() == 1 { "" } else { "s" };
        sentence += &format!("\nI see {} image{plural}: {}.", seen.len(), seen.join(", "));
    }
    sentence
}

/// What the provider remembers from earlier requests, so that an answer shows which account answers and which state was
/// lost.
fn remembered(memory: &Memory) -> String {
    let mut sentence = String::new();
    let plural = |count: u64| if count == 1 { "" } else { "s" };
    let turns = memory.input.turns;
    if turns > 0 {
        let quotes: Vec<&str> = memory.input.quotes.iter().map(String::as_str).collect();
        sentence += &format!(" I remember {turns} turn{}: {}.", plural(turns), quotes.join("; "));
    }
    if memory.opened > 0 {
        let (count, turn) = (memory.opened, memory.opened_turn);
        sentence += &format!(" I opened {count} sealed item{}, the last of turn {turn}.", plural(count as u64));
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
