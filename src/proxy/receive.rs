//! The request's body: bounded in size and time, decoded, scanned as it arrives, kept as a rope.

use std::{
    error::Error,
    ops::Range,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
};

use async_compression::{
    tokio::bufread::{BrotliDecoder, GzipDecoder, ZlibDecoder, ZstdDecoder},
    zstd::DParameter,
};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header::CONTENT_ENCODING};
use http_body::Body;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt};

use super::{error::ApiError, intake::RequestBodyReader, turn::next_turn};
use crate::{
    config::Timeouts,
    domain::{
        budget::{ByteReservation, ByteShare, STEP},
        endpoint::{Endpoint, RequestBodyKind},
        model_name,
    },
    protocol::{
        body::{Edit, Rope},
        coding::{self, Coded, Coding, MAX_RATIO, RATIO_FROM, ZSTD_WINDOW_LOG},
        json::Value,
        references::request::{RequestScan, ScannedRequest, Streaming},
        tokens,
    },
};

/// A body that means nothing is read so far, so that its connection can be used again.
const DISCARDED: usize = 64 * 1024;

/// Longest name of a model, in bytes. Real ones stay under 100.
const MAX_MODEL: usize = 256;

/// After this many bytes the other requests and streams of this worker get their turn, and the system is asked for new
/// events (about 1 µs). Text is scanned in 10 µs, dense JSON in 0.4 ms.
const TURN: usize = 64 * 1024;

/// Blocks that decoded bytes are written to.
const DECODED_PIECE: usize = 32 * 1024;

/// A block with less room than this is left as it is. A larger remainder takes the next bytes: a new block for each piece
/// would take twice the memory of a body whose codes arrive by a few KiB, and the budget counts its bytes only.
const USEFUL_ROOM: usize = 2 * 1024;

/// What a decoder holds beside its window: blocks and tables, zstd's being the largest with 0.3 MiB, and what it gives out.
const DECODER: u64 = 384 * 1024;

/// A whole body.
#[derive(Default)]
pub(super) struct ReceivedBody {
    pub(super) rope: Rope,
    pub(super) model: Option<RequestedModel>,
    /// Bytes of it that are of encoded files, as images.
    pub(super) encoded: u64,
    /// `prompt_cache_key`, if it is a string of a usable length.
    pub(super) cache_key: Option<Box<str>>,
    /// Whether `background` is true.
    pub(super) background: bool,
    /// Whether `stream` is true.
    pub(super) stream: bool,
    /// What a chat says of its stream.
    pub(super) streaming: Streaming,
    /// What it refers to, if it refers to anything.
    pub(super) state: Option<Box<ScannedRequest>>,
}

impl ReceivedBody {
    /// The edit after which the stream of a chat tells its tokens, where it does not do so already.
    pub(super) fn telling_usage(&self) -> Option<Edit> {
        self.streaming.telling(|range| self.rope.first_after(range.start + 1) != Some(b'}'))
    }
}

/// The model that the request names.
#[derive(Debug)]
pub(super) struct RequestedModel {
    pub(super) name: Box<str>,
    /// Where its value stands in the body.
    pub(super) range: Range<u64>,
}

/// Reads the body, into memory that `memory` grants as it arrives. With `opaque`, random texts may be ids ([`RequestScan::new`]).
pub(super) async fn receive<B>(
    body: B,
    endpoint: Endpoint,
    headers: &HeaderMap,
    timeouts: &Timeouts,
    max_bytes: u64,
    memory: &ByteShare,
    opaque: bool,
) -> Result<ReceivedBody, ApiError>
where
    B: Body<Data = Bytes, Error: Error + 'static> + Send + Unpin,
{
    if endpoint.request_body() == RequestBodyKind::Nothing {
        return Box::pin(discard(body, timeouts)).await;
    }
    let coding = coding_of(headers)?;
    // Content-Length says it early: nothing has to be read. An encoded body only grows.
    if body.size_hint().lower() > max_bytes {
        return Err(ApiError::too_large(max_bytes));
    }
    let expected = if coding.is_none() { body.size_hint().exact() } else { None };
    let mut scan = BodyScan::new(max_bytes, memory, coding, expected, RequestScan::new(endpoint, opaque), endpoint);
    // Only the first step is reserved: a client that says a length and then sends slowly keeps others out of nothing. A
    // body that would not fit now is refused before its client sends it.
    if !memory.has_room(expected.unwrap_or_default()) || !scan.hold(expected.unwrap_or_default().min(STEP)) {
        return Err(ApiError::overloaded().leaving(&body));
    }
    let mut intake = RequestBodyReader::new(body, timeouts, max_bytes);
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

/// SDKs send no body with DELETE and to cancel, and say all the same that it is JSON. Whatever comes is neither looked at nor
/// sent on.
async fn discard<B>(body: B, timeouts: &Timeouts) -> Result<ReceivedBody, ApiError>
where
    B: Body<Data = Bytes, Error: Error + 'static> + Send + Unpin,
{
    let mut intake = RequestBodyReader::new(body, timeouts, u64::MAX);
    let mut left = DISCARDED;
    while !intake.body.is_end_stream() {
        match std::future::poll_fn(|cx| intake.poll_piece(cx)).await {
            Ok(Some(piece)) if piece.len() <= left => left -= piece.len(),
            Ok(Some(_)) => return Err(ApiError::needless_body()),
            Ok(None) => break,
            Err(refusal) => return Err(refusal.leaving(&intake.body)),
        }
    }
    Ok(ReceivedBody::default())
}

async fn read<B>(intake: &mut RequestBodyReader<B>, scan: &mut BodyScan<'_>) -> Result<(), ApiError>
where
    B: Body<Data = Bytes, Error: Error + 'static> + Send + Unpin,
{
    while let Some(piece) = std::future::poll_fn(|cx| intake.poll_piece(cx)).await? {
        scan.take(piece).await?;
    }
    Ok(())
}

/// The coding of the body, if it has one.
fn coding_of(headers: &HeaderMap) -> Result<Option<Coding>, ApiError> {
    let values = headers.get_all(CONTENT_ENCODING).iter();
    match Coded::of(values.map(|value| value.to_str().ok())) {
        Coded::Plain => Ok(None),
        Coded::Once(coding) => Ok(Some(coding)),
        Coded::Unknown => Err(ApiError::unsupported_encoding()),
    }
}

async fn decode<B>(coding: Coding, intake: &mut RequestBodyReader<B>, scan: &mut BodyScan<'_>) -> Result<(), ApiError>
where
    B: Body<Data = Bytes, Error: Error + 'static> + Send + Unpin,
{
    if coding == Coding::Brotli && has_large_window(intake).await {
        return Err(ApiError::large_window());
    }
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
        if piece.capacity() < USEFUL_ROOM {
            piece.reserve(DECODED_PIECE);
        }
        match decoder.read_buf(&mut piece).await {
            Ok(0) => break Ok(()),
            Ok(_) => {
                if let Err(refusal) = scan.take(piece.split().freeze()).await {
                    break Err(refusal);
                }
                let decoded = scan.rope.len();
                if decoded > RATIO_FROM && decoded / MAX_RATIO > encoded.load(Ordering::Relaxed) {
                    break Err(ApiError::inflates_too_much());
                }
            }
            Err(_) => break Err(ApiError::invalid_encoding()),
        }
    };
    drop(decoder);
    scan.decoded();
    // What went wrong below the decoder says more than the decoder, to which the body only ended.
    if let Some(refusal) = intake.refusal.take() {
        return Err(refusal);
    }
    outcome?;
    match intake.fill_buf().await {
        Ok([]) => Ok(()),
        Ok(_) => Err(ApiError::invalid_encoding()),
        Err(_) => Err(intake.refusal.take().unwrap_or_else(ApiError::invalid_encoding)),
    }
}

/// Whether a brotli stream begins as only large-window brotli does. A fault of the body is not looked at: the decoder meets it
/// again.
async fn has_large_window<B>(intake: &mut RequestBodyReader<B>) -> bool
where
    B: Body<Data = Bytes, Error: Error + 'static> + Send + Unpin,
{
    matches!(intake.fill_buf().await, Ok([first, ..]) if coding::has_large_window(*first))
}

/// A reference takes this many times what the scan keeps of it while it is looked up: some 200 bytes.
const LOOKED_UP: u64 = 4;

/// Scans pieces and keeps them.
struct BodyScan<'a> {
    scanner: RequestScan,
    names_model: bool,
    rope: Rope,
    max_bytes: u64,
    memory: &'a ByteShare,
    held: ByteReservation,
    /// None once nothing is left to decode.
    coding: Option<Coding>,
    /// The length of the body, where its client says it.
    expected: Option<u64>,
    /// Bytes since the other work of this worker had its turn.
    turn: usize,
    /// Bytes of encoded files.
    encoded: u64,
}

impl<'a> BodyScan<'a> {
    fn new(
        max_bytes: u64,
        memory: &'a ByteShare,
        coding: Option<Coding>,
        expected: Option<u64>,
        scanner: RequestScan,
        endpoint: Endpoint,
    ) -> Self {
        Self {
            scanner,
            names_model: endpoint.request_body() == RequestBodyKind::Model,
            rope: Rope::new(),
            max_bytes,
            memory,
            held: memory.nothing(),
            coding,
            expected,
            turn: 0,
            encoded: 0,
        }
    }

    /// Holds the memory for a body that is `len` bytes long so far, and for what decodes it.
    fn hold(&mut self, len: u64) -> bool {
        // Windows are allocated whole, but the system gives memory only for what was written to.
        let decoder = self.coding.map_or(0, |coding| DECODER + len.min(coding.window()));
        let besides = decoder + self.scanner.held() * LOOKED_UP;
        let most = self.expected.map_or(u64::MAX, |expected| expected + besides);
        self.held.cover(self.bounded(len, besides), most)
    }

    /// The decoder is gone: its memory is free for others, though the end of the body may still be awaited.
    fn decoded(&mut self) {
        self.coding = None;
        let _ = self.held.set(self.bounded(self.rope.len(), self.scanner.held() * LOOKED_UP));
    }

    /// The largest body fits by itself (the configuration's check sees to it), and with what it needs `besides` it shall too.
    fn bounded(&self, len: u64, besides: u64) -> u64 {
        (len + besides).min(self.memory.limit().max(len))
    }

    async fn take(&mut self, piece: Bytes) -> Result<(), ApiError> {
        let len = piece.len();
        if self.rope.len() + len as u64 > self.max_bytes {
            return Err(ApiError::too_large(self.max_bytes));
        }
        if !self.hold(self.rope.len() + len as u64) {
            return Err(ApiError::overloaded());
        }
        self.scanner.feed(&piece).map_err(|error| ApiError::json(&error))?;
        self.encoded += tokens::encoded_bytes(&piece);
        self.rope.push(piece);
        self.turn += len;
        if self.turn >= TURN {
            self.turn = 0;
            next_turn().await;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<ReceivedBody, ApiError> {
        let len = self.rope.len();
        // The last step is rarely needed whole.
        if !self.held.set(self.bounded(len, self.scanner.held() * LOOKED_UP)) {
            return Err(ApiError::overloaded());
        }
        self.rope.hold(self.held);
        // Where no model is named, the body may be left out.
        if !self.names_model && self.rope.is_empty() {
            return Ok(ReceivedBody::default());
        }
        let mut request = self.scanner.finish().map_err(|error| ApiError::json(&error))?;
        let model = match request.model.take() {
            None => None,
            Some(found) => match found.value {
                // With a stored prompt the model may be left out, or null (docs/wire.md, section 8).
                Value::Null => None,
                Value::String(name) if name.is_empty() => return Err(ApiError::invalid_model("is empty.")),
                Value::String(name) if !model_name::is_plain(&name) => {
                    return Err(ApiError::invalid_model(
                        "has white space or an empty part around a slash or at an end, or a control or invisible character in it. Send the plain name.",
                    ));
                }
                Value::String(name) if name.len() <= MAX_MODEL => Some(RequestedModel { name, range: found.range }),
                Value::String(_) | Value::LongString => return Err(ApiError::invalid_model("is too long.")),
                Value::InvalidString => return Err(ApiError::invalid_model("is not valid text.")),
                _ => return Err(ApiError::invalid_model("must be a string.")),
            },
        };
        let cache_key = match request.prompt_cache_key.take().map(|found| found.value) {
            Some(Value::String(text)) if !text.is_empty() => Some(text),
            _ => None,
        };
        let background = request.background.take().is_some_and(|found| found.value == Value::Bool(true));
        let streaming = std::mem::take(&mut request.streaming);
        let stream = streaming.is_asked_for();
        let state = (!request.references.is_empty()).then(|| Box::new(request));
        Ok(ReceivedBody {
            rope: self.rope,
            model,
            encoded: self.encoded,
            cache_key,
            background,
            stream,
            streaming,
            state,
        })
    }
}
