//! Masks a body that comes in pieces.

use std::borrow::Cow;

use bytes::Bytes;
use memchr::memmem;

use super::{Found, Mask, STAR, Unfinished, context::Context, escapes::Unescaped};

/// Pieces of a frame that were not looked at are kept up to here; beyond it they are looked at.
const UNREAD: usize = 8 * 1024;

/// Where in a body credentials are masked.
#[derive(Debug)]
pub enum MaskScope {
    /// Nowhere: what cannot be read.
    Nowhere,
    /// Pieces everywhere: an answer that is no success.
    Everywhere,
    /// Whole ones only: output from its first byte on.
    Whole,
    /// A success: pieces up to its first output, and in error objects and error events; whole ones in all of it.
    Errors(ErrorScan),
    /// A success of which the first byte tells what it is.
    Untold,
}

/// What is known of a success so far. Nothing is kept, and nothing read, before something is found or a piece ends inside
/// of a frame: nearly all answers have neither.
#[derive(Debug)]
pub struct ErrorScan {
    is_stream: bool,
    frame: Option<Box<FrameSoFar>>,
}

/// The event, or the body, that is coming in.
#[derive(Debug)]
struct FrameSoFar {
    context: Context,
    /// What of it was not read yet.
    unread: Vec<Bytes>,
    unread_len: usize,
}

/// A body on its way.
#[derive(Debug)]
pub struct MaskedBody {
    scope: MaskScope,
    /// The end of what came, which may be the beginning of a piece of the credential.
    held: Vec<u8>,
    /// So many bytes at the beginning of `held` belong to a piece that began before them.
    masked: usize,
    /// The same, of a whole credential.
    masked_whole: usize,
}

impl MaskScope {
    /// Of a success that is called neither JSON nor text nor a stream, and begins with this byte.
    fn told(first: u8) -> Self {
        match first {
            b'{' | b'[' | b'<' => Self::errors(false),
            // The first letters of the fields of an event stream, and a comment.
            b'd' | b'e' | b'i' | b'r' | b':' => Self::errors(true),
            _ => Self::Whole,
        }
    }

    /// Of a success: an event stream, or one JSON text.
    pub fn errors(is_stream: bool) -> Self {
        Self::Errors(ErrorScan { is_stream, frame: None })
    }
}

impl MaskedBody {
    /// At its beginning.
    pub fn new(scope: MaskScope) -> Self {
        Self { scope, held: Vec::new(), masked: 0, masked_whole: 0 }
    }

    /// How many bytes wait for what comes next.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Its scope, before anything came. It is used no more.
    pub fn take_scope(&mut self) -> MaskScope {
        std::mem::replace(&mut self.scope, MaskScope::Nowhere)
    }

    /// Takes the next piece. Returned is what can go on now, and whether anything in it was masked. After the `last` one nothing
    /// is held back.
    pub fn pass(&mut self, mask: &Mask, piece: Bytes, last: bool) -> (Bytes, bool) {
        match (&self.scope, piece.trim_ascii_start().first()) {
            (MaskScope::Nowhere, _) => return (piece, false),
            (MaskScope::Untold, Some(first)) => self.scope = MaskScope::told(*first),
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

/// Where pieces may be masked.
enum Open {
    Everywhere,
    Nowhere,
    /// Place by place.
    At(Vec<bool>),
}

impl Open {
    fn is_at(&self, place: usize) -> bool {
        match self {
            Self::Everywhere => true,
            Self::Nowhere => false,
            Self::At(places) => places.get(place) == Some(&true),
        }
    }
}

impl MaskScope {
    /// Reads what something was found in, or may go on in: how much of it can go on now, and where in that pieces may be masked.
    fn read(&mut self, joined: &[u8], found: &[Found], unfinished: Unfinished) -> (usize, Open) {
        let (end, whole_end) = (joined.len() - unfinished.piece, joined.len() - unfinished.whole);
        let errors = match self {
            Self::Everywhere => return (end, Open::Everywhere),
            Self::Nowhere | Self::Whole | Self::Untold => return (whole_end, Open::Nowhere),
            Self::Errors(errors) => errors,
        };
        let context = errors.read_up();
        if found.is_empty() {
            context.read(&joined[..end]);
            // In output only what may be the whole is held back.
            if end < whole_end && !context.clone().step(joined[end]) {
                context.read(&joined[end..whole_end]);
                return (whole_end, Open::Nowhere);
            }
            return (end, Open::Nowhere);
        }
        let mut open: Vec<bool> = joined[..end].iter().map(|byte| context.step(*byte)).collect();
        if end < whole_end && !context.clone().step(joined[end]) {
            open.extend(joined[end..whole_end].iter().map(|byte| context.step(*byte)));
            return (whole_end, Open::At(open));
        }
        (end, Open::At(open))
    }
}

impl ErrorScan {
    /// Nothing was found in this piece. What comes next may depend on it.
    fn pass_by(&mut self, piece: &Bytes, last: bool) {
        if last {
            return;
        }
        let is_stream = self.is_stream;
        let frame = self.frame();
        if frame.context.is_over() {
            return;
        }
        // Before the first output every frame is read, as that may be in it.
        let ended = if is_stream && frame.context.has_output() { end_of_frame(piece) } else { None };
        if ended.is_some() {
            frame.unread.clear();
            frame.unread_len = 0;
            frame.context.end_frame();
        }
        let from = ended.unwrap_or_default();
        if from < piece.len() {
            frame.unread_len += piece.len() - from;
            frame.unread.push(piece.slice(from..));
        }
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
    fn read_up(&mut self) -> &mut Context {
        self.unread_len = 0;
        for piece in std::mem::take(&mut self.unread) {
            self.context.read(&piece);
        }
        &mut self.context
    }
}

/// Behind the last blank line of a piece of an event stream. One that two pieces share is found when the frame is read.
fn end_of_frame(piece: &[u8]) -> Option<usize> {
    // Nearly every piece ends with its event.
    if piece.ends_with(b"\n\n") || piece.ends_with(b"\r\n\r\n") {
        return Some(piece.len());
    }
    let end = |blank: &[u8]| memmem::rfind(piece, blank).map(|at| at + blank.len());
    end(b"\n\n").max(end(b"\r\n\r\n"))
}
