//! The three providers: their paths, models, order of keys and shapes of errors.
//!
//! The simulator follows the providers' documentation pages. Behaviour that a page does not describe is marked
//! `assumed:` (as in the original API, which all three claim to be compatible with) or `invented:`.

use super::fault::SimulatedError;
use super::json::Json;

/// One of the three providers that the simulator imitates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Personality {
    /// DMXAPI: named events, and two layouts of the answer.
    Dmxapi,
    /// ModelVerse: `created`, `response.done`, `[DONE]`.
    Modelverse,
    /// Ace Data Cloud: data-only frames with spaces in the JSON, errors of its own.
    Acedata,
}

/// A model that a simulated provider lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Model {
    /// The name in the request.
    pub name: &'static str,
    /// The name in the answer's `model`. A stream of Ace Data Cloud adds `-data`.
    pub answers_as: &'static str,
}

/// The keys of the response object and of its parts, in order.
pub(super) struct Layout {
    pub(super) response: &'static [&'static str],
    pub(super) message: &'static [&'static str],
    pub(super) part: &'static [&'static str],
    pub(super) usage: &'static [&'static str],
    pub(super) reasoning: &'static [&'static str],
    pub(super) text: &'static [&'static str],
    /// `created_at` is written as `1765793453.0`.
    pub(super) float_time: bool,
    /// `reasoning.effort` if the request sets none.
    pub(super) effort: Option<&'static str>,
    pub(super) top_p: f64,
}

const fn model(name: &'static str, answers_as: &'static str) -> Model {
    Model { name, answers_as }
}

/// The page of the pro models shows their names as requested. The page about images shows a dated name. assumed: the
/// other names get the dates of the original API.
const DMXAPI_MODELS: [Model; 6] = [
    model("gpt-5.2-pro", "gpt-5.2-pro"),
    model("gpt-5-pro", "gpt-5-pro"),
    model("gpt-5-mini", "gpt-5-mini-2025-08-07"),
    model("gpt-4.1", "gpt-4.1-2025-04-14"),
    model("gpt-4o", "gpt-4o-2024-08-06"),
    model("o3", "o3-2025-04-16"),
];
/// The page names `gpt-4o` and `o3`. assumed: the others.
const MODELVERSE_MODELS: [Model; 4] =
    [model("gpt-4o", "gpt-4o"), model("o3", "o3"), model("gpt-4.1", "gpt-4.1"), model("gpt-5-mini", "gpt-5-mini")];
/// The page names `gpt-4.1` and mentions some twenty models. assumed: the others.
const ACEDATA_MODELS: [Model; 4] =
    [model("gpt-4.1", "gpt-4.1"), model("gpt-4o", "gpt-4o"), model("o3", "o3"), model("gpt-5-mini", "gpt-5-mini")];

/// invented: any other name from a model family of the original API is accepted and answered under the same name, so
/// that a wildcard route can be tried out. `sim-` is for names that cannot mean anything else.
const FAMILIES: [&str; 7] = ["gpt-", "chatgpt-", "codex-", "o1", "o3", "o4", "sim-"];

impl Personality {
    /// All three providers that the simulator imitates.
    pub const ALL: [Self; 3] = [Self::Dmxapi, Self::Modelverse, Self::Acedata];

    /// Returns the short name of the simulated provider, which can be the name of an upstream.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dmxapi => "dmxapi",
            Self::Modelverse => "modelverse",
            Self::Acedata => "acedata",
        }
    }

    /// Returns the path of the simulated provider that replaces the client's `/v1`, without the host.
    pub const fn base_path(self) -> &'static str {
        match self {
            Self::Dmxapi => "/dmxapi/v1",
            Self::Modelverse => "/modelverse/v1",
            Self::Acedata => "/acedata/openai",
        }
    }

    /// Returns the models that the simulated provider lists.
    pub const fn models(self) -> &'static [Model] {
        match self {
            Self::Dmxapi => &DMXAPI_MODELS,
            Self::Modelverse => &MODELVERSE_MODELS,
            Self::Acedata => &ACEDATA_MODELS,
        }
    }

    /// The provider's full name, for its texts.
    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Dmxapi => "DMXAPI",
            Self::Modelverse => "ModelVerse",
            Self::Acedata => "Ace Data Cloud",
        }
    }

    /// The personality of a path, and the rest of the path after its base.
    pub(super) fn of_path(path: &str) -> Option<(Self, &str)> {
        Self::ALL.into_iter().find_map(|personality| {
            let rest = path.strip_prefix(personality.base_path())?;
            rest.starts_with('/').then_some((personality, rest))
        })
    }

    /// The `model` of the answer to a request for `name`, or nothing if there is no such model.
    pub(super) fn answers_as(self, name: &str, streaming: bool) -> Option<String> {
        let listed = self.models().iter().find(|model| model.name == name).map(|model| model.answers_as);
        let known = listed.or_else(|| FAMILIES.iter().any(|family| name.starts_with(family)).then_some(name))?;
        // The page shows `gpt-4.1-data` in the stream and `gpt-4.1` in the plain answer.
        let deployment = if streaming && self == Self::Acedata { "-data" } else { "" };
        Some(format!("{known}{deployment}"))
    }

    /// Whether JSON has a space after each `:` and `,`. The page shows it for streams. assumed: plain answers too.
    pub(super) const fn spaced(self) -> bool {
        matches!(self, Self::Acedata)
    }

    /// Whether frames have an `event:` line. assumed for ModelVerse, whose page shows no frame.
    pub(super) const fn named_events(self) -> bool {
        !matches!(self, Self::Acedata)
    }

    /// Whether `response.done` and then `data: [DONE]` follow. The page calls `response.done` the end. assumed: it
    /// comes after `response.completed`. invented: `[DONE]`, as many compatible servers send it.
    pub(super) const fn says_done(self) -> bool {
        matches!(self, Self::Modelverse)
    }

    /// The order of keys in answers of the (real) `model`.
    pub(super) fn layout(self, model: &str) -> &'static Layout {
        match self {
            Self::Dmxapi if model.ends_with("-pro") => &DMXAPI_PRO,
            Self::Dmxapi => &DMXAPI,
            Self::Modelverse => &MODELVERSE,
            Self::Acedata => &ACEDATA,
        }
    }

    /// The body of an error. assumed: the shape of the original API for the two that document no errors.
    pub(super) fn error(self, fault: &SimulatedError, trace: &str) -> Json {
        let message = Json::from(fault.message.as_str());
        if self != Self::Acedata {
            let fields = vec![
                ("message", message),
                ("type", fault.kind.into()),
                ("param", fault.param.into()),
                ("code", fault.code.into()),
            ];
            return Json::Object(vec![("error", Json::Object(fields))]);
        }
        // Statuses and codes are the provider's. invented: the shape around them and the trace id, which the page does
        // not show, and the codes of all other statuses, which the page does not name.
        let code = match (fault.status.as_u16(), fault.code) {
            (_, Some(code)) if fault.verbatim => code,
            (400, _) => "token_mismatched",
            (401, _) => "invalid_token",
            (403, _) => "balance",
            (404, _) => "not_found",
            (405, _) => "method_not_allowed",
            (413, _) => "request_too_large",
            (429, _) => "too_many_requests",
            _ => "api_error",
        };
        let fields = vec![("code", code.into()), ("message", message)];
        Json::Object(vec![("error", Json::Object(fields)), ("trace_id", trace.into())])
    }
}

const USAGE: [&str; 5] =
    ["input_tokens", "input_tokens_details", "output_tokens", "output_tokens_details", "total_tokens"];
const MESSAGE: [&str; 5] = ["id", "type", "status", "content", "role"];
const PART: [&str; 4] = ["type", "annotations", "logprobs", "text"];

/// The page of the pro models: float time, `billing`, fields of an SDK's own object.
const DMXAPI_PRO: Layout = Layout {
    #[rustfmt::skip]
    response: &[
        "id", "created_at", "error", "incomplete_details", "instructions", "metadata", "model", "object", "output",
        "parallel_tool_calls", "temperature", "tool_choice", "tools", "top_p", "background", "conversation",
        "max_output_tokens", "max_tool_calls", "previous_response_id", "prompt", "prompt_cache_key",
        "prompt_cache_retention", "reasoning", "safety_identifier", "service_tier", "status", "text", "top_logprobs",
        "truncation", "usage", "user", "billing", "store",
    ],
    message: &["id", "content", "role", "status", "type"],
    part: &["annotations", "text", "type", "logprobs"],
    usage: &USAGE,
    reasoning: &["effort", "generate_summary", "summary"],
    text: &["format", "verbosity"],
    float_time: true,
    effort: Some("high"),
    top_p: 0.98,
};

/// The page about images: `model` and `usage` moved to the front.
const DMXAPI: Layout = Layout {
    #[rustfmt::skip]
    response: &[
        "id", "object", "model", "usage", "created_at", "status", "background", "content_filters", "error",
        "incomplete_details", "instructions", "max_output_tokens", "max_tool_calls", "output", "parallel_tool_calls",
        "previous_response_id", "prompt_cache_key", "reasoning", "safety_identifier", "service_tier", "store",
        "temperature", "text", "tool_choice", "tools", "top_logprobs", "top_p", "truncation", "user", "metadata",
    ],
    message: &MESSAGE,
    part: &PART,
    usage: &["total_tokens", "input_tokens", "input_tokens_details", "output_tokens", "output_tokens_details"],
    reasoning: &["effort", "summary"],
    text: &["format", "verbosity"],
    float_time: false,
    effort: Some("medium"),
    top_p: 1.0,
};

/// The page is simplified: its own fields first, with its `created`. assumed: the rest, in the shapes of the original API.
const MODELVERSE: Layout = Layout {
    #[rustfmt::skip]
    response: &[
        "id", "object", "created", "created_at", "model", "output", "status", "usage", "background", "error",
        "incomplete_details", "instructions", "max_output_tokens", "parallel_tool_calls", "previous_response_id",
        "reasoning", "service_tier", "store", "temperature", "text", "tool_choice", "tools", "top_p", "truncation", "user",
        "metadata",
    ],
    message: &MESSAGE,
    part: &PART,
    usage: &USAGE,
    reasoning: &["effort", "summary"],
    text: &["format"],
    float_time: false,
    effort: None,
    top_p: 1.0,
};

const ACEDATA: Layout = Layout {
    #[rustfmt::skip]
    response: &[
        "id", "object", "created_at", "status", "background", "content_filters", "error", "incomplete_details",
        "instructions", "max_output_tokens", "max_tool_calls", "model", "output", "parallel_tool_calls",
        "previous_response_id", "prompt_cache_key", "reasoning", "safety_identifier", "service_tier", "store",
        "temperature", "text", "tool_choice", "tools", "top_p", "truncation", "usage", "user", "metadata",
    ],
    message: &MESSAGE,
    part: &["type", "annotations", "text"],
    usage: &USAGE,
    reasoning: &["effort", "summary"],
    text: &["format"],
    float_time: false,
    effort: None,
    top_p: 1.0,
};
