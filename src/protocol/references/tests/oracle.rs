//! A plain walk over a parsed request to `POST /responses`.

use serde_json::{Map, Value};

use super::super::request::ReferenceUse;
use crate::domain::origin::{Reference, ReferenceKind};

/// Names that a request may hold.
pub(super) const NAMES: [&str; 53] = [
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
    "resp_1",
    "é",
];

/// The same names, some in other letter case.
pub(super) const ALL_NAMES: [&str; 60] = {
    let mut names = [""; 60];
    let (plain, other) = names.split_at_mut(53);
    plain.copy_from_slice(&NAMES);
    other.copy_from_slice(&["File_Id", "tool\u{17f}", "ID", "Input", "Container", "Role", "Type"]);
    names
};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Top,
    Any,
    Item,
    Inner,
    Part,
    Out,
    Tool,
    Container,
    Environment,
    Skill,
    File,
    Object(ReferenceKind),
    Prompt,
    Variables,
    Cache,
}

/// The meaning of a name at a place, and the objects that exist.
#[derive(Clone, Copy)]
enum Meaning {
    Id(ReferenceKind),
    /// The name alone tells what it could be.
    Perhaps(ReferenceKind),
    Encrypted,
    Text,
    Label,
    Value,
}

const ITEM: [&str; 9] =
    ["id", "type", "content", "output", "arguments", "input", "call_id", "tools", "encrypted_content"];

/// The names that are acted on, by place.
fn acted_on(place: Place) -> &'static [&'static str] {
    match place {
        Place::Top => &["previous_response_id", "conversation", "input", "tools", "prompt", "prompt_cache_options"],
        Place::Any | Place::Inner | Place::Variables | Place::Out => &[],
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

fn means(place: Place, name: &str) -> (Meaning, Place) {
    use Meaning::{Encrypted, Id, Label, Perhaps, Text, Value};
    let inside = matches!(place, Place::Item | Place::Inner | Place::Part);
    let into = match place {
        _ if inside => Place::Inner,
        Place::Variables => Place::File,
        _ => Place::Any,
    };
    match (place, name) {
        (Place::Top, "previous_response_id") => (Id(ReferenceKind::Response), Place::Object(ReferenceKind::Response)),
        (Place::Top, "conversation") => (Id(ReferenceKind::Conversation), Place::Object(ReferenceKind::Conversation)),
        (Place::Object(kind), "id") => (Id(kind), Place::Any),
        (Place::Top, "input") => (Text, Place::Item),
        (Place::Top | Place::Item | Place::Tool, "tools") => (Value, Place::Tool),
        (Place::Top, "prompt") => (Text, Place::Prompt),
        (Place::Prompt, "id") => (Id(ReferenceKind::Prompt), Place::Any),
        (Place::Prompt, "variables") => (Value, Place::Variables),
        (Place::Top, "prompt_cache_options") => (Value, Place::Cache),
        (Place::Cache, "comparison_response_id") => (Id(ReferenceKind::Response), Place::Any),
        (Place::Item, "id") => (Id(ReferenceKind::Item), Place::Inner),
        (Place::Item, "content") => (Text, Place::Part),
        (Place::Item, "output") => (Text, Place::Out),
        (Place::Item, "input" | "arguments") => (Text, Place::Any),
        (Place::Item, "name") => (Text, Place::Inner),
        (Place::Item, "call_id") => (Text, Place::Inner),
        (Place::Part | Place::File, "file_id") => (Id(ReferenceKind::File), into),
        (Place::Tool, "vector_store_ids") => (Id(ReferenceKind::VectorStore), Place::Any),
        (Place::Tool, "container") => (Id(ReferenceKind::Container), Place::Container),
        (Place::Tool, "environment") => (Value, Place::Environment),
        (Place::Tool, "input_image_mask") => (Value, Place::File),
        (Place::Container | Place::Environment, "file_ids") => (Id(ReferenceKind::File), Place::Any),
        (Place::Container | Place::Environment, "skills") => (Value, Place::Skill),
        (Place::Environment, "container_id") => (Id(ReferenceKind::Container), Place::Any),
        (Place::Skill, "skill_id") => (Id(ReferenceKind::Skill), Place::Any),
        (_, "encrypted_content") if inside => (Encrypted, Place::Inner),
        (_, "text" | "output" | "content" | "arguments" | "instructions") => (Text, into),
        _ => match &*name.replace('ſ', "s").to_ascii_lowercase() {
            "type" | "call_id" => (Label, into),
            "previous_response_id" | "response_id" => (Perhaps(ReferenceKind::Response), into),
            "conversation" | "conversation_id" => (Perhaps(ReferenceKind::Conversation), into),
            "file_id" | "file_ids" => (Perhaps(ReferenceKind::File), into),
            "vector_store_ids" => (Perhaps(ReferenceKind::VectorStore), into),
            "container" | "container_id" => (Perhaps(ReferenceKind::Container), into),
            "skill_id" => (Perhaps(ReferenceKind::Skill), into),
            _ => (Value, into),
        },
    }
}

/// The kind of object that replaces the object at this name, where the client chooses the names.
fn in_place_of(name: &str) -> Option<ReferenceKind> {
    if let (Meaning::Perhaps(kind), _) = means(Place::Any, name) { Some(kind) } else { None }
}

/// A reference: the number of its kind, and what an upstream does with it, in the order of the enum.
pub(super) type Found = (u8, Reference, u8);

/// The references in a request; `None` where it is ambiguous.
pub(super) fn references(body: &Map<String, Value>) -> Option<Vec<Found>> {
    let mut found = Vec::new();
    object(body, Surroundings { place: Place::Top, of: None, is_screen: false }, &mut found).then_some(found)
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

/// Where an object stands.
#[derive(Clone, Copy)]
struct Surroundings {
    place: Place,
    /// It stands in place of an id of this kind.
    of: Option<ReferenceKind>,
    /// Its item is the output of a computer.
    is_screen: bool,
}

fn is_word(value: &Value, words: &[&str]) -> bool {
    value.as_str().is_some_and(|text| words.contains(&text))
}

fn object(object: &Map<String, Value>, around: Surroundings, found: &mut Vec<Found>) -> bool {
    let Surroundings { place, of, mut is_screen } = around;
    let uses = match place {
        Place::Item if object.get("id").is_some_and(|id| strings(id) == 1) => of_item(object),
        _ => ReferenceUse::LookedUp,
    };
    if place == Place::Item {
        is_screen = object.get("type").is_some_and(|name| is_word(name, &["computer_call_output"]));
    }
    let is_type = |name: &str| name.eq_ignore_ascii_case("type");
    let is_part = place == Place::Out
        && (is_screen || object.iter().any(|(name, value)| is_type(name) && is_word(value, &["input_file"])));
    object.iter().all(|(name, value)| {
        let is_other = |known: &&str| name != known && name.replace('ſ', "s").eq_ignore_ascii_case(known);
        if acted_on(place).iter().any(is_other) {
            return false;
        }
        if name == "resp_1" {
            found.push((
                ReferenceKind::Response as u8,
                Reference::new(ReferenceKind::Response, b"resp_1"),
                ReferenceUse::Perhaps as u8,
            ));
        }
        let (mut means, into) = self::means(place, name);
        if let (Meaning::Value, Some(kind), true) = (means, of, name.eq_ignore_ascii_case("id")) {
            means = Meaning::Perhaps(kind);
        }
        let uses = match means {
            Meaning::Id(_) if place == Place::Item && name == "id" => uses,
            Meaning::Id(_) => ReferenceUse::LookedUp,
            _ if is_part && name.eq_ignore_ascii_case("file_id") => ReferenceUse::LookedUp,
            _ => ReferenceUse::Perhaps,
        };
        let of = in_place_of(name).or(of.filter(|_| matches!(means, Meaning::Perhaps(_))));
        self::value(value, means, Surroundings { place: into, of, is_screen }, uses, found)
    })
}

fn value(value: &Value, means: Meaning, around: Surroundings, uses: ReferenceUse, found: &mut Vec<Found>) -> bool {
    match (value, means) {
        (Value::Array(values), _) => values.iter().all(|value| self::value(value, means, around, uses, found)),
        (Value::Object(inner), _) => object(inner, around, found),
        (Value::String(text), _) if !text.is_empty() => {
            let by_value = |uses| (text == "resp_1").then_some((ReferenceKind::Response, uses));
            let references = match means {
                Meaning::Id(ReferenceKind::Skill) | Meaning::Perhaps(ReferenceKind::Skill)
                    if text.starts_with("openai-") =>
                {
                    [None, None]
                }
                Meaning::Id(kind) => {
                    let also = if uses == ReferenceUse::LookedUp { ReferenceUse::Perhaps } else { uses };
                    [Some((kind, uses)), by_value(also).filter(|_| kind != ReferenceKind::Response)]
                }
                Meaning::Encrypted => [Some((ReferenceKind::Encrypted, ReferenceUse::LookedUp)), None],
                // The id says more than the name.
                Meaning::Perhaps(kind) => [by_value(uses).or(Some((kind, uses))), None],
                Meaning::Value | Meaning::Label => [by_value(ReferenceUse::Perhaps), None],
                Meaning::Text => [None, None],
            };
            let references = references.into_iter().flatten();
            found
                .extend(references.map(|(kind, uses)| (kind as u8, Reference::new(kind, text.as_bytes()), uses as u8)));
            true
        }
        _ => true,
    }
}
