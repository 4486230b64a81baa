//! The tables of names: the meaning of each name in an answer, in the dialect of every provider.

use super::{
    reported_usage::UsageField,
    text::{TextChannel, TextCopyKind},
};

/// A kind of object, which decides the meaning of the names in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AnswerObject {
    Top,
    /// `response` of an event.
    Response,
    /// An item of `output`.
    Item,
    /// A part of an item or a message.
    Content,
    /// The input of a tool call. The model wrote every string in it.
    Action,
    Choice,
    /// `message` or `delta` of a choice.
    Message,
    /// A tool call of a message.
    Call,
    Audio,
    ReasoningDetails,
    /// An element of `data` or `results`: an image, an embedding, a moderation result.
    Data,
    /// The images of a message.
    Image,
    Usage,
    InputDetails,
    OutputDetails,
    CacheCreation,
    /// The provider's own tools that ran (Anthropic, xAI).
    ToolsUsed,
    Cost,
    ToolUsage,
    ImageTool,
    SearchTool,
    /// `x_groq`
    Groq,
    /// Ignored, with all that is in it.
    Skip,
}

/// A short string that the reader keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ObservedName {
    /// The type of an event.
    Event,
    /// The type of an item.
    Item,
    /// The type of a search action.
    Action,
    Id,
    Model,
    Tier,
    Finish,
}

/// The use of a string or number at a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ValueRule {
    Nothing,
    Text(TextChannel),
    /// Output that is not text.
    Other,
    /// Encrypted reasoning.
    Sealed,
    Count(UsageField),
    Name(ObservedName),
}

/// The meaning of a name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    pub(super) take: ValueRule,
    /// The kind of an object at this name, or of each object in an array at this name.
    pub(super) into: AnswerObject,
    /// The kind of copy of the text. `None`: the same as in the object around it.
    pub(super) part: Option<TextCopyKind>,
}

pub(super) const NOTHING: Rule = Rule { take: ValueRule::Nothing, into: AnswerObject::Skip, part: None };

const fn take(take: ValueRule) -> Rule {
    Rule { take, ..NOTHING }
}

const fn count(field: UsageField) -> Rule {
    take(ValueRule::Count(field))
}

pub(super) const fn into(into: AnswerObject) -> Rule {
    Rule { into, ..NOTHING }
}

const fn text(into: AnswerObject) -> Rule {
    Rule { take: ValueRule::Text(TextChannel::Output), into, part: None }
}

const fn of(rule: Rule, part: TextCopyKind) -> Rule {
    Rule { part: Some(part), ..rule }
}

/// Returns the meaning of a name in this kind of object.
#[rustfmt::skip]
pub(super) fn rule(place: AnswerObject, key: &[u8]) -> Rule {
    match place {
        AnswerObject::Top => match key {
            b"type" => take(ValueRule::Name(ObservedName::Event)),
            b"delta" => of(text(AnswerObject::Skip), TextCopyKind::Delta),
            b"text" | b"arguments" | b"refusal" | b"input" => of(text(AnswerObject::Skip), TextCopyKind::Done),
            b"item" => of(into(AnswerObject::Item), TextCopyKind::Item),
            b"response" => of(into(AnswerObject::Response), TextCopyKind::Whole),
            b"output" => of(Rule { take: ValueRule::Other, ..into(AnswerObject::Item) }, TextCopyKind::Whole),
            b"choices" => into(AnswerObject::Choice),
            b"data" | b"results" => into(AnswerObject::Data),
            b"x_groq" => into(AnswerObject::Groq),
            b"id" => take(ValueRule::Name(ObservedName::Id)),
            b"model" => take(ValueRule::Name(ObservedName::Model)),
            b"duration" => count(UsageField::Seconds),
            b"cached_tokens" => count(UsageField::Cached),
            b"b64_json" | b"partial_image_b64" | b"audio" => take(ValueRule::Other),
            _ => of_response(key),
        },
        AnswerObject::Response => match key {
            b"output" => into(AnswerObject::Item),
            _ => of_response(key),
        },
        AnswerObject::Item => match key {
            b"type" => take(ValueRule::Name(ObservedName::Item)),
            b"content" | b"summary" => text(AnswerObject::Content),
            b"text" | b"refusal" | b"code" => text(AnswerObject::Skip),
            b"arguments" | b"input" => text(AnswerObject::Action),
            b"action" | b"operation" => into(AnswerObject::Action),
            b"result" => take(ValueRule::Other),
            b"encrypted_content" => take(ValueRule::Sealed),
            _ => NOTHING,
        },
        AnswerObject::Content => match key {
            b"text" | b"refusal" | b"transcript" | b"thinking" | b"content" => text(AnswerObject::Content),
            b"data" | b"image_url" | b"url" => take(ValueRule::Other),
            _ => NOTHING,
        },
        AnswerObject::Action => match key {
            b"type" => take(ValueRule::Name(ObservedName::Action)),
            _ => text(AnswerObject::Action),
        },
        AnswerObject::Choice => match key {
            b"delta" => of(into(AnswerObject::Message), TextCopyKind::Delta),
            b"message" => of(into(AnswerObject::Message), TextCopyKind::Whole),
            b"text" => of(text(AnswerObject::Skip), TextCopyKind::Delta),
            b"finish_reason" => take(ValueRule::Name(ObservedName::Finish)),
            b"usage" => into(AnswerObject::Usage),
            _ => NOTHING,
        },
        AnswerObject::Message => match key {
            b"content" => text(AnswerObject::Content),
            b"refusal" => text(AnswerObject::Skip),
            b"reasoning_content" => take(ValueRule::Text(TextChannel::Reasoning)),
            b"reasoning" | b"thinking" => take(ValueRule::Text(TextChannel::SameReasoning)),
            b"reasoning_details" => into(AnswerObject::ReasoningDetails),
            b"tool_calls" | b"function_call" => into(AnswerObject::Call),
            b"audio" => into(AnswerObject::Audio),
            b"images" => into(AnswerObject::Image),
            _ => NOTHING,
        },
        AnswerObject::Call => match key {
            b"function" | b"custom" => into(AnswerObject::Call),
            b"name" => text(AnswerObject::Skip),
            b"arguments" | b"input" => text(AnswerObject::Action),
            _ => NOTHING,
        },
        AnswerObject::Audio => match key {
            b"data" => take(ValueRule::Other),
            b"transcript" => text(AnswerObject::Skip),
            _ => NOTHING,
        },
        AnswerObject::ReasoningDetails => match key {
            b"text" | b"summary" => take(ValueRule::Text(TextChannel::Details)),
            b"data" => take(ValueRule::Sealed),
            _ => NOTHING,
        },
        AnswerObject::Data | AnswerObject::Image | AnswerObject::Skip => NOTHING,
        _ => of_usage(place, key),
    }
}

/// Returns the meaning of a name inside of `usage` and `tool_usage`.
#[rustfmt::skip]
fn of_usage(place: AnswerObject, key: &[u8]) -> Rule {
    match place {
        AnswerObject::Usage => usage(key),
        AnswerObject::InputDetails => match key {
            b"cached_tokens" => count(UsageField::Cached),
            b"cache_write_tokens" | b"cache_creation_tokens" | b"cached_creation_tokens" => count(UsageField::Written),
            b"audio_tokens" => count(UsageField::InputAudio),
            b"image_tokens" => count(UsageField::InputImage),
            _ => NOTHING,
        },
        AnswerObject::OutputDetails => match key {
            b"reasoning_tokens" => count(UsageField::Reasoning),
            b"audio_tokens" => count(UsageField::OutputAudio),
            b"image_tokens" => count(UsageField::OutputImage),
            _ => NOTHING,
        },
        AnswerObject::CacheCreation => match key {
            b"ephemeral_5m_input_tokens" => count(UsageField::Written5m),
            b"ephemeral_1h_input_tokens" => count(UsageField::Written1h),
            _ => NOTHING,
        },
        AnswerObject::ToolsUsed => match key {
            b"web_search_requests" | b"web_search_calls" => count(UsageField::Searches),
            _ => NOTHING,
        },
        AnswerObject::Cost => match key {
            b"total_cost" => count(UsageField::Cost),
            _ => NOTHING,
        },
        AnswerObject::ToolUsage => match key {
            b"image_gen" => into(AnswerObject::ImageTool),
            b"web_search" => into(AnswerObject::SearchTool),
            _ => NOTHING,
        },
        AnswerObject::ImageTool => match key {
            b"input_tokens" => count(UsageField::ImageToolInput),
            b"output_tokens" => count(UsageField::ImageToolOutput),
            _ => NOTHING,
        },
        AnswerObject::SearchTool => match key {
            b"num_requests" => count(UsageField::Searches),
            _ => NOTHING,
        },
        AnswerObject::Groq => match key {
            b"usage" => into(AnswerObject::Usage),
            _ => NOTHING,
        },
        _ => NOTHING,
    }
}

/// Returns the meaning of a name of a response, in an event or in a whole body.
#[rustfmt::skip]
fn of_response(key: &[u8]) -> Rule {
    match key {
        b"usage" => into(AnswerObject::Usage),
        b"tool_usage" => into(AnswerObject::ToolUsage),
        b"service_tier" => take(ValueRule::Name(ObservedName::Tier)),
        _ => NOTHING,
    }
}

/// Returns the meaning of a name of `usage`. The names come from OpenAI's two APIs, Anthropic, `DeepSeek`, Moonshot, Perplexity,
/// xAI, `OpenRouter`, Ace Data, and relays of the new-api family.
#[rustfmt::skip]
fn usage(key: &[u8]) -> Rule {
    match key {
        b"prompt_tokens" => count(UsageField::Prompt),
        b"input_tokens" => count(UsageField::Input),
        b"completion_tokens" | b"output_tokens" => count(UsageField::Output),
        b"total_tokens" => count(UsageField::Total),
        b"prompt_tokens_details" | b"input_tokens_details" => into(AnswerObject::InputDetails),
        b"completion_tokens_details" | b"output_tokens_details" => into(AnswerObject::OutputDetails),
        b"reasoning_tokens" => count(UsageField::Reasoning),
        b"cached_tokens" | b"prompt_cache_hit_tokens" => count(UsageField::Cached),
        b"prompt_cache_miss_tokens" => count(UsageField::Missed),
        b"cache_read_input_tokens" => count(UsageField::Read),
        b"cache_creation_input_tokens" => count(UsageField::Written),
        b"cache_creation" => into(AnswerObject::CacheCreation),
        b"claude_cache_creation_5_m_tokens" => count(UsageField::Written5m),
        b"claude_cache_creation_1_h_tokens" => count(UsageField::Written1h),
        b"num_search_queries" => count(UsageField::Searches),
        b"server_tool_use" | b"server_side_tool_usage_details" => into(AnswerObject::ToolsUsed),
        b"cost" => Rule { take: ValueRule::Count(UsageField::Cost), ..into(AnswerObject::Cost) },
        b"cost_in_usd_ticks" => count(UsageField::CostTicks),
        b"seconds" => count(UsageField::Seconds),
        b"service_tier" => take(ValueRule::Name(ObservedName::Tier)),
        _ => NOTHING,
    }
}
