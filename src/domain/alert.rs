//! What an operator is told of by itself, through a webhook.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::mpsc;

/// What happened. The names are fixed: field `event` of the webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AlertEvent {
    /// 80 % of a budget are spent.
    BudgetWarning,
    /// A budget is spent.
    BudgetSpent,
    /// An upstream refuses a credential, or its money is spent.
    CredentialRefused,
    /// An upstream is left out for long.
    UpstreamEjected,
    /// Rows do not get into the ledger's database.
    LedgerBehind,
    /// Many streams of an upstream end before their terminal event.
    StreamsTruncated,
}

impl AlertEvent {
    /// Its fixed name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BudgetWarning => "budget_warning",
            Self::BudgetSpent => "budget_spent",
            Self::CredentialRefused => "credential_refused",
            Self::UpstreamEjected => "upstream_ejected",
            Self::LedgerBehind => "ledger_behind",
            Self::StreamsTruncated => "streams_truncated",
        }
    }
}

impl AlertEvent {
    /// Whether nothing raises it again after a restart: a threshold of a budget is reached once. All else that still holds is seen
    /// again.
    pub const fn happens_once(self) -> bool {
        matches!(self, Self::BudgetWarning | Self::BudgetSpent)
    }

    /// The event of this name.
    pub fn named(name: &str) -> Option<Self> {
        let all = [
            Self::BudgetWarning,
            Self::BudgetSpent,
            Self::CredentialRefused,
            Self::UpstreamEjected,
            Self::LedgerBehind,
            Self::StreamsTruncated,
        ];
        all.into_iter().find(|event| event.name() == name)
    }
}

/// One event. Names and numbers only, never a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    /// What happened.
    pub event: AlertEvent,
    /// To what: `key team-a`, `upstream dmxapi`.
    pub subject: String,
    /// What happened, the consequence and what to do, for people.
    pub text: String,
}

/// An alert on its way to the receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raised {
    /// The same for each try, so that a receiver knows an alert that it has already.
    pub id: String,
    /// When it was raised, in milliseconds since 1970-01-01 UTC.
    pub time_ms: u64,
    /// What it says.
    pub alert: Alert,
}

/// How the delivery of alerts stands.
#[derive(Debug, Default)]
pub struct AlertDeliveryStatus {
    /// Alerts that the receiver took.
    pub sent: AtomicU64,
    /// Tries that failed.
    pub failed: AtomicU64,
    /// Alerts that were not delivered: the queue was full, or the receiver failed for too long.
    pub dropped: AtomicU64,
}

/// Where alerts are raised. Raising one never waits.
#[derive(Clone, Debug)]
pub struct Alerts {
    queue: mpsc::Sender<Raised>,
    condition: Arc<AlertDeliveryStatus>,
}

impl Alerts {
    /// A queue of so many alerts, and the end of it that delivers them.
    pub fn new(size: usize, condition: Arc<AlertDeliveryStatus>) -> (Self, mpsc::Receiver<Raised>) {
        let (queue, raised) = mpsc::channel(size);
        (Self { queue, condition }, raised)
    }

    /// Puts an alert into the queue, or counts it as dropped where the queue is full; whether it is in the queue.
    pub fn raise(&self, raised: Raised) -> bool {
        let is_queued = self.queue.try_send(raised).is_ok();
        if !is_queued {
            self.condition.dropped.fetch_add(1, Ordering::Relaxed);
        }
        is_queued
    }
}
