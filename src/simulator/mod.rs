//! Simulates three providers of the Responses API in the process, with their quirks: for `tidegate demo`, tests and benches.
//!
//! The simulated providers share one listener; the path selects one ([`Personality::base_path`]). Any bearer key is valid unless it begins
//! with `sim-bad`. State belongs to the key's account. docs/simulator.md describes the text of answers, their usage and
//! the faults on demand.

mod account;
mod answer;
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
mod request;
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

use self::call::SimulatorState;
pub use self::options::Options;
pub use self::personality::{Model, Personality};

/// The longest wait for a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Serves the three simulated providers on this listener until `stop`, which drops open connections.
pub async fn serve(listener: TcpListener, options: Options, stop: CancellationToken) {
    let shared = SimulatorState::new(options);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            // Removes finished connections, so that the set holds only open ones.
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, shared.clone()));
                }
                // Probably no file descriptors are left. They come back when connections end.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
        }
    }
    connections.shutdown().await;
}

async fn connection(stream: TcpStream, shared: Arc<SimulatorState>) {
    // Nagle's algorithm could delay an event until the previous one is acknowledged. If this fails, only that delay
    // remains.
    let _slower = stream.set_nodelay(true);
    let service = service_fn(move |request| reply::reply(request, shared.clone()));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    // A client that left, or a connection that was broken on purpose: neither needs a log line.
    drop::<Result<(), hyper::Error>>(served);
}
