//! Who looks at an answer, and what is expected of it.

use crate::{
    domain::endpoint::{AnswerShape, Endpoint},
    protocol::{
        coding::Coded,
        observe::{AnswerDialect, Observation, Observer},
    },
    upstream::headers::Media,
};

/// Looks at one answer, and knows what its endpoint answers with.
#[derive(Debug)]
pub(super) struct AnswerObserver {
    pub(super) observer: Observer,
    /// A stream of this endpoint has to hold a terminal event.
    has_terminal: bool,
    /// What is neither JSON nor a stream is the answer itself, as sound is.
    is_file: bool,
}

impl AnswerObserver {
    /// For the answer of `endpoint`. An error is the same object everywhere, and what a success is depends on the endpoint.
    pub(super) fn new(endpoint: Option<Endpoint>, succeeded: bool, media: Media, coded: Coded) -> Self {
        let shape = endpoint.map_or(AnswerShape::Object, Endpoint::shape);
        let dialect = match shape {
            _ if !succeeded => AnswerDialect::Responses,
            AnswerShape::Response | AnswerShape::Object => AnswerDialect::Responses,
            AnswerShape::Completion | AnswerShape::Vectors | AnswerShape::Media => AnswerDialect::Chat,
        };
        Self {
            observer: Observer::new(dialect, media == Media::EventStream, coded),
            // The last event of images and sound tells the tokens, but not every provider sends one.
            has_terminal: succeeded && matches!(shape, AnswerShape::Response | AnswerShape::Completion),
            is_file: succeeded && shape == AnswerShape::Media && media == Media::Other,
        }
    }

    /// Whether it is an event stream that has to hold a terminal event.
    pub(super) fn is_watched_stream(&self) -> bool {
        self.has_terminal && self.observer.is_stream() && !self.observer.is_blind()
    }

    /// Whether the answer is output of which nothing but its bytes is to be seen: a file, or text that cannot be decoded.
    pub(super) fn is_unread(&self) -> bool {
        self.observer.is_blind() || (self.is_file && !self.observer.has_read())
    }

    /// What was seen so far. `bytes` = how many came.
    pub(super) fn sum_up(&mut self, bytes: u64) -> &Observation {
        if bytes > 0 && self.is_unread() {
            self.observer.note_output();
        }
        self.observer.sum_up()
    }
}
