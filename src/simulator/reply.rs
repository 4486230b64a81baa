//! One request and its answer: who is asked, by which key, for what.

use std::io;

use bytes::Bytes;
use http::header::{
    ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, RETRY_AFTER, SET_COOKIE,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};

use super::Options;
use super::answer::{Answer, Stage};
use super::ask::Ask;
use super::body::Body;
use super::directive::Directive;
use super::fault::Fault;
use super::ids::Ids;
use super::json::Json;
use super::personality::Personality;
use super::stream::Frames;

/// Room for many images; more than that is refused.
const MAX_BODY: usize = 64 << 20;

/// Answers a request. An error closes the connection without an answer.
pub(super) async fn reply(request: Request<Incoming>, options: Options) -> io::Result<Response<Body>> {
    let mut ids = Ids::new(options.chance, options.clock).map_err(io::Error::other)?;
    let request_id = ids.next("req_");
    let path = request.uri().path().to_owned();
    let Some((personality, path)) = Personality::of_path(&path) else {
        // Nobody's path: an answer in the original's shape.
        let fault = Fault::no_such_url(request.method(), &path);
        return Ok(refuse(Personality::Dmxapi, &fault, None, &request_id));
    };
    let answered = match (authenticate(request.headers()), path, request.method()) {
        (Err(fault), ..) => Err(fault),
        (_, "/responses", &Method::POST) => match read(request).await {
            Ok(ask) => return create(personality, ask, ids, options, &request_id).await,
            Err(fault) => Err(fault),
        },
        // assumed: a list of models in the original's shape; no page names this path.
        (_, "/models", &Method::GET) => Ok(models(personality, ids.created)),
        (_, "/responses" | "/models", _) => Err(Fault::method()),
        (_, _, method) => Err(Fault::no_such_url(method, path)),
    };
    let allow = if path == "/models" { "GET" } else { "POST" };
    let mut response = match answered {
        Ok(list) => json(StatusCode::OK, list.write(personality.spaced()), &request_id),
        Err(fault) => refuse(personality, &fault, None, &request_id),
    };
    if response.status() == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    }
    Ok(response)
}

fn authenticate(headers: &HeaderMap) -> Result<(), Fault> {
    let value = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let (scheme, key) = value.and_then(|value| value.split_once(' ')).unwrap_or_default();
    match key.trim() {
        key if !scheme.eq_ignore_ascii_case("bearer") || key.is_empty() => Err(Fault::no_key()),
        key if key.starts_with("sim-bad") => Err(Fault::bad_key(key)),
        _ => Ok(()),
    }
}

async fn read(request: Request<Incoming>) -> Result<Ask, Fault> {
    // A declared length is refused before the bytes come, an undeclared one when they have.
    if request.body().size_hint().lower() > MAX_BODY as u64 {
        return Err(Fault::too_large(MAX_BODY));
    }
    match Limited::new(request.into_body(), MAX_BODY).collect().await {
        Ok(body) => Ask::parse(&body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Fault::too_large(MAX_BODY)),
        Err(_) => Err(Fault::internal("The request body did not come to its end.")),
    }
}

fn models(personality: Personality, created: u64) -> Json {
    let entries = personality.models().iter().map(|model| {
        Json::Object(vec![
            ("id", model.name.into()),
            ("object", "model".into()),
            ("created", created.into()),
            ("owned_by", personality.name().into()),
        ])
    });
    Json::Object(vec![("object", "list".into()), ("data", Json::Array(entries.collect()))])
}

async fn create(
    personality: Personality,
    ask: Ask,
    mut ids: Ids,
    options: Options,
    request_id: &str,
) -> io::Result<Response<Body>> {
    if let Some(delay) = ask.directive.head_delay {
        tokio::time::sleep(delay).await;
    }
    if ask.directive.cut_head {
        return Err(super::cut_head());
    }
    if let Some(response) = instead(personality, &ask.directive, request_id) {
        return Ok(response);
    }
    let answer = match Answer::new(personality, ask, &mut ids) {
        Ok(answer) => answer,
        Err(fault) => return Ok(refuse(personality, &fault, None, request_id)),
    };
    let model = HeaderValue::from_str(&answer.model);
    let mut response = if answer.ask.stream {
        let body = Body::stream(Frames::new(answer), options.event_delay);
        let mut response = dress(StatusCode::OK, "text/event-stream; charset=utf-8", body, request_id);
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        response
    } else {
        whole(&answer, request_id)
    };
    // Names that are no header value are long gone: the model of a request that gets here begins with a known family.
    if let Ok(model) = model {
        response.headers_mut().insert("openai-model", model);
    }
    Ok(response)
}

/// What a directive wants in place of an answer.
fn instead(personality: Personality, directive: &Directive, request_id: &str) -> Option<Response<Body>> {
    if let Some(fault) = &directive.error {
        return Some(refuse(personality, fault, directive.retry_after, request_id));
    }
    if let Some(status) = directive.html {
        let page = format!("<!DOCTYPE html>\n<html><body><h1>Simulated page: {status}</h1></body></html>\n");
        return Some(dress(status, "text/html; charset=utf-8", Body::Whole(Some(page.into())), request_id));
    }
    directive.redirect.then(|| {
        let mut response = dress(StatusCode::FOUND, "text/html", Body::Whole(None), request_id);
        response.headers_mut().insert(LOCATION, HeaderValue::from_static("https://redirected.invalid/v1/responses"));
        response
    })
}

/// A plain answer, or what `cut` and `short-length` leave of it.
fn whole(answer: &Answer, request_id: &str) -> Response<Body> {
    let bytes = Bytes::from(answer.response(Stage::Ended).write(answer.personality.spaced()));
    let Directive { cut, short_length, .. } = answer.ask.directive;
    if !cut && !short_length {
        return json(StatusCode::OK, bytes, request_id);
    }
    let declared = bytes.len() + 100;
    let sent = if cut { bytes.slice(..bytes.len() / 2) } else { bytes };
    let mut response = dress(StatusCode::OK, "application/json", Body::broken(sent), request_id);
    if short_length {
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(declared));
    }
    response
}

fn refuse(personality: Personality, fault: &Fault, retry_after: Option<u64>, request_id: &str) -> Response<Body> {
    let body = personality.error(fault, request_id).write(personality.spaced());
    let mut response = json(fault.status, body, request_id);
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

fn json(status: StatusCode, body: impl Into<Bytes>, request_id: &str) -> Response<Body> {
    dress(status, "application/json", Body::Whole(Some(body.into())), request_id)
}

/// Every answer's head. The cookie and the `openai-` headers are there on purpose: a gateway must not let them through.
fn dress(status: StatusCode, content_type: &'static str, body: Body, request_id: &str) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    if let Ok(id) = HeaderValue::from_str(request_id) {
        headers.insert("x-request-id", id);
    }
    // invented: the values. The names are the original's, and one from the network in front of it.
    headers.insert(SET_COOKIE, HeaderValue::from_static("__cf_bm=simulated; path=/; HttpOnly; Secure"));
    headers.insert("openai-organization", HeaderValue::from_static("simulated-organization"));
    headers.insert("openai-version", HeaderValue::from_static("2020-10-01"));
    headers.insert("openai-processing-ms", HeaderValue::from_static("1"));
    headers.insert("x-ratelimit-remaining-requests", HeaderValue::from_static("9999"));
    response
}
