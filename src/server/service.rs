//! The interface of the service that answers requests.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;

use super::body::RequestBody;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The service that answers the requests of the HTTP server: any tower service that takes a [`RequestBody`] and never fails. It must
/// always be ready: `poll_ready` is not called.
pub trait Service: Clone + Send + Sync + Unpin + 'static {
    /// The body of an answer.
    type Body: Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static;

    /// Answers a request.
    fn answer(&mut self, request: Request<RequestBody>) -> impl Future<Output = Response<Self::Body>> + Send + 'static;
}

impl<S, B> Service for S
where
    S: tower_service::Service<Request<RequestBody>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + Sync + Unpin + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
{
    type Body = B;

    fn answer(&mut self, request: Request<RequestBody>) -> impl Future<Output = Response<B>> + Send + 'static {
        let answering = self.call(request);
        async move {
            let Ok(response) = answering.await;
            response
        }
    }
}
