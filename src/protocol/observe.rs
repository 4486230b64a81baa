//! What is read out of an answer that passes: response id, model, how it ended, tokens, and the references that it leaves behind.
//! Only looks: it can neither fail nor delay what it looks at. It holds a few hundred bytes whatever comes, and 16 for each
//! reference.

mod body;
mod event;
mod first;
mod look;
mod memory;
mod names;
mod read;
mod reading;
mod seen;
mod text;
mod told;

use body::Body;
use event::Event;
use memory::AnswerReferences;
use reading::Reading;
use seen::MAX_DEPTH;
pub use seen::{AnswerDialect, Observation, ResponseStatus, Terminal};

use super::{
    coding::{self, Coded, ObserverDecoder},
    sse::EventFinder,
};
pub use crate::protocol::references::answer::AnswerReference;

/// Looks at one answer. What it is, is decided by its first bytes.
#[derive(Debug)]
pub struct Observer {
    /// Where the answer is coded: what decodes it for the observer alone.
    aside: Option<Box<ObserverDecoder>>,
    view: DecodedView,
}

/// What is to be looked at, decoded.
#[derive(Debug)]
struct DecodedView {
    dialect: AnswerDialect,
    /// The head calls it an event stream.
    is_stream: bool,
    /// The first bytes, while they do not tell what it is.
    begin: Vec<u8>,
    form: Form,
    is_unread_output: bool,
    seen: Observation,
    memory: AnswerReferences,
}

#[derive(Debug)]
enum Form {
    /// Too few bytes came so far.
    Undecided,
    Stream(Box<(EventFinder, Event)>),
    Json(Box<Body>),
    /// Neither of them: text, a page, sound.
    Other,
    /// It cannot be decoded.
    Opaque,
}

impl Observer {
    /// For an answer in `dialect`. `is_stream` = its head calls it an event stream; `coded` = what its head says of its coding.
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

    /// Whether it sees nothing, whatever comes.
    pub fn is_blind(&self) -> bool {
        matches!(self.view.form, Form::Opaque)
    }

    /// Whether it is an event stream; until its first bytes are here, whether its head says so.
    pub fn is_stream(&self) -> bool {
        match self.view.form {
            Form::Undecided | Form::Opaque => self.view.is_stream,
            Form::Stream(_) => true,
            Form::Json(_) | Form::Other => false,
        }
    }

    /// Whether anything was read out of it: an event, or a whole object.
    pub fn has_read(&self) -> bool {
        match &self.view.form {
            Form::Stream(_) => self.view.seen.events > 0,
            Form::Json(body) => body.scanner.is_whole(),
            Form::Undecided | Form::Other | Form::Opaque => false,
        }
    }

    /// What came is output, though it cannot be read.
    pub fn note_output(&mut self) {
        self.view.is_unread_output = true;
    }

    /// Looks at the next piece. What it completes is learned now: ask [`Observer::take_learned`] before the piece goes on.
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

    /// Call at the clean end of the answer, once. An event without its blank line is looked at, and learned from, too.
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

    /// Call in place of [`Observer::finish`] where the rest of a JSON answer is not waited for.
    pub fn cut_short(&mut self) {
        if let Form::Json(body) = &mut self.view.form
            && body.scanner.feed(&[]).is_ok()
        {
            body.see(&mut self.view.seen);
        }
    }

    /// What was seen so far, but for the text that passed.
    pub fn seen(&self) -> &Observation {
        &self.view.seen
    }

    /// What was seen so far, all of it.
    pub fn sum_up(&mut self) -> &Observation {
        self.view.sum_up();
        &self.view.seen
    }

    /// What was learned since it was asked last, each reference once an answer. A client can name none of them before it has
    /// the piece that was fed last. Of an answer that is no success nothing is to be believed.
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
        let (kind, before) = first::kind(begin, self.is_stream);
        let begin = begin.get(before..).unwrap_or_default();
        self.form = match kind {
            None => {
                self.begin.extend_from_slice(begin);
                return;
            }
            Some(first::AnswerKind::Stream) => {
                Form::Stream(Box::new((EventFinder::default(), Event::new(self.dialect))))
            }
            Some(first::AnswerKind::Json) => Form::Json(Box::new(Body::new(self.dialect))),
            Some(first::AnswerKind::Other) => Form::Other,
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
        let seen = &mut self.seen;
        (seen.usage, seen.text_tokens) = (usage, text_tokens);
        seen.other_output |= other;
        seen.whole |= seen.terminal.is_some();
    }
}

#[cfg(test)]
mod tests;
