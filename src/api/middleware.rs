//! All layers, in visible order.

use axum::{
    Router,
    extract::{Request, State},
    middleware::{Next, from_fn_with_state},
    response::Response,
};
use tracing::Instrument;

use super::Data;
use crate::{domain::departure::Departure, proxy::error::sign};

/// What every request of the API passes, outermost last.
pub(super) fn layers(api: Router<Data>, state: &Data) -> Router<Data> {
    api.layer(from_fn_with_state(state.clone(), greet))
}

/// Gives the request its id, opens the one span, and puts the id on whatever answer comes.
async fn greet(State(data): State<Data>, mut request: Request, next: Next) -> Response {
    let departure = request.extensions_mut().remove::<Departure>().unwrap_or_default();
    let arrival = data.proxy.arrival(departure);
    let id = arrival.id;
    request.extensions_mut().insert(arrival);
    let span = tracing::debug_span!("request", %id);
    let mut response = next.run(request).instrument(span).await;
    sign(response.headers_mut(), id);
    response
}
