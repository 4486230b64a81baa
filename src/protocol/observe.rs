//! Reads an answer while it passes: response id, model, end of the response, tokens, and the references in it.
//! The observer cannot fail or delay the answer. It takes a few hundred bytes for any answer, and 16 for each reference.

mod answer_kind;
mod answer_visitor;
mod body;
mod event;
mod memory;
mod names;
mod observation;
mod read;
mod reading;
mod reported_usage;
mod text;

use body::Body;
use event::Event;
use memory::AnswerReferences;
use observation::MAX_DEPTH;
pub use observation::{AnswerDialect, Observation, ResponseStatus, Terminal};
use reading::Reading;

use super::{
    coding::{self, Coded, ObserverDecoder},
    sse::EventFinder,
};
pub use crate::protocol::references::answer::AnswerReference;

/// Reads a provider's answer while the answer passes to the client: ids, model, usage and end. Never changes, delays or fails the answer.
#[derive(Debug)]
pub struct Observer {
    /// Decodes a copy of the answer for the observer, if the answer has a content coding.
    aside: Option<Box<ObserverDecoder>>,
    view: DecodedView,
}

/// The part of the observer that reads the decoded answer.
#[derive(Debug)]
struct DecodedView {
    dialect: AnswerDialect,
    /// The header `Content-Type` says that the answer is an event stream.
    is_stream: bool,
    /// The first bytes, until they decide the format of the answer.
    begin: Vec<u8>,
    form: Form,
    is_unread_output: bool,
    seen: Observation,
    memory: AnswerReferences,
}

#[derive(Debug)]
enum Form {
    /// Too few bytes arrived so far.
    Undecided,
    Stream(Box<(EventFinder, Event)>),
    Json(Box<Body>),
    /// Neither format: text, an HTML page, audio.
    Other,
    /// The answer cannot be decoded.
    Opaque,
}

impl Observer {
    /// Makes the observer of one answer in `dialect`. `is_stream`: the headers say that the answer is an event stream. `coded`: the
    /// content coding that the headers name.
    pub fn new(dialect: AnswerDialect, is_stream: bool, coded: Coded) -> Self {
        let (aside, form) = match coded {
            Coded::Plain => (None, Form::Undecided),
            Coded::Once(coding) => (Some(Box::new(ObserverDecoder::new(Some(coding)))), Form::Undecided),
            Coded::Unknown => (None, Form::Opaque),
        };
        let (seen, memory) = (Observation::default(), AnswerReferences::default());
        Self {
            aside,
            view: DecodedView { dialect, is_stream, begin: Vec::new(), form, is_unread_output: false, seen, memory },
        }
    }

    /// Whether the observer can read nothing of this answer, because the answer cannot be decoded.
    pub fn is_blind(&self) -> bool {
        matches!(self.view.form, Form::Opaque)
    }

    /// Whether the observed answer is an event stream. Before the first bytes arrive, the headers decide.
    pub fn is_stream(&self) -> bool {
        match self.view.form {
            Form::Undecided | Form::Opaque => self.view.is_stream,
            Form::Stream(_) => true,
            Form::Json(_) | Form::Other => false,
        }
    }

    /// Whether the observer could read something of the answer: at least one event, or a whole JSON object.
    pub fn has_read(&self) -> bool {
        match &self.view.form {
            Form::Stream(_) => self.view.seen.events > 0,
            Form::Json(body) => body.scanner.is_whole(),
            Form::Undecided | Form::Other | Form::Opaque => false,
        }
    }

    /// Whether the model is reasoning at the moment, as the observed answer shows: a reasoning item began, and no other item or end
    /// followed.
    pub fn is_thinking(&self) -> bool {
        self.view.reading().is_some_and(Reading::is_thinking)
    }

    /// Records that the observed answer has output of a model, although the observer cannot read the output.
    pub fn note_output(&mut self) {
        self.view.is_unread_output = true;
    }

    /// Observes the next piece of the answer. Call [`Observer::take_learned`] afterwards, before the piece is sent to the client.
    pub fn feed(&mut self, piece: &[u8]) {
        let Self { aside, view } = self;
        let is_first = matches!(view.form, Form::Undecided) && view.begin.is_empty();
        if aside.is_none() && is_first && piece.first().is_some_and(|first| coding::may_be_coded(*first)) {
            *aside = Some(Box::new(ObserverDecoder::new(None)));
        }
        match aside {
            None => view.feed(piece),
            Some(aside) => {
                aside.feed(piece, |piece| view.feed(piece));
                if aside.has_failed() {
                    view.form = Form::Opaque;
                }
            }
        }
        view.seen.dropped = view.memory.dropped();
    }

    /// Ends the observation of an answer. Call this once, at the clean end of the answer. An event without its blank line counts too.
    pub fn finish(&mut self) {
        let Self { aside, view } = self;
        if let Some(aside) = aside {
            aside.finish(|piece| view.feed(piece));
            if aside.has_failed() {
                view.form = Form::Opaque;
            }
        }
        view.finish();
    }

    /// Ends the observation of a JSON answer whose rest the gateway does not wait for. Call this in place of [`Observer::finish`].
    pub fn cut_short(&mut self) {
        if let Form::Json(body) = &mut self.view.form
            && body.scanner.feed(&[]).is_ok()
        {
            body.see(&mut self.view.seen);
        }
    }

    /// Returns what the observer has read of the answer so far, without an estimate of the tokens of the text.
    pub fn seen(&self) -> &Observation {
        &self.view.seen
    }

    /// Returns what the observer has read of the answer so far, with an estimate of the tokens of the text.
    pub fn sum_up(&mut self) -> &Observation {
        self.view.sum_up();
        &self.view.seen
    }

    /// Returns the references (ids of stored objects) that the observer found in the answer since the last call.
    ///
    /// The client cannot use these references before it receives the piece that was fed last. Do not trust the references of an answer
    /// that is not a success.
    pub fn take_learned(&mut self) -> Vec<AnswerReference> {
        self.view.memory.take()
    }
}

impl DecodedView {
    fn feed(&mut self, piece: &[u8]) {
        match &mut self.form {
            Form::Stream(stream) => {
                let (tap, event) = &mut **stream;
                tap.feed(piece, |part| event.see(part, &mut self.seen, &mut self.memory));
            }
            Form::Json(body) => body.feed(piece, &mut self.memory),
            Form::Undecided if self.begin.is_empty() => self.decide(piece),
            Form::Undecided => {
                self.begin.extend_from_slice(piece);
                let begin = std::mem::take(&mut self.begin);
                self.decide(&begin);
            }
            Form::Other | Form::Opaque => {}
        }
    }

    fn decide(&mut self, begin: &[u8]) {
        let (kind, before) = answer_kind::kind(begin, self.is_stream);
        let begin = begin.get(before..).unwrap_or_default();
        self.form = match kind {
            None => {
                self.begin.extend_from_slice(begin);
                return;
            }
            Some(answer_kind::AnswerKind::Stream) => {
                Form::Stream(Box::new((EventFinder::default(), Event::new(self.dialect))))
            }
            Some(answer_kind::AnswerKind::Json) => Form::Json(Box::new(Body::new(self.dialect))),
            Some(answer_kind::AnswerKind::Other) => Form::Other,
        };
        self.feed(begin);
    }

    fn finish(&mut self) {
        if matches!(self.form, Form::Undecided) && !self.begin.is_empty() {
            self.form = Form::Other;
        }
        match &mut self.form {
            Form::Stream(stream) => {
                let (tap, event) = &mut **stream;
                tap.finish(|part| event.see(part, &mut self.seen, &mut self.memory));
                event.clean_end(&mut self.seen);
            }
            Form::Json(body) => {
                if body.scanner.finish().is_ok() {
                    body.see(&mut self.seen);
                }
            }
            Form::Undecided | Form::Other | Form::Opaque => {}
        }
        self.seen.whole = !matches!(self.form, Form::Opaque);
        self.seen.dropped = self.memory.dropped();
        self.sum_up();
    }

    fn reading(&self) -> Option<&Reading> {
        match &self.form {
            Form::Stream(stream) => Some(&stream.1.scanner.sought().reading),
            Form::Json(body) => Some(&body.scanner.sought().reading),
            Form::Undecided | Form::Other | Form::Opaque => None,
        }
    }

    fn sum_up(&mut self) {
        self.seen.other_output |= self.is_unread_output;
        let Some(reading) = self.reading() else { return };
        let (usage, text_tokens, other) = (reading.usage(), reading.text_tokens(), reading.has_other_output());
        let hidden = reading.hidden();
        let seen = &mut self.seen;
        (seen.usage, seen.text_tokens, seen.hidden) = (usage, text_tokens, hidden);
        seen.other_output |= other;
        seen.whole |= seen.terminal.is_some();
    }
}

#[cfg(test)]
mod tests;
