//! Masks a body that comes in pieces.

use std::borrow::Cow;

use bytes::Bytes;
use memchr::memmem;

use super::{Mask, STAR, context::Context};

/// Pieces of a frame that were not looked at are kept up to here; beyond it they are looked at.
const UNREAD: usize = 8 * 1024;

/// Where in a body credentials are masked.
#[derive(Debug)]
pub enum MaskScope {
    /// Nowhere: what cannot be read.
    Nowhere,
    /// Everywhere: an answer that is no success.
    Everywhere,
    /// In a success: up to its first output, and in error objects and error events. Its output passes as it came.
    Errors(ErrorScan),
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
}

impl MaskScope {
    /// Of a success: an event stream, or one JSON text.
    pub fn errors(is_stream: bool) -> Self {
        Self::Errors(ErrorScan { is_stream, frame: None })
    }
}

impl MaskedBody {
    /// At its beginning.
    pub fn new(scope: MaskScope) -> Self {
        Self { scope, held: Vec::new(), masked: 0 }
    }

    /// How many bytes wait for what comes next.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Takes the next piece. Returned is what can go on now, and whether anything in it was masked. After the `last` one nothing
    /// is held back.
    pub fn pass(&mut self, mask: &Mask, piece: Bytes, last: bool) -> (Bytes, bool) {
        if matches!(self.scope, MaskScope::Nowhere) {
            return (piece, false);
        }
        let joined =
            if self.held.is_empty() { Cow::Borrowed(&piece[..]) } else { [&self.held, &piece[..]].concat().into() };
        let mut found = Vec::new();
        if self.masked > 0 {
            found.push(0..self.masked);
        }
        mask.find(&joined, |range| found.push(range));
        let unfinished = if last { 0 } else { mask.unfinished(&joined) };
        if found.is_empty() && unfinished == 0 {
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
        let mut end = joined.len() - unfinished;
        let mut open = Vec::new();
        if let MaskScope::Errors(errors) = &mut self.scope {
            let context = errors.read_up();
            if found.is_empty() {
                context.read(&joined[..end]);
            } else {
                open.extend(joined[..end].iter().map(|byte| context.step(*byte)));
            }
            // Output is never held back.
            if unfinished > 0 && !context.clone().step(joined[end]) {
                if found.is_empty() {
                    context.read(&joined[end..]);
                } else {
                    open.extend(joined[end..].iter().map(|byte| context.step(*byte)));
                }
                end = joined.len();
            }
        }
        let reaches = found.iter().filter(|range| range.start <= end).map(|range| range.end).max().unwrap_or_default();
        let held = joined[end..].to_vec();
        let (out, any) = if found.is_empty() && matches!(joined, Cow::Borrowed(_)) {
            (piece.slice(..end), false)
        } else {
            let everywhere = open.is_empty();
            let mut out = joined[..end].to_vec();
            let mut any = false;
            for at in found.into_iter().flat_map(|range| range.start..range.end.min(end)) {
                if everywhere || open.get(at) == Some(&true) {
                    out[at] = STAR;
                    any = true;
                }
            }
            (Bytes::from(out), any)
        };
        (self.held, self.masked) = (held, reaches.saturating_sub(end));
        (out, any)
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
