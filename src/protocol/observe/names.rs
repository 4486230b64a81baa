//! The tables of names: what each name in an answer means, in every provider's dialect.

use super::{
    text::{Part, Voice},
    told::Field,
};

/// An object, by what its names mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Top,
    /// `response` of an event.
    Response,
    /// An item of `output`.
    Item,
    /// A part of an item or a message.
    Content,
    /// What a tool shall do: every string in it is the model's.
    Action,
    Choice,
    /// `message` or `delta` of a choice.
    Message,
    /// A tool call of a message.
    Call,
    Audio,
    ReasoningDetails,
    /// An element of `data` or `results`: a picture, a vector, a verdict.
    Data,
    /// Pictures of a message.
    Image,
    Usage,
    InputDetails,
    OutputDetails,
    CacheCreation,
    /// Tools of the provider that ran (Anthropic, xAI).
    ToolsUsed,
    Cost,
    ToolUsage,
    ImageTool,
    SearchTool,
    /// `x_groq`
    Groq,
    /// Not looked at, however deep.
    Skip,
}

/// A short string that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// What an event is.
    Event,
    /// What an item is.
    Item,
    /// What a search does.
    Action,
    Id,
    Model,
    Tier,
    Finish,
}

/// What is taken of a string or number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Take {
    Nothing,
    Text(Voice),
    /// Output that is no text.
    Other,
    Count(Field),
    Name(Name),
}

/// What a name means.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    pub(super) take: Take,
    /// What an object at this name is, or each in an array there.
    pub(super) into: Place,
    /// Which copy of the text it holds; `None` = that of the object around it.
    pub(super) part: Option<Part>,
}

pub(super) const NOTHING: Rule = Rule { take: Take::Nothing, into: Place::Skip, part: None };

const fn take(take: Take) -> Rule {
    Rule { take, ..NOTHING }
}

const fn count(field: Field) -> Rule {
    take(Take::Count(field))
}

pub(super) const fn into(into: Place) -> Rule {
    Rule { into, ..NOTHING }
}

const fn text(into: Place) -> Rule {
    Rule { take: Take::Text(Voice::Output), into, part: None }
}

const fn of(rule: Rule, part: Part) -> Rule {
    Rule { part: Some(part), ..rule }
}

/// The table of names.
#[rustfmt::skip]
pub(super) fn rule(place: Place, key: &[u8]) -> Rule {
    match place {
        Place::Top => match key {
            b"type" => take(Take::Name(Name::Event)),
            b"delta" => of(text(Place::Skip), Part::Delta),
            b"text" | b"arguments" | b"refusal" | b"input" => of(text(Place::Skip), Part::Done),
            b"item" => of(into(Place::Item), Part::Item),
            b"response" => of(into(Place::Response), Part::Whole),
            b"output" => of(Rule { take: Take::Other, ..into(Place::Item) }, Part::Whole),
            b"choices" => into(Place::Choice),
            b"data" | b"results" => into(Place::Data),
            b"x_groq" => into(Place::Groq),
            b"id" => take(Take::Name(Name::Id)),
            b"model" => take(Take::Name(Name::Model)),
            b"duration" => count(Field::Seconds),
            b"cached_tokens" => count(Field::Cached),
            b"b64_json" | b"partial_image_b64" | b"audio" => take(Take::Other),
            _ => of_response(key),
        },
        Place::Response => match key {
            b"output" => into(Place::Item),
            _ => of_response(key),
        },
        Place::Item => match key {
            b"type" => take(Take::Name(Name::Item)),
            b"content" | b"summary" => text(Place::Content),
            b"text" | b"refusal" | b"code" => text(Place::Skip),
            b"arguments" | b"input" => text(Place::Action),
            b"action" | b"operation" => into(Place::Action),
            b"result" | b"encrypted_content" => take(Take::Other),
            _ => NOTHING,
        },
        Place::Content => match key {
            b"text" | b"refusal" | b"transcript" | b"thinking" | b"content" => text(Place::Content),
            b"data" | b"image_url" | b"url" => take(Take::Other),
            _ => NOTHING,
        },
        Place::Action => match key {
            b"type" => take(Take::Name(Name::Action)),
            _ => text(Place::Action),
        },
        Place::Choice => match key {
            b"delta" => of(into(Place::Message), Part::Delta),
            b"message" => of(into(Place::Message), Part::Whole),
            b"text" => of(text(Place::Skip), Part::Delta),
            b"finish_reason" => take(Take::Name(Name::Finish)),
            b"usage" => into(Place::Usage),
            _ => NOTHING,
        },
        Place::Message => match key {
            b"content" => text(Place::Content),
            b"refusal" => text(Place::Skip),
            b"reasoning_content" => take(Take::Text(Voice::Reasoning)),
            b"reasoning" | b"thinking" => take(Take::Text(Voice::SameReasoning)),
            b"reasoning_details" => into(Place::ReasoningDetails),
            b"tool_calls" | b"function_call" => into(Place::Call),
            b"audio" => into(Place::Audio),
            b"images" => into(Place::Image),
            _ => NOTHING,
        },
        Place::Call => match key {
            b"function" | b"custom" => into(Place::Call),
            b"name" => text(Place::Skip),
            b"arguments" | b"input" => text(Place::Action),
            _ => NOTHING,
        },
        Place::Audio => match key {
            b"data" => take(Take::Other),
            b"transcript" => text(Place::Skip),
            _ => NOTHING,
        },
        Place::ReasoningDetails => match key {
            b"text" | b"summary" => take(Take::Text(Voice::Details)),
            b"data" => take(Take::Other),
            _ => NOTHING,
        },
        Place::Data | Place::Image | Place::Skip => NOTHING,
        _ => of_usage(place, key),
    }
}

/// The same, inside of `usage` and `tool_usage`.
#[rustfmt::skip]
fn of_usage(place: Place, key: &[u8]) -> Rule {
    match place {
        Place::Usage => usage(key),
        Place::InputDetails => match key {
            b"cached_tokens" => count(Field::Cached),
            b"cache_write_tokens" | b"cache_creation_tokens" | b"cached_creation_tokens" => count(Field::Written),
            b"audio_tokens" => count(Field::InputAudio),
            b"image_tokens" => count(Field::InputImage),
            _ => NOTHING,
        },
        Place::OutputDetails => match key {
            b"reasoning_tokens" => count(Field::Reasoning),
            b"audio_tokens" => count(Field::OutputAudio),
            b"image_tokens" => count(Field::OutputImage),
            _ => NOTHING,
        },
        Place::CacheCreation => match key {
            b"ephemeral_5m_input_tokens" => count(Field::Written5m),
            b"ephemeral_1h_input_tokens" => count(Field::Written1h),
            _ => NOTHING,
        },
        Place::ToolsUsed => match key {
            b"web_search_requests" | b"web_search_calls" => count(Field::Searches),
            _ => NOTHING,
        },
        Place::Cost => match key {
            b"total_cost" => count(Field::Cost),
            _ => NOTHING,
        },
        Place::ToolUsage => match key {
            b"image_gen" => into(Place::ImageTool),
            b"web_search" => into(Place::SearchTool),
            _ => NOTHING,
        },
        Place::ImageTool => match key {
            b"input_tokens" => count(Field::ImageToolInput),
            b"output_tokens" => count(Field::ImageToolOutput),
            _ => NOTHING,
        },
        Place::SearchTool => match key {
            b"num_requests" => count(Field::Searches),
            _ => NOTHING,
        },
        Place::Groq => match key {
            b"usage" => into(Place::Usage),
            _ => NOTHING,
        },
        _ => NOTHING,
    }
}

/// Names of a response, in an event or as a whole body.
#[rustfmt::skip]
fn of_response(key: &[u8]) -> Rule {
    match key {
        b"usage" => into(Place::Usage),
        b"tool_usage" => into(Place::ToolUsage),
        b"service_tier" => take(Take::Name(Name::Tier)),
        _ => NOTHING,
    }
}

/// Names of `usage`, by provider: OpenAI's two APIs, Anthropic, `DeepSeek`, Moonshot, Perplexity, xAI, `OpenRouter`, Ace Data, and
/// relays of the new-api family.
#[rustfmt::skip]
fn usage(key: &[u8]) -> Rule {
    match key {
        b"prompt_tokens" => count(Field::Prompt),
        b"input_tokens" => count(Field::Input),
        b"completion_tokens" | b"output_tokens" => count(Field::Output),
        b"total_tokens" => count(Field::Total),
        b"prompt_tokens_details" | b"input_tokens_details" => into(Place::InputDetails),
        b"completion_tokens_details" | b"output_tokens_details" => into(Place::OutputDetails),
        b"reasoning_tokens" => count(Field::Reasoning),
        b"cached_tokens" | b"prompt_cache_hit_tokens" => count(Field::Cached),
        b"prompt_cache_miss_tokens" => count(Field::Missed),
        b"cache_read_input_tokens" => count(Field::Read),
        b"cache_creation_input_tokens" => count(Field::Written),
        b"cache_creation" => into(Place::CacheCreation),
        b"claude_cache_creation_5_m_tokens" => count(Field::Written5m),
        b"claude_cache_creation_1_h_tokens" => count(Field::Written1h),
        b"num_search_queries" => count(Field::Searches),
        b"server_tool_use" | b"server_side_tool_usage_details" => into(Place::ToolsUsed),
        b"cost" => Rule { take: Take::Count(Field::Cost), ..into(Place::Cost) },
        b"cost_in_usd_ticks" => count(Field::CostTicks),
        b"seconds" => count(Field::Seconds),
        b"service_tier" => take(Take::Name(Name::Tier)),
        _ => NOTHING,
    }
}
