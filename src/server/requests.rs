//! Passes requests to the service, and tracks when each of them ends.

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

/// Passes requests to the service, and keeps `progress` up to date.
pub(super) struct Requests<S> {
    pub(super) service: S,
    pub(super) progress: Arc<Progress>,
    pub(super) client: Arc<dyn Client>,
    /// The concurrent requests, over HTTP/2.
    pub(super) streams: Option<Streams>,
}

/// Why a request was not passed to the service.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotServed {
    /// The client had left already.
    #[error("the client closed the connection before the request was served")]
    ClientLeft,
    /// No slot is free. The stream is reset with this reason, which tells the client that it may try again.
    #[error("the HTTP/2 connection of the client has reached the limit of concurrent requests")]
    Full(#[source] h2::Error),
}

impl<S: Service> hyper::service::Service<Request<Incoming>> for Requests<S> {
    type Response = Response<Tracked<S::Body>>;
    type Error = NotServed;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, NotServed>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let refuse = |unserved| Box::pin(std::future::ready(Err(unserved)));
        if self.progress.has_client_left() {
            return refuse(NotServed::ClientLeft);
        }
        let stream = match self.streams.as_ref().map(Streams::open) {
            None => None,
            Some(Some(stream)) => Some(stream),
            Some(None) => return refuse(NotServed::Full(h2::Reason::REFUSED_STREAM.into())),
        };
        self.progress.request_started();
        let busy = RequestGuard(Arc::clone(&self.progress));
        let client = stream.as_ref().map_or(&self.client, |stream| &stream.client);
        client.add_extensions(request.extensions_mut());
        let (mut service, streams) = (self.service.clone(), self.streams.clone());
        // HTTP/1.0 has no chunks: a body without a length ends with its connection.
        let ends_with_connection = request.version() == Version::HTTP_10;
        Box::pin(async move {
            let mut response = service.answer(request.map(|body| RequestBody::new(body, streams))).await;
            if stream.is_none() {
                if busy.0.is_leaving() {
                    // A client that learns this from an answer does not send its next request into a closing
                    // connection.
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                let body = response.body();
                busy.0.open_ended(ends_with_connection && !body.is_end_stream() && body.size_hint().exact().is_none());
            }
            Ok(response.map(|body| Tracked { body, busy, stream }))
        })
    }
}

/// Guards a request in progress. Dropping it ends the request.
struct RequestGuard(Arc<Progress>);

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.0.request_ended();
    }
}

/// The body of an answer. Its end is the end of the request.
pub(super) struct Tracked<B> {
    body: B,
    busy: RequestGuard,
    stream: Option<Arc<Stream>>,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Tracked<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match &self.stream {
            None => ready!(self.busy.0.poll_room(cx)),
            Some(stream) => stream.piece_sent(),
        }
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        let ended = match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                match &self.stream {
                    None => self.busy.0.queue(frame.data_ref().map_or(0, Bytes::len)),
                    Some(stream) => stream.piece_handed_over(),
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
