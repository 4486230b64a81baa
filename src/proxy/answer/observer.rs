//! Reads an answer while it passes, and knows what its endpoint answers with.

use crate::{
    domain::endpoint::{AnswerShape, Endpoint},
    protocol::{
        coding::Coded,
        observe::{AnswerDialect, Observation, Observer},
    },
    upstream::headers::Media,
};

/// The observer of one answer, with the expectations of its endpoint.
#[derive(Debug)]
pub(in crate::proxy) struct AnswerObserver {
    pub(in crate::proxy) observer: Observer,
    /// Whether a stream of this endpoint must contain a terminal event.
    has_terminal: bool,
    /// Whether an answer that is neither JSON nor a stream is the result itself, such as sound.
    is_file: bool,
}

impl AnswerObserver {
    /// Creates the observer for an answer of `endpoint`. An error has the same shape everywhere; the shape of a success depends
    /// on the endpoint.
    pub(in crate::proxy) fn new(endpoint: Option<Endpoint>, succeeded: bool, media: Media, coded: Coded) -> Self {
        let shape = endpoint.map_or(AnswerShape::Object, Endpoint::shape);
        let dialect = match shape {
            _ if !succeeded => AnswerDialect::Responses,
            AnswerShape::Response | AnswerShape::Object => AnswerDialect::Responses,
            AnswerShape::Completion | AnswerShape::Vectors | AnswerShape::Media => AnswerDialect::Chat,
        };
        Self {
            observer: Observer::new(dialect, media == Media::EventStream, coded),
            // The last event of an image or sound stream reports the usage, but not every provider sends that event.
            has_terminal: succeeded && matches!(shape, AnswerShape::Response | AnswerShape::Completion),
            is_file: succeeded && shape == AnswerShape::Media && media == Media::Other,
        }
    }

    /// Whether the answer is an event stream that must contain a terminal event.
    pub(in crate::proxy) fn is_watched_stream(&self) -> bool {
        self.has_terminal && self.observer.is_stream() && !self.observer.is_blind()
    }

    /// Whether the answer is output of which only the bytes can be counted: a file, or text that cannot be decoded.
    pub(in crate::proxy) fn is_unread(&self) -> bool {
        self.observer.is_blind() || (self.is_file && !self.observer.has_read())
    }

    /// Returns what the observer saw so far. `bytes` = the number of bytes that arrived.
    pub(in crate::proxy) fn sum_up(&mut self, bytes: u64) -> &Observation {
        if bytes > 0 && self.is_unread() {
            self.observer.note_output();
        }
        self.observer.sum_up()
    }
}
