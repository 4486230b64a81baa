//! Request bodies as the service reads them.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::streams::Streams;

/// The body of a request, as the HTTP server receives it from the client. If an HTTP/2 body is dropped before its end, as a refusal does,
/// the server reads and drops the rest.
#[derive(Debug)]
pub struct RequestBody {
    /// `None` once the body ended or failed.
    body: Option<Incoming>,
    /// `None` over HTTP/1.1.
    streams: Option<Streams>,
}

impl RequestBody {
    pub(super) fn new(body: Incoming, streams: Option<Streams>) -> Self {
        Self { body: Some(body), streams }
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if let Some(streams) = &self.streams
            && let Some(body) = self.body.take().filter(|body| !body.is_end_stream())
        {
            streams.discard(body);
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let polled = ready!(Pin::new(body).poll_frame(cx));
        if !matches!(polled, Some(Ok(_))) {
            self.body = None;
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
