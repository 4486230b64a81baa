//! `POST /embeddings`: the same text always has the same vector. The vectors carry no meaning.

use data_encoding::BASE64;
use http::Response;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::answer::tokens;
use super::body::AnswerBody;
use super::call::Call;
use super::directive::Directive;
use super::fault::SimulatedError;
use super::json::Json;
use super::request;
use super::stop::NoAnswer;

/// invented: the default is a short vector. The maximum is the longest vector of the original API.
const DIMENSIONS: u64 = 16;
const MAX_DIMENSIONS: u64 = 3072;

/// Answers with one vector for each input.
pub(super) async fn create(call: Call) -> Result<Response<AnswerBody>, NoAnswer> {
    call.obey(&Directive::parse(&call.query("simulate").unwrap_or_default())?).await?;
    let body = request::object(&call.body)?;
    let model = body.get("model").and_then(Value::as_str).unwrap_or_default();
    if !model.starts_with("text-embedding-") && !model.starts_with("sim-") {
        return Err(SimulatedError::no_model(model).into());
    }
    let texts = texts(body.get("input")).ok_or_else(|| {
        SimulatedError::request(Some("invalid_type"), Some("input"), "`input` holds no text and no tokens.")
    })?;
    let dimensions = body.get("dimensions").and_then(Value::as_u64).unwrap_or(DIMENSIONS).min(MAX_DIMENSIONS);
    let in_base64 = body.get("encoding_format").is_some_and(|format| format == "base64");
    let used: usize = texts.iter().map(|text| tokens(text.chars().count())).sum();
    let data = texts.iter().enumerate().map(|(index, text)| {
        let vector = vector(text, dimensions);
        let embedding = if in_base64 {
            let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
            BASE64.encode(&bytes).into()
        } else {
            json!(vector)
        };
        Json::Object(vec![("object", "embedding".into()), ("index", index.into()), ("embedding", embedding.into())])
    });
    Ok(call.json(&Json::Object(vec![
        ("object", "list".into()),
        ("data", Json::Array(data.collect())),
        ("model", model.into()),
        ("usage", json!({"prompt_tokens": used, "total_tokens": used}).into()),
    ])))
}

/// Reads a text, several texts, or one or several lists of token numbers.
fn texts(input: Option<&Value>) -> Option<Vec<String>> {
    let one = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(numbers) if numbers.iter().all(Value::is_u64) => Some(value.to_string()),
        _ => None,
    };
    match input? {
        Value::Array(several) if several.iter().any(|value| !value.is_u64()) => several.iter().map(one).collect(),
        single => one(single).map(|text| vec![text]),
    }
}

/// Numbers from -1 to 1.
fn vector(text: &str, dimensions: u64) -> Vec<f32> {
    (0..dimensions)
        .map(|dimension| {
            let hash = Sha256::new().chain_update(dimension.to_le_bytes()).chain_update(text).finalize();
            f32::from(i16::from_le_bytes([hash[0], hash[1]])) / 32768.0
        })
        .collect()
}
