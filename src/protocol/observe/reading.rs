//! Reads token counts and text from an answer, by the tables of names that providers use. Every answer is read for every dialect,
//! because relays mix them.

use super::{
    Terminal,
    names::{AnswerObject, NOTHING, ObservedName, Rule, ValueRule, into, rule},
    reported_usage::ReportedUsage,
    text::{Output, TextCopyKind},
};
use crate::{domain::usage::HiddenReasoning, protocol::json::StringInterest};

/// The reader follows this many levels of nesting. Documented names need fewer than 10.
const MAX_LEVELS: usize = 32;

/// Longer ids and model names are not kept. OpenAI's ids have fewer than 100 bytes.
pub(super) const NAME_LIMIT: usize = 256;

/// The kind of an event of a stream, from its `type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EventKind {
    /// The response begins or goes on.
    Life,
    /// The response ended.
    End(Terminal),
    /// An error, without a response object.
    Error,
    ItemAdded,
    ItemDone,
    Annotation,
    /// A piece of text.
    Delta,
    /// A piece of an image or of audio.
    Media,
    /// The last event of a stream of images or audio.
    MediaEnd,
    /// A repetition of the whole text that came in pieces before.
    Done,
    Other,
}

impl EventKind {
    fn of(name: &str) -> Self {
        match name {
            "response.created" | "response.queued" | "response.in_progress" => Self::Life,
            "response.completed" | "response.done" => Self::End(Terminal::Completed),
            "response.failed" => Self::End(Terminal::Failed),
            "response.incomplete" => Self::End(Terminal::Incomplete),
            "error" => Self::Error,
            "response.output_item.added" => Self::ItemAdded,
            "response.output_item.done" => Self::ItemDone,
            "response.output_text.annotation.added" => Self::Annotation,
            "image_generation.completed" | "image_edit.completed" | "speech.audio.done" => Self::MediaEnd,
            "response.audio.delta" | "speech.audio.delta" => Self::Media,
            _ if name.ends_with(".partial_image") => Self::Media,
            _ if name.ends_with(".delta") => Self::Delta,
            _ if name.ends_with(".done") => Self::Done,
            _ => Self::Other,
        }
    }

    /// Returns how the response ended, if this event ends it.
    pub(super) fn terminal(self) -> Option<Terminal> {
        match self {
            Self::End(terminal) => Some(terminal),
            Self::Error => Some(Terminal::Failed),
            _ => None,
        }
    }

    /// Returns the name in the event whose value the provider made.
    pub(super) fn learned_below(self) -> Option<&'static str> {
        match self {
            Self::Life | Self::End(_) => Some("response"),
            Self::ItemAdded | Self::ItemDone => Some("item"),
            Self::Annotation => Some("annotation"),
            _ => None,
        }
    }
}

/// A container that is open.
#[derive(Clone, Copy, Debug)]
struct OpenValue {
    place: AnswerObject,
    part: TextCopyKind,
    /// For an array: the rule of each of its values.
    each: Option<Rule>,
}

/// The output item that is open.
#[derive(Clone, Copy, Debug, Default)]
struct AnswerItem {
    is_reasoning: bool,
    is_search: bool,
    /// The item opens a page or searches inside a page, which is no web search.
    opens: bool,
}

/// Reads one event after another, or one body.
#[derive(Debug)]
pub(super) struct Reading {
    frames: Vec<OpenValue>,
    /// The number of open levels from the first ignored one on.
    skipped: u64,
    /// In an object: the rule of the next value.
    next: Rule,
    told: ReportedUsage,
    output: Output,
    item: AnswerItem,
    /// Web searches: `searches` in the items of this event, `searched` in the items of earlier events.
    searches: u64,
    searched: u64,
    /// The text of a delta event is complete.
    delta_over: bool,
    /// The kind of the current event.
    kind: Option<EventKind>,
    id: Option<Box<str>>,
    model: Option<Box<str>>,
    /// The id of the answer is known.
    pub(super) is_named: bool,
    /// A choice of a chat gave a `finish_reason`. False if the reason was an error.
    pub(super) finished: Option<bool>,
}

impl Default for Reading {
    fn default() -> Self {
        Self {
            frames: Vec::new(),
            skipped: 0,
            next: NOTHING,
            told: ReportedUsage::default(),
            output: Output::default(),
            item: AnswerItem::default(),
            searches: 0,
            searched: 0,
            delta_over: false,
            kind: None,
            id: None,
            model: None,
            is_named: false,
            finished: None,
        }
    }
}

impl Reading {
    /// Returns the kind of the event, as soon as its `type` was read.
    pub(super) fn kind(&self) -> Option<EventKind> {
        self.kind
    }

    /// Returns `id` and `model` at the top level, the first time that there is an id.
    pub(super) fn take_names(&mut self) -> Option<(Box<str>, Option<Box<str>>)> {
        let id = self.id.take()?;
        self.is_named = true;
        Some((id, self.model.take()))
    }

    /// Ignores all later counts, because the event that ends the response reported its usage.
    pub(super) fn close_counts(&mut self) {
        self.told.close();
    }

    /// Whether usage was reported since the last call.
    pub(super) fn is_new(&mut self) -> bool {
        self.told.is_new() || self.searches > 0
    }

    /// Returns the usage that was reported so far.
    pub(super) fn usage(&self) -> crate::domain::usage::Usage {
        self.told.usage(self.searched.max(self.searches))
    }

    /// Returns an estimate of the tokens of the text so far.
    pub(super) fn text_tokens(&self) -> u64 {
        self.output.tokens()
    }

    /// Whether the answer has output of a model.
    pub(super) fn has_output(&self) -> bool {
        self.output.other || self.text_tokens() > 0 || self.hidden().sealed.is_some()
    }

    /// Whether the answer has output that is not text.
    pub(super) fn has_other_output(&self) -> bool {
        self.output.other
    }

    /// Returns the signs of reasoning that is not in the answer as text.
    pub(super) fn hidden(&self) -> HiddenReasoning {
        self.output.hidden()
    }

    /// Whether a reasoning item began, and no other item or end followed.
    pub(super) fn is_thinking(&self) -> bool {
        self.output.is_thinking
    }

    #[inline]
    pub(super) fn rule(&self) -> Rule {
        match self.frames.last() {
            _ if self.skipped > 0 => NOTHING,
            Some(OpenValue { each: Some(each), .. }) => *each,
            _ => self.next,
        }
    }

    fn part(&self, rule: Rule) -> TextCopyKind {
        rule.part.or_else(|| self.frames.last().map(|frame| frame.part)).unwrap_or(TextCopyKind::Whole)
    }

    #[inline]
    pub(super) fn looks(&self) -> bool {
        self.skipped == 0
    }

    #[inline]
    pub(super) fn key(&mut self, key: &[u8]) {
        self.next = self.frames.last().map_or(NOTHING, |frame| rule(frame.place, key));
    }

    #[inline]
    pub(super) fn interest(&self) -> StringInterest {
        match self.rule().take {
            ValueRule::Nothing => StringInterest::Nothing,
            ValueRule::Text(_) | ValueRule::Other | ValueRule::Sealed => StringInterest::Pieces,
            ValueRule::Count(_) | ValueRule::Name(_) => StringInterest::Text,
        }
    }

    pub(super) fn text(&mut self, text: &str) {
        match self.rule().take {
            ValueRule::Count(field) => self.told.take(field, text),
            ValueRule::Name(name) => self.name(name, text),
            _ => {}
        }
    }

    fn name(&mut self, name: ObservedName, text: &str) {
        match name {
            ObservedName::Event => {
                self.kind = Some(EventKind::of(text));
                self.output.is_aloud |= text == "response.reasoning_text.delta";
            }
            ObservedName::Item => {
                self.item.is_search = text == "web_search_call";
                self.item.is_reasoning = text == "reasoning";
                self.output.thinks |= self.item.is_reasoning;
            }
            ObservedName::Action => self.item.opens = matches!(text, "open_page" | "find_in_page" | "find"),
            ObservedName::Id if !self.is_named => {
                self.id = kept(text).filter(|_| text.bytes().all(|byte| byte.is_ascii_graphic()))
            }
            ObservedName::Model if !self.is_named => self.model = kept(text),
            ObservedName::Id | ObservedName::Model => {}
            ObservedName::Tier => self.told.tier(text),
            ObservedName::Finish if text.is_empty() => {}
            ObservedName::Finish => self.finished = Some(self.finished.unwrap_or(true) && text != "error"),
        }
    }

    #[inline]
    pub(super) fn piece(&mut self, piece: &[u8]) {
        let rule = self.rule();
        match rule.take {
            ValueRule::Text(voice) => self.output.add(self.part(rule), voice, piece),
            ValueRule::Other => self.output.other |= !piece.is_empty(),
            ValueRule::Sealed => self.output.seal(piece),
            _ => {}
        }
    }

    pub(super) fn end(&mut self) {
        let rule = self.rule();
        if rule.take == ValueRule::Sealed {
            self.output.end_seal(self.part(rule));
        }
        self.delta_over |= self.frames.len() == 1 && self.next.part == Some(TextCopyKind::Delta);
    }

    pub(super) fn open(&mut self, object: bool) {
        if self.skipped > 0 {
            self.skipped += 1;
            return;
        }
        let rule = if self.frames.is_empty() { into(AnswerObject::Top) } else { self.rule() };
        if rule.into == AnswerObject::Skip || self.frames.len() == MAX_LEVELS {
            self.skipped = 1;
            return;
        }
        let in_array = self.frames.last().is_some_and(|frame| frame.each.is_some());
        match rule.into {
            AnswerObject::Item if object => self.item = AnswerItem::default(),
            AnswerObject::Data | AnswerObject::Image => self.output.other |= object && in_array,
            _ => {}
        }
        let part = self.part(rule);
        self.frames.push(OpenValue { place: rule.into, part, each: (!object).then_some(rule) });
    }

    pub(super) fn close(&mut self) {
        if self.skipped > 0 {
            self.skipped -= 1;
            return;
        }
        let Some(frame) = self.frames.pop() else { return };
        if frame.place == AnswerObject::Item && frame.each.is_none() {
            self.searches += u64::from(self.item.is_search && !self.item.opens);
        }
    }

    /// Ends the current event and prepares for the next one.
    pub(super) fn clear(&mut self) {
        let kind = self.kind.take();
        let is_item = kind == Some(EventKind::ItemDone);
        self.output.other |= kind == Some(EventKind::Media);
        self.output.end_event(kind != Some(EventKind::Media), is_item);
        match kind {
            Some(EventKind::ItemAdded) => self.output.is_thinking = self.item.is_reasoning,
            Some(EventKind::ItemDone | EventKind::End(_)) => self.output.is_thinking = false,
            _ => {}
        }
        match std::mem::take(&mut self.searches) {
            searches if is_item => self.searched += searches,
            searches if kind != Some(EventKind::ItemAdded) => self.searched = self.searched.max(searches),
            _ => {}
        }
        self.frames.clear();
        (self.skipped, self.next, self.delta_over) = (0, NOTHING, false);
    }

    pub(super) fn has_enough(&self) -> bool {
        self.is_named
            && match self.kind {
                Some(EventKind::Delta) => self.delta_over,
                Some(EventKind::Done) => self.output.has_pieces(),
                Some(EventKind::Media | EventKind::Other) => true,
                _ => false,
            }
    }
}

fn kept(text: &str) -> Option<Box<str>> {
    (!text.is_empty() && text.len() <= NAME_LIMIT).then(|| text.into())
}
