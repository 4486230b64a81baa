//! Reads the body of a request from the client, within its deadlines.

use std::{
    error::Error,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use http_body::Body;
use tokio::{
    io::{AsyncBufRead, AsyncRead, ReadBuf},
    time::{Instant, Sleep},
};

use super::yield_to_runtime::yield_to_runtime;
use crate::{config::Timeouts, proxy::error::ApiError};

/// A decoder reads this many bytes before other work of the worker has its turn. Most codes become text, and the scan counts
/// text. Some codes become nothing and still cost time: 8 KiB of empty gzip members take 2 ms.
const YIELD_AFTER_ENCODED: usize = 8 * 1024;

/// The body as the client sends it, within its deadlines.
pub(in crate::proxy) struct RequestBodyReader<B> {
    pub(in crate::proxy) body: B,
    /// The piece that a decoder reads now.
    piece: Bytes,
    pub(in crate::proxy) refusal: Option<ApiError>,
    began: Instant,
    last: Instant,
    /// Encoded bytes so far. The decoding loop compares this number with the decoded bytes.
    pub(in crate::proxy) received: Arc<AtomicU64>,
    max_bytes: u64,
    idle: Duration,
    total: Duration,
    min_rate: u64,
    timer: Option<Pin<Box<Sleep>>>,
    /// The bytes that a decoder read since other work had its turn. `yielding` = the decoder waits while other work has its turn.
    since_yield: usize,
    yielding: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl<B> RequestBodyReader<B>
where
    B: Body<Data = Bytes, Error: Error + 'static> + Unpin,
{
    pub(in crate::proxy) fn new(body: B, timeouts: &Timeouts, max_bytes: u64) -> Self {
        let now = Instant::now();
        Self {
            body,
            piece: Bytes::new(),
            refusal: None,
            began: now,
            last: now,
            received: Arc::default(),
            max_bytes,
            idle: timeouts.body_idle,
            total: timeouts.body_total,
            min_rate: timeouts.body_min_rate,
            timer: None,
            since_yield: 0,
            yielding: None,
        }
    }

    pub(in crate::proxy) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, ApiError>> {
        loop {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Pending => {
                    ready!(self.poll_deadline(cx));
                    return Poll::Ready(Err(self.too_slow()));
                }
                Poll::Ready(None) => return Poll::Ready(Ok(None)),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(broken(&error))),
                Poll::Ready(Some(Ok(frame))) => {
                    let Ok(data) = frame.into_data() else { continue };
                    self.last = Instant::now();
                    let len = data.len() as u64;
                    let received = self.received.fetch_add(len, Ordering::Relaxed) + len;
                    if received > self.max_bytes {
                        return Poll::Ready(Err(ApiError::too_large(self.max_bytes)));
                    }
                    if self.drips(received) {
                        return Poll::Ready(Err(self.too_slow()));
                    }
                    return Poll::Ready(Ok(Some(data)));
                }
            }
        }
    }

    /// Whether the average rate is below `min_rate`. A body has the time `idle` to get going.
    fn drips(&self, received: u64) -> bool {
        let elapsed = self.last.duration_since(self.began);
        elapsed > self.idle && (received as f64) < elapsed.as_secs_f64() * self.min_rate as f64
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let until = (self.last + self.idle).min(self.began + self.total);
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if timer.deadline() != until {
            timer.as_mut().reset(until);
        }
        timer.as_mut().poll(cx)
    }

    fn too_slow(&self) -> ApiError {
        ApiError::request_timeout(
            "The body of the request did not arrive in time. Send the request again, or send a smaller body.",
        )
    }
}

/// Returns why a body broke off. A client that sent malformed chunks may still read an answer.
fn broken(error: &(dyn Error + 'static)) -> ApiError {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        if matches!(kind, Some(io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput)) {
            return ApiError::invalid_framing();
        }
        cause = error.source();
    }
    ApiError::request_aborted()
}

impl<B> AsyncBufRead for RequestBodyReader<B>
where
    B: Body<Data = Bytes, Error: Error + 'static> + Unpin,
{
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        if this.since_yield >= YIELD_AFTER_ENCODED {
            ready!(this.yielding.get_or_insert_with(|| Box::pin(yield_to_runtime())).as_mut().poll(cx));
            (this.since_yield, this.yielding) = (0, None);
        }
        while this.piece.is_empty() {
            match ready!(this.poll_piece(cx)) {
                Ok(Some(piece)) => this.piece = piece,
                Ok(None) => break,
                Err(refusal) => {
                    this.refusal = Some(refusal);
                    return Poll::Ready(Err(io::ErrorKind::Other.into()));
                }
            }
        }
        let len = this.piece.len().min(YIELD_AFTER_ENCODED - this.since_yield);
        Poll::Ready(Ok(this.piece.get(..len).unwrap_or_default()))
    }

    fn consume(self: Pin<&mut Self>, len: usize) {
        let this = self.get_mut();
        this.since_yield += len;
        this.piece.advance(len);
    }
}

impl<B> AsyncRead for RequestBodyReader<B>
where
    B: Body<Data = Bytes, Error: Error + 'static> + Unpin,
{
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let piece = ready!(self.as_mut().poll_fill_buf(cx))?;
        let len = piece.len().min(into.remaining());
        into.put_slice(piece.get(..len).unwrap_or_default());
        self.consume(len);
        Poll::Ready(Ok(()))
    }
}
