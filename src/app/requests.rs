//! Hands requests to the router, and knows when each of them is over.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::{Router, body::Body};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, Version, header::CONNECTION};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::{body::Incoming, service::Service};
use tower_service::Service as _;

use super::progress::Progress;
use crate::domain::departure::Departure;

/// Hands requests to the router, and keeps `progress` right.
pub(super) struct Requests {
    pub(super) router: Router,
    pub(super) progress: Arc<Progress>,
    pub(super) departure: Departure,
}

/// The client left before this request of its was looked at.
#[derive(Debug, thiserror::Error)]
#[error("the client left")]
pub(super) struct ClientLeft;

impl Service<Request<Incoming>> for Requests {
    type Response = Response<Tracked>;
    type Error = ClientLeft;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ClientLeft>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        if self.progress.has_left() {
            return Box::pin(std::future::ready(Err(ClientLeft)));
        }
        self.progress.busy();
        let busy = Busy(Arc::clone(&self.progress));
        request.extensions_mut().insert(self.departure.clone());
        let mut router = self.router.clone();
        // HTTP/1.0 knows no chunks: without a length, a body ends with its connection.
        let by_closing = request.version() == Version::HTTP_10;
        Box::pin(async move {
            let Ok(mut response) = router.call(request).await;
            if busy.0.is_leaving() {
                // Told with an answer, a client does not send its next request into a connection that closes.
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            let body = response.body();
            busy.0.open_ended(by_closing && !body.is_end_stream() && body.size_hint().exact().is_none());
            Ok(response.map(|body| Tracked { body, busy }))
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
pub(super) struct Tracked {
    body: Body,
    busy: Busy,
}

impl HttpBody for Tracked {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        ready!(self.busy.0.poll_room(cx));
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        let ended = match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                self.busy.0.queue(frame.data_ref().map_or(0, Bytes::len));
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
