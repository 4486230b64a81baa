//! Reads counts and text out of an answer, by the tables of names that providers use. Every dialect is read in every answer:
//! relays mix them.

use std::ops::Range;

use super::{
    Terminal,
    text::{Output, Part, Voice},
    told::{Field, Told},
};
use crate::protocol::{
    json::{JsonErrorKind, Seek, Wish},
    references::answer::Learner,
};

/// Levels that are followed. What is documented needs under 10 of them.
const MAX_LEVELS: usize = 32;

/// Ids and model names over this are not kept. OpenAI's ids have under 100 bytes.
pub(super) const NAME_LIMIT: usize = 256;

/// An object, by what its names mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Top,
    /// `response` of an event.
    Response,
    /// An item of `output`.
    Item,
    /// A part of an item or a message.
    Content,
    /// What a tool shall do: every string in it is the model's.
    Action,
    Choice,
    /// `message` or `delta` of a choice.
    Message,
    /// A tool call of a message.
    Call,
    Audio,
    ReasoningDetails,
    /// An element of `data` or `results`: a picture, a vector, a verdict.
    Data,
    /// Pictures of a message.
    Image,
    Usage,
    InputDetails,
    OutputDetails,
    CacheCreation,
    /// Tools of the provider that ran (Anthropic, xAI).
    ToolsUsed,
    Cost,
    ToolUsage,
    ImageTool,
    SearchTool,
    /// `x_groq`
    Groq,
    /// Not looked at, however deep.
    Skip,
}

/// A short string that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    /// What an event is.
    Event,
    /// What an item is.
    Item,
    /// What a search does.
    Action,
    Id,
    Model,
    Tier,
    Finish,
}

/// What is taken of a string or number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Take {
    Nothing,
    Text(Voice),
    /// Output that is no text.
    Other,
    Count(Field),
    Name(Name),
}

/// What a name means.
#[derive(Clone, Copy, Debug)]
struct Rule {
    take: Take,
    /// What an object at this name is, or each in an array there.
    into: Place,
    /// Which copy of the text it holds; `None` = that of the object around it.
    part: Option<Part>,
}

const NOTHING: Rule = Rule { take: Take::Nothing, into: Place::Skip, part: None };

const fn take(take: Take) -> Rule {
    Rule { take, ..NOTHING }
}

const fn count(field: Field) -> Rule {
    take(Take::Count(field))
}

const fn into(into: Place) -> Rule {
    Rule { into, ..NOTHING }
}

const fn text(into: Place) -> Rule {
    Rule { take: Take::Text(Voice::Output), into, part: None }
}

const fn of(rule: Rule, part: Part) -> Rule {
    Rule { part: Some(part), ..rule }
}

/// The table of names.
#[rustfmt::skip]
fn rule(place: Place, key: &[u8]) -> Rule {
    match place {
        Place::Top => match key {
            b"type" => take(Take::Name(Name::Event)),
            b"delta" => of(text(Place::Skip), Part::Delta),
            b"text" | b"arguments" | b"refusal" | b"input" => of(text(Place::Skip), Part::Done),
            b"item" => of(into(Place::Item), Part::Item),
            b"response" => of(into(Place::Response), Part::Whole),
            b"output" => of(Rule { take: Take::Other, ..into(Place::Item) }, Part::Whole),
            b"choices" => into(Place::Choice),
            b"data" | b"results" => into(Place::Data),
            b"x_groq" => into(Place::Groq),
            b"id" => take(Take::Name(Name::Id)),
            b"model" => take(Take::Name(Name::Model)),
            b"duration" => count(Field::Seconds),
            b"cached_tokens" => count(Field::Cached),
            b"b64_json" | b"partial_image_b64" | b"audio" => take(Take::Other),
            _ => of_response(key),
        },
        Place::Response => match key {
            b"output" => into(Place::Item),
            _ => of_response(key),
        },
        Place::Item => match key {
            b"type" => take(Take::Name(Name::Item)),
            b"content" | b"summary" => text(Place::Content),
            b"text" | b"refusal" | b"code" => text(Place::Skip),
            b"arguments" | b"input" => text(Place::Action),
            b"action" | b"operation" => into(Place::Action),
            b"result" | b"encrypted_content" => take(Take::Other),
            _ => NOTHING,
        },
        Place::Content => match key {
            b"text" | b"refusal" | b"transcript" | b"thinking" | b"content" => text(Place::Content),
            b"data" | b"image_url" | b"url" => take(Take::Other),
            _ => NOTHING,
        },
        Place::Action => match key {
            b"type" => take(Take::Name(Name::Action)),
            _ => text(Place::Action),
        },
        Place::Choice => match key {
            b"delta" => of(into(Place::Message), Part::Delta),
            b"message" => of(into(Place::Message), Part::Whole),
            b"text" => of(text(Place::Skip), Part::Delta),
            b"finish_reason" => take(Take::Name(Name::Finish)),
            b"usage" => into(Place::Usage),
            _ => NOTHING,
        },
        Place::Message => match key {
            b"content" => text(Place::Content),
            b"refusal" => text(Place::Skip),
            b"reasoning_content" => take(Take::Text(Voice::Reasoning)),
            b"reasoning" | b"thinking" => take(Take::Text(Voice::SameReasoning)),
            b"reasoning_details" => into(Place::ReasoningDetails),
            b"tool_calls" | b"function_call" => into(Place::Call),
            b"audio" => into(Place::Audio),
            b"images" => into(Place::Image),
            _ => NOTHING,
        },
        Place::Call => match key {
            b"function" | b"custom" => into(Place::Call),
            b"name" => text(Place::Skip),
            b"arguments" | b"input" => text(Place::Action),
            _ => NOTHING,
        },
        Place::Audio => match key {
            b"data" => take(Take::Other),
            b"transcript" => text(Place::Skip),
            _ => NOTHING,
        },
        Place::ReasoningDetails => match key {
            b"text" | b"summary" => take(Take::Text(Voice::Details)),
            b"data" => take(Take::Other),
            _ => NOTHING,
        },
        Place::Data | Place::Image | Place::Skip => NOTHING,
        _ => of_usage(place, key),
    }
}

/// The same, inside of `usage` and `tool_usage`.
#[rustfmt::skip]
fn of_usage(place: Place, key: &[u8]) -> Rule {
    match place {
        Place::Usage => usage(key),
        Place::InputDetails => match key {
            b"cached_tokens" => count(Field::Cached),
            b"cache_write_tokens" | b"cache_creation_tokens" | b"cached_creation_tokens" => count(Field::Written),
            b"audio_tokens" => count(Field::InputAudio),
            b"image_tokens" => count(Field::InputImage),
            _ => NOTHING,
        },
        Place::OutputDetails => match key {
            b"reasoning_tokens" => count(Field::Reasoning),
            b"audio_tokens" => count(Field::OutputAudio),
            b"image_tokens" => count(Field::OutputImage),
            _ => NOTHING,
        },
        Place::CacheCreation => match key {
            b"ephemeral_5m_input_tokens" => count(Field::Written5m),
            b"ephemeral_1h_input_tokens" => count(Field::Written1h),
            _ => NOTHING,
        },
        Place::ToolsUsed => match key {
            b"web_search_requests" | b"web_search_calls" => count(Field::Searches),
            _ => NOTHING,
        },
        Place::Cost => match key {
            b"total_cost" => count(Field::Cost),
            _ => NOTHING,
        },
        Place::ToolUsage => match key {
            b"image_gen" => into(Place::ImageTool),
            b"web_search" => into(Place::SearchTool),
            _ => NOTHING,
        },
        Place::ImageTool => match key {
            b"input_tokens" => count(Field::ImageToolInput),
            b"output_tokens" => count(Field::ImageToolOutput),
            _ => NOTHING,
        },
        Place::SearchTool => match key {
            b"num_requests" => count(Field::Searches),
            _ => NOTHING,
        },
        Place::Groq => match key {
            b"usage" => into(Place::Usage),
            _ => NOTHING,
        },
        _ => NOTHING,
    }
}

/// Names of a response, in an event or as a whole body.
#[rustfmt::skip]
fn of_response(key: &[u8]) -> Rule {
    match key {
        b"usage" => into(Place::Usage),
        b"tool_usage" => into(Place::ToolUsage),
        b"service_tier" => take(Take::Name(Name::Tier)),
        _ => NOTHING,
    }
}

/// Names of `usage`, by provider: OpenAI's two APIs, Anthropic, `DeepSeek`, Moonshot, Perplexity, xAI, `OpenRouter`, Ace Data, and
/// relays of the new-api family.
#[rustfmt::skip]
fn usage(key: &[u8]) -> Rule {
    match key {
        b"prompt_tokens" => count(Field::Prompt),
        b"input_tokens" => count(Field::Input),
        b"completion_tokens" | b"output_tokens" => count(Field::Output),
        b"total_tokens" => count(Field::Total),
        b"prompt_tokens_details" | b"input_tokens_details" => into(Place::InputDetails),
        b"completion_tokens_details" | b"output_tokens_details" => into(Place::OutputDetails),
        b"reasoning_tokens" => count(Field::Reasoning),
        b"cached_tokens" | b"prompt_cache_hit_tokens" => count(Field::Cached),
        b"prompt_cache_miss_tokens" => count(Field::Missed),
        b"cache_read_input_tokens" => count(Field::Read),
        b"cache_creation_input_tokens" => count(Field::Written),
        b"cache_creation" => into(Place::CacheCreation),
        b"claude_cache_creation_5_m_tokens" => count(Field::Written5m),
        b"claude_cache_creation_1_h_tokens" => count(Field::Written1h),
        b"num_search_queries" => count(Field::Searches),
        b"server_tool_use" | b"server_side_tool_usage_details" => into(Place::ToolsUsed),
        b"cost" => Rule { take: Take::Count(Field::Cost), ..into(Place::Cost) },
        b"cost_in_usd_ticks" => count(Field::CostTicks),
        b"seconds" => count(Field::Seconds),
        b"service_tier" => take(Take::Name(Name::Tier)),
        _ => NOTHING,
    }
}

/// What an event of a stream is, by its `type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EventKind {
    /// The response begins, or goes on.
    Life,
    /// The response is over.
    End(Terminal),
    /// Something went wrong, and no response is told.
    Error,
    ItemAdded,
    ItemDone,
    Annotation,
    /// A piece of text.
    Delta,
    /// A piece of an image or of sound.
    Media,
    /// The last event of a stream of images or sound.
    MediaEnd,
    /// The whole of what pieces told before.
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

    /// The end that this event tells.
    pub(super) fn terminal(self) -> Option<Terminal> {
        match self {
            Self::End(terminal) => Some(terminal),
            Self::Error => Some(Terminal::Failed),
            _ => None,
        }
    }

    /// The name in the event that holds what its provider made.
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
struct Frame {
    place: Place,
    part: Part,
    /// Of an array: what holds for each of its values.
    each: Option<Rule>,
}

/// The item that is open.
#[derive(Clone, Copy, Debug, Default)]
struct Item {
    is_search: bool,
    /// It opens a page, or looks for something in one, which is no search.
    opens: bool,
}

/// Reads one event after another, or one body.
#[derive(Debug)]
pub(super) struct Reading {
    frames: Vec<Frame>,
    /// Levels that are open from the one on that is skipped.
    skipped: u64,
    /// What holds for the value that comes next in an object.
    next: Rule,
    told: Told,
    output: Output,
    item: Item,
    /// Searches in the items of the event, and in those of the events that are over.
    searches: u64,
    searched: u64,
    /// The text of the event is over.
    delta_over: bool,
    /// What the event is.
    kind: Option<EventKind>,
    id: Option<Box<str>>,
    model: Option<Box<str>>,
    /// The id of the answer is known.
    pub(super) is_named: bool,
    /// A choice of a chat told why it ended; false where that was an error.
    pub(super) finished: Option<bool>,
}

impl Default for Reading {
    fn default() -> Self {
        Self {
            frames: Vec::new(),
            skipped: 0,
            next: NOTHING,
            told: Told::default(),
            output: Output::default(),
            item: Item::default(),
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
    /// What the event is, as far as its `type` was read.
    pub(super) fn kind(&self) -> Option<EventKind> {
        self.kind
    }

    /// `id` and `model` at the top, the first time that there is an id.
    pub(super) fn take_names(&mut self) -> Option<(Box<str>, Option<Box<str>>)> {
        let id = self.id.take()?;
        self.is_named = true;
        Some((id, self.model.take()))
    }

    /// The event that ends the response told its tokens: no count behind it is taken.
    pub(super) fn close_counts(&mut self) {
        self.told.close();
    }

    /// Whether something was told of tokens since this was asked last.
    pub(super) fn is_new(&mut self) -> bool {
        self.told.is_new() || self.searches > 0
    }

    /// What was told of tokens so far.
    pub(super) fn usage(&self) -> crate::domain::usage::Usage {
        self.told.usage(self.searched.max(self.searches))
    }

    /// Tokens of the text that passed so far.
    pub(super) fn text_tokens(&self) -> u64 {
        self.output.tokens()
    }

    /// Whether there was output that is no text.
    pub(super) fn has_other_output(&self) -> bool {
        self.output.other
    }

    #[inline]
    fn rule(&self) -> Rule {
        match self.frames.last() {
            _ if self.skipped > 0 => NOTHING,
            Some(Frame { each: Some(each), .. }) => *each,
            _ => self.next,
        }
    }

    fn part(&self, rule: Rule) -> Part {
        rule.part.or_else(|| self.frames.last().map(|frame| frame.part)).unwrap_or(Part::Whole)
    }

    #[inline]
    fn looks(&self) -> bool {
        self.skipped == 0
    }

    #[inline]
    fn key(&mut self, key: &[u8]) {
        self.next = self.frames.last().map_or(NOTHING, |frame| rule(frame.place, key));
    }

    #[inline]
    fn wish(&self) -> Wish {
        match self.rule().take {
            Take::Nothing => Wish::Nothing,
            Take::Text(_) | Take::Other => Wish::Pieces,
            Take::Count(_) | Take::Name(_) => Wish::Text,
        }
    }

    fn text(&mut self, text: &str) {
        match self.rule().take {
            Take::Count(field) => self.told.take(field, text),
            Take::Name(name) => self.name(name, text),
            _ => {}
        }
    }

    fn name(&mut self, name: Name, text: &str) {
        match name {
            Name::Event => self.kind = Some(EventKind::of(text)),
            Name::Item => self.item.is_search = text == "web_search_call",
            Name::Action => self.item.opens = matches!(text, "open_page" | "find_in_page" | "find"),
            Name::Id if !self.is_named => {
                self.id = kept(text).filter(|_| text.bytes().all(|byte| byte.is_ascii_graphic()))
            }
            Name::Model if !self.is_named => self.model = kept(text),
            Name::Id | Name::Model => {}
            Name::Tier => self.told.tier(text),
            Name::Finish if text.is_empty() => {}
            Name::Finish => self.finished = Some(self.finished.unwrap_or(true) && text != "error"),
        }
    }

    #[inline]
    fn piece(&mut self, piece: &[u8]) {
        let rule = self.rule();
        match rule.take {
            Take::Text(voice) => self.output.add(self.part(rule), voice, piece),
            Take::Other => self.output.other |= !piece.is_empty(),
            _ => {}
        }
    }

    fn end(&mut self) {
        self.delta_over |= self.frames.len() == 1 && self.next.part == Some(Part::Delta);
    }

    fn open(&mut self, object: bool) {
        if self.skipped > 0 {
            self.skipped += 1;
            return;
        }
        let rule = if self.frames.is_empty() { into(Place::Top) } else { self.rule() };
        if rule.into == Place::Skip || self.frames.len() == MAX_LEVELS {
            self.skipped = 1;
            return;
        }
        let in_array = self.frames.last().is_some_and(|frame| frame.each.is_some());
        match rule.into {
            Place::Item if object => self.item = Item::default(),
            Place::Data | Place::Image => self.output.other |= object && in_array,
            _ => {}
        }
        let part = self.part(rule);
        self.frames.push(Frame { place: rule.into, part, each: (!object).then_some(rule) });
    }

    fn close(&mut self) {
        if self.skipped > 0 {
            self.skipped -= 1;
            return;
        }
        let Some(frame) = self.frames.pop() else { return };
        if frame.place == Place::Item && frame.each.is_none() {
            self.searches += u64::from(self.item.is_search && !self.item.opens);
        }
    }

    /// The event is over, and another one begins.
    fn clear(&mut self) {
        let kind = self.kind.take();
        let is_item = kind == Some(EventKind::ItemDone);
        self.output.other |= kind == Some(EventKind::Media);
        self.output.end_event(kind != Some(EventKind::Media), is_item);
        match std::mem::take(&mut self.searches) {
            searches if is_item => self.searched += searches,
            searches if kind != Some(EventKind::ItemAdded) => self.searched = self.searched.max(searches),
            _ => {}
        }
        self.frames.clear();
        (self.skipped, self.next, self.delta_over) = (0, NOTHING, false);
    }

    fn has_enough(&self) -> bool {
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

/// Looks at an answer for both: for the references that it leaves behind, and for what it tells of its cost.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) learner: Learner,
    pub(super) reading: Reading,
}

impl Look {
    pub(super) fn new(learner: Learner) -> Self {
        Self { learner, reading: Reading::default() }
    }
}

impl Seek for Look {
    #[inline]
    fn looks(&self) -> bool {
        self.learner.looks() || self.reading.looks()
    }

    fn checks_keys(&self) -> bool {
        self.learner.checks_keys()
    }

    #[inline]
    fn key(&mut self, key: &[u8]) -> Result<(), JsonErrorKind> {
        if self.reading.looks() {
            self.reading.key(key);
        }
        if self.learner.looks() { self.learner.key(key) } else { Ok(()) }
    }

    #[inline]
    fn wish(&self) -> Wish {
        // No name is both a reference and text, but for encrypted content, of which both want the pieces.
        match self.learner.wish() {
            Wish::Nothing => self.reading.wish(),
            wish => wish,
        }
    }

    fn wants_number(&self) -> bool {
        matches!(self.reading.rule().take, Take::Count(_))
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
        if self.learner.wish() == Wish::Text { self.learner.text(range, text) } else { Ok(()) }
    }

    #[inline]
    fn piece(&mut self, piece: &[u8]) {
        self.reading.piece(piece);
        if self.learner.wish() == Wish::Pieces {
            self.learner.piece(piece);
        }
    }

    fn end(&mut self, range: Range<u64>, is_text: bool) -> Result<(), JsonErrorKind> {
        self.reading.end();
        if self.learner.wish() == Wish::Pieces { self.learner.end(range, is_text) } else { Ok(()) }
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
