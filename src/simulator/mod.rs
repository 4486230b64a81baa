//! Three providers of the Responses API simulated in-process, with their quirks: for `tidegate demo`, tests and benches.
//!
//! They share one listener and are told apart by the path ([`Personality::base_path`]). Any bearer key is good, except one
//! that begins with `sim-bad`; what is kept belongs to the key's account. What an answer says, how it is counted and the
//! faults on demand are in docs/simulator.md.

mod account;
mod answer;
mod ask;
mod body;
mod call;
mod chat;
mod content;
mod conversations;
mod directive;
mod embeddings;
mod fault;
mod head;
mod ids;
mod input;
mod json;
mod list;
mod options;
mod personality;
mod query;
mod received;
mod reply;
mod resolve;
mod responses;
mod route;
mod schema;
mod seal;
mod stop;
mod store;
mod stream;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::call::Shared;
pub use self::options::Options;
pub use self::personality::{Model, Personality};

/// A request head that has not come within this time never will.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Serves all three personalities until `stop`; connections under way are dropped then.
pub async fn serve(listener: TcpListener, options: Options, stop: CancellationToken) {
    let shared = Shared::new(options);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            // Takes the finished ones out, so that the set holds only what is open.
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, shared.clone()));
                }
                // Out of file descriptors, most likely: they come back when connections end.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
        }
    }
    connections.shutdown().await;
}

async fn connection(stream: TcpStream, shared: Arc<Shared>) {
    // Without it an event could wait for the acknowledgement of the one before. Failure costs only that delay.
    let _slower = stream.set_nodelay(true);
    let service = service_fn(move |request| reply::reply(request, shared.clone()));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    // A client that leaves and a connection that was broken on purpose both end here, and neither is worth a word.
    drop::<Result<(), hyper::Error>>(served);
}
