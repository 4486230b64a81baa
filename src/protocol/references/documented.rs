//! Where a request refers to what a provider stored: the table of documented places, by endpoint.
//!
//! Two rules. *At its documented place* (the exact path, by endpoint) a name says what its string refers to:
//!
//! | endpoint | path | kind |
//! | --- | --- | --- |
//! | responses | `previous_response_id`, its `id` | response |
//! | | `prompt_cache_options.comparison_response_id` | response |
//! | | `conversation`, its `id` | conversation |
//! | | `prompt.id` | prompt |
//! | | `prompt.variables.*.file_id` | file |
//! | | `input[].id` (see the module `whole`) | item |
//! | | `input[].encrypted_content`, and anywhere in an item | encrypted |
//! | | `input[].content[].file_id`, `input[].output[].file_id`, `input[].output.file_id` | file |
//! | | `tools[].vector_store_ids` | vector store |
//! | | `tools[].container` as a string, `tools[].environment.container_id` | container |
//! | | `tools[].container.file_ids`, `tools[].environment.file_ids`, `tools[].input_image_mask.file_id` | file |
//! | | `skill_id` of `skills` of the last two; not `openai-…`, which every account has | skill |
//! | | the same in `tools[].tools[]` and `input[].tools[]` | |
//! | conversations | `items[]`, as `input[]` above | |
//! | chat | `messages[].audio.id` | item |
//! | | `messages[].content[].file.file_id` | file |
//!
//! *Anywhere else* callers choose names, so that nothing is refused for a name. A string counts by its value, as something that may be
//! looked up (`Use::Perhaps`): if it looks like the id of a stored object ([`kind_of`](super::ids::kind_of)), or stands at a name of the
//! table. So `extra_body`, which relays lay over the request, and places that no table knows are covered. Text is left out: strings at
//! `content`, `text`, `arguments`, `output`, `instructions`, and at `input` and `prompt` where these are text. So are `type`, an item's
//! own `name`, and `call_id`, which names a call of the same conversation.
//!
//! A string counts, and each string in an array: `null`, numbers and empty strings are for the provider to judge.
//!
//! What two parsers might read in two ways is refused, at its documented place: a name of the table, or one on the way to it, that
//! stands twice in its object, or in other letters than these, also by escapes; and a key beside it that is no text.

use super::{
    grammar::{Grammar, ObjectKind, Rule, StringRule, TOP, at},
    whole::{
        ACTION, APPROVAL, ARGUMENTS, CALL, CODE, CONTENT, ENCRYPTED, FOUND, INPUT, LABEL, NAME, OPERATION, OUTPUT,
        RESULT, ROLE, SERVER, STATUS, TOOLS,
    },
};
use crate::domain::{
    endpoint::{Endpoint, Surface},
    origin::Kind,
};

/// An object in which no name means anything.
const ANY: ObjectKind = 1;
/// An item of `input` or `items`.
pub(super) const ITEM: ObjectKind = 2;
/// Something in an item.
const INNER: ObjectKind = 3;
/// One of the parts of `content` or `output`.
const PART: ObjectKind = 4;
const TOOL: ObjectKind = 5;
const CONTAINER: ObjectKind = 6;
const ENVIRONMENT: ObjectKind = 7;
const SKILL: ObjectKind = 8;
/// What holds nothing but a `file_id`.
const FILE: ObjectKind = 9;
const PREVIOUS: ObjectKind = 10;
const CONVERSATION: ObjectKind = 11;
const PROMPT: ObjectKind = 12;
/// Names are the caller's own.
const VARIABLES: ObjectKind = 13;
const CACHE: ObjectKind = 14;
/// One of `messages` of a chat.
const MESSAGE: ObjectKind = 10;
const AUDIO: ObjectKind = 11;
const CHAT_PART: ObjectKind = 12;

/// A set of all places.
const EVERYWHERE: u16 = u16::MAX;

/// Rules, and behind them those for places that are not documented: text, and names of references, of which only the values count.
macro_rules! and_elsewhere {
    ($($rule:expr),* $(,)?) => {
        &[
            $($rule,)*
            Rule::id(EVERYWHERE, "previous_response_id", Kind::Response).tolerant(),
            Rule::id(EVERYWHERE, "response_id", Kind::Response).tolerant(),
            Rule::id(EVERYWHERE, "conversation", Kind::Conversation).tolerant(),
            Rule::id(EVERYWHERE, "conversation_id", Kind::Conversation).tolerant(),
            Rule::id(EVERYWHERE, "file_id", Kind::File).tolerant(),
            Rule::id(EVERYWHERE, "file_ids", Kind::File).tolerant(),
            Rule::id(EVERYWHERE, "vector_store_ids", Kind::VectorStore).tolerant(),
            Rule::id(EVERYWHERE, "container", Kind::Container).tolerant(),
            Rule::id(EVERYWHERE, "container_id", Kind::Container).tolerant(),
            Rule::id(EVERYWHERE, "skill_id", Kind::Skill).tolerant(),
            Rule::text(EVERYWHERE, "text"),
            Rule::text(EVERYWHERE, "type"),
            Rule::text(EVERYWHERE, "output"),
            Rule::text(EVERYWHERE, "content"),
            Rule::text(EVERYWHERE, "call_id"),
            Rule::text(EVERYWHERE, "arguments"),
            Rule::text(EVERYWHERE, "instructions"),
        ]
    };
}

/// Rules, and behind them those of items and tools.
macro_rules! and_items {
    ($($rule:expr),* $(,)?) => {
        and_elsewhere![
            $($rule,)*
            Rule::id(at(ITEM), "id", Kind::Item).member(LABEL),
            Rule::take(at(ITEM), "type", StringRule::Type).member(LABEL),
            Rule::once(at(ITEM), "role").member(ROLE).tolerant(),
            Rule::once(at(ITEM), "status").member(STATUS).tolerant(),
            Rule::text_or_into(at(ITEM), "content", PART).member(CONTENT),
            Rule::text_or_into(at(ITEM), "output", PART).member(OUTPUT),
            Rule::text_or_into(at(ITEM), "arguments", INNER).member(ARGUMENTS),
            Rule::text_or_into(at(ITEM), "input", INNER).member(INPUT),
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
            Rule::id(at(PART) | at(FILE), "file_id", Kind::File),
            Rule::id(at(TOOL), "vector_store_ids", Kind::VectorStore),
            Rule::id_or_into(at(TOOL), "container", Kind::Container, CONTAINER),
            Rule::into(at(TOOL), "environment", ENVIRONMENT),
            Rule::into(at(TOOL), "input_image_mask", FILE),
            Rule::into(at(TOOL), "tools", TOOL),
            Rule::id(at(CONTAINER) | at(ENVIRONMENT), "file_ids", Kind::File),
            Rule::id(at(ENVIRONMENT), "container_id", Kind::Container),
            Rule::into(at(CONTAINER) | at(ENVIRONMENT), "skills", SKILL),
            Rule::id(at(SKILL), "skill_id", Kind::Skill),
        ]
    };
}

/// By place: what objects at names without a rule are.
const ELSEWHERE: [ObjectKind; 15] = [ANY, ANY, INNER, INNER, INNER, ANY, ANY, ANY, ANY, ANY, ANY, ANY, ANY, FILE, ANY];

static RESPONSES: Grammar = Grammar::new(
    and_items![
        Rule::id_or_into(at(TOP), "previous_response_id", Kind::Response, PREVIOUS),
        Rule::id(at(PREVIOUS), "id", Kind::Response),
        Rule::id_or_into(at(TOP), "conversation", Kind::Conversation, CONVERSATION),
        Rule::id(at(CONVERSATION), "id", Kind::Conversation),
        Rule::text_or_into(at(TOP), "input", ITEM),
        Rule::into(at(TOP), "tools", TOOL),
        Rule::text_or_into(at(TOP), "prompt", PROMPT),
        Rule::id(at(PROMPT), "id", Kind::Prompt),
        Rule::into(at(PROMPT), "variables", VARIABLES),
        Rule::into(at(TOP), "prompt_cache_options", CACHE),
        Rule::id(at(CACHE), "comparison_response_id", Kind::Response),
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
        Rule::id(at(AUDIO), "id", Kind::Item),
        Rule::text_or_into(at(MESSAGE), "content", CHAT_PART),
        Rule::into(at(CHAT_PART), "file", FILE),
        Rule::id(at(FILE), "file_id", Kind::File),
        Rule::text(at(TOP), "input"),
        Rule::text(at(TOP), "prompt"),
    ],
    &[ANY; 13],
    true,
);

/// Endpoints that refer to nothing by a documented name.
static OTHERS: Grammar =
    Grammar::new(and_elsewhere![Rule::text(at(TOP), "input"), Rule::text(at(TOP), "prompt")], &[ANY; 2], true);

/// The grammar of the body of a request.
pub(super) fn grammar(endpoint: Endpoint) -> &'static Grammar {
    match endpoint.surface() {
        Surface::Responses => &RESPONSES,
        Surface::Conversations => &CONVERSATIONS,
        Surface::Chat => &CHAT,
        Surface::Completions | Surface::Embeddings | Surface::Moderations | Surface::Images | Surface::Audio => &OTHERS,
    }
}
