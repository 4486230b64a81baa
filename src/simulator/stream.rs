//! The events of a stream in the original API's order. They are created one at a time, so a long answer is never in
//! memory as events.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::answer::{Answer, Stage, summary_part};
use super::content::Item;
use super::directive::{Directive, StreamEnd};
use super::json::Json;

type Fields = Vec<(&'static str, Json)>;

/// The next step of a stream.
pub(super) enum Step {
    Event(&'static str, Fields),
    /// An event for each piece of the text.
    Deltas {
        kind: &'static str,
        place: Fields,
        text: Arc<str>,
        from: usize,
    },
    /// An event with the response object.
    Response(&'static str, Stage),
    /// Data without an event type, as in Chat Completions.
    Chunk(Json),
    /// One such chunk for each piece of the text, created by the function.
    Chunks(fn(&Answer, &str) -> Json, Arc<str>, usize),
    /// `data: [DONE]`
    Done,
}

/// Creates the frames of one stream.
pub(super) struct Frames {
    answer: Arc<Answer>,
    steps: VecDeque<Step>,
    /// The next `sequence_number`, which is also the number of events so far.
    pub(super) sequence: u64,
}

impl Frames {
    /// The stream of an answer.
    pub(super) fn new(answer: Arc<Answer>) -> Self {
        let mut steps = VecDeque::new();
        if answer.ask.background {
            steps.push_back(Step::Response("response.created", Stage::Queued));
            steps.push_back(Step::Response("response.queued", Stage::Queued));
        } else {
            steps.push_back(Step::Response("response.created", Stage::Begun));
        }
        steps.push_back(Step::Response("response.in_progress", Stage::Begun));
        for (index, item) in answer.items.iter().enumerate() {
            let whole = |stage| vec![("output_index", index.into()), ("item", answer.item(item, stage))];
            steps.push_back(Step::Event("response.output_item.added", whole(Stage::Begun)));
            inside(&answer, item, index, &mut steps);
            steps.push_back(Step::Event("response.output_item.done", whole(Stage::Ended)));
        }
        end(&answer, &mut steps);
        Self::of(answer, steps)
    }

    /// A stream of these steps.
    pub(super) fn of(answer: Arc<Answer>, steps: VecDeque<Step>) -> Self {
        Self { answer, steps, sequence: 0 }
    }

    /// Skips all events up to this number. The rest equals the first transfer byte for byte.
    pub(super) fn after(mut self, sequence: u64) -> Self {
        while self.sequence <= sequence && self.next().is_some() {}
        self
    }

    /// The directive of the answered request.
    pub(super) fn directive(&self) -> &Directive {
        &self.answer.ask.directive
    }

    /// Whether the next frame is the terminal event or the end.
    pub(super) fn at_end(&self) -> bool {
        match self.steps.front() {
            None | Some(Step::Done | Step::Event("error", _)) => true,
            Some(Step::Response(_, stage)) => *stage == Stage::Ended,
            Some(Step::Chunk(_)) => matches!(self.steps.get(1), None | Some(Step::Done)),
            Some(_) => false,
        }
    }

    /// The next frame, with its last blank line.
    pub(super) fn next(&mut self) -> Option<Bytes> {
        let (kind, data) = match self.steps.pop_front()? {
            Step::Done => (None, b"[DONE]".to_vec()),
            Step::Event(kind, fields) => (Some(kind), self.event(kind, fields)),
            Step::Response(kind, stage) => {
                (Some(kind), self.event(kind, vec![("response", self.answer.response(stage))]))
            }
            Step::Chunk(data) => (None, data.write(self.answer.account.personality.spaced())),
            Step::Chunks(chunk, text, from) => {
                let to = from + piece(&text[from..]);
                let data = chunk(&self.answer, &text[from..to]).write(self.answer.account.personality.spaced());
                if to < text.len() {
                    self.steps.push_front(Step::Chunks(chunk, text, to));
                }
                (None, data)
            }
            Step::Deltas { kind, place, text, from } => {
                let to = from + piece(&text[from..]);
                let mut fields = place.clone();
                fields.push(("delta", text[from..to].into()));
                if kind == "response.output_text.delta" {
                    fields.push(("logprobs", Json::Array(Vec::new())));
                }
                if to < text.len() {
                    self.steps.push_front(Step::Deltas { kind, place, text, from: to });
                }
                (Some(kind), self.event(kind, fields))
            }
        };
        Some(self.frame(kind, &data))
    }

    fn event(&self, kind: &'static str, fields: Fields) -> Vec<u8> {
        let mut all = vec![("type", kind.into()), ("sequence_number", self.sequence.into())];
        all.extend(fields);
        Json::Object(all).write(self.answer.account.personality.spaced())
    }

    fn frame(&mut self, kind: Option<&str>, data: &[u8]) -> Bytes {
        let directive = self.directive();
        let newline = if directive.crlf { "\r\n" } else { "\n" };
        let mut frame = Vec::with_capacity(data.len() + 80);
        if directive.bom && self.sequence == 0 {
            frame.extend_from_slice("\u{feff}".as_bytes());
        }
        if directive.comments {
            frame.extend_from_slice(format!(": simulated comment{newline}{newline}").as_bytes());
        }
        if let Some(kind) = kind.filter(|_| self.answer.account.personality.named_events()) {
            frame.extend_from_slice(format!("event: {kind}{newline}").as_bytes());
        }
        frame.extend_from_slice(b"data: ");
        frame.extend_from_slice(data);
        frame.extend_from_slice(newline.as_bytes());
        if !(directive.no_last_blank_line && self.steps.is_empty()) {
            frame.extend_from_slice(newline.as_bytes());
        }
        self.sequence += 1;
        frame.into()
    }
}

/// The steps between `output_item.added` and `output_item.done`.
fn inside(answer: &Answer, item: &Item, index: usize, steps: &mut VecDeque<Step>) {
    let place = |id: &String, within: Option<&'static str>| {
        let mut place: Fields = vec![("item_id", id.as_str().into()), ("output_index", index.into())];
        place.extend(within.map(|within| (within, 0.into())));
        place
    };
    let with = |mut place: Fields, key, value| {
        place.push((key, value));
        place
    };
    let deltas = |kind, place, text: &Arc<str>, steps: &mut VecDeque<Step>| {
        if !text.is_empty() {
            steps.push_back(Step::Deltas { kind, place, text: text.clone(), from: 0 });
        }
    };
    match item {
        Item::Reasoning { summary: None, .. } | Item::Compaction { .. } => {}
        Item::Reasoning { id, summary: Some(text), .. } => {
            let here = place(id, Some("summary_index"));
            let part = |text: Json| with(here.clone(), "part", summary_part(text));
            steps.push_back(Step::Event("response.reasoning_summary_part.added", part("".into())));
            deltas("response.reasoning_summary_text.delta", here.clone(), text, steps);
            let done = with(here.clone(), "text", Json::Text(text.clone()));
            steps.push_back(Step::Event("response.reasoning_summary_text.done", done));
            steps.push_back(Step::Event("response.reasoning_summary_part.done", part(Json::Text(text.clone()))));
        }
        Item::Image { id, result } => {
            let partial = with(place(id, None), "partial_image_index", 0.into());
            let partial = with(partial, "partial_image_b64", Json::Text(result.clone()));
            steps.push_back(Step::Event("response.image_generation_call.partial_image", partial));
        }
        Item::Call { id, name, arguments, .. } => {
            deltas("response.function_call_arguments.delta", place(id, None), arguments, steps);
            let done = with(place(id, None), "name", name.as_str().into());
            let done = with(done, "arguments", Json::Text(arguments.clone()));
            steps.push_back(Step::Event("response.function_call_arguments.done", done));
        }
        Item::Message { id, text } => {
            let here = place(id, Some("content_index"));
            let part = |text: Json| with(here.clone(), "part", answer.part(text));
            steps.push_back(Step::Event("response.content_part.added", part("".into())));
            deltas("response.output_text.delta", here.clone(), text, steps);
            let done = with(here.clone(), "text", Json::Text(text.clone()));
            let done = with(done, "logprobs", Json::Array(Vec::new()));
            steps.push_back(Step::Event("response.output_text.done", done));
            steps.push_back(Step::Event("response.content_part.done", part(Json::Text(text.clone()))));
        }
    }
}

/// The terminal event, and the provider's data after it.
fn end(answer: &Answer, steps: &mut VecDeque<Step>) {
    let says_done = answer.account.personality.says_done();
    match &answer.ask.directive.end {
        StreamEnd::Completed => {
            steps.push_back(Step::Response("response.completed", Stage::Ended));
            if says_done {
                steps.push_back(Step::Response("response.done", Stage::Ended));
            }
        }
        StreamEnd::DoneOnly => steps.push_back(Step::Response("response.done", Stage::Ended)),
        StreamEnd::Failed(_) => steps.push_back(Step::Response("response.failed", Stage::Ended)),
        StreamEnd::Incomplete(_) => steps.push_back(Step::Response("response.incomplete", Stage::Ended)),
        StreamEnd::ErrorEvent(code) => {
            let fields =
                vec![("code", code.as_str().into()), ("message", "Simulated error.".into()), ("param", Json::NULL)];
            steps.push_back(Step::Event("error", fields));
        }
        StreamEnd::NoTerminal => return,
    }
    if says_done {
        steps.push_back(Step::Done);
    }
}

/// The length of the next delta: up to the next space, and at most eight characters for languages without spaces.
fn piece(text: &str) -> usize {
    let cut = text.char_indices().enumerate().find(|&(count, (_, c))| count == 8 || (count > 0 && c == ' '));
    cut.map_or(text.len(), |(_, (at, _))| at)
}
