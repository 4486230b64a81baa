//! `tidegate serve`, and the start and shutdown of a gateway, which `demo` uses too.

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
    thread,
};

use secrecy::ExposeSecret;
use tokio::sync::oneshot;

use super::{
    output,
    signals::{EndSignals, Signal, Signals},
};
use crate::{
    app::{self, AlertTimes, Handle, ReloadSource, Running, StartContext, telemetry},
    config::{Config, EXIT_CONFIG, Loaded, Source},
    domain::{clock::Clock, random::RandomBytes},
    store::journal::{self, SystemDisk},
};

/// Runs `tidegate serve`: the gateway, until a signal ends it.
pub(super) fn run(source: &Source) -> ExitCode {
    let Loaded { config, reads, .. } = match output::load(source) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let _flush = match telemetry::start(&config.log) {
        Ok(flush) => flush,
        Err(error) => {
            output::fail(error);
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    for idle in &config.idle {
        tracing::info!(
            upstream = &*idle.name,
            variables = idle.variables.join(" "),
            "no credential of this upstream is set: Tidegate sends no requests to the upstream. Set one of the listed \
             environment variables to use the upstream"
        );
    }
    let source = source.clone();
    let origin =
        ReloadSource { source, reads, env: |name| std::env::var_os(name), look_interval: ReloadSource::LOOK_EVERY };
    let (running, ending) = match start(config, Some(origin)) {
        Ok(started) => started,
        Err(code) => return code,
    };
    if let Some(key) = &running.first_key {
        let key = key.expose_secret();
        output::print(format_args!(
            "No client key is configured, so Tidegate created this one. It is shown only now, and ends when another key is declared:\n\n    {key}\n"
        ));
    }
    wait(running, ending)
}

/// Starts the gateway for a command, with the system's clock, random bytes and disk. With an `origin`, SIGHUP causes a reload.
pub(super) fn start(config: Config, origin: Option<ReloadSource>) -> Result<(Running, EndSignals), ExitCode> {
    let ending = EndSignals::new().map_err(output::fail)?;
    let hangup = origin.is_some().then(|| ending.hangup()).transpose().map_err(output::fail)?;
    let world = StartContext {
        clock: Clock::system(),
        random_bytes: RandomBytes::system(),
        disk: &SystemDisk,
        terminal: io::stdout().is_terminal(),
        alert_times: AlertTimes::default(),
    };
    let running = app::start(config, origin, world).map_err(output::fail)?;
    if let Some(hangup) = hangup {
        let handle = running.handle();
        ending.runtime.spawn(hangup.each(move || handle.reload()));
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        listen = %running.listen,
        admin_listen = %running.admin_listen,
        metrics_listen = running.metrics_listen.as_ref().map(tracing::field::display),
        memory = %running.memory,
        journal_mib = journal::MOST >> 20,
        "ready: Tidegate accepts requests"
    );
    Ok((running, ending))
}

/// Waits for a signal and then shuts the running gateway down. Returns the exit code of a failure if a request was cut.
pub(super) fn wait(running: Running, ending: EndSignals) -> ExitCode {
    let EndSignals { runtime, mut signals } = ending;
    let handle = running.handle();
    let (over, mut ended) = oneshot::channel();
    let joining = thread::spawn(move || {
        running.join();
        let _ = over.send(());
    });
    runtime.block_on(async {
        let first = tokio::select! {
            first = signals.next() => first,
            _ = &mut ended => return,
        };
        tokio::select! {
            () = end(&handle, first, &mut signals) => {}
            _ = &mut ended => {}
        }
    });
    let _ = joining.join();
    let whole = !handle.cut_requests();
    tracing::info!(whole, "ended: Tidegate has stopped. If `whole` is false, requests in progress were cut off");
    if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Fails readiness, drains, stops. A second signal of any kind, at any time, stops the gateway at once.
async fn end(handle: &Handle, first: Signal, signals: &mut Signals) {
    let grace = handle.grace();
    if first == Signal::Terminate && !grace.delay.is_zero() {
        tracing::info!(delay = ?grace.delay, "shutdown started: /readyz fails so that load balancers send no new \
            requests, but Tidegate still serves requests. Nothing needs to be done");
        handle.leave();
        // The delay applies even without requests in progress: the load balancer must notice first.
        tokio::select! {
            _ = signals.next() => return stop(handle),
            () = tokio::time::sleep(grace.delay) => {}
        }
    }
    tracing::info!(limit = ?grace.limit, "draining: Tidegate refuses new requests and lets requests in progress finish \
        for at most `limit`. A second signal stops Tidegate at once");
    handle.drain();
    tokio::select! {
        _ = signals.next() => {}
        () = tokio::time::sleep(grace.limit) => {}
    }
    stop(handle);
}

fn stop(handle: &Handle) {
    tracing::warn!(
        "stopping now: Tidegate cuts off the requests that are still in progress. Raise `drain_timeout_s` if requests \
         need more time"
    );
    handle.stop();
}
