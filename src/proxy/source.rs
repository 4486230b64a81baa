//! The body of an upstream's answer, as far as it was not read yet.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderValue,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
    response::Parts,
};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::timeout;

use super::error::ApiError;
use crate::{
    protocol::mask::{MaskScope, MaskedBody},
    upstream::{
        EchoWatch,
        headers::{self, Media},
    },
};

/// The body of an upstream's answer, of which the beginning may have been read already. What comes out of it holds no
/// credential where none may stand.
#[derive(Debug)]
pub(super) struct UpstreamBody {
    read: VecDeque<Bytes>,
    rest: Option<Incoming>,
    masked: MaskedBody,
    echo: EchoWatch,
    /// How it broke while it was read: hyper's body tells that once, and then looks as if it had ended.
    broken: Option<hyper::Error>,
}

impl UpstreamBody {
    /// Of an answer with this head, in which the credential is masked that the answer was asked with: in the values of headers,
    /// everywhere in an error answer, and in the errors of a success.
    pub(super) fn new(head: &mut Parts, body: Incoming, mut echo: EchoWatch) -> Self {
        echo.mask_headers(&mut head.headers);
        let media = Media::of(&head.headers);
        let scope = match (head.status.is_success(), media) {
            _ if echo.mask().is_none() => MaskScope::Nowhere,
            (false, _) if headers::is_coded(&head.headers) => return Self::withheld(head, echo),
            (false, _) => MaskScope::Everywhere,
            _ if headers::is_coded(&head.headers) => MaskScope::Nowhere,
            (true, Media::EventStream) => MaskScope::errors(true),
            (true, Media::Json | Media::Plain) => MaskScope::errors(false),
            (true, Media::Html | Media::Text | Media::Other) => MaskScope::Nowhere,
        };
        Self { read: VecDeque::new(), rest: Some(body), masked: MaskedBody::new(scope), echo, broken: None }
    }

    /// An error of ours in place of one in a coding that was not asked for, as it cannot be masked.
    fn withheld(head: &mut Parts, echo: EchoWatch) -> Self {
        head.headers.remove(CONTENT_ENCODING);
        head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let read = VecDeque::from([ApiError::withheld().body()]);
        Self { read, rest: None, masked: MaskedBody::new(MaskScope::Nowhere), echo, broken: None }
    }

    /// Masks a name that was read out of the answer, for the log and the ledger.
    pub(super) fn mask_name(&mut self, name: &mut Option<Box<str>>) {
        self.echo.mask_name(name);
    }

    /// The next piece, for who judges the answer.
    pub(super) async fn next(&mut self) -> Option<Result<Bytes, hyper::Error>> {
        loop {
            match poll_fn(|cx| self.poll(cx)).await? {
                // Trailers belong to the connection that they came on.
                Ok(frame) => {
                    if let Ok(data) = frame.into_data() {
                        return Some(Ok(data));
                    }
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// Waits until the first byte is here; none where there will be none.
    pub(super) async fn fill(&mut self) -> Option<Result<(), hyper::Error>> {
        loop {
            match self.next().await? {
                Ok(data) if data.is_empty() => {}
                Ok(data) => {
                    self.put_back(vec![data]);
                    return Some(Ok(()));
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// Whether its first byte is this one, white space aside. Waits for it no longer than `within`.
    pub(super) async fn begins_with(&mut self, first: u8, within: Duration) -> bool {
        let here = matches!(timeout(within, self.fill()).await, Ok(Some(Ok(()))));
        here && self.read.front().is_some_and(|data| data.trim_ascii_start().first() == Some(&first))
    }

    /// Gives back what was read, for the client.
    pub(super) fn put_back(&mut self, read: Vec<Bytes>) {
        for data in read.into_iter().rev() {
            self.read.push_front(data);
        }
    }

    /// Breaks after what was read, as it did when it was read.
    pub(super) fn breaks(&mut self, error: hyper::Error) {
        self.broken = Some(error);
        self.rest = None;
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(data) = self.read.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        loop {
            if let Some(error) = self.broken.take() {
                return Poll::Ready(Some(Err(error)));
            }
            let Some(body) = &mut self.rest else { return Poll::Ready(None) };
            let polled = ready!(Pin::new(&mut *body).poll_frame(cx));
            let last = body.is_end_stream();
            let data = match polled {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.mask(data, last),
                    // Trailers belong to the connection that they came on.
                    Err(_) => continue,
                },
                Some(Err(error)) => {
                    self.breaks(error);
                    self.mask(Bytes::new(), true)
                }
                None => {
                    self.rest = None;
                    self.mask(Bytes::new(), true)
                }
            };
            if !data.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
        }
    }

    fn mask(&mut self, data: Bytes, last: bool) -> Bytes {
        let Some(mask) = self.echo.mask() else { return data };
        let (data, any) = self.masked.pass(mask, data, last);
        if any {
            self.echo.tell();
        }
        data
    }

    pub(super) fn is_end(&self) -> bool {
        self.read.is_empty()
            && self.masked.held() == 0
            && self.broken.is_none()
            && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        if self.broken.is_some() {
            return SizeHint::default();
        }
        let read = self.read.iter().map(|data| data.len() as u64).sum::<u64>() + self.masked.held() as u64;
        match self.rest.as_ref().map(Body::size_hint) {
            None => SizeHint::with_exact(read),
            Some(rest) => rest.exact().map_or_else(SizeHint::default, |rest| SizeHint::with_exact(read + rest)),
        }
    }
}
