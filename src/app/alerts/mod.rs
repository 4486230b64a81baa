//! Alerts for the operator, sent by webhook. `watch` compares the existing metrics and health states once a second, so
//! alerting costs a request nothing. `deliver` posts the alerts that `watch` finds.

mod deliver;
mod times;
mod undelivered;
mod watch;

use std::{
    cell::Cell,
    io,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
};

use tokio::{
    runtime::Builder,
    sync::{oneshot, watch as latest},
    time::{Instant, interval},
};

use self::{
    undelivered::UndeliveredAlerts,
    watch::{AlertInputs, CredentialView, UpstreamView, Watcher},
};
use super::data_dir::DataDir;
use crate::{
    api::DataPlane,
    budgets::Spending,
    concurrent::alert_queue::Alerts,
    config::Config,
    domain::{
        alert::{Alert, QueuedAlert},
        clock::Clock,
        health_state::{EjectionCause, HealthState},
        spending::ThresholdReached,
    },
    metrics::Metrics,
};

pub use times::AlertTimes;

/// The most alerts that wait while the receiver does not answer. Events are rare: more alerts would say nothing new.
const QUEUE: usize = 256;

/// What the thread for alerts reads: health states, metrics, spend of budgets, and the configuration.
pub(super) struct AlertSources {
    /// The gateway as one worker sees it. All workers share the health states, so one worker's view is enough.
    pub(super) data: Arc<DataPlane>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) spending: Arc<Spending>,
    pub(super) config: latest::Receiver<Arc<Config>>,
    pub(super) clock: Clock,
    pub(super) times: AlertTimes,
}

/// The thread that watches for conditions worth an alert and posts alerts to the webhook. Dropping this value ends the thread.
#[derive(Debug)]
pub(super) struct AlertThread {
    end: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl AlertThread {
    /// Ends the thread for alerts, and waits until it has saved the undelivered alerts for the next start.
    pub(super) fn end(self) {
        drop(self.end);
        // A thread that panicked has ended too.
        let _ = self.thread.join();
    }
}

/// Starts the thread that watches for conditions worth an alert and posts alerts to the webhook. Undelivered alerts of one-time
/// events are kept in `data_dir`.
pub(super) fn start(sources: AlertSources, data_dir: &DataDir) -> io::Result<AlertThread> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let (end, ended) = oneshot::channel::<()>();
    let status = Arc::clone(&sources.metrics.alerts);
    let (alerts, queue) = Alerts::new(QUEUE, Arc::clone(&status));
    let file = data_dir.file(undelivered::FILE);
    let reached_thresholds = sources.spending.subscribe();
    let run = move || {
        let (undelivered, clock, config) = (UndeliveredAlerts::open(file), sources.clock, sources.config.clone());
        let raiser = AlertRaiser { alerts, undelivered: &undelivered, clock, number: Cell::new(0), reached_thresholds };
        raiser.raise_undelivered();
        let delivering = deliver::run(queue, config.clone(), clock, status, &undelivered);
        runtime.block_on(async {
            tokio::select! {
                _ = ended => {}
                () = watch_for_events(sources, &raiser) => {}
                () = delivering => {}
            }
        });
        if config.borrow().alerts.is_some() {
            raiser.save_budget_alerts();
        }
        // A DNS lookup cannot be interrupted, so the runtime does not wait for it.
        runtime.shutdown_background();
    };
    let thread = thread::Builder::new().name("alerts".into()).spawn(run)?;
    Ok(AlertThread { end, thread })
}

/// Raises alerts: gives each an id, saves it if necessary and queues it for delivery.
struct AlertRaiser<'a> {
    alerts: Alerts,
    undelivered: &'a UndeliveredAlerts,
    clock: Clock,
    /// The number of the last alert, part of its id.
    number: Cell<u64>,
    reached_thresholds: mpsc::Receiver<ThresholdReached>,
}

impl AlertRaiser<'_> {
    fn raise(&self, alert: Alert) {
        let queued = self.queued_alert(alert);
        self.undelivered.add(&queued);
        let id = queued.id.clone();
        if !self.alerts.raise(queued) {
            self.undelivered.remove(&id);
        }
    }

    /// Queues the alerts that an earlier process did not deliver.
    fn raise_undelivered(&self) {
        for queued in self.undelivered.all() {
            self.alerts.raise(queued);
        }
    }

    fn queued_alert(&self, alert: Alert) -> QueuedAlert {
        self.number.set(self.number.get() + 1);
        let time_ms = u64::try_from(self.clock.since_epoch().as_millis()).unwrap_or(u64::MAX);
        QueuedAlert { id: format!("alert_{time_ms:x}_{}", self.number.get()), time_ms, alert }
    }

    /// Raises an alert for each budget that reached a threshold since the last call.
    fn raise_budget_alerts(&self) {
        watch::budgets(self.reached_thresholds.try_iter().collect()).into_iter().for_each(|alert| self.raise(alert));
    }

    /// Saves these alerts without queueing them: at shutdown nothing is delivered any more, and the next start does it.
    fn save_budget_alerts(&self) {
        for alert in watch::budgets(self.reached_thresholds.try_iter().collect()) {
            self.undelivered.add(&self.queued_alert(alert));
        }
    }
}

async fn watch_for_events(sources: AlertSources, raiser: &AlertRaiser<'_>) {
    let (mut watcher, mut ticks) = (Watcher::new(sources.times), interval(sources.times.check_every));
    loop {
        ticks.tick().await;
        let config = Arc::clone(&sources.config.borrow());
        // Without a receiver, nothing counts as reported: a receiver that is configured later gets alerts for all
        // conditions that still hold.
        if config.alerts.is_none() {
            watcher = Watcher::new(sources.times);
            raiser.reached_thresholds.try_iter().for_each(drop);
            continue;
        }
        raiser.raise_budget_alerts();
        for alert in watcher.due_alerts(Instant::now(), &sources.view(&config)) {
            raiser.raise(alert);
        }
    }
}

impl AlertSources {
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
                credentials.push(CredentialView { upstream, credential, refused: refusal_cause(health_state) });
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

/// Whether the upstream is ejected because of failures of its own or of all its credentials. A cooldown after a 429
/// does not count.
fn is_ejected(health_state: HealthState) -> bool {
    match health_state {
        HealthState::InService => false,
        HealthState::Probation(cause) | HealthState::Out { cause, .. } => cause != EjectionCause::RateLimited,
    }
}

fn refusal_cause(health_state: HealthState) -> Option<EjectionCause> {
    match health_state {
        HealthState::Out { cause, .. } | HealthState::Probation(cause) => {
            // A 429 or a first failure is no proof that the provider refuses the credential.
            Some(cause).filter(|cause| matches!(cause, EjectionCause::Refused | EjectionCause::Unpaid))
        }
        HealthState::InService => None,
    }
}
