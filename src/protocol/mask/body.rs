//! Masks credentials in a body that arrives in pieces.

use std::borrow::Cow;

use bytes::Bytes;
use memchr::memmem;

use super::{Found, Mask, STAR, Unfinished, context::Context, escapes::Unescaped};

/// The most bytes of a frame that wait unread. With more of them the frame is read.
const UNREAD: usize = 8 * 1024;

/// In which parts of an answer the gateway replaces its own credential by asterisks.
#[derive(Debug)]
pub enum MaskScope {
    /// No part: the body cannot be read.
    Nowhere,
    /// All parts: the answer is not a success. Pieces of a credential are masked too.
    Everywhere,
    /// All parts, but only whole credentials are masked. The body is output from its first byte on.
    Whole,
    /// A success. Pieces of a credential are masked up to the first output, in error objects and in error events. Whole
    /// credentials are masked in all of it.
    Errors(ErrorScan),
    /// A success whose first byte decides the scope.
    ByFirstByte,
}

/// Finds the errors in a successful answer, because pieces of a credential are masked only in errors and before the first output. Reading
/// starts only when a credential was found, or when a piece of the body ends inside of a frame. Nearly all answers have neither.
#[derive(Debug)]
pub struct ErrorScan {
    is_stream: bool,
    frame: Option<Box<FrameSoFar>>,
}

/// The frame that is arriving: an event, or the body.
#[derive(Debug)]
struct FrameSoFar {
    context: Context,
    /// The parts of the frame that were not read yet.
    unread: Vec<Bytes>,
    unread_len: usize,
}

/// An answer's body on its way to the client, in which asterisks replace the credential of the gateway.
#[derive(Debug)]
pub struct MaskedBody {
    scope: MaskScope,
    /// The end of the bytes so far, which may be the beginning of a piece of the credential.
    held: Vec<u8>,
    /// The number of bytes at the beginning of `held` that belong to a piece which was masked before.
    masked: usize,
    /// The same for a whole credential.
    masked_whole: usize,
}

impl MaskScope {
    /// Returns the scope of a success from its first byte, if the headers name neither JSON nor text nor a stream.
    fn told(first: u8) -> Self {
        match first {
            b'{' | b'[' | b'<' => Self::errors(false),
            // The first letters of the fields of an event stream, and of a comment.
            b'd' | b'e' | b'i' | b'r' | b':' => Self::errors(true),
            _ => Self::Whole,
        }
    }

    /// Returns which parts of a successful answer are masked: errors, and all before the first output. The answer is an event stream, or
    /// one JSON text.
    pub fn errors(is_stream: bool) -> Self {
        Self::Errors(ErrorScan { is_stream, frame: None })
    }
}

impl MaskedBody {
    /// Makes the state for masking one answer's body, at its beginning. `scope`: the parts in which credentials are masked.
    pub fn new(scope: MaskScope) -> Self {
        Self { scope, held: Vec::new(), masked: 0, masked_whole: 0 }
    }

    /// Returns how many bytes of the answer wait for the next piece, because they may begin a credential.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Takes the scope of the masking out of this state, for another way of masking. Call this before the first piece, and drop the state
    /// afterwards.
    pub fn take_scope(&mut self) -> MaskScope {
        std::mem::replace(&mut self.scope, MaskScope::Nowhere)
    }

    /// Masks the next piece of an answer's body. Returns the bytes that can be sent now, and whether any of them was masked. After the
    /// `last` piece no byte waits.
    pub fn pass(&mut self, mask: &Mask, piece: Bytes, last: bool) -> (Bytes, bool) {
        match (&self.scope, piece.trim_ascii_start().first()) {
            (MaskScope::Nowhere, _) => return (piece, false),
            (MaskScope::ByFirstByte, Some(first)) => self.scope = MaskScope::told(*first),
            _ => {}
        }
        let joined =
            if self.held.is_empty() { Cow::Borrowed(&piece[..]) } else { [&self.held, &piece[..]].concat().into() };
        let text = Unescaped::of(&joined);
        let mut found = Vec::new();
        for (masked, is_whole) in [(self.masked, false), (self.masked_whole, true)] {
            if masked > 0 {
                found.push(Found { at: 0..masked, is_whole });
            }
        }
        mask.find(&text, |part| found.push(part));
        let unfinished = if last { Unfinished::default() } else { mask.unfinished(&text) };
        drop(text);
        if found.is_empty() && unfinished.piece == 0 {
            let all = match joined {
                Cow::Borrowed(_) => piece,
                Cow::Owned(joined) => Bytes::from(joined),
            };
            self.held.clear();
            if let MaskScope::Errors(errors) = &mut self.scope {
                errors.pass_by(&all, last);
            }
            return (all, false);
        }
        let (end, open) = self.scope.read(&joined, &found, unfinished);
        let reaches = |is_whole: bool| {
            let parts = found.iter().filter(|part| part.at.start <= end && (part.is_whole || !is_whole));
            parts.map(|part| part.at.end).max().unwrap_or_default().saturating_sub(end)
        };
        (self.masked, self.masked_whole) = (reaches(false), reaches(true));
        let held = joined[end..].to_vec();
        let (out, any) = if found.is_empty() && matches!(joined, Cow::Borrowed(_)) {
            (piece.slice(..end), false)
        } else {
            let mut out = joined[..end].to_vec();
            let mut any = false;
            for Found { at, is_whole } in found {
                for (place, byte) in out.iter_mut().enumerate().take(at.end).skip(at.start) {
                    if is_whole || open.is_at(place) {
                        *byte = STAR;
                        any = true;
                    }
                }
            }
            (Bytes::from(out), any)
        };
        self.held = held;
        (out, any)
    }
}

/// The bytes in which pieces of a credential may be masked.
enum MaskablePositions {
    Everywhere,
    Nowhere,
    /// One flag for each byte.
    At(Vec<bool>),
}

impl MaskablePositions {
    fn is_at(&self, place: usize) -> bool {
        match self {
            Self::Everywhere => true,
            Self::Nowhere => false,
            Self::At(places) => places.get(place) == Some(&true),
        }
    }
}

impl MaskScope {
    /// Reads bytes in which a credential was found or may continue. Returns how many of them can be sent now, and in which of
    /// them pieces may be masked.
    fn read(&mut self, joined: &[u8], found: &[Found], unfinished: Unfinished) -> (usize, MaskablePositions) {
        let (end, whole_end) = (joined.len() - unfinished.piece, joined.len() - unfinished.whole);
        let errors = match self {
            Self::Everywhere => return (end, MaskablePositions::Everywhere),
            Self::Nowhere | Self::Whole | Self::ByFirstByte => return (whole_end, MaskablePositions::Nowhere),
            Self::Errors(errors) => errors,
        };
        let context = errors.read_up();
        if found.is_empty() {
            context.read(&joined[..end]);
            // In output only the possible beginning of a whole credential waits.
            if end < whole_end && !context.clone().step(joined[end]) {
                context.read(&joined[end..whole_end]);
                return (whole_end, MaskablePositions::Nowhere);
            }
            return (end, MaskablePositions::Nowhere);
        }
        let mut open: Vec<bool> = joined[..end].iter().map(|byte| context.step(*byte)).collect();
        if end < whole_end && !context.clone().step(joined[end]) {
            open.extend(joined[end..whole_end].iter().map(|byte| context.step(*byte)));
            return (whole_end, MaskablePositions::At(open));
        }
        (end, MaskablePositions::At(open))
    }
}

impl ErrorScan {
    /// Handles bytes without a match. The rest of their frame may depend on them.
    fn pass_by(&mut self, piece: &Bytes, last: bool) {
        if last {
            return;
        }
        let is_stream = self.is_stream;
        let frame = self.frame();
        if frame.context.is_over() {
            return;
        }
        // Before the first output every frame is read, because the first output may be in it.
        let mut from = 0;
        while is_stream
            && !frame.context.has_output()
            && let Some(blank) = memmem::find(&piece[from..], b"\n\n")
        {
            frame.take(piece.slice(from..from + blank + 2));
            frame.read_up();
            from += blank + 2;
        }
        let rest = piece.slice(from..);
        let ended = if is_stream && frame.context.has_output() { end_of_frame(&rest) } else { None };
        if ended.is_some() {
            frame.unread.clear();
            frame.unread_len = 0;
            frame.context.end_frame();
        }
        frame.take(rest.slice(ended.unwrap_or_default()..));
        if frame.unread_len > UNREAD || (is_stream && !frame.context.has_output()) {
            frame.read_up();
        }
    }

    fn frame(&mut self) -> &mut FrameSoFar {
        let is_stream = self.is_stream;
        self.frame.get_or_insert_with(|| {
            Box::new(FrameSoFar { context: Context::new(is_stream), unread: Vec::new(), unread_len: 0 })
        })
    }

    fn read_up(&mut self) -> &mut Context {
        self.frame().read_up()
    }
}

impl FrameSoFar {
    /// Keeps bytes that are read later, if at all.
    fn take(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.unread_len += bytes.len();
            self.unread.push(bytes);
        }
    }

    fn read_up(&mut self) -> &mut Context {
        self.unread_len = 0;
        for piece in std::mem::take(&mut self.unread) {
            self.context.read(&piece);
        }
        &mut self.context
    }
}

/// Returns the end of the last blank line in a piece of an event stream. A blank line that two pieces share is found when the
/// frame is read.
fn end_of_frame(piece: &[u8]) -> Option<usize> {
    // Nearly every piece ends with the end of an event.
    if piece.ends_with(b"\n\n") || piece.ends_with(b"\r\n\r\n") {
        return Some(piece.len());
    }
    let end = |blank: &[u8]| memmem::rfind(piece, blank).map(|at| at + blank.len());
    end(b"\n\n").max(end(b"\r\n\r\n"))
}
