//! What answers requests.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;

use super::body::RequestBody;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Any tower service that takes a [`RequestBody`], never fails and is always ready: it is not asked whether it is.
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
