//! Decides which bytes of a success may be masked: the bytes before its first output, and error objects and error events.
//!
//! The context reads byte by byte, but only where a credential was found or may arrive. Escaped quotes inside of a JSON string
//! are not quotes, so that a text which quotes an error is no error.

use memchr::{memchr, memchr2, memchr3};

/// A frame is read up to this many bytes. An error in the frame is read to its end.
const LIMIT: usize = 64 * 1024;

/// All names that this module compares are shorter than this.
const NAME: usize = 40;

/// The position in a frame. A frame is one event of a stream, or a whole JSON body.
#[derive(Clone, Debug)]
pub(super) struct Context {
    is_stream: bool,
    /// Output was seen, in this frame or in an earlier one.
    output: bool,
    /// The frame is an error event.
    error_event: bool,
    /// The value of an error member that contains the current position.
    value: Value,
    /// The member whose value is next, or has just begun.
    member: Member,
    /// An array or object that may contain output has just begun. An empty one contains none.
    list: bool,
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// The last token was a string. If a colon follows, the string is a member's name.
    string_ended: bool,
    word: Beginning,
    line: Beginning,
    after_cr: bool,
    /// The number of bytes of the frame that were read.
    read: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    None,
    /// The value ends with the current string.
    String,
    /// The value ends when the nesting is less deep than this.
    Nested(usize),
}

/// The meaning of a member's value, from the member's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Member {
    /// Any other value.
    Other,
    /// An error, of any JSON type.
    Error,
    /// The text of an error, if the value is a string.
    Message,
    /// The type of the frame.
    Type,
    /// Output, unless the value is empty.
    Output,
    /// Output, if the value is a string that is not empty.
    Text,
}

/// The beginning of a string or a line.
#[derive(Clone, Debug)]
struct Beginning {
    bytes: [u8; NAME],
    len: usize,
}

impl Beginning {
    const EMPTY: Self = Self { bytes: [0; NAME], len: 0 };

    fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.len) {
            *place = byte;
        }
        self.len = self.len.saturating_add(1);
    }

    fn extend(&mut self, run: &[u8]) {
        for byte in run.iter().take(NAME) {
            self.push(*byte);
        }
        self.len = self.len.saturating_add(run.len().saturating_sub(NAME));
    }

    /// Returns all of the word. Empty if the word is too long for any name here.
    fn get(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

fn member(name: &[u8], depth: usize) -> Member {
    // Names of error members match in any letter case and with or without `_`: `errorMessage`, `Error`, `ErrorMsg`. Names of
    // output match exactly.
    let is_one_of = |names: &[&[u8]]| {
        let plain = || name.iter().filter(|byte| **byte != b'_').map(u8::to_ascii_lowercase);
        names.iter().any(|name| plain().eq(name.iter().copied()))
    };
    match name {
        b"type" | b"object" if depth == 1 => Member::Type,
        b"output" | b"choices" | b"delta" | b"item" | b"b64_json" => Member::Output,
        b"data" | b"content" if depth == 1 => Member::Output,
        b"text" if depth == 1 => Member::Text,
        _ if is_one_of(&[b"error", b"errors", b"lasterror", b"err", b"fault", b"exception"]) => Member::Error,
        _ if is_one_of(&[b"errormessage", b"errormsg", b"message", b"msg", b"detail", b"details", b"reason"]) => {
            Member::Message
        }
        _ => Member::Other,
    }
}

impl Context {
    pub(super) fn new(is_stream: bool) -> Self {
        Self {
            is_stream,
            output: false,
            error_event: false,
            value: Value::None,
            member: Member::Other,
            list: false,
            depth: 0,
            in_string: false,
            escaped: false,
            string_ended: false,
            word: Beginning::EMPTY,
            line: Beginning::EMPTY,
            after_cr: false,
            read: 0,
        }
    }

    /// Whether output was seen.
    pub(super) fn has_output(&self) -> bool {
        self.output
    }

    /// Ends the frame.
    pub(super) fn end_frame(&mut self) {
        *self = Self { output: self.output, ..Self::new(self.is_stream) };
    }

    /// Reads bytes for which no answer about masking is needed.
    pub(super) fn read(&mut self, mut bytes: &[u8]) {
        while let Some(&byte) = bytes.first() {
            let (run, rest) = bytes.split_at(self.run(bytes));
            if run.is_empty() {
                self.step(byte);
                bytes = &rest[1..];
            } else {
                self.skip(run);
                bytes = rest;
            }
        }
    }

    /// Whether no later byte of the body can be masked.
    pub(super) fn is_over(&self) -> bool {
        !self.is_stream && self.is_beyond()
    }

    /// Whether the frame is read beyond the limit, so that only its end matters.
    fn is_beyond(&self) -> bool {
        self.read > LIMIT && !self.error_event && self.value == Value::None
    }

    /// Returns how many bytes at the beginning change nothing but the length of the current string or line.
    fn run(&self, bytes: &[u8]) -> usize {
        let all = bytes.len();
        if self.is_beyond() {
            return if self.is_stream { memchr2(b'\n', b'\r', bytes).unwrap_or(all) } else { all };
        }
        if !self.in_string || self.escaped || self.holds_output() {
            return 0;
        }
        let end = memchr3(b'"', b'\\', b'\n', bytes).unwrap_or(all);
        if self.is_stream { memchr(b'\r', &bytes[..end]).unwrap_or(end) } else { end }
    }

    /// Whether the current or next string is output.
    fn holds_output(&self) -> bool {
        matches!(self.member, Member::Output | Member::Text)
    }

    fn skip(&mut self, run: &[u8]) {
        self.read = self.read.saturating_add(run.len());
        self.after_cr = false;
        for word in [&mut self.line, &mut self.word] {
            word.extend(run);
        }
    }

    /// Reads the next byte. Returns whether the byte may be masked.
    pub(super) fn step(&mut self, byte: u8) -> bool {
        let in_value = self.value != Value::None;
        self.read = self.read.saturating_add(1);
        let beyond = self.is_beyond();
        if self.is_stream && matches!(byte, b'\n' | b'\r') {
            self.end_line(byte);
        } else {
            // Beyond the limit only empty lines matter.
            if self.is_stream {
                self.line.push(byte);
            }
            if !beyond {
                self.read_json(byte);
            }
        }
        self.after_cr = byte == b'\r';
        let is_error = self.error_event || in_value || self.value != Value::None;
        is_error || (self.read <= LIMIT && (!self.output || self.is_beside_data()))
    }

    /// Whether the line of the stream is a comment, a field other than data, or an error in plain words. Such a line never
    /// contains output.
    fn is_beside_data(&self) -> bool {
        let line = self.line.bytes.get(..self.line.len.min(NAME)).unwrap_or_default();
        let fields: [&[u8]; 4] = [b":", b"id:", b"event:", b"retry:"];
        let says_error = |data: &[u8]| {
            let text = data.trim_ascii_start();
            let text = text.strip_prefix(b"[").unwrap_or(text);
            text.get(..5).is_some_and(|begin| begin.eq_ignore_ascii_case(b"error"))
        };
        self.is_stream
            && (fields.iter().any(|field| line.starts_with(field))
                || line.strip_prefix(b"data:").is_some_and(says_error))
    }

    fn end_line(&mut self, byte: u8) {
        if byte == b'\n' && self.after_cr {
            return;
        }
        if self.line.len == 0 {
            return self.end_frame();
        }
        if let Some(event) = self.line.get().strip_prefix(b"event:") {
            self.error_event |= is_error(event.trim_ascii());
        }
        self.line = Beginning::EMPTY;
        // A JSON string does not continue on another line.
        (self.in_string, self.escaped, self.string_ended) = (false, false, false);
        if self.value == Value::String {
            self.value = Value::None;
        }
    }

    fn read_json(&mut self, byte: u8) {
        if self.in_string {
            return self.read_string(byte);
        }
        if byte.is_ascii_whitespace() {
            return;
        }
        let list = std::mem::take(&mut self.list);
        self.output |= list && !matches!(byte, b']' | b'}');
        let (begins, ended) = (std::mem::take(&mut self.string_ended), self.member);
        match byte {
            b':' if begins => {
                self.member = member(self.word.get(), self.depth);
                return;
            }
            b'"' => {
                (self.in_string, self.word) = (true, Beginning::EMPTY);
                if matches!(ended, Member::Error | Member::Message) && self.value == Value::None {
                    self.value = Value::String;
                }
                return;
            }
            b'{' | b'[' => {
                self.depth += 1;
                if ended == Member::Error && self.value == Value::None {
                    self.value = Value::Nested(self.depth);
                }
                self.list = ended == Member::Output;
            }
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                if matches!(self.value, Value::Nested(depth) if self.depth < depth) {
                    self.value = Value::None;
                }
            }
            _ => {}
        }
        self.member = Member::Other;
    }

    fn read_string(&mut self, byte: u8) {
        if std::mem::take(&mut self.escaped) {
            self.word.push(byte);
            return;
        }
        // The first character of a string that is output.
        self.output |= self.holds_output() && byte != b'"';
        match byte {
            b'\\' => {
                self.escaped = true;
                self.word.push(byte);
            }
            b'"' => {
                (self.in_string, self.string_ended) = (false, true);
                if self.value == Value::String {
                    self.value = Value::None;
                }
                if self.member == Member::Type {
                    self.read_type();
                }
                self.member = Member::Other;
            }
            _ => self.word.push(byte),
        }
    }

    fn read_type(&mut self) {
        let kind = self.word.get();
        self.error_event |= is_error(kind);
        self.output |= kind.ends_with(b".delta") || kind.starts_with(b"response.output_item.");
    }
}

fn is_error(event: &[u8]) -> bool {
    let names: [&[u8]; 5] = [b"error", b"exception", b"warning", b"response.failed", b"response.error"];
    names.iter().any(|name| event.eq_ignore_ascii_case(name))
}
