//! The runtime state of the upstreams: health, requests in flight, latency, retries. All workers share the state, and it survives
//! reloads.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::Uri;
use secrecy::{ExposeSecret, SecretString};
use tokio::{sync::Notify, time::Instant};

use super::{failure_counts::KeyId, health::HealthTracker, not_found::NotFound, window::SlidingWindow};
use crate::{
    config::{self, Config},
    domain::health_state::HealthState,
    metrics::{Metrics, UpstreamHealth},
};

/// Retries that each upstream gets over [`RETRY_WINDOW`] in any case. Without them an upstream with few requests would get none.
const RETRIES_ALWAYS: u32 = 3;

/// Retries are counted over the last 10 s, in 1-second steps.
const RETRY_WINDOW: (usize, Duration) = (10, Duration::from_secs(1));

/// A time to the first byte counts half after this time, so that an upstream which was slow once gets requests again.
const LATENCY_HALF_LIFE: Duration = Duration::from_secs(60);

/// The weight of the newest time to the first byte in the average.
const LATENCY_SHARE: f64 = 0.2;

/// The state at run time of every upstream, by the indices of the configuration. All workers share the state.
#[derive(Clone, Debug)]
pub struct Pools(Vec<Arc<Pool>>);

impl Pools {
    /// Makes the state at run time for all upstreams of a configuration. Upstreams with the same name and address, and credentials with
    /// the same name and secret, keep their state from `previous`. Changed upstreams and credentials begin with empty state.
    pub fn new(config: &Config, previous: Option<&Self>, metrics: &Metrics, now: Instant) -> Self {
        let pools = config.upstreams.iter().map(|upstream| {
            let previous = previous.and_then(|pools| pools.0.iter().find(|pool| pool.is_for(upstream)));
            let metrics = metrics.health.upstream(&upstream.name);
            Arc::new(Pool::new(upstream, previous.map(Arc::as_ref), metrics, now))
        });
        Self(pools.collect())
    }

    /// Returns the state at run time of all upstreams, in the order of the configuration.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Pool>> {
        self.0.iter()
    }
}

/// The state at run time of one upstream and its credentials: health, requests in progress, retries and latency.
#[derive(Debug)]
pub struct Pool {
    pub(super) name: Arc<str>,
    base_url: Uri,
    pub(super) shared: Arc<UpstreamShared>,
    /// Never empty: an upstream that needs no credential has a nameless one.
    pub(super) credentials: Vec<Arc<CredentialHealth>>,
    pub(super) metrics: UpstreamHealth,
}

/// The state of an upstream as a whole.
#[derive(Debug)]
pub(super) struct UpstreamShared {
    pub(super) tracker: HealthTracker,
    pub(super) in_flight: AtomicUsize,
    /// Locked while a request takes a slot, where limits exist.
    pub(super) slot_lock: Mutex<()>,
    /// Notified when a request ends while other requests wait for a slot.
    pub(super) room: Notify,
    pub(super) queued: AtomicUsize,
    began: Instant,
    /// Milliseconds since `began`, plus one, of the last answer; 0 = none so far.
    heard: AtomicU64,
    attempts: Mutex<SlidingWindow<{ RETRY_WINDOW.0 }>>,
    latency: Latency,
    pub(super) not_found: NotFound,
}

/// The state of one credential.
#[derive(Debug)]
pub(super) struct CredentialHealth {
    pub(super) name: Option<Arc<str>>,
    secret: Option<SecretString>,
    pub(super) tracker: HealthTracker,
    pub(super) in_flight: AtomicUsize,
}

impl Pool {
    fn new(upstream: &config::Upstream, previous: Option<&Self>, metrics: UpstreamHealth, now: Instant) -> Self {
        let fresh = || {
            Arc::new(UpstreamShared {
                tracker: HealthTracker::new(now),
                in_flight: AtomicUsize::new(0),
                slot_lock: Mutex::new(()),
                room: Notify::new(),
                queued: AtomicUsize::new(0),
                began: now,
                heard: AtomicU64::new(0),
                attempts: Mutex::new(SlidingWindow::new(now, RETRY_WINDOW.1)),
                latency: Latency::new(now),
                not_found: NotFound::default(),
            })
        };
        let account = |credential: Option<&config::Credential>| {
            let kept = previous.and_then(|pool| pool.credentials.iter().find(|account| account.is_for(credential)));
            kept.cloned().unwrap_or_else(|| {
                Arc::new(CredentialHealth {
                    name: credential.map(|credential| Arc::from(&*credential.name)),
                    secret: credential.map(|credential| credential.secret.clone()),
                    tracker: HealthTracker::new(now),
                    in_flight: AtomicUsize::new(0),
                })
            })
        };
        let mut credentials: Vec<_> = upstream.credentials.iter().map(|one| account(Some(one))).collect();
        if credentials.is_empty() {
            credentials.push(account(None));
        }
        metrics.begin(credentials.iter().map(|account| account.name.as_deref()));
        let shared = previous.map_or_else(fresh, |pool| Arc::clone(&pool.shared));
        // The indices of the credentials may have changed.
        shared.tracker.forget_last_faulted();
        Self { name: Arc::from(&*upstream.name), base_url: upstream.base_url.clone(), shared, credentials, metrics }
    }

    fn is_for(&self, upstream: &config::Upstream) -> bool {
        self.name == upstream.name && self.base_url == upstream.base_url
    }

    /// Returns the name of the upstream that this state belongs to.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the health state of the upstream as a whole, for the best of the models in use.
    pub fn health_state(&self, now: Instant) -> HealthState {
        self.shared.tracker.best_health_state(now)
    }

    /// Returns the health state as a whole for one model ("" = the request names none) and one key.
    pub(super) fn health_state_for(&self, model: &str, key: KeyId, now: Instant) -> HealthState {
        self.shared.tracker.health_state(model, key, now)
    }

    /// Returns each credential's own health state for one model and one key, and its requests in flight.
    pub(super) fn credentials_for(
        &self,
        model: &str,
        key: KeyId,
        now: Instant,
    ) -> impl Iterator<Item = (HealthState, usize)> {
        let of = move |account: &Arc<CredentialHealth>| {
            (account.tracker.health_state(model, key, now), account.in_flight.load(Ordering::Relaxed))
        };
        self.credentials.iter().map(of)
    }

    /// Returns the health state of the upstream with its best credential. An upstream whose credentials are all ejected is ejected as
    /// well.
    pub fn best_health_state(&self, now: Instant) -> HealthState {
        let each = self.credentials.iter().map(|account| account.tracker.best_health_state(now));
        self.health_state(now).and(each.min_by(HealthState::badness).unwrap_or_default())
    }

    /// Returns the models, by their names at the upstream, that the upstream answered for and that were requested within this time.
    pub fn recent_models(&self, now: Instant, within: Duration) -> Vec<Arc<str>> {
        self.shared.tracker.recent_models(now, within)
    }

    /// Returns the number of requests in progress at the upstream.
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.load(Ordering::Relaxed)
    }

    /// Returns the number of requests that wait for a slot of the upstream.
    pub fn queued(&self) -> usize {
        self.shared.queued.load(Ordering::Relaxed)
    }

    /// Returns, for each credential of the upstream, its name, its own health state, and its requests in progress.
    pub fn credentials(&self, now: Instant) -> impl Iterator<Item = (Option<&str>, HealthState, usize)> {
        self.credentials.iter().map(move |account| {
            (account.name.as_deref(), account.tracker.best_health_state(now), account.in_flight.load(Ordering::Relaxed))
        })
    }

    /// Returns the upstream's recent average time to the first byte of an answer, if one is known.
    pub fn latency(&self, now: Instant) -> Option<Duration> {
        self.shared.latency.get(now)
    }
}

impl CredentialHealth {
    fn is_for(&self, credential: Option<&config::Credential>) -> bool {
        self.name.as_deref() == credential.map(|credential| &*credential.name)
            && self.secret.as_ref().map(ExposeSecret::expose_secret)
                == credential.map(|credential| credential.secret.expose_secret())
    }
}

impl UpstreamShared {
    /// Counts the first attempt of a request.
    pub(super) fn count_request(&self, now: Instant) {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner).add(now, 1, 0);
    }

    /// Whether a request may make a further attempt: `percent` of the requests of the last 10 s may, plus [`RETRIES_ALWAYS`].
    pub(super) fn may_retry(&self, now: Instant, percent: u32) -> bool {
        may_retry(&mut self.attempts.lock().unwrap_or_else(PoisonError::into_inner), now, percent)
    }

    /// Counts a further attempt of a request, if one more is allowed.
    pub(super) fn count_retry(&self, now: Instant, percent: u32) -> bool {
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        let may = may_retry(&mut attempts, now, percent);
        if may {
            attempts.add(now, 0, 1);
        }
        may
    }

    /// Notes that the upstream answered a request.
    pub(super) fn note_answer(&self, now: Instant) {
        self.heard.store(self.millis(now).saturating_add(1), Ordering::Relaxed);
    }

    /// Whether the upstream answered any request since then.
    pub(super) fn has_answered_since(&self, since: Instant) -> bool {
        self.heard.load(Ordering::Relaxed) > self.millis(since)
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.began).as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn took(&self, now: Instant, took: Duration) {
        self.latency.add(now, took);
    }
}

fn may_retry(attempts: &mut SlidingWindow<{ RETRY_WINDOW.0 }>, now: Instant, percent: u32) -> bool {
    let (requests, retries) = attempts.sums(now);
    percent > 0 && u64::from(retries) < u64::from(requests) * u64::from(percent) / 100 + u64::from(RETRIES_ALWAYS)
}

/// A moving average of times to the first byte. It decays with time.
#[derive(Debug)]
struct Latency {
    began: Instant,
    /// Microseconds in the upper half, the second of the last addition (since `began`) in the lower half; 0 = none yet. Two
    /// workers that add at the same moment may lose one value.
    packed: AtomicU64,
}

impl Latency {
    const fn new(now: Instant) -> Self {
        Self { began: now, packed: AtomicU64::new(0) }
    }

    fn seconds(&self, now: Instant) -> u32 {
        u32::try_from(now.saturating_duration_since(self.began).as_secs()).unwrap_or(u32::MAX)
    }

    fn get(&self, now: Instant) -> Option<Duration> {
        let packed = self.packed.load(Ordering::Relaxed);
        if packed == 0 {
            return None;
        }
        let age = f64::from(self.seconds(now).saturating_sub(packed as u32));
        let micros = (packed >> 32) as f64 * 0.5_f64.powf(age / LATENCY_HALF_LIFE.as_secs_f64());
        Some(Duration::from_micros(micros as u64))
    }

    fn add(&self, now: Instant, took: Duration) {
        let newest = took.as_micros() as f64;
        let mean = self.get(now).map_or(newest, |mean| {
            let mean = mean.as_micros() as f64;
            mean + (newest - mean) * LATENCY_SHARE
        });
        // At least one microsecond, because zero means none.
        let micros = mean.clamp(1.0, f64::from(u32::MAX)) as u64;
        self.packed.store(micros << 32 | u64::from(self.seconds(now)), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latency_follows_new_values_and_decays() {
        let began = Instant::now();
        let at = |seconds: u64| began + Duration::from_secs(seconds);
        let latency = Latency::new(began);
        assert_eq!(latency.get(began), None);
        latency.add(began, Duration::from_millis(100));
        assert_eq!(latency.get(began), Some(Duration::from_millis(100)));
        latency.add(began, Duration::from_millis(200));
        assert_eq!(latency.get(began), Some(Duration::from_millis(120)));
        assert_eq!(latency.get(at(60)), Some(Duration::from_millis(60)));
        latency.add(at(600), Duration::ZERO);
        assert!(latency.get(at(600)).unwrap() < Duration::from_millis(1));
    }
}
