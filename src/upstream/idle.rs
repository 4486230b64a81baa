//! Idle connections to one upstream.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Wake, Waker},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

use super::connection::UpstreamConnection;

/// The idle connections to one upstream, of one worker. A task, the closer, closes those that ended or were idle for too long.
#[derive(Debug)]
pub(super) struct IdleConnections {
    most: usize,
    longest: Duration,
    oldest: Duration,
    state: Mutex<State>,
    events: Arc<Events>,
    /// Reports an event on an idle connection to `events`.
    waker: Waker,
}

#[derive(Debug, Default)]
struct State {
    /// The connection that became idle last is the last one.
    idle: Vec<Idle>,
    /// Whether the closer runs.
    is_watched: bool,
    /// Whether the closer knows a time at which it looks again.
    is_timed: bool,
}

#[derive(Debug)]
struct Idle {
    connection: Box<UpstreamConnection>,
    since: Instant,
}

/// Tells the closer that something happened.
#[derive(Debug, Default)]
struct Events(Notify);

impl Wake for Events {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.notify_one();
    }
}

impl IdleConnections {
    /// Keeps at most `most` connections, each idle for at most `longest`. A connection older than `oldest` takes no further request.
    pub(super) fn new(most: usize, longest: Duration, oldest: Duration) -> Arc<Self> {
        let events = Arc::<Events>::default();
        let waker = Waker::from(Arc::clone(&events));
        Arc::new(Self { most, longest, oldest, state: Mutex::default(), events, waker })
    }

    /// Takes the connection that was used last, unless its upstream closed it meanwhile.
    pub(super) fn take(&self) -> Option<Box<UpstreamConnection>> {
        loop {
            let Idle { mut connection, since } = self.lock().idle.pop()?;
            let now = Instant::now();
            // The request polls the connection next, with its own waker. Until then no event may wake the closer.
            if now - since < self.longest && self.is_young(&connection, now) && connection.is_ready(Waker::noop()) {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection whose answer is complete, unless the connection ends.
    pub(super) fn put(self: &Arc<Self>, mut connection: Box<UpstreamConnection>) {
        let since = Instant::now();
        if !self.is_young(&connection, since) || !connection.is_ready(&self.waker) {
            return;
        }
        let mut state = self.lock();
        if state.idle.len() >= self.most {
            return;
        }
        state.idle.push(Idle { connection, since });
        if !state.is_timed {
            state.is_timed = true;
            self.events.0.notify_one();
        }
        if !state.is_watched {
            state.is_watched = true;
            tokio::spawn(close(Arc::downgrade(self), Arc::clone(&self.events)));
        }
    }

    fn is_young(&self, connection: &UpstreamConnection, now: Instant) -> bool {
        now - connection.born() < self.oldest
    }

    /// Closes the connections that ended or were idle for too long. Returns when to look again.
    fn close(&self) -> Option<Instant> {
        let (now, mut state) = (Instant::now(), self.lock());
        state.idle.retain_mut(|idle| now - idle.since < self.longest && idle.connection.is_ready(&self.waker));
        let next = state.idle.first().map(|idle| idle.since + self.longest);
        state.is_timed = next.is_some();
        next
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for IdleConnections {
    fn drop(&mut self) {
        self.events.0.notify_one();
    }
}

/// The closer. Ends with its connections.
async fn close(connections: Weak<IdleConnections>, events: Arc<Events>) {
    let mut next = None;
    loop {
        match next {
            Some(next) => drop(timeout_at(next, events.0.notified()).await),
            None => events.0.notified().await,
        }
        let Some(connections) = connections.upgrade() else { return };
        next = connections.close();
    }
}
