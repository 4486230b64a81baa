//! `[money]` and `[[prices]]`.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A decimal number as written in the configuration file: digits with a point, never a float, because amounts have to be exact.
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

/// The table `[money]` as written in the configuration file: how prices and budgets are counted.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Money {
    /// Time zone in which days, weeks and months begin, such as `Asia/Shanghai`.
    pub(in crate::config) time_zone: String,
    /// CNY for one USD. Needed if a budget and a price have different currencies.
    #[schemars(extend("examples" = [7.1]))]
    pub(in crate::config) cny_per_usd: Option<Decimal>,
    /// A model without a price, asked for by a key with a budget: `refuse` = 400 `unpriced_model`, `allow` = served
    /// and not counted.
    pub(in crate::config) unpriced: Unpriced,
    /// Status of the answer when a budget is spent.
    #[schemars(extend("enum" = [429, 402]))]
    pub(in crate::config) budget_status: u16,
    /// Fractions of a budget at which the log has a warning. Absent: 0.8 and 1. `[]` = never.
    #[schemars(extend("examples" = [[0.8, 1]]))]
    pub(in crate::config) warn_at: Option<Vec<Decimal>>,
}

/// `unpriced` as written in the configuration file: what happens to a key with a budget that asks for a model without a price.
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

/// A currency as written in the configuration file: `CNY` or `USD`.
#[derive(Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub(in crate::config) enum Currency {
    Cny,
    Usd,
}

/// One `[[prices]]` block as written in the configuration file: what an upstream bills for a model.
#[derive(Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["upstream", "model", "currency"]))]
pub(in crate::config) struct Price {
    /// Name of the upstream.
    #[schemars(example = &"dmxapi")]
    pub(in crate::config) upstream: Option<String>,
    /// Name of the model there. A trailing `*` matches any rest.
    #[schemars(example = &"gpt-5-mini")]
    pub(in crate::config) model: Option<String>,
    /// First day of the price, in `[money] time_zone`. Absent: always.
    #[schemars(example = &"2026-11-01")]
    pub(in crate::config) from: Option<String>,
    /// Currency of all numbers in the block.
    pub(in crate::config) currency: Option<Currency>,
    /// A million input tokens.
    #[schemars(extend("examples" = [1.75]))]
    pub(in crate::config) input: Option<Decimal>,
    /// A million cached input tokens. Absent: as `input`.
    #[schemars(extend("examples" = [0.175]))]
    pub(in crate::config) cached_input: Option<Decimal>,
    /// A million output tokens.
    #[schemars(extend("examples" = [14]))]
    pub(in crate::config) output: Option<Decimal>,
    /// A million reasoning tokens. Absent: as `output`.
    #[schemars(extend("examples" = [14]))]
    pub(in crate::config) reasoning: Option<Decimal>,
    /// Each request.
    #[schemars(extend("examples" = [0.01]))]
    pub(in crate::config) per_call: Option<Decimal>,
    /// A million tokens written to a prompt cache for 5 minutes.
    #[schemars(extend("examples" = [2.1875]))]
    pub(in crate::config) cache_write: Option<Decimal>,
    /// A million tokens written to a prompt cache for 1 hour.
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
    /// Each second of audio that is billed by time.
    #[schemars(extend("examples" = [0.0007]))]
    pub(in crate::config) per_audio_second: Option<Decimal>,
    /// Multiplier for answers of the service tier `flex`.
    #[schemars(extend("examples" = [0.5]))]
    pub(in crate::config) flex_factor: Option<Decimal>,
    /// Multiplier for answers of the service tier `priority`.
    #[schemars(extend("examples" = [2]))]
    pub(in crate::config) priority_factor: Option<Decimal>,
    /// Multiplier for batches.
    #[schemars(extend("examples" = [0.5]))]
    pub(in crate::config) batch_factor: Option<Decimal>,
    /// Prices of a whole request whose input is long.
    #[schemars(extend("examples" = [[{ "above": 272_000, "input": 3.5, "output": 21 }]]))]
    pub(in crate::config) long_input: Vec<LongInput>,
}

/// One entry of `long_input` as written in the configuration file: the price of requests with a long input.
#[derive(Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["above", "input", "output"]))]
pub(in crate::config) struct LongInput {
    /// The price holds for requests with more input tokens than this.
    #[schemars(example = &272_000, range(min = 1, max = 100_000_000))]
    pub(in crate::config) above: Option<u64>,
    /// A million input tokens.
    #[schemars(extend("examples" = [3.5]))]
    pub(in crate::config) input: Option<Decimal>,
    /// A million cached input tokens. Absent: rises like `input`.
    #[schemars(extend("examples" = [0.35]))]
    pub(in crate::config) cached_input: Option<Decimal>,
    /// A million output tokens.
    #[schemars(extend("examples" = [21]))]
    pub(in crate::config) output: Option<Decimal>,
    /// A million reasoning tokens. Absent: rises like `output`.
    #[schemars(extend("examples" = [21]))]
    pub(in crate::config) reasoning: Option<Decimal>,
}
