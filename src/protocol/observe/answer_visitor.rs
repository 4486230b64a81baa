//! Reads an answer in one pass, for two readers.

use std::ops::Range;

use super::{names::ValueRule, reading::Reading};
use crate::protocol::{
    json::{JsonErrorKind, KeyVisitor, StringInterest},
    references::answer::ReferenceReader,
};

/// Passes every part of an answer to two readers: one for its references, one for its usage and output.
#[derive(Debug)]
pub(super) struct AnswerVisitor {
    pub(super) learner: ReferenceReader,
    pub(super) reading: Reading,
    /// Whether the type of an event decides if the event has references.
    by_type: bool,
}

impl AnswerVisitor {
    pub(super) fn new(learner: ReferenceReader) -> Self {
        Self { learner, reading: Reading::default(), by_type: false }
    }

    /// Returns a visitor for events whose type decides if they have references.
    pub(super) fn by_type(learner: ReferenceReader) -> Self {
        Self { by_type: true, ..Self::new(learner) }
    }
}

impl KeyVisitor for AnswerVisitor {
    #[inline]
    fn looks(&self) -> bool {
        self.learner.looks() || self.reading.looks()
    }

    fn checks_keys(&self) -> bool {
        self.learner.checks_keys()
    }

    #[inline]
    fn key(&mut self, key: &[u8], at: u64) -> Result<(), JsonErrorKind> {
        if self.reading.looks() {
            self.reading.key(key);
        }
        if self.learner.looks() { self.learner.key(key, at) } else { Ok(()) }
    }

    #[inline]
    fn interest(&self) -> StringInterest {
        // No name is both a reference and text, except encrypted content. There both readers want the pieces.
        match self.learner.interest() {
            StringInterest::Nothing => self.reading.interest(),
            interest => interest,
        }
    }

    fn wants_number(&self) -> bool {
        matches!(self.reading.rule().take, ValueRule::Count(_))
    }

    fn number(&mut self, text: Option<&str>) {
        if let Some(text) = text {
            self.reading.text(text);
        }
    }

    #[inline]
    fn has_enough(&self) -> bool {
        self.reading.has_enough()
    }

    fn scalar(&mut self) {
        self.learner.scalar();
    }

    fn may_begin_value(&self, begin: &[u8]) -> bool {
        self.learner.may_begin_value(begin)
    }

    fn value(&mut self, range: Range<u64>, text: Option<&[u8]>) -> Result<(), JsonErrorKind> {
        self.learner.value(range, text)
    }

    fn text(&mut self, range: Range<u64>, text: Option<&str>) -> Result<(), JsonErrorKind> {
        if let Some(text) = text {
            self.reading.text(text);
        }
        if self.learner.interest() == StringInterest::Text {
            self.learner.text(range, text)?;
        }
        // Nearly all events are pieces of text, which have no references.
        if self.by_type && self.reading.kind().is_some_and(|kind| kind.learned_below().is_none()) {
            self.learner.skip_rest();
        }
        Ok(())
    }

    #[inline]
    fn piece(&mut self, piece: &[u8]) {
        self.reading.piece(piece);
        if self.learner.interest() == StringInterest::Pieces {
            self.learner.piece(piece);
        }
    }

    fn end(&mut self, range: Range<u64>, is_text: bool) -> Result<(), JsonErrorKind> {
        self.reading.end();
        if self.learner.interest() == StringInterest::Pieces { self.learner.end(range, is_text) } else { Ok(()) }
    }

    fn open(&mut self, object: bool, at: u64) -> Result<(), JsonErrorKind> {
        self.reading.open(object);
        self.learner.open(object, at)
    }

    fn close(&mut self, end: u64) {
        self.reading.close();
        self.learner.close(end);
    }

    #[inline]
    fn comma(&mut self, at: u64) {
        self.learner.comma(at);
    }

    fn clear(&mut self) {
        self.reading.clear();
        self.learner.clear();
    }
}
