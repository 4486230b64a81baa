//! The observation: everything that the observer reads in an answer.

use crate::domain::usage::{HiddenReasoning, Usage};

/// The observer stops reading an answer with deeper nesting. Real answers have tens of levels, and each level costs one bit.
pub(super) const MAX_DEPTH: u64 = 64 * 1024;

/// All that was read in one answer of a provider so far: id, model, status, usage, and how the response ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    /// `response.id` of the first event that has one.
    pub response_id: Option<Box<str>>,
    /// `response.model` of the same event.
    pub model: Option<Box<str>>,
    /// `response.status` of the last event that has one and describes the response. A background response goes on after its
    /// answer ended.
    pub status: Option<ResponseStatus>,
    /// How the response ended. The first terminal event decides.
    pub terminal: Option<Terminal>,
    /// The usage that the answer reported. Of each count the largest value.
    pub usage: Usage,
    /// An estimate of the tokens of the output's text, from its bytes. The answer used at least that many.
    pub text_tokens: u64,
    /// Whether the output has a part that is not text: an image or audio.
    pub other_output: bool,
    /// Signs of reasoning that is not in the answer as text.
    pub hidden: HiddenReasoning,
    /// Whether the observer saw all of the answer: its terminal event, or the clean end of its transfer.
    pub whole: bool,
    /// Whether the answer is an error, and no object of the API.
    pub is_error: bool,
    /// The code of the error, or its type if it has no code.
    pub code: Option<Box<str>>,
    /// The number of events whose data is a JSON object.
    pub events: u64,
    /// The number of references that the observer did not keep, because the answer has more than 4,096.
    pub dropped: u64,
}

/// The `status` of a response, as its provider reported it: queued, in progress, or ended in one of several ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseStatus {
    /// The response waits to be processed. Only a background response does.
    Queued,
    /// The model generates the response. As the last status of an answer: the response goes on in the background.
    InProgress,
    /// The response is complete.
    Completed,
    /// The response ended with an error.
    Failed,
    /// The response ended early, at a limit.
    Incomplete,
    /// The response was cancelled.
    Cancelled,
}

/// How a response or chat ended, by its last event: completed, failed, or cut at a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Terminal {
    /// `response.completed` or `response.done`. For a chat: `[DONE]`, or a clean end after `finish_reason`.
    Completed,
    /// `response.failed`, or an error in its place.
    Failed,
    /// `response.incomplete`.
    Incomplete,
}

/// The format in which an endpoint answers: that of the Responses API, or that of chat completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerDialect {
    /// Responses and conversations: events have a `type`, and objects name their type in `object`.
    Responses,
    /// Chat completions, completions, embeddings and images: chunks up to `[DONE]`, and other names for the token counts.
    Chat,
}

impl Observation {
    /// Whether the observed answer contains output of a model.
    pub fn has_output(&self) -> bool {
        self.text_tokens > 0 || self.other_output || self.hidden.sealed.is_some()
    }

    /// Whether the observed answer shows that no model worked: no output, no reported tokens, and no response that is still queued or in
    /// progress.
    pub fn made_nothing(&self) -> bool {
        let is_under_way =
            matches!(self.status, Some(ResponseStatus::Queued | ResponseStatus::InProgress)) && self.terminal.is_none();
        !self.has_output() && self.usage.is_nothing() && !is_under_way
    }
}
