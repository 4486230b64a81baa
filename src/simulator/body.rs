//! Answer bodies that can break: an error from a body makes the server close the connection without the last chunk.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use tokio::time::Sleep;

use super::stream::Frames;

/// The pause before a break. The server flushes when a body has nothing to give, so the bytes sent before the break
/// arrive.
const LINGER: Duration = Duration::from_millis(20);

/// The default number of events before `cut` and `stall` take effect: the first words have been sent by then.
const DEFAULT_FAULT_AT: u64 = 6;

/// The body of an answer.
pub(super) enum AnswerBody {
    /// These bytes, then the end.
    Whole(Option<Bytes>),
    /// These bytes, then the connection breaks.
    Broken(Option<Bytes>, Pin<Box<Sleep>>),
    Stream(Box<Stream>),
}

impl AnswerBody {
    pub(super) fn broken(bytes: Bytes) -> Self {
        Self::Broken(Some(bytes), Box::pin(tokio::time::sleep(LINGER)))
    }

    pub(super) fn stream(frames: Frames, pace: Duration) -> Self {
        let directive = frames.directive();
        Self::Stream(Box::new(Stream {
            pace: directive.delay.unwrap_or(pace),
            strike_at: directive.at.unwrap_or(DEFAULT_FAULT_AT),
            stall: directive.stall,
            cut: directive.cut,
            breaking: false,
            wait: None,
            paced: true,
            frames,
        }))
    }

    /// A stream that is repeated for a later request. The fault that broke the first one does not break this one.
    pub(super) fn resumed(frames: Frames, pace: Duration) -> Self {
        let strike_at = u64::MAX;
        let (stall, cut, breaking, wait, paced) = (None, false, false, None, true);
        Self::Stream(Box::new(Stream { frames, pace, strike_at, stall, cut, breaking, wait, paced }))
    }
}

/// Frames with their pace and faults.
pub(super) struct Stream {
    frames: Frames,
    pace: Duration,
    strike_at: u64,
    stall: Option<Duration>,
    cut: bool,
    /// Whether the stream breaks next.
    breaking: bool,
    wait: Option<Pin<Box<Sleep>>>,
    /// Whether the pause before the next event is over.
    paced: bool,
}

impl Stream {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        loop {
            if let Some(wait) = &mut self.wait {
                ready!(wait.as_mut().poll(cx));
                self.wait = None;
            }
            if self.breaking {
                return Poll::Ready(Some(Err(broken())));
            }
            if self.frames.sequence >= self.strike_at || self.frames.at_end() {
                if let Some(stall) = self.stall.take() {
                    self.wait(stall);
                    continue;
                }
                if std::mem::take(&mut self.cut) {
                    self.breaking = true;
                    self.wait(LINGER);
                    continue;
                }
            }
            if !std::mem::replace(&mut self.paced, true) && !self.pace.is_zero() {
                self.wait(self.pace);
                continue;
            }
            self.paced = false;
            return Poll::Ready(self.frames.next().map(Ok));
        }
    }

    fn wait(&mut self, time: Duration) {
        self.wait = Some(Box::pin(tokio::time::sleep(time)));
    }
}

impl http_body::Body for AnswerBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let next = match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(Ok)),
            Self::Broken(bytes, linger) => match bytes.take() {
                Some(bytes) => Poll::Ready(Some(Ok(bytes))),
                None => linger.as_mut().poll(cx).map(|()| Some(Err(broken()))),
            },
            Self::Stream(stream) => stream.poll(cx),
        };
        next.map(|next| next.map(|bytes| bytes.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> http_body::SizeHint {
        match self {
            Self::Whole(bytes) => http_body::SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            // The length of a broken body is in its head, or unknown.
            Self::Broken(..) | Self::Stream(_) => http_body::SizeHint::default(),
        }
    }
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "broken on purpose")
}
