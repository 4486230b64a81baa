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
    /// Whether the current event has no references, by its type. Nearly all events are pieces of text, which have none.
    has_no_references: bool,
}

impl AnswerVisitor {
    pub(super) fn new(learner: ReferenceReader) -> Self {
        Self { learner, reading: Reading::default(), by_type: false, has_no_references: false }
    }

    /// Returns a visitor for events whose type decides if they have references.
    pub(super) fn by_type(learner: ReferenceReader) -> Self {
        Self { by_type: true, ..Self::new(learner) }
    }

    fn learns(&self) -> bool {
        !self.has_no_references && self.learner.looks()
    }

    fn learner_interest(&self) -> StringInterest {
        if self.has_no_references { StringInterest::Nothing } else { self.learner.interest() }
    }
}

impl KeyVisitor for AnswerVisitor {
    #[inline]
    fn looks(&self) -> bool {
        self.learns() || self.reading.looks()
    }

    fn checks_keys(&self) -> bool {
        self.learner.checks_keys()
    }

    #[inline]
    fn key(&mut self, key: &[u8], at: u64) -> Result<(), JsonErrorKind> {
        if self.reading.looks() {
            self.reading.key(key);
        }
        if self.learns() { self.learner.key(key, at) } else { Ok(()) }
    }

    #[inline]
    fn interest(&self) -> StringInterest {
        // No name is both a reference and text, except encrypted content. There both readers want the pieces.
        match self.learner_interest() {
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
        if !self.has_no_references {
            self.learner.scalar();
        }
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
        if self.learner_interest() == StringInterest::Text {
            self.learner.text(range, text)?;
        }
        let kind = self.reading.kind().filter(|_| self.by_type);
        self.has_no_references |= kind.is_some_and(|kind| kind.learned_below().is_none());
        Ok(())
    }

    #[inline]
    fn piece(&mut self, piece: &[u8]) {
        self.reading.piece(piece);
        if self.learner_interest() == StringInterest::Pieces {
            self.learner.piece(piece);
        }
    }

    fn end(&mut self, range: Range<u64>, is_text: bool) -> Result<(), JsonErrorKind> {
        self.reading.end();
        if self.learner_interest() == StringInterest::Pieces { self.learner.end(range, is_text) } else { Ok(()) }
    }

    fn open(&mut self, object: bool, at: u64) -> Result<(), JsonErrorKind> {
        self.reading.open(object);
        if self.has_no_references { Ok(()) } else { self.learner.open(object, at) }
    }

    fn close(&mut self, end: u64) {
        self.reading.close();
        if !self.has_no_references {
            self.learner.close(end);
        }
    }

    #[inline]
    fn comma(&mut self, at: u64) {
        if !self.has_no_references {
            self.learner.comma(at);
        }
    }

    fn clear(&mut self) {
        self.reading.clear();
        self.learner.clear();
        self.has_no_references = false;
    }
}
