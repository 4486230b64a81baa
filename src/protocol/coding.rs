//! Content codings of bodies, and a decoder that decodes a copy of an answer piece by piece.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use async_compression::{
    tokio::bufread::{BrotliDecoder, DeflateDecoder, GzipDecoder, ZlibDecoder, ZstdDecoder},
    zstd::DParameter,
};
use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncBufRead, AsyncRead, ReadBuf};

/// The largest window of the zstd decoder, as a power of two: 2^23 bytes = 8 MiB. RFC 9659 requires that much of a decoder for the
/// content coding, and no more. Without this limit a frame may ask for 128 MiB.
pub const ZSTD_WINDOW_LOG: u32 = 23;

/// How many times larger a compressed body may become by decoding, once the decoded body is larger than [`RATIO_FROM`]. Conversations
/// with many repeats reach 50.
pub const MAX_RATIO: u64 = 200;
/// The decoded size, in bytes, from which the limit [`MAX_RATIO`] for the growth of a body applies: 1 MiB.
pub const RATIO_FROM: u64 = 1024 * 1024;

/// The decoder passes decoded bytes to the observer in blocks of this size.
const BLOCK: usize = 16 * 1024;

/// A content coding (compression of a body) that Tidegate can decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// `gzip`
    Gzip,
    /// `deflate`
    Deflate,
    /// `br`
    Brotli,
    /// `zstd`
    Zstd,
}

/// What a `Content-Encoding` header says of a body: not compressed, one coding that Tidegate can decode, or anything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coded {
    /// No coding, or `identity`.
    Plain,
    /// One coding that Tidegate can decode.
    Once(Coding),
    /// An unknown coding, or several codings.
    Unknown,
}

impl Coded {
    /// Reads the `Content-Encoding` headers of a message. `None` stands for a header value that is not text.
    pub fn of<'a>(mut values: impl Iterator<Item = Option<&'a str>>) -> Self {
        let name = match (values.next(), values.next()) {
            (None, _) => return Self::Plain,
            (Some(Some(value)), None) => value.trim().to_ascii_lowercase(),
            _ => return Self::Unknown,
        };
        match name.as_str() {
            "" | "identity" => Self::Plain,
            "gzip" | "x-gzip" => Self::Once(Coding::Gzip),
            "deflate" => Self::Once(Coding::Deflate),
            "br" => Self::Once(Coding::Brotli),
            "zstd" => Self::Once(Coding::Zstd),
            _ => Self::Unknown,
        }
    }
}

impl Coding {
    /// Returns how many bytes of memory the decoder of this content coding needs for its window.
    pub fn window(self) -> u64 {
        match self {
            Self::Gzip | Self::Deflate => 32 * 1024,
            Self::Brotli => 1 << 24,
            Self::Zstd => 1 << ZSTD_WINDOW_LOG,
        }
    }
}

/// Whether a brotli body that begins with this byte uses large-window brotli: 0x11 in 7 bits, which RFC 7932 reserves. Such a stream may
/// ask for a window of 1 GiB, and the decoder would allocate it. The content coding `br` allows up to 16 MiB.
pub fn has_large_window(first: u8) -> bool {
    first & 0x7f == 0x11
}

/// Decodes a copy of a compressed answer, so that code that only observes can read the answer. Takes the memory of the coding's window
/// and of one block.
///
/// The first bytes decide the coding. A body with the magic number of gzip or zstd has that coding, whatever its headers say. A
/// body without the magic number of the gzip or zstd that its headers name is taken as plain.
pub struct ObserverDecoder {
    coding: Option<Coding>,
    /// The first bytes, until they are enough to decide the coding.
    begin: BytesMut,
    decoder: Option<Decoder>,
    is_plain: bool,
    /// The body cannot be decoded, or it grows too much. The decoder ignores the rest.
    failed: bool,
    encoded: u64,
    decoded: u64,
    block: Vec<u8>,
}

impl std::fmt::Debug for ObserverDecoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Aside").field("coding", &self.coding).field("failed", &self.failed).finish_non_exhaustive()
    }
}

/// The most bytes that are needed to decide: the magic number of zstd.
const MARK: usize = 4;
const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// Whether an answer that begins with this byte may be compressed although its headers name no coding. No JSON and no event stream begins
/// with such a byte.
pub fn may_be_coded(first: u8) -> bool {
    first == GZIP[0] || first == ZSTD[0]
}

impl ObserverDecoder {
    /// Makes the decoder for a copy of an answer whose headers name this content coding, or none.
    pub fn new(coding: Option<Coding>) -> Self {
        Self {
            coding,
            begin: BytesMut::new(),
            decoder: None,
            is_plain: false,
            failed: false,
            encoded: 0,
            decoded: 0,
            block: Vec::new(),
        }
    }

    /// Decodes the next piece of a compressed answer, and calls `see` with the decoded bytes.
    pub fn feed(&mut self, piece: &[u8], mut see: impl FnMut(&[u8])) {
        self.encoded += piece.len() as u64;
        if self.failed {
            return;
        }
        if self.is_plain {
            return see(piece);
        }
        if self.decoder.is_some() {
            return self.decode(Bytes::copy_from_slice(piece), false, &mut see);
        }
        self.begin.extend_from_slice(piece);
        if self.begin.len() >= MARK {
            self.begin(&mut see);
        }
    }

    /// Whether this answer cannot be decoded: its data is invalid, or it grows too much.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// Ends the compressed answer, and calls `see` with the last decoded bytes.
    pub fn finish(&mut self, mut see: impl FnMut(&[u8])) {
        if !self.is_plain && self.decoder.is_none() && !self.failed {
            self.begin(&mut see);
        }
        if self.decoder.is_some() {
            self.decode(Bytes::new(), true, &mut see);
        }
    }

    /// Decides the coding from the first bytes.
    fn begin(&mut self, see: &mut impl FnMut(&[u8])) {
        let begin = self.begin.split().freeze();
        let coding = if begin.starts_with(GZIP) {
            Some(Coding::Gzip)
        } else if begin.starts_with(ZSTD) {
            Some(Coding::Zstd)
        } else {
            self.coding.filter(|coding| !matches!(coding, Coding::Gzip | Coding::Zstd))
        };
        let Some(coding) = coding else {
            self.is_plain = true;
            return see(&begin);
        };
        let first = begin.first().copied().unwrap_or_default();
        self.failed = coding == Coding::Brotli && has_large_window(first);
        self.decoder = Some(Decoder::new(coding, &begin));
        self.decode(begin, false, see);
    }

    fn decode(&mut self, piece: Bytes, last: bool, see: &mut impl FnMut(&[u8])) {
        let Some(decoder) = self.decoder.as_mut().filter(|_| !self.failed) else { return };
        let inlet = decoder.inlet();
        debug_assert!(inlet.piece.is_empty(), "a decoder takes all of a piece before the next one");
        (inlet.piece, inlet.is_last) = (piece, last);
        self.block.resize(BLOCK, 0);
        loop {
            let mut block = ReadBuf::new(&mut self.block);
            match decoder.poll(&mut block) {
                Poll::Ready(Ok(())) if block.filled().is_empty() => break,
                Poll::Ready(Ok(())) => {
                    self.decoded += block.filled().len() as u64;
                    see(block.filled());
                    if self.decoded > RATIO_FROM && self.decoded / MAX_RATIO > self.encoded {
                        self.failed = true;
                        break;
                    }
                }
                Poll::Ready(Err(_)) => {
                    self.failed = true;
                    break;
                }
                Poll::Pending => break,
            }
        }
        // Ignore bytes after the end of the coded body.
        decoder.inlet().piece.clear();
    }
}

/// The input of a decoder: one piece at a time.
#[derive(Debug, Default)]
struct DecoderInput {
    piece: Bytes,
    is_last: bool,
}

impl AsyncRead for DecoderInput {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.piece.is_empty() && !self.is_last {
            return Poll::Pending;
        }
        let now = self.piece.len().min(into.remaining());
        into.put_slice(&self.piece.split_to(now));
        Poll::Ready(Ok(()))
    }
}

impl AsyncBufRead for DecoderInput {
    fn poll_fill_buf(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let inlet = self.get_mut();
        if inlet.piece.is_empty() && !inlet.is_last { Poll::Pending } else { Poll::Ready(Ok(&inlet.piece)) }
    }

    fn consume(mut self: Pin<&mut Self>, read: usize) {
        self.piece.advance(read);
    }
}

/// The decoder of one coding. Boxed, because few answers have a coding.
enum Decoder {
    Gzip(Box<GzipDecoder<DecoderInput>>),
    Zlib(Box<ZlibDecoder<DecoderInput>>),
    Deflate(Box<DeflateDecoder<DecoderInput>>),
    Brotli(Box<BrotliDecoder<DecoderInput>>),
    Zstd(Box<ZstdDecoder<DecoderInput>>),
}

impl Decoder {
    /// Creates the decoder of a body that begins with these bytes.
    fn new(coding: Coding, begin: &[u8]) -> Self {
        let inlet = DecoderInput::default();
        match coding {
            Coding::Gzip => {
                let mut decoder = GzipDecoder::new(inlet);
                decoder.multiple_members(true);
                Self::Gzip(Box::new(decoder))
            }
            // Some servers send deflate without the zlib header that the content coding requires.
            Coding::Deflate if is_zlib(begin) => Self::Zlib(Box::new(ZlibDecoder::new(inlet))),
            Coding::Deflate => Self::Deflate(Box::new(DeflateDecoder::new(inlet))),
            Coding::Brotli => Self::Brotli(Box::new(BrotliDecoder::new(inlet))),
            Coding::Zstd => {
                let params = [DParameter::window_log_max(ZSTD_WINDOW_LOG)];
                let mut decoder = ZstdDecoder::with_params(inlet, &params);
                decoder.multiple_members(true);
                Self::Zstd(Box::new(decoder))
            }
        }
    }

    fn inlet(&mut self) -> &mut DecoderInput {
        match self {
            Self::Gzip(decoder) => decoder.get_mut(),
            Self::Zlib(decoder) => decoder.get_mut(),
            Self::Deflate(decoder) => decoder.get_mut(),
            Self::Brotli(decoder) => decoder.get_mut(),
            Self::Zstd(decoder) => decoder.get_mut(),
        }
    }

    fn poll(&mut self, block: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // No task waits here: the caller polls again with the next piece.
        let cx = &mut Context::from_waker(Waker::noop());
        match self {
            Self::Gzip(decoder) => Pin::new(&mut **decoder).poll_read(cx, block),
            Self::Zlib(decoder) => Pin::new(&mut **decoder).poll_read(cx, block),
            Self::Deflate(decoder) => Pin::new(&mut **decoder).poll_read(cx, block),
            Self::Brotli(decoder) => Pin::new(&mut **decoder).poll_read(cx, block),
            Self::Zstd(decoder) => Pin::new(&mut **decoder).poll_read(cx, block),
        }
    }
}

/// Whether the bytes are a zlib header: the method, and a 16-bit number that is a multiple of 31.
fn is_zlib(begin: &[u8]) -> bool {
    matches!(begin, [method, flags, ..] if method & 0x0f == 8 && (u16::from(*method) << 8 | u16::from(*flags)) % 31 == 0)
}
