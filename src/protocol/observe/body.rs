//! Reads one JSON object as an answer: a response, a chat completion, another object, or an error.

use super::{
    AnswerDialect, Observation, ResponseStatus, Terminal,
    answer_visitor::AnswerVisitor,
    memory::AnswerReferences,
    read::{code, id, is_error, name, status, text, value},
};
use crate::{
    domain::origin::ReferenceKind,
    protocol::{
        json::{DuplicatePolicy, Paths, Scanner, Value},
        references::answer::{AnswerReference, Candidates},
    },
};

/// Paths into the object. The constants below are indices into this list.
static BODY: Paths = Paths::new(&[
    &["id"],
    &["model"],
    &["status"],
    &["error", "code"],
    &["code"],
    &["error", "type"],
    &["error"],
    &["object"],
    &["type"],
    &["deleted"],
]);
const ID: usize = 0;
const MODEL: usize = 1;
const STATUS: usize = 2;
/// In order of preference.
const CODES: [usize; 3] = [3, 4, 5];
const ERROR: usize = 6;
const OBJECT: usize = 7;
const ITEM_TYPE: usize = 8;
const DELETED: usize = 9;

/// The JSON object that is arriving.
#[derive(Debug)]
pub(super) struct Body {
    dialect: AnswerDialect,
    pub(super) scanner: Scanner<AnswerVisitor>,
    /// The object was complete, and its references were learned.
    is_learned: bool,
}

impl Body {
    pub(super) fn new(dialect: AnswerDialect) -> Self {
        let learner = match dialect {
            AnswerDialect::Responses => Candidates::of_body(),
            AnswerDialect::Chat => Candidates::of_chat(),
        };
        let scanner =
            Scanner::seeking(&BODY, DuplicatePolicy::LastWins, AnswerVisitor::new(learner)).max_depth(super::MAX_DEPTH);
        Self { dialect, scanner, is_learned: false }
    }

    pub(super) fn feed(&mut self, piece: &[u8], memory: &mut AnswerReferences) {
        // A scanner that failed stays failed, and reports the error again at the end.
        let _ = self.scanner.feed(piece);
        if !self.is_learned && self.scanner.is_whole() {
            self.is_learned = true;
            match self.dialect {
                AnswerDialect::Responses => self.learn(memory),
                AnswerDialect::Chat => {
                    let found = &self.scanner.sought().learner.collect;
                    memory.learn(found.below(&["choices"]), found.dropped());
                }
            }
        }
    }

    /// Reads the fields of the object, after it is complete or after its transfer ended.
    pub(super) fn see(&self, seen: &mut Observation) {
        let body = &self.scanner;
        seen.response_id = id(body, ID);
        seen.model = name(body, MODEL);
        let has_output = body.sought().reading.has_output();
        let object = text(body, OBJECT);
        // vLLM sends errors as an object whose `object` is `error`.
        let is_error = object == Some("error") || is_error(body, ERROR);
        seen.is_error = is_error && !has_output && matches!(object, None | Some("error"));
        seen.terminal = match self.dialect {
            AnswerDialect::Responses => {
                seen.status = text(body, STATUS).and_then(status);
                match seen.status {
                    Some(ResponseStatus::Completed) => Some(Terminal::Completed),
                    Some(ResponseStatus::Failed) => Some(Terminal::Failed),
                    Some(ResponseStatus::Incomplete) => Some(Terminal::Incomplete),
                    Some(_) => None,
                    None => seen.is_error.then_some(Terminal::Failed),
                }
            }
            // A chat completion has no status: a complete object is the only sign of its end.
            AnswerDialect::Chat => is_error.then_some(Terminal::Failed),
        };
        if self.dialect == AnswerDialect::Responses || seen.terminal.is_some() {
            seen.code = CODES.into_iter().find_map(|path| code(body, path));
        }
    }

    /// Learns the references in a complete JSON answer. Its `object` decides which.
    fn learn(&self, memory: &mut AnswerReferences) {
        let body = &self.scanner;
        let object = match value(body, OBJECT) {
            None if text(body, ITEM_TYPE).is_some() => "item",
            Some(Value::String(object)) => object,
            _ => return,
        };
        let (id, below, all): (_, &[&str], _) = match object {
            // After a deletion no client will send this id again.
            "response" if matches!(value(body, DELETED), Some(Value::Bool(true))) => return,
            "response" => (Some(ReferenceKind::Response), &["conversation", "output"], true),
            "response.compaction" => (Some(ReferenceKind::Response), &["output"], false),
            "conversation" => (Some(ReferenceKind::Conversation), &[], false),
            "list" => (None, &["data"], false),
            "item" => (Some(ReferenceKind::Item), &["encrypted_content", "content"], false),
            _ => return,
        };
        let found = &body.sought().learner.collect;
        let id = id.and_then(|kind| AnswerReference::id(kind, text(body, ID)?));
        // These objects also contain a client's own data. Such data may only name itself: items and encrypted content.
        let is_own =
            |learned: &AnswerReference| all || matches!(learned.kind, ReferenceKind::Item | ReferenceKind::Encrypted);
        let learned = id.into_iter().chain(found.below(below).filter(is_own));
        memory.learn(learned.map(|learned| learned.made(all)), found.dropped());
    }
}
