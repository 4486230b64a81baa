//! What is told of an answer.

use crate::domain::usage::Usage;

/// An answer nested deeper is not looked at further: real ones have tens of levels, and a level costs a bit.
pub(super) const MAX_DEPTH: u64 = 64 * 1024;

/// What was seen of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    /// `response.id`, of the first event that has one.
    pub response_id: Option<Box<str>>,
    /// `response.model` beside it.
    pub model: Option<Box<str>>,
    /// `response.status`, of the last event of its life that has one: a background response is not over with its answer.
    pub status: Option<ResponseStatus>,
    /// How the response ended. The first terminal event decides.
    pub terminal: Option<Terminal>,
    /// What was told of tokens: of each count the largest.
    pub usage: Usage,
    /// Tokens of the output's text, by its bytes: the least that the answer can have used.
    pub text_tokens: u64,
    /// There was output that is no text: an image, sound, or content that only its provider reads.
    pub other_output: bool,
    /// All of the answer was seen: its terminal event, or the clean end of its transfer.
    pub whole: bool,
    /// It is an error, and no object of the API.
    pub is_error: bool,
    /// The error's code, or else its type.
    pub code: Option<Box<str>>,
    /// Events with a JSON object as data.
    pub events: u64,
    /// References that were not learned, as there were more than 4,096.
    pub dropped: u64,
}

/// How far a response is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseStatus {
    /// It waits; only a background response does.
    Queued,
    /// It is being made. As the last word of an answer: in the background.
    InProgress,
    /// It is whole.
    Completed,
    /// It ended with an error.
    Failed,
    /// It ended early, at a limit.
    Incomplete,
    /// It was cancelled.
    Cancelled,
}

/// How a response ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Terminal {
    /// `response.completed`, or `response.done`; of a chat, `[DONE]`, or a clean end after `finish_reason`.
    Completed,
    /// `response.failed`, or an error in place of it.
    Failed,
    /// `response.incomplete`.
    Incomplete,
}

/// What an endpoint speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerDialect {
    /// Responses and conversations: events with a `type`, objects whose `object` says what they are.
    Responses,
    /// Chat completions and their neighbours (completions, embeddings, images): chunks up to `[DONE]`, other names of counts.
    Chat,
}

impl Observation {
    /// Whether a model's output passed.
    pub fn has_output(&self) -> bool {
        self.text_tokens > 0 || self.other_output
    }

    /// Whether no model did anything: there was no output, no tokens were told, and nothing is under way.
    pub fn made_nothing(&self) -> bool {
        let is_under_way =
            matches!(self.status, Some(ResponseStatus::Queued | ResponseStatus::InProgress)) && self.terminal.is_none();
        !self.has_output() && self.usage.is_nothing() && !is_under_way
    }
}
