//! Who looks at an answer.

use crate::{
    domain::endpoint::{Endpoint, Shape},
    protocol::observe::{Dialect, Observer},
    upstream::headers::Media,
};

/// Looks at the answer of `endpoint`, as far as it can be read: an error is the same object everywhere, and what a success
/// is depends on the endpoint. Told as well is whether it is an event stream that has to hold a terminal event.
pub(super) fn observer_for(endpoint: Option<Endpoint>, succeeded: bool, media: Media) -> (Observer, bool) {
    let shape = endpoint.map_or(Shape::Object, Endpoint::shape);
    // What is no JSON is over at its first byte.
    let media = if media == Media::Plain { Media::Json } else { media };
    match (shape, media) {
        (_, Media::Json) if !succeeded => (Observer::json(Dialect::Responses), false),
        (Shape::Response, Media::EventStream) => (Observer::stream(Dialect::Responses), true),
        (Shape::Response | Shape::Object, Media::Json) => (Observer::json(Dialect::Responses), false),
        (Shape::Completion, Media::EventStream) => (Observer::stream(Dialect::Chat), true),
        (Shape::Completion | Shape::Vectors | Shape::Media, Media::Json) => (Observer::json(Dialect::Chat), false),
        // Its last event tells the tokens, but not every provider sends one.
        (Shape::Media, Media::EventStream) => (Observer::stream(Dialect::Chat), false),
        _ => (Observer::opaque(), false),
    }
}
