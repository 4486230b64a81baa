//! Signals that end a process or cause a reload.

use std::io;

use tokio::runtime::{Builder, Runtime};

/// The handlers of signals that end the process, with the runtime that waits for them. They are installed before the process
/// reports that it is ready. An earlier signal would kill the process, or be lost if the process is the first one of a container.
pub(super) struct EndSignals {
    pub(super) runtime: Runtime,
    pub(super) signals: Signals,
}

impl EndSignals {
    /// Installs the handlers of the signals that end the process.
    pub(super) fn new() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let signals = {
            let _inside = runtime.enter();
            survive_file_limits()?;
            Signals::new()?
        };
        Ok(Self { runtime, signals })
    }

    /// Installs a handler for SIGHUP. From then on, SIGHUP does not end the process.
    pub(super) fn hangup(&self) -> io::Result<Hangup> {
        let _inside = self.runtime.enter();
        Hangup::new()
    }
}

/// Makes a write beyond `ulimit -f` fail like a write to a full disk. Without a handler, SIGXFSZ ends the process. The handler
/// stays for the life of the process.
#[cfg(unix)]
fn survive_file_limits() -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw())).map(drop)
}

#[cfg(not(unix))]
fn survive_file_limits() -> io::Result<()> {
    Ok(())
}

/// The handler of SIGHUP, which causes a reload, on systems that have this signal.
pub(super) struct Hangup {
    #[cfg(unix)]
    signal: tokio::signal::unix::Signal,
}

impl Hangup {
    #[cfg(unix)]
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { signal: signal(SignalKind::hangup())? })
    }

    #[cfg(not(unix))]
    fn new() -> io::Result<Self> {
        Ok(Self {})
    }

    #[cfg(unix)]
    /// Calls `act` at each SIGHUP, for example to reload the configuration.
    pub(super) async fn each(mut self, act: impl Fn()) {
        while self.signal.recv().await.is_some() {
            act();
        }
    }

    #[cfg(not(unix))]
    /// Does nothing: this system has no signal SIGHUP.
    pub(super) async fn each(self, _: impl Fn()) {}
}

/// A signal that ends the process: SIGTERM or SIGINT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// SIGTERM: the process is replaced. Load balancers must notice that before it ends.
    Terminate,
    /// SIGINT: a person waits for the end.
    Interrupt,
}

/// The handlers of SIGINT and SIGTERM, on systems that have these signals.
pub(super) struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    #[cfg(unix)]
    /// Installs the handlers of SIGINT and SIGTERM. From then on, the signals do not end the process.
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    #[cfg(not(unix))]
    /// Does nothing: `next` waits for Ctrl-C.
    fn new() -> io::Result<Self> {
        Ok(Self {})
    }

    #[cfg(unix)]
    /// Waits for the next signal that ends the process: SIGTERM or SIGINT.
    pub(super) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::Terminate,
            _ = self.interrupt.recv() => Signal::Interrupt,
        }
    }

    #[cfg(not(unix))]
    /// Waits for the next Ctrl-C, which ends the process on this system.
    pub(super) async fn next(&mut self) -> Signal {
        let _ = tokio::signal::ctrl_c().await;
        Signal::Interrupt
    }
}
