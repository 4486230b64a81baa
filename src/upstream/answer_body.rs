//! The body of an upstream's answer, which owns the connection.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::{connection::UpstreamConnection, idle::IdleConnections};

/// Frames that are ready together are joined up to this size, in bytes: about what one read from the socket brings.
const JOINED: usize = 8 * 1024;

/// The body of an upstream's answer, together with its connection. Reading the body also drives the connection. Dropping the body before
/// its end closes the connection.
///
/// Frames that are ready together come as one: the work for a frame on its way to the client costs more than copying its few bytes.
#[derive(Debug)]
pub struct AnswerBody {
    body: Incoming,
    /// `None` = the connection ended, or is idle again.
    connection: Option<Box<UpstreamConnection>>,
    /// The error that came behind data which is returned first. After an error, hyper's body looks like a clean end.
    failed: Option<hyper::Error>,
    idle: Arc<IdleConnections>,
}

impl AnswerBody {
    /// Makes the body of an answer. After the end of the body, its connection goes to `idle`.
    pub(super) fn new(
        body: Incoming,
        connection: Option<Box<UpstreamConnection>>,
        idle: &Arc<IdleConnections>,
    ) -> Self {
        let mut body = Self { body, connection, failed: None, idle: Arc::clone(idle) };
        if body.is_end_stream() {
            body.release();
        }
        body
    }

    /// The answer is complete: the connection waits for the next request.
    fn release(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.idle.put(connection);
        }
    }

    /// Returns the next data of the answer, with all that is ready behind it. Trailers belong to one connection and are left out.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, hyper::Error>>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Some(Err(error)));
        }
        self.poll_one(cx).map_ok(|first| self.join(first, cx))
    }

    /// Returns the data of the next frame.
    fn poll_one(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, hyper::Error>>> {
        loop {
            let frame = match &mut self.connection {
                None => Pin::new(&mut self.body).poll_frame(cx),
                Some(connection) => {
                    let (frame, is_over) = connection.poll_body(&mut self.body, cx);
                    if is_over {
                        self.connection = None;
                    }
                    frame
                }
            };
            match ready!(frame) {
                Some(Ok(frame)) => {
                    if self.body.is_end_stream() {
                        self.release();
                    }
                    if let Ok(data) = frame.into_data() {
                        return Poll::Ready(Some(Ok(data)));
                    }
                }
                Some(Err(error)) => {
                    self.connection = None;
                    return Poll::Ready(Some(Err(error)));
                }
                None => {
                    self.release();
                    return Poll::Ready(None);
                }
            }
        }
    }

    /// Joins the data that is ready behind `first`.
    fn join(&mut self, first: Bytes, cx: &mut Context<'_>) -> Bytes {
        let (mut pieces, mut size) = (Vec::new(), first.len());
        while size < JOINED && !self.body.is_end_stream() {
            match self.poll_one(cx) {
                Poll::Ready(Some(Ok(next))) => {
                    size += next.len();
                    pieces.push(next);
                }
                Poll::Ready(Some(Err(error))) => {
                    self.failed = Some(error);
                    break;
                }
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        if pieces.is_empty() {
            return first;
        }
        // Exactly as large as the data: a client that does not read lets such pieces wait.
        let mut joined = Vec::with_capacity(size);
        joined.extend_from_slice(&first);
        pieces.iter().for_each(|piece| joined.extend_from_slice(piece));
        Bytes::from(joined)
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.poll_data(cx).map_ok(Frame::data)
    }

    fn is_end_stream(&self) -> bool {
        self.failed.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
