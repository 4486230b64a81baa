//! Tells an operator of what happened, by webhook: `watch` looks once a second at what is counted anyway, so that no request pays for
//! it; `deliver` posts what `watch` finds.

mod deliver;
mod kept;
mod watch;

use std::{
    cell::Cell,
    io,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::{
    runtime::Builder,
    sync::{oneshot, watch as latest},
    time::{Instant, interval},
};

use self::{
    kept::Kept,
    watch::{AlertInputs, CredentialView, UpstreamView, Watcher},
};
use super::data_dir::DataDir;
use crate::{
    api::Data,
    budgets::Spending,
    concurrent::alert_queue::Alerts,
    config::Config,
    domain::{
        alert::{Alert, Raised},
        clock::Clock,
        health_state::{EjectionCause, HealthState},
        spending::Crossed,
    },
    metrics::Metrics,
};

/// An event is noticed about this much later.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Alerts that wait for a receiver which does not answer. Events are rare: more of them say nothing new.
const QUEUE: usize = 256;

/// What is looked at.
pub(super) struct Sources {
    /// The gateway as one worker sees it: how upstreams stand is the same for all.
    pub(super) data: Arc<Data>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) spending: Arc<Spending>,
    pub(super) config: latest::Receiver<Arc<Config>>,
    pub(super) clock: Clock,
}

/// The thread that looks and delivers. It ends with this.
#[derive(Debug)]
pub(super) struct Alerting {
    end: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Alerting {
    /// Ends it, once what happened is kept for the next start.
    pub(super) fn end(self) {
        drop(self.end);
        // A thread that panicked has ended too.
        let _ = self.thread.join();
    }
}

/// Starts a thread that looks and delivers. What happens once and was not delivered is kept in `data_dir`.
pub(super) fn start(sources: Sources, data_dir: &DataDir) -> io::Result<Alerting> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let (end, ended) = oneshot::channel::<()>();
    let condition = Arc::clone(&sources.metrics.alerts);
    let (alerts, queue) = Alerts::new(QUEUE, Arc::clone(&condition));
    let file = data_dir.file(kept::FILE);
    let crossings = sources.spending.subscribe();
    let run = move || {
        let (kept, clock, config) = (Kept::open(file), sources.clock, sources.config.clone());
        let desk = Desk { alerts, kept: &kept, clock, number: Cell::new(0), crossings };
        desk.raise_kept();
        let delivering = deliver::run(queue, config.clone(), clock, condition, &kept);
        runtime.block_on(async {
            tokio::select! {
                _ = ended => {}
                () = look(sources, &desk) => {}
                () = delivering => {}
            }
        });
        if config.borrow().alerts.is_some() {
            desk.keep_crossed();
        }
        // A name that is being resolved cannot be interrupted.
        runtime.shutdown_background();
    };
    let thread = thread::Builder::new().name("alerts".into()).spawn(run)?;
    Ok(Alerting { end, thread })
}

/// Where alerts are raised.
struct Desk<'a> {
    alerts: Alerts,
    kept: &'a Kept,
    clock: Clock,
    /// Of the last alert.
    number: Cell<u64>,
    crossings: mpsc::Receiver<Crossed>,
}

impl Desk<'_> {
    fn raise(&self, alert: Alert) {
        let raised = self.raised(alert);
        self.kept.add(&raised);
        let id = raised.id.clone();
        if !self.alerts.raise(raised) {
            self.kept.remove(&id);
        }
    }

    /// What a process before this one did not deliver.
    fn raise_kept(&self) {
        for raised in self.kept.all() {
            self.alerts.raise(raised);
        }
    }

    fn raised(&self, alert: Alert) -> Raised {
        self.number.set(self.number.get() + 1);
        let time_ms = u64::try_from(self.clock.since_epoch().as_millis()).unwrap_or(u64::MAX);
        Raised { id: format!("alert_{time_ms:x}_{}", self.number.get()), time_ms, alert }
    }

    /// Budgets that reached a threshold since this was called last.
    fn raise_crossed(&self) {
        watch::budgets(self.crossings.try_iter().collect()).into_iter().for_each(|alert| self.raise(alert));
    }

    /// The same, when nothing is delivered any more: the next start does it.
    fn keep_crossed(&self) {
        for alert in watch::budgets(self.crossings.try_iter().collect()) {
            self.kept.add(&self.raised(alert));
        }
    }
}

async fn look(sources: Sources, desk: &Desk<'_>) {
    let (mut watcher, mut turns) = (Watcher::default(), interval(LOOK_EVERY));
    loop {
        turns.tick().await;
        let config = Arc::clone(&sources.config.borrow());
        // Without a receiver nothing is remembered as told: one that is configured later hears of what still holds.
        if config.alerts.is_none() {
            watcher = Watcher::default();
            desk.crossings.try_iter().for_each(drop);
            continue;
        }
        desk.raise_crossed();
        for alert in watcher.look(Instant::now(), &sources.view(&config)) {
            desk.raise(alert);
        }
    }
}

impl Sources {
    fn view(&self, config: &Config) -> AlertInputs {
        let tables = self.data.proxy.tables();
        let now = Instant::now();
        let (mut upstreams, mut credentials) = (Vec::new(), Vec::new());
        for upstream in &tables.upstreams {
            let pool = upstream.pool();
            let (answers, truncated) = self.metrics.answers(pool.name());
            let out = is_ejected(pool.best_health_state(now));
            upstreams.push(UpstreamView { name: pool.name().to_owned(), out, answers, truncated });
            for (name, health_state, _) in pool.credentials(now) {
                let Some(name) = name else { continue };
                let (upstream, credential) = (pool.name().to_owned(), name.to_owned());
                credentials.push(CredentialView { upstream, credential, refused: refused(health_state) });
            }
        }
        AlertInputs {
            credentials,
            upstreams,
            ledger: self.metrics.ledger.faults().filter(|(_, fails)| *fails).map(|(name, _)| name).collect(),
            waiting: self.metrics.ledger.waiting(),
            truncated_percent: config.alerts.as_ref().map_or(100, |alerts| alerts.truncated_percent),
        }
    }
}

/// Whether it is left out for its faults, or for those of all its credentials. A pause after a 429 is none.
fn is_ejected(health_state: HealthState) -> bool {
    match health_state {
        HealthState::InService => false,
        HealthState::Probation(cause) | HealthState::Out { cause, .. } => cause != EjectionCause::RateLimited,
    }
}

fn refused(health_state: HealthState) -> Option<EjectionCause> {
    match health_state {
        HealthState::Out { cause, .. } | HealthState::Probation(cause) => {
            // A first refusal is not certain.
            Some(cause).filter(|cause| matches!(cause, EjectionCause::Refused | EjectionCause::Unpaid))
        }
        HealthState::InService => None,
    }
}
