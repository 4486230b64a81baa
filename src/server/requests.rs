//! Hands requests to the service, and knows when each of them is over.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Version, header::CONNECTION};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::{
    body::RequestBody,
    observer::Client,
    progress::Progress,
    service::Service,
    streams::{Stream, Streams},
};

/// Hands requests to the service, and keeps `progress` right.
pub(super) struct Requests<S> {
    pub(super) service: S,
    pub(super) progress: Arc<Progress>,
    pub(super) client: Arc<dyn Client>,
    /// Where there may be several at once.
    pub(super) streams: Option<Streams>,
}

/// A request that nobody looked at.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unserved {
    /// The client left before.
    #[error("the client left")]
    ClientLeft,
    /// Its stream is reset for this reason, which tells the client that it may try again.
    #[error("no slot is free")]
    Full(#[source] h2::Error),
}

impl<S: Service> hyper::service::Service<Request<Incoming>> for Requests<S> {
    type Response = Response<Tracked<S::Body>>;
    type Error = Unserved;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Unserved>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let refuse = |unserved| Box::pin(std::future::ready(Err(unserved)));
        if self.progress.has_left() {
            return refuse(Unserved::ClientLeft);
        }
        let stream = match self.streams.as_ref().map(Streams::open) {
            None => None,
            Some(Some(stream)) => Some(stream),
            Some(None) => return refuse(Unserved::Full(h2::Reason::REFUSED_STREAM.into())),
        };
        self.progress.busy();
        let busy = Busy(Arc::clone(&self.progress));
        let client = stream.as_ref().map_or(&self.client, |stream| &stream.client);
        client.introduce(request.extensions_mut());
        let (mut service, streams) = (self.service.clone(), self.streams.clone());
        // HTTP/1.0 knows no chunks: without a length, a body ends with its connection.
        let by_closing = request.version() == Version::HTTP_10;
        Box::pin(async move {
            let mut response = service.answer(request.map(|body| RequestBody::new(body, streams))).await;
            if stream.is_none() {
                if busy.0.is_leaving() {
                    // Told with an answer, a client does not send its next request into a connection that closes.
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                let body = response.body();
                busy.0.open_ended(by_closing && !body.is_end_stream() && body.size_hint().exact().is_none());
            }
            Ok(response.map(|body| Tracked { body, busy, stream }))
        })
    }
}

/// While it lives, a request is under way.
struct Busy(Arc<Progress>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.idle();
    }
}

/// The body of an answer; its end is the end of the request.
pub(super) struct Tracked<B> {
    body: B,
    busy: Busy,
    stream: Option<Arc<Stream>>,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Tracked<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match &self.stream {
            None => ready!(self.busy.0.poll_room(cx)),
            Some(stream) => stream.flows(),
        }
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        let ended = match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                match &self.stream {
                    None => self.busy.0.queue(frame.data_ref().map_or(0, Bytes::len)),
                    Some(stream) => stream.hands(),
                }
                self.body.is_end_stream()
            }
            Poll::Ready(None) => true,
            _ => false,
        };
        if ended {
            self.busy.0.open_ended(false);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
