//! The request's body: bounded in size and time, decoded, scanned as it arrives, kept as a rope.

use std::{
    error::Error,
    io,
    ops::Range,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use async_compression::{
    tokio::bufread::{BrotliDecoder, GzipDecoder, ZlibDecoder, ZstdDecoder},
    zstd::DParameter,
};
use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, header::CONTENT_ENCODING};
use http_body::Body;
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, ReadBuf},
    time::{Instant, Sleep},
};

use super::error::Refusal;
use crate::{
    config::Timeouts,
    protocol::{
        body::Rope,
        json::{Paths, Repeats, Scanner, Value},
    },
};

/// What is looked for in a request.
static PATHS: Paths = Paths::new(&[&["model"], &["prompt_cache_key"]]);
const MODEL: usize = 0;
const CACHE_KEY: usize = 1;

/// Longest name of a model, in bytes. Real ones stay under 100.
const MAX_MODEL: usize = 256;

/// After this many bytes the other streams of this core get their turn: about 0.1 ms of scanning.
const TURN: usize = 128 * 1024;

/// Decoded at a time.
const DECODED_PIECE: usize = 32 * 1024;

/// From 1 MiB on, a body may not grow more than this by decoding. Conversations full of repeats reach 50.
const MAX_RATIO: u64 = 200;
const RATIO_FROM: u64 = 1024 * 1024;

/// 2^23 bytes = 8 MiB: what a decoder of the zstd content coding has to support, and no more (RFC 9659). Without it a
/// frame may ask for 128 MiB.
const ZSTD_WINDOW_LOG: u32 = 23;

/// A whole body.
pub(super) struct Received {
    pub(super) rope: Rope,
    pub(super) model: Option<Model>,
    /// `prompt_cache_key`, if it is a string of a usable length.
    pub(super) cache_key: Option<Box<str>>,
}

/// The model that the request names.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) name: Box<str>,
    /// Where its value stands in the body.
    pub(super) range: Range<u64>,
}

/// Reads the body.
pub(super) async fn receive<B>(
    body: B,
    headers: &HeaderMap,
    timeouts: &Timeouts,
    max_bytes: u64,
) -> Result<Received, Refusal>
where
    B: Body<Data = Bytes, Error: Error + 'static> + Send + Unpin,
{
    let coding = Coding::of(headers)?;
    // Content-Length says it early: nothing has to be read. An encoded body only grows.
    if body.size_hint().lower() > max_bytes {
        return Err(Refusal::too_large(max_bytes));
    }
    let mut intake = Intake::new(body, timeouts, max_bytes);
    let mut scan = Scan::new(max_bytes);
    let read = match coding {
        None => read(&mut intake, &mut scan).await,
        // Boxed, as what is rare shall not make the future of every request larger.
        Some(coding) => Box::pin(decode(coding, &mut intake, &mut scan)).await,
    };
    match read {
        Ok(()) => scan.finish(),
        Err(refusal) => Err(refusal.leaving(&intake.body)),
    }
}

async fn read<B>(intake: &mut Intake<B>, scan: &mut Scan) -> Result<(), Refusal>
where
    B: Body<Data = Bytes, Error: Error + 'static> + Send + Unpin,
{
    while let Some(piece) = std::future::poll_fn(|cx| intake.poll_piece(cx)).await? {
        scan.take(piece).await?;
    }
    Ok(())
}

/// One layer of content coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

impl Coding {
    fn of(headers: &HeaderMap) -> Result<Option<Self>, Refusal> {
        let mut values = headers.get_all(CONTENT_ENCODING).iter();
        let coding = match (values.next(), values.next()) {
            (None, _) => return Ok(None),
            (Some(value), None) => value.to_str().unwrap_or("?").trim().to_ascii_lowercase(),
            (Some(_), Some(_)) => return Err(Refusal::unsupported_encoding()),
        };
        match coding.as_str() {
            "" | "identity" => Ok(None),
            "gzip" | "x-gzip" => Ok(Some(Self::Gzip)),
            "deflate" => Ok(Some(Self::Deflate)),
            "br" => Ok(Some(Self::Brotli)),
            "zstd" => Ok(Some(Self::Zstd)),
            _ => Err(Refusal::unsupported_encoding()),
        }
    }
}

async fn decode<B>(coding: Coding, intake: &mut Intake<B>, scan: &mut Scan) -> Result<(), Refusal>
where
    B: Body<Data = Bytes, Error: Error + 'static> + Send + Unpin,
{
    let encoded = Arc::clone(&intake.received);
    let mut decoder: Pin<Box<dyn AsyncRead + Send + '_>> = match coding {
        Coding::Gzip => {
            let mut decoder = GzipDecoder::new(&mut *intake);
            decoder.multiple_members(true);
            Box::pin(decoder)
        }
        Coding::Deflate => Box::pin(ZlibDecoder::new(&mut *intake)),
        Coding::Brotli => Box::pin(BrotliDecoder::new(&mut *intake)),
        Coding::Zstd => {
            let params = [DParameter::window_log_max(ZSTD_WINDOW_LOG)];
            let mut decoder = ZstdDecoder::with_params(&mut *intake, &params);
            decoder.multiple_members(true);
            Box::pin(decoder)
        }
    };
    let mut piece = BytesMut::new();
    let outcome = loop {
        piece.reserve(DECODED_PIECE);
        match decoder.read_buf(&mut piece).await {
            Ok(0) => break Ok(()),
            Ok(_) => {
                if let Err(refusal) = scan.take(piece.split().freeze()).await {
                    break Err(refusal);
                }
                let decoded = scan.rope.len();
                if decoded > RATIO_FROM && decoded / MAX_RATIO > encoded.load(Ordering::Relaxed) {
                    break Err(Refusal::inflates_too_much());
                }
            }
            Err(_) => break Err(Refusal::invalid_encoding()),
        }
    };
    drop(decoder);
    // What went wrong below the decoder says more than the decoder, to which the body only ended.
    if let Some(refusal) = intake.refusal.take() {
        return Err(refusal);
    }
    outcome?;
    match intake.fill_buf().await {
        Ok([]) => Ok(()),
        Ok(_) => Err(Refusal::invalid_encoding()),
        Err(_) => Err(intake.refusal.take().unwrap_or_else(Refusal::invalid_encoding)),
    }
}

/// Scans pieces and keeps them.
struct Scan {
    scanner: Scanner,
    rope: Rope,
    max_bytes: u64,
    /// Bytes since the other streams had their turn.
    turn: usize,
}

impl Scan {
    fn new(max_bytes: u64) -> Self {
        Self { scanner: Scanner::new(&PATHS, Repeats::Refuse), rope: Rope::new(), max_bytes, turn: 0 }
    }

    async fn take(&mut self, piece: Bytes) -> Result<(), Refusal> {
        let len = piece.len();
        if self.rope.len() + len as u64 > self.max_bytes {
            return Err(Refusal::too_large(self.max_bytes));
        }
        self.scanner.feed(&piece).map_err(|error| Refusal::json(&error, &PATHS))?;
        self.rope.push(piece);
        self.turn += len;
        if self.turn >= TURN {
            self.turn = 0;
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Received, Refusal> {
        self.scanner.finish().map_err(|error| Refusal::json(&error, &PATHS))?;
        let model = match self.scanner.found(MODEL) {
            None => None,
            Some(found) => match &found.value {
                // With a stored prompt the model may be left out, or null (docs/wire.md, section 8).
                Value::Null => None,
                Value::String(name) if name.is_empty() => return Err(Refusal::invalid_model("is empty.")),
                Value::String(name) if name.len() <= MAX_MODEL => {
                    Some(Model { name: name.clone(), range: found.range.clone() })
                }
                Value::String(_) | Value::LongString => return Err(Refusal::invalid_model("is too long.")),
                Value::InvalidString => return Err(Refusal::invalid_model("is not valid text.")),
                _ => return Err(Refusal::invalid_model("must be a string.")),
            },
        };
        let cache_key = match self.scanner.found(CACHE_KEY).map(|found| &found.value) {
            Some(Value::String(text)) if !text.is_empty() => Some(text.clone()),
            _ => None,
        };
        Ok(Received { rope: self.rope, model, cache_key })
    }
}

/// The body as it comes from the client, under its deadlines.
struct Intake<B> {
    body: B,
    /// The piece that a decoder is reading from.
    piece: Bytes,
    refusal: Option<Refusal>,
    began: Instant,
    last: Instant,
    /// Shared with whoever compares it with what it decodes to.
    received: Arc<AtomicU64>,
    max_bytes: u64,
    idle: Duration,
    total: Duration,
    min_rate: u64,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<B> Intake<B>
where
    B: Body<Data = Bytes, Error: Error + 'static> + Unpin,
{
    fn new(body: B, timeouts: &Timeouts, max_bytes: u64) -> Self {
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
        }
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Refusal>> {
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
                        return Poll::Ready(Err(Refusal::too_large(self.max_bytes)));
                    }
                    if self.drips(received) {
                        return Poll::Ready(Err(self.too_slow()));
                    }
                    return Poll::Ready(Ok(Some(data)));
                }
            }
        }
    }

    /// Slower than `min_rate` over its whole time, once it had `idle` to get going.
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

    fn too_slow(&self) -> Refusal {
        Refusal::request_timeout("The body of the request did not come in time.")
    }
}

/// Why a body broke off: malformed chunks are somebody's fault who may still read an answer.
fn broken(error: &(dyn Error + 'static)) -> Refusal {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        if matches!(kind, Some(io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput)) {
            return Refusal::invalid_framing();
        }
        cause = error.source();
    }
    Refusal::request_aborted()
}

impl<B> AsyncBufRead for Intake<B>
where
    B: Body<Data = Bytes, Error: Error + 'static> + Unpin,
{
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
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
        Poll::Ready(Ok(&this.piece))
    }

    fn consume(self: Pin<&mut Self>, len: usize) {
        self.get_mut().piece.advance(len);
    }
}

impl<B> AsyncRead for Intake<B>
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
