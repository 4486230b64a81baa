//! Builds answers with their heads.

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, RETRY_AFTER, SET_COOKIE};
use http::{HeaderValue, Response, StatusCode};

use super::body::AnswerBody;
use super::directive::Directive;
use super::fault::SimulatedError;
use super::personality::Personality;

/// A whole answer in JSON.
pub(super) fn json(body: impl Into<Bytes>, request_id: &str) -> Response<AnswerBody> {
    with_head(StatusCode::OK, "application/json", AnswerBody::Whole(Some(body.into())), request_id)
}

/// A whole answer, or the part of it that `cut` and `short-length` leave.
pub(super) fn whole(bytes: Vec<u8>, directive: &Directive, request_id: &str) -> Response<AnswerBody> {
    let bytes = Bytes::from(bytes);
    let Directive { cut, short_length, .. } = *directive;
    if !cut && !short_length {
        return json(bytes, request_id);
    }
    let declared = bytes.len() + 100;
    let sent = if cut { bytes.slice(..bytes.len() / 2) } else { bytes };
    let mut response = with_head(StatusCode::OK, "application/json", AnswerBody::broken(sent), request_id);
    if short_length {
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(declared));
    }
    response
}

/// A streamed answer.
pub(super) fn stream(body: AnswerBody, request_id: &str) -> Response<AnswerBody> {
    let mut response = with_head(StatusCode::OK, "text/event-stream; charset=utf-8", body, request_id);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// An error answer in the provider's shape.
pub(super) fn refuse(personality: Personality, fault: &SimulatedError, request_id: &str) -> Response<AnswerBody> {
    let body = personality.error(fault, request_id).write(personality.spaced());
    let mut response = json(body, request_id);
    *response.status_mut() = fault.status;
    if let Some(seconds) = fault.retry_after {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if let Some(methods) = fault.allow {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    }
    response
}

/// `html=STATUS`
pub(super) fn page(status: StatusCode, request_id: &str) -> Response<AnswerBody> {
    let page = format!("<!DOCTYPE html>\n<html><body><h1>Simulated page: {status}</h1></body></html>\n");
    with_head(status, "text/html; charset=utf-8", AnswerBody::Whole(Some(page.into())), request_id)
}

/// `redirect`
pub(super) fn redirect(request_id: &str) -> Response<AnswerBody> {
    let mut response = with_head(StatusCode::FOUND, "text/html", AnswerBody::Whole(None), request_id);
    response.headers_mut().insert(LOCATION, HeaderValue::from_static("https://redirected.invalid/v1/responses"));
    response
}

/// Adds the head that all answers have. The cookie and the `openai-` headers are there on purpose: a gateway must
/// remove them.
fn with_head(
    status: StatusCode,
    content_type: &'static str,
    body: AnswerBody,
    request_id: &str,
) -> Response<AnswerBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    if let Ok(id) = HeaderValue::from_str(request_id) {
        headers.insert("x-request-id", id);
    }
    // invented: the values. The names are those of the original API and of the network in front of it.
    headers.insert(SET_COOKIE, HeaderValue::from_static("__cf_bm=simulated; path=/; HttpOnly; Secure"));
    headers.insert("openai-organization", HeaderValue::from_static("simulated-organization"));
    headers.insert("openai-version", HeaderValue::from_static("2020-10-01"));
    headers.insert("openai-processing-ms", HeaderValue::from_static("1"));
    headers.insert("x-ratelimit-remaining-requests", HeaderValue::from_static("9999"));
    response
}
