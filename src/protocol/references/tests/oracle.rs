//! A plain walk over a parsed request.

use serde_json::{Map, Value};

use crate::domain::origin::{Kind, Reference};

/// Names that a request may hold.
pub(super) const NAMES: [&str; 46] = [
    "previous_response_id",
    "conversation",
    "input",
    "input",
    "items",
    "prompt",
    "messages",
    "tools",
    "id",
    "id",
    "type",
    "audio",
    "variables",
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
    "skill_id",
    "annotations",
    "metadata",
    "client_metadata",
    "parameters",
    "schema",
    "json_schema",
    "input_schema",
    "output_schema",
    "arguments",
    "headers",
    "env",
    "attributes",
    "results",
    "error",
    "content",
    "output",
    "role",
    "name",
    "action",
    "operation",
    "text",
    "é",
];

/// The same, some of them in other letters.
pub(super) const ALL_NAMES: [&str; 52] = {
    let mut names = [""; 52];
    let (plain, other) = names.split_at_mut(46);
    plain.copy_from_slice(&NAMES);
    other.copy_from_slice(&["File_Id", "file_id\u{17f}", "ID", "Input", "Container", "Role"]);
    names
};

#[derive(Clone, Copy, PartialEq)]
enum Place {
    Top,
    Any,
    Item,
    Conversation,
    Prompt,
    Variables,
    Message,
    Audio,
    Annotations,
}

/// Names that are acted on anywhere.
const ANYWHERE: [(&str, Kind); 10] = [
    ("previous_response_id", Kind::Response),
    ("comparison_response_id", Kind::Response),
    ("approval_request_id", Kind::Item),
    ("encrypted_content", Kind::Encrypted),
    ("file_id", Kind::File),
    ("file_ids", Kind::File),
    ("vector_store_ids", Kind::VectorStore),
    ("container", Kind::Container),
    ("container_id", Kind::Container),
    ("skill_id", Kind::Skill),
];

const FREE: [&str; 11] = [
    "metadata",
    "client_metadata",
    "parameters",
    "schema",
    "json_schema",
    "input_schema",
    "output_schema",
    "arguments",
    "headers",
    "env",
    "attributes",
];

const TOP: [&str; 6] = ["conversation", "input", "items", "prompt", "messages", "tools"];

pub(super) fn acted_on_at_top() -> Vec<&'static str> {
    TOP.into_iter().chain(ANYWHERE.map(|(name, _)| name)).chain(["annotations"]).collect()
}

fn acted_on(place: Place) -> Vec<&'static str> {
    let own: &[&str] = match place {
        Place::Variables => return Vec::new(),
        Place::Annotations => return vec!["container_id"],
        Place::Top => &TOP,
        Place::Any => &[],
        Place::Item => {
            &["id", "type", "role", "content", "name", "arguments", "input", "output", "action", "operation"]
        }
        Place::Conversation | Place::Audio => &["id"],
        Place::Prompt => &["id", "variables"],
        Place::Message => &["audio"],
    };
    ANYWHERE.map(|(name, _)| name).into_iter().chain(["annotations"]).chain(own.iter().copied()).collect()
}

/// A reference: the number of its kind, and whether it is the id of an item that is whole.
pub(super) type Found = (u8, Reference, bool);

/// The references in a request; `None` where it is ambiguous.
pub(super) fn references(body: &Map<String, Value>) -> Option<Vec<Found>> {
    let mut found = Vec::new();
    object(body, Place::Top, &mut found).then_some(found)
}

/// Whether an item has with it all that its type is made of.
fn is_whole(item: &Map<String, Value>) -> bool {
    let kind = match item.get("type") {
        Some(Value::String(kind)) => kind,
        _ => "message",
    };
    let parts: &[&str] = match kind {
        "message" => &["role", "content"],
        "function_call" => &["name", "arguments"],
        "custom_tool_call" => &["name", "input"],
        "local_shell_call" | "shell_call" => &["action"],
        "apply_patch_call" => &["operation"],
        "reasoning" | "compaction" | "compaction_summary" => {
            return item.get("encrypted_content").and_then(Value::as_str).is_some_and(|text| !text.is_empty());
        }
        _ if ["function", "custom_tool", "local_shell", "shell", "apply_patch"]
            .iter()
            .any(|tool| kind.strip_suffix("_call_output") == Some(tool)) =>
        {
            &["output"]
        }
        _ => return false,
    };
    parts.iter().all(|part| item.get(*part).is_some_and(|part| part.is_string() || part.is_array() || part.is_object()))
}

fn strings(value: &Value) -> usize {
    match value {
        Value::String(text) => usize::from(!text.is_empty()),
        Value::Array(values) => values.iter().map(strings).sum(),
        _ => 0,
    }
}

fn object(object: &Map<String, Value>, place: Place, found: &mut Vec<Found>) -> bool {
    let whole = place == Place::Item && is_whole(object) && object.get("id").is_some_and(|id| strings(id) == 1);
    object.iter().all(|(name, value)| {
        let names = acted_on(place);
        if names.iter().any(|known| name != known && name.replace('ſ', "s").eq_ignore_ascii_case(known)) {
            return false;
        }
        if place != Place::Variables && place != Place::Annotations && FREE.contains(&&**name) {
            return true;
        }
        let elsewhere = if place == Place::Annotations { Place::Annotations } else { Place::Any };
        let (kind, into) = match (place, &**name) {
            (Place::Variables, _) => (None, Place::Any),
            (Place::Annotations, "container_id") => (Some(Kind::Container), elsewhere),
            (Place::Annotations, _) => (None, elsewhere),
            (_, "annotations") => (None, Place::Annotations),
            (Place::Top, "conversation") => (Some(Kind::Conversation), Place::Conversation),
            (Place::Top, "input" | "items") => (None, Place::Item),
            (Place::Top, "prompt") => (None, Place::Prompt),
            (Place::Top, "messages") => (None, Place::Message),
            (Place::Item, "results" | "error") => return true,
            (Place::Item, "id") => (Some(Kind::Item), Place::Any),
            (Place::Conversation, "id") => (Some(Kind::Conversation), Place::Any),
            (Place::Prompt, "id") => (Some(Kind::Prompt), Place::Any),
            (Place::Prompt, "variables") => (None, Place::Variables),
            (Place::Message, "audio") => (None, Place::Audio),
            (Place::Audio, "id") => (Some(Kind::Item), Place::Any),
            (_, name) => (ANYWHERE.into_iter().find(|(known, _)| name == *known).map(|(_, kind)| kind), Place::Any),
        };
        self::value(value, kind, into, whole && name == "id", found)
    })
}

fn value(value: &Value, kind: Option<Kind>, into: Place, whole: bool, found: &mut Vec<Found>) -> bool {
    match (value, kind) {
        (Value::Array(values), _) => values.iter().all(|value| self::value(value, kind, into, whole, found)),
        (Value::Object(inner), _) => object(inner, into, found),
        (Value::String(text), Some(kind)) => {
            let curated = kind == Kind::Skill && text.starts_with("openai-");
            if !text.is_empty() && !curated {
                found.push((kind as u8, Reference::new(kind, text.as_bytes()), whole));
            }
            true
        }
        _ => true,
    }
}
