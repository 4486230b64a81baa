//! Turns an answer into the response for the client: an upstream's answer, or an answer of Tidegate. Every path settles the
//! request once.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header::CONTENT_TYPE};
use http_body::{Body, Frame, SizeHint};

use super::{
    drain::{DrainContext, DrainOnDrop},
    relay::{Relay, RelayError},
    reply::Reply,
};
use crate::{
    auth::Caller,
    domain::outcome::EndReason,
    proxy::{
        arrival::RequestArrival,
        error::{ApiError, ERROR_SOURCE, UPSTREAM, sign},
        gateway::Proxy,
        settle::SettleOnDrop,
    },
    upstream::headers,
};

/// Without this header, an nginx in front of Tidegate would buffer a stream.
const ACCEL_BUFFERING: &str = "x-accel-buffering";

/// Turns the upstream's answer into the client's response. `drain` = how the answer is drained if the client leaves.
pub(in crate::proxy) fn relay(
    reply: Reply,
    mut guard: SettleOnDrop,
    drain: Option<DrainContext>,
) -> Response<ResponseBody> {
    let outcome = guard.settlement.outcome();
    outcome.status = Some(reply.head.status);
    let id = outcome.id;
    let (theirs, mut relay) = Relay::new(reply, guard);

    let mut head = headers::for_client(theirs.headers);
    sign(&mut head, id);
    if theirs.status.is_client_error() || theirs.status.is_server_error() {
        head.insert(ERROR_SOURCE, HeaderValue::from_static(UPSTREAM));
    }
    if relay.is_streamed() {
        head.insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
    }
    relay.end_if_empty();
    let mut response = Response::new(ResponseBody::Relay(DrainOnDrop::new(relay, drain)));
    *response.status_mut() = theirs.status;
    *response.headers_mut() = head;
    response
}

/// Turns an error of Tidegate into the client's response, and settles the request.
pub(in crate::proxy) fn refuse(error: ApiError, guard: SettleOnDrop) -> Response<ResponseBody> {
    error.answer(guard).map(ResponseBody::whole)
}

/// The body of a response to a client: relayed from an upstream, or made by Tidegate.
#[derive(Debug)]
pub enum ResponseBody {
    /// From an upstream.
    Relay(DrainOnDrop),
    /// Made by Tidegate, complete.
    Whole(Option<Bytes>),
}

impl ResponseBody {
    /// Makes the body of a response from bytes that Tidegate itself wrote.
    pub fn whole(body: Bytes) -> Self {
        Self::Whole(Some(body))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = RelayError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RelayError>>> {
        match self.get_mut() {
            Self::Relay(held) => held.poll(cx),
            Self::Whole(body) => Poll::Ready(body.take().map(|body| Ok(Frame::data(body)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Relay(held) => held.relay().is_none_or(Relay::is_end_stream),
            Self::Whole(body) => body.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Relay(held) => held.relay().map_or_else(SizeHint::default, Relay::size_hint),
            Self::Whole(body) => SizeHint::with_exact(body.as_ref().map_or(0, |body| body.len() as u64)),
        }
    }
}

impl Proxy {
    /// Makes the response for a request that gets an error of Tidegate, and settles the request.
    pub fn refuse(&self, arrival: &RequestArrival, refusal: ApiError) -> Response<ResponseBody> {
        refuse(refusal, self.tables().open(arrival))
    }

    /// Makes the response for a request that Tidegate answers itself: the JSON text, or an error. Settles the request.
    pub fn answer(
        &self,
        arrival: &RequestArrival,
        caller: &Caller,
        json: Result<String, ApiError>,
    ) -> Response<ResponseBody> {
        let mut guard = self.tables().open(arrival);
        guard.settlement.outcome().key = Some(Arc::clone(&caller.name));
        let body = match json {
            Ok(json) => Bytes::from(json),
            Err(refusal) => return refuse(refusal, guard),
        };
        let outcome = guard.settlement.outcome();
        outcome.status = Some(StatusCode::OK);
        outcome.bytes_down = body.len() as u64;
        guard.settle(EndReason::Completed);
        let mut response = Response::new(ResponseBody::whole(body));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        sign(response.headers_mut(), arrival.id);
        response
    }
}
