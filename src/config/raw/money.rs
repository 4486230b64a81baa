//! `[money]` and `[[prices]]`.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A number as it is written: digits with a point, never a float, as amounts have to be exact.
#[derive(Clone, Deserialize, Serialize)]
#[serde(transparent)]
pub(in crate::config) struct Decimal(pub(in crate::config) String);

impl JsonSchema for Decimal {
    fn schema_name() -> Cow<'static, str> {
        "Decimal".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "number", "minimum": 0 })
    }
}

#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Money {
    /// IANA name of the time zone in which days, weeks and months begin.
    pub(in crate::config) time_zone: String,
    /// Yuan for a dollar; absent = the two are never added up.
    #[schemars(extend("examples" = [7.1]))]
    pub(in crate::config) cny_per_usd: Option<Decimal>,
    /// Models without a price, for keys with a budget.
    pub(in crate::config) unpriced: Unpriced,
    /// Status of the answer to a key whose budget is spent: 429 or 402.
    pub(in crate::config) budget_status: u16,
    /// Parts of a budget at which the log warns, once for each window; absent = 0.8 and 1.
    #[schemars(extend("examples" = [[0.8, 1]]))]
    pub(in crate::config) warn_at: Option<Vec<Decimal>>,
}

#[derive(Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum Unpriced {
    Refuse,
    Allow,
}

impl Default for Money {
    fn default() -> Self {
        Self {
            time_zone: "UTC".into(),
            cny_per_usd: None,
            unpriced: Unpriced::Refuse,
            budget_status: 429,
            warn_at: None,
        }
    }
}

#[derive(Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub(in crate::config) enum Currency {
    Cny,
    Usd,
}

#[derive(Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["upstream", "model", "currency"]))]
pub(in crate::config) struct Price {
    /// Name of the upstream.
    #[schemars(example = &"dmxapi")]
    pub(in crate::config) upstream: Option<String>,
    /// Name of the model there; a trailing `*` matches any rest.
    #[schemars(example = &"gpt-5-mini")]
    pub(in crate::config) model: Option<String>,
    /// First day, in the time zone of `[money]`; absent = it always was so.
    #[schemars(example = &"2026-11-01")]
    pub(in crate::config) from: Option<String>,
    /// Of all the numbers here.
    pub(in crate::config) currency: Option<Currency>,
    /// A million input tokens.
    #[schemars(extend("examples" = [1.75]))]
    pub(in crate::config) input: Option<Decimal>,
    /// A million input tokens from a cache; absent = as `input`.
    #[schemars(extend("examples" = [0.175]))]
    pub(in crate::config) cached_input: Option<Decimal>,
    /// A million output tokens.
    #[schemars(extend("examples" = [14]))]
    pub(in crate::config) output: Option<Decimal>,
    /// A million reasoning tokens; absent = as `output`.
    #[schemars(extend("examples" = [14]))]
    pub(in crate::config) reasoning: Option<Decimal>,
    /// Each request.
    #[schemars(extend("examples" = [0.01]))]
    pub(in crate::config) per_call: Option<Decimal>,
    /// A million input tokens written to a cache for 5 minutes.
    #[schemars(extend("examples" = [2.1875]))]
    pub(in crate::config) cache_write: Option<Decimal>,
    /// A million input tokens written to a cache for 1 hour.
    #[schemars(extend("examples" = [3.5]))]
    pub(in crate::config) cache_write_1h: Option<Decimal>,
    /// A million input tokens of audio.
    #[schemars(extend("examples" = [32]))]
    pub(in crate::config) input_audio: Option<Decimal>,
    /// A million input tokens of images.
    #[schemars(extend("examples" = [8]))]
    pub(in crate::config) input_image: Option<Decimal>,
    /// A million output tokens of audio.
    #[schemars(extend("examples" = [64]))]
    pub(in crate::config) output_audio: Option<Decimal>,
    /// A million output tokens of images.
    #[schemars(extend("examples" = [32]))]
    pub(in crate::config) output_image: Option<Decimal>,
    /// A million input tokens of the image generation tool.
    #[schemars(extend("examples" = [10]))]
    pub(in crate::config) image_tool_input: Option<Decimal>,
    /// A million output tokens of the image generation tool.
    #[schemars(extend("examples" = [40]))]
    pub(in crate::config) image_tool_output: Option<Decimal>,
    /// Each call of the web search tool.
    #[schemars(extend("examples" = [0.07]))]
    pub(in crate::config) per_web_search: Option<Decimal>,
    /// Each second of audio, where audio is billed by time.
    #[schemars(extend("examples" = [0.0007]))]
    pub(in crate::config) per_audio_second: Option<Decimal>,
    /// Tokens of an answer of the service tier `flex` cost so many times as much.
    #[schemars(extend("examples" = [0.5]))]
    pub(in crate::config) flex_factor: Option<Decimal>,
    /// The same for the service tier `priority`.
    #[schemars(extend("examples" = [2]))]
    pub(in crate::config) priority_factor: Option<Decimal>,
    /// The same for batches.
    #[schemars(extend("examples" = [0.5]))]
    pub(in crate::config) batch_factor: Option<Decimal>,
    /// Prices of the whole request where its input is longer.
    #[schemars(extend("examples" = [[{ "above": 272_000, "input": 3.5, "output": 21 }]]))]
    pub(in crate::config) long_input: Vec<LongInput>,
}

#[derive(Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["above", "input", "output"]))]
pub(in crate::config) struct LongInput {
    /// Input tokens: of more than this many.
    #[schemars(example = &272_000, range(min = 1, max = 100_000_000))]
    pub(in crate::config) above: Option<u64>,
    /// A million input tokens.
    #[schemars(extend("examples" = [3.5]))]
    pub(in crate::config) input: Option<Decimal>,
    /// A million input tokens from a cache; absent = as many times `cached_input` as `input` is dearer. So are cache writes,
    /// audio and images.
    #[schemars(extend("examples" = [0.35]))]
    pub(in crate::config) cached_input: Option<Decimal>,
    /// A million output tokens.
    #[schemars(extend("examples" = [21]))]
    pub(in crate::config) output: Option<Decimal>,
    /// A million reasoning tokens; absent = as many times `reasoning` as `output` is dearer. So are audio and images.
    #[schemars(extend("examples" = [21]))]
    pub(in crate::config) reasoning: Option<Decimal>,
}
