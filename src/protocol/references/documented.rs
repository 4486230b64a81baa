//! The table of the documented places, by endpoint, at which a request refers to objects that a provider stores.
//!
//! There are two rules. *At its documented place* (the exact path, by endpoint) a name gives the kind of object that its string
//! refers to:
//!
//! | endpoint | path | kind |
//! | --- | --- | --- |
//! | responses | `previous_response_id`, its `id` | response |
//! | | `prompt_cache_options.comparison_response_id` | response |
//! | | `conversation`, its `id` | conversation |
//! | | `prompt.id` | prompt |
//! | | `prompt.variables.*.file_id` | file |
//! | | `input[].id` (see the module `whole`) | item |
//! | | `input[].encrypted_content`, and anywhere in an item except in its `output`, `arguments` and `input` | encrypted |
//! | | `input[].content[].file_id` | file |
//! | | `input[].output[].file_id` of an `input_file` or `input_image` | file |
//! | | `input[].output.file_id` of a `computer_call_output` | file |
//! | | `tools[].vector_store_ids` | vector store |
//! | | `tools[].container` as a string, `tools[].environment.container_id` | container |
//! | | `tools[].container.file_ids`, `tools[].environment.file_ids`, `tools[].input_image_mask.file_id` | file |
//! | | `skill_id` in the `skills` of a tool's `container` or `environment`; not `openai-…`, which every account has | skill |
//! | | the same in `tools[].tools[]` and `input[].tools[]` | |
//! | conversations | `items[]`, as `input[]` above | |
//! | chat | `messages[].audio.id` | item |
//! | | `messages[].content[].file.file_id` | file |
//!
//! *Anywhere else* clients choose the names, so that no request is refused because of a name. There the upstream may look up a
//! string ([`ReferenceUse::Perhaps`](super::whole::ReferenceUse::Perhaps)) in three cases: the string looks like the id of a
//! stored object ([`kind_of`](super::ids::kind_of)); its name is in the table, in any letter case; or it is the `id` of an object
//! at such a name. This covers `extra_body`, which relays merge into the request, and places that no table knows. Keys of objects
//! count as well.
//!
//! Text does not count: strings at `content`, `text`, `arguments`, `output`, `instructions`, and at `input` and `prompt` where
//! these are text. An item's own `name` does not count, nor its `call_id`, which names a call of the same conversation. `type`
//! and `call_id` elsewhere count if they are certainly an id. The `output`, `arguments` and `input` of a client's function are
//! the client's own data: no name in them is acted on.
//!
//! An id at a documented place also counts by its value, if the value indicates another kind than the place.
//!
//! A prompt is made in its provider's console, so that Tidegate never learns its id. `prompt.id` is sent to the provider for
//! every setting of `unknown_ids`, and does not pin the request to an account.
//!
//! White space around a string is ignored. In an array each string counts. The provider judges `null`, numbers and empty strings.
//!
//! Tidegate refuses a request that two parsers might read in two ways at a documented place. This concerns the names of the table
//! and the names on the way to them. Such a name must not occur twice in its object or in another letter case, even if it is
//! escaped. A key beside it must be valid text.

use super::{
    grammar::{Grammar, ObjectKind, Rule, StringRule, TOP, at},
    whole::{
        ACTION, APPROVAL, ARGUMENTS, CALL, CODE, CONTENT, ENCRYPTED, FOUND, INPUT, LABEL, NAME, OPERATION, OUTPUT,
        RESULT, ROLE, SERVER, STATUS, TOOLS,
    },
};
use crate::domain::{
    endpoint::{Endpoint, Surface},
    origin::ReferenceKind,
};

/// An object in which names have no meaning.
const ANY: ObjectKind = 1;
/// An item of `input` or `items`.
pub(super) const ITEM: ObjectKind = 2;
/// An object inside of an item.
const INNER: ObjectKind = 3;
/// A part of `content` or `output`.
const PART: ObjectKind = 4;
const TOOL: ObjectKind = 5;
const CONTAINER: ObjectKind = 6;
const ENVIRONMENT: ObjectKind = 7;
const SKILL: ObjectKind = 8;
/// An object that only has a `file_id`.
const FILE: ObjectKind = 9;
const PREVIOUS: ObjectKind = 10;
const CONVERSATION: ObjectKind = 11;
const PROMPT: ObjectKind = 12;
/// An object whose names the client chooses.
const VARIABLES: ObjectKind = 13;
const CACHE: ObjectKind = 14;
/// The output of a call, or one of its parts.
pub(super) const OUT: ObjectKind = 15;
/// A message of `messages` in a chat.
const MESSAGE: ObjectKind = 10;
const AUDIO: ObjectKind = 11;
const CHAT_PART: ObjectKind = 12;

/// The set of all places.
const EVERYWHERE: u16 = u16::MAX;

/// Adds the rules for undocumented places: text, and names of references, of which only the values count.
macro_rules! and_elsewhere {
    ($($rule:expr),* $(,)?) => {
        &[
            $($rule,)*
            Rule::id(EVERYWHERE, "previous_response_id", ReferenceKind::Response).in_any_case(),
            Rule::id(EVERYWHERE, "response_id", ReferenceKind::Response).in_any_case(),
            Rule::id(EVERYWHERE, "conversation", ReferenceKind::Conversation).in_any_case(),
            Rule::id(EVERYWHERE, "conversation_id", ReferenceKind::Conversation).in_any_case(),
            Rule::id(EVERYWHERE, "file_id", ReferenceKind::File).in_any_case(),
            Rule::id(EVERYWHERE, "file_ids", ReferenceKind::File).in_any_case(),
            Rule::id(EVERYWHERE, "vector_store_ids", ReferenceKind::VectorStore).in_any_case(),
            Rule::id(EVERYWHERE, "container", ReferenceKind::Container).in_any_case(),
            Rule::id(EVERYWHERE, "container_id", ReferenceKind::Container).in_any_case(),
            Rule::id(EVERYWHERE, "skill_id", ReferenceKind::Skill).in_any_case(),
            Rule::text(EVERYWHERE, "text"),
            Rule::label(EVERYWHERE, "type"),
            Rule::text(EVERYWHERE, "output"),
            Rule::text(EVERYWHERE, "content"),
            Rule::label(EVERYWHERE, "call_id"),
            Rule::text(EVERYWHERE, "arguments"),
            Rule::text(EVERYWHERE, "instructions"),
        ]
    };
}

/// Adds the rules of items and tools.
macro_rules! and_items {
    ($($rule:expr),* $(,)?) => {
        and_elsewhere![
            $($rule,)*
            Rule::id(at(ITEM), "id", ReferenceKind::Item).member(LABEL),
            Rule::take(at(ITEM), "type", StringRule::Type).member(LABEL),
            Rule::once(at(ITEM), "role").member(ROLE).tolerant(),
            Rule::once(at(ITEM), "status").member(STATUS).tolerant(),
            Rule::text_or_into(at(ITEM), "content", PART).member(CONTENT),
            Rule::text_or_into(at(ITEM), "output", OUT).member(OUTPUT),
            Rule::text_or_into(at(ITEM), "arguments", ANY).member(ARGUMENTS),
            Rule::text_or_into(at(ITEM), "input", ANY).member(INPUT),
            Rule::take(at(ITEM), "call_id", StringRule::Call).member(CALL),
            Rule::into(at(ITEM), "tools", TOOL).member(TOOLS),
            Rule::text_or_into(at(ITEM), "name", INNER).member(NAME).tolerant(),
            Rule::once(at(ITEM), "action").member(ACTION).tolerant(),
            Rule::once(at(ITEM), "actions").member(ACTION).tolerant(),
            Rule::once(at(ITEM), "operation").member(OPERATION).tolerant(),
            Rule::once(at(ITEM), "queries").member(FOUND).tolerant(),
            Rule::once(at(ITEM), "results").member(FOUND).tolerant(),
            Rule::once(at(ITEM), "code").member(CODE).tolerant(),
            Rule::once(at(ITEM), "outputs").member(CODE).tolerant(),
            Rule::once(at(ITEM), "result").member(RESULT).tolerant(),
            Rule::once(at(ITEM), "server_label").member(SERVER).tolerant(),
            Rule::once(at(ITEM), "approval_request_id").member(APPROVAL).tolerant(),
            Rule::take(at(ITEM), "encrypted_content", StringRule::Encrypted).member(ENCRYPTED),
            Rule::take(at(PART) | at(INNER), "encrypted_content", StringRule::Encrypted).tolerant(),
            Rule::id(at(PART) | at(FILE), "file_id", ReferenceKind::File),
            Rule::id(at(TOOL), "vector_store_ids", ReferenceKind::VectorStore),
            Rule::id_or_into(at(TOOL), "container", ReferenceKind::Container, CONTAINER),
            Rule::into(at(TOOL), "environment", ENVIRONMENT),
            Rule::into(at(TOOL), "input_image_mask", FILE),
            Rule::into(at(TOOL), "tools", TOOL),
            Rule::id(at(CONTAINER) | at(ENVIRONMENT), "file_ids", ReferenceKind::File),
            Rule::id(at(ENVIRONMENT), "container_id", ReferenceKind::Container),
            Rule::into(at(CONTAINER) | at(ENVIRONMENT), "skills", SKILL),
            Rule::id(at(SKILL), "skill_id", ReferenceKind::Skill),
        ]
    };
}

/// By place: the kind of objects at names without a rule.
const ELSEWHERE: [ObjectKind; 16] =
    [ANY, ANY, INNER, INNER, INNER, ANY, ANY, ANY, ANY, ANY, ANY, ANY, ANY, FILE, ANY, ANY];

static RESPONSES: Grammar = Grammar::new(
    and_items![
        Rule::id_or_into(at(TOP), "previous_response_id", ReferenceKind::Response, PREVIOUS),
        Rule::id(at(PREVIOUS), "id", ReferenceKind::Response),
        Rule::id_or_into(at(TOP), "conversation", ReferenceKind::Conversation, CONVERSATION),
        Rule::id(at(CONVERSATION), "id", ReferenceKind::Conversation),
        Rule::text_or_into(at(TOP), "input", ITEM),
        Rule::into(at(TOP), "tools", TOOL),
        Rule::text_or_into(at(TOP), "prompt", PROMPT),
        Rule::id(at(PROMPT), "id", ReferenceKind::Prompt),
        Rule::into(at(PROMPT), "variables", VARIABLES),
        Rule::into(at(TOP), "prompt_cache_options", CACHE),
        Rule::id(at(CACHE), "comparison_response_id", ReferenceKind::Response),
    ],
    &ELSEWHERE,
    true,
);

static CONVERSATIONS: Grammar = Grammar::new(
    and_items![Rule::into(at(TOP), "items", ITEM), Rule::text(at(TOP), "input"), Rule::text(at(TOP), "prompt"),],
    &ELSEWHERE,
    true,
);

static CHAT: Grammar = Grammar::new(
    and_elsewhere![
        Rule::into(at(TOP), "messages", MESSAGE),
        Rule::into(at(MESSAGE), "audio", AUDIO),
        Rule::id(at(AUDIO), "id", ReferenceKind::Item),
        Rule::text_or_into(at(MESSAGE), "content", CHAT_PART),
        Rule::into(at(CHAT_PART), "file", FILE),
        Rule::id(at(FILE), "file_id", ReferenceKind::File),
        Rule::text(at(TOP), "input"),
        Rule::text(at(TOP), "prompt"),
    ],
    &[ANY; 13],
    true,
);

/// The grammar of endpoints without documented references.
static OTHERS: Grammar =
    Grammar::new(and_elsewhere![Rule::text(at(TOP), "input"), Rule::text(at(TOP), "prompt")], &[ANY; 2], true);

/// Returns the grammar of the body of a request.
pub(super) fn grammar(endpoint: Endpoint) -> &'static Grammar {
    match endpoint.surface() {
        Surface::Responses => &RESPONSES,
        Surface::Conversations => &CONVERSATIONS,
        Surface::Chat => &CHAT,
        Surface::Completions | Surface::Embeddings | Surface::Moderations | Surface::Images | Surface::Audio => &OTHERS,
    }
}
