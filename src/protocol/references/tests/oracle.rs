//! A plain walk over a parsed request to `POST /responses`.

use serde_json::{Map, Value};

use super::super::request::ReferenceUse;
use crate::domain::origin::{Kind, Reference};

/// Names that a request may hold.
pub(super) const NAMES: [&str; 52] = [
    "previous_response_id",
    "conversation",
    "input",
    "input",
    "items",
    "prompt",
    "tools",
    "tools",
    "id",
    "id",
    "type",
    "type",
    "variables",
    "prompt_cache_options",
    "comparison_response_id",
    "approval_request_id",
    "encrypted_content",
    "encrypted_content",
    "file_id",
    "file_id",
    "file_ids",
    "vector_store_ids",
    "container",
    "container_id",
    "conversation_id",
    "response_id",
    "environment",
    "input_image_mask",
    "skills",
    "skill_id",
    "metadata",
    "parameters",
    "arguments",
    "results",
    "queries",
    "content",
    "content",
    "output",
    "role",
    "status",
    "name",
    "action",
    "actions",
    "operation",
    "code",
    "outputs",
    "result",
    "server_label",
    "call_id",
    "instructions",
    "text",
    "é",
];

/// The same, some of them in other letters.
pub(super) const ALL_NAMES: [&str; 58] = {
    let mut names = [""; 58];
    let (plain, other) = names.split_at_mut(52);
    plain.copy_from_slice(&NAMES);
    other.copy_from_slice(&["File_Id", "tool\u{17f}", "ID", "Input", "Container", "Role"]);
    names
};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Top,
    Any,
    Item,
    Inner,
    Part,
    Tool,
    Container,
    Environment,
    Skill,
    File,
    Object(Kind),
    Prompt,
    Variables,
    Cache,
}

/// What a name means at a place, and what objects there are.
#[derive(Clone, Copy)]
enum Means {
    Id(Kind),
    /// The name alone tells what it could be.
    Perhaps(Kind),
    Encrypted,
    Text,
    Value,
}

const ITEM: [&str; 9] =
    ["id", "type", "content", "output", "arguments", "input", "call_id", "tools", "encrypted_content"];

/// The names that are acted on, by place.
fn acted_on(place: Place) -> &'static [&'static str] {
    match place {
        Place::Top => &["previous_response_id", "conversation", "input", "tools", "prompt", "prompt_cache_options"],
        Place::Any | Place::Inner | Place::Variables => &[],
        Place::Item => &ITEM,
        Place::Part | Place::File => &["file_id"],
        Place::Tool => &["vector_store_ids", "container", "environment", "input_image_mask", "tools"],
        Place::Container => &["file_ids", "skills"],
        Place::Environment => &["file_ids", "skills", "container_id"],
        Place::Skill => &["skill_id"],
        Place::Object(_) => &["id"],
        Place::Prompt => &["id", "variables"],
        Place::Cache => &["comparison_response_id"],
    }
}

pub(super) fn acted_on_at_top() -> &'static [&'static str] {
    acted_on(Place::Top)
}

fn means(place: Place, name: &str) -> (Means, Place) {
    use Means::{Encrypted, Id, Perhaps, Text, Value};
    let inside = matches!(place, Place::Item | Place::Inner | Place::Part);
    let into = match place {
        _ if inside => Place::Inner,
        Place::Variables => Place::File,
        _ => Place::Any,
    };
    match (place, name) {
        (Place::Top, "previous_response_id") => (Id(Kind::Response), Place::Object(Kind::Response)),
        (Place::Top, "conversation") => (Id(Kind::Conversation), Place::Object(Kind::Conversation)),
        (Place::Object(kind), "id") => (Id(kind), Place::Any),
        (Place::Top, "input") => (Text, Place::Item),
        (Place::Top | Place::Item | Place::Tool, "tools") => (Value, Place::Tool),
        (Place::Top, "prompt") => (Text, Place::Prompt),
        (Place::Prompt, "id") => (Id(Kind::Prompt), Place::Any),
        (Place::Prompt, "variables") => (Value, Place::Variables),
        (Place::Top, "prompt_cache_options") => (Value, Place::Cache),
        (Place::Cache, "comparison_response_id") => (Id(Kind::Response), Place::Any),
        (Place::Item, "id") => (Id(Kind::Item), Place::Inner),
        (Place::Item, "content" | "output") => (Text, Place::Part),
        (Place::Item, "input" | "name") => (Text, Place::Inner),
        (Place::Part | Place::File, "file_id") => (Id(Kind::File), into),
        (Place::Tool, "vector_store_ids") => (Id(Kind::VectorStore), Place::Any),
        (Place::Tool, "container") => (Id(Kind::Container), Place::Container),
        (Place::Tool, "environment") => (Value, Place::Environment),
        (Place::Tool, "input_image_mask") => (Value, Place::File),
        (Place::Container | Place::Environment, "file_ids") => (Id(Kind::File), Place::Any),
        (Place::Container | Place::Environment, "skills") => (Value, Place::Skill),
        (Place::Environment, "container_id") => (Id(Kind::Container), Place::Any),
        (Place::Skill, "skill_id") => (Id(Kind::Skill), Place::Any),
        (_, "encrypted_content") if inside => (Encrypted, Place::Inner),
        (_, "text" | "type" | "output" | "content" | "call_id" | "arguments" | "instructions") => (Text, into),
        (_, "previous_response_id" | "response_id") => (Perhaps(Kind::Response), into),
        (_, "conversation" | "conversation_id") => (Perhaps(Kind::Conversation), into),
        (_, "file_id" | "file_ids") => (Perhaps(Kind::File), into),
        (_, "vector_store_ids") => (Perhaps(Kind::VectorStore), into),
        (_, "container" | "container_id") => (Perhaps(Kind::Container), into),
        (_, "skill_id") => (Perhaps(Kind::Skill), into),
        _ => (Value, into),
    }
}

/// A reference: the number of its kind, and what an upstream does with it, in the order of the enum.
pub(super) type Found = (u8, Reference, u8);

/// The references in a request; `None` where it is ambiguous.
pub(super) fn references(body: &Map<String, Value>) -> Option<Vec<Found>> {
    let mut found = Vec::new();
    object(body, Place::Top, &mut found).then_some(found)
}

fn strings(value: &Value) -> usize {
    match value {
        Value::String(text) => usize::from(!text.is_empty()),
        Value::Array(values) => values.iter().map(strings).sum(),
        _ => 0,
    }
}

/// A string stands in it that is not empty, a number or a boolean.
fn is_something(value: &Value) -> bool {
    match value {
        Value::String(text) => !text.is_empty(),
        Value::Number(_) | Value::Bool(_) => true,
        Value::Array(values) => values.iter().any(is_something),
        Value::Object(object) => object.values().any(is_something),
        _ => false,
    }
}

fn of_item(item: &Map<String, Value>) -> ReferenceUse {
    let has = |names: &[&str]| names.iter().any(|name| item.get(*name).is_some_and(is_something));
    let kind = item.get("type").and_then(Value::as_str).unwrap_or_default();
    let mut labels = vec!["id", "type", "role", "status"];
    if kind.ends_with("_call") && kind != "image_generation_call" {
        labels.pop();
    }
    let any_but = |labels: &[&str]| item.iter().any(|(name, value)| !labels.contains(&&**name) && is_something(value));
    let is_whole = match kind {
        "item_reference" => return ReferenceUse::LookedUp,
        "" => has(&["role"]) && has(&["content"]),
        "message" => has(&["content"]),
        "reasoning" => has(&["content", "encrypted_content"]),
        "compaction" => has(&["encrypted_content"]),
        "function_call" => has(&["name", "arguments"]),
        "image_generation_call" => has(&["result"]),
        _ if kind.ends_with("_output") => has(&["output", "call_id", "tools"]),
        _ => any_but(&["id", "type", "role", "status"]),
    };
    let is_there = |names: &[&str]| names.iter().any(|name| item.get(*name).is_some_and(|value| !value.is_null()));
    let is_empty = match kind {
        "" => has(&["role"]) && is_there(&["content"]),
        "message" => is_there(&["content"]),
        "reasoning" | "image_generation_call" => false,
        "compaction" => is_there(&["encrypted_content"]),
        "function_call" => is_there(&["name", "arguments"]),
        _ if kind.ends_with("_output") => is_there(&["output", "call_id", "tools"]),
        _ if !kind.ends_with("_call") => true,
        _ => item.iter().any(|(name, value)| !["id", "type", "role", "status"].contains(&&**name) && !value.is_null()),
    };
    match (is_whole && item.get("id").is_some_and(|id| strings(id) == 1), any_but(&labels)) {
        (true, _) => ReferenceUse::Whole,
        (_, true) => ReferenceUse::Perhaps,
        _ if is_empty => ReferenceUse::Perhaps,
        _ => ReferenceUse::LookedUp,
    }
}

fn object(object: &Map<String, Value>, place: Place, found: &mut Vec<Found>) -> bool {
    let uses = match place {
        Place::Item if object.get("id").is_some_and(|id| strings(id) == 1) => of_item(object),
        _ => ReferenceUse::LookedUp,
    };
    object.iter().all(|(name, value)| {
        let is_other = |known: &&str| name != known && name.replace('ſ', "s").eq_ignore_ascii_case(known);
        if acted_on(place).iter().any(is_other) {
            return false;
        }
        let (means, into) = means(place, name);
        let uses = if place == Place::Item && name == "id" { uses } else { ReferenceUse::LookedUp };
        self::value(value, means, into, uses, found)
    })
}

fn value(value: &Value, means: Means, into: Place, uses: ReferenceUse, found: &mut Vec<Found>) -> bool {
    match (value, means) {
        (Value::Array(values), _) => values.iter().all(|value| self::value(value, means, into, uses, found)),
        (Value::Object(inner), _) => object(inner, into, found),
        (Value::String(text), _) if !text.is_empty() => {
            let reference = match means {
                Means::Id(Kind::Skill) | Means::Perhaps(Kind::Skill) if text.starts_with("openai-") => None,
                Means::Id(kind) => Some((kind, uses)),
                Means::Encrypted => Some((Kind::Encrypted, ReferenceUse::LookedUp)),
                // The id says more than the name.
                Means::Perhaps(_) if text == "resp_1" => Some((Kind::Response, ReferenceUse::Perhaps)),
                Means::Perhaps(kind) => Some((kind, ReferenceUse::Perhaps)),
                Means::Value if text == "resp_1" => Some((Kind::Response, ReferenceUse::Perhaps)),
                Means::Value | Means::Text => None,
            };
            found.extend(reference.map(|(kind, uses)| (kind as u8, Reference::new(kind, text.as_bytes()), uses as u8)));
            true
        }
        _ => true,
    }
}
