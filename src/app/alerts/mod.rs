//! Tells an operator of what happened, by webhook: `watch` looks once a second at what is counted anyway, so that no request pays for
//! it; `deliver` posts what `watch` finds.

mod deliver;
mod watch;

use std::{io, sync::Arc, thread, time::Duration};

use tokio::{
    runtime::Builder,
    sync::{oneshot, watch as latest},
    time::{Instant, interval},
};

use self::watch::{AlertInputs, CredentialView, UpstreamView, Watcher};
use crate::{
    api::Data,
    budgets::Spending,
    config::Config,
    domain::{
        alert::Alerts,
        clock::Clock,
        standing::{EjectionCause, HealthState},
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

/// Starts a thread that looks and delivers. It ends when the returned end is dropped; alerts that were not delivered by then are lost.
pub(super) fn start(sources: Sources) -> io::Result<oneshot::Sender<()>> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let (end, ended) = oneshot::channel::<()>();
    let condition = Arc::clone(&sources.metrics.alerts);
    let (alerts, raised) = Alerts::new(QUEUE, Arc::clone(&condition));
    let run = move || {
        let delivering = deliver::run(raised, sources.config.clone(), sources.clock, condition);
        runtime.block_on(async {
            tokio::select! {
                _ = ended => {}
                () = look(sources, alerts) => {}
                () = delivering => {}
            }
        });
        // A name that is being resolved cannot be interrupted.
        runtime.shutdown_background();
    };
    thread::Builder::new().name("alerts".into()).spawn(run)?;
    Ok(end)
}

async fn look(sources: Sources, alerts: Alerts) {
    let (mut watcher, mut turns) = (Watcher::default(), interval(LOOK_EVERY));
    let crossings = sources.spending.subscribe();
    loop {
        turns.tick().await;
        let config = Arc::clone(&sources.config.borrow());
        let crossed = crossings.try_iter().collect();
        // Without a receiver nothing is remembered as told: one that is configured later hears of what still holds.
        if config.alerts.is_none() {
            watcher = Watcher::default();
            continue;
        }
        let alerts_of_budgets = watch::budgets(crossed).into_iter();
        for alert in alerts_of_budgets.chain(watcher.look(Instant::now(), &sources.view(&config))) {
            alerts.raise(alert);
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
            let out = is_ejected(pool.standing_at_best(now));
            upstreams.push(UpstreamView { name: pool.name().to_owned(), out, answers, truncated });
            for (name, standing, _) in pool.credentials(now) {
                let Some(name) = name else { continue };
                let (upstream, credential) = (pool.name().to_owned(), name.to_owned());
                credentials.push(CredentialView { upstream, credential, refused: refused(standing) });
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
fn is_ejected(standing: HealthState) -> bool {
    match standing {
        HealthState::InService => false,
        HealthState::Probation(cause) | HealthState::Out { cause, .. } => cause != EjectionCause::RateLimited,
    }
}

fn refused(standing: HealthState) -> Option<EjectionCause> {
    match standing {
        HealthState::Out { cause, .. } | HealthState::Probation(cause) => {
            // A first refusal is not certain.
            Some(cause).filter(|cause| matches!(cause, EjectionCause::Refused | EjectionCause::Unpaid))
        }
        HealthState::InService => None,
    }
}
