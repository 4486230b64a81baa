//! Reads the body of a request: bounded in size and time, decoded, scanned as it arrives, kept in pieces.

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

use super::{body_reader::RequestBodyReader, yield_to_runtime::yield_to_runtime};
use crate::{
    concurrent::byte_budget::{ByteReservation, ByteShare, STEP},
    config::Timeouts,
    domain::{
        endpoint::{Endpoint, RequestBodyKind},
        model_name,
    },
    protocol::{
        body::{Edit, SegmentedBody},
        coding::{self, Coded, Coding, MAX_RATIO, RATIO_FROM, ZSTD_WINDOW_LOG},
        json::Value,
        references::request::{RequestScan, ScannedRequest, Streaming},
        tokens,
    },
    proxy::error::ApiError,
};

/// The most bytes that are read of a body without a meaning, so that its connection can be used again.
const DISCARDED: usize = 64 * 1024;

/// Longest name of a model, in bytes. Real names stay under 100.
const MAX_MODEL: usize = 256;

/// After this many bytes the other work of this worker gets its turn, and the runtime asks the system for new events (about 1
/// µs). Scanning this many bytes takes 10 µs for text and 0.4 ms for dense JSON.
const YIELD_AFTER: usize = 64 * 1024;

/// The size of the blocks for decoded bytes.
const DECODED_PIECE: usize = 32 * 1024;

/// A block with less room than this takes no more bytes. A block with more room takes the next bytes. With a new block for each
/// piece, a body whose codes arrive by a few KiB would take twice its memory. The budget counts only the body's bytes.
const USEFUL_ROOM: usize = 2 * 1024;

/// The memory of a decoder beside its window: blocks, tables and output. zstd's blocks and tables are the largest, 0.3 MiB.
const DECODER: u64 = 384 * 1024;

/// A complete body.
#[derive(Default)]
pub(in crate::proxy) struct ReceivedBody {
    pub(in crate::proxy) rope: SegmentedBody,
    pub(in crate::proxy) model: Option<RequestedModel>,
    /// How many of its bytes belong to encoded files, such as images.
    pub(in crate::proxy) encoded: u64,
    /// `prompt_cache_key`, if it is a string of a usable length.
    pub(in crate::proxy) cache_key: Option<Box<str>>,
    /// Whether `background` is true.
    pub(in crate::proxy) background: bool,
    /// Whether `stream` is true.
    pub(in crate::proxy) stream: bool,
    /// The stream options of a chat request.
    pub(in crate::proxy) streaming: Streaming,
    /// The references of the body, if there are any.
    pub(in crate::proxy) state: Option<Box<ScannedRequest>>,
}

impl ReceivedBody {
    /// Returns the edit that makes a chat stream report its usage. `None` = the request asks for that already.
    pub(in crate::proxy) fn edit_to_report_usage(&self) -> Option<Edit> {
        self.streaming.edit_to_report_usage(|range| self.rope.first_after(range.start + 1) != Some(b'}'))
    }
}

/// The model that the request names.
#[derive(Debug)]
pub(in crate::proxy) struct RequestedModel {
    pub(in crate::proxy) name: Box<str>,
    /// The position of the name's JSON value in the body.
    pub(in crate::proxy) range: Range<u64>,
}

/// Reads the body, into memory that `memory` grants as it arrives. With `opaque`, random texts may be ids
/// ([`RequestScan::new`]).
pub(in crate::proxy) async fn receive<B>(
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
    // Content-Length allows an early rejection without reading. An encoded body only grows.
    if body.size_hint().lower() > max_bytes {
        return Err(ApiError::too_large(max_bytes));
    }
    let expected = if coding.is_none() { body.size_hint().exact() } else { None };
    let mut scan = BodyScan::new(max_bytes, memory, coding, expected, RequestScan::new(endpoint, opaque), endpoint);
    // Only the first step is reserved. A client that announces a large body and then sends slowly keeps no memory from other
    // clients. A body that would not fit now is rejected before its client sends it.
    if !memory.has_room(expected.unwrap_or_default()) || !scan.hold(expected.unwrap_or_default().min(STEP)) {
        return Err(ApiError::overloaded().closing_unless_read(&body));
    }
    let mut reader = RequestBodyReader::new(body, timeouts, max_bytes);
    let read = match coding {
        None => read(&mut reader, &mut scan).await,
        // Boxed, so that this rare path does not make the future of every request larger.
        Some(coding) => Box::pin(decode(coding, &mut reader, &mut scan)).await,
    };
    match read {
        Ok(()) => scan.finish(),
        Err(refusal) => Err(refusal.closing_unless_read(&reader.body)),
    }
}

/// Discards a body without a meaning. SDKs send no body with DELETE and cancel requests, but still declare JSON. Tidegate
/// neither parses such a body nor forwards it.
async fn discard<B>(body: B, timeouts: &Timeouts) -> Result<ReceivedBody, ApiError>
where
    B: Body<Data = Bytes, Error: Error + 'static> + Send + Unpin,
{
    let mut reader = RequestBodyReader::new(body, timeouts, u64::MAX);
    let mut left = DISCARDED;
    while !reader.body.is_end_stream() {
        match std::future::poll_fn(|cx| reader.poll_piece(cx)).await {
            Ok(Some(piece)) if piece.len() <= left => left -= piece.len(),
            Ok(Some(_)) => return Err(ApiError::needless_body()),
            Ok(None) => break,
            Err(refusal) => return Err(refusal.closing_unless_read(&reader.body)),
        }
    }
    Ok(ReceivedBody::default())
}

async fn read<B>(reader: &mut RequestBodyReader<B>, scan: &mut BodyScan<'_>) -> Result<(), ApiError>
where
    B: Body<Data = Bytes, Error: Error + 'static> + Send + Unpin,
{
    while let Some(piece) = std::future::poll_fn(|cx| reader.poll_piece(cx)).await? {
        scan.take(piece).await?;
    }
    Ok(())
}

/// Returns the content coding of the body, if the body has one.
fn coding_of(headers: &HeaderMap) -> Result<Option<Coding>, ApiError> {
    let values = headers.get_all(CONTENT_ENCODING).iter();
    match Coded::of(values.map(|value| value.to_str().ok())) {
        Coded::Plain => Ok(None),
        Coded::Once(coding) => Ok(Some(coding)),
        Coded::Unknown => Err(ApiError::unsupported_encoding()),
    }
}

async fn decode<B>(coding: Coding, reader: &mut RequestBodyReader<B>, scan: &mut BodyScan<'_>) -> Result<(), ApiError>
where
    B: Body<Data = Bytes, Error: Error + 'static> + Send + Unpin,
{
    if coding == Coding::Brotli && has_large_window(reader).await {
        return Err(ApiError::large_window());
    }
    let encoded = Arc::clone(&reader.received);
    let mut decoder: Pin<Box<dyn AsyncRead + Send + '_>> = match coding {
        Coding::Gzip => {
            let mut decoder = GzipDecoder::new(&mut *reader);
            decoder.multiple_members(true);
            Box::pin(decoder)
        }
        Coding::Deflate => Box::pin(ZlibDecoder::new(&mut *reader)),
        Coding::Brotli => Box::pin(BrotliDecoder::new(&mut *reader)),
        Coding::Zstd => {
            let params = [DParameter::window_log_max(ZSTD_WINDOW_LOG)];
            let mut decoder = ZstdDecoder::with_params(&mut *reader, &params);
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
    // An error of the transfer says more than the decoder, for which the body only ended.
    if let Some(refusal) = reader.refusal.take() {
        return Err(refusal);
    }
    outcome?;
    match reader.fill_buf().await {
        Ok([]) => Ok(()),
        Ok(_) => Err(ApiError::invalid_encoding()),
        Err(_) => Err(reader.refusal.take().unwrap_or_else(ApiError::invalid_encoding)),
    }
}

/// Whether a brotli stream begins as only large-window brotli does. Ignores an error of the body, because the decoder meets the
/// same error again.
async fn has_large_window<B>(reader: &mut RequestBodyReader<B>) -> bool
where
    B: Body<Data = Bytes, Error: Error + 'static> + Send + Unpin,
{
    matches!(reader.fill_buf().await, Ok([first, ..]) if coding::has_large_window(*first))
}

/// The memory of a lookup, as a multiple of the memory that the scan keeps of a reference. One lookup takes about 200 bytes.
const LOOKED_UP: u64 = 4;

/// Scans the pieces of a body and keeps them.
struct BodyScan<'a> {
    scanner: RequestScan,
    names_model: bool,
    rope: SegmentedBody,
    max_bytes: u64,
    memory: &'a ByteShare,
    reserved: ByteReservation,
    /// `None` = nothing is left to decode.
    coding: Option<Coding>,
    /// The length of the body, if the client declared it.
    expected: Option<u64>,
    /// Bytes since other work of this worker had its turn.
    since_yield: usize,
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
            rope: SegmentedBody::new(),
            max_bytes,
            memory,
            reserved: memory.nothing(),
            coding,
            expected,
            since_yield: 0,
            encoded: 0,
        }
    }

    /// Reserves memory for the first `len` bytes of the body and for the decoder.
    fn hold(&mut self, len: u64) -> bool {
        // A decoder allocates its whole window, but the system provides memory only for the written part.
        let decoder = self.coding.map_or(0, |coding| DECODER + len.min(coding.window()));
        let besides = decoder + self.scanner.held() * LOOKED_UP;
        let most = self.expected.map_or(u64::MAX, |expected| expected + besides);
        self.reserved.cover(self.bounded(len, besides), most)
    }

    /// Releases the memory of the decoder. The end of the body may still be missing.
    fn decoded(&mut self) {
        self.coding = None;
        let _ = self.reserved.set(self.bounded(self.rope.len(), self.scanner.held() * LOOKED_UP));
    }

    /// Limits the reservation to the budget. The configuration check ensures that the largest body fits by itself. This limit
    /// lets the body fit together with `besides`, its other memory.
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
        self.since_yield += len;
        if self.since_yield >= YIELD_AFTER {
            self.since_yield = 0;
            yield_to_runtime().await;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<ReceivedBody, ApiError> {
        let len = self.rope.len();
        // The whole last step is rarely needed.
        if !self.reserved.set(self.bounded(len, self.scanner.held() * LOOKED_UP)) {
            return Err(ApiError::overloaded());
        }
        self.rope.hold(self.reserved);
        // An endpoint without a model accepts an empty body.
        if !self.names_model && self.rope.is_empty() {
            return Ok(ReceivedBody::default());
        }
        let mut request = self.scanner.finish().map_err(|error| ApiError::json(&error))?;
        let model = match request.model.take() {
            None => None,
            Some(found) => match found.value {
                // With a stored prompt the model may be left out, or null (docs/wire.md, section 8).
                Value::Null => None,
                Value::String(name) if name.is_empty() => {
                    return Err(ApiError::invalid_model("is empty. Send the name of a model."));
                }
                Value::String(name) if !model_name::is_plain(&name) => {
                    return Err(ApiError::invalid_model(
                        "contains white space or an empty part at a slash or at an end, or a control or invisible \
                         character. Send the plain name.",
                    ));
                }
                Value::String(name) if name.len() <= MAX_MODEL => Some(RequestedModel { name, range: found.range }),
                Value::String(_) | Value::LongString => {
                    return Err(ApiError::invalid_model("is too long. A model name may have at most 256 bytes."));
                }
                Value::InvalidString => {
                    return Err(ApiError::invalid_model("is not valid text. Send the name of a model in UTF-8."));
                }
                _ => return Err(ApiError::invalid_model("must be a string. Send the name of a model.")),
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
