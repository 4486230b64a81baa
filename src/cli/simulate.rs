//! `tidegate simulate`, and the thread of the simulated providers, which `demo` uses too.

use std::{
    io,
    net::SocketAddr,
    process::ExitCode,
    sync::mpsc,
    thread::{self, JoinHandle},
};

use tokio::{net::TcpListener, runtime::Builder};
use tokio_util::sync::CancellationToken;

use super::{output, signals::EndSignals};
use crate::simulator::{self, Options, Personality};

/// Runs `tidegate simulate`: the simulated providers, until a signal ends them.
pub(super) fn run(listen: SocketAddr) -> ExitCode {
    let mut ending = match EndSignals::new() {
        Ok(ending) => ending,
        Err(error) => return output::fail(error),
    };
    let simulator = match Simulator::start(listen) {
        Ok(simulator) => simulator,
        Err(error) => return output::fail(format_args!("cannot listen on {listen}: {error}")),
    };
    let address = simulator.address;
    output::print("Simulated providers. They accept any key. docs/simulator.md lists the faults on demand. Base URLs:");
    for personality in Personality::ALL {
        output::print(format_args!("    {:12} http://{address}{}", personality.name(), personality.base_path()));
    }
    let _ = ending.runtime.block_on(ending.signals.next());
    drop(simulator);
    ExitCode::SUCCESS
}

/// The simulated providers on a thread of their own, for tests and demos. They stop when this value is dropped.
pub(super) struct Simulator {
    /// Address of the listener.
    pub(super) address: SocketAddr,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Simulator {
    /// Starts the simulated providers on a thread of their own.
    pub(super) fn start(listen: SocketAddr) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let stop = CancellationToken::new();
        let stopping = stop.clone();
        let (tell, told) = mpsc::channel();
        let thread = thread::Builder::new().name("simulator".into()).spawn(move || {
            runtime.block_on(async move {
                match TcpListener::bind(listen).await {
                    Ok(listener) => {
                        let _ = tell.send(listener.local_addr());
                        simulator::serve(listener, Options::default(), stopping).await;
                    }
                    Err(error) => {
                        let _ = tell.send(Err(error));
                    }
                }
            });
        })?;
        let address = told.recv().map_err(io::Error::other)??;
        Ok(Self { address, stop, thread: Some(thread) })
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
