//! The body of an upstream's answer, which owns the connection.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::{connection::UpstreamConnection, idle::IdleConnections};

/// The body of an upstream's answer, together with its connection. Reading the body also drives the connection. Dropping the body before
/// its end closes the connection.
#[derive(Debug)]
pub struct AnswerBody {
    body: Incoming,
    /// `None` = the connection ended, or is idle again.
    connection: Option<Box<UpstreamConnection>>,
    idle: Arc<IdleConnections>,
}

impl AnswerBody {
    /// Makes the body of an answer. After the end of the body, its connection goes to `idle`.
    pub(super) fn new(
        body: Incoming,
        connection: Option<Box<UpstreamConnection>>,
        idle: &Arc<IdleConnections>,
    ) -> Self {
        let mut body = Self { body, connection, idle: Arc::clone(idle) };
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
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        let frame = match &mut this.connection {
            None => Pin::new(&mut this.body).poll_frame(cx),
            Some(connection) => {
                let (frame, is_over) = connection.poll_body(&mut this.body, cx);
                if is_over {
                    this.connection = None;
                }
                frame
            }
        };
        match &frame {
            Poll::Ready(Some(Ok(_))) if this.body.is_end_stream() => this.release(),
            Poll::Ready(None) => this.release(),
            Poll::Ready(Some(Err(_))) => this.connection = None,
            _ => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
