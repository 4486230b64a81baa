//! What ends a process in order.

use std::io;

use tokio::runtime::{Builder, Runtime};

/// Signals with the runtime to wait for them on. Made before anybody is told that the process is ready: a signal that
/// comes before would kill it, or be lost where it is the first process of a container.
pub(super) struct EndSignals {
    pub(super) runtime: Runtime,
    pub(super) signals: Signals,
}

impl EndSignals {
    pub(super) fn new() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let signals = {
            let _inside = runtime.enter();
            survive_file_limits()?;
            Signals::new()?
        };
        Ok(Self { runtime, signals })
    }

    /// From here on SIGHUP does not end the process by itself either.
    pub(super) fn hangup(&self) -> io::Result<Hangup> {
        let _inside = self.runtime.enter();
        Hangup::new()
    }
}

/// Has a write beyond `ulimit -f` fail as one to a full disk does: without a handler, SIGXFSZ ends the process. The handler stays
/// for as long as the process lives.
#[cfg(unix)]
fn survive_file_limits() -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw())).map(drop)
}

#[cfg(not(unix))]
fn survive_file_limits() -> io::Result<()> {
    Ok(())
}

/// SIGHUP, where there is one.
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
    /// Does something at each of them.
    pub(super) async fn each(mut self, act: impl Fn()) {
        while self.signal.recv().await.is_some() {
            act();
        }
    }

    #[cfg(not(unix))]
    /// Does something at each of them.
    pub(super) async fn each(self, _: impl Fn()) {}
}

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// SIGTERM: somebody replaces this process, whose clients come through something that has to notice first.
    Terminate,
    /// SIGINT: somebody waits for the end.
    Interrupt,
}

/// SIGINT and SIGTERM, where there are any.
pub(super) struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    #[cfg(unix)]
    /// From here on they do not end the process by themselves.
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    #[cfg(not(unix))]
    /// From here on they do not end the process by themselves.
    fn new() -> io::Result<Self> {
        Ok(Self {})
    }

    #[cfg(unix)]
    /// The next of them.
    pub(super) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::Terminate,
            _ = self.interrupt.recv() => Signal::Interrupt,
        }
    }

    #[cfg(not(unix))]
    /// The next of them.
    pub(super) async fn next(&mut self) -> Signal {
        let _ = tokio::signal::ctrl_c().await;
        Signal::Interrupt
    }
}
